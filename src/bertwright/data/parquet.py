"""Parquet files: columns of texts, numbers and booleans; of other types only the name is kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from bertwright.data.file_bytes import is_utf8, native_reader, utf8_fault
from bertwright.data.names import refuse_duplicates
from bertwright.data.table import CellKind, Table, one_line, show
from bertwright.errors import DataError


def read_parquet(path: str, data: bytes) -> Table:
    """The table of a .parquet file.

    Raises:
        DataError: the file is damaged, has two columns of one name, or no rows.
    """
    try:
        file = pyarrow.parquet.ParquetFile(native_reader(data))
        schema = file.schema_arrow
        refuse_duplicates(path, schema.names)
        usable = {item.name: kind for item in schema if (kind := _read_as(item.type)) is not None}
        unusable = {item.name: str(item.type) for item in schema if item.name not in usable}
        table = file.read(columns=list(usable))
        num_rows = file.metadata.num_rows
        columns = {name: _decoded(table.column(name)).cast(kind) for name, kind in usable.items()}
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged or not a parquet file ({one_line(error)}). Copy or write it again") from None
    if num_rows == 0:
        raise DataError(f"{path}: found columns ({', '.join(show(name) for name in schema.names)}) but no rows")
    kinds = {}
    for name, column in columns.items():
        if pa.types.is_large_string(column.type) and not is_utf8(column):
            columns[name], kinds[name] = _without_broken(column)
    rows = np.arange(num_rows)
    return Table(path, "parquet", columns, True, rows, num_rows, lambda: rows + 1, cell_kinds=kinds, unusable=unusable)


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


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _without_broken(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The column with null where the bytes are not UTF-8, and the kinds of its cells (rows,)."""
    cells = column.cast(pa.large_binary()).to_pylist()
    broken = np.array([cell is not None and bool(utf8_fault(cell)) for cell in cells], bool)
    kinds = np.where(broken, CellKind.BROKEN, CellKind.TEXT).astype(np.uint8)
    good = [None if bad else cell for cell, bad in zip(cells, broken, strict=True)]
    return pa.chunked_array([pa.array(good, pa.large_binary()).cast(pa.large_string())]), kinds
