"""How sure a metric is: over the texts it was measured on and, where a setting was trained several times, over seeds.

A metric of several models on the same texts comes with the covariance of its values over sets of texts. Where runs
differ in their seed alone, the seed is a random effect: a run's value is

    that of the setting + what the seed does + what the texts do to all runs alike + what they do to this run,

and what is asked for is the mean over seeds and texts. Of k runs the first and the last are seen together, as the
variance S^2 between the runs; the last alone is seen in the covariance over texts. So the variance of a mean of k runs
is (covariance of two runs) + S^2 / k, without bias.

S^2 comes from few runs, so quantiles are Student's, with Satterthwaite's (1946) degrees of freedom (Welch's, of a
difference), in which the covariance counts as known. There S^2 is put in at its 65 % upper limit (at its median, of a
difference of settings with three seeds and more): with S^2 itself, a small one found by chance makes its own degrees of
freedom many, and intervals over two or three seeds cover as little as 87 and 92 %; with the limit 92 to 97 and 94 to
96 %, whatever the share of the seeds (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertwright.evaluation.few_texts import counted_too_little, fewest_counted, is_one_share, ranked_too_little
from bertwright.evaluation.rankings import RANKED
from bertwright.evaluation.resampling import (
    MEANS,
    Judged,
    bootstrap_metrics,
    contributions,
    point_metrics,
)
from bertwright.evaluation.significance import (
    Component,
    Interval,
    Scale,
    auc_interval,
    covariance_of,
    degrees_of_variance,
    delong,
    interval_on_scale,
    mcnemar,
    paired_share_interval,
    two_sided_p,
    welch_degrees,
    welch_degrees_of_each,
    wilson,
)

DELONG, BOOTSTRAP, MEAN = "DeLong", "paired bootstrap", "paired t"
NUM_SAMPLES = 2_000
"""Resamples of the bootstrap, unless the texts are many: a standard error is then off by 1.6 % of itself."""

_FEWEST_SAMPLES = 400
_MOST_WORK = 2e9  # texts x models x labels x resamples
_UPPER_LIMIT = 0.65
_NO_VARIANCE = 1e-20  # the same in every resample, but for rounding

_SCALES: dict[str, Scale] = {
    **dict.fromkeys(
        ("log_loss", "soft_log_loss", "brier", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error"),
        "positive",
    ),
    **dict.fromkeys(("matthews", "pearson", "spearman"), "correlation"),
    "r2": "below one",
}


@dataclass(frozen=True, eq=False)
class Measured:
    """One metric of several models on the same texts.

    Attributes:
        name: of the metric.
        values: (models,).
        covariance: of the values over sets of texts, (models, models).
        method: how the covariance was found: "DeLong", "paired bootstrap", or "paired t" for means over texts, of
            which it is known without resampling.
        degrees_of_freedom: of each value's variance, (models,); infinite where it is taken as known.
        components: what the covariance is the sum of, or is like the sum of, and the degrees of freedom of each: where
            a kind of texts is rare, its part is hardly known. Empty where the covariance is taken as known.
    """

    name: str
    values: np.ndarray
    covariance: np.ndarray
    method: str
    degrees_of_freedom: np.ndarray
    components: tuple[Component, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of one metric of several models: a mean of runs, or the difference of two means.

    Attributes:
        value: the sum.
        text_variance: over sets of as many texts, with these runs.
        seed_variance: what other seeds add to it; 0 where no seeds were repeated, below 0 where the runs differ less
            than texts alone would make them.
        degrees_of_freedom: of their sum.
    """

    value: float
    text_variance: float
    seed_variance: float
    degrees_of_freedom: float

    @property
    def variance(self) -> float:
        return self.text_variance + self.seed_variance


def num_samples_for(judged: Judged) -> int:
    """2,000, or fewer where texts, models and labels are so many that this would take minutes."""
    work = judged.num_texts * judged.num_models * max(len(judged.ranked), 1)
    return int(min(NUM_SAMPLES, max(_FEWEST_SAMPLES, _MOST_WORK / max(work, 1))))


def measure(
    judged: Judged, names: Sequence[str] | None = None, num_samples: int | None = None, seed: int = 0
) -> dict[str, Measured]:
    """The metrics ``names``, those of the kind of labels if not given.

    One without an answer is left out, and so is a ranking where a kind of texts is too rare
    (``few_texts.ranked_too_little``).
    """
    wanted = [name for name in (judged.metric_names if names is None else names) if _is_of(judged, name)]
    points = point_metrics(judged, wanted)
    wanted = [name for name in wanted if not np.isnan(points[name]).any()]
    found: dict[str, Measured] = {}
    wanted = [name for name in wanted if ranked_too_little(judged, name) is None]
    components: tuple[Component, ...] = ()
    if any(name in RANKED for name in wanted):
        areas = [delong(is_positive, judged.scores[:, :, column]) for is_positive, column in judged.ranked]
        if len(areas) == 1 and "roc_auc" in wanted:
            (one,) = areas
            found["roc_auc"] = Measured(
                "roc_auc", one.values, one.covariance, DELONG, one.degrees_of_freedom, one.components
            )
        # Of a mean over labels: what each label adds, as if labels were independent.
        components = tuple((part / len(areas) ** 2, df) for area in areas for part, df in area.components)
    for name in wanted:
        parts = _parts_of_mean(judged, name)
        if parts is not None:
            covariance = covariance_of(parts.T) / max(judged.num_texts, 1)
            if name == "root_mean_squared_error":  # the delta method, from the mean of the squares
                slopes = 1 / (2 * np.maximum(points[name][0], 1e-300))
                covariance = covariance * np.outer(slopes, slopes)
            known = ((covariance, judged.num_texts - 1.0),)
            found[name] = Measured(name, points[name][0], covariance, MEAN, degrees_of_variance(parts.T), known)
    left = [name for name in wanted if name not in found]
    if left:
        samples = bootstrap_metrics(judged, left, num_samples or num_samples_for(judged), seed)
        for name in left:
            drawn = samples[name][~np.isnan(samples[name]).any(axis=1)]
            if len(drawn) > 1:
                covariance = covariance_of(drawn.T)
                own = components if name in RANKED else ()
                found[name] = _bootstrapped(judged, name, points[name][0], covariance, own)
    return {name: found[name] for name in wanted if name in found}


def _is_of(judged: Judged, name: str) -> bool:
    if judged.num_texts < 2:
        return False
    return name in judged.metric_names


def _bootstrapped(
    judged: Judged, name: str, values: np.ndarray, covariance: np.ndarray, components: tuple[Component, ...]
) -> Measured:
    counts = fewest_counted(judged, name) if is_one_share(judged, name) else None
    if counts is not None:  # known from as many texts as are in the denominator
        return Measured(name, values, covariance, BOOTSTRAP, np.maximum(counts - 1.0, 1.0))
    return Measured(name, values, covariance, BOOTSTRAP, welch_degrees_of_each(components, len(values)), components)


def _parts_of_mean(judged: Judged, name: str) -> np.ndarray | None:
    """What each text adds to a metric that is a mean over texts, (texts, models); None for other metrics."""
    if name in MEANS:
        return contributions(judged, name)
    if name not in ("accuracy", "hamming_loss"):
        return None
    if name == "hamming_loss":
        return np.asarray(1 - _right(judged).mean(axis=2)).T
    return _all_right(judged).T.astype(np.float64)


def _right(judged: Judged) -> np.ndarray:
    """(models, texts), or of several labels (models, texts, labels): which decisions are right."""
    assert judged.decided is not None
    truth = judged.has_label if judged.kind == "multi-label" else judged.label_ids
    assert truth is not None
    return np.asarray(judged.decided == truth)


def _all_right(judged: Judged) -> np.ndarray:
    """(models, texts): whether all that is decided of a text is right."""
    right = _right(judged)
    return np.asarray(right.all(axis=2)) if judged.kind == "multi-label" else right


def contrast(measured: Measured, groups: Sequence[Sequence[int]], signs: Sequence[float]) -> Contrast:
    """The sum over ``groups`` of sign times mean of the group's models: ([0, 1], [2]) and (1, -1) for a difference.

    Models of one group differ in their seed alone. A group of one borrows the variance between seeds from the others,
    if these have several; with groups of one only, seeds stay unknown, and the variance is that of the texts.
    """
    weights = _weights(measured, groups, signs)
    value = float(weights @ measured.values)
    text_variance = max(float(weights @ measured.covariance @ weights), 0.0)
    repeated = [_between_seeds(measured, group) for group in groups if len(group) > 1]
    if not repeated:
        return Contrast(value, text_variance, 0.0, math.inf)
    shares: list[tuple[float, float, float]] = []  # variance between runs, that of texts in it, degrees of freedom
    several = [(group, sign) for group, sign in zip(groups, signs, strict=True) if len(group) > 1]
    for (group, sign), (between, own_texts) in zip(several, repeated, strict=True):
        share = sign**2 / len(group)
        shares.append((share * between, share * own_texts, len(group) - 1))
    alone = sum(sign**2 for group, sign in zip(groups, signs, strict=True) if len(group) == 1)
    if alone:
        degrees = sum(len(group) - 1 for group in groups)
        weight = [len(group) - 1 for group in groups if len(group) > 1]
        between = sum(w * b for w, (b, _) in zip(weight, repeated, strict=True)) / degrees
        own_texts = sum(w * c for w, (_, c) in zip(weight, repeated, strict=True)) / degrees
        if len(shares) == 1:  # borrowed from the one other: the same runs, one sum
            shares = [(shares[0][0] + alone * between, shares[0][1] + alone * own_texts, degrees)]
        else:
            shares.append((alone * between, alone * own_texts, degrees))
    between = sum(share[0] for share in shares)
    common = max(text_variance - sum(share[1] for share in shares), 0.0)
    return Contrast(value, text_variance, common + between - text_variance, _degrees_of_freedom(common, shares))


def _weights(measured: Measured, groups: Sequence[Sequence[int]], signs: Sequence[float]) -> np.ndarray:
    weights = np.zeros(len(measured.values))
    for group, sign in zip(groups, signs, strict=True):
        for model in group:
            weights[model] = sign / len(group)
    return weights


def _text_degrees(measured: Measured, groups: Sequence[Sequence[int]], signs: Sequence[float]) -> float:
    """The degrees of freedom of what texts do to the sum that ``contrast`` is of."""
    if not measured.components:
        return min(float(measured.degrees_of_freedom[model]) for group in groups for model in group)
    return welch_degrees(measured.components, _weights(measured, groups, signs))


def _between_seeds(measured: Measured, group: Sequence[int]) -> tuple[float, float]:
    """The variance between the group's values, and what texts do to each run for itself."""
    places, size = np.array(group), len(group)
    diagonal = float(measured.covariance[places, places].sum())
    off_diagonal = (float(measured.covariance[places[:, None], places].sum()) - diagonal) / (size * (size - 1))
    values = measured.values[places]
    centred = values - values.sum() / size
    return float(centred @ centred) / (size - 1), max(diagonal / size - off_diagonal, 0.0)


def _degrees_of_freedom(common: float, shares: Sequence[tuple[float, float, float]]) -> float:
    """Satterthwaite's, of ``common``, which is as good as known, and of variances between runs at an upper limit."""
    from scipy.special import chdtri

    squares = sum(between**2 / degrees for between, _, degrees in shares)
    total = sum(between for between, _, _ in shares)
    if not squares:
        return math.inf
    degrees = total**2 / squares
    # Two variances of two degrees and more are seldom both far too small.
    cautious = len(shares) == 1 or min(own for _, _, own in shares) < 2
    upper = total * degrees / float(chdtri(degrees, _UPPER_LIMIT if cautious else 0.5))
    return degrees * (1 + common / upper) ** 2


def mean_interval(judged: Judged, measured: Measured, models: Sequence[int], alpha: float = 0.05) -> Interval | None:
    """The interval of the mean over ``models``, runs that differ in their seed alone; None where it cannot be told.

    One run's accuracy, and of two classes its precision, recall and F1, are shares of countable texts: Wilson's score
    interval. (F1 = 2 J / (1 + J), where J is the share of hits in hits and errors of the positive class.) One run's ROC
    AUC by DeLong has the interval of ``auc_interval``. All else is symmetric on a scale without bounds.
    """
    if counted_too_little(judged, measured.name, models):
        return None
    if len(models) == 1:
        counts = _counts(judged, measured.name, models[0])
        if counts is not None:
            low, high = wilson(*counts, alpha)
            if measured.name == "f1":
                return 2 * low / (1 + low), 2 * high / (1 + high)
            return low, high
        if measured.method == DELONG:
            (is_positive, _), (model,) = judged.ranked[0], models
            num_positive = int(is_positive.sum())
            variance = float(measured.covariance[model, model])
            num_negative = len(is_positive) - num_positive
            degrees = float(measured.degrees_of_freedom[model])
            return auc_interval(float(measured.values[model]), variance, num_positive, num_negative, alpha, degrees)
    found = contrast(measured, [models], [1.0])
    degrees = float(measured.degrees_of_freedom[models[0]])
    if len(models) > 1:
        degrees = min(found.degrees_of_freedom, _text_degrees(measured, [models], [1.0]))
    scale = _SCALES.get(measured.name, "share")
    if found.variance < _NO_VARIANCE:
        return None
    low, high = interval_on_scale(found.value, found.variance, scale, alpha, degrees)
    return (low, high) if low < high else None


def _right_cells(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Whether all is right of the texts of each of ``Judged.cells``, (models, cells), and how many texts these are."""
    assert judged.decided is not None
    truth = judged.has_label if judged.kind == "multi-label" else judged.label_ids
    assert truth is not None
    first, counts = judged.cells
    right = judged.decided[:, first] == truth[first]
    return (right.all(axis=2) if judged.kind == "multi-label" else right), counts


def _right_alone(judged: Judged, first: int, other: int) -> tuple[int, int]:
    """The texts that one of two models alone gets right."""
    right, counts = _right_cells(judged)
    one, two = right[first], right[other]
    return int(counts[one & ~two].sum()), int(counts[two & ~one].sum())


def _counts(judged: Judged, name: str, model: int) -> tuple[int, int] | None:
    """(hits, trials) of a metric that is a share of countable texts; None for others."""
    if judged.decided is None or judged.kind == "regression":
        return None
    if name == "accuracy":
        right, counts = _right_cells(judged)
        return int(counts[right[model]].sum()), judged.num_texts
    if judged.kind == "multi-label" or len(judged.labels) != 2 or name not in ("precision", "recall", "f1"):
        return None
    supports, predictions, hits = judged.label_counts
    true, decided, both = int(supports[1]), int(predictions[model, 1]), int(hits[model, 1])
    trials = {"precision": decided, "recall": true, "f1": true + decided - both}[name]
    return (both, trials) if trials else None


@dataclass(frozen=True)
class Difference:
    """The difference of one metric between two contenders: ``contrast``, interval, p, and the name of the test.

    Without any variance there is no interval, low and high are None, and p is 1.
    """

    contrast: Contrast
    low: float | None
    high: float | None
    p: float
    test: str


def p_value(judged: Judged, measured: Measured, first: Sequence[int], other: Sequence[int]) -> float | None:
    """The p of ``difference``, without its interval; None where there is no test."""
    if counted_too_little(judged, measured.name, [*first, *other]):
        return None
    if measured.name == "accuracy" and len(first) == len(other) == 1:
        return mcnemar(*_right_alone(judged, first[0], other[0]))
    found = contrast(measured, [first, other], [1.0, -1.0])
    return two_sided_p(found.value, found.variance, _degrees_of_difference(measured, found, first, other))


def _degrees_of_difference(measured: Measured, found: Contrast, first: Sequence[int], other: Sequence[int]) -> float:
    return min(found.degrees_of_freedom, _text_degrees(measured, [first, other], [1.0, -1.0]))


def difference(
    judged: Judged, measured: Measured, first: Sequence[int], other: Sequence[int], alpha: float = 0.05
) -> Difference | None:
    """The mean over the models ``first`` less that over ``other``, each runs of one setting that differ in their seed.

    One run against one: mid-p McNemar and Tango's score interval for accuracy; else, and for several seeds, the
    difference over its standard error by DeLong or the paired bootstrap, normal or Student's t. The degrees of freedom
    are the fewer of those of the seeds and those of the texts, of which a rare kind has few. None where the metric is a
    share of fewer than two texts.
    """
    if counted_too_little(judged, measured.name, [*first, *other]):
        return None
    found = contrast(measured, [first, other], [1.0, -1.0])
    if measured.name == "accuracy" and len(first) == len(other) == 1:
        only_first, only_other = _right_alone(judged, first[0], other[0])
        low, high = paired_share_interval(only_first, only_other, judged.num_texts, alpha)
        return Difference(found, low, high, mcnemar(only_first, only_other), "McNemar, mid-p")
    degrees = _degrees_of_difference(measured, found, first, other)
    interval: tuple[float | None, float | None] = (None, None)
    if found.variance >= _NO_VARIANCE:
        interval = interval_on_scale(found.value, found.variance, "plain", alpha, degrees)
    test = measured.method if max(len(first), len(other)) == 1 else f"{measured.method}, t over seeds"
    if test == f"{MEAN}, t over seeds":
        test = "t over texts and seeds"
    return Difference(found, *interval, two_sided_p(found.value, found.variance, degrees), test)
