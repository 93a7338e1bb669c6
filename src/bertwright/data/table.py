"""What a file of any format is read to: a table of columns and its bad rows; and data as messages show them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
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
    ends them, at a line feed. In a .parquet file, which has no lines, it is the row, from 1, and ``unit`` says so.
    """

    path: str
    line: int
    reason: str
    unit: str = "line"

    @property
    def where(self) -> str:
        """File and line, such as ``comments.csv, line 48,213``."""
        return f"{self.path}, {self.unit} {self.line:,}"

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Table:
    """One file's columns, before anyone decided which is text and which label.

    ``columns`` holds texts as large_string, and numbers and booleans as themselves where the format knows them
    (.parquet). In a .jsonl file every value is rendered as text, and ``cell_kinds``, (rows,) uint8 of
    :class:`CellKind`, says what it was; null stands where there is no value of use. ``unusable`` names the columns of
    other types.

    ``row_numbers`` (rows,) int64 is the place of each row in the file, from 0, the header not counted; rows that could
    not be parsed are in ``bad_rows`` and leave gaps. Blank lines are no rows. ``num_source_rows`` counts the bad rows
    too.
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

    def __len__(self) -> int:
        return len(self.row_numbers)

    @property
    def unit(self) -> str:
        """What :meth:`line_of` counts: "line", or "row" in a .parquet file and in a folder of token ids."""
        return "row" if self.format in ("parquet", "tokens") else "line"

    @cached_property
    def lines(self) -> np.ndarray:
        """(rows,) int64: the line, from 1, on which each row starts. Computed when first asked for."""
        lines = self.compute_lines()
        assert len(lines) == len(self), f"{len(lines)} lines for {len(self)} rows of {self.path}"
        return lines

    def line_of(self, row: int) -> int:
        """The line, from 1, on which row ``row`` of the columns starts (the row, from 1, in a .parquet file)."""
        return int(self.lines[row])


def show(value: object, most: int = 60) -> str:
    """``value`` in double quotes, on one line, cut after ``most`` characters: a piece of data in a message."""
    text = str(value)
    text = text if len(text) <= most else text[:most] + "..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text) + '"'


def one_line(error: BaseException) -> str:
    """The message of ``error`` on one line, cut after 160 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:160] + "..."
