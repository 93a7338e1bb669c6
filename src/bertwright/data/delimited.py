"""Rows and fields of .csv and .tsv files, before anyone decided whether the first row is a header.

A quoted file is parsed in one of two ways that agree: by ``pyarrow.csv`` where its quotes are regular and every row has
the right number of fields, else by Python's ``csv``, which is slower but knows the line of every row. The fields of an
unquoted .tsv file are cut out of its bytes at positions found with numpy.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.csv

from bertwright.data.file_bytes import SURROGATE, cut_texts, line_bounds, native_reader, positions
from bertwright.data.table import BadRow, Table, one_line
from bertwright.errors import DataError

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_BATCH_ROWS = 10_000
_BLOCK_BYTES = 16 << 20
_MOST_BLOCK_BYTES = 2**31 - 1_000
_SLOW_BYTES = 32 << 20


def read_csv(path: str, data: bytes) -> Table:
    """The table of a .csv file without a header: its columns are named "1", "2" and so on.

    Raises:
        DataError: a quote is never closed, or the first row cannot be used.
    """
    table, why = _read_at_once(path, data, "csv")
    if table is None:
        table = _read_by_row(path, data, "csv")
        if len(data) > _SLOW_BYTES:
            table.notes.append(f"read row by row, which is slower: {why}")
    return table


def read_tsv(path: str, data: bytes) -> Table:
    """The table of a .tsv file without a header: its columns are named "1", "2" and so on.

    Quotes are text where every line has as many tabs as the first and nothing shows that quotes are meant.

    Raises:
        DataError: the first row is not UTF-8.
    """
    starts, ends = line_bounds(data)
    full = np.flatnonzero(ends > starts)
    tabs = positions(data, b"\t")
    from_tab = np.searchsorted(tabs, starts[full])  # (rows,)
    num_tabs = np.searchsorted(tabs, ends[full]) - from_tab
    fits = num_tabs == num_tabs[0]
    quotes = b'"' in data
    if quotes and (not fits.all() or _means_quotes(data, int(ends[full[0]]))):
        quoted = _read_tsv_quoted(path, data, most_bad=int((~fits).sum()))
        if quoted is not None:
            quoted.notes.append("read with quotes, as a .csv with tabs")
            return quoted
    width = int(num_tabs[0]) + 1
    expected = f"expected {width} as on line {full[0] + 1:,}"
    bad_rows = [
        BadRow(path, int(line) + 1, f"found {_count_fields(int(count) + 1)}, {expected}")
        for line, count in zip(full[~fits], num_tabs[~fits], strict=True)
    ]
    lines = full[fits]
    inner = tabs[from_tab[fits][:, None] + np.arange(width - 1)]  # (rows, columns - 1)
    columns, kept, faults = cut_texts(
        data,
        np.concatenate([starts[lines][:, None], inner + 1], axis=1),
        np.concatenate([inner, ends[lines][:, None]], axis=1),
    )
    not_utf8 = [BadRow(path, int(lines[row]) + 1, fault) for row, fault in faults.items()]
    if 0 in faults:
        raise DataError(f"{not_utf8[0]}. The first row names or counts the columns: mend it")
    bad_rows = sorted(bad_rows + not_utf8, key=lambda bad: bad.line)
    records = np.flatnonzero(fits)[kept]
    table = _without_header(path, "tsv", columns, records, len(full), lambda: lines[kept] + 1, bad_rows)
    if quotes and not fits.all():
        table.notes.append("read without quotes: with quotes, more rows would be bad")
    return table


def _without_header(
    path: str,
    kind: str,
    columns: list[pa.ChunkedArray],
    records: np.ndarray,
    num_records: int,
    compute_lines: Callable[[], np.ndarray],
    bad_rows: list[BadRow],
) -> Table:
    named = {str(number): column for number, column in enumerate(columns, 1)}
    return Table(path, kind, named, False, records, num_records, compute_lines, bad_rows)


def _count_fields(number: int) -> str:
    return f"{number:,} field" if number == 1 else f"{number:,} fields"


# --- quotes, at once ----------------------------------------------------------------------------------------


def _read_at_once(path: str, data: bytes, kind: str, block_bytes: int = _BLOCK_BYTES) -> tuple[Table | None, str]:
    """The table through pyarrow, or why it cannot be trusted with this file."""
    delimiter = _DELIMITERS[kind]
    try:
        with _huge_fields():
            first = next((row for row in csv.reader(_TextLines(data), delimiter=delimiter, strict=True) if row), [])
    except csv.Error as error:
        return None, str(error)
    if not _regular_quotes(data, delimiter):
        return None, "a quote stands inside a field without doubling"
    names = [str(number) for number in range(len(first))]
    while True:
        while any(data[at - 1 : at + 1] == b"\r\n" for at in range(block_bytes, len(data), block_bytes)):
            block_bytes += 1  # pyarrow loses a line feed that starts a block after a carriage return, even in quotes
        try:
            table = pyarrow.csv.read_csv(
                native_reader(data),
                read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=block_bytes),
                parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in data),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.large_string()),
                    null_values=[],
                    strings_can_be_null=False,
                    quoted_strings_can_be_null=False,
                ),
            )
            break
        except pa.ArrowInvalid as error:
            if "block" not in str(error) or block_bytes >= min(len(data), _MOST_BLOCK_BYTES):
                return None, one_line(error)
            block_bytes = min(block_bytes * 8, _MOST_BLOCK_BYTES)  # a row is longer than a block
    rows = np.arange(table.num_rows)
    return _without_header(path, kind, table.columns, rows, len(rows), lambda: _record_lines(data), []), ""


def _regular_quotes(data: bytes, delimiter: str) -> bool:
    """Whether every quote opens a field, closes one, or is doubled inside one (RFC 4180, section 2)."""
    quotes = positions(data, b'"')
    if len(quotes) % 2:
        return False
    if not len(quotes):
        return True
    array = np.frombuffer(data, np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    doubled = opening[1:] == closing[:-1] + 1
    borders = np.frombuffer(f"{delimiter}\r\n".encode(), np.uint8)
    opens = (opening == 0) | np.isin(array[np.maximum(opening - 1, 0)], borders)
    opens[1:] |= doubled
    closes = (closing == len(data) - 1) | np.isin(array[np.minimum(closing + 1, len(data) - 1)], borders)
    closes[:-1] |= doubled
    return bool(opens.all() and closes.all())


def _record_lines(data: bytes) -> np.ndarray:
    """(rows,) int64: the line on which each row of a quoted file starts; only where the quotes are regular."""
    array = np.frombuffer(data, np.uint8)
    returns = positions(data, b"\r")
    feeds = positions(data, b"\n")
    lone = returns[(returns == len(data) - 1) | (array[np.minimum(returns + 1, len(data) - 1)] != ord("\n"))]
    ends = np.union1d(feeds, lone)
    ends = ends[np.searchsorted(positions(data, b'"'), ends) % 2 == 0]  # inside quotes, a line end is text
    starts = np.concatenate([np.zeros(1, np.int64), ends + 1])
    ends = np.concatenate([ends, np.full(1, len(data), np.int64)])
    lengths = ends - starts
    only_return = (lengths == 1) & (array[np.minimum(starts, len(data) - 1)] == ord("\r"))
    starts = starts[(lengths > 0) & ~only_return]
    return 1 + np.searchsorted(feeds if len(feeds) else returns, starts)


# --- quotes, row by row -------------------------------------------------------------------------------------


def _read_by_row(path: str, data: bytes, kind: str) -> Table:
    """The table through Python's ``csv``, which says of every row where it starts and what is wrong with it."""
    chunks: list[list[pa.Array]] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    records: list[int] = []
    bad_rows: list[BadRow] = []
    num_records = width = first_line = 0

    def flush() -> None:
        chunks.append([pa.array(cells, pa.large_string()) for cells in zip(*rows, strict=True)])
        rows.clear()

    with _huge_fields():
        for line, row, reason in _rows(path, data, _DELIMITERS[kind]):
            if num_records == 0:
                if reason:
                    raise DataError(
                        f"{path}, line {line:,}: {reason}. The first row names or counts the columns: mend it"
                    )
                width, first_line = len(row), line
            if not reason and len(row) != width:
                reason = f"found {_count_fields(len(row))}, expected {width} as on line {first_line:,}"
            if reason:
                bad_rows.append(BadRow(path, line, reason))
            else:
                rows.append(row)
                lines.append(line)
                records.append(num_records)
                if len(rows) == _BATCH_ROWS:
                    flush()
            num_records += 1
    if rows:
        flush()
    columns = [pa.chunked_array(pieces, pa.large_string()) for pieces in zip(*chunks, strict=True)]
    numbers = np.array(lines, np.int64)
    return _without_header(path, kind, columns, np.array(records, np.int64), num_records, lambda: numbers, bad_rows)


def _rows(path: str, data: bytes, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Of each row the line on which it starts, its cells, and what is wrong with it (or nothing).

    Blank lines are no rows.
    """
    source = _TextLines(data)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        line = source.line
        try:
            row = next(reader, None)
        except csv.Error as error:
            if source.exhausted:
                raise DataError(
                    f"{path}, line {line:,}: a quote opens a field here and is not closed before the end of the file. "
                    "Close it, or double the quotes inside texts"
                ) from None
            yield line, [], _quoting_reason(error, line, source.line)
            continue
        if row is None:
            return
        if row:
            broken = next(filter(None, map(SURROGATE.search, row)), None)
            yield line, row, f"not UTF-8 (byte 0x{ord(broken[0]) - 0xDC00:02x})" if broken else ""


def _quoting_reason(error: csv.Error, line: int, next_line: int) -> str:
    what = "a quote inside a quoted field is not doubled" if "expected after" in str(error) else str(error)
    return what if next_line <= line + 1 else f"{what} (the field runs on to line {next_line - 1:,})"


@contextmanager
def _huge_fields() -> Iterator[None]:
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class _TextLines:
    """The lines of a file for Python's ``csv``, and how many of them it has taken.

    Lines end at a carriage return alone too, since a row does; but ``line`` counts as an editor does. Bytes that are
    not UTF-8 become lone surrogates, which nothing else can.
    """

    def __init__(self, data: bytes) -> None:
        self._wrapped = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape", newline="")
        self._end = "\n" if b"\n" in data else "\r"
        self.line = 1
        self.exhausted = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._wrapped.readline()
        if not line:
            self.exhausted = True
            raise StopIteration
        self.line += line.endswith(self._end)
        return line


# --- .tsv with quotes ---------------------------------------------------------------------------------------


def _means_quotes(data: bytes, first_line_end: int) -> bool:
    """Whether a regular .tsv file is quoted all the same: its whole first row is, or a quoted field doubles a quote."""
    if not _regular_quotes(data, "\t"):
        return False
    quotes = positions(data, b'"')
    first = data[:first_line_end].split(b"\t")
    whole = len(first) > 1 and all(len(cell) > 1 and cell[:1] == cell[-1:] == b'"' for cell in first)
    return whole or bool((quotes[2::2] == quotes[1:-1:2] + 1).any())


def _read_tsv_quoted(path: str, data: bytes, most_bad: int) -> Table | None:
    """The table read with quotes, if that leaves fewer bad rows than ``most_bad`` (or none)."""
    table, _ = _read_at_once(path, data, "tsv")
    if table is not None:
        return table
    try:
        table = _read_by_row(path, data, "tsv")
    except DataError:
        return None
    return table if len(table.bad_rows) < most_bad else None
