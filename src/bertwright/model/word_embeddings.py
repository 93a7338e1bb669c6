"""Token embeddings of a large model for a small one from nothing: what words mean need not be learnt anew."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bertwright.errors import CheckpointError
from bertwright.model.checkpoint import load_for_training
from bertwright.model.encoder import SIZES
from bertwright.model.tokenizer import Tokenizer

STANDARD_DEVIATION = 0.1
_LEAST_LENGTH = 8


@dataclass(frozen=True)
class WordEmbeddings:
    """Token embeddings of another model, brought to a width.

    Attributes:
        table: (vocab_size, hidden_size) float32, with mean 0 and standard deviation ``STANDARD_DEVIATION``. Its last
            bits depend on the machine and the number of threads.
        share_of_variance: of the other model's embeddings, that is kept.
        sha256: of the other model's embeddings.
    """

    table: Tensor
    share_of_variance: float
    sha256: str


def embeddings_from(name: str, tokenizer: Tokenizer, hidden_size: int) -> WordEmbeddings:
    """The token embeddings of the model ``name``, brought to ``hidden_size`` by principal components.

    ``tokenizer`` is the small model's: both must give a word the same ids. Rows behind the last token's, which many
    models have, are left out.

    Raises:
        CheckpointError: the model cannot be read, has other words, is narrower, or has learnt nothing.
    """
    if name in SIZES and not Path(name).is_dir():
        raise CheckpointError(
            f"--word-embeddings {name}: a model from nothing knows no words; name one that has learnt"
        )
    loaded = load_for_training(name, ("0", "1"), "first", _LEAST_LENGTH, 0)
    if loaded.tokenizer.sha256 != tokenizer.sha256:
        raise CheckpointError(
            f"--word-embeddings {name}: its vocabulary is not that of the model that starts; give --tokenizer {name}"
        )
    table = loaded.model.encoder.embeddings.token.weight.detach().float()[: tokenizer.vocab_size]
    if table.shape[1] < hidden_size:
        raise CheckpointError(
            f"--word-embeddings {name}: its embeddings have {table.shape[1]} numbers, expected at least {hidden_size}; "
            "name a wider model"
        )
    if not torch.isfinite(table).all() or not (table - table.mean(dim=0)).std() > 0:
        raise CheckpointError(f"--word-embeddings {name}: its embeddings are not finite numbers that differ")
    return WordEmbeddings(*principal_components(table, hidden_size), _sha256(table))


def _sha256(table: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(table.numpy(), "<f4").tobytes()).hexdigest()


def principal_components(table: Tensor, width: int) -> tuple[Tensor, float]:
    """``table``, (rows, columns), in its ``width`` directions of largest variance, scaled to ``STANDARD_DEVIATION``.

    The mean of all rows, which says nothing of a word, is taken away first. Source: Jolliffe 2002, "Principal Component
    Analysis"; for word embeddings, Raunak, Gupta and Metze 2019, "Effective Dimensionality Reduction for Word
    Embeddings" (W19-4328).

    Returns:
        The table, (rows, width) in ``table``'s dtype, and the share of the variance in it.
    """
    centred = table.double() - table.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    # The sign of a direction is chance: the largest entry is made positive, so that every library gives the same.
    directions = directions[:, -width:].flip(1)
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    kept = centred @ (directions * signs)
    share = (variances[-width:].sum() / variances.sum()).item()
    return (kept * (STANDARD_DEVIATION / kept.std())).to(table.dtype), share
