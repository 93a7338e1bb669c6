"""The threshold of scores that suits a purpose, found on texts that the model did not learn from.

Torch is never imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bertwright.errors import UserError

_BEST = ("accuracy", "f1", "macro_f1", "matthews")
_AT_LEAST = {"precision": "recall", "recall": "precision"}
_EXPECTED = f"{', '.join(_BEST)}, precision=NUMBER or recall=NUMBER"


@dataclass(frozen=True)
class Goal:
    """What a threshold is to achieve: the highest ``metric``; with ``least`` the other of precision and recall as high
    as can be, where ``metric`` is at least that."""

    metric: str
    least: float | None = None

    @classmethod
    def of(cls, text: str) -> Goal:
        """From what stands behind ``--tune-threshold``: a metric, or "precision=0.9", or "recall=0.8".

        Raises:
            UserError: it is neither.
        """
        metric, equals, number = (part.strip() for part in text.partition("="))
        if metric in _BEST and not equals:
            return cls(metric)
        if metric in _AT_LEAST and equals:
            try:
                least = float(number)
            except ValueError:
                least = math.nan
            if 0 < least <= 1:
                return cls(metric, least)
            raise UserError(f"--tune-threshold {text}: found {number!r}, expected a number above 0 and at most 1")
        if metric in _AT_LEAST:
            raise UserError(
                f"--tune-threshold {text}: an extreme threshold has the highest {metric}; say how much is needed, such "
                f"as {metric}=0.9"
            )
        raise UserError(f"--tune-threshold {text}: unknown; expected {_EXPECTED}")

    def __str__(self) -> str:
        return self.metric if self.least is None else f"{self.metric}={self.least:g}"


@dataclass(frozen=True)
class Tuned:
    """A threshold that was found.

    Attributes:
        value: the least score that counts as positive.
        reached: the metric of the goal with it, on the texts that it was found on.
        met: whether that is what the goal asks for; False only for a precision that no threshold gives.
    """

    value: float
    reached: float
    met: bool = True


def tune_threshold(positive: np.ndarray, scores: np.ndarray, goal: Goal) -> Tuned | None:
    """The threshold that serves ``goal`` best; None where the texts are all positive, all negative, or none.

    Every way of cutting the sorted scores in two is tried. The threshold lies midway between the scores that it parts,
    or at 0.5 where that parts them too; of equally good ones it is the one nearest to 0.5. Where no threshold gives the
    precision asked for, it is the one with the highest precision, and of those with the highest recall.

    Args:
        positive: which texts are positive, bool (texts,).
        scores: from 0 to 1, float64 (texts,).

    Raises:
        ValueError: arrays that do not fit together, or scores outside of 0 to 1.
    """
    positive, scores = np.asarray(positive, bool), np.asarray(scores, np.float64)
    if positive.ndim != 1 or positive.shape != scores.shape:
        raise ValueError(f"positive and scores must be (texts,). Got {positive.shape} and {scores.shape}.")
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError("scores must be in 0 to 1.")
    num_texts, num_positive = len(positive), int(positive.sum())
    if num_positive in (0, num_texts):
        return None
    cuts = _Cuts.of(positive, scores)
    if goal.least is None:
        values = cuts.metric(goal.metric)
        best, met = values >= values.max() - 1e-12, True
    else:
        values, others = cuts.metric(goal.metric), cuts.metric(_AT_LEAST[goal.metric])
        met = bool((values >= goal.least - 1e-12).any())
        allowed = values >= (goal.least if met else values.max()) - 1e-12
        best = allowed & (others >= others[allowed].max() - 1e-12)
    candidates = np.flatnonzero(best)
    chosen = candidates[np.argmin(abs(cuts.thresholds[candidates] - 0.5))]
    return Tuned(float(cuts.thresholds[chosen]), float(values[chosen]), met)


@dataclass(frozen=True)
class _Cuts:
    """All ways of cutting the sorted scores in two, with what the upper part holds; arrays (cuts,)."""

    thresholds: np.ndarray
    true_positives: np.ndarray
    num_above: np.ndarray
    num_positive: int
    num_texts: int

    @classmethod
    def of(cls, positive: np.ndarray, scores: np.ndarray) -> _Cuts:
        order = np.argsort(-scores, kind="stable")
        scores, hits = scores[order], np.cumsum(positive[order])
        ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # the last of each run of equal scores
        uppers, lowers = scores[ends], np.append(scores[ends[1:]], 0.0)
        thresholds = _between(lowers, uppers)
        true_positives, num_above = hits[ends], ends + 1
        if scores[0] < 1:  # a threshold above all scores
            thresholds = np.append(_between(scores[:1], np.ones(1)), thresholds)
            true_positives, num_above = np.append(0, true_positives), np.append(0, num_above)
        return cls(thresholds, true_positives, num_above, int(positive.sum()), len(scores))

    def metric(self, name: str) -> np.ndarray:
        """(cuts,) float64; a ratio of which the denominator is 0 is 0, as in ``metrics``."""
        hits, above = self.true_positives.astype(np.float64), self.num_above.astype(np.float64)
        true_negatives = self.num_texts - above - self.num_positive + hits
        if name == "precision":
            return _ratio(hits, above)
        if name == "recall":
            return hits / self.num_positive
        if name == "accuracy":
            return (hits + true_negatives) / self.num_texts
        f1 = 2 * hits / (above + self.num_positive)
        if name == "f1":
            return f1
        num_negative, below = self.num_texts - self.num_positive, self.num_texts - above
        if name == "macro_f1":
            return (f1 + 2 * true_negatives / (below + num_negative)) / 2
        # Matthews (1975): the correlation of truth and decision.
        covariance = hits * self.num_texts - above * self.num_positive
        return _ratio(covariance, np.sqrt(above * below * float(self.num_positive) * num_negative))


def _between(lowers: np.ndarray, uppers: np.ndarray) -> np.ndarray:
    """Thresholds above ``lowers`` and at most ``uppers``: 0.5 where it fits, else midway."""
    midway = (lowers + uppers) / 2
    midway = np.where(midway > lowers, midway, uppers)  # neighbouring floats have nothing between
    return np.where((lowers < 0.5) & (uppers >= 0.5), 0.5, midway)


def _ratio(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.divide(values, of, out=np.zeros_like(values), where=of > 0)
