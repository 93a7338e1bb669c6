"""Whether scores mean what they say: of texts scored 0.7, are 70 % positive? And the temperature that mends it.

Temperature scaling (Guo, Pleiss, Sun and Weinberger 2017, arXiv 1706.04599, section 4.2): all logits are divided by one
number T > 0, found by maximum likelihood on texts that the model did not learn from. The order of the scores of a label
stays, and so do the classes decided for; with several labels a text, one T serves all labels.

Torch is never imported here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bertwright.config.parts import LabelKind
from bertwright.evaluation.metrics import brier_score, cross_entropy
from bertwright.evaluation.scores import scores_of, sigmoid, softmax

NUM_BINS = 15
"""As in Guo et al. (2017), section 2."""
_HIGHEST_TEMPERATURE = 100.0


def fit_temperature(logits: np.ndarray, targets: np.ndarray, kind: LabelKind) -> float | None:
    """The temperature under which the ``targets`` are most likely; None where that is none from 0.01 to 100.

    With b = 1 / T, the mean log loss is convex in b: for classes log(sum over c of exp(b z_c)) - b sum over c of t_c
    z_c, for a label on its own log(1 + exp(b z)) - b t z. Its derivative, the mean of the sum over c of (p_c - t_c)
    z_c, grows with b, and T is where it is 0. There is no such place where every text is right by any margin (the loss
    falls for ever as T goes to 0), nor where the scores are no better than chance, or worse.

    Args:
        logits: (texts, labels).
        targets: 0, 1 or shares, (texts, labels); of classes they sum to 1.
        kind: any but "regression".

    Raises:
        ValueError: arrays that do not fit together, numbers that are not finite, or a regression.
    """
    if kind == "regression":
        raise ValueError("a regression has no temperature.")
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise ValueError(f"logits and targets must be (texts, labels). Got {logits.shape} and {targets.shape}.")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite.")
    if not len(logits):
        return None
    probabilities = sigmoid if kind == "multi-label" else softmax
    if kind != "multi-label":
        logits = logits - logits.max(axis=1, keepdims=True)  # softmax knows differences only
    from scipy.optimize import brentq

    def slope(log_b: float) -> float:
        return float(((probabilities(np.exp(log_b) * logits) - targets) * logits).sum(axis=1).mean())

    low, high = -np.log(_HIGHEST_TEMPERATURE), np.log(_HIGHEST_TEMPERATURE)
    if not slope(low) < 0 < slope(high):
        return None
    return float(np.exp(-brentq(slope, low, high, xtol=1e-12)))


def calibration_of(
    logits: np.ndarray, targets: np.ndarray, kind: LabelKind, temperature: float = 1.0
) -> dict[str, Any] | None:
    """How well calibrated scores are, as plain values that JSON can hold; None of a regression, and of no texts.

    Judged is the score of the last of two classes; of more classes the highest score of each text, which is true where
    its class is right (Guo et al. 2017, section 2); of several labels a text each score of each label. Where there are
    shares, they stand in the place of 0 and 1.

    Keys: ``expected_calibration_error``, the mean over 15 equally wide bins of the difference between mean score and
    share of true ones, weighted by their counts (Guo et al. 2017, equation 3); ``bins``, those; and with
    ``_equal_mass`` the same of up to 15 bins of about equally many scores (Nguyen and O'Connor 2015, arXiv 1508.05154,
    section 3), which shows more where nearly all scores are near 0; ``brier``
    and ``log_loss``, those of all scores (``metrics.brier_score``, ``cross_entropy``); ``num_scores``, how many are
    judged.

    Args:
        logits, targets, kind: as for ``fit_temperature``.
        temperature: that the logits are divided by.
    """
    if kind == "regression" or not len(logits):
        return None
    probabilities = scores_of(np.asarray(logits), kind, temperature)
    targets = np.asarray(targets, np.float64)
    scores, outcomes = _judged(probabilities, targets, kind)
    wide, massive = equal_width_bins(scores, outcomes), equal_mass_bins(scores, outcomes)
    return {
        "expected_calibration_error": calibration_error(wide),
        "bins": wide,
        "expected_calibration_error_equal_mass": calibration_error(massive),
        "bins_equal_mass": massive,
        "brier": brier_score(targets, probabilities, kind),
        "log_loss": cross_entropy(targets, probabilities, kind),
        "num_scores": len(scores),
    }


def _judged(probabilities: np.ndarray, targets: np.ndarray, kind: LabelKind) -> tuple[np.ndarray, np.ndarray]:
    """The scores (n,) that are judged, and what is true of them, 0, 1 or a share (n,)."""
    if kind == "multi-label":
        return probabilities.ravel(), targets.ravel()
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], targets[:, 1]
    highest = probabilities.argmax(axis=1)[:, None]
    return np.take_along_axis(probabilities, highest, 1)[:, 0], np.take_along_axis(targets, highest, 1)[:, 0]


def equal_width_bins(scores: np.ndarray, outcomes: np.ndarray, num_bins: int = NUM_BINS) -> list[dict[str, Any]]:
    """Bins that each hold the scores above ``low`` and up to ``high``; the first one those of 0 as well.

    Each has ``low``, ``high``, ``count``, ``mean_score`` and ``share``, the mean outcome; the last two are None in an
    empty bin.
    """
    edges = np.arange(num_bins + 1) / num_bins
    which = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, num_bins - 1)
    return _bins(which, edges[:-1], edges[1:], scores, outcomes)


def equal_mass_bins(scores: np.ndarray, outcomes: np.ndarray, num_bins: int = NUM_BINS) -> list[dict[str, Any]]:
    """Bins of about equally many scores; equal scores stay together, so that there may be fewer bins.

    As ``equal_width_bins``, but that ``low`` and ``high`` are the lowest and the highest score of the bin.
    """
    if not len(scores):
        return []
    ordered = np.sort(scores)
    ends = ordered[[min(-(-len(ordered) * i // num_bins), len(ordered)) - 1 for i in range(1, num_bins + 1)]]
    highs = np.unique(ends)  # of the bins
    which = np.searchsorted(highs, scores, side="left")
    firsts = np.searchsorted(ordered, np.append(-np.inf, highs[:-1]), side="right")
    return _bins(which, ordered[firsts], highs, scores, outcomes)


def _bins(
    which: np.ndarray, lows: np.ndarray, highs: np.ndarray, scores: np.ndarray, outcomes: np.ndarray
) -> list[dict[str, Any]]:
    counts = np.bincount(which, minlength=len(lows))
    sums, true = (np.bincount(which, values, minlength=len(lows)) for values in (scores, outcomes))
    return [
        {
            "low": float(low),
            "high": float(high),
            "count": int(count),
            "mean_score": float(total / count) if count else None,
            "share": float(hits / count) if count else None,
        }
        for low, high, count, total, hits in zip(lows, highs, counts, sums, true, strict=True)
    ]


def calibration_error(bins: list[dict[str, Any]]) -> float:
    """The expected calibration error: sum of count / n * |share - mean_score| (Guo et al. 2017, equation 3)."""
    num_scores = sum(one["count"] for one in bins)
    return float(sum(one["count"] / num_scores * abs(one["share"] - one["mean_score"]) for one in bins if one["count"]))
