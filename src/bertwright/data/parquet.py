"""Parquet files: columns of texts, numbers and booleans; of other types only the name is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from bertwright.data.record_batches import STEP_ROWS, columns_of, no_rows, tables_of
from bertwright.data.table import Table, one_line
from bertwright.errors import DataError


def read_parquet(path: str, stored: str) -> Iterator[Table]:
    """The parts of the .parquet file ``path``, whose bytes are in the file ``stored``.

    Raises:
        DataError: the file is damaged, has two columns of one name, none of use, or no rows.
    """
    try:
        with ExitStack() as stack:
            source = stack.enter_context(pa.OSFile(stored))
            file = stack.enter_context(pyarrow.parquet.ParquetFile(source, buffer_size=1 << 20))
            schema = file.schema_arrow
            if file.metadata.num_rows == 0:
                raise no_rows(path, schema.names)
            columns = columns_of(path, schema)
            size = os.path.getsize(stored)
            repeated = [
                name
                for name, kind in columns.kept.items()
                if pa.types.is_large_string(kind) and _is_repeated(file.metadata, name)
            ]
            if repeated:
                # Texts of which there is one in the file, and a million in the table, are then not copied by pyarrow.
                options: dict[str, Any] = {"read_dictionary": repeated, "buffer_size": 1 << 20}
                file = stack.enter_context(pyarrow.parquet.ParquetFile(source, **options))
            batches = file.iter_batches(batch_size=STEP_ROWS, columns=list(columns.kept), use_threads=False)
            rows = 0
            for table in tables_of(path, "parquet", columns, batches, size):
                rows += len(table)
                yield table
            if rows != file.metadata.num_rows:
                raise OSError(f"it holds {rows:,} rows and says {file.metadata.num_rows:,}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged or not a parquet file ({one_line(error)}). Copy or write it again") from None


def _is_repeated(metadata: Any, name: str) -> bool:
    """Whether a column has a row group in which the different values take more room than where each of them stands."""
    place = next((at for at in range(metadata.num_columns) if metadata.schema.column(at).path == name), None)
    if place is None:
        return False
    for number in range(metadata.num_row_groups):
        chunk = metadata.row_group(number).column(place)
        start, size = chunk.dictionary_page_offset, chunk.total_compressed_size
        if start is not None and chunk.data_page_offset - start > size / 2:
            return True
    return False
