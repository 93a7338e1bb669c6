"""The act of pretraining: it learns, is recorded, goes on bit by bit where it was stopped, ends with the rate at 0."""

import contextlib
import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import bertwright
from bertwright import runs
from bertwright.config.base import build
from bertwright.config.pretrain import PretrainConfig
from bertwright.errors import RunError, UserError
from bertwright.model import name_tables, word_embeddings
from bertwright.model.masked_checkpoint import load_masked, save_masked
from bertwright.model.masked_language_model import TABLE
from bertwright.model.word_embeddings import principal_components
from bertwright.progress import Reporter
from bertwright.training import pretrain_loop
from bertwright.training.pretrain import pretrain_config, run_pretraining
from bertwright.training.schedule import budget_seconds, rate_factor_of_share, seconds_of

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(195))]


@pytest.fixture
def corpus(tmp_path):
    """Documents in which each word follows from the one before it, and a folder with their vocabulary."""
    generator = np.random.default_rng(0)
    lines = []
    for _ in range(300):
        start, count = int(generator.integers(0, 195)), int(generator.integers(5, 60))
        lines.append(" ".join(f"w{(start + i) % 195}" for i in range(count)))
    (tmp_path / "corpus.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path


def settings(folder, **others):
    return {
        "corpus": (str(folder / "corpus.txt"),),
        "model": "bert-tiny",
        "tokenizer": str(folder / "words"),
        "cache": str(folder / "cache"),
        "output": str(folder / "run"),
        "max_length": 32,
        "batch_tokens": 1024,
        "steps": 12,
        "validation_share": 0.1,
        "device": "cpu",
        **others,
    }


def run(folder, **others):
    return run_pretraining(pretrain_config(settings(folder, **others)), Reporter(quiet=True, results=False))


@contextlib.contextmanager
def stopped_at(monkeypatch, num_steps):
    """A context in which a pretraining is stopped, as by Ctrl-C, after so many steps."""
    step = pretrain_loop.Pretraining._step

    def stopped(self, *arguments):
        if self.progress.steps == num_steps:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(pretrain_loop.Pretraining, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        yield
    monkeypatch.setattr(pretrain_loop.Pretraining, "_step", step)


def weights(folder):
    return load_file(Path(folder) / "model" / "model.safetensors")


def test_it_learns_and_leaves_a_run_that_train_takes(corpus):
    made = run(corpus, steps=60, evaluations=3, learning_rate=3e-3)
    assert made.act == "pretrain"
    assert made.finished
    losses = [line["validation"]["loss"] for line in made.history]
    assert len(losses) == 3
    assert losses[-1] < losses[0] < np.log(200) + 0.2
    found = made.metrics["validation"]
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    assert 0 <= found["masked_accuracy"] <= 1
    assert made.history[-1]["learning_rate"] < 3e-3 / 10
    assert made.result["data"]["tokens_learnt_from"] > 30_000
    assert not (made.path / "checkpoints").exists()
    assert [path.name for path in Path(corpus / "run" / "model").glob("*.json")]
    (corpus / "train.csv").write_text("text,label\n" + "\n".join(f"w{i} w{i + 1},{i % 2}" for i in range(40)))
    trained = bertwright.train(
        corpus / "train.csv", model=str(made.path), output=corpus / "trained", max_length=16, steps=2, quiet=True
    )
    assert "pretrained" in trained.environment["model"] or str(made.path) in trained.environment["model"]


def test_a_stopped_run_goes_on_bit_by_bit(corpus, monkeypatch):
    whole = run(corpus, output=str(corpus / "whole"), hidden_dropout=0.1, steps=40, whole_words=True)
    with stopped_at(monkeypatch, 26):
        run(corpus, hidden_dropout=0.1, steps=40, whole_words=True, checkpoint_steps=10)
    assert runs.open_run(corpus / "run").state == "stopped at step 20"
    resumed = run_pretraining(
        pretrain_config({"resume": True, "output": str(corpus / "run"), "corpus": ()}),  # as the command gives it
        Reporter(quiet=True, results=False),
    )
    assert resumed.result["resumed"] == 1
    ours, theirs = weights(resumed.path), weights(whole.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [line["validation"] for line in resumed.history] == [line["validation"] for line in whole.history]


def test_a_step_cut_into_parts_is_the_same_step(corpus):
    one = run(corpus, dtype="float32", steps=3)
    other = run(corpus, dtype="float32", steps=3, token_budget=200, output=str(corpus / "parts"))
    ours, theirs = weights(one.path), weights(other.path)
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-4) for name in theirs)


def test_kernels_and_plain_operators_learn_alike(corpus):
    fast = run(corpus, steps=30)
    plain = run(corpus, steps=30, compile="off", dtype="float32", output=str(corpus / "plain"))
    ours, theirs = (made.metrics["validation"]["loss"] for made in (fast, plain))
    assert ours == pytest.approx(theirs, abs=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["auto", "float16"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_gpu_learns_as_a_cpu_does(corpus, dtype, frozen):
    others = {"steps": 30, "freeze_word_embeddings": frozen}
    there = run(corpus, device="cuda", dtype=dtype, output=str(corpus / "gpu"), **others)
    here = run(corpus, dtype="float32", **others)
    ours, theirs = (made.metrics["validation"]["loss"] for made in (there, here))
    assert ours == pytest.approx(theirs, abs=0.05)


@pytest.fixture
def clock(monkeypatch):
    """Time as pretraining reads it: a list of the seconds that have gone by. A step takes a quarter of one."""
    seconds = [0.0]
    step = pretrain_loop.Pretraining._step

    def timed(self, *arguments):
        done = step(self, *arguments)
        seconds[0] += 0.25
        return done

    monkeypatch.setattr(pretrain_loop.Pretraining, "_step", timed)
    monkeypatch.setattr(pretrain_loop, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    return seconds


def test_a_budget_goes_on_with_the_time_that_was_left(corpus, monkeypatch, clock):
    with stopped_at(monkeypatch, 5):
        run(corpus, steps=None, budget="3s", checkpoint_steps=1)
    made = run(corpus, steps=None, budget="3s", checkpoint_steps=1, resume=True)
    assert made.result["resumed"] == 1
    assert made.result["steps"] == 12
    assert made.history[-1]["elapsed_s"] == 3.0
    assert made.history[-1]["learning_rate"] <= 1e-3 * 0.1


def test_a_run_that_began_with_another_models_words_goes_on_with_other_threads_and_a_moved_model(corpus, monkeypatch):
    donor = pretrained_donor(corpus, "donor")
    others = {"steps": 8, "freeze_word_embeddings": True, "checkpoint_steps": 2}
    with stopped_at(monkeypatch, 4):
        run(corpus, word_embeddings=str(donor), **others)
    found = principal_components

    def rounded_otherwise(table, width):
        kept, share = found(table, width)
        return kept * (1 + 1e-7), share

    monkeypatch.setattr(word_embeddings, "principal_components", rounded_otherwise)
    donor = donor.rename(corpus / "moved")
    resumed = run(corpus, word_embeddings=str(donor), resume=True, **others)
    assert resumed.result["resumed"] == 1
    assert resumed.result["steps"] == 8


def test_words_of_another_model_than_the_run_began_with_are_refused(corpus, monkeypatch):
    with stopped_at(monkeypatch, 2):
        run(corpus, word_embeddings=str(pretrained_donor(corpus, "donor")), checkpoint_steps=1)
    with pytest.raises(RunError, match="--word-embeddings"):
        run(corpus, word_embeddings=str(pretrained_donor(corpus, "other", seed=1)), checkpoint_steps=1, resume=True)


def pretrained_donor(corpus, name, seed=0):
    """A model as wide as Mini with the corpus' vocabulary, and two rows more than that has words."""
    loaded = load_masked("bert-mini", 32, seed, str(corpus / "words"), {})
    config = loaded.saved_config.model_copy(update={"vocab_size": loaded.tokenizer.vocab_size + 2})
    state = dict(loaded.model.state_dict())
    state[TABLE] = torch.cat([state[TABLE], torch.full((2, config.hidden_size), 7.0)])
    state["head.bias"] = torch.zeros(config.vocab_size)
    save_masked(corpus / name, config, state, loaded.tokenizer)
    return corpus / name


def test_a_budget_ends_with_the_rate_near_0(corpus, clock):
    made = run(corpus, steps=None, budget="4s", evaluations=4)
    rates = [line["learning_rate"] for line in made.history]
    assert [line["elapsed_s"] for line in made.history] == [1.0, 2.0, 3.0, 4.0]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] <= 1e-3 * 0.1
    assert made.result["steps"] == 16


def test_a_budget_is_seconds_of_the_wall(corpus):
    began = time.perf_counter()
    made = run(corpus, steps=None, budget="2s")
    assert 2.0 <= made.history[-1]["elapsed_s"] <= time.perf_counter() - began
    assert made.result["steps"] > 3


def test_slow_looks_take_little_of_a_budget(corpus, monkeypatch, clock):
    real = pretrain_loop.judge

    def slow(*arguments):
        clock[0] += 0.25
        return real(*arguments)

    monkeypatch.setattr(pretrain_loop, "judge", slow)
    made = run(corpus, steps=None, budget="6s", evaluations=30)  # a look every fifth of a second, as planned
    seconds = [line["elapsed_s"] for line in made.history]
    assert 2 <= len(seconds) <= 4
    assert all(later - earlier >= 2.25 for earlier, later in itertools.pairwise(seconds[:-1]))  # the last is at the end


def test_a_checkpoint_learns_on_with_its_head(corpus):
    first = run(corpus, steps=60, learning_rate=3e-3)
    second = run(corpus, model=str(first.path), tokenizer=None, steps=1, output=str(corpus / "second"))
    assert any("head for masked tokens is taken along" in note for note in second.environment["model_notes"])
    ours, theirs = (made.metrics["validation"]["loss"] for made in (second, first))
    assert ours == pytest.approx(theirs, abs=0.1)
    assert second.settings["learning_rate"] == 1e-4


def test_a_vocabulary_is_trained_from_the_corpus(corpus):
    made = run(corpus, tokenizer=None, train_vocabulary=120, steps=2)
    lines = (made.path / "model" / "vocab.txt").read_text().split("\n")
    assert lines[4] == "[MASK]"
    assert len(lines) <= 121
    assert json.loads((made.path / "model" / "config.json").read_text())["vocab_size"] == len(lines) - 1
    with pytest.raises(UserError, match="has a vocabulary of its own"):
        run(corpus, model=str(made.path), tokenizer=None, train_vocabulary=120, output=str(corpus / "other"))


def test_other_settings_or_another_corpus_are_refused_when_it_goes_on(corpus, monkeypatch):
    with stopped_at(monkeypatch, 2):
        run(corpus, checkpoint_steps=1)
    with pytest.raises(UserError, match=r"--mask-share: found 0\.3, expected 0\.15"):
        pretrain_config({"resume": True, "output": str(corpus / "run"), "mask_share": 0.3})
    (corpus / "corpus.txt").write_text("w1 w2 w3\nw4 w5 w6\n")
    with pytest.raises(RunError, match="corpus"):
        run_pretraining(pretrain_config({"resume": True, "output": str(corpus / "run")}), Reporter(quiet=True))


def test_steps_hold_up_to_so_many_tokens_and_every_sequence_once_an_epoch():
    lengths = np.random.default_rng(0).integers(3, 33, 500)
    steps = pretrain_loop.steps_of(lengths, 256, seed=1)
    seen, epoch = [], 0
    for number, rows in steps:
        if number != epoch:
            break
        assert lengths[rows].sum() <= 256
        seen += rows.tolist()
    assert sorted(seen) == list(range(500))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 3, "budget": "3m"}, "--steps and --budget exclude each other"),
        ({"epochs": 3.0, "steps": 3}, "--epochs and --steps exclude each other"),
        ({"train_vocabulary": 1000, "tokenizer": "x"}, "--train-vocabulary and --tokenizer exclude each other"),
        (
            {"train_vocabulary": 1000, "word_embeddings": "x"},
            "--word-embeddings belong to a vocabulary, and --train-vocabulary makes another",
        ),
        ({"corpus": ()}, "no file given"),
    ],
)
def test_settings_that_exclude_each_other(given, message):
    with pytest.raises(UserError, match=message):
        build(PretrainConfig, {"corpus": ("a.txt",), **given})


def test_time():
    assert seconds_of("90s") == 90
    assert seconds_of("1.5h") == 5400
    assert seconds_of("5usd") is None
    with pytest.raises(UserError, match="--budget: found '3 parsecs'"):
        budget_seconds("3 parsecs")
    assert [rate_factor_of_share(share, 0.1) for share in (0.0, 0.05, 0.1, 0.55, 1.0, 1.2)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0, 0]
    )


@pytest.mark.parametrize(
    ("machine", "dtype"), [("auto", "auto"), ("auto", "float32"), ("off", "float32"), ("off", "bfloat16")]
)
def test_frozen_word_embeddings_stay_bit_for_bit_while_the_rest_learns(corpus, machine, dtype, monkeypatch):
    others = {"compile": machine, "dtype": dtype, "steps": 12, "freeze_word_embeddings": True}
    loaded = load_masked("bert-tiny", 32, 0, str(corpus / "words"), {})
    whole = run(corpus, output=str(corpus / "whole"), **others)
    started = {"bert." + theirs: loaded.model.state_dict()[ours] for ours, theirs in _encoder_names()}
    found = weights(whole.path)
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(found[table], started[table])
    assert not any(torch.equal(found[name], started[name]) for name in started if name != table)
    with stopped_at(monkeypatch, 7):
        run(corpus, checkpoint_steps=5, **others)
    resumed = weights(run(corpus, resume=True, **others).path)
    assert all(torch.equal(resumed[name], found[name]) for name in found)


def _encoder_names():
    return name_tables.NAMES["bert"].encoder(2)
