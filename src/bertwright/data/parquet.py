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
    chosen = range(file.metadata.num_row_groups) if row_groups is None else row_groups
    repeated = _repeated_in(file, texts, chosen) if texts else []
    with ExitStack() as stack:
        if repeated:
            # Texts of which there is one in the file, and a million in the table, are then not copied by pyarrow.
            again = pq.ParquetFile(source, metadata=file.metadata, read_dictionary=repeated, buffer_size=buffer_bytes)
            file = stack.enter_context(again)
        batches = file.iter_batches(
            batch_size=STEP_ROWS, row_groups=row_groups, columns=list(columns.kept), use_threads=False
        )
        yield from tables_of(path, "parquet", columns, batches, source.size(), first_row)


def _repeated_in(file: pq.ParquetFile, texts: Sequence[str], row_groups: Sequence[int]) -> list[str]:
    """Which of the columns ``texts`` have a row group in which the different values take more room than where each of
    them stands.

    Raises:
        pa.ArrowException, OSError: what the file says of them is damaged.
    """
    places = {file.metadata.schema.column(at).path: at for at in reversed(range(file.metadata.num_columns))}
    repeated: set[str] = set()
    for number in row_groups:
        # pyarrow's ``column`` ends the process where what is written of a column is damaged; reading says it instead.
        next(file.iter_batches(batch_size=1, row_groups=[number], columns=list(texts), use_threads=False), None)
        row_group = file.metadata.row_group(number)
        for name in texts:
            chunk = row_group.column(places[name]) if name in places else None
            if chunk is None or chunk.dictionary_page_offset is None:
                continue
            if chunk.data_page_offset - chunk.dictionary_page_offset > chunk.total_compressed_size / 2:
                repeated.add(name)
    return [name for name in texts if name in repeated]
