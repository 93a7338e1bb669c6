"""Tests and intervals in closed form, against worked examples and independent computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from bertwright.evaluation.significance import (
    auc_interval,
    degrees_of_variance,
    delong,
    delong_test,
    holm,
    interval_on_scale,
    mcnemar,
    paired_share_interval,
    quantile_of,
    texts_needed,
    two_sided_p,
    welch_degrees,
    wilson,
)

# The 43 complete cases of DeLong, DeLong and Clarke-Pearson (1988): albumin, total protein, K-G score, and whether the
# patient was helped, as SAS/STAT prints them in its documentation of PROC LOGISTIC, example 8.
OVARIAN = np.fromstring(
    """
    3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1 3.8 5.7 5 1
    3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0
    4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1
    4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1
    2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1 3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1
    """,
    sep=" ",
).reshape(43, 4)


def test_delong_equals_the_worked_example():
    """Areas, standard errors and tests as SAS prints them for these data."""
    helped = OVARIAN[:, 3] == 1
    areas = delong(helped, np.stack([OVARIAN[:, 0], OVARIAN[:, 1], 10 - OVARIAN[:, 2]]))
    assert areas.values == pytest.approx([0.7366, 0.6478, 0.7258], abs=5e-5)
    errors = np.sqrt(np.diagonal(areas.covariance))
    assert errors == pytest.approx([0.0927, 0.1000, 0.1028], abs=5e-5)
    bounds = [areas.values[0] + sign * quantile_of(0.05) * errors[0] for sign in (-1, 1)]
    assert bounds == pytest.approx([0.5549, 0.9182], abs=1e-4)
    contrasts = np.array([[1, 0, -1], [0, 1, -1]])
    expected = [(0.0108, 0.9102), (-0.0780, 0.4561)]
    for (first, other), weights, (difference, normal_p) in zip([(0, 2), (1, 2)], contrasts, expected, strict=True):
        found, p = delong_test(areas, first, other)
        variance = weights @ areas.covariance @ weights
        assert found == pytest.approx(difference, abs=5e-5)
        assert two_sided_p(found, variance) == pytest.approx(normal_p, abs=5e-5)
        assert normal_p < p < normal_p + 0.02  # Student's t
    found = contrasts @ areas.values
    chi_square = found @ np.linalg.solve(contrasts @ areas.covariance @ contrasts.T, found)
    assert chi_square == pytest.approx(2.5340, abs=5e-5)


@given(st.integers(0, 2**32), st.integers(0, 2))
def test_delong_equals_the_sums_over_all_pairs(seed, decimals):
    """The definition, eqs. 2 to 5 of the paper, ties included."""
    random = np.random.default_rng(seed)
    is_positive = np.arange(30) < random.integers(2, 29)
    scores = random.normal(size=(3, 30)).round(decimals) + is_positive
    positives, negatives = scores[:, is_positive], scores[:, ~is_positive]
    pairs = (positives[:, :, None] > negatives[:, None]) + 0.5 * (positives[:, :, None] == negatives[:, None])
    of_positives, of_negatives = pairs.mean(axis=2), pairs.mean(axis=1)
    expected = np.cov(of_positives) / is_positive.sum() + np.cov(of_negatives) / (~is_positive).sum()
    found = delong(is_positive, scores)
    assert np.allclose(found.values, pairs.mean(axis=(1, 2)))
    assert np.allclose(found.covariance, expected)


def test_delong_refuses_what_it_has_no_answer_for():
    with pytest.raises(ValueError, match="at least two"):
        delong(np.array([True, False, False]), np.ones((1, 3)))
    with pytest.raises(ValueError, match="scores must be"):
        delong(np.array([True, False]), np.ones(2))


def test_models_that_order_all_alike_are_not_told_apart():
    is_positive, scores = np.arange(40) < 20, np.random.default_rng(0).normal(size=40)
    areas = delong(is_positive, np.stack([scores, 3 * scores + 1]))
    assert delong_test(areas) == (0.0, 1.0)


def test_an_area_of_one_has_an_interval_that_shrinks_with_the_texts():
    lows = [auc_interval(1.0, 0.0, n, n)[0] for n in (10, 100, 1000)]
    assert lows == sorted(lows)
    assert 0.6 < lows[0] < lows[2] < 1
    assert auc_interval(0.0, 0.0, 10, 10) == (0.0, pytest.approx(1 - lows[0]))
    low, high = auc_interval(0.97, 0.01**2, 50, 450)
    assert 0 < low < 0.97 < high < 1
    assert 0.97 - low > high - 0.97  # towards the side where there is room
    wider = auc_interval(0.97, 0.01**2, 50, 450, degrees_of_freedom=10)
    assert wider[0] < low
    assert wider[1] > high


def test_few_texts_far_from_the_rest_leave_few_degrees_of_freedom():
    random = np.random.default_rng(0)
    normal, heavy = random.normal(size=400), random.standard_t(3, size=400)
    degrees = degrees_of_variance(np.stack([normal, heavy, np.ones(400)]))
    assert 250 < degrees[0] <= 399
    assert degrees[1] < 150
    assert degrees[2] == 399
    assert stats.kurtosis(heavy, bias=False) == pytest.approx(2 * 400 / degrees[1] - 2)


def test_wilson_equals_published_figures():
    """Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_mcnemar_equals_a_worked_example():
    """Fagerland, Lydersen and Laake (2013), airway responsiveness: 1 and 7 discordant pairs, mid-p 0.0391."""
    assert mcnemar(1, 7) == mcnemar(7, 1) == pytest.approx(10 / 256)
    assert mcnemar(0, 0) == 1
    assert mcnemar(4, 4) == pytest.approx(1)
    assert mcnemar(0, 5) == pytest.approx(2 * 0.5**5 - 0.5**5)


@pytest.mark.parametrize(
    ("only_first", "only_other", "num_texts"), [(10, 5, 100), (0, 7, 60), (3, 0, 500), (40, 90, 300)]
)
def test_the_bounds_of_a_paired_difference_are_where_the_score_test_rejects(only_first, only_other, num_texts):
    """The variance under each difference from its likelihood, maximised numerically."""

    def score(at):
        def minus_log_likelihood(share):  # of being right alone, of the other
            others = num_texts - only_first - only_other
            terms = ((only_first, share + at), (only_other, share), (others, 1 - 2 * share - at))
            return -sum(count * math.log(max(p, 1e-300)) for count, p in terms if count)

        low, high = max(0.0, -at), (1 - at) / 2
        share = optimize.minimize_scalar(minus_log_likelihood, (low, high), (low, high), method="bounded").x
        share = min([share, low, high], key=minus_log_likelihood)
        return ((only_first - only_other) / num_texts - at) / math.sqrt((2 * share + at - at**2) / num_texts)

    low, high = paired_share_interval(only_first, only_other, num_texts)
    assert low < (only_first - only_other) / num_texts < high
    assert score(low) == pytest.approx(1.96, abs=0.01)
    assert score(high) == pytest.approx(-1.96, abs=0.01)
    turned = paired_share_interval(only_other, only_first, num_texts)
    assert turned == pytest.approx((-high, -low), abs=1e-9)


def test_a_paired_difference_without_any_disagreement_has_an_interval():
    low, high = paired_share_interval(0, 0, 100)
    assert -0.05 < low < 0 < high < 0.05
    assert paired_share_interval(3, 0, 3)[1] == 1.0


def test_holm_equals_a_worked_example():
    """Four tests: 0.01, 0.04, 0.03, 0.005 (Holm 1979: multiply by 4, 3, 2, 1 in rising order, never falling)."""
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == [
        pytest.approx(x) if x else None for x in (0.03, 0.06, None, 0.06, 0.02)
    ]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_are_not_smaller_and_keep_their_order(values):
    adjusted = holm(values)
    assert all(new >= old for new, old in zip(adjusted, values, strict=True))
    assert all(a <= b for a, b in zip(*(sorted(zip(values, adjusted, strict=True))[i:] for i in (0, 1)), strict=False))


def test_quantiles_and_tests_are_those_of_scipy():
    assert quantile_of(0.05) == pytest.approx(stats.norm.isf(0.025))
    assert quantile_of(0.01, 3.5) == pytest.approx(stats.t.isf(0.005, 3.5))
    assert two_sided_p(0.3, 0.04) == pytest.approx(2 * stats.norm.sf(1.5))
    assert two_sided_p(-0.3, 0.04, 4) == pytest.approx(2 * stats.t.sf(1.5, 4))
    assert two_sided_p(0.0, 0.0) == 1
    assert two_sided_p(0.1, 0.0) == 1  # nothing is known
    assert two_sided_p(1e-17, 1e-30) == 1


@pytest.mark.parametrize(
    ("scale", "value", "bounds"),
    [
        ("share", 0.98, (0, 1)),
        ("positive", 0.02, (0, 9)),
        ("correlation", -0.98, (-1, 1)),
        ("below one", 0.98, (-9, 1)),
    ],
)
def test_intervals_stay_on_their_scale(scale, value, bounds):
    low, high = interval_on_scale(value, 0.02**2, scale)
    assert bounds[0] < low < value < high < bounds[1]
    narrow = interval_on_scale(value, 1e-6**2, scale)
    assert narrow == pytest.approx((value - 1.96e-6, value + 1.96e-6), abs=1e-9)  # the delta method, where it is exact
    far = interval_on_scale(value, 1e6, scale)
    assert far[0] <= value <= far[1]
    assert all(map(math.isfinite, far))


def test_as_many_texts_as_are_needed_would_tell_with_the_power_asked_for():
    difference, variance, num_texts = 0.01, 0.008**2, 500
    needed = texts_needed(difference, variance, num_texts)
    random = np.random.default_rng(0)
    seen = random.normal(difference, math.sqrt(variance * num_texts / needed), 200_000)
    told = np.abs(seen) / math.sqrt(variance * num_texts / needed) > stats.norm.isf(0.025)
    assert told.mean() == pytest.approx(0.8, abs=0.01)
    assert texts_needed(0.0, variance, num_texts) is None
    assert texts_needed(difference, variance, num_texts, seed_variance=difference**2) is None
    assert texts_needed(difference, variance, num_texts, seed_variance=(difference / 5) ** 2) > needed
    assert texts_needed(1e-12, variance, num_texts) is None


def test_degrees_of_freedom_are_welchs():
    """Of 3 and 9 degrees: variances of 2 and 1 give (2 + 1)^2 / (4 / 3 + 1 / 9), of 2 and 0 the 3 of the one."""
    one, none = np.ones((1, 1)), np.zeros((1, 1))
    assert welch_degrees(((2 * one, 3.0), (one, 9.0)), np.ones(1)) == pytest.approx(9 / (4 / 3 + 1 / 9))
    assert welch_degrees(((2 * one, 3.0), (none, 9.0)), np.ones(1)) == pytest.approx(3)
    assert math.isinf(welch_degrees((), np.ones(1)))


@pytest.mark.parametrize("num_positive", [3, 5, 10])
def test_few_positive_texts_do_not_reject_a_true_null_too_often(num_positive):
    random = np.random.default_rng(3)
    is_positive = np.arange(300) < num_positive
    rejected = 0
    for _ in range(600):
        scores = 0.7 * random.normal(size=300) + 0.7 * random.normal(size=(2, 300)) + is_positive
        rejected += delong_test(delong(is_positive, scores))[1] <= 0.05
    assert rejected / 600 < 0.065  # of the normal quantile 0.07 to 0.14


def test_scores_that_are_all_alike_have_no_interval():
    areas = delong(np.arange(20) < 5, np.full((1, 20), 0.3))
    assert areas.values[0] == 0.5
    assert auc_interval(0.5, float(areas.covariance[0, 0]), 5, 15) is None
