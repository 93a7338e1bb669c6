"""The texts of many rows: immutable, in memory while they are few, in a temporary file mapped into memory beyond."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa

from bertwright.data.spool import Spool

MOST_MEMORY_BYTES = 64 << 20
"""Texts of more bytes than this (UTF-8 and offsets) are spooled to a temporary file."""

_KIND = pa.large_string()
TEXTS_SCHEMA = pa.schema([pa.field("text", _KIND, nullable=False)])
"""The one column of an Arrow file of texts."""

# Smaller arrays are put together before they are written, so that a spool has few pieces.
_LEAST_WRITTEN_BYTES = 1 << 20
# How much is handed on at once where the caller does not say, and how many chosen rows are looked up at once.
_CHUNK_BYTES = 8 << 20
_BLOCK_ROWS = 1 << 16


class Texts(Sequence[str]):
    """Strings, one a row, in order: ``texts[3]``, ``texts[10:20]``, ``texts.take(rows)``, ``texts.chunks(bytes)``.

    Slices and ``take`` copy no text: they are rows of the same memory or file. Never holds a null.
    """

    def __init__(
        self, arrays: Iterable[pa.Array] = (), rows: np.ndarray | None = None, files: Sequence[MappedTexts] = ()
    ) -> None:
        """``arrays`` of large_string, one after the other; of those the ``rows`` (rows,) int64 alone, in their order.

        ``files`` are those that the arrays are mapped from: what was read of them is given back to the system.
        """
        self._arrays = [array for array in arrays if len(array)]
        self._starts = np.zeros(len(self._arrays) + 1, np.int64)
        np.cumsum([len(array) for array in self._arrays], out=self._starts[1:])
        self._rows = rows
        self._files = tuple(files)

    @staticmethod
    def of(texts: Iterable[str] | pa.Array | pa.ChunkedArray | Texts) -> Texts:
        """The texts of a list of strings or of an Arrow array of them, without a copy of a large_string array."""
        if isinstance(texts, Texts):
            return texts
        if not isinstance(texts, pa.Array | pa.ChunkedArray):
            texts = pa.array(list(texts), _KIND)
        assert not texts.null_count, "texts must not be null"
        chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
        return Texts(chunk.cast(_KIND) for chunk in chunks)

    @staticmethod
    def joined(parts: Sequence[Texts]) -> Texts:
        """All texts of ``parts``, one after the other, without a copy."""
        if len(parts) == 1:
            return parts[0]
        arrays = [array for part in parts for array in part._arrays]
        files = [file for part in parts for file in part._files]
        if all(part._rows is None for part in parts):
            return Texts(arrays, None, files)
        before = np.cumsum([0, *(int(part._starts[-1]) for part in parts)])
        rows = [
            (np.arange(len(part)) if part._rows is None else part._rows) + first
            for part, first in zip(parts, before.tolist(), strict=False)
        ]
        return Texts(arrays, np.concatenate([*rows, np.empty(0, np.int64)]), files)

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> Texts: ...

    def __getitem__(self, place: int | slice) -> str | Texts:
        if isinstance(place, slice):
            return self._slice(place)
        row = range(len(self))[place]
        row = row if self._rows is None else int(self._rows[row])
        array = int(np.searchsorted(self._starts, row, side="right")) - 1
        text: str = self._arrays[array][row - int(self._starts[array])].as_py()
        return text

    def _slice(self, places: slice) -> Texts:
        if self._rows is not None:
            return Texts(self._arrays, self._rows[places], self._files)
        first, last, step = places.indices(len(self))
        if step != 1:
            return Texts(self._arrays, np.arange(len(self))[places], self._files)
        begins = np.clip(first - self._starts[:-1], 0, None).tolist()
        ends = np.clip(last - self._starts[:-1], 0, None).tolist()
        arrays = [array[begin:end] for array, begin, end in zip(self._arrays, begins, ends, strict=True) if end > begin]
        return Texts(arrays, None, self._files)

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks(_CHUNK_BYTES):
            yield from chunk.to_pylist()

    def num_bytes(self) -> np.ndarray:
        """(texts,) int64: bytes of UTF-8 of each text."""
        if self._rows is not None:
            return self._lengths(self._rows)
        lengths = [np.diff(_offsets(array)) for array in self._arrays]
        return np.concatenate([np.empty(0, np.int64), *lengths])

    def take(self, rows: np.ndarray | Sequence[int] | pa.Array) -> Texts:
        """The texts at ``rows`` (any number of them, in any order), each as often as it stands there.

        Raises:
            IndexError: there is no such row.
        """
        chosen = np.asarray(rows).astype(np.int64)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(self):
            raise IndexError(f"rows must be from 0 to {len(self) - 1}. Got {chosen.min()} to {chosen.max()}.")
        return Texts(self._arrays, chosen if self._rows is None else self._rows[chosen], self._files)

    def to_pylist(self) -> list[str]:
        """All of them as strings: for few texts."""
        return list(self)

    def to_arrow(self) -> pa.ChunkedArray:
        """All of them as large_string, without a copy unless rows were chosen: for few texts."""
        arrays = self._arrays if self._rows is None else list(self.chunks(_CHUNK_BYTES))
        return pa.chunked_array(arrays, _KIND)

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.ChunkedArray:
        """What ``pyarrow.array(texts)`` and ``pyarrow.table`` take."""
        return self.to_arrow() if type is None else self.to_arrow().cast(type)

    def chunks(self, max_bytes: int = _CHUNK_BYTES) -> Iterator[pa.LargeStringArray]:
        """The texts in order, in arrays of up to ``max_bytes`` bytes of UTF-8, but at least one text each.

        What was read of a file is given back to the system on the way, so that going through texts of any size takes
        memory for two chunks.
        """
        if self._rows is None:
            for array in self._arrays:
                offsets = _offsets(array)
                for first, last in _portions(offsets[:-1], offsets[1:], max_bytes):
                    yield array[first:last]
                    self._give_back()
            return
        for start in range(0, len(self._rows), _BLOCK_ROWS):
            rows = self._rows[start : start + _BLOCK_ROWS]
            ends = np.cumsum(self._lengths(rows))
            for first, last in _portions(np.append(0, ends[:-1]), ends, max_bytes):
                yield self._gathered(rows[first:last])
                self._give_back()

    def _located(self, rows: np.ndarray) -> Iterator[tuple[pa.Array, np.ndarray, np.ndarray]]:
        """Each array that holds some of ``rows``, where they are in it, and which of ``rows`` they are."""
        holders = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(holders, kind="stable")
        changes = np.flatnonzero(np.diff(holders[order])) + 1
        for places in np.split(order, changes):
            if len(places):
                holder = int(holders[places[0]])
                yield self._arrays[holder], rows[places] - self._starts[holder], places

    def _lengths(self, rows: np.ndarray) -> np.ndarray:
        """(rows,) int64: bytes of each text."""
        lengths = np.empty(len(rows), np.int64)
        for array, local, places in self._located(rows):
            offsets = _offsets(array)
            lengths[places] = offsets[local + 1] - offsets[local]
        return lengths

    def _gathered(self, rows: np.ndarray) -> pa.Array:
        """The texts at ``rows`` of the arrays, copied into one array in the order of ``rows``."""
        pieces, order = [], []
        for array, local, places in self._located(rows):
            pieces.append(array.take(pa.array(local)))
            order.append(places)
            self._give_back()  # at once: few rows here and there may touch every page of the file
        together = pa.concat_arrays(pieces)
        back = np.argsort(np.concatenate(order), kind="stable")
        return together if np.array_equal(back, np.arange(len(back))) else together.take(pa.array(back))

    def _give_back(self) -> None:
        for file in self._files:
            file.give_back()


def _offsets(array: pa.Array) -> np.ndarray:
    """(texts + 1,) int64: where each text of ``array`` starts among its bytes."""
    return np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8)


def _portions(begins: np.ndarray, ends: np.ndarray, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Consecutive texts of up to ``max_bytes`` together, at least one, as (first, last): begins and ends in bytes."""
    first = 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, begins[first] + max_bytes, side="right")))
        yield first, last
        first = last


class MappedTexts:
    """The arrays of an Arrow file of one column of texts, mapped into memory.

    Attributes:
        arrays: as they stand in the file, not yet checked.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        """``memory`` is the whole file.

        Raises:
            ValueError, pa.ArrowException: it is no Arrow file of such a column.
        """
        self._memory = memory
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._memory)))
        if not reader.schema.equals(TEXTS_SCHEMA):
            raise ValueError("other columns than text")
        self.arrays = [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]

    def checked(self) -> Texts:
        """All texts, once it is clear that they are some: the file may hold anything.

        Raises:
            ValueError, pa.ArrowException: they are no valid strings, or one is null.
        """
        texts = Texts(self.arrays, None, [self])
        for array in texts._arrays:
            array.validate(full=True)
            if array.null_count:
                raise ValueError("a text that is null")
            self.give_back()
        return texts

    def give_back(self) -> None:
        """Let the system drop what was read of the file from memory: it is read again where it is used again.

        All of it, not the part just read alone: with that, the system maps the pages around it as well.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)


class TextsWriter:
    """Takes texts, array after array, and gives them as :class:`Texts`.

    From ``MOST_MEMORY_BYTES`` on they go to a temporary file that has no name: nothing is left behind, come what may.
    """

    def __init__(self) -> None:
        self._arrays: list[pa.Array] = []
        self._num_bytes = 0
        self._spool: Spool | None = None
        self._table: Any = None

    def append(self, texts: pa.Array | pa.ChunkedArray) -> None:
        """Add texts, none of them null.

        Raises:
            DataError: the temporary file cannot be made or written, as on a full disk.
        """
        for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
            if len(chunk):
                array = chunk.cast(_KIND)
                self._arrays.append(array)
                self._num_bytes += array.nbytes
        if self._spool is None and self._num_bytes > MOST_MEMORY_BYTES:
            self._spool = Spool("the texts")
            self._table = pa.ipc.new_file(self._spool, TEXTS_SCHEMA)
        if self._spool is not None and self._num_bytes >= _LEAST_WRITTEN_BYTES:
            self._write()

    def _write(self) -> None:
        arrays, self._arrays, self._num_bytes = self._arrays, [], 0
        group: list[pa.Array] = []
        for number, array in enumerate(arrays, 1):
            group.append(array)
            if number == len(arrays) or sum(one.nbytes for one in group) >= _LEAST_WRITTEN_BYTES:
                self._table.write_batch(pa.record_batch([pa.concat_arrays(group)], schema=TEXTS_SCHEMA))
                group = []

    def finish(self) -> Texts:
        """All that was added; the writer is then done.

        Raises:
            DataError: the temporary file cannot be written or mapped.
        """
        if self._spool is None:
            return Texts(self._arrays)
        self._write()
        self._table.close()
        file = MappedTexts(self._spool.mapped())
        return Texts(file.arrays, None, [file])
