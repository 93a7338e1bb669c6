"""JAX on the formulas of ``jax_bert``."""

from __future__ import annotations

import functools

import jax
import numpy as np

from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import NotPossible
from bertwright.benchmarking.peers import jax_bert
from bertwright.benchmarking.peers.static_shapes import StaticShapeInference


class Inference(StaticShapeInference):
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
        self.compiled = jax.jit(functools.partial(jax_bert.logits, shape=shape))
        self.chosen |= {"jax": jax.__version__, "dtype": "float32", "backend": jax.default_backend()}
        self.choose_size()

    def compute(self, ids: np.ndarray, mask: np.ndarray) -> jax.Array:
        return self.compiled(self.weights, ids, mask)
