"""What a training makes small: the loss of each kind of label."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bertwright.config import TrainConfig
from bertwright.data.columns import LabelledTexts


class Objective(Protocol):
    """The loss of ``num_texts`` texts."""

    num_texts: int

    def sum(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The sum, over the texts ``rows`` (rows,), of the losses of ``logits`` (rows, labels) float32."""
        ...


class CrossEntropy:
    """Of classes: -log softmax(logits) at the true class, ``label_ids`` (texts,) int64."""

    def __init__(self, label_ids: np.ndarray, device: torch.device | str = "cpu") -> None:
        self.num_texts = len(label_ids)
        self._targets = torch.from_numpy(np.asarray(label_ids)).to(device)

    def sum(self, logits: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(logits, self._targets[rows], reduction="sum")


def objective_of(texts: LabelledTexts, config: TrainConfig, device: torch.device) -> Objective:
    """The loss for the labels of ``texts``, weighted as ``config`` asks."""
    assert texts.label_ids is not None
    return CrossEntropy(texts.label_ids, device)
