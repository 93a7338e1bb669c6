"""Parquet files: columns of texts, numbers and booleans; of other types only the name is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.data.record_batches import STEP_ROWS, columns_of, no_rows, tables_of
from bertwright.data.table import Table, one_line
from bertwright.errors import DataError

_BUFFER_BYTES = 1 << 20


def read_parquet(path: str, stored: str) -> Iterator[Table]:
    """The parts of the .parquet file ``path``, whose bytes are in the file ``stored``.

    Raises:
        DataError: the file is damaged, has two columns of one name, none of use, or no rows.
    """
    try:
        with pa.OSFile(stored) as source, pq.ParquetFile(source, buffer_size=_BUFFER_BYTES) as file:
            if file.metadata.num_rows == 0:
                raise no_rows(path, file.schema_arrow.names)
            rows = 0
            for table in tables_in(path, source, file, buffer_bytes=_BUFFER_BYTES):
                rows += len(table)
                yield table
            if rows != file.metadata.num_rows:
                raise OSError(f"it holds {rows:,} rows and says {file.metadata.num_rows:,}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged or not a parquet file ({one_line(error)}). Copy or write it again") from None


def tables_in(
    path: str,
    source: pa.NativeFile,
    file: pq.ParquetFile,
    row_groups: Sequence[int] | None = None,
    first_row: int = 0,
    buffer_bytes: int = 0,
) -> Iterator[Table]:
    """The parts of ``file``, which reads ``source``; of ``row_groups`` alone, the first of which begins at
    ``first_row``. With ``buffer_bytes`` columns are read in pieces of so many, else a row group at a time.

    Raises:
        DataError: two columns have one name, none is of use, or they swell to far more than the file.
        pa.ArrowException, OSError: it is damaged.
    """
    columns = columns_of(path, file.schema_arrow)
    texts = [name for name, kind in columns.kept.items() if pa.types.is_large_string(kind)]
    repeated = [name for name in texts if _is_repeated(file.metadata, name)]
    with ExitStack() as stack:
        if repeated:
            # Texts of which there is one in the file, and a million in the table, are then not copied by pyarrow.
            again = pq.ParquetFile(source, metadata=file.metadata, read_dictionary=repeated, buffer_size=buffer_bytes)
            file = stack.enter_context(again)
        batches = file.iter_batches(
            batch_size=STEP_ROWS, row_groups=row_groups, columns=list(columns.kept), use_threads=False
        )
        yield from tables_of(path, "parquet", columns, batches, source.size(), first_row)


def _is_repeated(metadata: pq.FileMetaData, name: str) -> bool:
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
