"""The trace of a training, put together after it: all but the losses follows from the settings and the texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bertwright.config.train import TrainConfig
from bertwright.data.batches import training_batches
from bertwright.data.columns import LabelledTexts
from bertwright.data.ragged import Ragged, starts_of
from bertwright.steps import Trace
from bertwright.training.loop import num_steps_of
from bertwright.training.schedule import rate_factor

# Tokens, or weights, held in another form at once.
_AT_ONCE = 1 << 20


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of weights in float32: names, shapes and values, by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach()
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        flat = weight.reshape(-1)
        for start in range(0, len(flat), _AT_ONCE):
            digest.update(_little_endian(flat[start : start + _AT_ONCE].to("cpu", torch.float32).numpy(), "<f4"))
    return digest.hexdigest()


def trace_of(
    config: TrainConfig,
    texts: LabelledTexts,
    ragged: Ragged,
    losses: np.ndarray,
    initial_weights_sha256: str,
    taught_by: str = "",
) -> Trace:
    """The trace of a training of ``config``, resolved, on ``texts`` with the token ids ``ragged``.

    A student's texts without labels are in ``ragged`` alone.

    Args:
        losses: (steps taken,) float32, from the first step on, also where the training was stopped and resumed.
        initial_weights_sha256: ``weights_sha256`` of the weights before the first step; they are updated in place.
        taught_by: ``weights_sha256`` of a student's teacher, whose scores stand beside the labels.
    """
    num_texts, num_taken = len(ragged), len(losses)
    num_steps = num_steps_of(config, num_texts)
    num_warmup = math.ceil(config.warmup_ratio * num_steps)
    rate = config.learning_rate or 0.0
    text_hashes, token_ids_sha256 = _hashes_of_texts(ragged)
    lengths = ragged.lengths
    counts = np.zeros((num_taken, 2), np.int32)
    hashes = np.zeros((num_taken, 2), np.uint64)
    for step, rows in enumerate(training_batches(num_texts, config.batch_size, config.seed, num_taken)):
        counts[step] = len(rows), lengths[rows].sum()
        hashes[step] = _hash(_little_endian(rows, "<i8")), _hash(text_hashes[rows].tobytes())
    labels = texts.targets if texts.targets is not None else texts.label_ids
    assert labels is not None
    kind = labels.dtype.newbyteorder("<").str if labels.dtype.kind == "f" else "<i8"
    learnt = hashlib.sha256(_little_endian(labels, kind))
    learnt.update(taught_by.encode())
    return Trace(
        losses=np.asarray(losses, np.float32),
        learning_rates=rate
        * np.array([rate_factor(config.schedule, step, num_steps, num_warmup) for step in range(num_taken)]),
        num_texts=counts[:, 0],
        num_tokens=counts[:, 1],
        rows_hashes=hashes[:, 0],
        texts_hashes=hashes[:, 1],
        hashes={
            "initial_weights_sha256": initial_weights_sha256,
            "token_ids_sha256": token_ids_sha256,
            "labels_sha256": learnt.hexdigest(),
        },
    )


def _hashes_of_texts(ragged: Ragged) -> tuple[np.ndarray, str]:
    """(texts,) uint64, a hash of each text's token ids, and the SHA-256 of all of them with their lengths."""
    found, lengths = np.zeros(len(ragged), "<u8"), ragged.lengths
    digest = hashlib.sha256(_little_endian(lengths, "<i8"))
    if ragged.second_starts is not None:  # of pairs, where the second texts start
        digest.update(_little_endian(ragged.second_starts, "<i4"))
    starts = starts_of(lengths)
    first = 0
    while first < len(ragged):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _AT_ONCE, side="right")) - 1)
        data = _little_endian(ragged.gather(np.arange(first, last))[0], "<i4")
        digest.update(data)
        ends = ((starts[first : last + 1] - starts[first]) * 4).tolist()
        found[first:last] = [_hash(data[ends[i] : ends[i + 1]]) for i in range(last - first)]
        first = last
    return found, digest.hexdigest()


def _hash(data: memoryview | bytes) -> int:
    """The first eight bytes of BLAKE2b, as a number."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _little_endian(values: np.ndarray, kind: str) -> memoryview:
    return np.ascontiguousarray(values, dtype=kind).reshape(-1).view(np.uint8).data
