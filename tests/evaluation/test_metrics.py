import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from bertwright.errors import UserError
from bertwright.evaluation.metrics import (
    LOWER_IS_BETTER,
    METRIC_NAMES,
    check_metric_name,
    classification_metrics,
    decide,
    describe_score,
    is_better,
    lost_by,
    positive_score,
)

BINARY = ["clean", "toxic"]


def binary(of_positive, dtype=np.float64):
    """Probabilities (texts, 2) from those of the positive class."""
    of_positive = np.asarray(of_positive, dtype=dtype)
    return np.stack([1 - of_positive, of_positive], axis=1)


def one_hot(label_ids, num_classes):
    return np.eye(num_classes)[np.asarray(label_ids, dtype=int)]


@st.composite
def binary_cases(draw):
    """Label ids and scores in eighths, so that ties are common; both classes occur."""
    pairs = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=40))
    label_ids, eighths = np.array(pairs).T
    assume(0 < label_ids.sum() < len(label_ids))
    return label_ids, eighths / 8


# Worked by hand


def test_binary_case_worked_by_hand():
    # Scores, highest first:  0.9 +   0.8 -   0.5 +   0.5 -   0.3 +   0.1 -
    label_ids = np.array([1, 0, 1, 0, 1, 0])
    found = classification_metrics(label_ids, binary([0.9, 0.8, 0.5, 0.5, 0.3, 0.1]), BINARY)
    # Predicted positive at 0.5 and above: 0.9 +, 0.8 -, 0.5 +, 0.5 -.
    assert found["confusion"] == [[1, 2], [1, 2]]
    assert found["accuracy"] == 3 / 6
    assert found["precision"] == 2 / 4
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(4 / 7)  # 2 * 2 / (4 predicted + 3 true)
    assert found["macro_f1"] == pytest.approx((4 / 7 + 2 / 5) / 2)  # clean: 2 * 1 / (2 predicted + 3 true)
    # Pairs in order: 0.9 over all 3; 0.5 over 0.1 and half over 0.5; 0.3 over 0.1.
    assert found["roc_auc"] == pytest.approx((3 + 1.5 + 1) / 9)
    # Each group of equal scores adds a third of the precision down to it: 1/1, none, 2/4, 3/5, none.
    assert found["average_precision"] == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    of_true = [0.9, 0.2, 0.5, 0.5, 0.3, 0.9]
    assert found["log_loss"] == pytest.approx(-sum(map(math.log, of_true)) / 6)
    # (2 * 1 - 2 * 1) / sqrt(4 * 3 * 3 * 2)
    assert found["matthews"] == 0
    assert found["num_texts"] == 6
    assert found["per_class"] == {
        "clean": {"precision": 1 / 2, "recall": pytest.approx(1 / 3), "f1": 2 / 5, "support": 3},
        "toxic": {"precision": 2 / 4, "recall": pytest.approx(2 / 3), "f1": pytest.approx(4 / 7), "support": 3},
    }


def test_matthews_worked_by_hand():
    # 3 true positives, 4 true negatives, 1 false positive, 2 false negatives.
    label_ids = np.array([1] * 3 + [0] * 4 + [0] + [1] * 2)
    predicted = np.array([1] * 3 + [0] * 4 + [1] + [0] * 2)
    found = classification_metrics(label_ids, one_hot(predicted, 2), BINARY)
    assert found["matthews"] == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))


def test_three_classes_worked_by_hand():
    label_ids = np.array([0, 0, 1, 1, 2])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.7, 0.2], [0.3, 0.4, 0.3], [0.5, 0.3, 0.2]])
    found = classification_metrics(label_ids, probabilities, ["a", "b", "c"])
    assert found["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert found["accuracy"] == 3 / 5
    assert found["precision"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert found["recall"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["f1"] == found["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    # a: 0.6 over 0.1 0.3 0.5, 0.2 over 0.1; b: 0.7 over all, 0.4 over 0.3 0.3; c: 0.2 over 0.1, half over 0.2.
    assert found["roc_auc"] == pytest.approx((4 / 6 + 5 / 6 + 1.5 / 4) / 3)
    # a: 1/1 and 2/4; b: 1/1 and 2/3; c: 1/4 (0.3 0.3, then 0.2 tied with 0.2).
    assert found["average_precision"] == pytest.approx(((1 + 2 / 4) / 2 + (1 + 2 / 3) / 2 + 1 / 4) / 3)
    # (hits * total - sum true * predicted) / sqrt((total^2 - sum predicted^2) (total^2 - sum true^2))
    assert found["matthews"] == pytest.approx((3 * 5 - (2 * 2 + 2 * 3)) / math.sqrt((25 - 13) * (25 - 9)))


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_perfect(num_classes):
    label_ids = np.arange(20) % num_classes
    found = classification_metrics(label_ids, one_hot(label_ids, num_classes), [str(i) for i in range(num_classes)])
    for name in METRIC_NAMES:
        assert found[name] == (pytest.approx(0, abs=1e-12) if name == "log_loss" else 1), name


def test_all_wrong():
    label_ids = np.array([0, 1, 0, 1])
    found = classification_metrics(label_ids, one_hot(1 - label_ids, 2), BINARY)
    for name in ("accuracy", "precision", "recall", "f1", "macro_f1", "roc_auc"):
        assert found[name] == 0, name
    assert found["matthews"] == -1
    assert found["average_precision"] == 0.5  # the first positives come with all texts: 2 of 4
    assert found["log_loss"] == pytest.approx(-math.log(np.finfo(np.float64).eps))  # clipped, not infinite


def test_all_scores_tied():
    found = classification_metrics(np.array([0, 1, 0, 0]), binary([0.5] * 4), BINARY)
    assert found["roc_auc"] == 0.5
    assert found["average_precision"] == 0.25
    assert found["matthews"] == 0  # only one class predicted
    assert found["confusion"] == [[0, 3], [0, 1]]  # 0.5 is at the threshold


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_only_has_no_ranking(only):
    found = classification_metrics(np.full(3, only), binary([0.2, 0.6, 0.7]), BINARY)
    assert found["roc_auc"] is None
    assert found["average_precision"] is None
    assert found["matthews"] is None
    assert found["accuracy"] == pytest.approx([1 / 3, 2 / 3][only])
    assert found["precision"] == [0, 1][only]
    assert found["recall"] == pytest.approx([0, 2 / 3][only])
    assert found["log_loss"] > 0
    assert found["per_class"]["clean"]["support"] == [3, 0][only]


def test_nothing_predicted_positive():
    found = classification_metrics(np.array([0, 1]), binary([0.1, 0.2]), BINARY)
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)
    assert found["roc_auc"] == 1


def test_absent_class_counts_as_zero_but_is_not_ranked():
    label_ids = np.array([0, 1, 0, 1])
    found = classification_metrics(label_ids, one_hot(label_ids, 3), ["a", "b", "c"])
    assert found["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["roc_auc"] == 1
    assert found["average_precision"] == 1
    assert found["confusion"] == [[2, 0, 0], [0, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_no_texts(num_classes):
    labels = [str(i) for i in range(num_classes)]
    found = classification_metrics(np.array([]), np.empty((0, num_classes)), labels)
    assert all(found[name] is None for name in METRIC_NAMES)
    assert found["num_texts"] == 0
    assert found["confusion"] == [[0] * num_classes] * num_classes
    assert found["per_class"]["0"] == {"precision": None, "recall": None, "f1": None, "support": 0}


def test_one_label():
    found = classification_metrics(np.zeros(2, dtype=int), np.ones((2, 1)), ["only"])
    assert found["accuracy"] == found["f1"] == 1
    assert found["roc_auc"] is found["matthews"] is None


# Against scikit-learn


def expected_by_sklearn(label_ids, probabilities, threshold):
    num_classes = probabilities.shape[1]
    classes = list(range(num_classes))
    if num_classes == 2:
        predicted = (probabilities[:, 1] >= threshold).astype(int)
        chosen = {"average": "binary", "pos_label": 1}
        roc_auc = sklearn_metrics.roc_auc_score(label_ids, probabilities[:, 1])
        average_precision = sklearn_metrics.average_precision_score(label_ids, probabilities[:, 1])
    else:
        predicted = probabilities.argmax(axis=1)
        chosen = {"average": "macro", "labels": classes}
        roc_auc = sklearn_metrics.roc_auc_score(label_ids, probabilities, multi_class="ovr", labels=classes)
        average_precision = sklearn_metrics.average_precision_score(label_ids, probabilities, average="macro")
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        label_ids, predicted, zero_division=0, **chosen
    )
    return {
        "accuracy": sklearn_metrics.accuracy_score(label_ids, predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "macro_f1": sklearn_metrics.f1_score(label_ids, predicted, average="macro", labels=classes, zero_division=0),
        "roc_auc": roc_auc,
        "average_precision": average_precision,
        "log_loss": sklearn_metrics.log_loss(label_ids, probabilities, labels=classes),
        "matthews": sklearn_metrics.matthews_corrcoef(label_ids, predicted),
    }, predicted


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [1, 12])  # with one decimal most scores are tied
@pytest.mark.parametrize(("num_classes", "threshold"), [(2, 0.5), (2, 0.3), (3, 0.5), (6, 0.5)])
def test_equals_sklearn(num_classes, threshold, decimals, dtype):
    random = np.random.default_rng(num_classes)
    for num_texts in (20, 300):
        label_ids = np.append(np.arange(num_classes), random.integers(num_classes, size=num_texts))
        logits = random.normal(size=(len(label_ids), num_classes)) + 2 * one_hot(label_ids, num_classes)
        if decimals == 1:
            logits = logits.round()
        odds = np.exp(3 * logits)
        probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(dtype)
        expected, predicted = expected_by_sklearn(label_ids, probabilities, threshold)
        labels = [f"label {index}" for index in range(num_classes)]
        found = classification_metrics(label_ids, probabilities, labels, threshold)
        for name in METRIC_NAMES:
            assert found[name] == pytest.approx(expected[name], rel=1e-6 if name == "log_loss" else 1e-12), name
        classes = list(range(num_classes))
        counts = sklearn_metrics.confusion_matrix(label_ids, predicted, labels=classes)
        assert found["confusion"] == counts.tolist()
        each = sklearn_metrics.precision_recall_fscore_support(label_ids, predicted, labels=classes, zero_division=0)
        for name, values in zip(("precision", "recall", "f1", "support"), each, strict=True):
            assert [found["per_class"][label][name] for label in labels] == pytest.approx(values.tolist())


@given(binary_cases())
def test_ranking_equals_sklearn_with_ties(case):
    label_ids, scores = case
    found = classification_metrics(label_ids, binary(scores), BINARY)
    assert found["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(label_ids, scores))
    assert found["average_precision"] == pytest.approx(sklearn_metrics.average_precision_score(label_ids, scores))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_clips_like_sklearn(dtype):
    label_ids = np.array([0, 1, 1])
    probabilities = binary([1, 0, 1], dtype)
    expected = sklearn_metrics.log_loss(label_ids, probabilities, labels=[0, 1])
    assert classification_metrics(label_ids, probabilities, BINARY)["log_loss"] == pytest.approx(expected, rel=1e-6)


# Properties


@given(binary_cases())
def test_reversed_scores_give_the_rest_of_the_area(case):
    label_ids, scores = case
    area = classification_metrics(label_ids, binary(scores), BINARY)["roc_auc"]
    assert classification_metrics(label_ids, binary(1 - scores), BINARY)["roc_auc"] == pytest.approx(1 - area)


@given(binary_cases())
def test_ranking_ignores_order_preserving_changes(case):
    label_ids, scores = case
    before = classification_metrics(label_ids, binary(scores), BINARY)
    after = classification_metrics(label_ids, binary(scores**2 / 4), BINARY)
    assert before["roc_auc"] == after["roc_auc"]
    assert before["average_precision"] == after["average_precision"]


@given(binary_cases(), st.randoms(use_true_random=False))
def test_order_of_texts_does_not_matter(case, random):
    label_ids, scores = case
    order = list(range(len(scores)))
    random.shuffle(order)
    before = classification_metrics(label_ids, binary(scores), BINARY)
    after = classification_metrics(label_ids[order], binary(scores[order]), BINARY)
    assert after.pop("log_loss") == pytest.approx(before.pop("log_loss"))  # sums in another order
    assert after == before


@given(binary_cases(), st.integers(2, 4))
def test_repeating_all_texts_changes_only_the_counts(case, times):
    label_ids, scores = case
    before = classification_metrics(label_ids, binary(scores), BINARY)
    after = classification_metrics(np.tile(label_ids, times), binary(np.tile(scores, times)), BINARY)
    for name in METRIC_NAMES:
        assert after[name] == pytest.approx(before[name]), name
    assert after["num_texts"] == times * before["num_texts"]


@given(binary_cases())
def test_swapping_the_classes_keeps_what_treats_them_alike(case):
    label_ids, scores = case
    scores = scores * 0.9 + 0.01  # none at the threshold, where the classes are not alike
    assume(not (scores == 0.5).any())
    before = classification_metrics(label_ids, binary(scores), BINARY)
    after = classification_metrics(1 - label_ids, binary(1 - scores), BINARY[::-1])
    for name in ("accuracy", "macro_f1", "roc_auc", "log_loss", "matthews"):
        assert after[name] == pytest.approx(before[name], abs=1e-12), name


@given(st.integers(1, 4), st.data())
def test_values_are_plain_finite_and_in_range(num_classes, data):
    num_texts = data.draw(st.integers(0, 12))
    ids = st.lists(st.integers(0, num_classes - 1), min_size=num_texts, max_size=num_texts)
    label_ids, predicted = np.array(data.draw(ids), dtype=np.int32), data.draw(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classification_metrics(label_ids, one_hot(predicted, num_classes), list("abcd"[:num_classes]))
    assert list(found) == [*METRIC_NAMES, "num_texts", "per_class", "confusion"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name in METRIC_NAMES:
        value = found[name]
        assert value is None or (type(value) is float and -1 <= value <= (40 if name == "log_loss" else 1)), name


# Refusals


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_probabilities_that_are_not_finite(bad):
    with pytest.raises(ValueError, match="finite"):
        classification_metrics(np.array([0, 1]), np.array([[0.5, 0.5], [0.5, bad]]), BINARY)


@pytest.mark.parametrize(
    ("label_ids", "probabilities", "labels", "message"),
    [
        ([0, 1], [[0.5, 0.5]], BINARY, "Got"),
        ([0, 1], [0.5, 0.5], BINARY, "Got"),
        ([[0]], [[0.5, 0.5]], BINARY, "Got"),
        ([0], [[0.2, 0.3, 0.5]], BINARY, "Got"),
        ([0.0], [[0.5, 0.5]], BINARY, "integers"),
        ([2], [[0.5, 0.5]], BINARY, "0 to 1"),
        ([-1], [[0.5, 0.5]], BINARY, "0 to 1"),
        ([0], [[0.5, 0.5]], ["same", "same"], "each given once"),
        ([], np.empty((0, 0)), [], "each given once"),
        ([0], [[-1.5, 2.5]], BINARY, "sum to 1"),
        ([0], [[0.9, 0.9]], BINARY, "sum to 1"),
    ],
)
def test_refuses_what_does_not_fit(label_ids, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(label_ids), np.array(probabilities), labels)


def test_accepts_half_precision_and_unsigned_ids():
    found = classification_metrics(np.array([0, 1], dtype=np.uint8), binary([0.25, 0.75], np.float16), BINARY)
    assert found["accuracy"] == 1
    assert found["log_loss"] == pytest.approx(-math.log(0.75))


# Predictions, choices and scores


def test_threshold_itself_is_positive_in_the_dtype_of_the_probabilities():
    for dtype in (np.float32, np.float64):
        for threshold in (0.7, np.float64(0.7)):
            assert decide(binary([0.7, 0.6999], dtype), threshold).tolist() == [1, 0]


def test_threshold_is_for_two_classes_only():
    assert decide(np.array([[0.4, 0.3, 0.3], [0.2, 0.4, 0.4]]), 0.9).tolist() == [0, 1]


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_is_better(name):
    better, worse = (0.1, 0.2) if name in LOWER_IS_BETTER else (0.2, 0.1)
    assert is_better(name, better, worse)
    assert not is_better(name, worse, better)
    assert not is_better(name, better, better)
    assert is_better(name, worse, None)
    assert is_better(name, worse, math.nan)
    assert not is_better(name, None, worse)
    assert not is_better(name, math.nan, worse)
    assert not is_better(name, None, None)
    assert not is_better(name, math.nan, None)


def test_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"--best-metric roc_uac: unknown metric; did you mean roc_auc"):
        check_metric_name("roc_uac")
    with pytest.raises(UserError, match="the known ones are accuracy, precision"):
        is_better("zzz", 1, 0)


def test_positive_score_and_its_description():
    probabilities = np.array([[0.2, 0.3, 0.5], [1, 0, 0]])
    assert positive_score(probabilities, ["1", "2", "4.5"]).tolist() == pytest.approx([0.2 + 0.6 + 2.25, 1])
    assert describe_score(["1", "2", "4.5"]) == "expected label"
    for labels in (["bad", "fair", "good"], ["1", "2", "many"], ["1", "2", "nan"], ["1", "2", "inf"]):
        assert positive_score(probabilities, labels).tolist() == [0.5, 0]
        assert describe_score(labels) == f'probability of "{labels[-1]}"'


def test_two_numeric_labels_are_still_a_probability():
    assert positive_score(binary([0.25]), ["0", "10"]).tolist() == [0.25]
    assert describe_score(["0", "10"]) == 'probability of "10"'


def test_positive_score_refuses_other_shapes():
    with pytest.raises(ValueError, match="texts, 2"):
        positive_score(np.ones((3, 3)), BINARY)
    with pytest.raises(ValueError, match="texts, 2"):
        positive_score(np.ones(3), BINARY)


def test_works_where_torch_cannot_be_imported():
    program = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("no torch here")
sys.meta_path.insert(0, NoTorch())
import numpy as np
from bertwright.evaluation import extremes, metrics, tables
found = metrics.classification_metrics(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"])
assert found["roc_auc"] == 1
record = extremes.extremes_record(["x", "y"], np.array([0.1, 0.8]), [0, 1], None, 1)
extremes.show_extremes(record, metrics.describe_score(["a", "b"]))
tables.metrics_table({"test": found})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_metric_error_names_the_flag_and_the_nearest():
    with pytest.raises(UserError, match=r"^--best-metric mse: unknown metric; did you mean mean_squared_error\?$"):
        check_metric_name("mse")
    with pytest.raises(
        UserError, match=r"^--best-metric f1: multi-label labels have no such metric; expected one of acc"
    ):
        check_metric_name("f1", "multi-label")
    with pytest.raises(UserError, match=r"^--best-metric r2: classes have no such metric; expected one of accuracy"):
        check_metric_name("r2", "classes")


def test_what_is_lost_is_a_number_that_json_can_hold_also_of_an_error_of_zero():
    assert lost_by("accuracy", 0.9, -0.1) == pytest.approx(0.1)
    assert lost_by("log_loss", 0.5, 0.1) == pytest.approx(0.2)
    assert lost_by("mean_absolute_error", 0.0, 0.1) == pytest.approx(0.1)
    assert lost_by("mean_absolute_error", 0.0, 0.0) == 0.0
