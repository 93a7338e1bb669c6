"""Thresholds that serve a purpose: hand-worked, against all possible thresholds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from bertwright.errors import UserError
from bertwright.evaluation.threshold import Goal, tune_threshold

TRUTH = np.array([0, 0, 1, 0, 1, 1], bool)
SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
MEASURES = {
    "accuracy": metrics.accuracy_score,
    "f1": lambda true, predicted: metrics.f1_score(true, predicted, zero_division=0),
    "macro_f1": lambda true, predicted: metrics.f1_score(
        true, predicted, average="macro", labels=[False, True], zero_division=0
    ),
    "matthews": metrics.matthews_corrcoef,
    "precision": lambda true, predicted: metrics.precision_score(true, predicted, zero_division=0),
    "recall": metrics.recall_score,
}


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [
        ("accuracy", 0.5, 5 / 6),  # 0.25 has 5 of 6 right too; 0.5 is nearer to itself
        ("f1", 0.25, 6 / 7),
        ("precision=0.75", 0.25, 3 / 4),  # all three are found, with one false alarm
        ("precision=0.9", 0.5, 1.0),
        ("recall=1", 0.25, 1.0),
        ("recall=0.6", 0.5, 2 / 3),
    ],
)
def test_hand_worked(goal, value, reached):
    found = tune_threshold(TRUTH, SCORES, Goal.of(goal))
    assert found.value == pytest.approx(value)
    assert found.reached == pytest.approx(reached)
    assert found.met


def test_a_precision_that_cannot_be_had_is_said_and_the_highest_is_taken():
    found = tune_threshold(np.array([0, 1, 1, 0], bool), np.array([0.1, 0.2, 0.3, 0.9]), Goal.of("precision=0.9"))
    assert not found.met
    assert found.reached == pytest.approx(2 / 3)
    assert found.value == pytest.approx(0.15)


def test_the_threshold_lies_midway_where_a_half_does_not_part_the_scores():
    found = tune_threshold(np.array([0, 1], bool), np.array([0.01, 0.03]), Goal("f1"))
    assert found.value == pytest.approx(0.02)
    lowest, next_one = 0.25, np.nextafter(0.25, 1)
    found = tune_threshold(np.array([0, 1], bool), np.array([lowest, next_one]), Goal("f1"))
    assert found.value == next_one


@pytest.mark.parametrize("truth", [[], [0, 0], [1, 1]])
def test_one_class_only_has_none(truth):
    assert tune_threshold(np.array(truth, bool), np.linspace(0, 1, len(truth)), Goal("f1")) is None


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])), min_size=2, max_size=12),
    st.sampled_from(["accuracy", "f1", "macro_f1", "matthews", "precision=0.7", "recall=0.5"]),
)
@settings(max_examples=120)
def test_no_other_threshold_is_better(texts, text):
    truth, scores = (np.array(column) for column in zip(*texts, strict=True))
    goal, found = Goal.of(text), tune_threshold(truth, scores, Goal.of(text))
    if truth.all() or not truth.any():
        assert found is None
        return

    def at(threshold, name):
        return MEASURES[name](truth, scores >= threshold)

    candidates = [0.0, *(np.unique(scores) + 1e-6).clip(0, 1)]
    assert found.reached == pytest.approx(at(found.value, goal.metric))
    if goal.least is None:
        assert found.reached >= max(at(one, goal.metric) for one in candidates) - 1e-9
        return
    other = {"precision": "recall", "recall": "precision"}[goal.metric]
    allowed = [one for one in candidates if at(one, goal.metric) >= goal.least - 1e-9]
    assert found.met == bool(allowed)
    if allowed:
        assert found.reached >= goal.least - 1e-9
        assert at(found.value, other) >= max(at(one, other) for one in allowed) - 1e-9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auc", "--tune-threshold auc: unknown; expected accuracy, f1"),
        ("precision", "say how much is needed, such as precision=0.9"),
        ("precision=high", "found 'high', expected a number above 0"),
        ("recall=0", "found '0', expected a number above 0"),
        ("precision=nan", "found 'nan'"),
        ("f1=0.9", "unknown"),
    ],
)
def test_unknown_goals_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        Goal.of(text)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must be"):
        tune_threshold(TRUTH, SCORES[:3], Goal("f1"))
    with pytest.raises(ValueError, match="0 to 1"):
        tune_threshold(TRUTH, SCORES * 9, Goal("f1"))
