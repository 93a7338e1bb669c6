"""What stands for a label in a column, as a name or as a number, and which rows have none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.numbers import NUMBER, number_text
from bertwright.data.rows import Part
from bertwright.data.table import CellKind, show

MOST_DISTINCT = 100_000
"""Of no column are more different labels than these kept."""

_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_BOOLEANS = {"false": 0.0, "true": 1.0}


def show_labels(labels: Sequence[str], most: int = 10) -> str:
    """The names of classes for a message: the first ``most`` of them."""
    shown = ", ".join(label if len(label) <= 60 and label.isprintable() else show(label) for label in labels[:most])
    return shown if len(labels) <= most else f"{shown} ... ({len(labels):,} in all)"


def where_of(column: str, columns: Sequence[str]) -> str:
    """Where a label stands, if messages must say that."""
    return f" in column {show(column)}" if len(columns) > 1 else ""


def other_columns(path: str, found: Sequence[str], expected: str) -> str:
    return f"{path}: found the label columns {show_labels(found)}, expected {expected}. Name them with --label-column"


def _not_label(where: str) -> dict[CellKind, str]:
    """Why a cell is no label; ``where`` it stands, if that must be said."""
    return {
        CellKind.MISSING: f"there is no label{where} (the key is missing)",
        CellKind.NULL: f"there is no label{where} (null or not a number)",
        CellKind.NESTED: f"the label{where} is a list or an object, expected a string or a number",
        CellKind.BROKEN: f"the label{where} is not valid Unicode",
    }


def _encoded(column: pa.ChunkedArray) -> tuple[list[str | None], np.ndarray]:
    """The different labels of a column as texts, the last one None, and (rows,) which of them each row has."""
    encoded = column.dictionary_encode().unify_dictionaries()
    values = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    codes = [np.asarray(pc.fill_null(chunk.indices, len(values))).astype(np.int64) for chunk in encoded.chunks]
    return [_label_text(value) for value in [*values, None]], np.concatenate([*codes, np.empty(0, np.int64)])


def _label_text(value: Any) -> str | None:
    """A label as it stands in a column, as a text; None if it is none."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    return str(value).strip() or None


def marked_labels(part: Part, column: str, where: str = "") -> tuple[list[str | None], np.ndarray]:
    """The labels of a column as ``_encoded`` gives them; the rows that have none are marked."""
    cells = part.column(column)
    part.mark_kinds(column, _not_label(where))
    names, codes = _encoded(cells)
    part.mark(np.array([name is None for name in names])[codes], f"there is no label{where}")
    return names, codes


def marked_numbers(part: Part, column: str, where: str, wrong: str) -> np.ndarray:
    """(rows,) float64: the numbers in a column; the rows that have none are marked, as ``wrong`` those with words."""
    if pa.types.is_floating(part.column(column).type) or pa.types.is_integer(part.column(column).type):
        cells = part.column(column)
        part.mark_kinds(column, _not_label(where))
        numbers = np.asarray(pc.fill_null(cells.cast(pa.float64(), safe=False), np.nan))
        part.mark(np.isnan(numbers), f"there is no label{where}")
    else:
        names, codes = marked_labels(part, column, where)
        of_name = np.array([np.nan if name is None else _number(name) for name in names])
        numbers = of_name[codes]
        part.mark(np.isnan(numbers), lambda row: f"label {show(names[codes[row]])}{where} {wrong}")
    part.mark(np.isinf(numbers), f"the label{where} is not a finite number")
    return numbers


def _number(label: str) -> float:
    """The number that a label stands for; NaN for a word."""
    if NUMBER.fullmatch(label) or _INFINITE.fullmatch(label):
        return float(label)
    return _BOOLEANS.get(label.casefold(), np.nan)


def without_point(label: str) -> str:
    """ "1" for "1.0"; anything else as it stands."""
    whole, point, rest = label.partition(".")
    return whole if point and not rest.strip("0") and NUMBER.fullmatch(whole) else label


def is_nan(label: str) -> bool:
    return label.casefold() == "nan"


class Codes:
    """The labels of one column as places among their different names, in the order in which these are first met."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self._pieces: list[np.ndarray] = []

    def add(self, names: Sequence[str | None], codes: np.ndarray) -> None:
        """Rows whose labels are ``names[code]``, none of them None."""
        first = np.full(len(names), len(codes))
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        table = np.zeros(len(names), np.int32)
        for code in np.argsort(first, kind="stable").tolist():
            if first[code] == len(codes):
                break
            table[code] = self.names.setdefault(str(names[code]), len(self.names))
        self.add_places(table[codes])

    def add_places(self, places: np.ndarray) -> None:
        """Rows whose labels have these places."""
        self._pieces.append(places.astype(np.int32, copy=False))

    def all(self) -> np.ndarray:
        """(rows,) int32."""
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate([*self._pieces, np.empty(0, np.int32)])]
        return self._pieces[0]
