"""Whether the first row of a .csv or .tsv file is a header, and its parts with the names it gives."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.names import LABEL_COLUMN_NAMES, TEXT_COLUMN_NAMES, fold_name, refuse_duplicates
from bertwright.data.numbers import NUMBER
from bertwright.data.table import BadRow, Table, joined, show
from bertwright.errors import DataError

_NO_VALUE = ("", "nan", "na", "n/a", "none", "null", "?")


def with_header(parts: Iterator[Table], names: Collection[str]) -> Iterator[Table]:
    """Tables read without a header, or those below the first row if that row is a header.

    A header is seen by ``names``, those that the user gave, by the names known for texts and labels, or by what stands
    below it in the first part. ``notes`` says so where it is a guess.

    Raises:
        DataError: two columns have one name, or there are no rows below the header.
    """
    first = next(parts)
    while first.num_source_rows < 2 and (more := next(parts, None)) is not None:
        first = joined([first, more])
    header = [column[0].as_py() for column in first.columns.values()]
    cells = [cell.strip() for cell in header]
    found, note = _is_header(cells, [column.slice(1) for column in first.columns.values()], names)
    if note:
        first.notes.append(note)
    if not found:
        yield first
        yield from parts
        return
    if first.num_source_rows == 1:
        shown = ", ".join(show(name) for name in cells)
        raise DataError(f"{first.path}: found a header ({shown}) but no rows below it")
    given = [name or str(number) for number, name in enumerate(cells, 1)]
    refuse_duplicates(first.path, given)
    yield _without_repeats(_named(_below_first_row(first), given), header)
    del first  # or its bytes would stay until the last part
    for part in parts:
        yield _without_repeats(_named(part, given), header)


def _below_first_row(table: Table) -> Table:
    return replace(
        table,
        columns={name: column.slice(1) for name, column in table.columns.items()},
        row_numbers=table.row_numbers[1:],
        num_source_rows=table.num_source_rows - 1,
        compute_lines=lambda: table.lines[1:],
    )


def _named(table: Table, names: list[str]) -> Table:
    """The table with names for its columns, and the header no longer counted as a row."""
    return replace(
        table,
        columns=dict(zip(names, table.columns.values(), strict=True)),
        has_header=True,
        row_numbers=table.row_numbers - 1,
    )


def _is_header(first: list[str], rest: list[pa.ChunkedArray], names: Collection[str]) -> tuple[bool, str]:
    """Whether the first row names the columns, and what a user must be told about it."""
    no_header = f"no header found: the first row is data, the columns are named {_number_names(len(first))}"
    if any(cell in names and not cell.isdecimal() for cell in first):
        return True, ""
    folded = [fold_name(cell) for cell in first]
    text = next((folded.index(name) for name in TEXT_COLUMN_NAMES if name in folded), None)
    label = next((folded.index(name) for name in LABEL_COLUMN_NAMES if name in folded), None)
    if text is not None and label is not None:
        return True, ""
    if text is not None and len(first) == 2:
        label = 1 - text
    if label is not None and _occurs(first[label], rest[label]):
        return False, no_header
    if text is not None or label is not None:
        return True, ""
    likely = False
    for cell, column in zip(first, rest, strict=True):
        if len(first) == 1 or cell.casefold() in _NO_VALUE:
            continue
        sample = pc.utf8_trim_whitespace(column.slice(0, 100_000))
        values = [value for value in pc.unique(sample).to_pylist() if value]
        if values and all(map(NUMBER.fullmatch, values)):
            likely = likely or not NUMBER.fullmatch(cell)
        elif len(sample) >= 6 and 2 <= len(values) <= len(sample) // 3 and max(map(len, values)) <= 50:
            if _occurs(cell, column):
                return False, no_header
            likely = True
    if likely:
        shown = ", ".join(show(cell) for cell in first)
        return True, f"the first row is taken for a header, though no name in it is known: {shown}"
    return False, no_header


def _number_names(count: int) -> str:
    shown = [f'"{number}"' for number in range(1, min(count, 3) + 1)]
    return ", ".join(shown) + (f' ... "{count}"' if count > 3 else "")


def _occurs(cell: str, column: pa.ChunkedArray) -> bool:
    found = pc.equal(pc.utf8_trim_whitespace(column), pa.scalar(cell, pa.large_string()))
    return bool(pc.any(found).as_py())


def _without_repeats(table: Table, header: list[str]) -> Table:
    """The table without rows that repeat the header, as files joined with ``cat`` have: they are bad rows."""
    if len(header) < 2 or not len(table):
        return table
    repeats = np.ones(len(table), bool)
    for cell, column in zip(header, table.columns.values(), strict=True):
        repeats &= np.asarray(pc.equal(column, pa.scalar(cell, pa.large_string())))
        if not repeats.any():
            return table
    lines = table.lines
    again = [BadRow(table.path, line, "repeats the header") for line in lines[repeats].tolist()]
    kept = pa.array(~repeats)
    return replace(
        table,
        columns={name: column.filter(kept) for name, column in table.columns.items()},
        row_numbers=table.row_numbers[~repeats],
        compute_lines=lambda: lines[~repeats],
        bad_rows=sorted(table.bad_rows + again, key=lambda bad: bad.line),
    )
