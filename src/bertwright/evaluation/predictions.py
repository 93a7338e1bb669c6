"""What scores say of a text. Without torch, so that any runtime's scores can be read the same way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertwright.evaluation.metrics import decide, decide_each

if TYPE_CHECKING:  # pydantic, which not every runtime has
    from bertwright.model.classifier_settings import ClassifierSettings


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one text. What its kind of labels does not have is None or empty.

    Attributes:
        label: the label decided for, where a text has one.
        probability: of that label, from 0 to 1.
        scores: the probability of every label; of a regression, the number under its name.
        labels: all labels decided for: the one, or any number of them where a text may have any number.
        value: the number, of a regression.
    """

    label: str | None
    probability: float | None
    scores: dict[str, float]
    labels: tuple[str, ...] = ()
    value: float | None = None


def predictions_of(scores: np.ndarray, settings: ClassifierSettings) -> list[Prediction]:
    """What is decided by ``scores`` (texts, labels), as ``Predictor.score`` gives them."""
    labels = settings.labels
    named = [dict(zip(labels, row, strict=True)) for row in scores.tolist()]
    if settings.kind == "regression":
        return [Prediction(None, None, row, value=row[labels[0]]) for row in named]
    if settings.kind == "multi-label":
        chosen = decide_each(scores, settings.threshold)
        return [
            Prediction(None, None, row, labels=tuple(itertools.compress(labels, has)))
            for row, has in zip(named, chosen, strict=True)
        ]
    decided = [labels[label] for label in decide(scores, settings.threshold)]
    return [Prediction(label, row[label], row, (label,)) for label, row in zip(decided, named, strict=True)]
