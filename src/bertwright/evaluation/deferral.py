"""When a small model is sure enough to answer, and what its scores are beside those of a large one.

The small model's logits z are aligned with the large model's scores: with a slope a and a bias b for each label, so
that softmax(a z + b), or of any number of labels the sigmoid of each, comes as near to the large model's scores as can
be. (Of two classes that is Platt's scaling, 1999, with the large model's scores in the place of labels.) So a score
means the same whichever model gave it: texts of both can be ranked together, and the large model's threshold holds for
both.

NumPy alone, but for the fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bertwright.evaluation.scores import logits_of, sigmoid, softmax

if TYPE_CHECKING:  # pydantic, which not every runtime has
    from collections.abc import Sequence

    from bertwright.config.parts import LabelKind

HIGHEST_SLOPE, HIGHEST_BIAS = 100.0, 100.0
"""What the fit may come to; so no manifest makes scores that are no numbers."""
_LEAST_SLOPE = 1e-3
# Thresholds nearer to 0 or 1 decide the same for nearly all texts, whatever a model is sure of.
_LEAST_THRESHOLD = 1e-6


def align(logits: np.ndarray, scores: np.ndarray, kind: LabelKind) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Slopes and biases of the small model's ``logits`` under which the large model's ``scores`` are most likely.

    Of classes there is one slope for all, of any number of labels one for each. The mean cross entropy is convex in
    them. A small model that tells nothing, or the opposite, gets the least slope: it is never sure.

    Args:
        logits, scores: (texts, labels) both.

    Returns:
        (1 or labels,) slopes above 0, and (labels,) biases.
    """
    from scipy.optimize import minimize

    logits, scores = logits.astype(np.float64), scores.astype(np.float64)
    num_labels = logits.shape[1]
    num_slopes = num_labels if kind == "multi-label" else 1

    def loss_and_slope(values: np.ndarray) -> tuple[float, np.ndarray]:
        found = align_logits(logits, values[:num_slopes], values[num_slopes:])
        if kind == "multi-label":
            losses = np.logaddexp(0.0, found) - scores * found
            errors = (sigmoid(found) - scores) / len(found)
        else:
            highest = found.max(axis=1, keepdims=True)
            sums = highest + np.log(np.exp(found - highest).sum(axis=1, keepdims=True))
            losses = scores * (sums - found)
            errors = (softmax(found) - scores) / len(found)
        by_slope = (errors * logits).sum(axis=0)
        by_slope = by_slope if num_slopes > 1 else by_slope.sum(keepdims=True)
        return float(losses.sum() / len(found)), np.concatenate([by_slope, errors.sum(axis=0)])

    first = np.concatenate([np.ones(num_slopes), np.zeros(num_labels)])
    bounds = [(_LEAST_SLOPE, HIGHEST_SLOPE)] * num_slopes + [(-HIGHEST_BIAS, HIGHEST_BIAS)] * num_labels
    found = minimize(loss_and_slope, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000})
    return tuple(found.x[:num_slopes].tolist()), tuple(found.x[num_slopes:].tolist())


def align_logits(
    logits: np.ndarray, slopes: Sequence[float] | np.ndarray, biases: Sequence[float] | np.ndarray
) -> np.ndarray:
    """(texts, labels) float64: the small model's ``logits`` on the large one's scale."""
    return logits.astype(np.float64) * np.asarray(slopes) + np.asarray(biases)


def sureness(scores: np.ndarray, kind: LabelKind, threshold: float | Sequence[float]) -> np.ndarray:
    """(texts,) from 0 to 1: how sure a model with these aligned ``scores`` (texts, labels) is of what it decides.

    Of two classes, and of each of any number of labels, that is the score, or 1 less it, of what is decided: after all
    log odds were moved so that the ``threshold`` is 0.5. The least sure label counts. Of more classes it is the highest
    score.
    """
    if kind != "multi-label" and scores.shape[1] > 2:
        found: np.ndarray = scores.max(axis=1)
        return found
    decided = scores if kind == "multi-label" else scores[:, -1:]
    centre = np.clip(np.asarray(threshold, np.float64), _LEAST_THRESHOLD, 1 - _LEAST_THRESHOLD)
    moved = logits_of(decided, "multi-label") - np.log(centre / (1 - centre))
    least_sure: np.ndarray = sigmoid(np.abs(moved)).min(axis=1)
    return least_sure
