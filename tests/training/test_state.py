"""Checkpoints: a training that goes on from one ends with the same bits; a damaged one is not used."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from tests.training.test_loop import config, problem

from bertwright.errors import TrainingError
from bertwright.model.compiled import load_kernels
from bertwright.progress import Reporter
from bertwright.runs import CHECKPOINTS, checkpoint_steps
from bertwright.training import state
from bertwright.training.learners import HeadOnFeatures, WholeModel, compute_features, learner_logits
from bertwright.training.loop import fit
from bertwright.training.loss import CrossEntropy
from bertwright.training.state import Checkpoints, Damaged, Progress, read_sealed, write_sealed
from bertwright.training.stop import Stop, StopNow

CPU = torch.device("cpu")
QUIET = Reporter(quiet=True)
needs_kernels = pytest.mark.skipif(load_kernels().kernels is None, reason="no C kernels here")


class StopAfter(Stop):
    """Asks to stop once ``parts`` parts of batches have been learnt from."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.left = parts

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.requested = signal.SIGTERM
        super().check()


def train(
    settings,
    run=None,
    stop=None,
    checkpoints=Checkpoints,
    frozen=False,
    accelerate=True,
    judge=True,
    token_budget=100,
    **kind,
):
    """The outcome of a training of 40 texts, and the lines of its history."""
    model, ragged, label_ids, originals = problem(**kind)
    if not accelerate:
        model.compute_in(model.encoder.embeddings.token.weight.dtype, accelerate=False)
    if frozen:
        for parameter in model.encoder_parameters():
            parameter.requires_grad_(False)
        learner = HeadOnFeatures(model, compute_features(model, ragged, CPU, 100, QUIET), ragged.lengths, CPU)
    else:
        learner = WholeModel(model, ragged, CPU, token_budget)

    def evaluate():
        logits = learner_logits(learner, np.arange(len(label_ids)), QUIET, "Validation")
        return {"accuracy": float((logits.argmax(1) == label_ids).mean()), "log_loss": float(np.abs(logits).mean())}

    lines = []
    keeper = None if run is None else checkpoints(run, QUIET, every_steps=settings.checkpoint_steps)
    outcome = fit(
        learner,
        CrossEntropy(label_ids),
        settings,
        3e-3,
        originals,
        evaluate if judge else None,
        "log_loss",
        lines.append,
        QUIET,
        keeper,
        stop,
    )
    return outcome, lines


def timeless(lines):
    return [{name: value for name, value in line.items() if name != "elapsed_s"} for line in lines]


def assert_same(found, expected):
    (one, lines), (other, expected_lines) = found, expected
    assert one.losses.tolist() == other.losses.tolist()
    assert timeless(lines) == timeless(expected_lines)
    assert one.state.keys() == other.state.keys()
    for name, tensor in other.state.items():
        assert torch.equal(one.state[name].view(torch.int32), tensor.view(torch.int32)), name
    for name in ("steps", "best_step", "num_texts", "num_tokens", "stopped_early", "token_budget"):
        assert getattr(one, name) == getattr(other, name), name


def stopped_and_resumed(tmp_path, settings, parts, **kind):
    """As ``train``, but stopped after each of so many parts of batches in turn."""
    for number in parts:
        with pytest.raises(StopNow):
            train(settings, tmp_path, StopAfter(number), **kind)
    return train(settings, tmp_path, **kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "optimizer",
    ["adamw", "adamax", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "sgd"))],
)
def test_a_training_that_goes_on_has_the_same_bits(tmp_path, optimizer, dtype):
    settings = config(steps=20, optimizer=optimizer, eval_every=3, weight_decay=0.01)
    whole = train(settings, dtype=dtype)
    assert len(set(whole[0].losses.tolist())) == 20
    # In the middle of a step, of which there are two or three parts, and again soon after.
    resumed = stopped_and_resumed(tmp_path, settings, (17, 1, 12), dtype=dtype)
    assert_same(resumed, whole)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [{"frozen": True}, {"accelerate": False}, {"judge": False}, {"dropout": 0.0}])
def test_so_it_has_with_a_frozen_encoder_without_kernels_and_without_validation(tmp_path, kind, optimizer):
    settings = config(steps=20, optimizer=optimizer, eval_every=4)
    resumed = stopped_and_resumed(tmp_path, settings, (7, 5), **kind)
    assert_same(resumed, train(settings, **kind))


def test_float16s_scale_of_the_loss_goes_on(tmp_path):
    settings = config(steps=20)
    assert_same(
        stopped_and_resumed(tmp_path, settings, (21,), dtype=torch.float16), train(settings, dtype=torch.float16)
    )


def test_stopping_early_and_the_best_state_go_on(tmp_path):
    settings = config(steps=60, eval_every=2, patience=3, best_metric="log_loss")
    whole = train(settings)
    assert whole[0].stopped_early
    assert 0 < whole[0].best_step < whole[0].steps
    assert_same(stopped_and_resumed(tmp_path, settings, (6, 6, 6)), whole)


def test_saving_changes_nothing(tmp_path):
    for kind in ({"dtype": torch.bfloat16}, {"accelerate": False}, {"frozen": True}):
        run = tmp_path / str(len(list(tmp_path.iterdir())))
        saved = train(config(steps=20, checkpoint_steps=1, eval_every=4), run, **kind)
        assert_same(saved, train(config(steps=20, eval_every=4), **kind))
        assert sorted(checkpoint_steps(run)) == [19, 20]


def test_a_finished_training_that_was_saved_last_is_not_trained_again(tmp_path):
    settings = config(steps=10, checkpoint_steps=5, eval_every=4)
    whole = train(settings, tmp_path)
    again = train(settings, tmp_path, StopAfter(1))  # the one that is asked at the end
    assert_same(again, whole)


def test_an_evaluation_that_was_stopped_is_made_up_for(tmp_path):
    settings = config(steps=12, eval_every=4)
    whole = train(settings)
    stop = Stop()
    model, ragged, label_ids, originals = problem()
    learner = WholeModel(model, ragged, CPU, 100)

    def evaluate():
        stop._handle(signal.SIGTERM, None)
        raise AssertionError("the signal was to end this")

    checkpoints = Checkpoints(tmp_path, QUIET)
    with pytest.raises(StopNow):
        fit(
            learner,
            CrossEntropy(label_ids),
            settings,
            3e-3,
            originals,
            evaluate,
            "log_loss",
            print,
            QUIET,
            checkpoints,
            stop,
        )
    assert checkpoint_steps(tmp_path) == [4]
    assert_same(train(settings, tmp_path), whole)


@needs_kernels
def test_one_optimizers_state_is_the_others_too(tmp_path):
    """From the C kernels to PyTorch and back, as from a CPU to a GPU: the same training but for rounding."""
    settings = config(steps=20)
    whole, _ = train(settings, dropout=0.0)
    with pytest.raises(StopNow):
        train(settings, tmp_path, StopAfter(16), dropout=0.0)
    with pytest.raises(StopNow):
        train(settings, tmp_path, StopAfter(16), dropout=0.0, accelerate=False)
    mixed, _ = train(settings, tmp_path, dropout=0.0)
    np.testing.assert_allclose(mixed.losses, whole.losses, atol=1e-4)
    assert mixed.losses.tolist() != whole.losses.tolist()


# --- files ---------------------------------------------------------------------------------------------------------


SETTINGS = config(steps=14, checkpoint_steps=1, eval_every=4)


@pytest.fixture(scope="module")
def whole():
    return train(SETTINGS)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(StopNow):
        train(SETTINGS, run, StopAfter(39))
    return run


@pytest.fixture
def saved(stopped, tmp_path):
    """A run with two checkpoints, the steps of which are given, of 14 steps."""
    run = shutil.copytree(stopped, tmp_path / "run")
    steps = sorted(checkpoint_steps(run))
    assert len(steps) == 2
    assert 4 < steps[0] < steps[1] < 14
    return run, steps


def assert_used(run, step, whole):
    """The checkpoint of ``step`` is the one that is gone on from, to the same end."""
    used = []

    class Seen(Checkpoints):
        def load(self, num_steps, use):
            found = super().load(num_steps, use)
            used.append(found and found.progress.steps)
            return found

    outcome = train(SETTINGS, run, checkpoints=Seen)
    assert used == [step]
    assert_same(outcome, whole)


def newest(run):
    return run / CHECKPOINTS / f"step-{max(checkpoint_steps(run)):08}"


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place if place >= 0 else len(content) + place] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "cut short": lambda folder: (folder / "state.safetensors").write_bytes(
        (folder / "state.safetensors").read_bytes()[:-100]
    ),
    "empty": lambda folder: (folder / "state.safetensors").write_bytes(b""),
    "bit of a tensor": lambda folder: flip(folder / "state.safetensors", -1000),
    "bit of the header": lambda folder: flip(folder / "state.safetensors", 3),
    "no tensors": lambda folder: (folder / "state.safetensors").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "bit of the manifest": lambda folder: flip(folder / "manifest.json", 200),
    "manifest cut short": lambda folder: (folder / "manifest.json").write_bytes(
        (folder / "manifest.json").read_bytes()[:-5]
    ),
    "manifest nested": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "manifest of a huge number": lambda folder: (folder / "manifest.json").write_text("9" * 5000),
    "manifest of null": lambda folder: (folder / "manifest.json").write_text("null"),
    "a folder for a file": lambda folder: (
        (folder / "state.safetensors").unlink(),
        (folder / "state.safetensors").mkdir(),
    ),
    "empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "no best state": lambda folder: [path.unlink() for path in folder.parent.glob("best-*")],
}


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "no best state"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(saved, whole, damage, capsys):
    run, steps = saved
    DAMAGES[damage](newest(run))
    assert_used(run, steps[0], whole)
    assert f"step-{steps[1]:08}: " in capsys.readouterr().err.replace("\n", "")
    assert sorted(checkpoint_steps(run)) == [13, 14]


def test_where_all_are_damaged_it_starts_anew(saved, whole, capsys):
    run, _ = saved
    DAMAGES["no best state"](newest(run))
    assert_used(run, None, whole)
    assert capsys.readouterr().err.count("is missing; not used") == 2


def rewritten(folder, change=lambda content: None, tensors=None):
    """A checkpoint by somebody who means ill: changed, with hashes that are right."""
    manifest = json.loads((folder / "manifest.json").read_text())["content"]
    if tensors is not None:
        manifest["state"] = state.write_tensors(folder / "state.safetensors", tensors).model_dump()
    change(manifest)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"sha256": digest, "content": manifest}))


def progress(**values):
    return lambda content: content["progress"].update(values)


HOSTILE = {
    "steps beyond": progress(steps=10**9),
    "steps below": progress(steps=-1),
    "no steps": progress(steps=0),
    "steps as text": progress(steps="10"),
    "steps as fraction": progress(steps=10.5),
    "steps as truth": progress(steps=True),
    "time not a number": lambda content: content["progress"].update(train_s=float("nan")),
    "endless time": lambda content: content["progress"].update(elapsed_s=float("inf")),
    "negative time": progress(train_s=-1.0),
    "no budget": progress(token_budget=0),
    "more recorded than done": progress(recorded_steps=13),
    "best after the end": progress(best_step=13),
    "worse for ever": progress(worse_in_a_row=10**6),
    "history of texts": progress(history=["step"]),
    "history out of order": progress(history=[{"step": 5, "train_loss": 1.0, "validation": {}}] * 2),
    "history without an end": progress(history=[]),
    "unknown": progress(code="print()"),
    "another format": lambda content: content.update(format=2),
    "another training": lambda content: content.update(inputs={"seed": 1}),
    "best of another name": lambda content: content.update(best=None),
    "best elsewhere": lambda content: content["best"].update(path="/etc/passwd"),
    "bytes beyond": lambda content: content["state"].update(bytes=10**30),
    "scale of zero": lambda content: content.update(optimizer={"scale": 0.0}),
    "a scale in words": lambda content: content.update(optimizer={"scale": "high"}),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_values_are_refused_as_damage(saved, whole, change, capsys):
    run, steps = saved
    rewritten(newest(run), HOSTILE[change])
    assert_used(run, steps[0], whole)
    assert f"step-{steps[1]:08}: " in capsys.readouterr().err.replace("\n", "")


WEIGHT = "classifier.linear.weight"
HOSTILE_TENSORS = {
    "a name more": lambda t: t.update({"weight/extra": torch.zeros(2)}),
    "a name less": lambda t: t.pop(f"weight/{WEIGHT}"),
    "one moment of two": lambda t: t.pop(f"exp_avg/{WEIGHT}"),
    "another shape": lambda t: t.update({f"weight/{WEIGHT}": torch.zeros(3, 2)}),
    "another type": lambda t: t.update({f"weight/{WEIGHT}": torch.zeros(2, 32, dtype=torch.int64)}),
    "not a number": lambda t: t[f"weight/{WEIGHT}"].fill_(torch.nan),
    "endless": lambda t: t[f"exp_avg_sq/{WEIGHT}"].fill_(torch.inf),
    "negative square": lambda t: t[f"exp_avg_sq/{WEIGHT}"].fill_(-1.0),
    "steps without end": lambda t: [t[name].fill_(2**62) for name in t if name.startswith("step/")],
    "steps that differ": lambda t: t[f"step/{WEIGHT}"].fill_(3),
    "no losses": lambda t: t.pop("losses"),
    "losses of other steps": lambda t: t.update(losses=torch.zeros(3)),
    "no random state": lambda t: t.pop("random/cpu"),
    "random state cut short": lambda t: t.update({"random/cpu": t["random/cpu"][:-8]}),
    "random state of ones": lambda t: t["random/cpu"].fill_(255),
    "random state of numbers": lambda t: t.update({"random/cpu": torch.zeros(5056)}),
}


@needs_kernels
@pytest.mark.parametrize("change", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused_as_damage(saved, whole, change, capsys):
    run, steps = saved
    record = read_sealed(newest(run) / "manifest.json", state._Manifest).state
    tensors = state.read_tensors(newest(run) / "state.safetensors", record)
    HOSTILE_TENSORS[change](tensors)
    rewritten(newest(run), tensors=tensors)
    assert_used(run, steps[0], whole)
    assert f"step-{steps[1]:08}: " in capsys.readouterr().err.replace("\n", "")


def test_a_checkpoint_that_is_only_signed_anew_is_used(saved, whole, capsys):
    """What the tests above change is what is refused, not how they write it."""
    run, steps = saved
    record = read_sealed(newest(run) / "manifest.json", state._Manifest).state
    rewritten(newest(run), tensors=state.read_tensors(newest(run) / "state.safetensors", record))
    assert_used(run, steps[1], whole)
    assert capsys.readouterr().err == ""


def test_a_record_is_read_as_it_was_written(tmp_path):
    progress = Progress(steps=3, train_s=0.1 + 0.2, best=-1e-300, history=[{"step": 3, "größer": [1.5, None]}])
    write_sealed(tmp_path / "record.json", progress)
    assert read_sealed(tmp_path / "record.json", Progress) == progress
    with pytest.raises(Damaged, match="is missing"):
        read_sealed(tmp_path / "other.json", Progress)


def test_a_full_disk_is_said_and_the_training_goes_on(tmp_path, monkeypatch, capsys):
    settings = config(steps=14, checkpoint_steps=2, eval_every=4)
    written = []
    real = state._write_all

    def full(file, piece):
        written.append(len(piece))
        if 40 < len(written) < 400:
            raise OSError(28, "No space left on device")
        real(file, piece)

    monkeypatch.setattr(state, "_write_all", full)
    assert_same(train(settings, tmp_path), train(settings))
    assert len(written) > 40
    said = " ".join(capsys.readouterr().err.split())
    assert "WARNING: no checkpoint could be written after step 2 (No space left on device); none is kept" in said
    assert said.count("No space left") == 1
    assert not list((tmp_path / CHECKPOINTS).glob(".*"))


def test_the_best_state_is_written_when_it_changes_only(tmp_path, monkeypatch):
    written = []
    real = state.write_tensors
    monkeypatch.setattr(
        state, "write_tensors", lambda path, tensors: (written.append(path.name), real(path, tensors))[1]
    )
    outcome, lines = train(config(steps=20, checkpoint_steps=1, eval_every=5), tmp_path)
    best = [name for name in written if name.startswith("best")]
    assert len(best) == len(set(best)) <= len(lines)
    assert [path.name for path in (tmp_path / CHECKPOINTS).glob("best-*")] == [
        f"best-{outcome.best_step:08}.safetensors"
    ]


def test_the_best_state_of_a_refused_checkpoint_is_not_taken_for_written(saved):
    run, _ = saved
    kept = Checkpoints(run, QUIET).load(10**6, lambda _: None)
    keeper = Checkpoints(run, QUIET)

    def refuse(_):
        raise Damaged("of another training")

    assert keeper.load(10**6, refuse) is None
    best = run / CHECKPOINTS / f"best-{kept.progress.best_step:08}.safetensors"
    best.unlink()
    assert keeper.save(kept.progress, kept.optimizer, kept.tensors, kept.best_state)
    assert best.exists()


def test_checkpoints_are_due_by_steps_or_by_minutes(tmp_path, monkeypatch):
    by_steps = Checkpoints(tmp_path, QUIET, minutes=1e-9, every_steps=3)
    assert [step for step in range(1, 10) if by_steps.due(step)] == [3, 6, 9]
    now = 100.0
    monkeypatch.setattr(state.time, "monotonic", lambda: now)
    by_minutes = Checkpoints(tmp_path, QUIET, minutes=10)
    assert not by_minutes.due(1)
    now += 599
    assert not by_minutes.due(2)
    now += 1
    assert by_minutes.due(3)


# --- memory ----------------------------------------------------------------------------------------------------------


class SmallMemory(WholeModel):
    """Runs out of memory for more than ``most`` tokens at once: in the forward pass, in the middle of it, behind it."""

    most, where = 70, "before"

    def logits(self, rows):
        tokens = self.num_tokens(rows)
        if tokens > self.most and self.where == "before":
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits = super().logits(rows)
        if tokens > self.most:
            torch.rand(3)
            logits.sum().backward()
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return logits


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_that_does_not_fit_is_done_again_in_smaller_parts(where, optimizer, capsys):
    results = []
    for learner_class, token_budget in ((SmallMemory, 10_000), (WholeModel, None)):
        model, ragged, label_ids, originals = problem(dropout=0.0)
        learner = learner_class(model, ragged, CPU, token_budget or results[0][0].token_budget)
        learner.where = where
        lines = []
        outcome = fit(
            learner,
            CrossEntropy(label_ids),
            config(steps=8, optimizer=optimizer),
            3e-3,
            originals,
            None,
            "",
            lines.append,
            QUIET,
        )
        results.append((outcome, lines))
    assert results[0][0].token_budget <= 70
    said = " ".join(capsys.readouterr().err.split())
    assert "out of memory in step 1, which is done again: --token-budget" in said
    assert 1 <= said.count("WARNING") <= 4
    # The first steps that fit by chance were cut otherwise: the same but for rounding.
    np.testing.assert_allclose(results[0][0].losses, results[1][0].losses, atol=1e-5)
    for name, tensor in results[1][0].state.items():
        torch.testing.assert_close(results[0][0].state[name], tensor, atol=1e-4, rtol=1e-3)


def test_the_random_numbers_of_a_step_done_again_are_those_it_would_have_drawn():
    """With dropout: as if the budget had been small from the first step on."""
    model, ragged, label_ids, originals = problem()
    learner = SmallMemory(model, ragged, CPU, 10_000)
    learner.where = "behind"
    learner.most = 0  # each text alone, but for the first call
    learner.use_budget(10_000)
    calls = []
    real = SmallMemory.logits

    def logits(self, rows):
        calls.append(len(rows))
        self.most = 0 if len(calls) == 1 else 10_000
        return real(self, rows)

    SmallMemory.logits = logits
    try:
        settings = config(steps=6)
        outcome = fit(learner, CrossEntropy(label_ids), settings, 3e-3, originals, None, "", print, QUIET)
    finally:
        SmallMemory.logits = real
    whole, _ = train(settings, token_budget=outcome.token_budget, judge=False)
    assert outcome.losses.tolist() == whole.losses.tolist()


def test_a_text_that_does_not_fit_ends_the_training_with_advice():
    model, ragged, label_ids, originals = problem()
    learner = SmallMemory(model, ragged, CPU, 10_000)
    learner.most = 5
    with pytest.raises(TrainingError, match=r"out of memory in step 1, in learning from a single text.*--max-length"):
        fit(learner, CrossEntropy(label_ids), config(steps=2), 3e-3, originals, None, "", print, QUIET)


def test_scoring_and_features_take_smaller_parts_too(monkeypatch, capsys):
    model, ragged, label_ids, _ = problem()
    learner = WholeModel(model, ragged, CPU, 10_000)
    rows = np.arange(len(label_ids))
    expected = learner_logits(learner, rows, QUIET, "Validation")
    features = compute_features(model, ragged, CPU, 10_000, QUIET)
    real = type(model).features

    def small(self, batch):
        if batch.num_tokens > 100:
            raise MemoryError
        return real(self, batch)

    monkeypatch.setattr(type(model), "features", small)
    np.testing.assert_allclose(learner_logits(learner, rows, QUIET, "Validation"), expected, atol=1e-5)
    assert learner.token_budget <= 100
    torch.testing.assert_close(compute_features(model, ragged, CPU, 10_000, QUIET), features, atol=1e-5, rtol=1e-4)
    assert "out of memory in scoring: --token-budget" in capsys.readouterr().err


def test_the_budget_in_force_goes_on(tmp_path):
    settings = config(steps=20)
    model, ragged, label_ids, originals = problem()
    learner = SmallMemory(model, ragged, CPU, 100)
    with pytest.raises(StopNow):
        fit(
            learner,
            CrossEntropy(label_ids),
            settings,
            3e-3,
            originals,
            None,
            "",
            print,
            QUIET,
            Checkpoints(tmp_path, QUIET),
            StopAfter(30),
        )
    assert learner.token_budget < 100
    outcome, _ = train(settings, tmp_path, judge=False, token_budget=100)
    assert outcome.token_budget == learner.token_budget
    again, _ = train(settings, tmp_path, judge=False, token_budget=1000)  # asked for anew
    assert again.token_budget == 1000
