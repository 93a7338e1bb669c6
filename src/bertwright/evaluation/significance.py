"""Tests and intervals in closed form: areas under the ROC curve, shares, paired shares, many tests at once.

Plain NumPy and SciPy; torch is never imported here. What coverage and rejection rates these have at 500 and 2,000 texts
is measured by ``benchmarks/simulate_intervals.py`` and stands in docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Interval = tuple[float, float]
Component = tuple[np.ndarray, float]
"""A covariance (models, models), and how many degrees of freedom it was estimated with."""
Scale = Literal["share", "positive", "correlation", "below one", "plain"]

_NOTHING = 1e-12  # what rounding makes of 0
POWER = 0.8
"""With this chance a difference is to be told, where it is said how many texts would tell it."""


@dataclass(frozen=True, eq=False)
class Areas:
    """Areas under ROC curves.

    Attributes:
        values: (models,).
        covariance: (models, models).
        degrees_of_freedom: of each variance, (models,): how sure the variance itself is.
        components: the two that ``covariance`` is the sum of, over the texts of each kind, with their degrees of
            freedom, which are one less than the texts of that kind.
    """

    values: np.ndarray
    covariance: np.ndarray
    degrees_of_freedom: np.ndarray
    components: tuple[Component, ...] = ()


def delong(is_positive: np.ndarray, scores: np.ndarray) -> Areas:
    """The areas under the ROC curves of several models on the same texts, and their covariance.

    DeLong, DeLong and Clarke-Pearson (1988), eqs. 2 to 5: a positive text's structural component is the share of
    negative texts below it, half a text for a tie. They are counted in the sorted scores, O(n log n) for each model;
    the difference of the two midranks of Sun and Xu (2014), eqs. 9 and 10, is the same number. The covariance of areas
    that are exactly 0 or 1 is 0.

    Args:
        is_positive: which texts have the label, booleans ``(texts,)``.
        scores: finite numbers ``(models, texts)``, higher for texts that rather have the label.

    Raises:
        ValueError: arrays that do not fit together, fewer than two positive or two negative texts.
    """
    is_positive, scores = np.asarray(is_positive, bool), np.asarray(scores, np.float64)
    if scores.ndim != 2 or is_positive.shape != scores.shape[1:]:
        raise ValueError(f"scores must be (models, texts) and is_positive (texts,). Got {scores.shape}.")
    num_positive = int(is_positive.sum())
    num_negative = len(is_positive) - num_positive
    if min(num_positive, num_negative) < 2:
        raise ValueError(f"expected at least two texts of each kind. Got {num_positive} and {num_negative}.")
    of_positives = np.empty((len(scores), num_positive))  # V10 of the paper, one for each positive text
    of_negatives = np.empty((len(scores), num_negative))  # V01
    for model, values in enumerate(scores):
        below = _others_below(is_positive, values)
        of_positives[model] = below[is_positive] / num_negative
        of_negatives[model] = 1 - below[~is_positive] / num_positive
    components: tuple[Component, ...] = (
        (covariance_of(of_positives) / num_positive, num_positive - 1.0),
        (covariance_of(of_negatives) / num_negative, num_negative - 1.0),
    )
    covariance = components[0][0] + components[1][0]
    parts = ((of_positives, num_positive), (of_negatives, num_negative))
    # The variance of a sum of two estimated variances (Satterthwaite 1946).
    squares = sum(2 * (parts_of.var(axis=1) / count) ** 2 / degrees_of_variance(parts_of) for parts_of, count in parts)
    variances = np.diagonal(covariance)
    degrees = np.divide(2 * variances**2, squares, out=np.full(len(scores), np.inf), where=squares > 0)
    degrees = np.minimum(np.maximum(degrees, 3.0), welch_degrees_of_each(components, len(scores)))
    return Areas(of_positives.mean(axis=1), covariance, degrees, components)


def welch_degrees(components: Sequence[Component], weights: np.ndarray) -> float:
    """The degrees of freedom of the variance of ``weights @ values``, values with these ``components`` of covariance.

    Welch (1938) and Satterthwaite (1946): (sum of v)^2 / (sum of v^2 / degrees), v a component's variance. Not less
    than the fewest degrees of any; infinite without components or variance.
    """
    variances = [(max(float(weights @ covariance @ weights), 0.0), degrees) for covariance, degrees in components]
    largest = max((variance for variance, _ in variances), default=0.0)
    if largest < _NOTHING**2:
        return math.inf
    shares = [(variance / largest, degrees) for variance, degrees in variances]
    return sum(share for share, _ in shares) ** 2 / sum(share**2 / degrees for share, degrees in shares)


def welch_degrees_of_each(components: Sequence[Component], num_values: int) -> np.ndarray:
    """``welch_degrees`` of each value for itself, (values,)."""
    found = np.full(num_values, np.inf)
    if not components:
        return found
    variances = np.maximum([np.diagonal(covariance) for covariance, _ in components], 0.0)  # (components, values)
    degrees = np.array([degrees for _, degrees in components])[:, None]
    largest = variances.max(axis=0)
    varied = largest >= _NOTHING**2
    shares = variances[:, varied] / largest[varied]
    found[varied] = shares.sum(axis=0) ** 2 / (shares**2 / degrees).sum(axis=0)
    return found


def covariance_of(values: np.ndarray) -> np.ndarray:
    """Of ``values`` (variables, observations) the covariance (variables, variables), with divisor n - 1."""
    centred = values - values.mean(axis=1, keepdims=True)
    found: np.ndarray = centred @ centred.T / (values.shape[1] - 1)
    return found


def _others_below(is_positive: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each text how many texts of the other kind have smaller ``values``, and half of those with equal ones."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    positive = is_positive[order]
    num_positives = np.cumsum(positive)  # up to each text in that order
    starts = ordered[1:] != ordered[:-1]
    if starts.all():
        places = np.arange(len(order))
        found = np.where(positive, places + 1 - num_positives, num_positives).astype(np.float64)
    else:
        group = np.concatenate([[0], np.cumsum(starts)])
        firsts = np.flatnonzero(np.concatenate([[True], starts]))
        lasts = np.append(firsts[1:], len(order)) - 1
        positives_to, texts_to = num_positives[lasts], lasts + 1  # down to the end of each group
        others_to = np.stack([positives_to, texts_to - positives_to])  # of a negative text, of a positive one
        twice = others_to + np.concatenate([[[0], [0]], others_to[:, :-1]], axis=1)
        found = np.where(positive, twice[1][group], twice[0][group]) / 2
    below = np.empty(len(values))
    below[order] = found
    return below


def degrees_of_variance(parts: np.ndarray) -> np.ndarray:
    """The degrees of freedom of the variances of ``parts`` (models, parts), (models,): at least 3.

    A variance s^2 of n parts varies by s^4 (kurtosis - 1) / n about its expectation, and has as many degrees of freedom
    as the variance of normal parts that varies as much: 2 n / (kurtosis - 1). Parts with a long tail (a few texts of
    large loss, or ranked far too low) make few.
    """
    count = parts.shape[1]
    if count < 4:
        return np.full(len(parts), 3.0)
    varied = parts.var(axis=1) > 0
    excess = np.zeros(len(parts))
    if varied.any():
        excess[varied] = _excess_kurtosis(parts[varied])
    return np.clip(2 * count / np.maximum(excess + 2, 0.5), 3.0, max(count - 1.0, 3.0))


def _excess_kurtosis(parts: np.ndarray) -> np.ndarray:
    """(models,): the fourth moment over the squared variance, less 3 (Joanes and Gill 1998, G2)."""
    count = parts.shape[1]
    squares = (parts - parts.mean(axis=1, keepdims=True)) ** 2
    excess = (squares**2).mean(axis=1) / squares.mean(axis=1) ** 2 - 3
    return (count - 1) / ((count - 2) * (count - 3)) * ((count + 1) * excess + 6)


def delong_test(areas: Areas, first: int = 0, other: int = 1) -> tuple[float, float]:
    """The difference of the areas of two models and its two-sided p (DeLong et al. 1988, eq. 7), by Student's t.

    The paper's normal quantile rejects a true null at 5 % in 14 % of cases with 3 positive texts of 500, and in 7 %
    with 10; with ``welch_degrees`` never in more than 5 % from 3 texts of the rarer kind on (docs/statistics.md).
    Two models that order all texts alike have p = 1.
    """
    weights = np.zeros(len(areas.values))
    weights[first], weights[other] = 1.0, -1.0
    difference, variance = float(weights @ areas.values), float(weights @ areas.covariance @ weights)
    return difference, two_sided_p(difference, variance, welch_degrees(areas.components, weights))


def auc_interval(
    area: float,
    variance: float,
    num_positive: int,
    num_negative: int,
    alpha: float = 0.05,
    degrees_of_freedom: float = math.inf,
) -> Interval | None:
    """The interval of one area under the ROC curve: symmetric in ln(A / (1 - A)) (Pepe 2003, p. 107), by Student's t.

    With the normal quantile it covers 92 % at 500 texts of which a tenth are positive, an area of 0.96; with the
    degrees of freedom of ``Areas`` 94 %. Of scores that tell nothing apart, all alike, nothing is known: None.

    Areas of 0 and 1, whose estimated variance is 0, get the bound at which the variance of Hanley and McNeil (1982), in
    the form of Newcombe (2006), method 5, just reaches them.
    """
    if 0 < area < 1 and variance > 0:
        return interval_on_scale(area, variance, "share", alpha, degrees_of_freedom)
    if 0 < area < 1:
        return None
    from scipy.optimize import brentq

    quantile, balanced = _normal_quantile(alpha), (num_positive + num_negative) / 2 - 1

    def beyond(at: float) -> float:
        pairs = 1 + balanced * ((1 - at) / (2 - at) + at / (1 + at))
        return (1 - at) - quantile * math.sqrt(at * (1 - at) * pairs / (num_positive * num_negative))

    bound = float(brentq(beyond, 1e-9, 1 - 1e-12))
    return (bound, 1.0) if area >= 1 else (0.0, 1 - bound)


def wilson(hits: float, trials: float, alpha: float = 0.05) -> Interval:
    """The score interval of a share (Wilson 1927; recommended by Brown, Cai and DasGupta 2001); (0, 1) of no trials."""
    if trials <= 0:
        return 0.0, 1.0
    quantile = _normal_quantile(alpha)
    share, square = hits / trials, quantile**2 / trials
    centre = (share + square / 2) / (1 + square)
    half = quantile / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if hits == 0 else low), (1.0 if hits == trials else high)


def mcnemar(only_first: int, only_other: int) -> float:
    """The two-sided mid-p of McNemar's test, from the texts that one of two models alone gets right.

    The binomial probability of the smaller count or fewer, half of that of the count itself, doubled (Fagerland,
    Lydersen and Laake 2013, eq. 4). It is 1 where both counts are the same.
    """
    from scipy.special import bdtr

    total, fewer = only_first + only_other, min(only_first, only_other)
    if not total:
        return 1.0
    below = float(bdtr(fewer - 1, total, 0.5)) if fewer else 0.0
    return min(1.0, below + float(bdtr(fewer, total, 0.5)))  # 2 F(x) - f(x)


def paired_share_interval(only_first: int, only_other: int, num_texts: int, alpha: float = 0.05) -> Interval:
    """The score interval of the difference of two shares of the same texts (Tango 1998, eqs. 9 and 10).

    The differences that a score test at ``alpha`` does not reject, given that one model alone is right for
    ``only_first`` texts and the other alone for ``only_other``.

    Raises:
        ValueError: no texts.
    """
    if num_texts < 1:
        raise ValueError("expected at least one text")
    from scipy.optimize import brentq

    quantile = _normal_quantile(alpha)
    found = (only_first - only_other) / num_texts

    def score(at: float) -> float:
        linear = (2 * num_texts - only_first + only_other) * at - only_first - only_other
        share = (math.sqrt(max(linear**2 + 8 * num_texts * only_other * at * (1 - at), 0)) - linear) / (4 * num_texts)
        variance = num_texts * (2 * share + at * (1 - at))
        return num_texts * (found - at) / math.sqrt(max(variance, 1e-300))

    edge = 1 - 1e-12
    low = -1.0 if score(-edge) < quantile else float(brentq(lambda at: score(at) - quantile, -edge, found))
    high = 1.0 if score(edge) > -quantile else float(brentq(lambda at: score(at) + quantile, found, edge))
    return low, high


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted for their number, in their order (Holm 1979); None, no test, stays None and does not count.

    Where those below ``alpha`` are called differences, one or more of them is wrong with a chance of at most ``alpha``,
    whatever the tests have to do with each other.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted


def two_sided_p(difference: float, variance: float, degrees_of_freedom: float = math.inf) -> float:
    """Of a difference that is 0 in truth and has this variance: Student's t, or normal for infinitely many degrees.

    Without any variance (two texts, or models that never err) nothing is known, and p is 1.
    """
    from scipy.special import ndtr, stdtr

    if abs(difference) < _NOTHING or variance < _NOTHING**2:
        return 1.0
    statistic = abs(difference) / math.sqrt(variance)
    return float(2 * (ndtr(-statistic) if math.isinf(degrees_of_freedom) else stdtr(degrees_of_freedom, -statistic)))


def quantile_of(alpha: float, degrees_of_freedom: float = math.inf) -> float:
    """What a two-sided test at ``alpha`` asks of the statistic: 1.96 at 0.05 and infinitely many degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    return -float(ndtri(alpha / 2) if math.isinf(degrees_of_freedom) else stdtrit(degrees_of_freedom, alpha / 2))


def _normal_quantile(alpha: float) -> float:
    return quantile_of(alpha)


def interval_on_scale(
    value: float, variance: float, scale: Scale, alpha: float = 0.05, degrees_of_freedom: float = math.inf
) -> Interval:
    """The interval that is symmetric on a scale where the value has no bounds, by the delta method.

    Scales: "share" (0 to 1), ln(x / (1 - x)); "positive", ln(x); "correlation" (-1 to 1), atanh(x), Fisher's z; "below
    one", ln(1 - x); "plain", x itself. A value on the edge of its scale stays there: nothing is known of its variance.
    """
    half = quantile_of(alpha, degrees_of_freedom) * math.sqrt(max(variance, 0.0))
    if scale == "plain" or half == 0:
        return value - half, value + half
    if scale == "share" and 0 < value < 1:
        odds, step = value / (1 - value), _exp(half / (value * (1 - value)))
        return odds / (odds + step), odds * step / (1 + odds * step) if math.isfinite(odds * step) else 1.0
    if scale == "positive" and value > 0:
        step = _exp(half / value)
        return value / step, value * step
    if scale == "correlation" and -1 < value < 1:
        at, step = math.atanh(value), half / (1 - value**2)
        return math.tanh(at - step), math.tanh(at + step)
    if scale == "below one" and value < 1:
        step = _exp(half / (1 - value))
        return 1 - (1 - value) * step, 1 - (1 - value) / step
    return value, value


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def texts_needed(
    difference: float,
    text_variance: float,
    num_texts: int,
    alpha: float = 0.05,
    seed_variance: float = 0.0,
    degrees_of_freedom: float = math.inf,
) -> int | None:
    """How many texts in all would tell a true difference of this size, with the power 0.8 at the level ``alpha``.

    The variance of the texts falls with their number, that of the seeds does not: (quantile of alpha + quantile of
    power)^2 (text_variance num_texts / needed + seed_variance) = difference^2. None where no number would do, or the
    difference is 0.

    Args:
        text_variance: of the difference, over sets of ``num_texts`` texts.
        seed_variance: of the difference, over seeds.
        degrees_of_freedom: of both.
    """
    from scipy.special import ndtri

    if difference == 0:
        return None
    reach = quantile_of(alpha, degrees_of_freedom) + float(ndtri(POWER))
    left = (difference / reach) ** 2 - seed_variance
    if left <= 0:
        return None
    needed = num_texts * text_variance / left
    return math.ceil(needed) if needed < 1e15 else None
