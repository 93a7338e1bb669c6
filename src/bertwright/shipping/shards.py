"""Texts cut into shards: as many as are read, sorted by length, scored and written at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from bertwright.data.reading import LabelledTexts
from bertwright.data.texts import Texts

MOST_BYTES = 16 << 20
"""A shard ends before its texts take more than this, so that long texts do not fill the memory."""


@dataclass(frozen=True)
class Shard:
    """Some consecutive texts.

    Attributes:
        number: which shard, from 0.
        first: of which text, counted from 0 over all usable ones.
    """

    number: int
    first: int
    texts: LabelledTexts


def shards_of(pieces: Iterable[LabelledTexts], most_texts: int, most_bytes: int = MOST_BYTES) -> Iterator[Shard]:
    """``pieces`` of texts, which may be of any size, cut into shards: of up to ``most_texts`` and ``most_bytes``, but
    of one text at least.

    Where they are cut depends on the texts alone, not on the pieces: so the same files give the same shards.
    """
    number = first = 0
    held: list[LabelledTexts] = []
    num_texts = num_bytes = 0
    for piece in pieces:
        lengths = _num_bytes(piece)
        ends = np.cumsum(lengths)
        start = 0
        while start < len(piece):
            before = int(ends[start - 1]) if start else 0
            by_bytes = int(np.searchsorted(ends, before + most_bytes - num_bytes, side="right"))
            stop = min(by_bytes, start + most_texts - num_texts, len(piece))
            if stop == start and not num_texts:
                stop = start + 1  # a text of its own
            if stop > start:
                held.append(_slice(piece, start, stop))
                num_texts += stop - start
                num_bytes += int(ends[stop - 1]) - before
            start = stop
            if start < len(piece) or num_texts == most_texts:
                yield Shard(number, first, _joined(held))
                number, first = number + 1, first + num_texts
                held, num_texts, num_bytes = [], 0, 0
    if held:
        yield Shard(number, first, _joined(held))


def _num_bytes(piece: LabelledTexts) -> np.ndarray:
    """(texts,) int64: bytes of each text, or of both of a pair."""
    lengths = piece.texts.num_bytes()
    return lengths if piece.pairs is None else lengths + piece.pairs.num_bytes()


def _slice(piece: LabelledTexts, start: int, stop: int) -> LabelledTexts:
    rows = slice(start, stop)
    return replace(
        piece,
        texts=piece.texts[rows],
        rows=piece.rows[rows],
        pairs=None if piece.pairs is None else piece.pairs[rows],
        groups={name: column[rows] for name, column in piece.groups.items()},
        tokens=None if piece.tokens is None else piece.tokens.take(np.arange(start, stop)),
    )


def _joined(held: list[LabelledTexts]) -> LabelledTexts:
    """One after the other; of several, none has token ids."""
    if len(held) == 1:
        return held[0]
    pairs = [piece.pairs for piece in held if piece.pairs is not None]
    return replace(
        held[0],
        texts=Texts.joined([piece.texts for piece in held]),
        rows=np.concatenate([piece.rows for piece in held]),
        pairs=Texts.joined(pairs) if pairs else None,
        groups={
            name: pa.chunked_array(list(itertools.chain(*(piece.groups[name].chunks for piece in held))), column.type)
            for name, column in held[0].groups.items()
        },
    )
