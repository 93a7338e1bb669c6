"""The curves behind the pictures: rates over thresholds with bands, calibration, errors by length.

A band is of 95 % at each place, by the bootstrap over texts: percentiles 2.5 and 97.5 of resampled curves (Efron and
Tibshirani 1993, chapter 13). Scores are first put into at most 1,000 bins; of bins, drawing texts with replacement is
one draw of a multinomial distribution, which is exact and quick.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bertwright.evaluation.significance import wilson

_MOST_BINS, _NUM_DRAWS, _NUM_PLACES = 1_000, 400, 101
_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_BAND = (2.5, 97.5)


@dataclass(frozen=True)
class Curve:
    """A line with a band around it, and the area under it with its interval.

    Attributes:
        x, y: (points,), the line.
        at, low, high: (places,), the band.
        area: (estimate, low, high): ROC AUC, or average precision.
    """

    x: np.ndarray
    y: np.ndarray
    at: np.ndarray
    low: np.ndarray
    high: np.ndarray
    area: tuple[float, float, float]


def rates(scores: np.ndarray, positive: np.ndarray, seed: int = 0) -> tuple[Curve, Curve] | None:
    """The ROC curve and the precision-recall curve; None where all texts are of one class.

    Args:
        scores: (texts,) finite; the higher, the more probably positive.
        positive: (texts,) booleans.
    """
    positive = np.asarray(positive, bool)
    num_positive = int(positive.sum())
    if not 0 < num_positive < len(positive):
        return None
    hits, misses = _counts(scores, positive)
    true, false = np.cumsum(hits), np.cumsum(misses)
    recall, fallout = _from_zero(true / true[-1]), _from_zero(false / false[-1])
    draws = np.random.default_rng(seed).multinomial(
        len(positive), np.concatenate([hits, misses]) / len(positive), _NUM_DRAWS
    )
    drawn_true = np.cumsum(draws[:, : len(hits)], axis=1)  # (draws, bins)
    drawn_false = np.cumsum(draws[:, len(hits) :], axis=1)
    usable = (drawn_true[:, -1] > 0) & (drawn_false[:, -1] > 0)
    drawn_true, drawn_false = drawn_true[usable], drawn_false[usable]
    return (
        _roc(recall, fallout, drawn_true, drawn_false),
        _precision_recall(true, false, drawn_true, drawn_false),
    )


def _counts(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bins,) positive and negative texts by score, the highest scores first."""
    scores = np.asarray(scores, np.float64)
    edges = np.unique(scores)
    if len(edges) > _MOST_BINS:  # half of the bins by the positive ones, so that few of them are still told apart
        shares = np.linspace(0, 1, _MOST_BINS // 2)
        edges = np.unique(np.concatenate([np.quantile(scores[positive], shares), np.quantile(scores, shares)]))
    bins = len(edges) - 1 - np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, None)
    return np.bincount(bins[positive], minlength=len(edges)), np.bincount(bins[~positive], minlength=len(edges))


def _roc(recall: np.ndarray, fallout: np.ndarray, true: np.ndarray, false: np.ndarray) -> Curve:
    at = np.linspace(0, 1, _NUM_PLACES)
    drawn, areas = [], []
    for one_true, one_false in zip(true, false, strict=True):
        y, x = _from_zero(one_true / one_true[-1]), _from_zero(one_false / one_false[-1])
        # Among equal x np.interp takes the last: the curve's upper edge, but for x = 0.
        drawn.append(np.interp(at, x, y))
        areas.append(float(np.trapezoid(y, x)))
    low, high = np.percentile(drawn, _BAND, axis=0)
    area = float(np.trapezoid(recall, fallout))
    return Curve(*thinned(fallout, recall), at, low, high, (area, *_ends(areas)))


def _precision_recall(true: np.ndarray, false: np.ndarray, drawn_true: np.ndarray, drawn_false: np.ndarray) -> Curve:
    at = np.linspace(0, 1, _NUM_PLACES)[1:]
    drawn, areas = [], []
    for one_true, one_false in zip(drawn_true, drawn_false, strict=True):
        recall, precision = one_true / one_true[-1], one_true / np.maximum(one_true + one_false, 1)
        places = np.clip(np.searchsorted(recall, at - 1e-12), 0, len(recall) - 1)
        drawn.append(precision[places])
        areas.append(_average_precision(recall, precision))
    recall, precision = true / true[-1], true / np.maximum(true + false, 1)
    low, high = np.percentile(drawn, _BAND, axis=0)
    some = true > 0  # before the first positive text there is nothing to see
    x, y = thinned(recall[some], precision[some])
    return Curve(x, y, at, low, high, (_average_precision(recall, precision), *_ends(areas)))


def _average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """The step-wise sum, as scikit-learn's ``average_precision_score``."""
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _ends(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, _BAND)
    return float(low), float(high)


def _from_zero(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], values])


def thinned(x: np.ndarray, y: np.ndarray, most: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` of the points of a line, evenly along its length as it is seen; the ends stay."""
    if len(x) <= most:
        return x, y
    spans = [max(float(np.ptp(values)), 1e-300) for values in (x, y)]
    steps = np.hypot(np.diff(x) / spans[0], np.diff(y) / spans[1])
    along = _from_zero(np.cumsum(steps))
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], most)).clip(0, len(x) - 1))
    kept = np.union1d(kept, [0, len(x) - 1])
    return x[kept], y[kept]


@dataclass(frozen=True)
class CalibrationBin:
    """Texts whose score lies between ``low`` and ``high``: their mean score, and the share that the score speaks of."""

    low: float
    high: float
    count: int
    mean_score: float
    share: float

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share, 95 % (Wilson)."""
        return wilson(self.share * self.count, self.count)


@dataclass(frozen=True)
class Group:
    """Texts of like length: from the shortest to the longest, how many, and their mean error with its interval."""

    shortest: int
    longest: int
    count: int
    mean: float
    low: float
    high: float


def errors_by_length(lengths: np.ndarray, errors: np.ndarray, num_groups: int = 8) -> list[Group]:
    """Groups of about equally many texts, shortest first, with their mean errors.

    The interval is Wilson's where errors are 0 and 1 alone, else of the normal distribution.

    Args:
        lengths: (texts,) integers.
        errors: (texts,) at least 0.
    """
    if not len(lengths):
        return []
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, num_groups + 1)[1:-1], method="higher"))
    places = np.searchsorted(edges, lengths, side="right")
    shares = bool(np.isin(errors, (0.0, 1.0)).all())
    groups = []
    for place in np.unique(places):
        chosen = places == place
        of, found = lengths[chosen], errors[chosen]
        mean = float(found.mean())
        if shares:
            low, high = wilson(float(found.sum()), len(found))
        else:
            half = _Z * float(found.std(ddof=1)) / len(found) ** 0.5 if len(found) > 1 else 0.0
            low, high = max(mean - half, 0.0), mean + half
        groups.append(Group(int(of.min()), int(of.max()), len(found), mean, low, high))
    return groups


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """(values,) the mean over the ``width`` values around each, fewer at the ends."""
    sums = _from_zero(np.cumsum(values, dtype=np.float64))
    places = np.arange(len(values))
    first, last = np.maximum(places - width // 2, 0), np.minimum(places + (width + 1) // 2, len(values))
    return (sums[last] - sums[first]) / np.maximum(last - first, 1)
