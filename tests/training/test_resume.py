"""Runs that were stopped: what goes on, what is used again, what is refused, what is said."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import bertwright
from bertwright import runs
from bertwright.commands import runs_list
from bertwright.errors import DataError, Interrupted, RunError, UserError
from bertwright.evaluation.predictor import Predictor
from bertwright.runs import CHECKPOINTS, checkpoint_steps
from bertwright.training import learn, learners, loop, phases, prepare, record
from bertwright.training.phases import Phases, Settled, Trained
from bertwright.training.resume import train_config
from bertwright.training.state import Damaged, FileRecord, file_record
from bertwright.training.stop import Stop, StopNow

needs_signals = pytest.mark.skipif(os.name != "posix", reason="signals of Unix")


@pytest.fixture(autouse=True)
def _signals_are_heard():
    """Processes in the background may have been started with Ctrl-C ignored."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def small(folder, output, **settings):
    """A run of a tiny model, which takes a fraction of a second."""
    values = {
        "test": folder / "test.csv",
        "validation_share": 0.2,
        "model": folder / "tiny",
        "steps": 12,
        "eval_every": 5,
    }
    values |= {"learning_rate": 0.003, "max_length": 32, "quiet": True, "output": output, **settings}
    return bertwright.train(
        folder / "train.csv", **{name: value for name, value in values.items() if value is not None}
    )


@pytest.fixture(scope="module")
def whole(kills, folder, tmp_path_factory):
    """What an undisturbed run leaves."""
    return kills.record(small(folder, tmp_path_factory.mktemp("whole") / "run").path)


class Killed(BaseException):
    """In place of a kill -9, for what runs in this process."""


def killed(*_, **__):
    raise Killed


@pytest.fixture
def kill_at(monkeypatch):
    """Kill whatever calls one of these functions."""

    def patch(*places):
        for owner, name in places:
            monkeypatch.setattr(owner, name, killed)

    return patch


@pytest.fixture
def stopped(folder, tmp_path, monkeypatch):
    """A run that was killed after step 9 of 12, with checkpoints of steps 8 and 9."""
    run = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        real = loop._Training._step

        def step(self, rows):
            if self.progress.steps == 9:
                raise Killed
            return real(self, rows)

        patch.setattr(loop._Training, "_step", step)
        with pytest.raises(Killed):
            small(folder, run, checkpoint_steps=1)
    assert sorted(checkpoint_steps(run)) == [8, 9]
    return run


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_its_own_record(kills, stopped, whole, capsys):
    run = bertwright.train(resume=True, output=stopped)
    assert kills.record(stopped) == whole
    assert run.result["resumed"] == 1
    assert {path.name for path in stopped.iterdir()} == {
        *(
            "config.json",
            "environment.json",
            "history.jsonl",
            "steps.parquet",
            "memory.parquet",
            "result.json",
            "predictions.parquet",
            "predictions_validation.parquet",
            "model",
        )
    }
    assert "going on after step 9 of 12" in capsys.readouterr().err


def test_seconds_are_those_of_all_parts(stopped, monkeypatch):
    parts = json.loads((stopped / CHECKPOINTS / "parts.json").read_text())["content"]
    before = parts["seconds"]
    assert before["total"] > before["read"] > 0
    result = bertwright.train(resume=True, output=stopped, quiet=True).result
    for name in ("read", "tokenize", "total"):
        assert result["seconds"][name] > before[name]
    assert result["rates"]["train_batches_per_s"] == pytest.approx(12 / result["seconds"]["train"])


def test_settings_may_be_given_again_and_new_ones_that_count_for_nothing(kills, folder, stopped, whole):
    small(folder, stopped, resume=True, usd_per_hour=2.0, checkpoint_steps=None, checkpoint_minutes=3.0)
    assert kills.record(stopped) == whole
    assert runs.open_run(stopped).result["cost"]["usd"] > 0


def test_files_may_have_moved(kills, folder, stopped, whole, tmp_path):
    (tmp_path / "moved").mkdir()
    for name in ("train.csv", "test.csv"):
        (tmp_path / "moved" / name).write_bytes((folder / name).read_bytes())
    moved = {"test": tmp_path / "moved" / "test.csv", "resume": True, "output": stopped, "quiet": True}
    bertwright.train(tmp_path / "moved" / "train.csv", **moved)
    assert kills.record(stopped) == whole


def test_a_run_that_is_not_there_starts(kills, folder, whole, tmp_path):
    run = small(folder, tmp_path / "new", resume=True)
    assert run.result["resumed"] == 0
    assert kills.record(tmp_path / "new") == whole
    assert "resume" not in run.settings
    (tmp_path / "unborn").mkdir()
    (tmp_path / "unborn" / "config.json.partial").write_text("{")
    small(folder, tmp_path / "unborn", resume=True)
    assert kills.record(tmp_path / "unborn") == whole


def test_without_an_output_it_is_the_default_one(folder, monkeypatch, kill_at):
    with monkeypatch.context() as patch:
        patch.setattr(learn, "save_model", killed)
        with pytest.raises(Killed):
            small(folder, None)
    run = small(folder, None, resume=True)
    assert run.path.name == "train-tiny"
    assert run.result["resumed"] == 1


def test_a_finished_run_is_shown(folder, tmp_path, capsys, kill_at):
    first = small(folder, tmp_path / "r")
    (tmp_path / "r" / CHECKPOINTS).mkdir()  # killed before it was removed
    kill_at((prepare, "load_for_training"))
    again = bertwright.train(resume=True, output=tmp_path / "r")
    assert again.result == first.result
    said = capsys.readouterr()
    assert "has finished: nothing to go on with" in said.err
    assert "Quality" in said.out
    assert not (tmp_path / "r" / CHECKPOINTS).exists()


@pytest.mark.parametrize(
    ("owner", "name"),
    [(learn, "save_model"), (os, "rename"), (record, "write_predictions"), (runs.RunWriter, "result")],
)
def test_killed_in_any_phase_it_goes_on_to_the_same_end(kills, folder, whole, tmp_path, monkeypatch, owner, name):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            small(folder, tmp_path / "r")
    kills.check_folder(tmp_path / "r")
    assert not runs.open_run(tmp_path / "r").finished
    bertwright.train(resume=True, output=tmp_path / "r", quiet=True)
    assert kills.record(tmp_path / "r") == whole


# --- what is used again ----------------------------------------------------------------------------------------------


@pytest.fixture
def scored(folder, tmp_path, monkeypatch):
    """A run that was killed when all but the result was there."""
    with monkeypatch.context() as patch:
        patch.setattr(runs.RunWriter, "result", killed)
        with pytest.raises(Killed):
            small(folder, tmp_path / "scored")
    return tmp_path / "scored"


def test_killed_after_inference_nothing_is_computed_again(kills, scored, whole, kill_at):
    infer_s = json.loads((scored / CHECKPOINTS / "scores-test.json").read_text())["content"]["seconds"]
    kill_at((Predictor, "logits"), (loop._Training, "run"), (learn, "save_model"), (record, "write_predictions"))
    run = bertwright.train(resume=True, output=scored, quiet=True)
    assert kills.record(scored) == whole
    assert run.result["seconds"]["infer"] == infer_s


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "again"),
    [
        (
            "model/model.safetensors",
            ["run", "save_model", "logits", "logits", "logits", "write_predictions", "write_predictions"],
        ),
        ("model/tokenizer.json", ["run", "save_model"]),
        ("predictions.parquet", ["write_predictions"]),
        ("predictions_validation.parquet", ["write_predictions"]),
        ("checkpoints/scores-test.npy", ["logits"]),
        ("checkpoints/scores-train.json", ["logits"]),
        ("checkpoints/trained.json", ["run", "save_model"]),
        ("checkpoints/inputs.json", []),
        ("checkpoints/parts.json", []),
    ],
)
def test_what_is_damaged_is_said_and_made_anew(kills, scored, whole, monkeypatch, capsys, name, again):
    made = []
    for owner, function in (
        *((loop._Training, "run"), (learn, "save_model"), (Predictor, "logits"), (record, "write_predictions")),
    ):

        def counted(*arguments, real=getattr(owner, function), function=function, **named):
            made.append(function)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, function, counted)
    spoil(scored / name)
    bertwright.train(resume=True, output=scored, quiet=True)
    assert kills.record(scored) == whole
    if name != "model/model.safetensors":  # the same weights come out: scores of them are used again
        assert made == again
    assert "made anew" in capsys.readouterr().err


def test_a_file_settled_after_the_training_that_is_gone_is_damage(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    files = {"model.safetensors": file_record(tmp_path / "model.safetensors")}
    settled = Settled(name="bertwright.json", file=FileRecord(bytes=1, sha256="0" * 64))
    files[settled.name] = FileRecord(bytes=2, sha256="1" * 64)  # as it was before
    with pytest.raises(Damaged, match=r"bertwright\.json is missing"):
        Phases._check_model(tmp_path, Trained.model_construct(files=files), settled)


def test_pickles_in_place_of_scores_are_not_opened(kills, scored, whole, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    path = scored / CHECKPOINTS / "scores-test.npy"
    np.save(path, np.array([Harm()], dtype=object), allow_pickle=True)
    record = phases.read_sealed(path.with_suffix(".json"), phases._Scores)
    record.file = phases.file_record(path)
    phases.write_sealed(path.with_suffix(".json"), record)
    bertwright.train(resume=True, output=scored, quiet=True)
    assert kills.record(scored) == whole
    assert not (tmp_path / "harmed").exists()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 3}, r"--seed: found 3, expected 0 as in .*config\.json"),
        ({"steps": None, "epochs": 2}, r"--epochs: found 2\.0, expected not given"),
        ({"learning_rate": 0.1}, r"--learning-rate: found 0\.1, expected 0\.003"),
        ({"best_metric": "accuracy"}, "--best-metric: found accuracy, expected roc_auc"),
        ({"model": "bert-tiny"}, "--model: found bert-tiny, expected .*tiny"),
        ({"overwrite": True}, "--resume and --overwrite exclude each other"),
        ({"output": None, "data": None}, "--resume needs the run to go on with"),
        ({"output": "nowhere", "data": None}, "nowhere: no such run"),
    ],
)
def test_other_settings_are_refused(folder, stopped, settings, message):
    before = sorted(path.name for path in stopped.rglob("*"))
    given = {"output": stopped, "resume": True, **settings}
    if "data" in given:
        call = lambda: bertwright.train(**{name: value for name, value in given.items() if name != "data"})  # noqa: E731
    else:
        call = lambda: small(folder, **given)  # noqa: E731
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in stopped.rglob("*")) == before


def test_what_was_resolved_equals_what_is_not_given(stopped):
    resolved = train_config({"resume": True, "output": str(stopped)})
    assert resolved.best_metric == "roc_auc"
    assert resolved.weight_decay == 0.01
    given = {"resume": True, "output": str(stopped), "best_metric": None, "weight_decay": 0.01, "label_column": ()}
    assert train_config(given) == resolved


@pytest.mark.parametrize("kept", ["inputs.json", "none"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("train.csv", r"training texts \(their files' SHA-256\): found [0-9a-f]+, expected [0-9a-f]+"),
        ("test.csv", r"test texts \(their files' SHA-256\)"),
        ("tiny/model.safetensors", r"model \(its weights' SHA-256\)"),
        ("tiny/tokenizer.json", r"tokenizer \(its SHA-256\)"),
    ],
)
def test_other_inputs_are_refused_by_name(kills, folder, stopped, tmp_path, file, message, kept):
    kills.prepare(tmp_path / "texts")
    path = tmp_path / "texts" / file
    content = bytearray(path.read_bytes())
    if file.endswith("tokenizer.json"):
        content = content.replace(b'"banana"', b'"bananq"')
    else:
        content[-200 if file.endswith("safetensors") else -2] ^= 1
    path.write_bytes(content)
    settings = json.loads((stopped / "config.json").read_text())
    for name, value in settings["settings"].items():
        if name in ("train", "test"):
            settings["settings"][name] = [str(tmp_path / "texts" / f"{name}.csv")]
        elif name == "model":
            settings["settings"][name] = str(tmp_path / "texts" / "tiny")
        else:
            assert str(folder) not in str(value)
    (stopped / "config.json").write_text(json.dumps(settings))
    if kept == "none":
        (stopped / CHECKPOINTS / "inputs.json").unlink()  # the checkpoints know it too
    with pytest.raises((RunError, DataError), match=message):
        bertwright.train(resume=True, output=stopped, quiet=True)
    assert sorted(checkpoint_steps(stopped)) == [8, 9]


def test_settings_changed_in_the_record_are_refused(stopped):
    text = (stopped / "config.json").read_text()
    (stopped / "config.json").write_text(text.replace('"batch_size": 32', '"batch_size": 16'))
    with pytest.raises(RunError, match="--batch-size: found 16, expected 32 as when the run began"):
        bertwright.train(resume=True, output=stopped, quiet=True)


def test_other_threads_are_said(stopped, capsys):
    record = phases.read_sealed(stopped / CHECKPOINTS / "inputs.json", phases.Inputs)
    record.machine["threads"] = 96
    phases.write_sealed(stopped / CHECKPOINTS / "inputs.json", record)
    bertwright.train(resume=True, output=stopped, quiet=True)
    assert "but 96 when the run began" in " ".join(capsys.readouterr().err.split())


def test_what_is_no_training_is_refused(folder, scored, tmp_path):
    run = bertwright.train(resume=True, output=scored, quiet=True)
    bertwright.evaluate(run.path, folder / "test.csv", output=tmp_path / "judged", quiet=True)
    with pytest.raises(RunError, match="found a run of bertwright evaluate"):
        bertwright.train(resume=True, output=tmp_path / "judged")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not a run's folder"):
        small(folder, tmp_path / "mine", resume=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_without_resume_it_is_named_as_a_way(folder, stopped):
    with pytest.raises(RunError, match="has not finished; pass --resume to go on with it"):
        small(folder, stopped)


def test_two_processes_do_not_work_on_one_run(folder, stopped):
    with runs.locked(stopped):
        assert runs.open_run(stopped).state == "running"
        with pytest.raises(RunError, match="another process is working on this run"):
            bertwright.train(resume=True, output=stopped, quiet=True)
        with pytest.raises(RunError, match="another process is working on this run"):
            small(folder, stopped, overwrite=True)
    assert runs.open_run(stopped).state == "stopped at step 9"


def test_states_are_listed(folder, stopped, tmp_path, capsys):
    small(folder, tmp_path / "done", steps=1)
    runs.RunWriter(tmp_path / "begun", "train", {})
    states = {run.path.name: run.state for run in runs.list_runs(tmp_path)}
    assert states == {"done": "finished", "stopped": "stopped at step 9", "begun": "unfinished"}
    runs_list(str(tmp_path), json_line=True)
    listed = json.loads(capsys.readouterr().out)
    assert {line["run"].rpartition("/")[2]: line["state"] for line in listed} == states


# --- signals ---------------------------------------------------------------------------------------------------------


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python calls its handler between two instructions


def in_step(monkeypatch, number, *steps):
    """Let a signal come in the forward pass of these steps."""
    real, calls = learners.WholeModel.logits, []

    def logits(self, rows):
        calls.append(len(calls) + 1)
        if calls[-1] in steps:
            send(number)
        return real(self, rows)

    monkeypatch.setattr(learners.WholeModel, "logits", logits)


@needs_signals
@pytest.mark.parametrize(
    ("number", "error", "name"), [(signal.SIGTERM, SystemExit, "SIGTERM"), (signal.SIGINT, Interrupted, "Ctrl-C")]
)
def test_a_signal_saves_the_last_whole_step(kills, folder, whole, tmp_path, monkeypatch, capsys, number, error, name):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        in_step(patch, number, 8)
        with pytest.raises(error) as caught:
            small(folder, tmp_path / "r")
    assert getattr(caught.value, "exit_code", getattr(caught.value, "code", None)) == 128 + number
    assert checkpoint_steps(tmp_path / "r") == [7]
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == (
        f"stopped by {name} while training: step 7 is kept. Go on with: bertwright train --resume --output "
        f"{tmp_path / 'r'}"
    )
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    bertwright.train(resume=True, output=tmp_path / "r", quiet=True)
    assert kills.record(tmp_path / "r") == whole


@needs_signals
@pytest.mark.parametrize(
    ("owner", "name", "doing", "kept"),
    [
        (prepare, "read_labelled", "reading", "nothing was written. Start it again with the same command"),
        (prepare, "token_ids_of", "tokenising", "nothing was written. Start it again with the same command"),
        (Predictor, "logits", "scoring the test texts", "the trained model is kept. Go on with: bertwright train"),
        (record, "extremes_of", "writing the result", "the trained model is kept. Go on with: bertwright train"),
    ],
)
def test_in_other_phases_it_ends_at_once(kills, folder, whole, tmp_path, monkeypatch, capsys, owner, name, doing, kept):
    def interrupted(*_, **__):
        send(signal.SIGTERM)
        raise AssertionError("the signal was to end this")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(SystemExit) as caught:
            small(folder, tmp_path / "r")
    assert caught.value.code == 143
    assert f"stopped by SIGTERM while {doing}: {kept}" in capsys.readouterr().err
    small(folder, tmp_path / "r", resume=True)
    assert kills.record(tmp_path / "r") == whole


@needs_signals
def test_a_run_that_is_to_be_replaced_is_not_taken_for_one_to_go_on_with(folder, tmp_path, monkeypatch, capsys):
    small(folder, tmp_path / "r", steps=1)
    monkeypatch.setattr(prepare, "read_labelled", lambda *_, **__: send(signal.SIGTERM))
    with pytest.raises(SystemExit):
        small(folder, tmp_path / "r", overwrite=True)
    assert "nothing was written. Start it again" in capsys.readouterr().err
    assert runs.open_run(tmp_path / "r").finished


@needs_signals
def test_a_signal_while_a_checkpoint_is_written_does_not_break_it(kills, folder, whole, tmp_path, monkeypatch):
    from bertwright.training import state

    with monkeypatch.context() as patch:
        real = state._write_all
        calls = []

        def write(file, piece):
            calls.append(1)
            real(file, piece)
            if len(calls) in (20, 25):
                send(signal.SIGTERM if len(calls) == 20 else signal.SIGINT)

        patch.setattr(state, "_write_all", write)
        with pytest.raises(SystemExit):
            small(folder, tmp_path / "r", checkpoint_steps=2)
    assert len(calls) > 25
    assert checkpoint_steps(tmp_path / "r") == [2]
    assert not list((tmp_path / "r" / CHECKPOINTS).glob(".*partial"))
    kills.check_folder(tmp_path / "r")
    bertwright.train(resume=True, output=tmp_path / "r", quiet=True)
    assert kills.record(tmp_path / "r") == whole


@needs_signals
def test_a_second_ctrl_c_does_not_wait(folder, tmp_path, monkeypatch):
    real = learners.WholeModel.logits

    def logits(self, rows):
        send(signal.SIGINT)
        send(signal.SIGINT)
        return real(self, rows)

    monkeypatch.setattr(learners.WholeModel, "logits", logits)
    with pytest.raises(KeyboardInterrupt) as caught:
        small(folder, tmp_path / "r")
    assert not isinstance(caught.value, Interrupted)
    assert checkpoint_steps(tmp_path / "r") == []


@needs_signals
def test_in_other_threads_and_where_signals_are_ignored_nothing_is_set(folder, tmp_path):
    found = []

    def work():
        found.append(small(folder, tmp_path / "thread", steps=2).finished)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            with pytest.raises(StopNow):
                send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


@needs_signals
def test_the_shell_sees_143_within_ten_seconds(folder, tmp_path):
    arguments = ["train", str(folder / "train.csv"), "--model", str(folder / "tiny"), "--epochs", "5000", "--quiet"]
    arguments += ["--max-length", "32"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bertwright", *arguments, "--output", "r"], stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "r" / "history.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    sent = time.perf_counter()
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert time.perf_counter() - sent < 10
    assert process.returncode == 143
    assert said.splitlines()[-1].startswith("stopped by SIGTERM while training: step ")
    assert said.splitlines()[-1].endswith("is kept. Go on with: bertwright train --resume --output r")
    assert len(checkpoint_steps(tmp_path / "r")) == 1


# --- room ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_at_the_end_is_an_error_that_says_how_to_go_on(kills, folder, whole, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "r" / "model"))

    with monkeypatch.context() as patch:
        patch.setattr(learn, "save_model", full)
        with pytest.raises(
            RunError, match=r"model: No space left on device\. Step 10 is kept; .* go on with: bertwright"
        ):
            small(folder, tmp_path / "r", checkpoint_steps=5)
    bertwright.train(resume=True, output=tmp_path / "r", quiet=True)
    assert kills.record(tmp_path / "r") == whole


def test_a_line_of_the_history_that_did_not_fit_comes_later(tmp_path, monkeypatch):
    writer = runs.RunWriter(tmp_path / "r", "train", {})
    line = {"step": 1, "epoch": 1, "train_loss": 0.7, "learning_rate": 0.1, "validation": {}}
    assert writer.history(line)
    monkeypatch.setattr("builtins.open", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    assert not writer.history({**line, "step": 2})
    assert not writer.history_is_whole
    monkeypatch.undo()
    assert writer.history({**line, "step": 3})
    assert [found["step"] for found in runs.open_run(tmp_path / "r").history] == [1, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_training_in_little_memory_goes_on_in_smaller_parts(examples):
    """For real: the training may take no more than 480 MiB beyond what the process has when it begins."""
    program = f"""
import re, resource
import bertwright, sklearn.metrics, scipy.stats, bertwright.evaluation.metrics  # libraries do not load in little memory
from bertwright.training import loop, learners

real = loop._Training.run

def run(self):
    size = int(re.search(r"VmSize:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + (480 << 20), resource.RLIM_INFINITY))
    try:
        real(self)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

loop._Training.run = run
result = bertwright.train({str(examples / "comments_train.csv")!r}, model="bert-mini", max_length=64, steps=2,
    batch_size=512, quiet=True, output="r").result
print("budget", result["token_budget"])
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("budget")[1]) < 8192
    assert "out of memory in step 1, which is done again" in " ".join(done.stderr.split())


# --- kills -----------------------------------------------------------------------------------------------------------


@needs_signals
def test_killed_at_random_moments_it_ends_with_the_same_bits(kills, tmp_path, monkeypatch):
    """Five kills; `python benchmarks/kills.py --kills 50` does more."""
    monkeypatch.setattr(kills, "_NUM_STEPS", 20)
    arguments = kills.prepare(tmp_path / "texts")
    started = time.perf_counter()
    codes, said = kills.Training(arguments, tmp_path / "whole", tmp_path / "log").wait()
    assert codes == (0,), said
    duration_s = time.perf_counter() - started
    expected = kills.record(tmp_path / "whole")
    count = number = 0
    while count < 5:
        draw = random.Random(number)
        output = tmp_path / f"run-{number}"
        done = kills.disturbed(arguments, output, draw, duration_s, ("kill", "damage", "term", "file size"), 5 - count)
        assert kills.record(output) == expected
        count, number = count + len(done), number + 1
    assert pq.read_table(tmp_path / "whole" / "predictions.parquet").num_rows == 80


# --- what a signal, a full disk and other files must not do -------------------------------------------------------


def small_file(name: str, labels: tuple[str, str] = ("1", "0")) -> str:
    rows = [f"a good film {i},{labels[0]}\na bad film {i},{labels[1]}" for i in range(20)]
    Path(name).write_text("text,label\n" + "\n".join(rows) + "\n")
    return name


QUICK = {"model": "bert-tiny", "steps": 3, "batch_size": 4, "max_length": 16, "quiet": True}


def test_a_signal_after_the_last_step_waits_for_the_model(monkeypatch):
    def stopped(*arguments, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(*arguments, **more)

    save = learn.save_model
    monkeypatch.setattr(learn, "save_model", stopped)
    with pytest.raises(SystemExit) as stop:
        bertwright.train(small_file("a.csv"), output="run", **QUICK)
    assert stop.value.code == 143
    monkeypatch.setattr(learn, "save_model", save)
    monkeypatch.setattr(learn, "fit", None)  # nothing is learnt again
    run = bertwright.train("a.csv", output="run", resume=True, **QUICK)
    assert run.finished
    assert (run.path / "steps.parquet").is_file()


def test_a_finished_run_is_not_taken_for_one_of_other_files():
    bertwright.train(small_file("a.csv"), output="run", **QUICK)
    small_file("b.csv", ("0", "1"))
    with pytest.raises(RunError, match="has finished: the training files: found b"):
        bertwright.train("b.csv", output="run", resume=True, **QUICK)
    Path("same.csv").write_bytes(Path("a.csv").read_bytes())
    assert bertwright.train("same.csv", output="run", resume=True, **QUICK).finished


def test_a_signal_while_a_run_is_replaced_does_not_bring_the_old_one_back(monkeypatch, capsys):
    bertwright.train(small_file("a.csv"), output="run", **QUICK)

    def stopped(*arguments, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return read(*arguments, **more)

    read = prepare.read_labelled
    monkeypatch.setattr(prepare, "read_labelled", stopped)
    with pytest.raises(SystemExit):
        bertwright.train(small_file("b.csv"), output="run", overwrite=True, **QUICK)
    assert "nothing was written" in capsys.readouterr().err
    assert bertwright.open_run("run").finished


def test_a_run_killed_before_its_inputs_were_known_takes_the_files_given():
    bertwright.train(small_file("a.csv"), output="run", **QUICK)
    for path in Path("run").iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    small_file("b.csv", ("0", "1"))
    run = bertwright.train("b.csv", output="run", resume=True, **QUICK)
    assert run.settings["train"] == ["b.csv"]
