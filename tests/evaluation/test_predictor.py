"""From texts to scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bertwright
from bertwright.errors import CheckpointError, UserError
from bertwright.evaluation.predictor import Predictor
from bertwright.evaluation.scores import sigmoid, softmax
from bertwright.model.batch import flat_batch
from bertwright.model.checkpoint import load_for_training
from bertwright.model.classifier_settings import ClassifierSettings

LABELS = ("clean", "toxic")
TEXTS = ["short", "a rather longer text about trams and tomatoes", "", "!!!", "word " * 300, "naïve café ☕"]


def predictor(dtype="float32", **settings) -> Predictor:
    from bertwright.config.parts import MachineSettings

    loaded = load_for_training("bert-mini", LABELS, "first", 64, 0)
    # Louder than BERT's first weights, so that scores differ; and around 1/2, so that they can move either way.
    generator = torch.Generator().manual_seed(0)
    for tensor in loaded.model.state_dict().values():
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)
    with torch.no_grad():
        batch = flat_batch(np.arange(1000, 1100), np.full(10, 10))
        loaded.model.classifier.linear.bias.sub_(loaded.model.eval()(batch).mean(0))
    loaded.settings = ClassifierSettings(labels=LABELS, max_length=64, **settings)
    return Predictor.from_loaded(loaded, MachineSettings(dtype=dtype, device="cpu"))


def test_a_text_scores_the_same_alone_or_in_company():
    ours = predictor()
    together = ours.score(TEXTS)
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(ours.score([text])[0], row, atol=1e-5)
    np.testing.assert_allclose(ours.score(TEXTS[::-1])[::-1], together, atol=1e-5)


def test_scores_are_probabilities_in_the_order_of_the_texts():
    scores = predictor().score(TEXTS)
    assert scores.shape == (6, 2)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert scores[:, 1].std() > 0.01


def test_a_small_token_budget_changes_nothing():
    ours = predictor()
    expected = ours.score(TEXTS)
    ours.token_budget = 10
    np.testing.assert_allclose(ours.score(TEXTS), expected, atol=1e-5)


def test_bfloat16_is_close_to_float32():
    exact, rounded = predictor().score(TEXTS), predictor("bfloat16").score(TEXTS)
    assert np.abs(exact - rounded).max() < 0.05
    assert not np.array_equal(exact, rounded)


def test_predictions_follow_the_threshold():
    scores = predictor().score(TEXTS)[:, 1]
    threshold = float(np.median(scores))
    decided = predictor(threshold=threshold).predict(TEXTS)
    assert [p.label == "toxic" for p in decided] == [score >= threshold for score in scores]
    for prediction, score in zip(decided, scores, strict=True):
        assert prediction.scores["toxic"] == pytest.approx(score, abs=1e-6)
        assert prediction.probability == prediction.scores[prediction.label]


def test_temperature_softens_and_keeps_the_order():
    sharp, soft = predictor().score(TEXTS)[:, 1], predictor(temperature=5.0).score(TEXTS)[:, 1]
    assert (np.argsort(sharp) == np.argsort(soft)).all()
    assert np.ptp(soft) < np.ptp(sharp)


def test_softmax_of_large_logits_is_finite():
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32)), [[1, 0], [0, 1]])
    np.testing.assert_allclose(softmax(np.log(np.array([[1.0, 3.0]]))), [[0.25, 0.75]])


KIND_LABELS = {"classes": LABELS, "soft": LABELS, "multi-label": ("a", "b", "c"), "regression": ("stars",)}


def of_kind(kind, **settings) -> Predictor:
    from bertwright.config.parts import MachineSettings

    loaded = load_for_training("bert-tiny", KIND_LABELS[kind], "first", 64, 0, kind=kind)
    generator = torch.Generator().manual_seed(0)
    for tensor in loaded.model.state_dict().values():
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    loaded.settings = ClassifierSettings(labels=KIND_LABELS[kind], kind=kind, max_length=64, **settings)
    return Predictor.from_loaded(loaded, MachineSettings(dtype="float32", device="cpu"))


@pytest.mark.parametrize("kind", KIND_LABELS)
def test_scores_of_every_kind_follow_from_the_logits(kind):
    ours = of_kind(kind, temperature=2.0)
    logits = ours.logits(ours.tokenize(TEXTS)).astype(np.float64)
    expected = {
        "regression": logits,  # has no temperature
        "multi-label": 1 / (1 + np.exp(-logits / 2)),
    }.get(kind, softmax(logits / 2))
    np.testing.assert_allclose(ours.score(TEXTS), expected, rtol=1e-6)
    assert ours.score([]).shape == (0, len(KIND_LABELS[kind]))
    assert ours.predict([]) == []


@pytest.mark.parametrize("kind", KIND_LABELS)
def test_predictions_of_every_kind(kind):
    threshold = 0.4
    ours = of_kind(kind, threshold=threshold)
    for prediction, scores in zip(ours.predict(TEXTS), ours.score(TEXTS), strict=True):
        assert prediction.scores == dict(zip(KIND_LABELS[kind], scores.tolist(), strict=True))
        assert all(type(score) is float for score in prediction.scores.values())
        if kind == "regression":
            assert prediction.value == scores[0]
            assert (prediction.label, prediction.probability, prediction.labels) == (None, None, ())
        elif kind == "multi-label":
            assert prediction.labels == tuple(n for n, s in zip("abc", scores, strict=True) if s >= threshold)
            assert (prediction.label, prediction.probability, prediction.value) == (None, None, None)
        else:
            assert prediction.label == LABELS[int(scores[1] >= threshold)]
            assert prediction.labels == (prediction.label,)
            assert prediction.probability == prediction.scores[prediction.label]
            assert prediction.value is None


def test_some_texts_have_no_label_and_some_several():
    ours = of_kind("multi-label")
    with torch.no_grad():
        ours.model.classifier.linear.weight.zero_()
        ours.model.classifier.linear.bias.copy_(torch.tensor([-1.0, -1.0, -1.0]))
    assert ours.predict(["x"])[0].labels == ()
    ours.model.classifier.linear.bias.data.copy_(torch.tensor([1.0, -1.0, 0.0]))
    assert ours.predict(["x"])[0].labels == ("a", "c")  # at the threshold counts


def test_sigmoid_of_large_logits_is_finite():
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(np.array([[1e30, -1e30, 0.0, np.log(3)]], np.float32))
    np.testing.assert_allclose(found, [[1, 0, 0.5, 0.75]], rtol=1e-6)


def test_no_texts_are_no_scores():
    assert predictor().score([]).shape == (0, 2)
    assert predictor().predict([]) == []


def test_one_string_is_not_a_list_of_texts():
    with pytest.raises(UserError, match="one string"):
        predictor().predict("hello")


def test_what_is_no_text_is_refused():
    with pytest.raises(UserError, match="found NoneType"):
        predictor().predict(["fine", None])
    with pytest.raises(UserError, match="not valid Unicode"):
        predictor().predict(["\ud800"])


def test_unknown_machines_are_refused():
    with pytest.raises(UserError, match="float8"):
        bertwright.load("anything", dtype="float8")


def test_damaged_weights_are_one_clear_error():
    ours = predictor()
    ours.model.pooler.dense.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not numbers"):
        ours.predict(["text"])
