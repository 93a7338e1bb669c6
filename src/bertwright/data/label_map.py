"""Other names for labels: --label-map BAD=toxic,NOT_BAD=clean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.label_rules import LabelReader, Settled
from bertwright.data.numbers import number_text
from bertwright.data.rows import Part
from bertwright.data.table import BadRow
from bertwright.errors import UserError


def label_map(given: Sequence[str]) -> dict[str, str]:
    """What labels of files are called from here on, from "THEIRS=OURS" with commas between.

    Raises:
        UserError: something else, or a name that is given twice.
    """
    found: dict[str, str] = {}
    for pair in (piece.strip() for part in given for piece in part.split(",")):
        theirs, equals, ours = (part.strip() for part in pair.partition("="))
        if not theirs or not equals or not ours:
            raise UserError(f"--label-map: found {pair!r}, expected THEIRS=OURS, such as BAD=toxic,NOT_BAD=clean")
        if theirs in found:
            raise UserError(f"--label-map: {theirs} is given twice, expected each label once")
        found[theirs] = ours
    return found


class MappedLabels:
    """Gives another reader the labels by their other names. Implements :class:`LabelReader`.

    A label without another name stays as it is.
    """

    def __init__(self, reader: LabelReader, names: Mapping[str, str]) -> None:
        self._reader, self._names = reader, names

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]:
        return self._reader.columns(path, names)

    def add(self, part: Part, names: Sequence[str], file: int) -> None:
        for name in names:
            part.table.columns[name] = self._mapped(part.column(name))
        self._reader.add(part, names, file)

    def _mapped(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        if not pa.types.is_large_string(column.type):
            column = pa.chunked_array([pa.array([self._text(cell) for cell in column.to_pylist()], pa.large_string())])
        encoded = column.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):  # of a column without rows
            return column
        words = [self._names.get(str(word).strip(), word) for word in encoded.dictionary.to_pylist()]
        return pa.chunked_array([pc.take(pa.array(words, pa.large_string()), encoded.indices)])

    @staticmethod
    def _text(cell: object) -> str | None:
        if cell is None or isinstance(cell, bool):
            return None if cell is None else str(cell).lower()
        return number_text(cell) if isinstance(cell, int | float) else str(cell)

    def check(self) -> tuple[np.ndarray | None, dict[int, list[BadRow]], Counter[int]]:
        return self._reader.check()

    def settle(self, dropped: np.ndarray | None, notes: list[str]) -> Settled:
        return self._reader.settle(dropped, notes)
