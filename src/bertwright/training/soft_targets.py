"""What a student learns: the labels, and what its teacher says of the same texts and of others.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), equation 1 and section
2.1. Both models' logits are divided by a temperature T before the softmax, and the loss of the soft targets is
multiplied by T^2, since its gradients shrink as 1/T^2. Here the cross-entropy with the soft targets is counted without
their own entropy, as a Kullback-Leibler divergence: the gradients are the same, and 0 is a student that says exactly
what its teacher says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bertwright.config.parts import LabelKind
from bertwright.training.loss import Objective, SquaredError

PROJECTION = "projection.weight"
"""The name of the student's projection, (teacher's hidden, student's hidden), which learns and is not saved."""

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Lessons:
    """What the teacher says of all texts that are learnt from, in their order.

    Attributes:
        logits: (texts, labels) float32, divided by the teacher's own temperature where it was calibrated.
        hidden: (texts, teacher's hidden) float16, what its classifier reads; None: not asked for.
    """

    logits: np.ndarray
    hidden: np.ndarray | None = None


class SoftTargets(Protocol):
    """What the teacher's logits ask of the student's."""

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(rows,) the loss of ``logits`` (rows, labels) float32 of the texts ``rows`` (rows,)."""
        ...


class SoftClasses:
    """T^2 sum_i p_i (ln p_i - ln q_i), with p = softmax(teacher's logits / T) and q = softmax(student's / T)."""

    def __init__(self, logits: np.ndarray, temperature: float, device: torch.device | str = "cpu") -> None:
        self._temperature = temperature
        logs = functional.log_softmax(torch.tensor(logits, dtype=torch.float32, device=device) / temperature, dim=1)
        self._targets = logs.exp()
        self._negative_entropy = (self._targets * logs).sum(dim=1)

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        logs = functional.log_softmax(logits / self._temperature, dim=1)
        divergence = self._negative_entropy[rows] - (self._targets[rows] * logs).sum(dim=1)
        return self._temperature**2 * divergence


class SoftLabels:
    """The mean over labels of T^2 KL(p, q), of p = sigmoid(teacher's logit / T) and q = sigmoid(student's / T)."""

    def __init__(self, logits: np.ndarray, temperature: float, device: torch.device | str = "cpu") -> None:
        self._temperature = temperature
        scaled = torch.tensor(logits, dtype=torch.float32, device=device) / temperature
        self._targets = torch.sigmoid(scaled)
        self._entropy = functional.binary_cross_entropy_with_logits(scaled, self._targets, reduction="none").mean(dim=1)

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        crossed = functional.binary_cross_entropy_with_logits(
            logits / self._temperature, self._targets[rows], reduction="none"
        )
        return self._temperature**2 * (crossed.mean(dim=1) - self._entropy[rows])


class SoftNumbers:
    """(student's number - teacher's number)^2, in the unit that ``SquaredError`` learns in. It has no temperature."""

    def __init__(self, logits: np.ndarray, unit: SquaredError, device: torch.device | str = "cpu") -> None:
        targets = (np.asarray(logits, np.float64)[:, 0] - unit.mean) / unit.deviation
        self._targets = torch.tensor(targets, dtype=torch.float32, device=device)

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        return functional.mse_loss(logits[:, 0], self._targets[rows], reduction="none")


class HiddenTargets:
    """MSE(student's hidden W, teacher's hidden) (Jiao et al. 2020, "TinyBERT", arXiv 1909.10351, equation 8).

    Of one vector a text, so that the two models may cut texts into other tokens. The teacher's are centred and divided
    by their deviation over all texts and places, so that a student that knows nothing of them has a loss of 1 whatever
    the teacher.
    """

    def __init__(self, hidden: np.ndarray, device: torch.device | str = "cpu") -> None:
        parts = range(0, len(hidden), _ROWS_AT_ONCE)
        total = sum(hidden[i : i + _ROWS_AT_ONCE].sum(axis=0, dtype=np.float64) for i in parts)
        mean = total / len(hidden)
        squares = sum(np.square(hidden[i : i + _ROWS_AT_ONCE] - mean).sum() for i in parts)
        deviation = float(np.sqrt(squares / hidden.size)) or 1.0
        self._hidden = torch.from_numpy(np.ascontiguousarray(hidden)).to(device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self._deviation = deviation

    def each(self, projected: Tensor, rows: Tensor) -> Tensor:
        """(rows,) the loss of ``projected`` (rows, teacher's hidden) float32."""
        targets = (self._hidden[rows].float() - self._mean) / self._deviation
        return functional.mse_loss(projected, targets, reduction="none").mean(dim=1)


class Distillation:
    """Of a labelled text (1 - w) times its label's loss plus w times that of the soft targets; of others the latter.

    Each text counts alike. The labelled texts are the first of all. With hidden targets, the outputs are logits with
    the projected hidden vectors behind them, and their loss is added with a weight of its own.

    Args:
        hard: the loss of the labelled texts.
        soft: of all ``num_texts`` texts.
        num_labels: columns of the outputs that are logits.
    """

    def __init__(
        self,
        hard: Objective,
        soft: SoftTargets,
        num_texts: int,
        num_labels: int,
        soft_weight: float,
        hidden: HiddenTargets | None = None,
        hidden_weight: float = 1.0,
    ) -> None:
        self.num_texts, self._num_labelled, self._num_labels = num_texts, hard.num_texts, num_labels
        self._hard, self._soft, self._hidden = hard, soft, hidden
        self._soft_weight, self._hidden_weight = soft_weight, hidden_weight

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        outputs = logits
        logits = outputs[:, : self._num_labels]
        losses = self._soft.each(logits, rows)
        if self._soft_weight < 1:
            # Without asking which rows are labelled: on a GPU that would make the CPU wait.
            hard = self._hard.each(logits, rows.clamp(max=self._num_labelled - 1))
            mixed = self._soft_weight * losses + (1 - self._soft_weight) * hard
            losses = torch.where(rows < self._num_labelled, mixed, losses)
        if self._hidden is not None:
            losses = losses + self._hidden_weight * self._hidden.each(outputs[:, self._num_labels :], rows)
        return losses

    def sum(self, logits: Tensor, rows: Tensor) -> Tensor:
        return self.each(logits, rows).sum()

    def scores(self, logits: np.ndarray) -> np.ndarray:
        return self._hard.scores(logits)

    def scale(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._hard.scale(state)

    def unscale(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._hard.unscale({name: tensor for name, tensor in state.items() if name != PROJECTION})


def soft_targets_of(
    kind: LabelKind, logits: np.ndarray, temperature: float, hard: Objective, device: torch.device | str = "cpu"
) -> SoftTargets:
    """The soft targets that the teacher's ``logits`` (texts, labels) are for labels of ``kind``."""
    if kind == "regression":
        assert isinstance(hard, SquaredError)
        return SoftNumbers(logits, hard, device)
    return (SoftLabels if kind == "multi-label" else SoftClasses)(logits, temperature, device)
