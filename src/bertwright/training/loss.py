"""What a training makes small: the loss of each kind of labels.

Each loss is a sum over texts; the loop divides it by the number of texts of the batch, weighted or not, so that how a
batch is cut into parts changes nothing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bertwright.config.parts import LabelKind
from bertwright.config.train import TrainConfig
from bertwright.errors import DataError, UserError
from bertwright.evaluation.scores import scores_of
from bertwright.model.heads import HEAD_BIAS, HEAD_WEIGHT

BALANCED = "balanced"


class Objective(Protocol):
    """The loss of ``num_texts`` texts, and what stands between the logits that it is of and those that are saved."""

    num_texts: int

    def sum(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The sum, over the texts ``rows`` (rows,), of the losses of ``logits`` (rows, labels) float32."""
        ...

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(rows,) what ``sum`` adds up."""
        ...

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """(texts, labels) float64: what the texts score, by ``logits`` (texts, labels) of the model as it learns."""
        ...

    def scale(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``state``, weights by name of a saved classifier, as its training goes on from it."""
        ...

    def unscale(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``state``, weights by name of a model as it learns, as they are saved: ``scale`` backwards."""
        ...


class _Unscaled:
    """The model learns to give what is saved."""

    kind: LabelKind = "classes"

    def scores(self, logits: np.ndarray) -> np.ndarray:
        return scores_of(logits, self.kind)

    def scale(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state

    def unscale(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state


class CrossEntropy(_Unscaled):
    """Of classes: -weight ln softmax(logits) at the true class, ``label_ids`` (texts,) int64."""

    def __init__(
        self, label_ids: np.ndarray, device: torch.device | str = "cpu", weights: np.ndarray | None = None
    ) -> None:
        self.num_texts = len(label_ids)
        self._targets = torch.from_numpy(np.asarray(label_ids)).to(device)
        self._weights = _as_tensor(weights, device)

    def sum(self, logits: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(logits, self._targets[rows], self._weights, reduction="sum")

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(logits, self._targets[rows], self._weights, reduction="none")


class SoftCrossEntropy(_Unscaled):
    """Of shares of classes: -sum over classes of weight * share * ln softmax(logits); ``shares`` (texts, classes)."""

    kind: LabelKind = "soft"

    def __init__(
        self, shares: np.ndarray, device: torch.device | str = "cpu", weights: np.ndarray | None = None
    ) -> None:
        self.num_texts = len(shares)
        self._targets = torch.from_numpy(np.asarray(shares, np.float32)).to(device)
        self._weights = _as_tensor(weights, device)

    def sum(self, logits: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(logits, self._targets[rows], self._weights, reduction="sum")

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(logits, self._targets[rows], self._weights, reduction="none")


class BinaryCrossEntropy(_Unscaled):
    """Of any number of labels: the mean over labels of the cross-entropy of sigmoid(logit) and 0, 1 or a share.

    -weight (positive_weight t ln(p) + (1 - t) ln(1 - p)) for each label, with ``targets`` t (texts, labels).
    """

    kind: LabelKind = "multi-label"

    def __init__(
        self,
        targets: np.ndarray,
        device: torch.device | str = "cpu",
        weights: np.ndarray | None = None,
        positive_weights: np.ndarray | None = None,
    ) -> None:
        self.num_texts, self._num_labels = targets.shape
        self._targets = torch.from_numpy(np.asarray(targets, np.float32)).to(device)
        self._weights, self._positive_weights = _as_tensor(weights, device), _as_tensor(positive_weights, device)

    def sum(self, logits: Tensor, rows: Tensor) -> Tensor:
        return self._losses(logits, rows, "sum") / self._num_labels

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        return self._losses(logits, rows, "none").sum(dim=1) / self._num_labels

    def _losses(self, logits: Tensor, rows: Tensor, reduction: str) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            logits, self._targets[rows], self._weights, reduction=reduction, pos_weight=self._positive_weights
        )


class SquaredError:
    """Of a number: (logit - z)^2, where z is the number less the mean of all, over their standard deviation.

    So the loss starts near 1 and learning rates mean the same whatever the unit. ``unscale`` folds mean and deviation
    into the classifier, which then gives the number itself.

    Args:
        targets: (texts,) or (texts, 1).

    Raises:
        DataError: all numbers are the same, or one is not finite.
    """

    def __init__(self, targets: np.ndarray, device: torch.device | str = "cpu") -> None:
        numbers = np.asarray(targets, np.float64).reshape(len(targets))
        self.num_texts = len(numbers)
        if not np.isfinite(numbers).all():
            raise DataError("the numbers to learn hold one that is not finite, expected finite numbers")
        if not len(numbers) or numbers.min() == numbers.max():
            found = f"{numbers[0]:g} only" if len(numbers) else "none"
            raise DataError(
                f"the numbers to learn are all the same: found {found}, expected at least two different ones. "
                "Is this the label column? Name it with --label-column"
            )
        self.mean, self.deviation = float(numbers.mean()), float(numbers.std())
        self._targets = torch.from_numpy(((numbers - self.mean) / self.deviation).astype(np.float32)).to(device)

    def sum(self, logits: Tensor, rows: Tensor) -> Tensor:
        return functional.mse_loss(logits[:, 0], self._targets[rows], reduction="sum")

    def each(self, logits: Tensor, rows: Tensor) -> Tensor:
        return functional.mse_loss(logits[:, 0], self._targets[rows], reduction="none")

    def scores(self, logits: np.ndarray) -> np.ndarray:
        return scores_of(logits, "regression") * self.deviation + self.mean

    def scale(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._with_head(state, 1 / self.deviation, -self.mean / self.deviation)

    def unscale(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._with_head(state, self.deviation, self.mean)

    @staticmethod
    def _with_head(state: dict[str, Tensor], factor: float, shift: float) -> dict[str, Tensor]:
        """``state`` with a classifier that gives ``factor`` times what it gave, plus ``shift``."""
        weight, bias = state[HEAD_WEIGHT], state[HEAD_BIAS]
        scaled = {HEAD_WEIGHT: weight.double() * factor, HEAD_BIAS: bias.double() * factor + shift}
        return state | {name: tensor.to(state[name].dtype) for name, tensor in scaled.items()}


class Labels(Protocol):
    """What an objective needs to know of texts: see ``LabelledTexts``, which has it all."""

    @property
    def kind(self) -> LabelKind: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def label_ids(self) -> np.ndarray | None: ...

    @property
    def targets(self) -> np.ndarray | None: ...


def objective_of(texts: Labels, config: TrainConfig, device: torch.device) -> Objective:
    """The loss for the labels of ``texts``, weighted as ``config`` asks.

    Raises:
        DataError: all numbers of a regression are the same.
        UserError: weights of classes that cannot be used.
    """
    given = config.class_weights
    if texts.kind == "regression":
        if given:
            raise UserError("--class-weights: found a regression, which has no classes. Leave it out")
        assert texts.targets is not None
        return SquaredError(texts.targets, device)
    balanced = [part.strip() for part in given] == [BALANCED]
    weights = None if balanced or not given else given_weights(given, texts.labels)
    if texts.kind == "multi-label":
        assert texts.targets is not None
        return BinaryCrossEntropy(texts.targets, device, weights, positive_weights(texts.targets) if balanced else None)
    if texts.kind == "soft":
        assert texts.targets is not None
        if balanced:
            weights = balanced_weights(texts.targets.sum(axis=0, dtype=np.float64))
        return SoftCrossEntropy(texts.targets, device, weights)
    assert texts.label_ids is not None
    if balanced:
        weights = balanced_weights(np.bincount(texts.label_ids, minlength=len(texts.labels)))
    return CrossEntropy(texts.label_ids, device, weights)


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """(classes,) n / (k n_c), for n texts of which ``counts`` n_c are of each of k classes; their mean over texts is 1.

    As ``class_weight="balanced"`` of scikit-learn. Classes that no text has do not count, and have a weight of 1. Of
    shares, ``counts`` are their sums.
    """
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def positive_weights(targets: np.ndarray) -> np.ndarray:
    """(labels,) how many texts lack each label, over how many have it; 1 where all or none have it."""
    has = targets.sum(axis=0, dtype=np.float64)
    lacks = len(targets) - has
    weights = np.ones(len(has))
    differ = (has > 0) & (lacks > 0)
    weights[differ] = lacks[differ] / has[differ]
    return weights


def given_weights(given: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """(labels,) the weights that items LABEL=WEIGHT, or several with commas between, give; 1 where none is given.

    Raises:
        UserError: an item is no such pair, its label is none of ``labels`` or named twice, or its weight is no number,
            negative or infinite; or all weights are 0.
    """
    weights: dict[str, float] = {}
    for item in _items(given, labels):
        label, equals, number = item.rpartition("=")
        label = label.strip()
        if item.strip() == BALANCED:
            raise UserError("--class-weights: found balanced beside weights of classes, expected one or the other")
        if not equals:
            raise UserError(
                f"--class-weights: found {item!r}, expected balanced or LABEL=WEIGHT, such as {labels[-1]}=2"
            )
        if label not in labels:
            nearest = difflib.get_close_matches(label, labels, n=1)
            hint = f". Did you mean {nearest[0]}?" if nearest else ""
            shown = ", ".join(labels[:10]) + (" ..." if len(labels) > 10 else "")
            raise UserError(f"--class-weights: label {label!r} is none of {shown}{hint}")
        if label in weights:
            raise UserError(f"--class-weights: found two weights for {label}, expected one")
        weights[label] = _weight(label, number)
    found = np.array([weights.get(label, 1.0) for label in labels])
    if not found.any():
        raise UserError("--class-weights: all weights are 0, so that nothing could be learnt; expected one above 0")
    return found


def _items(given: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The items of ``given``: cut at commas, but for those whose label holds them."""
    items: list[str] = []
    for item in given:
        whole = item.rpartition("=")[0].strip() in labels
        items.extend([item] if whole else [part for part in item.split(",") if part.strip()])
    return items


def _weight(label: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(f"--class-weights: the weight of {label} is {number.strip()!r}, expected a number such as 2")
    if weight < 0:
        raise UserError(f"--class-weights: the weight of {label} is {weight:g}, expected 0 or more")
    return weight


def _as_tensor(weights: np.ndarray | None, device: torch.device | str) -> Tensor | None:
    return None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
