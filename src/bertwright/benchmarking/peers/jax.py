"""JAX on the formulas of ``jax_bert``."""

from __future__ import annotations

import functools

import jax
import numpy as np

from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import NotPossible
from bertwright.benchmarking.peers import jax_bert
from bertwright.benchmarking.peers.padded import PaddedInference

# XLA compiles each shape anew: batches are as long as a multiple of this, and all of one number of texts.
_LENGTH_STEP = 32
# Without a size that was asked for: trying others would compile each shape again.
_BATCH_SIZE = 32


class Inference(PaddedInference):
    """The pure function, compiled by XLA for each shape, in float32 on JAX's CPU backend."""

    def __init__(self, case: Case) -> None:
        if case.device != "cpu":
            raise NotPossible("measured on CPUs only")
        if case.pooling != "first":
            raise NotPossible("written for a classifier over the first token")
        super().__init__(case)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_default_matmul_precision", "highest")
        try:
            self.weights, shape = jax_bert.load(case.model_folder)
        except ValueError as error:
            raise NotPossible(f"written for BERT alone: {error}") from None
        self.most_tokens = self.weights["bert.embeddings.position_embeddings.weight"].shape[0]
        self.compute = jax.jit(functools.partial(jax_bert.logits, shape=shape))
        self.chosen |= {
            "jax": jax.__version__,
            "dtype": "float32",
            "backend": jax.default_backend(),
            "length_step": _LENGTH_STEP,
        }
        self.choose({"": lambda: self}, (case.batch_size or _BATCH_SIZE,))
        self.chosen["batch_size_reason"] = "as asked" if case.batch_size else "each other size would be compiled anew"

    def padded_width(self, longest: int) -> int:
        return min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.most_tokens)

    def score(self, batches: list[np.ndarray]) -> None:
        found = []  # JAX computes while the next batch is made
        for rows in batches:
            width = self.padded_width(int(self.case.ragged.lengths[rows].max()))
            ids, mask = self.case.padded(np.resize(rows, self.batch_size), width)  # the last batch has texts twice
            found.append(self.compute(self.weights, ids, mask))
        for rows, computed in zip(batches, found, strict=True):
            self.logits[rows] = np.asarray(computed)[: len(rows)]

    def score_padded(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        empty = ((0, 0), (0, self.padded_width(ids.shape[1]) - ids.shape[1]))
        return np.asarray(self.compute(self.weights, np.pad(ids, empty), np.pad(mask, empty)))
