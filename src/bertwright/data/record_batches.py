"""Arrow's record batches as parts of a table: what types become texts and numbers, names of classes, broken texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data import text_stream
from bertwright.data.compression import refuse_swollen
from bertwright.data.file_bytes import is_utf8, utf8_fault
from bertwright.data.names import refuse_duplicates
from bertwright.data.table import CellKind, Table, show
from bertwright.errors import DataError

STEP_ROWS = 1_024
"""How many rows are converted at a time: a part holds as many of such steps as fit in a block."""

_MOST_REPEATED_BYTES = 128 << 20


@dataclass(frozen=True)
class Columns:
    """The columns of a file with a schema: ``kept`` and the types in which they are kept; why others are of no use.

    ``class_names`` are the names of the classes that the numbers in a column stand for.
    """

    kept: dict[str, pa.DataType]
    unusable: dict[str, str]
    class_names: dict[str, list[str]]


def columns_of(path: str, schema: pa.Schema) -> Columns:
    """The columns of the file ``path``.

    Raises:
        DataError: two columns have one name, or none can be text or label.
    """
    refuse_duplicates(path, schema.names)
    kept = {item.name: kind for item in schema if (kind := _read_as(item.type)) is not None}
    unusable = {item.name: str(item.type) for item in schema if item.name not in kept}
    if not kept:
        shown = ", ".join(f"{show(name)} of {kind}" for name, kind in list(unusable.items())[:20])
        raise DataError(f"{path}: found no column of texts or numbers (found {shown or 'no column'})")
    named = _class_names(schema)
    return Columns(kept, unusable, {name: named[name] for name, kind in kept.items() if name in named and _whole(kind)})


def tables_of(
    path: str, kind: str, columns: Columns, batches: Iterable[pa.RecordBatch], num_bytes: int, rows: int = 0
) -> Iterator[Table]:
    """The parts of a file of ``num_bytes`` from its batches, each of which holds the columns kept; ``rows`` stand
    before the first.

    Texts become large_string; bytes that are not UTF-8, and numbers without a class of theirs, become null.

    Raises:
        DataError: they are far more than a file of that size holds but to fill a machine.
    """
    notes = [
        f"column {show(name)} holds numbers that the file names: {_shown_classes(names)}"
        for name, names in columns.class_names.items()
    ]

    def table(steps: list[list[pa.Array]]) -> Table:
        nonlocal rows, notes
        arrays = {name: _together(pieces) for name, pieces in zip(columns.kept, zip(*steps, strict=True), strict=True)}
        kinds = {}
        for name, array in arrays.items():
            if pa.types.is_large_binary(array.type):
                arrays[name], broken = _as_texts(array)
                if broken is not None:
                    kinds[name] = broken
        numbers = np.arange(rows, rows + len(next(iter(arrays.values()))))
        rows += len(numbers)
        said, notes = notes, []
        chunked = {name: pa.chunked_array([array]) for name, array in arrays.items()}
        return Table(
            path,
            kind,
            chunked,
            True,
            numbers,
            len(numbers),
            lambda: numbers + 1,
            notes=said,
            cell_kinds=kinds,
            unusable=columns.unusable,
        )

    steps: list[list[pa.Array]] = []
    size = whole = 0
    for batch in batches:
        for start in range(0, batch.num_rows, STEP_ROWS):
            piece = batch.slice(start, STEP_ROWS)
            step = [
                _converted(path, piece.column(piece.schema.get_field_index(name)), kept, columns.class_names.get(name))
                for name, kept in columns.kept.items()
            ]
            steps.append(step)
            step_bytes = sum(array.nbytes for array in step)
            size, whole = size + step_bytes, whole + step_bytes
            refuse_swollen(path, whole, num_bytes)
            if size >= text_stream.BLOCK_BYTES:
                yield table(steps)
                steps, size = [], 0
    if steps:
        yield table(steps)


def no_rows(path: str, names: list[str]) -> DataError:
    """What to say of a file that has columns, but no rows."""
    return DataError(f"{path}: found columns ({', '.join(map(show, names))}) but no rows")


def _refuse_long_repeated(path: str, array: pa.DictionaryArray) -> None:
    """Refuse a step whose texts, of which the file holds each once, would take hundreds of megabytes."""
    types, values = pa.types, array.dictionary
    if not len(values) or not (types.is_string(values.type) or types.is_binary(values.type) or _is_large(values.type)):
        return
    size = pc.sum(pc.binary_length(values).take(array.indices)).as_py() or 0
    if size > _MOST_REPEATED_BYTES:
        raise DataError(
            f"{path}: {len(array):,} rows repeat texts of {size >> 20:,} MiB together, expected at most "
            f"{_MOST_REPEATED_BYTES >> 20:,}"
        )


def _is_large(kind: pa.DataType) -> bool:
    return pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)


def _together(pieces: Iterable[pa.Array]) -> pa.Array:
    return pa.concat_arrays(list(pieces))


def _converted(path: str, array: pa.Array, kind: pa.DataType, names: list[str] | None) -> pa.Array:
    """Texts as large_binary, since they may not be UTF-8; numbers with names as those; the rest as ``kind``."""
    if pa.types.is_dictionary(array.type):
        _refuse_long_repeated(path, array)
        array = array.dictionary.take(array.indices) if len(array.dictionary) else pa.nulls(len(array), kind)
    if not pa.types.is_large_string(kind):
        if names is not None:
            at = pc.if_else(pc.and_(pc.greater_equal(array, 0), pc.less(array, len(names))), array, None)
            return pa.array([name.encode() for name in names], pa.large_binary()).take(at.cast(pa.int64()))
        return array.cast(kind)
    types = pa.types
    if types.is_null(array.type):
        return pa.nulls(len(array), pa.large_binary())
    if types.is_decimal(array.type):
        array = array.cast(pa.large_string())
    return array.cast(pa.large_binary())


def _as_texts(array: pa.Array) -> tuple[pa.Array, np.ndarray | None]:
    """Bytes as texts, null where they are not UTF-8; if there are such, the kinds of the cells (rows,)."""
    texts = array.view(pa.large_string())
    if is_utf8(texts):
        return texts, None
    broken = np.array([cell is not None and bool(utf8_fault(cell)) for cell in array.to_pylist()], bool)
    good = pc.if_else(pa.array(~broken), array, pa.scalar(None, pa.large_binary()))
    return good.view(pa.large_string()), np.where(broken, CellKind.BROKEN, CellKind.TEXT).astype(np.uint8)


def _read_as(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a column of type ``kind`` is kept; none if it can be neither text nor label."""
    types = pa.types
    if types.is_dictionary(kind):
        return _read_as(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) or types.is_decimal(kind):
        return pa.large_string()
    if hasattr(types, "is_string_view") and types.is_string_view(kind):
        return pa.large_string()
    if types.is_integer(kind) or types.is_boolean(kind):
        return kind
    return pa.float64() if types.is_floating(kind) else None


def _whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind))


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the classes of columns, as the library ``datasets`` writes them; those that make sense."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: feature.get("names") for name, feature in features.items() if _is_class_label(feature)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if _are_class_names(names)}


def _is_class_label(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


def _are_class_names(names: Any) -> bool:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        return False
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return False
    return len({name.strip() for name in names}) == len(names)


def _shown_classes(names: list[str]) -> str:
    shown = ", ".join(f"{number} is {show(name)}" for number, name in enumerate(names[:5]))
    return shown if len(names) <= 5 else f"{shown} ..."
