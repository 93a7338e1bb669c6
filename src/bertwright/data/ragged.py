"""Tokenised texts: ids end to end, and where each text starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bertwright.data.texts import Texts
from bertwright.model.tokenizer import Tokenizer, cut
from bertwright.progress import Reporter

# Handed to the tokenizer at once: enough to keep all threads busy, little enough to hold little memory.
_CHUNK_BYTES = 8 << 20
_CHUNK_TEXTS = 16_384
# Tokens copied at once.
_COPIED_TOKENS = 1 << 22


@dataclass(frozen=True)
class Ragged:
    """Token ids of many texts.

    Attributes:
        ids: (tokens,) uint16 where the vocabulary fits, else int32, text after text; in memory or mapped from a file.
        starts: (texts + 1,) int64, where each text starts in ``ids``.
        num_truncated: texts that lost their end.
    """

    ids: np.ndarray
    starts: np.ndarray
    num_truncated: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(texts,) int64, tokens of each text."""
        return np.diff(self.starts)

    @property
    def truncated_share(self) -> float:
        return self.num_truncated / len(self) if len(self) else 0.0

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of ``rows`` end to end, (their tokens,), and their lengths, (rows,)."""
        first = self.starts[rows]
        lengths = self.starts[rows + 1] - first
        new_starts = np.cumsum(lengths) - lengths
        place = np.arange(int(lengths.sum())) + np.repeat(first - new_starts, lengths)
        return self.ids[place], lengths

    def take(self, rows: np.ndarray) -> Ragged:
        """The texts of ``rows`` alone; ``num_truncated`` is then not known and 0."""
        rows = np.asarray(rows, dtype=np.int64)
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(self.starts[rows + 1] - self.starts[rows], out=starts[1:])
        ids = np.empty(int(starts[-1]), dtype=self.ids.dtype)
        first = 0
        while first < len(rows):  # in parts: ``gather`` holds several int64 for each token
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + _COPIED_TOKENS, side="right")) - 1)
            ids[starts[first] : starts[last]] = self.gather(rows[first:last])[0]
            first = last
        return Ragged(ids, starts, 0)


def tokenize_texts(
    tokenizer: Tokenizer, texts: Sequence[str] | Texts | pa.Array | pa.ChunkedArray, max_length: int, reporter: Reporter
) -> Ragged:
    """Token ids of ``texts`` (strings, or an Arrow array of them), each cut to ``max_length`` tokens.

    Raises:
        UserError: a text that is not valid Unicode.
    """
    # One piece of memory, as large as could be needed: what is not written to takes no room, and nothing is copied.
    all_ids, end = np.empty(len(texts) * max_length, tokenizer.id_dtype), 0
    all_lengths, num_truncated = [np.zeros(0, np.int64)], 0
    with reporter.progress("Tokenising", len(texts)) as advance:
        for ids, starts in tokenizer.encode_each(chunks_of(texts)):
            ids, starts, num_cut = cut(ids, starts, max_length, tokenizer.sep_id)
            all_ids[end : end + len(ids)] = ids
            end += len(ids)
            all_lengths.append(np.diff(starts))
            num_truncated += num_cut
            advance(len(starts) - 1)
    starts = starts_of(np.concatenate(all_lengths))
    return Ragged(all_ids[:end], starts, num_truncated)


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """(texts + 1,) int64: where each text starts, from the (texts,) lengths."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def chunks_of(texts: Sequence[str] | Texts | pa.Array | pa.ChunkedArray) -> Iterator[Sequence[str] | pa.Array]:
    """``texts`` in consecutive parts that are worth a call of the tokenizer each, without a copy of an Arrow array."""
    if isinstance(texts, Texts):
        yield from texts.chunks(_CHUNK_BYTES)
        return
    if not isinstance(texts, pa.Array | pa.ChunkedArray):
        for start in range(0, len(texts), _CHUNK_TEXTS):
            yield texts[start : start + _CHUNK_TEXTS]
        return
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        if not pa.types.is_large_string(chunk.type):
            chunk = chunk.cast(pa.large_string())
        if not len(chunk):
            continue
        offsets = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        first = 0
        while first < len(chunk):
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _CHUNK_BYTES, side="right")) - 1)
            yield chunk[first:last]
            first = last
