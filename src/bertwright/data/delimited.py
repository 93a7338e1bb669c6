"""Rows and fields of .csv and .tsv files, before anyone decided whether the first row is a header.

A block of a quoted file is parsed in one of two ways that agree: by ``pyarrow.csv`` where its quotes are regular and
every row has the right number of fields, else by Python's ``csv``, which is slower but knows the line of every row. The
fields of an unquoted .tsv file are cut out of its bytes at positions found with numpy.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv

from bertwright.data import text_stream
from bertwright.data.file_bytes import SURROGATE, count, cut_texts, line_bounds, native_reader, positions
from bertwright.data.table import BadRow, Table, one_line
from bertwright.data.text_stream import TextStream
from bertwright.errors import DataError

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_BATCH_ROWS = 10_000
_PYARROW_BLOCK_BYTES = 4 << 20
_MOST_PYARROW_BLOCK_BYTES = 2**31 - 1_000
_CHUNK_BYTES = 1 << 20
# Line ends behind a line's end: blank lines, or part of a quoted text.
_BLANK_LINES = re.compile(r"(?:\A|(?<=\n)|(?<=\r)(?!\n))([\r\n]{8,})")
_MANY_ENDS = ("\n" * 8, "\r\n" * 8, "\r" * 8)
_SLOW_BYTES = 32 << 20
_MOST_FIELD = 16 << 20
_MOST_FIELDS = 10_000
# In a block of fields of one character, all of them in quotes, there are 8 million; their places take 8 bytes each.
_MOST_QUOTES = 9_000_000


@dataclass
class _Before:
    """What the parts of a file know of those before them.

    ``width`` is how many fields a row has, as the first one, which starts on line ``first_line``; ``records`` counts
    the rows so far, and ``slow_bytes`` those bytes that were read row by row (None: that was said).
    """

    kind: str
    width: int = 0
    first_line: int = 0
    records: int = 0
    slow_bytes: int | None = 0


def read_csv(stream: TextStream, kind: str = "csv") -> Iterator[Table]:
    """The parts of a .csv file without a header: its columns are named "1", "2" and so on.

    The first row says how many fields a row has.

    Raises:
        DataError: a quote is never closed, or the first row cannot be used.
    """
    before = _Before(kind)
    while not stream.done:
        data = stream.peek(_after_last_row, most=2 * text_stream.BLOCK_BYTES)
        if data is None:
            table = _read_by_row(stream, before, "a quote is not closed for long")
        else:
            columns, why = _read_at_once(data, _DELIMITERS[kind], before.width)
            if columns is None:
                table = _read_by_row(stream, before, why)
            else:
                table = _table_at_once(stream, data, columns, before)
                stream.take(data)
        if table.num_source_rows:
            yield table


def read_tsv(stream: TextStream) -> Iterator[Table]:
    """The parts of a .tsv file without a header: its columns are named "1", "2" and so on.

    Quotes are text where every line has as many tabs as the first and nothing shows that quotes are meant; the first
    part decides.

    Raises:
        DataError: the first row is not UTF-8.
    """
    quoted, note = _is_quoted(stream)
    before = _Before("tsv")
    for number, table in enumerate(read_csv(stream, "tsv") if quoted else _unquoted(stream, before)):
        if note and number == 0:
            table.notes.append(note)
        yield table


def _unquoted(stream: TextStream, before: _Before) -> Iterator[Table]:
    while not stream.done:
        data = stream.peek()
        assert data is not None
        table = _read_unquoted(stream, data, before)
        stream.take(data)
        if table is not None:
            yield table


def _read_unquoted(stream: TextStream, data: bytes, before: _Before) -> Table | None:
    """The next part, cut at tabs; none if it holds blank lines only."""
    path, lines_before = stream.path, stream.lines
    starts, ends = line_bounds(data, stream.line_end)
    full = np.flatnonzero(ends > starts)
    if not len(full):
        return None
    tabs = positions(data, b"\t")
    from_tab = np.searchsorted(tabs, starts[full])  # (rows,)
    num_tabs = np.searchsorted(tabs, ends[full]) - from_tab
    if not before.width:
        before.width, before.first_line = int(num_tabs[0]) + 1, lines_before + int(full[0]) + 1
        _check_width(path, before)
    width = before.width
    fits = num_tabs == width - 1
    expected = f"expected {width} as on line {before.first_line:,}"
    bad_rows = [
        BadRow(path, lines_before + int(line) + 1, f"found {_count_fields(int(count) + 1)}, {expected}")
        for line, count in zip(full[~fits], num_tabs[~fits], strict=True)
    ]
    lines = full[fits]
    inner = tabs[from_tab[fits][:, None] + np.arange(width - 1)]  # (rows, columns - 1)
    columns, kept, faults = cut_texts(
        data,
        np.concatenate([starts[lines][:, None], inner + 1], axis=1),
        np.concatenate([inner, ends[lines][:, None]], axis=1),
    )
    not_utf8 = [BadRow(path, lines_before + int(lines[row]) + 1, fault) for row, fault in faults.items()]
    if before.records == 0 and 0 in faults:
        raise DataError(f"{not_utf8[0]}. The first row names or counts the columns: mend it")
    bad_rows = sorted(bad_rows + not_utf8, key=lambda bad: bad.line)
    records = np.flatnonzero(fits)[kept] + before.records
    before.records += len(full)
    numbers = lines[kept] + lines_before + 1
    return _without_header(path, "tsv", columns, records, len(full), lambda: numbers, bad_rows)


def _check_width(path: str, before: _Before) -> None:
    if before.width > _MOST_FIELDS:
        raise DataError(
            f"{path}, line {before.first_line:,}: found {before.width:,} fields, expected at most {_MOST_FIELDS:,}: "
            "texts and labels"
        )


def _without_header(
    path: str,
    kind: str,
    columns: Sequence[pa.ChunkedArray],
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


def _after_last_row(data: bytes, start: int, stop: int, line_end: bytes) -> int:
    """After the last line end that has an even number of quotes before it; 0 if there is none.

    Where the quotes are regular, that is where a row ends.
    """
    num_quotes = count(data, b'"', start, stop)
    num_after = 0  # quotes behind the window
    window = 1 << 16  # it moves towards the start: places of all line ends at once may take 40 times as much memory
    while True:
        at = max(stop - window, start)
        piece = data[at:stop]
        ends = positions(piece, line_end)
        quotes = positions(piece, b'"')
        after = num_after + len(quotes) - np.searchsorted(quotes, ends)
        even = ends[(num_quotes - after) % 2 == 0]
        if len(even):
            return at + int(even[-1]) + 1
        if at == start:
            return 0
        num_after += len(quotes)
        stop, window = at, 1 << 20


def _read_at_once(
    data: bytes, delimiter: str, width: int = 0, block_bytes: int = _PYARROW_BLOCK_BYTES
) -> tuple[list[pa.ChunkedArray] | None, str]:
    """The columns through pyarrow, or why it cannot be trusted with these rows.

    There are ``width`` columns, or as many as the first row has.
    """
    if not width:
        try:
            with _huge_fields():
                lines = io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline="")
                width = len(next((row for row in csv.reader(lines, delimiter=delimiter, strict=True) if row), []))
        except csv.Error as error:
            return None, str(error)
    if not width:
        return None, "there is no row"
    if width > _MOST_FIELDS:
        return None, "there are very many fields"
    if not _regular_quotes(data, delimiter):
        return None, "a quote stands inside a field without doubling"
    names = [str(number) for number in range(width)]
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
            return table.columns, ""
        except pa.ArrowInvalid as error:
            if "block" not in str(error) or block_bytes >= min(len(data), _MOST_PYARROW_BLOCK_BYTES):
                return None, one_line(error)
            block_bytes = min(block_bytes * 8, _MOST_PYARROW_BLOCK_BYTES)  # a row is longer than a block


def _table_at_once(stream: TextStream, data: bytes, columns: list[pa.ChunkedArray], before: _Before) -> Table:
    rows = np.arange(before.records, before.records + len(columns[0]))
    lines_before, line_end = stream.lines, stream.line_end
    if not before.width:
        blank = data[: len(data) - len(data.lstrip(b"\r\n"))]
        before.width, before.first_line = len(columns), lines_before + blank.count(line_end) + 1
    before.records += len(rows)
    return _without_header(
        stream.path, before.kind, columns, rows, len(rows), lambda: _record_lines(data, line_end) + lines_before, []
    )


def _regular_quotes(data: bytes, delimiter: str) -> bool:
    """Whether every quote opens a field, closes one, or is doubled inside one (RFC 4180, section 2)."""
    if count(data, b'"') > _MOST_QUOTES:
        return False
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


def _record_lines(data: bytes, line_end: bytes) -> np.ndarray:
    """(rows,) int64: the line on which each row of quoted data starts; only where the quotes are regular."""
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
    return 1 + np.searchsorted(feeds if line_end == b"\n" else returns, starts)


# --- quotes, row by row -------------------------------------------------------------------------------------


def _read_by_row(stream: TextStream, before: _Before, why: str) -> Table:
    """The next part through Python's ``csv``, which says of every row where it starts and what is wrong with it.

    It ends with a row, after about BLOCK_BYTES. ``why`` it is read so is noted, once, where there is much of it.
    """
    path = stream.path
    source = _TextLines(stream)
    chunks: list[list[pa.Array]] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    records: list[int] = []
    bad_rows: list[BadRow] = []
    records_before = before.records

    def flush() -> None:
        chunks.append([pa.array(cells, pa.large_string()) for cells in zip(*rows, strict=True)])
        rows.clear()

    with _huge_fields():
        for line, row, reason in _rows(path, source, _DELIMITERS[before.kind]):
            if before.width == 0:
                if reason:
                    raise DataError(
                        f"{path}, line {line:,}: {reason}. The first row names or counts the columns: mend it"
                    )
                before.width, before.first_line = len(row), line
                _check_width(path, before)
            if not reason and len(row) != before.width:
                reason = f"found {_count_fields(len(row))}, expected {before.width} as on line {before.first_line:,}"
            if reason:
                bad_rows.append(BadRow(path, line, reason))
            else:
                rows.append(row)
                lines.append(line)
                records.append(before.records)
                if len(rows) == _BATCH_ROWS:
                    flush()
            before.records += 1
            if source.num_bytes >= text_stream.BLOCK_BYTES:
                break
    source.stop()
    if rows:
        flush()
    empty = [[pa.nulls(0, pa.large_string())] for _ in range(before.width)]
    columns = [
        pa.chunked_array(pieces, pa.large_string()) for pieces in (zip(*chunks, strict=True) if chunks else empty)
    ]
    numbers = np.array(lines, np.int64)
    table = _without_header(
        path,
        before.kind,
        columns,
        np.array(records, np.int64),
        before.records - records_before,
        lambda: numbers,
        bad_rows,
    )
    if before.slow_bytes is not None:
        before.slow_bytes += source.num_bytes
        if before.slow_bytes > _SLOW_BYTES:
            before.slow_bytes = None
            table.notes.append(f"read row by row, which is slower: {why}")
    return table


def _rows(path: str, source: _TextLines, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Of each row the line on which it starts, its cells, and what is wrong with it (or nothing).

    Blank lines are no rows.
    """
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        line = source.line
        try:
            row = next(reader, None)
        except csv.Error as error:
            if "larger than field limit" in str(error):
                raise DataError(
                    f"{path}, line {line:,}: a field here is longer than {_MOST_FIELD >> 20} million characters; is a "
                    "quote not closed? Close it, or double the quotes inside texts"
                ) from None
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
    before = csv.field_size_limit(_MOST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


class _TextLines:
    """The lines of a stream for Python's ``csv``; those that it did not ask for stay in the stream.

    ``line`` is the number of the next line. Lines end at a carriage return alone too, since a row does; but ``line``
    counts as an editor does. Many blank lines come as one, which ``csv`` reads as it would read each of them, but not
    for as long. Bytes that are not UTF-8 become lone surrogates, which nothing else can. ``num_bytes`` counts the bytes
    of the lines taken, but for those of the last MiB.
    """

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._end = stream.line_end.decode()
        self._chunk = b""
        self._lines: list[str] = []
        self._next = 0
        self.line = stream.lines + 1
        self.num_bytes = 0
        self.exhausted = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._next == len(self._lines):
            self._go_on()
        line = self._lines[self._next]
        self._next += 1
        self.line += line.endswith(self._end) if line[0] not in "\r\n" else self._num_ends(line)
        return line

    def _num_ends(self, blank_lines: str) -> int:
        if self._end == "\r":
            return blank_lines.count("\r") - blank_lines.count("\r\n")
        return blank_lines.count(self._end)

    def _go_on(self) -> None:
        self._stream.take(self._chunk)
        self.num_bytes += len(self._chunk)
        self._chunk, self._lines, self._next = b"", [], 0
        if self._stream.done:
            self.exhausted = True
            raise StopIteration
        chunk = self._stream.peek(size=min(_CHUNK_BYTES, text_stream.BLOCK_BYTES))
        assert chunk is not None
        self._chunk = chunk
        text = chunk.decode("utf-8", "surrogateescape")
        pieces = _BLANK_LINES.split(text) if any(ends in text for ends in _MANY_ENDS) else [text]
        for number, piece in enumerate(pieces):
            self._lines += io.StringIO(piece, newline="") if number % 2 == 0 else [piece]

    def stop(self) -> None:
        """Leave the stream where the lines asked for end."""
        taken = self._chunk
        if self._next < len(self._lines):
            taken = "".join(self._lines[: self._next]).encode("utf-8", "surrogateescape")
        self._stream.take(taken)
        self.num_bytes += len(taken)
        self._chunk, self._lines, self._next = b"", [], 0


# --- .tsv with quotes ---------------------------------------------------------------------------------------


def _is_quoted(stream: TextStream) -> tuple[bool, str]:
    """Whether quotes in a .tsv file mean something, by its first part, and what to tell about it."""
    data = stream.peek()
    assert data is not None
    if b'"' not in data:
        return False, ""
    line_end = stream.line_end
    if stream.holds_more_than(data) and (cut := _after_last_row(data, 0, len(data), line_end)) > len(data) // 2:
        data = data[:cut]  # with quotes, the last line may be the first of a row
    starts, ends = line_bounds(data, line_end)
    full = np.flatnonzero(ends > starts)
    tabs = positions(data, b"\t")
    num_tabs = np.searchsorted(tabs, ends[full]) - np.searchsorted(tabs, starts[full])
    num_unfit = int((num_tabs != num_tabs[0]).sum())
    if num_unfit or _means_quotes(data, int(ends[full[0]])):
        columns, _ = _read_at_once(data, "\t")
        if columns is not None or _fewer_bad_rows(stream, data, num_unfit):
            return True, "read with quotes, as a .csv with tabs"
    return False, "read without quotes: with quotes, more rows would be bad" if num_unfit else ""


def _means_quotes(data: bytes, first_line_end: int) -> bool:
    """Whether a regular .tsv file is quoted all the same: its whole first row is, or a quoted field doubles a quote."""
    if not _regular_quotes(data, "\t"):
        return False
    quotes = positions(data, b'"')
    first = data[:first_line_end].split(b"\t")
    whole = len(first) > 1 and all(len(cell) > 1 and cell[:1] == cell[-1:] == b'"' for cell in first)
    return whole or bool((quotes[2::2] == quotes[1:-1:2] + 1).any())


def _fewer_bad_rows(stream: TextStream, data: bytes, most_bad: int) -> bool:
    """Whether reading the first part with quotes leaves fewer bad rows than ``most_bad``."""
    sample = TextStream(stream.path, iter([data]))
    sample.line_end = stream.line_end
    try:
        return sum(len(table.bad_rows) for table in read_csv(sample, "tsv")) < most_bad
    except DataError:
        return False
