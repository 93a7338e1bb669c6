"""The rows of a file on their way to texts and labels: which of them cannot be used, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.table import BadRow, CellKind, Table, show
from bertwright.errors import DataError

if TYPE_CHECKING:
    from bertwright.data.token_cache import CachedTokens

_SKIP_HINT = "Pass --on-bad-row skip to drop such rows (they are counted)."
_NOT_TEXT = {
    CellKind.NUMBER: "the text is a number, expected a string",
    CellKind.BOOL: "the text is a boolean, expected a string",
    CellKind.MISSING: "there is no text (the key is missing)",
    CellKind.NULL: "there is no text (null)",
    CellKind.NESTED: "the text is a list or an object, expected a string",
    CellKind.BROKEN: "the text is not valid Unicode",
}


@dataclass
class Part:
    """One file on its way to texts and labels.

    ``problem`` (rows,) int32 indexes ``reasons``; 0 is none. ``codes`` (rows,) int64 indexes ``names``, the labels as
    texts, None where there is none; both are empty without labels. ``skipped`` are rows that the user has already been
    told of, ``tokens`` the texts' token ids where they came with the texts.
    """

    table: Table
    texts: pa.ChunkedArray
    notes: list[str]
    problem: np.ndarray
    reasons: list[str] = field(default_factory=lambda: [""])
    text_column: str = ""
    label_column: str = ""
    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: list[str | None] = field(default_factory=list)
    skipped: list[BadRow] = field(default_factory=list)
    tokens: CachedTokens | None = None

    @property
    def good(self) -> np.ndarray:
        """(rows,) bool: the rows that can be used."""
        return self.problem == 0

    def count_labels(self) -> Counter[str]:
        """How many usable rows have each label that stands in one."""
        found = np.bincount(self.codes[self.good], minlength=len(self.names))
        counts: Counter[str] = Counter()
        for name, count in zip(self.names, found.tolist(), strict=True):
            if name is not None and count:
                counts[name] += count
        return counts

    def label_ids(self, ids: Mapping[str, int]) -> np.ndarray:
        """(usable rows,) int64: the ids of their labels."""
        of_code = [-1 if name is None else ids.get(name, -1) for name in self.names]
        return np.array(of_code, np.int64)[self.codes[self.good]]

    def mark(self, mask: np.ndarray, reason: str) -> None:
        """Rows under ``mask`` (rows,) bool cannot be used; the first reason given for a row stays."""
        mask = mask & self.good
        if mask.any():
            self.problem[mask] = len(self.reasons)
            self.reasons.append(reason)

    def mark_kinds(self, column: str, reasons: Mapping[CellKind, str]) -> None:
        """Rows whose cell in ``column`` is of a kind in ``reasons`` cannot be used."""
        kinds = self.table.cell_kinds.get(column)
        if kinds is not None:
            for kind, reason in reasons.items():
                self.mark(np.equal(kinds, kind), reason)

    def mark_labels(self, reasons: Mapping[int, str]) -> None:
        """Rows whose label's code is in ``reasons`` cannot be used."""
        if reasons:
            table = np.zeros(len(self.names), np.int32)
            for code, reason in reasons.items():
                table[code] = len(self.reasons)
                self.reasons.append(reason)
            self.problem = np.where(self.good, table[self.codes], self.problem)

    def bad_rows(self) -> list[BadRow]:
        """The rows that cannot be used, in the order of their lines."""
        table = self.table
        if self.good.all():
            return table.bad_rows
        rows = np.flatnonzero(~self.good)
        marked = [
            BadRow(table.path, line, self.reasons[problem], table.unit)
            for line, problem in zip(table.lines[rows].tolist(), self.problem[rows].tolist(), strict=True)
        ]
        return sorted(table.bad_rows + marked, key=lambda bad: bad.line)


@dataclass(frozen=True)
class UnsettledTexts:
    """The usable texts of one or several files, with labels as they stand there: what the classes are is still open.

    ``texts`` (rows,) large_string. ``rows`` (rows,) int64 is where each stands among ``num_source_rows`` of all files.
    ``label_codes`` (rows,) int64 index ``label_names``, the labels as texts; without labels both are None. ``sources``
    are name, text column and label column of each file; the rest is as in ``LabelledTexts``.
    """

    texts: pa.ChunkedArray
    rows: np.ndarray
    num_source_rows: int
    label_codes: np.ndarray | None
    label_names: tuple[str, ...] | None
    sources: list[tuple[str, str, str | None]]
    bad_rows: list[BadRow]
    notes: list[str]
    sha256: str


def part_of(table: Table, column: str, notes: Sequence[str]) -> Part:
    """The texts in a column of a file, with the rows marked that have none; no labels yet.

    Raises:
        DataError: the column does not hold texts.
    """
    texts = table.columns[column]
    if not pa.types.is_large_string(texts.type):
        raise DataError(f"{table.path}: the text column {show(column)} holds {texts.type}, expected strings")
    told = [f"{table.path}: {note}" for note in [*table.notes, *notes]]
    part = Part(table, texts, told, np.zeros(len(table), np.int32))
    part.mark_kinds(column, _NOT_TEXT)
    if texts.null_count:
        part.mark(np.asarray(texts.is_null()).astype(bool), _NOT_TEXT[CellKind.NULL])
        part.texts = texts = pc.fill_null(texts, "")
    # utf8_is_space: at least one character, and all of them white space
    blank = pc.or_(pc.utf8_is_space(texts), pc.equal(pc.binary_length(texts), 0))
    part.mark(np.asarray(blank).astype(bool), "the text is empty")
    return part


def bad_rows_of(parts: Sequence[Part], on_bad_row: str) -> list[BadRow]:
    """All rows that cannot be used.

    Raises:
        DataError: there is one and ``on_bad_row`` is not "skip", or there is no other row.
    """
    skipped = [bad for part in parts for bad in part.skipped]
    bad_rows = [bad for part in parts for bad in part.bad_rows()]
    if not bad_rows:
        return skipped
    if not any(part.good.any() for part in parts):
        raise DataError(f"{bad_rows[0]}. No row can be used ({len(bad_rows):,} in all)")
    if on_bad_row != "skip":
        others = len(bad_rows) - 1
        more = f" (and {others:,} more {'row' if others == 1 else 'rows'})" if others else ""
        raise DataError(f"{bad_rows[0]}{more}. {_SKIP_HINT}")
    return skipped + bad_rows
