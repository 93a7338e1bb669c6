"""Tokenised texts kept on the device: batches are cut out there, and the CPU sends nothing but row numbers."""

from __future__ import annotations

import numpy as np
import torch

from bertwright.data.batches import batch_of
from bertwright.data.ragged import Ragged
from bertwright.model.batch import Batch


class ResidentTexts:
    """The token ids of all texts on ``device``."""

    def __init__(self, ragged: Ragged, device: torch.device) -> None:
        self.device = device
        self.lengths = ragged.lengths  # (texts,) on the CPU: sizes must be known without asking the device
        self._ids = torch.from_numpy(np.ascontiguousarray(ragged.ids, dtype=np.int32)).to(device)
        self._starts = torch.from_numpy(np.ascontiguousarray(ragged.starts, dtype=np.int64)).to(device)

    def batch(self, rows: np.ndarray, capacity: int | None = None) -> Batch:
        """The batch of ``rows`` (sequences,), without waiting for the device.

        With ``capacity``, larger than the rows' tokens, the batch has that many tokens: one filler sequence takes the
        rest, so that batches of as many rows all have the same shapes. ``max_len`` is then the capacity's, not the
        rows'.
        """
        lengths = self.lengths[rows]
        num_tokens = int(lengths.sum())
        if capacity is not None and capacity <= num_tokens:
            raise ValueError(f"{num_tokens} tokens and a filler do not fit a capacity of {capacity}")
        chosen = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(self.device, non_blocking=True)
        first = self._starts[chosen]  # (sequences,)
        ends = torch.cumsum(self._starts[chosen + 1] - first, 0)
        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        starts = torch.cat([zero, ends])
        size = num_tokens if capacity is None else capacity
        place = torch.arange(size, device=self.device)
        # Of each token the sequence that it belongs to; of a filler's tokens one past the last.
        sequence = torch.searchsorted(ends, place, right=True)
        text = sequence.clamp(max=len(rows) - 1)
        positions = place - starts[text]
        ids = self._ids[(first[text] + positions).clamp(max=self._ids.shape[0] - 1)].long()
        if capacity is not None:
            filler = sequence == len(rows)
            positions = positions.masked_fill(filler, 0)
            ids = ids.masked_fill(filler, 0)
            starts = torch.cat([starts, torch.full_like(zero, capacity)])
        return Batch(
            token_ids=ids,
            positions=positions,
            segment_ids=None,
            seq_starts=starts.to(torch.int32),
            max_len=int(lengths.max()) if capacity is None else capacity,
            num_tokens=num_tokens,
            num_fillers=0 if capacity is None else 1,
        )


class HostTexts:
    """The token ids of all texts in the CPU's memory, for a CPU."""

    def __init__(self, ragged: Ragged) -> None:
        self.ragged, self.lengths = ragged, ragged.lengths

    def batch(self, rows: np.ndarray, capacity: int | None = None) -> Batch:
        """The batch of ``rows`` (sequences,); ``capacity`` must be None: a CPU gains nothing from static shapes."""
        if capacity is not None:
            raise ValueError(f"no static shapes on a CPU; got a capacity of {capacity}")
        return batch_of(self.ragged, rows)


def texts_on(ragged: Ragged, device: torch.device) -> ResidentTexts | HostTexts:
    """The tokenised texts where batches for ``device`` are best made."""
    return HostTexts(ragged) if device.type == "cpu" else ResidentTexts(ragged, device)
