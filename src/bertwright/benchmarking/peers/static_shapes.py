"""What libraries share that compile a computation anew for each shape of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from bertwright.benchmarking.peers.padded import PaddedInference

# Batches are as long as a multiple of this, and all of one number of texts: so there are few shapes.
_LENGTH_STEP = 32
# Without a size that was asked for: trying others would compile each shape again.
_BATCH_SIZE = 32


class StaticShapeInference(PaddedInference, ABC):
    """Scoring padded batches of few shapes.

    Attributes:
        most_tokens: that a text may have.
    """

    most_tokens: int

    @abstractmethod
    def compute(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """The logits (sequences, labels) of ids and attention mask, (sequences, tokens) int64 each, as an array of the
        library's; it may still be at work on them."""

    def choose_size(self) -> None:
        """Take the one batch size; ``compute`` must be ready."""
        self.chosen["length_step"] = _LENGTH_STEP
        self.choose({"": lambda: self}, (self.case.batch_size or _BATCH_SIZE,))
        reason = "as asked" if self.case.batch_size else "each other size would be compiled anew"
        self.chosen["batch_size_reason"] = reason

    def padded_width(self, longest: int) -> int:
        return min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.most_tokens)

    def score(self, batches: list[np.ndarray]) -> None:
        found = []  # a library may compute while the next batch is made
        for rows in batches:
            width = self.padded_width(int(self.case.ragged.lengths[rows].max()))
            ids, mask = self.case.padded(np.resize(rows, self.batch_size), width)  # the last batch has texts twice
            found.append(self.compute(ids, mask))
        for rows, computed in zip(batches, found, strict=True):
            self.logits[rows] = np.asarray(computed)[: len(rows)]

    def score_padded(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        empty = ((0, 0), (0, self.padded_width(ids.shape[1]) - ids.shape[1]))
        return np.asarray(self.compute(np.pad(ids, empty), np.pad(mask, empty)))
