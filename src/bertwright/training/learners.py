"""What the loop trains: the whole model, or a classifier on an encoder that stays as it is; and what they score."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.data.budget import smaller_budget, within_memory
from bertwright.data.packing import split_by_budget
from bertwright.data.ragged import Ragged
from bertwright.data.resident import HostTexts, ResidentTexts, StaticShape, texts_on
from bertwright.evaluation.predictor import compute_logits, compute_texts
from bertwright.model.cpu_encoder import CpuEncoder
from bertwright.model.gpu_encoder import GpuEncoder, Work
from bertwright.model.heads import TextClassifier
from bertwright.progress import Reporter


class Learner(Protocol):
    """What the loop trains: something that turns rows of the training texts into logits."""

    device: torch.device
    cpu_encoder: CpuEncoder | None
    token_budget: int
    lengths: np.ndarray

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]: ...

    def train_mode(self, training: bool) -> None: ...

    def parts(self, rows: np.ndarray) -> list[slice]:
        """How to cut a batch of ``rows`` into parts that fit the token budget."""
        ...

    def logits(self, rows: np.ndarray) -> Tensor:
        """(rows, classes) float32, with gradients."""
        ...

    def num_tokens(self, rows: np.ndarray) -> int: ...

    def smaller_budget(self, rows: np.ndarray) -> int | None:
        """A token budget that cuts a batch of ``rows`` into smaller parts; None if there is none."""
        ...

    def use_budget(self, token_budget: int) -> None:
        """Compute no more than this many tokens at once from here on, and let go of memory that is kept for more."""
        ...


class WholeModel:
    """Full fine-tuning: every weight learns."""

    def __init__(self, model: TextClassifier, ragged: Ragged, device: torch.device, token_budget: int) -> None:
        self.model, self.ragged, self.device, self.token_budget = model, ragged, device, token_budget
        self.lengths = ragged.lengths
        self.cpu_encoder = model.cpu_encoder
        self._static: StaticShape | None = None

    def compile_for(self, batches: Iterable[np.ndarray], always: bool = False) -> None:
        """On a GPU, compile the model if the training on ``batches``, the rows of each step, pays for it, or always."""
        if self.device.type != "cuda":
            return
        sizes = [(len(rows), self.num_tokens(rows)) for rows in batches]
        tokens = [num_tokens for _, num_tokens in sizes]
        one_shape = self.ragged.window_starts is None and max(tokens) <= self.token_budget
        self.model.compile_for(Work(sum(tokens), len(tokens)), True, varied_shapes=not one_shape, always=always)
        fast = self.model.encoder.fast
        if isinstance(fast, GpuEncoder) and fast.graphs:
            most_rows = max(num_rows for num_rows, _ in sizes)
            self._static = StaticShape.of(most_rows, sizes)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.model.named_parameters())

    def train_mode(self, training: bool) -> None:
        self.model.train(training)

    def parts(self, rows: np.ndarray) -> list[slice]:
        return split_by_budget(self.lengths[rows], self.token_budget)

    def logits(self, rows: np.ndarray) -> Tensor:
        return self.model(self._texts.batch(rows, self._static))

    @functools.cached_property
    def _texts(self) -> ResidentTexts | HostTexts:
        """Made when first learnt from: texts that are only scored need not lie on a GPU twice."""
        return texts_on(self.ragged, self.device)

    def num_tokens(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())

    def smaller_budget(self, rows: np.ndarray) -> int | None:
        return smaller_budget(self.lengths[rows], self.token_budget)

    def use_budget(self, token_budget: int) -> None:
        if token_budget < self.token_budget:
            self._static = None  # its shape is that of a whole batch
        self.token_budget = token_budget
        self.model.release_memory()


class HeadOnEncoder(WholeModel):
    """Frozen encoder whose features are computed anew for each batch, with its dropout: the classifier learns."""

    def __init__(self, model: TextClassifier, ragged: Ragged, device: torch.device, token_budget: int) -> None:
        super().__init__(model, ragged, device, token_budget)
        self.cpu_encoder = None  # nothing of the encoder learns

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return _classifier_parameters(self.model)

    def logits(self, rows: np.ndarray) -> Tensor:
        with torch.no_grad():
            features = self.model.features(self._texts.batch(rows, self._static))
        return self.model.classifier(features)


class HeadOnFeatures:
    """Frozen encoder: the classifier learns from features, (texts, hidden) float32, that were computed once."""

    def __init__(self, model: TextClassifier, features: Tensor, lengths: np.ndarray, device: torch.device) -> None:
        self.model, self.features, self.lengths, self.device = model, features, lengths, device
        self.cpu_encoder: CpuEncoder | None = None  # nothing of the encoder learns
        self.token_budget = 1  # nothing is cut: a batch of features is small

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return _classifier_parameters(self.model)

    def train_mode(self, training: bool) -> None:
        self.model.eval()  # dropout of the encoder stays off
        self.model.classifier.train(training)

    def parts(self, rows: np.ndarray) -> list[slice]:
        return [slice(0, len(rows))]

    def logits(self, rows: np.ndarray) -> Tensor:
        return self.model.classifier(self.features[rows_on(rows, self.device)])

    def num_tokens(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())

    def smaller_budget(self, rows: np.ndarray) -> int | None:
        return None

    def use_budget(self, token_budget: int) -> None:
        pass


def _classifier_parameters(model: TextClassifier) -> list[tuple[str, nn.Parameter]]:
    return [("classifier." + name, parameter) for name, parameter in model.classifier.named_parameters()]


def compute_features(
    model: TextClassifier, ragged: Ragged, device: torch.device, token_budget: int, reporter: Reporter
) -> Tensor:
    """(texts, hidden) float32: what the classifier reads of every text, in evaluation mode."""
    model.eval()
    model.compile_for(Work(int(ragged.starts[-1]), 1), training=False)

    rows, width = np.arange(len(ragged)), model.config.hidden_size

    @torch.no_grad()
    def compute(token_budget: int) -> Tensor:
        features = compute_texts(
            model.features, width, ragged, rows, device, token_budget, "mean", reporter, "Features"
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # who times this must see all of it
        return features

    return within_memory(
        compute, ragged.sequence_lengths(rows), token_budget, model.release_memory, reporter, "computing features of"
    )[0]


def rows_on(rows: np.ndarray, device: torch.device) -> Tensor:
    """``rows`` as an index of what lies on ``device``."""
    return torch.from_numpy(rows).to(device, non_blocking=True)


def learner_logits(learner: WholeModel | HeadOnFeatures, rows: np.ndarray, reporter: Reporter, what: str) -> np.ndarray:
    """(rows, classes) float32 logits in evaluation mode."""
    learner.train_mode(False)
    if isinstance(learner, HeadOnFeatures):
        with torch.inference_mode():
            return learner.logits(rows).cpu().numpy()

    def compute(token_budget: int) -> np.ndarray:
        return compute_logits(learner.model, learner.ragged, rows, learner.device, token_budget, reporter, what)

    free = learner.model.release_memory
    lengths = learner.ragged.sequence_lengths(rows)
    logits, learner.token_budget = within_memory(compute, lengths, learner.token_budget, free, reporter, "scoring")
    return logits
