"""What a file of any format is read to: a table of columns and its bad rows; and data as messages show them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa


class CellKind(enum.IntEnum):
    """What a cell of a .jsonl or .parquet file held, where its column alone cannot say."""

    TEXT = 0
    NUMBER = 1
    BOOL = 2
    MISSING = 3
    NULL = 4
    NESTED = 5
    BROKEN = 6


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    ``line`` is the physical line, from 1, on which the row starts in the (decompressed) file; lines end where an editor
    ends them, at a line feed. In a .parquet file, which has no lines, it is the row, from 1, and ``unit`` says so. In a
    folder of texts, ``unit`` is "file", ``path`` the text's own file and ``line`` which of the files it is, from 1.
    """

    path: str
    line: int
    reason: str
    unit: str = "line"

    @property
    def where(self) -> str:
        """File and line, such as ``comments.csv, line 48,213``; where a row is a file, that file."""
        return self.path if self.unit == "file" else f"{self.path}, {self.unit} {self.line:,}"

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Table:
    """The columns of one file or of a part of it, before anyone decided which is text and which label.

    ``columns`` holds texts as large_string, and numbers and booleans as themselves where the format knows them
    (.parquet). In a .jsonl file every value is rendered as text, and ``cell_kinds``, (rows,) uint8 of
    :class:`CellKind`, says what it was; null stands where there is no value of use. ``unusable`` names the columns of
    other types.

    ``row_numbers`` (rows,) int64 is the place of each row in the file, from 0, the header not counted; rows that could
    not be parsed are in ``bad_rows`` and leave gaps. Blank lines are no rows. ``num_source_rows`` counts the rows of
    the part, the bad ones too. Lines and rows are counted over the whole file. ``compute_lines`` may hold the part's
    bytes. ``row_paths`` (rows,) are the files of the rows, where each row is a file.
    """

    path: str
    format: str
    columns: dict[str, pa.ChunkedArray]
    has_header: bool
    row_numbers: np.ndarray
    num_source_rows: int
    compute_lines: Callable[[], np.ndarray]
    bad_rows: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cell_kinds: dict[str, np.ndarray] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    row_paths: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.row_numbers)

    @property
    def unit(self) -> str:
        """What :meth:`line_of` counts: "line", "row" where a format has no lines, "file" in a folder of texts."""
        if self.format == "folder":
            return "file"
        return "row" if self.format in ("parquet", "arrow", "npz", "tokens") else "line"

    @cached_property
    def lines(self) -> np.ndarray:
        """(rows,) int64: the line, from 1, on which each row starts. Computed when first asked for."""
        lines = self.compute_lines()
        assert len(lines) == len(self), f"{len(lines)} lines for {len(self)} rows of {self.path}"
        return lines

    def line_of(self, row: int) -> int:
        """The line, from 1, on which row ``row`` of the columns starts; where there are no lines, the row, from 1."""
        return int(self.lines[row])

    def bad_row(self, row: int, reason: str) -> BadRow:
        """Row ``row`` of the columns as one that cannot be used."""
        path = self.row_paths[row] if len(self.row_paths) else self.path
        return BadRow(path, self.line_of(row), reason, self.unit)


def joined(parts: Sequence[Table]) -> Table:
    """Consecutive parts of one file, of the same columns, as one table; lines are computed when they are asked for."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return replace(
        first,
        columns={
            name: pa.chunked_array([chunk for part in parts for chunk in part.columns[name].chunks], column.type)
            for name, column in first.columns.items()
        },
        row_numbers=np.concatenate([part.row_numbers for part in parts]),
        num_source_rows=sum(part.num_source_rows for part in parts),
        compute_lines=lambda: np.concatenate([part.lines for part in parts]),
        bad_rows=[bad for part in parts for bad in part.bad_rows],
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
        cell_kinds={name: _joined_kinds(parts, name) for name in {name for part in parts for name in part.cell_kinds}},
        row_paths=[path for part in parts for path in part.row_paths],
    )


def _joined_kinds(parts: Sequence[Table], name: str) -> np.ndarray:
    kinds = [part.cell_kinds.get(name) for part in parts]
    return np.concatenate(
        [np.zeros(len(part), np.uint8) if kind is None else kind for part, kind in zip(parts, kinds, strict=True)]
    )


def show(value: object, most: int = 60) -> str:
    """``value`` in double quotes, on one line, cut after ``most`` characters: a piece of data in a message."""
    text = str(value)
    text = text if len(text) <= most else text[:most] + "..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text) + '"'


def one_line(error: BaseException) -> str:
    """The message of ``error`` on one line, cut after 160 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:160] + "..."
