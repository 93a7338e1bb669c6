"""Labels as they stand in files, kept for a folder of token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertwright.data.label_cells import (
    MOST_DISTINCT,
    Codes,
    is_nan,
    marked_labels,
    other_columns,
    show_labels,
    where_of,
)
from bertwright.data.numbers import NUMBER
from bertwright.data.rows import LabelColumn, Part
from bertwright.data.table import show
from bertwright.errors import DataError


class StoredLabels:
    """Labels as they stand in files, for a folder of token ids: in one column or several."""

    def __init__(self, path: str, columns: tuple[str, ...]) -> None:
        self._path, self._names = path, columns
        self._columns = [_StoredColumn(path, name) for name in columns]

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """As that of :class:`LabelReader`."""
        if len(names) == len(self._names) == 1:
            return names
        if sorted(names) != sorted(self._names):
            raise DataError(other_columns(path, names, f"those of {self._path}, {show_labels(self._names)}"))
        return self._names

    def add(self, part: Part, names: Sequence[str], file: int) -> None:
        """Mark the rows of ``part`` that lack a label, and keep those of the others.

        Raises:
            DataError: a column holds more different labels than there can be, and not all are numbers.
        """
        found = [marked_labels(part, name, where_of(name, names)) for name in names]
        for column, (labels, codes) in zip(self._columns, found, strict=True):
            column.keep(labels, codes[part.good])

    def finish(self) -> tuple[LabelColumn, ...]:
        """The labels of all rows, a column each."""
        return tuple(column.finish() for column in self._columns)


class _StoredColumn:
    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._codes: Codes | None = Codes()
        self._numbers: list[np.ndarray] = []

    def keep(self, names: Sequence[str | None], codes: np.ndarray) -> None:
        if self._codes is not None:
            self._codes.add(names, codes)
            if len(self._codes.names) <= MOST_DISTINCT:
                return
            self._numbers = [_numbers_of(list(self._codes.names), self._codes.all())]
            self._codes = None
        else:
            self._numbers.append(_numbers_of(names, codes))
        if np.isinf(self._numbers[-1]).any():
            raise DataError(
                f"{self._path}: found more than {MOST_DISTINCT:,} different labels in column {show(self._name)}, not "
                "all of them numbers: is this the label column? Name it with --label-column, or pass --no-labels"
            )

    def finish(self) -> LabelColumn:
        if self._codes is None:
            return LabelColumn(self._name, None, None, np.concatenate(self._numbers))
        return LabelColumn(self._name, tuple(self._codes.names), self._codes.all())


def _numbers_of(names: Sequence[str | None], codes: np.ndarray) -> np.ndarray:
    """(rows,) float64: the labels as numbers; infinite for a word."""
    words = (name for name in names if name is not None)
    of_name = {name: float(name) if NUMBER.fullmatch(name) or is_nan(name) else np.inf for name in words}
    return np.array([np.inf if name is None else of_name[name] for name in names])[codes]
