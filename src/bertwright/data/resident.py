"""Tokenised texts kept on the device: batches are cut out there, and the CPU sends nothing but row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

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
        self._ids = torch.from_numpy(np.ascontiguousarray(ragged.ids, dtype=np.int32)).to(device)
        self._starts = torch.from_numpy(np.ascontiguousarray(ragged.starts, dtype=np.int64)).to(device)

    def batch(self, rows: np.ndarray, static: StaticShape | None = None) -> Batch:
        """The batch of ``rows`` (sequences,), without waiting for the device.

        With ``static`` all batches get the same shapes: fillers make up for missing rows and tokens, which they share
        evenly, since the cost of attention grows with the square of a sequence. ``max_len`` is the number of tokens.

        Raises:
            ValueError: the rows and their fillers do not fit ``static``.
        """
        lengths = self.lengths[rows]
        num_tokens = int(lengths.sum())
        num_fillers = 0 if static is None else static.num_rows + _SPARE_FILLERS - len(rows)
        if static is not None and (num_fillers < _SPARE_FILLERS or num_tokens + num_fillers > static.num_tokens):
            raise ValueError(f"{len(rows)} rows of {num_tokens} tokens and {num_fillers} fillers do not fit {static}")
        chosen = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(self.device, non_blocking=True)
        first = self._starts[chosen]  # (sequences,)
        ends = torch.cumsum(self._starts[chosen + 1] - first, 0)
        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        starts = torch.cat([zero, ends])
        size = num_tokens if static is None else static.num_tokens
        place = torch.arange(size, device=self.device)
        # Of each token the sequence that it belongs to; of a filler's tokens one past the last.
        sequence = torch.searchsorted(ends, place, right=True)
        text = sequence.clamp(max=len(rows) - 1)
        positions = place - starts[text]
        ids = self._ids[(first[text] + positions).clamp(max=self._ids.shape[0] - 1)].long()
        if static is not None:
            filler = sequence == len(rows)
            positions = positions.masked_fill(filler, 0)
            ids = ids.masked_fill(filler, 0)
            number = torch.arange(1, num_fillers + 1, device=self.device)
            starts = torch.cat([starts, num_tokens + number * (size - num_tokens) // num_fillers])
        return Batch(
            token_ids=ids,
            positions=positions,
            segment_ids=None,
            seq_starts=starts.to(torch.int32),
            max_len=int(lengths.max()) if static is None else size,
            num_tokens=num_tokens,
            num_fillers=num_fillers,
        )


class HostTexts:
    """The token ids of all texts in the CPU's memory, for a CPU."""

    def __init__(self, ragged: Ragged) -> None:
        self.ragged, self.lengths = ragged, ragged.lengths

    def batch(self, rows: np.ndarray, static: StaticShape | None = None) -> Batch:
        """The batch of ``rows`` (sequences,); ``static`` must be None: a CPU gains nothing from static shapes."""
        if static is not None:
            raise ValueError(f"no static shapes on a CPU; got {static}")
        return batch_of(self.ragged, rows)


def texts_on(ragged: Ragged, device: torch.device) -> ResidentTexts | HostTexts:
    """The tokenised texts where batches for ``device`` are best made."""
    return HostTexts(ragged) if device.type == "cpu" else ResidentTexts(ragged, device)
