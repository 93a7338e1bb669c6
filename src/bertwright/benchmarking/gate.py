"""The parity gate: whether an engine computes what the same weights give in float32. Who is off is not timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertwright.evaluation.scores import softmax


@dataclass(frozen=True)
class Limit:
    """The most that a figure of ``difference`` may be. ``words`` name it in a message."""

    figure: str
    most: float
    words: str


_SCORE = ("largest_score_difference", "a score is off by {found:.2g}")
_SIZE = ("logit_error_to_size", "logits are off by {found:.1%} of their size")
_SPREAD = ("logit_error_to_spread", "logits are off by {found:.1%} of what they differ from text to text")
_HALF = (Limit(_SCORE[0], 0.05, _SCORE[1]), Limit(_SIZE[0], 0.03, _SIZE[1]))
# float32 adds up in another order: by that logits differ by some 1e-6. Of random weights they hardly differ from text
# to text, so that there the second limit tells who mixes texts up. The limits of the other precisions are about twice
# the most that right engines have shown: in scores of trained classifiers (0.024 in bfloat16, 0.23 in int8), in logits
# of untrained ones (1.4 % and 7.1 %).
LIMITS: dict[str, tuple[Limit, ...]] = {
    "float32": (
        Limit("largest_logit_difference", 1e-3, "a logit is off by {found:.2g}"),
        Limit(_SPREAD[0], 0.02, _SPREAD[1]),
    ),
    "bfloat16": _HALF,
    "float16": _HALF,
    "int8": (Limit(_SCORE[0], 0.5, _SCORE[1]), Limit(_SIZE[0], 0.15, _SIZE[1])),
}
"""By precision, what must hold of an engine that computes in it."""


def difference(logits: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """How far ``logits`` are from those ``expected``, (texts, classes) both.

    Returns:
        largest_logit_difference, largest_score_difference: of one text and class; not a number where a logit is none.
        logit_error_to_size, logit_error_to_spread: the root mean square of the logits' differences, over that of the
            expected logits, and over the standard deviation of these from text to text. None: nothing to divide by.
        label_flips: texts whose highest class is another.
    """
    found, right = logits.astype(np.float64), expected.astype(np.float64)
    error = _root_mean_square(found - right)
    size, spread = _root_mean_square(right), _root_mean_square(right - right.mean(axis=0))
    return {
        "largest_logit_difference": float(np.abs(found - right).max()),
        "largest_score_difference": float(np.abs(softmax(found) - softmax(right)).max()),
        "logit_error_to_size": error / size if size else None,
        "logit_error_to_spread": error / spread if spread else None,
        "label_flips": int((found.argmax(axis=1) != right.argmax(axis=1)).sum()),
    }


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def refusal(precision: str, found: Mapping[str, Any]) -> str | None:
    """Why an engine that computes in ``precision`` is refused by what ``difference`` found; None: it is right."""
    for limit in LIMITS[precision]:
        value = found[limit.figure]
        if value is not None and not value <= limit.most:  # what is not a number is refused, too
            return f"{limit.words.format(found=value)} from float32; in {precision} {limit.most:g} is the most"
    return None
