"""The one type between data and model: texts as token ids, laid end to end without padding.

Legend of shapes, used in every docstring of this package:

    tokens      all tokens of a batch, text after text (capacity; the first ``num_tokens`` are real)
    sequences   texts, pairs of texts, or windows of long texts: what attention stays within
    texts       what gets logits: a sequence each, or several where texts are read in windows
    hidden      width of the encoder (``hidden_size``)
    heads       attention heads (``num_attention_heads``)
    head_dim    hidden / heads
    classes     labels of the task
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A flat batch of texts.

    Attributes:
        token_ids: (tokens,) int64, ids of the vocabulary.
        positions: (tokens,) int64, place of each token in its own sequence, from 0.
        segment_ids: (tokens,) int64, 0 or 1 for the first or second text of a pair; None: all 0.
        seq_starts: (sequences + 1,) int32, where each sequence starts in ``token_ids``; the last is ``num_tokens``.
        max_len: tokens of the longest sequence.
        num_tokens: real tokens; what lies behind them in the arrays is unused capacity.
        num_fillers: the last so many sequences hold no text: they give unused capacity a place, so that every token
            belongs to a sequence, and are computed and ignored. ``seq_starts`` then ends at the capacity.
        text_starts: (texts + 1,) int64, the first sequence of each text, where texts are read in several windows; None:
            a sequence each. Not together with fillers.
    """

    token_ids: Tensor
    positions: Tensor
    segment_ids: Tensor | None
    seq_starts: Tensor
    max_len: int
    num_tokens: int
    num_fillers: int = 0
    text_starts: Tensor | None = None

    @property
    def num_sequences(self) -> int:
        """Sequences, fillers included."""
        return self.seq_starts.shape[0] - 1

    @property
    def num_real_sequences(self) -> int:
        """Sequences without the fillers, which come last."""
        return self.num_sequences - self.num_fillers

    @property
    def num_texts(self) -> int:
        return self.num_real_sequences if self.text_starts is None else self.text_starts.shape[0] - 1


@dataclass(frozen=True)
class Readers:
    """The tokens that the last layer is computed for, since nothing reads the others.

    Attributes:
        rows: (readers,) int64, their places in the batch, in order.
        starts: (sequences + 1,) int32, where each sequence's readers start in ``rows``.
        most: readers of the sequence that has the most.
    """

    rows: Tensor
    starts: Tensor
    most: int


def first_readers(batch: Batch) -> Readers:
    """The first token of each sequence."""
    starts = torch.arange(batch.num_sequences + 1, dtype=torch.int32, device=batch.seq_starts.device)
    return Readers(batch.seq_starts[:-1].long(), starts, 1)


def flat_batch(
    token_ids: np.ndarray,
    lengths: np.ndarray,
    device: torch.device | str = "cpu",
    second_starts: np.ndarray | None = None,
    text_starts: np.ndarray | None = None,
) -> Batch:
    """The batch of sequences whose ids lie end to end in ``token_ids`` (tokens,), each of its ``lengths`` (sequences,).

    Args:
        second_starts: (sequences,), from which place on a sequence's tokens are of segment 1; None: none of them.
        text_starts: (texts + 1,), the first sequence of each text; None: each sequence is one.
    """
    if len(lengths) == 0 or lengths.min() < 1:
        raise ValueError(f"a batch must hold at least one text of at least one token; got lengths {lengths.tolist()}")
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    positions = np.arange(len(token_ids), dtype=np.int64) - np.repeat(starts[:-1], lengths)
    segment_ids = None if second_starts is None else (positions >= np.repeat(second_starts, lengths)).astype(np.int64)

    def sent(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return Batch(
        token_ids=sent(token_ids.astype(np.int64)),
        positions=sent(positions),
        segment_ids=None if segment_ids is None else sent(segment_ids),
        seq_starts=sent(starts.astype(np.int32)),
        max_len=int(lengths.max()),
        num_tokens=int(starts[-1]),
        text_starts=None if text_starts is None else sent(text_starts.astype(np.int64)),
    )


def pack(sequences: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Batch:
    """The batch of the given texts' ids, each (its tokens,), in the given order."""
    lengths = np.fromiter((len(ids) for ids in sequences), dtype=np.int64, count=len(sequences))
    flat = np.concatenate(sequences) if len(sequences) else np.zeros(0, dtype=np.int64)
    return flat_batch(flat, lengths, device)
