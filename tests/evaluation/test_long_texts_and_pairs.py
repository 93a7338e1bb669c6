"""Scores of long texts and of pairs."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.conftest import REPOSITORY

from bertwright.config.parts import ScoringMachineSettings
from bertwright.data.batches import batch_of
from bertwright.errors import CheckpointError, UserError
from bertwright.evaluation.predictor import Predictor, compute_logits
from bertwright.model.checkpoint import Loaded, load_for_training
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.progress import Reporter

LABELS = ("clean", "toxic", "unclear")
CPU = torch.device("cpu")
FITTING = ["short", "a rather longer text about trams and tomatoes", "", "!!!", "naïve café ☕"]
WORDS = [f"{word}{i}" for i in range(60) for word in ("tree ", "house ", "river ", "seven ")]
LONG = ["".join(WORDS), "word " * 100, "".join(WORDS[::-1])]
POLICIES = [
    {"long_texts": "head"},
    {"long_texts": "head+tail"},
    {"long_texts": "windows"},
    {"long_texts": "windows", "window_overlap": 10},
    {"long_texts": "windows", "window_overlap": 10, "window_pooling": "max"},
]


@functools.cache
def loaded_once(pooling) -> Loaded:
    loaded = load_for_training("bert-tiny", LABELS, pooling, 64, 0)
    generator = torch.Generator().manual_seed(0)
    for tensor in loaded.model.state_dict().values():  # louder than BERT's first weights, so that scores differ
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)
    return loaded


def predictor(pooling="first", token_budget=None, **settings) -> Predictor:
    loaded = copy.copy(loaded_once(pooling))
    loaded.model = copy.deepcopy(loaded.model)
    loaded.settings = ClassifierSettings(labels=LABELS, max_length=32, pooling=pooling, **settings)
    machine = ScoringMachineSettings(dtype="float32", device="cpu", token_budget=token_budget)
    return Predictor.from_loaded(loaded, machine)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_texts_that_fit_score_exactly_the_same_in_all_ways(pooling):
    expected = predictor(pooling).score(FITTING)
    assert expected.std(axis=0).max() > 0.01
    for policy in POLICIES:
        assert np.array_equal(predictor(pooling, **policy).score(FITTING), expected), policy


def test_long_texts_score_otherwise_in_each_way():
    scores = [predictor(**policy).score(LONG) for policy in POLICIES]
    for i, one in enumerate(scores):
        for other in scores[:i]:
            assert np.abs(one - other).max() > 1e-3


def test_a_text_that_fits_is_not_moved_by_long_ones_beside_it():
    for policy in POLICIES:
        ours = predictor(**policy)
        np.testing.assert_allclose(ours.score(LONG + FITTING)[3:], ours.score(FITTING), atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("policy", POLICIES[2:], ids=str)
def test_logits_are_the_mean_or_maximum_of_those_of_the_windows_alone(pooling, policy):
    ours = predictor(pooling, **policy)
    ragged = ours.tokenize(LONG + FITTING)
    assert np.diff(ragged.window_starts).min() == 1 < np.diff(ragged.window_starts).max()
    found = ours.logits(ragged)
    windows = ragged.as_sequences()
    each = [ours.logits(windows.take(np.array([i])))[0] for i in range(len(windows))]
    pool = {"mean": np.mean, "max": np.max}[policy.get("window_pooling", "mean")]
    expected = [pool(part, axis=0) for part in np.split(np.array(each), ragged.window_starts[1:-1])]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # By text in one batch, as in training, it is the same.
    with torch.inference_mode():
        np.testing.assert_allclose(ours.model(batch_of(ragged, np.arange(len(ragged)))), expected, atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_how_texts_are_packed_changes_nothing(policy):
    texts = LONG + FITTING + ["word " * 55]
    ours = predictor(**policy)
    expected = ours.score(texts)
    for ours.token_budget in (1, 40, 70, 300):
        np.testing.assert_allclose(ours.score(texts), expected, atol=1e-5)
    np.testing.assert_allclose(ours.score(texts[::-1])[::-1], expected, atol=1e-5)
    np.testing.assert_allclose(ours.score(pa.array(texts)), expected, atol=1e-5)
    rows = np.array([5, 0, 0, 8])
    logits = compute_logits(ours.model, ours.tokenize(texts), rows, CPU, 70, Reporter(quiet=True))
    np.testing.assert_allclose(ours.probabilities(logits), expected[rows], atol=1e-5)


def test_each_text_is_counted_once_on_the_way(monkeypatch):
    counted = []
    reporter = Reporter(quiet=True)

    class Progress:
        def __enter__(self):
            return lambda count, note="": counted.append(count)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(reporter, "progress", lambda *_: Progress())
    ours = predictor(long_texts="windows", token_budget=40)
    ragged = ours.tokenize(LONG + FITTING)
    ours.logits(ragged, reporter)
    assert sum(counted) == len(ragged) == 8


def test_no_texts_are_no_scores():
    for policy in POLICIES:
        assert predictor(**policy).score([]).shape == (0, 3)
    assert predictor(pairs=True).predict([]) == []


def test_saved_settings_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match="for single texts, found pairs"):
        predictor(pairs=True, long_texts="windows")
    with pytest.raises(UserError, match="--window-overlap: found 30 tokens"):
        predictor(long_texts="windows", window_overlap=30)


_LARGE = """
import sys
import numpy as np
from tests.evaluation.test_long_texts_and_pairs import predictor
ours = predictor(long_texts="windows", window_overlap=8, token_budget=2048)
ours.score(["a text"] * 100)
resident = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
before = resident()
text = "word " * 210_000
assert len(text) > 1 << 20
ragged = ours.tokenize([text, "short"])
assert ragged.num_sequences > 9_000
scores = ours.score([text, "short"])
assert np.isfinite(scores).all() and scores.shape == (2, 3)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_text_of_a_megabyte_takes_little_memory():
    """In one batch its 9,500 windows would take some 2 GB even in this smallest of models."""
    done = subprocess.run([sys.executable, "-c", _LARGE], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60 << 10  # KiB


# --- pairs ------------------------------------------------------------------------------------------------------------

PAIRS = [("is it raining?", "it is"), ("", "only the second"), ("word " * 50, "short"), ("same", "same"), ("", "")]


def test_pairs_score_the_same_alone_or_in_company_and_their_order_counts():
    ours = predictor(pairs=True)
    together = ours.score(PAIRS)
    for pair, row in zip(PAIRS, together, strict=True):
        np.testing.assert_allclose(ours.score([pair])[0], row, atol=1e-5)
    swapped = ours.score([(second, first) for first, second in PAIRS])
    assert np.abs(swapped - together)[:3].max(axis=1).min() > 1e-4
    np.testing.assert_allclose(swapped[3:], together[3:], atol=1e-6)
    first, second = (pa.array([pair[i] for pair in PAIRS]) for i in (0, 1))
    np.testing.assert_allclose(ours.probabilities(ours.logits(ours.tokenize(first, pairs=second))), together, atol=1e-6)
    assert [p.label for p in ours.predict(PAIRS)] == [LABELS[i] for i in together.argmax(axis=1)]


def test_pairs_are_read_with_segments():
    ours = predictor(pairs=True)
    expected = ours.score(PAIRS)
    with torch.no_grad():
        ours.model.encoder.embeddings.segment.weight[1] = ours.model.encoder.embeddings.segment.weight[0]
    assert np.abs(ours.score(PAIRS) - expected).max(axis=1).min() > 1e-4


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([("a", "b"), "c"], r"text 2: found str, expected \(text, second text\): this classifier judges pairs"),
        ([("a", "b", "c")], r"text 1: found 3 texts, expected \(text, second text\)"),
        ([("a", None)], "found NoneType, expected a string"),
    ],
)
def test_what_is_no_pair_is_refused_by_a_classifier_of_pairs(texts, message):
    with pytest.raises(UserError, match=message):
        predictor(pairs=True).predict(texts)


def test_pairs_are_refused_by_a_classifier_of_single_texts():
    ours = predictor()
    with pytest.raises(UserError, match="text 2: found 2 texts, expected one string: this classifier judges single"):
        ours.predict(["a", ("b", "c")])
    with pytest.raises(UserError, match="found second texts, expected none"):
        ours.tokenize(["a"], pairs=["b"])


def test_a_model_of_one_segment_cannot_read_pairs():
    loaded = load_for_training("bert-tiny", LABELS, "first", 64, 0)
    loaded.settings = ClassifierSettings(labels=LABELS, pairs=True)
    loaded.model.config = loaded.model.config.model_copy(update={"type_vocab_size": 1})
    with pytest.raises(CheckpointError, match="type_vocab_size is 1, expected 2 or more"):
        Predictor.from_loaded(loaded, ScoringMachineSettings(device="cpu"))
