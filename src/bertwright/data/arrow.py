"""Arrow files (.arrow, .feather, .ipc): Arrow's own format, as a file or as a stream of record batches."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.ipc

from bertwright.data.record_batches import columns_of, no_rows, tables_of
from bertwright.data.table import Table, one_line
from bertwright.errors import DataError

_MOST_SCHEMA_BYTES = 16 << 20


def read_arrow(path: str, stored: str) -> Iterator[Table]:
    """The parts of the Arrow file ``path``, whose bytes are in the file ``stored``; it is mapped into memory.

    Raises:
        DataError: the file is damaged, of the first version of feather, has two columns of one name, none of use, or no
            rows.
    """
    try:
        with pa.memory_map(stored) as source:
            head = source.read(6)
            source.seek(0)
            if head[:4] == b"FEA1":
                raise DataError(
                    f"{path}: found feather of version 1, expected version 2. Convert it: "
                    "pandas.read_feather(...).to_parquet(...), with a pyarrow that still reads it"
                )
            is_file = head == b"ARROW1"
            if not is_file:
                _check_schema_size(source.read(8))
                source.seek(0)
            # all columns are opened: a choice of them would be read at once, instead of mapped
            with pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source) as reader:
                schema = reader.schema
                columns = columns_of(path, schema)
                batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
                kept = [schema.get_field_index(name) for name in columns.kept]
                empty = True
                for table in tables_of(
                    path, "arrow", columns, (_checked(batch, kept) for batch in batches), os.path.getsize(stored)
                ):
                    empty = False
                    yield table
            if empty:
                raise no_rows(path, schema.names)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged or not an Arrow file ({one_line(error)}). Copy or write it again") from None


def _check_schema_size(start: bytes) -> None:
    """Refuse a stream whose first bytes ask for more memory than any schema takes: Arrow takes it before it looks.

    Arrow columnar format, "Encapsulated message format": -1, and then the size; before version 0.15 the size alone.

    Raises:
        pyarrow.ArrowInvalid: they do.
    """
    if start[:4] == b"\xff" * 4:
        start = start[4:]
    size = int.from_bytes(start[:4], "little")
    if size > _MOST_SCHEMA_BYTES:
        raise pa.ArrowInvalid(f"its schema has {size:,} bytes, expected at most {_MOST_SCHEMA_BYTES:,}")


def _checked(batch: pa.RecordBatch, kept: list[int]) -> pa.RecordBatch:
    """The columns ``kept`` with texts as bytes, once it is certain that nothing in them points outside of them.

    Arrow's format is read without a check, so that a damaged or malicious file could make any later use crash.

    Raises:
        pyarrow.ArrowInvalid: something does.
    """
    arrays = [_as_bytes(batch.column(index)) for index in kept]
    for array in arrays:
        array.validate(full=True)
    return pa.RecordBatch.from_arrays(arrays, names=[batch.schema.names[index] for index in kept])


def _as_bytes(array: pa.Array) -> pa.Array:
    """Texts of any kind, also in a dictionary, as bytes that need not be UTF-8; without looking at them."""
    types = pa.types
    if types.is_dictionary(array.type):
        array.indices.validate(full=True)
        dictionary = _as_bytes(array.dictionary)
        dictionary.validate(full=True)
        return pa.DictionaryArray.from_arrays(array.indices, dictionary, safe=True)
    if types.is_string(array.type):
        return array.view(pa.binary())
    if types.is_large_string(array.type):
        return array.view(pa.large_binary())
    if hasattr(types, "is_string_view") and types.is_string_view(array.type):
        return array.view(pa.binary_view())
    return array
