"""The numbers behind the pictures, against scikit-learn and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from bertwright.reporting.curves import errors_by_length, rates, running_mean, thinned


@pytest.mark.parametrize("num", [30, 400, 20_000])
def test_areas_are_those_of_scikit_learn(num):
    generator = np.random.default_rng(num)
    positive = generator.random(num) < 0.2
    scores = np.round(generator.normal(size=num) + positive, 2 if num < 1000 else 8)
    roc, recall = rates(scores, positive)
    # Above 1,000 different scores they are put into bins.
    assert roc.area[0] == pytest.approx(roc_auc_score(positive, scores), abs=1e-9 if num < 1000 else 1e-4)
    assert recall.area[0] == pytest.approx(average_precision_score(positive, scores), abs=1e-9 if num < 1000 else 2e-3)
    for curve in (roc, recall):
        assert curve.area[1] < curve.area[0] < curve.area[2]
        assert (curve.low <= curve.high).all()
        assert len(curve.x) <= 165
    assert roc.x[0] == roc.y[0] == 0
    assert roc.x[-1] == roc.y[-1] == 1


def test_bands_and_intervals_have_the_width_of_chance():
    # The interval of ROC AUC against that of many fresh samples.
    generator = np.random.default_rng(0)

    def sample():
        positive = np.arange(400) < 200
        return generator.normal(size=400) + positive, positive

    areas = [roc_auc_score(positive, scores) for scores, positive in (sample() for _ in range(300))]
    widths = [np.diff(rates(*sample())[0].area[1:])[0] for _ in range(10)]
    assert np.mean(widths) == pytest.approx(np.diff(np.percentile(areas, (2.5, 97.5)))[0], rel=0.2)


def test_one_class_has_no_curve():
    assert rates(np.arange(5.0), np.ones(5, bool)) is None


def test_groups_of_length():
    lengths = np.arange(1, 81)
    groups = errors_by_length(lengths, (lengths > 40).astype(float))
    assert sum(group.count for group in groups) == 80
    assert [group.mean for group in groups] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert all(before.longest < after.shortest for before, after in itertools.pairwise(groups))
    assert len(errors_by_length(np.full(9, 4), np.zeros(9))) == 1


def test_lines_are_thinned_without_losing_their_ends():
    x = np.linspace(0, 1, 10_000)
    shown, _ = thinned(x, np.sin(20 * x))
    assert len(shown) <= 162
    assert (shown[0], shown[-1]) == (0, 1)
    assert running_mean(np.arange(5.0), 3).tolist() == [0.5, 1, 2, 3, 3.5]
