"""The rows of a file on their way to texts and labels: which of them cannot be used, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.table import BadRow, CellKind, Table, show
from bertwright.data.texts import Texts
from bertwright.errors import DataError

MOST_BAD_ROWS = 1_000
"""So many bad rows are kept; the others are counted."""

_SKIP_HINT = "Pass --on-bad-row skip to drop such rows (they are counted)."

Reason = str | Callable[[int], str]
"""Why a row cannot be used: for all rows the same, or a function of the row of its part."""


class BadRows(Sequence[BadRow]):
    """Rows that cannot be used, in the order of their files and lines: ``len`` counts all, the first are kept."""

    def __init__(self, kept: Iterable[BadRow] = (), count: int | None = None) -> None:
        """``count`` is how many there are where ``kept`` are only the first of them."""
        self._kept = tuple(kept)
        self._count = len(self._kept) if count is None else count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[BadRow]:
        return iter(self._kept)

    @overload
    def __getitem__(self, place: int) -> BadRow: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[BadRow, ...]: ...

    def __getitem__(self, place: int | slice) -> BadRow | tuple[BadRow, ...]:
        return self._kept[place]


class Part:
    """Consecutive rows of one file, and which of them cannot be used.

    Attributes:
        table: the rows.
        problem: (rows,) int32, which of the reasons; 0 is none.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.problem = np.zeros(len(table), np.int32)
        self._reasons: list[Reason] = [""]

    @property
    def good(self) -> np.ndarray:
        """(rows,) bool: the rows that can be used."""
        return self.problem == 0

    def column(self, name: str) -> pa.ChunkedArray:
        """The cells (rows,) of a column that the first part of the file had.

        Raises:
            DataError: this part of the file has no such column, or one that holds neither texts nor numbers.
        """
        table = self.table
        if name in table.columns:
            return table.columns[name]
        if name in table.unusable:
            raise DataError(
                f"{table.path}: column {show(name)} holds {table.unusable[name]}, expected texts or numbers"
            )
        where = f" from {table.unit} {table.line_of(0):,} on" if len(table) else ""
        raise DataError(f"{table.path}: found no column {show(name)}{where}, expected it to the end. Mend the file")

    def mark(self, mask: np.ndarray, reason: Reason) -> None:
        """Rows under ``mask`` (rows,) bool cannot be used; the first reason given for a row stays."""
        mask = mask & self.good
        if mask.any():
            self.problem[mask] = len(self._reasons)
            self._reasons.append(reason)

    def mark_kinds(self, column: str, reasons: Mapping[CellKind, str]) -> None:
        """Rows whose cell in ``column`` is of a kind in ``reasons`` cannot be used."""
        kinds = self.table.cell_kinds.get(column)
        if kinds is not None:
            for kind, reason in reasons.items():
                self.mark(np.equal(kinds, kind), reason)

    def texts(self, column: str, what: str = "text") -> pa.ChunkedArray:
        """The texts (rows,) in a column, never null; rows that have none are marked. ``what`` they are, for messages.

        Raises:
            DataError: the column does not hold texts.
        """
        texts = self.column(column)
        if not pa.types.is_large_string(texts.type):
            raise DataError(f"{self.table.path}: the {what} column {show(column)} holds {texts.type}, expected strings")
        null = f"there is no {what} (null)"
        self.mark_kinds(
            column,
            {
                CellKind.NUMBER: f"the {what} is a number, expected a string",
                CellKind.BOOL: f"the {what} is a boolean, expected a string",
                CellKind.MISSING: f"there is no {what} (the key is missing)",
                CellKind.NULL: null,
                CellKind.NESTED: f"the {what} is a list or an object, expected a string",
                CellKind.BROKEN: f"the {what} is not valid Unicode",
            },
        )
        if texts.null_count:
            self.mark(np.asarray(texts.is_null()).astype(bool), null)
            texts = pc.fill_null(texts, "")
        # utf8_is_space: at least one character, and all of them white space
        blank = pc.or_(pc.utf8_is_space(texts), pc.equal(pc.binary_length(texts), 0))
        self.mark(np.asarray(blank).astype(bool), f"the {what} is empty")
        return texts

    def bad_rows(self, most: int) -> BadRows:
        """The rows that cannot be used, in the order of their lines, of which the first ``most`` are kept."""
        table = self.table
        rows = np.flatnonzero(self.problem)
        kept = list(table.bad_rows[:most])
        if len(rows) and most:
            kept += [table.bad_row(row, self.reason(row)) for row in rows[:most].tolist()]
            kept.sort(key=lambda bad: bad.line)
        return BadRows(kept[:most], len(table.bad_rows) + len(rows))

    def reason(self, row: int) -> str:
        """Why ``row`` cannot be used."""
        reason = self._reasons[self.problem[row]]
        return reason if isinstance(reason, str) else reason(row)


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels as it stands in files: names with a place among them for each row, or many numbers.

    ``codes`` (rows,) int32 index ``names``, the labels as texts. Both are None where the column holds more different
    numbers than can be classes; ``numbers`` (rows,) float64 holds those.
    """

    name: str
    names: tuple[str, ...] | None
    codes: np.ndarray | None
    numbers: np.ndarray | None = None


@dataclass(frozen=True)
class SourceColumns:
    """A file that texts came from, and the columns that were taken."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    pair: str | None = None


@dataclass(frozen=True)
class UnsettledTexts:
    """The usable texts of one or several files, with labels as they stand there: what the classes are is still open.

    ``rows`` (rows,) int64 is where each text stands among ``num_source_rows`` of all files. ``labels`` are the columns
    of labels, by the names that the first file has for them; none without labels. The rest is as in ``LabelledTexts``.
    """

    texts: Texts
    rows: np.ndarray
    num_source_rows: int
    labels: tuple[LabelColumn, ...]
    sources: tuple[SourceColumns, ...]
    bad_rows: Sequence[BadRow]
    notes: list[str]
    sha256: str
    pairs: Texts | None = None
    groups: dict[str, pa.ChunkedArray] = field(default_factory=dict)


def check_bad_rows(bad_rows: Sequence[BadRow], num_good: int, on_bad_row: str) -> None:
    """Refuse rows that cannot be used, unless they are to be skipped and there are others.

    Raises:
        DataError: there is one and ``on_bad_row`` is not "skip", or there is no other row.
    """
    if not bad_rows:
        return
    if not num_good:
        raise DataError(f"{bad_rows[0]}. No row can be used ({len(bad_rows):,} in all)")
    if on_bad_row != "skip":
        others = len(bad_rows) - 1
        more = f" (and {others:,} more {'row' if others == 1 else 'rows'})" if others else ""
        raise DataError(f"{bad_rows[0]}{more}. {_SKIP_HINT}")
