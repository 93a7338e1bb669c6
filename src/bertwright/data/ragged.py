"""Tokenised texts: ids end to end, and where each text starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertwright.model.tokenizer import Tokenizer
from bertwright.progress import Reporter

# Texts handed to the tokenizer at once: enough to keep all threads busy, few enough to hold little memory.
_CHUNK = 16_384


@dataclass(frozen=True)
class Ragged:
    """Token ids of many texts.

    Attributes:
        ids: (tokens,) int32, text after text.
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
        ids, lengths = self.gather(rows)
        return Ragged(ids, np.concatenate([[0], np.cumsum(lengths)]), 0)


def tokenize_texts(tokenizer: Tokenizer, texts: Sequence[str] | Any, max_length: int, reporter: Reporter) -> Ragged:
    """Token ids of ``texts`` (a sequence of strings, or a pyarrow array of them), each cut to ``max_length`` tokens.

    Raises:
        UserError: a text that is not valid Unicode.
    """
    all_ids, all_lengths, num_truncated = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], 0
    with reporter.progress("Tokenising", len(texts)) as advance:
        for start in range(0, len(texts), _CHUNK):
            part = texts[start : start + _CHUNK]
            strings = part.to_pylist() if hasattr(part, "to_pylist") else part
            ids, starts, num_cut = tokenizer.encode(strings, max_length)
            all_ids.append(ids)
            all_lengths.append(np.diff(starts))
            num_truncated += num_cut
            advance(len(strings))
    lengths = np.concatenate(all_lengths)
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return Ragged(np.concatenate(all_ids), starts, num_truncated)
