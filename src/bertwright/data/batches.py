"""Which texts are computed together: the order of an epoch, and the flat batch of some texts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from bertwright.data.ragged import Ragged
from bertwright.model.batch import Batch, flat_batch
from bertwright.randomness import purpose_seed


def epoch_order(num_texts: int, seed: int, epoch: int) -> np.ndarray:
    """(texts,) int64: a permutation that depends on the seed and the epoch (from 0) alone."""
    return np.random.default_rng(purpose_seed(seed, "order", epoch)).permutation(num_texts)


def training_batches(num_texts: int, batch_size: int, seed: int, num_steps: int) -> Iterator[np.ndarray]:
    """The rows of each of ``num_steps`` optimizer steps, epoch after epoch; an epoch's last batch may be smaller."""
    step, epoch = 0, 0
    while step < num_steps:
        order = epoch_order(num_texts, seed, epoch)
        for start in range(0, num_texts, batch_size):
            if step == num_steps:
                return
            yield order[start : start + batch_size]
            step += 1
        epoch += 1


def steps_per_epoch(num_texts: int, batch_size: int) -> int:
    return -(-num_texts // batch_size)


def batch_of(ragged: Ragged, rows: np.ndarray, device: torch.device | str = "cpu") -> Batch:
    """The flat batch of ``rows`` (texts,) of the tokenised texts."""
    sequences, text_starts = ragged.sequences_of(rows)
    token_ids, lengths = ragged.gather_sequences(sequences)
    second_starts = None if ragged.second_starts is None else ragged.second_starts[sequences]
    return flat_batch(token_ids, lengths, device, second_starts, text_starts)
