"""Files of texts read piece by piece, where not even some bytes a row may stay in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import pyarrow as pa
import pyarrow.parquet

from bertwright.data.choose import Asked, choose_texts
from bertwright.data.read import format_of, read_parts
from bertwright.data.reading import LabelledTexts, Reading
from bertwright.data.rows import BadRows, check_bad_rows
from bertwright.data.table import show
from bertwright.errors import DataError


class UnlabelledStream:
    """The texts of files as ``read_unlabelled`` gives them, but in pieces of about 16 MiB, of which none is kept.

    What ``read_unlabelled`` knows before any work is known here once all is read: a bad row is refused where it stands,
    and how many rows were skipped, and what was found out about columns, is told by ``bad_rows`` and ``notes`` then.

    Attributes:
        num_bytes: of all files, as they lie on disk.
        num_bytes_read: of them, about so many stand before the end of the last piece.
    """

    def __init__(
        self,
        files: Sequence[str],
        text_column: str | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        pair_column: str | None = None,
        group_columns: Sequence[str] = (),
    ) -> None:
        """``files`` are files alone, not folders."""
        self.files = tuple(files)
        self.num_bytes = sum(os.stat(file).st_size for file in files)
        self.num_bytes_read = 0
        self._on_bad_row = on_bad_row
        self._asked = Asked(text_column, pair_column, (), tuple(group_columns))
        self._reading = Reading(lambda table: choose_texts(table, self._asked))
        self._group_kinds: dict[str, tuple[pa.DataType, str]] = {}

    def __iter__(self) -> Iterator[LabelledTexts]:
        """The pieces, once.

        Raises:
            DataError: as ``read_unlabelled``; also where a column of groups holds other types in other files.
        """
        for file in self.files:
            yield from self._pieces_of(file)
        _ = self.bad_rows  # refused where no row at all can be used

    def _pieces_of(self, file: str) -> Iterator[LabelledTexts]:
        before, size, first_row = self.num_bytes_read, os.stat(file).st_size, self._reading.num_source_rows
        kind, compression = format_of(file)
        stored = kind in ("parquet", "arrow", "npz")  # not read from begin to end
        num_rows = _num_parquet_rows(file) if kind == "parquet" and not compression else None
        tables = read_parts(file, self._asked.names, plain_text=True, on_bytes=None if stored else self._count)
        for piece in self._reading.usable_parts(tables):
            if num_rows:
                self.num_bytes_read = before + size * (self._reading.num_source_rows - first_row) // num_rows
            if self._on_bad_row == "error":
                self._refuse_bad_rows()
            yield replace(piece, groups={name: self._same_kind(name, column) for name, column in piece.groups.items()})
        if stored:
            self.num_bytes_read = before + size

    def _count(self, content: bytes) -> None:
        self.num_bytes_read += len(content)

    def _refuse_bad_rows(self) -> None:
        """At the first: how many others there are is not known."""
        first = next((bad for file in self._reading.files for bad in file.bad_rows), None)
        if first is not None:
            check_bad_rows([first], 1, "error")

    def _same_kind(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        path = self._reading.files[-1].path
        kind, first = self._group_kinds.setdefault(name, (column.type, path))
        if column.type != kind:
            raise DataError(
                f"{path}: the column {show(name)} holds {column.type}, expected {kind} as in {first}. Write both "
                "alike, or score the files one at a time"
            )
        return column

    @property
    def notes(self) -> list[str]:
        """What the user must be told of the files so far."""
        return self._reading.notes()

    @property
    def bad_rows(self) -> BadRows:
        """The rows so far that could not be used.

        Raises:
            DataError: no other row was there.
        """
        return self._reading.bad_rows("skip", self._reading.num_good)


def _num_parquet_rows(file: str) -> int | None:
    try:
        return int(pa.parquet.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError):  # said where it is read
        return None
