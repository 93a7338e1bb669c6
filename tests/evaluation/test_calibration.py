"""Temperature and calibration error: hand-worked, against a known temperature, for all kinds of labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn import metrics

from bertwright.evaluation.calibration import (
    calibration_error,
    calibration_of,
    equal_mass_bins,
    equal_width_bins,
    fit_temperature,
)
from bertwright.evaluation.metrics import cross_entropy
from bertwright.evaluation.scores import scores_of


def drawn(kind, temperature, num_texts=20_000, num_labels=3, seed=0):
    """Logits that are ``temperature`` times too large for the labels that go with them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_texts, num_labels)) * 2
    probabilities = scores_of(logits, kind)
    if kind == "multi-label":
        targets = (generator.random(logits.shape) < probabilities).astype(float)
    elif kind == "soft":
        targets = probabilities
    else:
        classes = (generator.random((num_texts, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, num_labels - 1)
        targets = np.eye(num_labels)[classes]
    return logits * temperature, targets


@pytest.mark.parametrize("kind", ["classes", "soft", "multi-label"])
@pytest.mark.parametrize(("temperature", "num_labels"), [(3.0, 2), (0.4, 4)])
def test_a_known_temperature_is_found_and_mends_the_scores(kind, temperature, num_labels):
    logits, targets = drawn(kind, temperature, num_labels=num_labels)
    found = fit_temperature(logits, targets, kind)
    assert found == pytest.approx(temperature, rel=0.04)
    before, after = calibration_of(logits, targets, kind), calibration_of(logits, targets, kind, found)
    for name in ("expected_calibration_error", "expected_calibration_error_equal_mass"):
        assert after[name] < before[name] / 4
    assert after["log_loss"] < before["log_loss"]
    assert after["brier"] < before["brier"]


@pytest.mark.parametrize("kind", ["classes", "soft", "multi-label"])
def test_no_other_temperature_is_more_likely(kind):
    logits, targets = drawn(kind, 1.7, num_texts=200, seed=3)
    found = minimize_scalar(
        lambda log: cross_entropy(targets, scores_of(logits, kind, np.exp(log)), kind), bounds=(-3, 3), method="bounded"
    )
    assert fit_temperature(logits, targets, kind) == pytest.approx(np.exp(found.x), rel=1e-3)


@pytest.mark.parametrize("kind", ["classes", "multi-label"])
def test_what_has_no_temperature_has_none(kind):
    logits = np.array([[3.0, -3], [-4, 4]])
    right = np.eye(2)
    assert fit_temperature(logits, right, kind) is None  # ever sharper scores are ever more likely
    assert fit_temperature(logits, 1 - right, kind) is None  # worse than chance
    assert fit_temperature(np.zeros((2, 2)), right, kind) is None
    assert fit_temperature(np.zeros((0, 2)), np.zeros((0, 2)), kind) is None


def test_the_usual_error_by_hand():
    scores = np.array([0.0, 0.05, 0.62, 0.64, 0.66, 1.0])
    outcomes = np.array([0, 1, 1, 0, 1, 1.0])
    bins = equal_width_bins(scores, outcomes, 10)
    assert [one["count"] for one in bins] == [2, 0, 0, 0, 0, 0, 3, 0, 0, 1]
    assert (bins[1]["mean_score"], bins[1]["share"]) == (None, None)
    assert (bins[6]["low"], bins[6]["high"]) == (0.6, 0.7)
    assert bins[6]["mean_score"] == pytest.approx(0.64)
    assert bins[6]["share"] == pytest.approx(2 / 3)
    # 2/6 |1/2 - 0.025| + 3/6 |2/3 - 0.64| + 1/6 |1 - 1|
    assert calibration_error(bins) == pytest.approx(2 / 6 * 0.475 + 3 / 6 * (2 / 3 - 0.64))


def test_an_edge_belongs_to_the_bin_below():
    bins = equal_width_bins(np.array([0.0, 0.2, 0.4, 1.0]), np.zeros(4), 5)
    assert [one["count"] for one in bins] == [2, 1, 0, 0, 1]


def test_bins_of_equal_mass_keep_equal_scores_together():
    scores = np.array([0.1] * 7 + [0.2, 0.3, 0.9])
    bins = equal_mass_bins(scores, np.arange(10) / 10, 5)
    assert [(one["low"], one["high"], one["count"]) for one in bins] == [(0.1, 0.1, 7), (0.2, 0.2, 1), (0.3, 0.9, 2)]
    assert equal_mass_bins(np.zeros(0), np.zeros(0)) == []
    even = equal_mass_bins(np.arange(150) / 150, np.zeros(150))
    assert [one["count"] for one in even] == [10] * 15


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60)
def test_every_score_is_in_one_bin(pairs):
    scores, outcomes = (np.array(column, float) for column in zip(*pairs, strict=True))
    for bins in (equal_width_bins(scores, outcomes), equal_mass_bins(scores, outcomes)):
        assert sum(one["count"] for one in bins) == len(scores)
        assert all(one["low"] - 1e-9 <= one["mean_score"] <= one["high"] + 1e-9 for one in bins if one["count"])
        assert 0 <= calibration_error(bins) <= 1
        total = sum(one["count"] * one["share"] for one in bins if one["count"])
        assert total == pytest.approx(outcomes.sum())


def test_two_classes_are_judged_by_the_last_more_by_the_highest():
    logits = np.log(np.array([[0.7, 0.3], [0.2, 0.8]]))
    found = calibration_of(logits, np.eye(2), "classes")
    assert found["brier"] == pytest.approx(metrics.brier_score_loss([0, 1], [0.3, 0.8]))
    assert found["log_loss"] == pytest.approx(metrics.log_loss([0, 1], [0.3, 0.8]))
    assert found["expected_calibration_error"] == pytest.approx((0.3 + 0.2) / 2)
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]))
    found = calibration_of(logits, np.eye(3)[[0, 0]], "classes")
    assert found["expected_calibration_error"] == pytest.approx((0.3 + 0.4) / 2)
    assert found["num_scores"] == 2


def test_each_label_of_several_is_a_score():
    logits = np.array([[2.0, -1], [0, 0]])
    found = calibration_of(logits, np.array([[1, 0], [0, 1.0]]), "multi-label")
    assert found["num_scores"] == 4
    scores = scores_of(logits, "multi-label")
    assert found["brier"] == pytest.approx(((scores - [[1, 0], [0, 1]]) ** 2).mean())


def test_numbers_have_no_calibration():
    assert calibration_of(np.ones((2, 1)), np.ones((2, 1)), "regression") is None
    assert calibration_of(np.ones((0, 2)), np.ones((0, 2)), "classes") is None
    with pytest.raises(ValueError, match="regression"):
        fit_temperature(np.ones((2, 1)), np.ones((2, 1)), "regression")
    with pytest.raises(ValueError, match="must be"):
        fit_temperature(np.ones((2, 2)), np.ones((3, 2)), "classes")
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(np.full((2, 2), np.inf), np.ones((2, 2)), "classes")
