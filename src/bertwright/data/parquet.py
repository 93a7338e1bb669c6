"""Parquet files: columns of texts, numbers and booleans; of other types only the name is kept."""

from __future__ import annotations

from collections.abc import Iterator

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
        with pa.OSFile(stored) as source, pyarrow.parquet.ParquetFile(source, buffer_size=1 << 20) as file:
            schema = file.schema_arrow
            if file.metadata.num_rows == 0:
                raise no_rows(path, schema.names)
            columns = columns_of(path, schema)
            batches = file.iter_batches(batch_size=STEP_ROWS, columns=list(columns.kept), use_threads=False)
            rows = 0
            for table in tables_of(path, "parquet", columns, batches):
                rows += len(table)
                yield table
            if rows != file.metadata.num_rows:
                raise OSError(f"it holds {rows:,} rows and says {file.metadata.num_rows:,}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged or not a parquet file ({one_line(error)}). Copy or write it again") from None
