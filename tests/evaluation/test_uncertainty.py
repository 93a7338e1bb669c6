"""Intervals of metrics, and seeds as a random effect."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.evaluation.test_resampling import KINDS, judged_texts

from bertwright.evaluation.few_texts import notes_of_few
from bertwright.evaluation.metrics import METRIC_NAMES_OF
from bertwright.evaluation.resampling import Judged, bootstrap_metrics
from bertwright.evaluation.significance import delong, delong_test, quantile_of, wilson
from bertwright.evaluation.uncertainty import (
    BOOTSTRAP,
    MEAN,
    Measured,
    contrast,
    difference,
    mean_interval,
    measure,
    num_samples_for,
)


def measured_of(values, covariance):
    return Measured("f1", np.array(values), np.array(covariance), BOOTSTRAP, np.full(len(values), math.inf))


@pytest.mark.parametrize(("kind", "num_labels"), KINDS)
def test_every_metric_of_every_kind_has_an_interval_around_it(kind, num_labels):
    judged = judged_texts(kind, num_labels, num_texts=400)
    found = measure(judged, num_samples=300)
    assert list(found) == list(METRIC_NAMES_OF[kind])
    for name, values in found.items():
        low, high = mean_interval(judged, values, [0])
        assert low < values.values[0] < high, name
        assert high - low < 0.5, name
        test = difference(judged, values, [0], [1])
        assert test.low < test.contrast.value < test.high
        assert (test.p < 0.05) == (test.low > 0 or test.high < 0) or name == "accuracy"


def test_an_auc_and_its_differences_are_delongs():
    judged = judged_texts("classes", num_texts=300)
    found = measure(judged, ["roc_auc"])["roc_auc"]
    areas = delong(judged.label_ids == 1, judged.scores[:, :, 1])
    test = difference(judged, found, [0], [1])
    assert (test.contrast.value, test.p) == pytest.approx(delong_test(areas))
    assert test.test == "DeLong"


def test_of_two_classes_what_counts_texts_is_wilsons():
    judged = judged_texts("classes", num_texts=150)
    found = measure(judged, num_samples=200)
    true, decided = judged.label_ids == 1, judged.decided[0] == 1
    hits = int((true & decided).sum())
    assert mean_interval(judged, found["recall"], [0]) == wilson(hits, int(true.sum()))
    assert mean_interval(judged, found["precision"], [0]) == wilson(hits, int(decided.sum()))
    low, _ = wilson(hits, int((true | decided).sum()))
    assert mean_interval(judged, found["f1"], [0])[0] == pytest.approx(2 * low / (1 + low))


def test_the_closed_form_of_an_rmse_is_what_the_bootstrap_finds():
    judged = judged_texts("regression", 1, num_texts=400)
    found = measure(judged, ["root_mean_squared_error"])["root_mean_squared_error"]
    drawn = bootstrap_metrics(judged, ["root_mean_squared_error"], 4000)["root_mean_squared_error"]
    assert found.method == MEAN
    assert found.covariance == pytest.approx(np.cov(drawn.T), rel=0.15, abs=2e-4)


def test_without_repeated_seeds_the_variance_is_that_of_the_texts():
    measured = measured_of([0.8, 0.7], [[4e-4, 1e-4], [1e-4, 2e-4]])
    found = contrast(measured, [[0], [1]], [1, -1])
    assert found.value == pytest.approx(0.1)
    assert found.text_variance == pytest.approx(4e-4)
    assert found.seed_variance == 0
    assert math.isinf(found.degrees_of_freedom)


def test_the_variance_over_seeds_is_added_without_counting_the_texts_twice():
    """Two runs: common variance of texts 1e-4, own 2e-4 each; between them (0.1)^2 / 2 = 5e-3."""
    measured = measured_of([0.7, 0.8], [[3e-4, 1e-4], [1e-4, 3e-4]])
    found = contrast(measured, [[0, 1]], [1])
    assert found.value == pytest.approx(0.75)
    assert found.text_variance == pytest.approx(2e-4)
    assert found.variance == pytest.approx(1e-4 + 5e-3 / 2)
    assert 1 < found.degrees_of_freedom < 1.2  # two runs, and hardly anything but seeds


def test_runs_that_differ_less_than_texts_explain_take_that_off():
    """The estimate is without bias: what is too little here is too much elsewhere."""
    measured = measured_of([0.75, 0.751], [[3e-4, 1e-4], [1e-4, 3e-4]])
    found = contrast(measured, [[0, 1]], [1])
    assert found.seed_variance < 0
    assert found.variance == pytest.approx(1e-4 + 0.001**2 / 2 / 2)
    same = contrast(measured_of([0.75, 0.75], [[3e-4, 3e-4], [3e-4, 3e-4]]), [[0, 1]], [1])
    assert same.variance == pytest.approx(3e-4)
    assert math.isinf(same.degrees_of_freedom)


def test_one_run_borrows_the_variance_of_seeds_from_the_other_setting():
    covariance = np.full((3, 3), 1e-4) + np.diag([1e-4] * 3)
    measured = measured_of([0.7, 0.8, 0.9], covariance)
    found = contrast(measured, [[0, 1], [2]], [1, -1])
    between, own = 0.005, 1e-4
    assert found.seed_variance == pytest.approx((between - own) * (1 / 2 + 1))
    assert found.degrees_of_freedom < 1.1
    both = contrast(measured_of([0.7, 0.8, 0.9, 0.85], np.full((4, 4), 1e-4)), [[0, 1], [2, 3]], [1, -1])
    assert both.seed_variance == pytest.approx(0.005 / 2 + 0.00125 / 2)


def test_more_texts_and_models_get_fewer_resamples():
    def of(num_texts, num_models):
        return Judged(
            "classes", ("a", "b"), np.broadcast_to(0.5, (num_models, num_texts, 2)), None, np.zeros(num_texts, int)
        )

    assert num_samples_for(of(500, 2)) == 2000
    assert num_samples_for(of(500_000, 4)) == 1000
    assert num_samples_for(of(500_000, 100)) == 400


def test_what_has_no_answer_has_no_interval():
    judged = judged_texts("classes", num_texts=50)
    one_class = Judged("classes", judged.labels, judged.scores, judged.decided, np.zeros(50, int))
    assert not {"roc_auc", "average_precision", "matthews"} & set(measure(one_class, num_samples=100))
    perfect = np.zeros((1, 50, 5))
    label_ids = np.arange(50) % 5
    perfect[0, np.arange(50), label_ids] = 1
    judged = Judged("classes", tuple("abcde"), perfect, label_ids[None], label_ids)
    found = measure(judged, num_samples=100)
    assert mean_interval(judged, found["f1"], [0]) is None
    assert mean_interval(judged, found["accuracy"], [0]) == wilson(50, 50)


@pytest.mark.parametrize("num_positive", [1, 2, 398, 399])
def test_a_ranking_with_too_few_of_a_kind_has_no_interval_and_no_test(num_positive):
    judged = judged_texts("classes", num_texts=400)
    label_ids = (np.arange(400) < num_positive).astype(int)
    rare = Judged("classes", judged.labels, judged.scores, judged.decided, label_ids)
    assert not {"roc_auc", "average_precision"} & set(measure(rare, num_samples=100))
    kind = "positive" if num_positive < 3 else "negative"
    assert f"has {min(num_positive, 400 - num_positive)} {kind} text" in notes_of_few(rare, ["roc_auc"])[0]


@pytest.mark.parametrize("kind", ["classes", "multi-label"])
def test_one_rare_label_of_several_takes_the_interval_of_the_mean(kind):
    judged = judged_texts(kind, 3, num_texts=400)
    if kind == "classes":
        judged.label_ids[judged.label_ids == 2] = 0
        judged.label_ids[0] = 2
    else:
        judged.has_label[:, 2] = np.arange(400) == 0
    found = measure(judged, num_samples=100)
    assert not {"roc_auc", "average_precision"} & set(found)
    assert "accuracy" in found
    assert f'"{judged.labels[2]}" has 1 positive text;' in notes_of_few(judged, ["roc_auc"])[0]


def test_few_positives_make_few_degrees_of_freedom_in_a_mean_over_labels_too():
    judged = judged_texts("multi-label", 3, num_texts=400)
    assert notes_of_few(judged, ["roc_auc"]) == []
    many = measure(judged, ["roc_auc"], num_samples=200)["roc_auc"]
    judged = judged_texts("multi-label", 3, num_texts=400)
    judged.has_label[:, :] = (np.arange(400) < 4)[:, None]
    few = measure(judged, ["roc_auc"], num_samples=200)["roc_auc"]
    assert few.degrees_of_freedom[0] < 20 < many.degrees_of_freedom[0]
    assert "too narrow" in notes_of_few(judged, ["roc_auc"])[0]


@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_a_share_of_one_text_has_no_interval_and_no_test(name):
    label_ids = np.zeros(200, int)
    decided = np.zeros((2, 200), int)
    if name != "recall":
        decided[0, 5] = decided[1, 5:105] = 1
    if name != "precision":
        label_ids[5] = 1
    judged = Judged("classes", ("no", "yes"), np.full((2, 200, 2), 0.5), decided, label_ids)
    found = measure(judged, [name], num_samples=100)
    if name in found:
        assert mean_interval(judged, found[name], [0]) is None
        assert difference(judged, found[name], [0], [1]) is None
    assert name in " ".join(notes_of_few(judged, [name]))
    if name == "precision":
        assert mean_interval(judged, found[name], [1]) is not None


def test_a_share_of_few_texts_is_tested_with_their_degrees_of_freedom():
    judged = judged_texts("classes", num_texts=300)
    judged.decided[0] = np.arange(300) < 5
    found = measure(judged, ["precision"], num_samples=300)["precision"]
    test = difference(judged, found, [0], [1])
    assert found.degrees_of_freedom[1] > 50
    assert test.high - test.low == pytest.approx(2 * quantile_of(0.05, 4) * math.sqrt(test.contrast.variance))


def test_classes_that_are_never_decided_are_said():
    judged = judged_texts("classes", 4, num_texts=100)
    assert notes_of_few(judged, ["macro_f1", "precision"]) == []
    judged = replace(judged, decided=np.where(judged.decided == 3, 0, judged.decided))
    assert notes_of_few(judged, ["macro_f1", "precision"])[0].startswith("Intervals of precision are too narrow")


def test_a_difference_that_does_not_vary_has_no_interval():
    judged = judged_texts("regression", 1, num_texts=50)
    same = Judged("regression", judged.labels, np.stack([judged.scores[0]] * 2), targets=judged.targets)
    test = difference(same, measure(same, ["r2"], num_samples=100)["r2"], [0], [1])
    assert (test.low, test.high, test.p) == (None, None, 1.0)
