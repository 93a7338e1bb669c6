"""From logits to scores, and what is true of texts in the same shape. Torch is never imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bertwright.errors import CheckpointError

if TYPE_CHECKING:  # pyarrow and pydantic, which not every runtime has
    from bertwright.config.parts import LabelKind
    from bertwright.data.columns import LabelledTexts


def check_finite(logits: np.ndarray) -> np.ndarray:
    """``logits`` as they are.

    Raises:
        CheckpointError: one of them is not a finite number.
    """
    if not np.isfinite(logits).all():
        raise CheckpointError("the model's scores are not numbers: its weights are damaged; train it again")
    return logits


def scores_of(logits: np.ndarray, kind: LabelKind, temperature: float = 1.0) -> np.ndarray:
    """(texts, labels) float64 scores of ``logits`` (texts, labels).

    Of classes and shares of them the softmax of the logits over ``temperature``, of any number of labels the sigmoid of
    each, of a regression the number itself, which has no temperature.
    """
    wide = logits.astype(np.float64)  # in which no logit overflows, whatever the temperature
    if kind == "regression":
        return wide
    return (sigmoid if kind == "multi-label" else softmax)(wide / temperature)


def logits_of(scores: np.ndarray, kind: LabelKind) -> np.ndarray:
    """(texts, labels) float64 logits of which ``scores_of`` makes these ``scores``; finite for scores from 0 to 1."""
    if kind == "regression":
        return scores
    least = 1e-300
    logs = np.log(np.maximum(scores, least))
    return logs - np.log(np.maximum(1 - scores, least)) if kind == "multi-label" else logs


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)) in float64, finite for any finite logits."""
    shrunk = np.exp(-abs(logits.astype(np.float64)))  # at most 1
    return np.where(logits >= 0, 1, shrunk) / (1 + shrunk)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(texts, labels) float64, each row summing to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(axis=1, keepdims=True)


def targets_of(texts: LabelledTexts) -> np.ndarray:
    """(texts, labels) float64: what scores should be. 1 for what a text has, or its shares; of a regression the number.

    Raises:
        ValueError: the texts have no labels.
    """
    if texts.kind != "classes":
        if texts.targets is None:
            raise ValueError("the texts have no labels")
        return texts.targets.astype(np.float64)
    if texts.label_ids is None:
        raise ValueError("the texts have no labels")
    return np.eye(len(texts.labels))[texts.label_ids]


def has_labels(texts: LabelledTexts) -> np.ndarray:
    """(texts, labels) bool: which labels each text has; of shares of classes the class that metrics are of.

    Raises:
        ValueError: the texts have no labels, or numbers.
    """
    if texts.kind in ("classes", "soft") and texts.label_ids is not None:
        return np.arange(len(texts.labels)) == texts.label_ids[:, None]
    if texts.kind != "multi-label" or texts.targets is None:
        raise ValueError(f"the texts have no labels to decide for (kind {texts.kind})")
    return texts.targets >= 0.5 if texts.hard_targets is None else texts.hard_targets
