"""JSON lines: one object a line, its values rendered as texts with the kind that each had."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from bertwright.data.file_bytes import SURROGATE, utf8_fault
from bertwright.data.numbers import number_text
from bertwright.data.table import BadRow, CellKind, Table, one_line
from bertwright.data.text_stream import TextStream
from bertwright.errors import DataError

_BATCH_ROWS = 10_000
_MOST_KEYS = 1_000
_MISSING = object()


def read_jsonl(stream: TextStream) -> Iterator[Table]:
    """The parts of a .jsonl file: a column a key; lines that hold no object are bad rows, blank lines no rows.

    The columns are the keys of the first part. In later parts, other keys are left out and missing ones are cells of
    kind MISSING.

    Raises:
        DataError: no line of the first part gives a key that can name a column, or there are too many keys.
    """
    stream.line_end = b"\n"
    keys: list[str] = []
    rows = 0
    while not stream.done:
        data = stream.peek()
        assert data is not None
        table = _read_block(stream, data, keys, rows)
        stream.take(data)
        if table.num_source_rows:
            keys = list(table.columns)
            rows += table.num_source_rows
            yield table


def _read_block(stream: TextStream, data: bytes, keys: list[str], rows: int) -> Table:
    """The next part, ``data``; ``rows`` are before it. Without ``keys`` it says which there are."""
    path = stream.path
    fixed = bool(keys)
    columns: dict[str, list[tuple[pa.Array, np.ndarray]]] = {key: [] for key in keys}
    objects: list[dict[str, Any]] = []
    sizes: list[int] = []
    lines: list[int] = []
    records: list[int] = []
    bad_rows: list[BadRow] = []
    num_records = 0

    def flush() -> None:
        for key in () if fixed else dict.fromkeys(itertools.chain.from_iterable(objects)):
            if key not in columns:
                columns[key] = [_no_values(size) for size in sizes]
                if len(columns) > _MOST_KEYS:
                    raise DataError(f"{path}: found more than {_MOST_KEYS:,} different keys, expected one object a row")
        for key, chunks in columns.items():
            chunks.append(_rendered([row.get(key, _MISSING) for row in objects]))
        sizes.append(len(objects))
        objects.clear()

    for number, line in enumerate(io.BytesIO(data), stream.lines + 1):
        if not line.strip():
            continue
        row, reason = _parsed(line)
        if row is None:
            bad_rows.append(BadRow(path, number, reason))
        else:
            objects.append(row)
            lines.append(number)
            records.append(rows + num_records)
            if len(objects) == _BATCH_ROWS:
                flush()
        num_records += 1
    if objects:
        flush()
    # a key that is no text itself (a lone surrogate) can name no column
    usable = {key: chunks for key, chunks in columns.items() if not SURROGATE.search(key)}
    if not usable and num_records:
        found = f"{bad_rows[0]} (and no other line can be used)" if bad_rows else f"{path}: found objects without keys"
        raise DataError(f'{found}. Expected one JSON object a line, such as {{"text": "...", "label": 1}}')
    return Table(
        path,
        "jsonl",
        {key: pa.chunked_array([values for values, _ in chunks], pa.large_string()) for key, chunks in usable.items()},
        True,
        np.array(records, np.int64),
        num_records,
        lambda: np.array(lines, np.int64),
        bad_rows,
        cell_kinds={
            key: np.concatenate([np.empty(0, np.uint8), *(kinds for _, kinds in chunks)])
            for key, chunks in usable.items()
        },
    )


def _parsed(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The object on a line, or why there is none."""
    fault = utf8_fault(line)
    if fault:
        return None, fault
    try:
        value = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        return None, f"not JSON ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError) as error:  # a number of too many digits; too many brackets
        return None, f"not JSON that can be read ({one_line(error)})"
    if not isinstance(value, dict):
        return None, f"found {_json_type(value)}, expected one JSON object a line"
    return value, ""


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", str: "a string", list: "a list"}.get(type(value), "a number")


def _no_values(size: int) -> tuple[pa.Array, np.ndarray]:
    return pa.nulls(size, pa.large_string()), np.full(size, CellKind.MISSING, np.uint8)


def _rendered(values: list[Any]) -> tuple[pa.Array, np.ndarray]:
    """JSON values as texts, null where there is none of use, and their kinds (rows,)."""
    if all(type(value) is str for value in values):
        try:
            return pa.array(values, pa.large_string()), np.zeros(len(values), np.uint8)
        except UnicodeEncodeError:
            pass
    pairs = [_rendered_value(value) for value in values]
    kinds = np.array([kind for _, kind in pairs], np.uint8)
    return pa.array([text for text, _ in pairs], pa.large_string()), kinds


def _rendered_value(value: Any) -> tuple[str | None, CellKind]:
    if isinstance(value, str):
        return (None, CellKind.BROKEN) if SURROGATE.search(value) else (value, CellKind.TEXT)
    if isinstance(value, bool):
        return ("true" if value else "false"), CellKind.BOOL
    if isinstance(value, int | float):
        text = number_text(value)
        return text, CellKind.NULL if text is None else CellKind.NUMBER
    if value is None:
        return None, CellKind.NULL
    return None, CellKind.MISSING if value is _MISSING else CellKind.NESTED
