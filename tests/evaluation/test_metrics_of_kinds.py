"""Metrics of any number of labels, of shares and of numbers: worked by hand, and scikit-learn's and scipy's."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bertwright.errors import UserError
from bertwright.evaluation.metrics import (
    ALL_METRIC_NAMES,
    LOWER_IS_BETTER,
    METRIC_NAMES,
    METRIC_NAMES_OF,
    MULTI_LABEL_METRIC_NAMES,
    NEEDS_DIFFERENT_LABELS,
    REGRESSION_METRIC_NAMES,
    SOFT_METRIC_NAMES,
    check_metric_name,
    classification_metrics,
    decide_each,
    default_metric,
    describe_score,
    is_better,
    multilabel_metrics,
    positive_score,
    regression_metrics,
    soft_metrics,
)

THREE = ["toxic", "obscene", "threat"]
HARD = tuple(name for name in MULTI_LABEL_METRIC_NAMES if name != "soft_log_loss")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- any number of labels ----------------------------------------------------------------------------------

TARGETS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
SCORES = np.array([[0.9, 0.6, 0.1], [0.4, 0.7, 0.2], [0.3, 0.2, 0.1], [0.5, 0.8, 0.6]])


def test_labels_worked_by_hand():
    # Decided at 0.5:  toxic 1 0 0 1 of 1 1 0 0;  obscene 1 1 0 1 of 0 1 0 1;  threat 0 0 0 1 of 0 0 0 0.
    found = multilabel_metrics(TARGETS, SCORES, THREE)
    assert found["accuracy"] == 1 / 4  # the third text alone is right in all three
    assert found["hamming_loss"] == pytest.approx(4 / 12)  # toxic 2, obscene 1, threat 1
    # Hits 1 + 2 + 0 of 2 + 3 + 1 predicted and 2 + 2 + 0 true.
    assert found["micro_precision"] == 3 / 6
    assert found["micro_recall"] == 3 / 4
    assert found["micro_f1"] == pytest.approx(2 * 3 / (6 + 4))
    assert found["macro_precision"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert found["macro_recall"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    # toxic: 0.9 over both others, 0.4 over 0.3; obscene: all in order; threat: nobody has it.
    assert found["roc_auc"] == pytest.approx((3 / 4 + 1) / 2)
    # toxic: 1/1, then 0.5 -, then 0.4 +: 2/3.
    assert found["average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    of_true = [0.9, 0.4, 0.9, 0.4, 0.7, 0.8, 0.7, 0.8, 0.9, 0.5, 0.8, 0.4]
    assert found["log_loss"] == pytest.approx(-sum(map(math.log, of_true)) / 12)
    assert found["num_texts"] == 4
    assert found["per_class"]["toxic"] == {
        "precision": 1 / 2,
        "recall": 1 / 2,
        "f1": 1 / 2,
        "roc_auc": 3 / 4,
        "average_precision": pytest.approx((1 + 2 / 3) / 2),
        "support": 2,
    }
    nobody = {"precision": 0, "recall": 0, "f1": 0, "roc_auc": None, "average_precision": None, "support": 0}
    assert found["per_class"]["threat"] == nobody
    assert list(found) == [*HARD, "num_texts", "per_class"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@st.composite
def label_cases(draw):
    """Targets and scores in eighths, so that ties are common, (texts, labels)."""
    num_texts, num_labels = draw(st.integers(1, 20)), draw(st.integers(1, 4))
    cells = num_texts * num_labels
    targets = draw(st.lists(st.integers(0, 1), min_size=cells, max_size=cells))
    eighths = draw(st.lists(st.integers(0, 8), min_size=cells, max_size=cells))
    shape = (num_texts, num_labels)
    return np.array(targets).reshape(shape), np.array(eighths).reshape(shape) / 8


@given(label_cases(), st.sampled_from([0.25, 0.5, 0.7]))
def test_labels_are_scored_as_by_scikit_learn(case, threshold):
    targets, scores = case
    names = [f"label {i}" for i in range(targets.shape[1])]
    found = multilabel_metrics(targets, scores, names, threshold)
    predicted = (scores >= threshold).astype(int)
    # A column of its own makes it an indicator matrix for scikit-learn, also where there is one label.
    assert found["hamming_loss"] == pytest.approx((targets != predicted).mean())
    if targets.shape[1] > 1:
        assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(targets, predicted))
        assert found["hamming_loss"] == pytest.approx(sklearn_metrics.hamming_loss(targets, predicted))
        for average in ("micro", "macro"):
            for name in ("precision", "recall", "f1"):
                theirs = getattr(sklearn_metrics, f"{name}_score")(targets, predicted, average=average, zero_division=0)
                assert found[f"{average}_{name}"] == pytest.approx(theirs), (average, name)
    aucs, averages = [], []
    for i, name in enumerate(names):
        values = found["per_class"][name]
        assert values["support"] == targets[:, i].sum()
        for metric in ("precision", "recall", "f1"):
            theirs = getattr(sklearn_metrics, f"{metric}_score")(targets[:, i], predicted[:, i], zero_division=0)
            assert values[metric] == pytest.approx(theirs)
        if 0 < targets[:, i].sum() < len(targets):
            aucs.append(sklearn_metrics.roc_auc_score(targets[:, i], scores[:, i]))
            averages.append(sklearn_metrics.average_precision_score(targets[:, i], scores[:, i]))
            assert values["roc_auc"] == pytest.approx(aucs[-1])
            assert values["average_precision"] == pytest.approx(averages[-1])
        else:
            assert values["roc_auc"] is values["average_precision"] is None
    assert found["roc_auc"] == (pytest.approx(np.mean(aucs)) if aucs else None)
    assert found["average_precision"] == (pytest.approx(np.mean(averages)) if averages else None)
    theirs = np.mean([sklearn_metrics.log_loss(targets[:, i], scores[:, i], labels=[0, 1]) for i in range(len(names))])
    assert found["log_loss"] == pytest.approx(theirs)


def test_labels_that_all_or_none_have():
    found = multilabel_metrics(np.array([[1, 0], [1, 0]]), np.array([[0.6, 0.4], [0.4, 0.6]]), ["all", "none"])
    assert found["roc_auc"] is found["average_precision"] is None
    assert found["per_class"]["all"]["recall"] == 0.5
    assert found["per_class"]["none"]["precision"] == 0


def test_constant_scores_of_labels():
    found = multilabel_metrics(TARGETS, np.full((4, 3), 0.5), THREE)
    assert found["roc_auc"] == 0.5
    assert found["log_loss"] == pytest.approx(math.log(2))
    assert found["micro_recall"] == 1  # at the threshold counts
    assert multilabel_metrics(TARGETS, np.full((4, 3), 0.4), THREE)["micro_precision"] == 0


def test_sure_and_wrong_labels_are_punished_but_finite():
    for dtype in (np.float32, np.float64):
        found = multilabel_metrics(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]], dtype), ["a"])
        assert found["log_loss"] == pytest.approx(-math.log(np.finfo(dtype).eps))


def test_shares_of_labels_are_hard_from_a_threshold_and_have_a_loss_of_their_own():
    shares = np.array([[0.6, 0.0], [0.4, 1.0], [0.5, 0.0]])
    scores = np.array([[0.7, 0.1], [0.4, 0.8], [0.6, 0.3]])
    found = multilabel_metrics(shares, scores, ["a", "b"])
    assert found["accuracy"] == 1
    assert found["per_class"]["a"]["support"] == 2
    hard = multilabel_metrics(np.array([[1, 0], [0, 1], [1, 0]]), scores, ["a", "b"])
    assert found["log_loss"] == hard["log_loss"]
    assert "soft_log_loss" not in hard
    expected = -(shares * np.log(scores) + (1 - shares) * np.log(1 - scores)).mean()
    assert found["soft_log_loss"] == pytest.approx(expected)
    assert list(found) == [*MULTI_LABEL_METRIC_NAMES[:-2], "soft_log_loss", "hamming_loss", "num_texts", "per_class"]
    strict = multilabel_metrics(shares, scores, ["a", "b"], hard_targets=shares >= 0.55)
    assert strict["per_class"]["a"]["support"] == 1
    assert strict["soft_log_loss"] == found["soft_log_loss"]
    with pytest.raises(ValueError, match="hard_targets"):
        multilabel_metrics(shares, scores, ["a", "b"], hard_targets=np.ones((3, 1), bool))


def test_no_texts_have_no_labels():
    found = multilabel_metrics(np.zeros((0, 3)), np.zeros((0, 3)), THREE)
    assert all(found[name] is None for name in HARD)
    assert found["num_texts"] == 0
    assert found["per_class"]["threat"]["support"] == 0
    assert found["per_class"]["threat"]["roc_auc"] is None


@pytest.mark.parametrize(
    ("targets", "scores", "labels"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), THREE),
        (np.zeros((2, 3)), np.zeros((3, 3)), THREE),
        (np.zeros((2, 3)), np.zeros((2, 2)), THREE),
        (np.zeros(2), np.zeros(2), ["a"]),
        (np.full((2, 1), 2.0), np.zeros((2, 1)), ["a"]),
        (np.full((2, 1), np.nan), np.zeros((2, 1)), ["a"]),
        (np.zeros((2, 1)), np.full((2, 1), 1.5), ["a"]),
        (np.zeros((2, 1)), np.full((2, 1), np.nan), ["a"]),
        (np.zeros((2, 2)), np.zeros((2, 2)), ["a", "a"]),
    ],
)
def test_labels_that_do_not_fit_are_refused(targets, scores, labels):
    with pytest.raises(ValueError):
        multilabel_metrics(targets, scores, labels)


def test_labels_are_decided_each_for_itself():
    assert decide_each(np.array([[0.5, 0.49], [0.1, 0.2], [0.9, 1.0]])).tolist() == [
        [True, False],
        [False, False],
        [True, True],
    ]
    assert decide_each(np.array([[0.5]]), 0.6).tolist() == [[False]]


# --- shares ------------------------------------------------------------------------------------------------

SHARES = np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
OF_SHARES = np.array([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])


def test_shares_worked_by_hand():
    label_ids = np.array([0, 1, 1])
    found = soft_metrics(label_ids, SHARES, OF_SHARES, ["clean", "toxic"])
    log = math.log
    expected = -(0.75 * log(0.8) + 0.25 * log(0.2) + 0.5 * log(0.4) + 0.5 * log(0.6) + log(0.7)) / 3
    assert found["soft_log_loss"] == pytest.approx(expected)
    assert found["brier"] == pytest.approx((0.05**2 + 0.1**2 + 0.3**2) / 3)
    of_classes = classification_metrics(label_ids, OF_SHARES, ["clean", "toxic"])
    assert {name: found[name] for name in of_classes} == of_classes
    assert list(found) == [*SOFT_METRIC_NAMES, "num_texts", "per_class", "confusion"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_shares_that_are_classes_are_scored_as_by_scikit_learn(num_classes):
    generator = np.random.default_rng(num_classes)
    label_ids = generator.integers(0, num_classes, 200)
    scores = generator.dirichlet(np.ones(num_classes), 200)
    names = [str(i) for i in range(num_classes)]
    found = soft_metrics(label_ids, np.eye(num_classes)[label_ids], scores, names)
    assert found["soft_log_loss"] == pytest.approx(found["log_loss"])
    theirs = ((np.eye(num_classes)[label_ids] - scores) ** 2).sum(axis=1).mean()
    if num_classes == 2:
        theirs = sklearn_metrics.brier_score_loss(label_ids, scores[:, 1])
    assert found["brier"] == pytest.approx(theirs)


def test_the_least_soft_log_loss_is_the_entropy():
    found = soft_metrics(np.array([0, 1, 1]), SHARES, SHARES, ["clean", "toxic"])
    entropy = (stats.entropy([0.75, 0.25]) + stats.entropy([0.5, 0.5])) / 3
    assert found["soft_log_loss"] == pytest.approx(entropy)
    assert found["brier"] == 0


def test_no_texts_have_no_shares():
    found = soft_metrics(np.zeros(0, int), np.zeros((0, 2)), np.zeros((0, 2)), ["clean", "toxic"])
    assert all(found[name] is None for name in SOFT_METRIC_NAMES)


@pytest.mark.parametrize("shares", [SHARES[:2], SHARES * 2, SHARES * 0.5, SHARES - 0.1, np.full((3, 2), np.nan)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError):
        soft_metrics(np.array([0, 1, 1]), shares, OF_SHARES, ["clean", "toxic"])


# --- numbers -----------------------------------------------------------------------------------------------


def test_numbers_worked_by_hand():
    found = regression_metrics(np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.0, 3.0, 3.0, 4.0]))
    assert found["mean_squared_error"] == pytest.approx((0 + 1 + 0 + 4) / 4)
    assert found["root_mean_squared_error"] == pytest.approx(math.sqrt(5 / 4))
    assert found["mean_absolute_error"] == pytest.approx(3 / 4)
    # The targets' mean is 3, the sum of squares around it 4 + 1 + 0 + 9.
    assert found["r2"] == pytest.approx(1 - 5 / 14)
    # Predictions around 2.75: -1.75 0.25 0.25 1.25; products 3.5 - 0.25 + 0 + 3.75; squares 4.75.
    assert found["pearson"] == pytest.approx(7 / math.sqrt(14 * 4.75))
    # Ranks 1 2 3 4 and 1 2.5 2.5 4.
    assert found["spearman"] == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    assert list(found) == [*REGRESSION_METRIC_NAMES, "num_texts"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@given(st.lists(st.tuples(st.integers(-8, 8), st.integers(-8, 8)), min_size=2, max_size=40))
def test_numbers_are_scored_as_by_scikit_learn_and_scipy(pairs):
    targets, predictions = np.array(pairs).T / 4
    found = regression_metrics(targets, predictions)
    assert found["mean_squared_error"] == pytest.approx(sklearn_metrics.mean_squared_error(targets, predictions))
    assert found["mean_absolute_error"] == pytest.approx(sklearn_metrics.mean_absolute_error(targets, predictions))
    assert found["root_mean_squared_error"] == pytest.approx(math.sqrt(found["mean_squared_error"]))
    differ = len(set(targets)) > 1
    assert found["r2"] == (pytest.approx(sklearn_metrics.r2_score(targets, predictions)) if differ else None)
    if differ and len(set(predictions)) > 1:
        assert found["pearson"] == pytest.approx(stats.pearsonr(targets, predictions).statistic, abs=1e-12)
        assert found["spearman"] == pytest.approx(stats.spearmanr(targets, predictions).statistic, abs=1e-12)
    else:
        assert found["pearson"] is found["spearman"] is None


def test_constant_numbers_and_few():
    constant = regression_metrics(np.array([0.1] * 7), np.arange(7.0))
    assert constant["r2"] is constant["pearson"] is constant["spearman"] is None
    assert constant["mean_absolute_error"] == pytest.approx(np.mean(abs(np.arange(7) - 0.1)))
    guessed = regression_metrics(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0))
    assert guessed["r2"] == 0
    assert guessed["pearson"] is guessed["spearman"] is None
    one = regression_metrics(np.array([1.0]), np.array([2.0]))
    assert (one["mean_squared_error"], one["r2"], one["pearson"]) == (1, None, None)
    none = regression_metrics(np.zeros(0), np.zeros(0))
    assert none == {**dict.fromkeys(REGRESSION_METRIC_NAMES), "num_texts": 0}


def test_correlations_stay_within_1():
    numbers = np.array([1e-3, 2e-3, 3.3e-3]) + 1e5
    found = regression_metrics(numbers, numbers * 7)
    assert found["pearson"] <= 1
    assert found["spearman"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("targets", "predictions"),
    [([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]]), ([math.nan], [1.0]), ([1.0], [math.inf])],
)
def test_numbers_that_do_not_fit_are_refused(targets, predictions):
    with pytest.raises(ValueError):
        regression_metrics(np.array(targets), np.array(predictions))


# --- names -------------------------------------------------------------------------------------------------


def test_the_names_of_all_kinds_are_known_and_shown():
    assert set(ALL_METRIC_NAMES) == {name for names in METRIC_NAMES_OF.values() for name in names}
    assert len(set(ALL_METRIC_NAMES)) == len(ALL_METRIC_NAMES)
    assert [name for name in ALL_METRIC_NAMES if name in METRIC_NAMES] == list(METRIC_NAMES)
    assert set(LOWER_IS_BETTER) | set(NEEDS_DIFFERENT_LABELS) <= set(ALL_METRIC_NAMES)
    for name in LOWER_IS_BETTER:
        assert is_better(name, 0.1, 0.2)
        assert not is_better(name, 0.2, 0.1)
    for name in ("micro_f1", "r2", "spearman"):
        assert is_better(name, 0.2, 0.1)


@pytest.mark.parametrize(("kind", "names"), METRIC_NAMES_OF.items())
def test_every_kind_has_metrics_of_its_own(kind, names):
    for name in names:
        check_metric_name(name)
        check_metric_name(name, kind)
    for name in set(ALL_METRIC_NAMES) - set(names):
        with pytest.raises(UserError, match=f"--best-metric {name}: .* no such metric; expected one of {names[0]}"):
            check_metric_name(name, kind)
    assert default_metric(kind, 2) in names
    assert default_metric(kind, 3) in names


def test_near_misses_of_a_name_are_named():
    with pytest.raises(UserError, match="did you mean pearson"):
        check_metric_name("peerson")
    with pytest.raises(UserError, match="the known ones are mean_squared_error"):
        check_metric_name("zzz", "regression")


def test_a_metric_of_every_kind_is_chosen_by_default():
    assert default_metric("classes", 2) == default_metric("soft", 2) == default_metric("multi-label", 6) == "roc_auc"
    assert default_metric("classes", 5) == default_metric("soft", 5) == "accuracy"
    assert default_metric("regression", 1) == "mean_squared_error"


def test_texts_are_ranked_by_the_score_of_their_kind():
    scores = np.array([[0.1, 0.9], [0.7, 0.2]])
    assert positive_score(scores, ["1", "2"], "multi-label").tolist() == [0.9, 0.7]
    assert describe_score(["a", "b"], "multi-label") == "probability of any label"
    assert describe_score(["a"], "multi-label") == 'probability of "a"'
    assert positive_score(np.array([[3.5], [-1.0]]), ["stars"], "regression").tolist() == [3.5, -1.0]
    assert describe_score(["stars"], "regression") == 'predicted "stars"'
    assert positive_score(scores, ["a", "b"], "soft").tolist() == [0.9, 0.2]
    numbers = np.array([[0.5, 0.5, 0.0]])
    assert positive_score(numbers, ["1", "2", "3"], "soft").tolist() == [1.5]
    assert positive_score(numbers, ["1", "2", "3"], "multi-label").tolist() == [0.5]
