"""Tokenised texts kept on the device: batches are cut out there, and the CPU sends nothing but row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertwright.data.batches import batch_of
from bertwright.data.ragged import Ragged
from bertwright.model.batch import Batch

# A batch of one shape has this many fillers beyond those for missing rows, and a multiple of so many tokens.
_SPARE_FILLERS = 8
_TOKENS_STEP = 256


@dataclass(frozen=True)
class StaticShape:
    """The shape of all batches of a training: up to ``num_rows`` rows, and with their fillers ``num_tokens`` tokens."""

    num_rows: int
    num_tokens: int

    @classmethod
    def of(cls, num_rows: int, sizes: Sequence[tuple[int, int]]) -> StaticShape:
        """The smallest that takes batches of ``sizes``: rows, up to ``num_rows``, and tokens."""
        most = max(num_tokens + num_rows - rows + _SPARE_FILLERS for rows, num_tokens in sizes)
        return cls(num_rows, -(-most // _TOKENS_STEP) * _TOKENS_STEP)


class ResidentTexts:
    """The token ids of all texts on ``device``."""

    def __init__(self, ragged: Ragged, device: torch.device) -> None:
        self.device = device
        self.lengths = ragged.lengths  # (texts,) on the CPU: sizes must be known without asking the device
        self._ragged = ragged
        self._sequence_lengths = np.diff(ragged.starts)
        self._ids = torch.empty(int(ragged.starts[-1]), dtype=torch.int32, device=device)
        for place, piece in ragged.pieces():
            self._ids[place : place + len(piece)] = torch.from_numpy(piece.astype(np.int32))
        self._starts = self._sent(ragged.starts)
        self._second_starts = None if ragged.second_starts is None else self._sent(ragged.second_starts)

    def _sent(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64)).to(self.device, non_blocking=True)

    def batch(self, rows: np.ndarray, static: StaticShape | None = None) -> Batch:
        """The batch of ``rows`` (texts,), without waiting for the device.

        With ``static`` all batches get the same shapes: fillers make up for missing rows and tokens, which they share
        evenly, since the cost of attention grows with the square of a sequence. ``max_len`` is the number of tokens.
        Texts in windows have too many different numbers of sequences for that: for them it is left out.

        Raises:
            ValueError: the rows and their fillers do not fit ``static``.
        """
        sequences, text_starts = self._ragged.sequences_of(rows)
        if self._ragged.window_starts is not None:
            static = None
        lengths = self._sequence_lengths[sequences]
        num_tokens = int(lengths.sum())
        num_fillers = 0 if static is None else static.num_rows + _SPARE_FILLERS - len(rows)
        if static is not None and (num_fillers < _SPARE_FILLERS or num_tokens + num_fillers > static.num_tokens):
            raise ValueError(f"{len(rows)} rows of {num_tokens} tokens and {num_fillers} fillers do not fit {static}")
        chosen = self._sent(sequences)
        first = self._starts[chosen]  # (sequences,)
        ends = torch.cumsum(self._starts[chosen + 1] - first, 0)
        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        starts = torch.cat([zero, ends])
        size = num_tokens if static is None else static.num_tokens
        place = torch.arange(size, device=self.device)
        # Of each token the sequence that it belongs to; of a filler's tokens one past the last.
        sequence = torch.searchsorted(ends, place, right=True)
        owner = sequence.clamp(max=len(sequences) - 1)
        positions = place - starts[owner]
        ids = self._ids[(first[owner] + positions).clamp(max=self._ids.shape[0] - 1)].long()
        segment_ids = None
        if self._second_starts is not None:
            segment_ids = (positions >= self._second_starts[chosen][owner]).long()
        if static is not None:
            filler = sequence == len(rows)
            positions = positions.masked_fill(filler, 0)
            ids = ids.masked_fill(filler, 0)
            segment_ids = None if segment_ids is None else segment_ids.masked_fill(filler, 0)
            number = torch.arange(1, num_fillers + 1, device=self.device)
            starts = torch.cat([starts, num_tokens + number * (size - num_tokens) // num_fillers])
        return Batch(
            token_ids=ids,
            positions=positions,
            segment_ids=segment_ids,
            seq_starts=starts.to(torch.int32),
            max_len=int(lengths.max()) if static is None else size,
            num_tokens=num_tokens,
            num_fillers=num_fillers,
            text_starts=None if text_starts is None else self._sent(text_starts),
        )


class HostTexts:
    """The token ids of all texts in the CPU's memory, for a CPU."""

    def __init__(self, ragged: Ragged) -> None:
        self.ragged, self.lengths = ragged, ragged.lengths

    def batch(self, rows: np.ndarray, static: StaticShape | None = None) -> Batch:
        """The batch of ``rows`` (texts,); ``static`` must be None: a CPU gains nothing from static shapes."""
        if static is not None:
            raise ValueError(f"no static shapes on a CPU; got {static}")
        return batch_of(self.ragged, rows)


def texts_on(ragged: Ragged, device: torch.device) -> ResidentTexts | HostTexts:
    """The tokenised texts where batches for ``device`` are best made."""
    return HostTexts(ragged) if device.type == "cpu" else ResidentTexts(ragged, device)
