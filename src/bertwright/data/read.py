"""From a file to its columns: .csv, .tsv, .jsonl, .parquet and ``label ||| text`` lines, each also as .gz.

Nothing here decides which column is the text and which the label (that is :mod:`bertwright.data.columns`). What is
decided here is what a row is, on which line of the file it starts, and whether the first row is a header.

A quoted file is parsed in one of two ways that agree: by ``pyarrow.csv`` where its quotes are regular and every row has
the right number of fields, else by Python's ``csv``, which is slower but knows the line of every row. Lines and
unquoted fields are cut out of the file's bytes at positions found with numpy.
"""

from __future__ import annotations

import csv
import difflib
import enum
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from bertwright.errors import DataError

TEXT_COLUMN_NAMES = (
    "text",
    "comment_text",
    "comment",
    "sentence",
    "content",
    "review",
    "review_text",
    "review_body",
    "body",
    "message",
    "tweet",
    "document",
    "utterance",
    "phrase",
    "post",
    "question",
    "headline",
    "description",
    "abstract",
    "title",
)
"""Names by which a text column is found, the first that is there wins; case, spaces and hyphens do not count."""

LABEL_COLUMN_NAMES = (
    "label",
    "labels",
    "target",
    "toxic",
    "toxicity",
    "is_toxic",
    "sentiment",
    "class",
    "category",
    "classification",
    "polarity",
    "emotion",
    "intent",
    "topic",
    "stars",
    "rating",
    "score",
)
"""Names by which a label column is found, the first that is there wins; case, spaces and hyphens do not count."""

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
}
"""The format that each file name extension stands for; each extension may be followed by .gz."""

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What counts as a number in a file of text."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_SEPARATOR = " ||| "
_NO_VALUE = ("", "nan", "na", "n/a", "none", "null", "?")
_BATCH_ROWS = 10_000
_BLOCK_BYTES = 16 << 20
_MOST_BLOCK_BYTES = 2**31 - 1_000
_MOST_KEYS = 1_000
_SLOW_BYTES = 32 << 20


class CellKind(enum.IntEnum):
    """What a cell of a .jsonl or .parquet file held, where its column alone cannot say."""

    TEXT = 0
    NUMBER = 1
    BOOL = 2
    MISSING = 3
    NULL = 4
    NESTED = 5
    BROKEN = 6


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    ``line`` is the physical line, from 1, on which the row starts in the (decompressed) file; lines end where an editor
    ends them, at a line feed. In a .parquet file, which has no lines, it is the row, from 1, and ``unit`` says so.
    """

    path: str
    line: int
    reason: str
    unit: str = "line"

    @property
    def where(self) -> str:
        """File and line, such as ``comments.csv, line 48,213``."""
        return f"{self.path}, {self.unit} {self.line:,}"

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Table:
    """One file's columns, before anyone decided which is text and which label.

    ``columns`` holds texts as large_string, and numbers and booleans as themselves where the format knows them
    (.parquet). In a .jsonl file every value is rendered as text, and ``cell_kinds``, (rows,) uint8 of
    :class:`CellKind`, says what it was; null stands where there is no value of use. ``unusable`` names the columns of
    other types.

    ``row_numbers`` (rows,) int64 is the place of each row in the file, from 0, the header not counted; rows that could
    not be parsed are in ``bad_rows`` and leave gaps. Blank lines are no rows. ``num_source_rows`` counts the bad rows
    too.
    """

    path: str
    format: str
    columns: dict[str, pa.ChunkedArray]
    has_header: bool
    row_numbers: np.ndarray
    num_source_rows: int
    compute_lines: Callable[[], np.ndarray]
    bad_rows: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cell_kinds: dict[str, np.ndarray] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row_numbers)

    @property
    def unit(self) -> str:
        """What :meth:`line_of` counts: "line", or "row" in a .parquet file."""
        return "row" if self.format == "parquet" else "line"

    @cached_property
    def lines(self) -> np.ndarray:
        """(rows,) int64: the line, from 1, on which each row starts. Computed when first asked for."""
        lines = self.compute_lines()
        assert len(lines) == len(self), f"{len(lines)} lines for {len(self)} rows of {self.path}"
        return lines

    def line_of(self, row: int) -> int:
        """The line, from 1, on which row ``row`` of the columns starts (the row, from 1, in a .parquet file)."""
        return int(self.lines[row])


def read_table(
    path: str | os.PathLike[str],
    names: Collection[str] = (),
    plain_text: bool = False,
    on_bytes: Callable[[bytes], object] | None = None,
) -> Table:
    """The columns of one file, by its extension.

    Args:
        path: .csv, .tsv, .jsonl, .ndjson, .parquet or .txt, each optionally followed by .gz.
        names: Column names that the user gave; a first row that holds one of them is a header.
        plain_text: Read a .txt file as one text a line where its lines are not ``label ||| text``.
        on_bytes: Is given the file's bytes as they lie on disk (to hash them without reading twice).

    Raises:
        DataError: the file is missing, unreadable, damaged, empty, has a header but no rows, is not UTF-8 text, has two
            columns of one name, or has an extension that is not read. Rows that cannot be parsed raise nothing: they
            are in ``bad_rows``.
    """
    shown = os.fspath(path)
    kind, data = _read_bytes(shown, on_bytes)
    if kind == "parquet":
        return _read_parquet(shown, data)
    data = _checked_text(shown, data)
    if kind == "jsonl":
        return _read_jsonl(shown, data)
    if kind == "txt":
        return _read_plain(shown, data) if plain_text and _is_plain(data) else _read_separated(shown, data)
    notes: list[str] = []
    cells = _csv_cells(shown, data, ",", notes) if kind == "csv" else _tsv_cells(shown, data, notes)
    return _with_names(shown, kind, cells, names, notes)


def read_lines(file: IO[Any], name: str, on_bytes: Callable[[bytes], object] | None = None) -> Table:
    """One text a line, from a file object opened as text or as bytes; the one column is named "text".

    Raises:
        DataError: there is nothing in it, or it is not UTF-8 text.
    """
    try:
        content = file.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 ({error.reason}, byte 0x{error.object[error.start]:02x})") from None
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else bytes(content)
    if on_bytes is not None:
        on_bytes(data)
    return _read_plain(name, _checked_text(name, data))


def show(value: object, most: int = 60) -> str:
    """``value`` in double quotes, on one line, cut after ``most`` characters: a piece of data in a message."""
    text = str(value)
    text = text if len(text) <= most else text[:most] + "..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text) + '"'


def fold_name(name: str) -> str:
    """A column name as it is looked up in the lists of known names."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


# --- bytes --------------------------------------------------------------------------------------------------


def _read_bytes(path: str, on_bytes: Callable[[bytes], object] | None) -> tuple[str, bytes]:
    """The format of a file and its bytes, decompressed."""
    suffixes = Path(path.lower()).suffixes
    compressed = bool(suffixes) and suffixes[-1] == ".gz"
    extension = "".join((suffixes[:-1] if compressed else suffixes)[-1:])
    if os.path.isdir(path):
        raise DataError(f"{path}: found a folder, expected a file. Name the files in it")
    if extension not in FORMATS:
        known = ", ".join(FORMATS)
        found = f"found the extension {extension}" if extension else "found no extension"
        raise DataError(f"{path}: {found}, expected {known} (each also with .gz)")
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{_nearest_file(path)}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path}: cannot be read ({reason}). Check the file and its permissions") from None
    if on_bytes is not None:
        on_bytes(data)
    if not data:
        raise DataError(f"{path}: the file is empty, expected rows of texts")
    if compressed:
        data = _decompressed(path, data)
        if not data:
            raise DataError(f"{path}: the file is empty once decompressed, expected rows of texts")
    return FORMATS[extension], data


def _nearest_file(path: str) -> str:
    try:
        beside = os.listdir(os.path.dirname(path) or ".")
    except OSError:
        return ""
    nearest = difflib.get_close_matches(os.path.basename(path), beside, n=1, cutoff=0.8)
    return f"; did you mean {os.path.join(os.path.dirname(path), nearest[0])}?" if nearest else ""


def _decompressed(path: str, data: bytes) -> bytes:
    if data[:2] != b"\x1f\x8b":
        raise DataError(f"{path}: not a gzip file (it starts with {_hex(data[:2])}). Take the .gz off its name")
    pieces = []
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while piece := file.read(4 << 20):
                pieces.append(piece)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: damaged gzip ({_one_line(error)}). Copy or download the file again") from None
    return b"".join(pieces)


def _checked_text(path: str, data: bytes) -> bytes:
    """``data`` without a byte order mark, once it is clear that it is text in something like UTF-8."""
    if not data:
        raise DataError(f"{path}: empty, expected texts")
    for magic, found, advice in (
        (b"\xff\xfe", "UTF-16 text (byte order mark ff fe)", "Convert it: iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff", "UTF-16 text (byte order mark fe ff)", "Convert it: iconv -f UTF-16 -t UTF-8"),
        (b"\x1f\x8b", "gzip data", "Add .gz to its name"),
        (b"PK\x03\x04", "a zip archive (or a spreadsheet)", "Unpack it, or save it as .csv"),
        (b"PAR1", "parquet data", "Name it .parquet"),
    ):
        if data.startswith(magic):
            raise DataError(f"{path}: found {found}, expected UTF-8 text. {advice}")
    nul = data.find(b"\0")
    if nul >= 0:
        head = data[:4096]
        line = data.count(b"\n", 0, nul) + 1
        found = "UTF-16 without a byte order mark?" if head.count(b"\0") > len(head) * 0.3 else "binary content?"
        raise DataError(
            f"{path}, line {line:,}: found a NUL byte ({found}), expected UTF-8 text. Convert or clean the file"
        )
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data or data.isspace():
        raise DataError(f"{path}: the file is empty but for blank lines, expected rows of texts")
    return data


def _hex(data: bytes) -> str:
    return data.hex(" ")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:160] + "..."


# --- positions in the bytes ---------------------------------------------------------------------------------


def _positions(data: bytes, byte: bytes) -> np.ndarray:
    """(occurrences,) int64: where ``byte`` stands in ``data``."""
    if byte not in data:
        return np.empty(0, np.int64)
    array = np.frombuffer(data, np.uint8)
    step = 8 << 20  # in pieces, so that the comparison stays in the cache
    found = [np.flatnonzero(array[at : at + step] == byte[0]) + at for at in range(0, len(array), step)]
    return np.concatenate(found).astype(np.int64, copy=False)


def _newlines(data: bytes) -> np.ndarray:
    """Where physical lines end: at line feeds or, in a file that has none, at carriage returns."""
    newlines = _positions(data, b"\n")
    return newlines if len(newlines) else _positions(data, b"\r")


def _line_bounds(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(lines,) starts and (lines,) ends of the physical lines, line ends left out."""
    newlines = _newlines(data)
    starts = np.concatenate([np.zeros(1, np.int64), newlines + 1])
    ends = np.concatenate([newlines, np.full(1, len(data), np.int64)])
    if starts[-1] == len(data):
        starts, ends = starts[:-1], ends[:-1]
    last = np.frombuffer(data, np.uint8)[np.maximum(ends - 1, 0)]
    ends = ends - ((ends > starts) & (last == ord("\r")))
    return starts, ends


def _cut(data: bytes, starts: np.ndarray, ends: np.ndarray) -> list[pa.ChunkedArray]:
    """The slices of ``data`` as columns: ``starts`` and ``ends`` are (rows, columns), row by row ascending.

    The bytes between two slices are slices too, so that one array without a copy covers the file; then every second one
    is taken. The array is not checked to be UTF-8.
    """
    rows, columns = starts.shape
    if rows == 0:
        return [pa.chunked_array([], pa.large_string()) for _ in range(columns)]
    offsets = np.stack([starts, ends], axis=2).ravel()  # (rows * columns * 2,)
    pieces = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    step = 2 * columns
    return [
        pa.chunked_array([pieces.take(pa.array(np.arange(2 * column, len(offsets), step)))])
        for column in range(columns)
    ]


def _is_utf8(columns: Sequence[pa.ChunkedArray]) -> bool:
    try:
        for column in columns:
            column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _broken_bytes(data: bytes) -> str:
    """Why ``data`` is not UTF-8, or nothing."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{data[error.start]:02x})"
    return ""


# --- cells of .csv and .tsv ---------------------------------------------------------------------------------


@dataclass
class _Cells:
    """Rows of a .csv or .tsv file before its first row is known to be a header: all cells are text.

    ``records`` (rows,) int64 counts the bad rows too, from 0; ``compute_lines`` gives (rows,) line numbers.
    """

    columns: list[pa.ChunkedArray]
    records: np.ndarray
    num_records: int
    compute_lines: Callable[[], np.ndarray]
    bad_rows: list[BadRow]


def _csv_cells(path: str, data: bytes, delimiter: str, notes: list[str]) -> _Cells:
    cells, why = _csv_cells_at_once(data, delimiter)
    if cells is not None:
        return cells
    if len(data) > _SLOW_BYTES:
        notes.append(f"read row by row, which is slower: {why}")
    return _csv_cells_by_row(path, data, delimiter)


def _csv_cells_at_once(data: bytes, delimiter: str, block_bytes: int = _BLOCK_BYTES) -> tuple[_Cells | None, str]:
    """The cells through pyarrow, or why it cannot be trusted with this file."""
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
                pa.BufferReader(data),
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
                return None, _one_line(error)
            block_bytes = min(block_bytes * 8, _MOST_BLOCK_BYTES)  # a row is longer than a block
    num_rows = table.num_rows
    return _Cells(table.columns, np.arange(num_rows), num_rows, lambda: _record_lines(data), []), ""


def _regular_quotes(data: bytes, delimiter: str) -> bool:
    """Whether every quote opens a field, closes one, or is doubled inside one (RFC 4180, section 2)."""
    quotes = _positions(data, b'"')
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
    returns = _positions(data, b"\r")
    feeds = _positions(data, b"\n")
    lone = returns[(returns == len(data) - 1) | (array[np.minimum(returns + 1, len(data) - 1)] != ord("\n"))]
    ends = np.union1d(feeds, lone)
    ends = ends[np.searchsorted(_positions(data, b'"'), ends) % 2 == 0]  # inside quotes, a line end is text
    starts = np.concatenate([np.zeros(1, np.int64), ends + 1])
    ends = np.concatenate([ends, np.full(1, len(data), np.int64)])
    lengths = ends - starts
    only_return = (lengths == 1) & (array[np.minimum(starts, len(data) - 1)] == ord("\r"))
    starts = starts[(lengths > 0) & ~only_return]
    return 1 + np.searchsorted(feeds if len(feeds) else returns, starts)


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


def _csv_cells_by_row(path: str, data: bytes, delimiter: str) -> _Cells:
    """The cells through Python's ``csv``, which says of every row where it starts and what is wrong with it."""
    source = _TextLines(data)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
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
        while True:
            line = source.line
            try:
                row = next(reader, None)
                reason = ""
            except csv.Error as error:
                if source.exhausted:
                    raise DataError(
                        f"{path}, line {line:,}: a quote opens a field here and is not closed before the end of the "
                        "file. Close it, or double the quotes inside texts"
                    ) from None
                row, reason = [""], _quoting_reason(error, line, source.line)
            if row is None:
                break
            if not row:
                continue  # a blank line
            if broken := next(filter(None, map(_SURROGATE.search, row)), None):
                reason = f"not UTF-8 (byte 0x{ord(broken[0]) - 0xDC00:02x})"
            if num_records == 0:
                if reason:
                    raise DataError(
                        f"{path}, line {line:,}: {reason}. The first row names or counts the columns: mend it"
                    )
                width, first_line = len(row), line
            if not reason and len(row) != width:
                reason = f"found {_count(len(row), 'field')}, expected {width} as on line {first_line:,}"
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
    columns = [pa.chunked_array([chunk[i] for chunk in chunks], pa.large_string()) for i in range(width)]
    numbers = np.array(lines, np.int64)
    return _Cells(columns, np.array(records, np.int64), num_records, lambda: numbers, bad_rows)


def _surrogate(text: str) -> bool:
    return _SURROGATE.search(text) is not None


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _quoting_reason(error: csv.Error, line: int, next_line: int) -> str:
    what = "a quote inside a quoted field is not doubled" if "expected after" in str(error) else str(error)
    return what if next_line <= line + 1 else f"{what} (the field runs on to line {next_line - 1:,})"


def _tsv_cells(path: str, data: bytes, notes: list[str]) -> _Cells:
    """Without quotes where every line has as many tabs as the first and nothing shows that quotes are meant."""
    starts, ends = _line_bounds(data)
    full = np.flatnonzero(ends > starts)
    tabs = _positions(data, b"\t")
    from_tab = np.searchsorted(tabs, starts[full])  # (rows,)
    num_tabs = np.searchsorted(tabs, ends[full]) - from_tab
    width = int(num_tabs[0]) + 1
    fits = num_tabs == num_tabs[0]
    quotes = b'"' in data
    if quotes and (not fits.all() or _means_quotes(data, int(ends[full[0]]))):
        quoted = _tsv_cells_quoted(path, data, most_bad=int((~fits).sum()))
        if quoted is not None:
            notes.append("read with quotes, as a .csv with tabs")
            return quoted
    chosen = full[fits]
    tab = tabs[from_tab[fits][:, None] + np.arange(width - 1)]  # (rows, columns - 1)
    cell_starts = np.concatenate([starts[chosen][:, None], tab + 1], axis=1)
    cell_ends = np.concatenate([tab, ends[chosen][:, None]], axis=1)
    bad_rows = [
        BadRow(
            path, int(line) + 1, f"found {_count(int(count) + 1, 'field')}, expected {width} as on line {full[0] + 1:,}"
        )
        for line, count in zip(full[~fits], num_tabs[~fits], strict=True)
    ]
    columns = _cut(data, cell_starts, cell_ends)
    records = np.flatnonzero(fits)
    if not _is_utf8(columns):
        broken = np.zeros(len(chosen), bool)
        for row, line in enumerate(chosen):
            reason = _broken_bytes(data[starts[line] : ends[line]])
            if reason:
                broken[row] = True
                bad_rows.append(BadRow(path, int(line) + 1, reason))
        if broken[0]:
            raise DataError(f"{bad_rows[-int(broken.sum())]}. The first row names or counts the columns: mend it")
        bad_rows.sort(key=lambda bad: bad.line)
        columns = _cut(data, cell_starts[~broken], cell_ends[~broken])
        chosen, records = chosen[~broken], records[~broken]
    if quotes and not fits.all():
        notes.append("read without quotes: with quotes, more rows would be bad")
    return _Cells(columns, records, len(full), lambda: chosen + 1, bad_rows)


def _means_quotes(data: bytes, first_line_end: int) -> bool:
    """Whether a regular .tsv file is quoted all the same: its whole first row is, or a quoted field doubles a quote."""
    if not _regular_quotes(data, "\t"):
        return False
    quotes = _positions(data, b'"')
    first = data[:first_line_end].split(b"\t")
    whole = len(first) > 1 and all(len(cell) > 1 and cell[:1] == cell[-1:] == b'"' for cell in first)
    return whole or bool((quotes[2::2] == quotes[1:-1:2] + 1).any())


def _tsv_cells_quoted(path: str, data: bytes, most_bad: int) -> _Cells | None:
    """The cells read with quotes, if that leaves fewer bad rows than ``most_bad`` (or none)."""
    cells, _ = _csv_cells_at_once(data, "\t")
    if cells is not None:
        return cells
    try:
        cells = _csv_cells_by_row(path, data, "\t")
    except DataError:
        return None
    return cells if len(cells.bad_rows) < most_bad else None


# --- is the first row a header? -----------------------------------------------------------------------------


def _with_names(path: str, kind: str, cells: _Cells, names: Collection[str], notes: list[str]) -> Table:
    first = [column[0].as_py().strip() for column in cells.columns]
    rest = [column.slice(1) for column in cells.columns]
    header, note = _is_header(first, rest, names)
    if note:
        notes.append(note)
    if not header:
        columns = {str(number): column for number, column in enumerate(cells.columns, 1)}
        return Table(
            path, kind, columns, False, cells.records, cells.num_records, cells.compute_lines, cells.bad_rows, notes
        )
    if cells.num_records == 1:
        raise DataError(f"{path}: found a header ({', '.join(show(name) for name in first)}) but no rows below it")
    given = [name or str(number) for number, name in enumerate(first, 1)]
    _refuse_duplicates(path, given)
    table = Table(
        path,
        kind,
        dict(zip(given, rest, strict=True)),
        True,
        cells.records[1:] - 1,
        cells.num_records - 1,
        lambda: cells.compute_lines()[1:],
        cells.bad_rows,
        notes,
    )
    return _without_repeated_header(table, [column[0].as_py() for column in cells.columns])


def _refuse_duplicates(path: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: found two columns named {show(twice[0])}, expected each name once. Rename one of them"
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
    if text is not None or label is not None:
        if label is None and len(first) == 2:
            label = 1 - (text or 0)
        if label is not None and _occurs(first[label], rest[label]):
            return False, no_header
        return True, ""
    likely = False
    for cell, column in zip(first, rest, strict=True):
        if len(first) == 1 or cell.casefold() in _NO_VALUE:
            continue
        sample = _stripped(column.slice(0, 100_000))
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


def _stripped(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(column)


def _occurs(cell: str, column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.equal(_stripped(column), pa.scalar(cell, pa.large_string()))).as_py())


def _without_repeated_header(table: Table, header: list[str]) -> Table:
    """The table without rows that repeat the header, as files joined with ``cat`` have: they are bad rows."""
    if len(header) < 2 or not len(table):
        return table
    repeats = None
    for name, column in zip(header, table.columns.values(), strict=True):
        same = pc.equal(column, pa.scalar(name, pa.large_string()))
        repeats = same if repeats is None else pc.and_(repeats, same)
        if not pc.any(repeats).as_py():
            return table
    mask = np.asarray(repeats).astype(bool)
    lines = table.lines
    again = [BadRow(table.path, int(line), "repeats the header") for line in lines[mask]]
    kept = pa.array(~mask)
    return Table(
        table.path,
        table.format,
        {name: column.filter(kept) for name, column in table.columns.items()},
        True,
        table.row_numbers[~mask],
        table.num_source_rows,
        lambda: lines[~mask],
        sorted(table.bad_rows + again, key=lambda bad: bad.line),
        table.notes,
    )


# --- .txt ---------------------------------------------------------------------------------------------------


def _is_plain(data: bytes) -> bool:
    """Whether most lines lack the separator: then the lines are texts, and a separator in one is part of it."""
    starts, ends = _line_bounds(data)
    (lines,) = _cut(data, starts[:, None], ends[:, None])
    with_separator = pc.sum(pc.match_substring(lines, _SEPARATOR)).as_py() or 0
    blank = int((ends == starts).sum())
    return with_separator * 2 < len(starts) - blank


def _read_plain(path: str, data: bytes) -> Table:
    """One text a line. Blank lines are (bad) rows too, so that row and line agree, but for those at the end."""
    starts, ends = _line_bounds(data)
    last = int(np.flatnonzero(ends > starts)[-1]) + 1
    starts, ends = starts[:last], ends[:last]
    table, _ = _lines_table(path, data, np.arange(last), last, starts, [("text", starts, ends)])
    return table


def _read_separated(path: str, data: bytes) -> Table:
    """``label ||| text`` lines; blank lines are no rows."""
    starts, ends = _line_bounds(data)
    full = np.flatnonzero(ends > starts)
    starts, ends = starts[full], ends[full]
    (lines,) = _cut(data, starts[:, None], ends[:, None])
    at = np.asarray(pc.find_substring(lines, _SEPARATOR)).astype(np.int64)  # (rows,) in bytes, -1 where there is none
    has = at >= 0
    split = starts[has] + at[has]
    table, bytes_bad = _lines_table(
        path,
        data,
        full[has],
        len(full),
        starts[has],
        [("label", starts[has], split), ("text", split + len(_SEPARATOR), ends[has])],
        np.flatnonzero(has),
    )
    no_separator = [
        BadRow(path, int(line) + 1, f'no "{_SEPARATOR}" between label and text, expected label ||| text')
        for line in full[~has]
    ]
    table.bad_rows[:] = sorted(bytes_bad + no_separator, key=lambda bad: bad.line)
    return table


def _lines_table(
    path: str,
    data: bytes,
    lines: np.ndarray,
    num_rows: int,
    starts: np.ndarray,
    bounds: list[tuple[str, np.ndarray, np.ndarray]],
    rows: np.ndarray | None = None,
) -> tuple[Table, list[BadRow]]:
    """A table of one row a line, stripped, and the rows that are not UTF-8; ``lines`` (rows,) counts from 0."""
    rows = np.arange(num_rows) if rows is None else rows
    cell_starts = np.stack([start for _, start, _ in bounds], axis=1)
    cell_ends = np.stack([end for _, _, end in bounds], axis=1)
    columns = _cut(data, cell_starts, cell_ends)
    bad_rows: list[BadRow] = []
    if not _is_utf8(columns):
        good = np.ones(len(lines), bool)
        for row, line in enumerate(lines):
            reason = _broken_bytes(data[starts[row] : cell_ends[row, -1]])
            if reason:
                good[row] = False
                bad_rows.append(BadRow(path, int(line) + 1, reason))
        lines, rows = lines[good], rows[good]
        columns = _cut(data, cell_starts[good], cell_ends[good])
    names = [name for name, _, _ in bounds]
    stripped = {name: _stripped(column) for name, column in zip(names, columns, strict=True)}
    return Table(path, "txt", stripped, False, rows, num_rows, lambda: lines + 1, bad_rows), bad_rows


# --- .jsonl -------------------------------------------------------------------------------------------------


def _read_jsonl(path: str, data: bytes) -> Table:
    columns: dict[str, list[tuple[pa.Array, np.ndarray]]] = {}
    objects: list[dict[str, Any]] = []
    sizes: list[int] = []
    lines: list[int] = []
    records: list[int] = []
    bad_rows: list[BadRow] = []
    num_records = 0

    def flush() -> None:
        for key in dict.fromkeys(itertools.chain.from_iterable(objects)):
            if key not in columns:
                columns[key] = [_no_values(size) for size in sizes]
                if len(columns) > _MOST_KEYS:
                    raise DataError(f"{path}: found more than {_MOST_KEYS:,} different keys, expected one object a row")
        for key, chunks in columns.items():
            chunks.append(_rendered([row.get(key, _MISSING) for row in objects]))
        sizes.append(len(objects))
        objects.clear()

    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        row, reason = _parsed(line)
        if row is None:
            bad_rows.append(BadRow(path, number, reason))
        else:
            objects.append(row)
            lines.append(number)
            records.append(num_records)
            if len(objects) == _BATCH_ROWS:
                flush()
        num_records += 1
    if objects:
        flush()
    # a key that is no text itself (a lone surrogate) can name no column
    usable = {key: chunks for key, chunks in columns.items() if not _surrogate(key)}
    if not usable:
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
        cell_kinds={key: np.concatenate([kinds for _, kinds in chunks]) for key, chunks in usable.items()},
    )


def _parsed(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The object on a line, or why there is none."""
    reason = _broken_bytes(line)
    if reason:
        return None, reason
    try:
        value = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        return None, f"not JSON ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError) as error:  # a number of too many digits; too many brackets
        return None, f"not JSON that can be read ({_one_line(error)})"
    if not isinstance(value, dict):
        return None, f"found {_json_type(value)}, expected one JSON object a line"
    return value, ""


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "a boolean"), (str, "a string"), (list, "a list"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return "a number"


_MISSING = object()


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
        return (None, CellKind.BROKEN) if _surrogate(value) else (value, CellKind.TEXT)
    if isinstance(value, bool):
        return ("true" if value else "false"), CellKind.BOOL
    if isinstance(value, int | float):
        text = number_text(value)
        return text, CellKind.NULL if text is None else CellKind.NUMBER
    if value is None:
        return None, CellKind.NULL
    return None, CellKind.MISSING if value is _MISSING else CellKind.NESTED


def number_text(value: float) -> str | None:
    """A number as a label: integral ones without a point; none for NaN and infinities."""
    if isinstance(value, int):
        return str(value)
    if value != value or value in (float("inf"), float("-inf")):
        return None
    return str(int(value)) if value == int(value) else repr(value)


# --- .parquet -----------------------------------------------------------------------------------------------


def _read_parquet(path: str, data: bytes) -> Table:
    try:
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(data))
        schema = file.schema_arrow
        _refuse_duplicates(path, schema.names)
        usable = {item.name: kind for item in schema if (kind := _read_as(item.type)) is not None}
        unusable = {item.name: str(item.type) for item in schema if item.name not in usable}
        table = file.read(columns=list(usable))
        num_rows = file.metadata.num_rows
        columns = {name: _decoded(table.column(name)).cast(kind) for name, kind in usable.items()}
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged or not a parquet file ({_one_line(error)}). Copy or write it again") from None
    if num_rows == 0:
        raise DataError(f"{path}: found columns ({', '.join(show(name) for name in schema.names)}) but no rows")
    kinds = {}
    for name, column in columns.items():
        if pa.types.is_large_string(column.type) and not _is_utf8([column]):
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
    broken = np.array([cell is not None and bool(_broken_bytes(cell)) for cell in cells], bool)
    kinds = np.where(broken, CellKind.BROKEN, CellKind.TEXT).astype(np.uint8)
    good = [None if bad else cell for cell, bad in zip(cells, broken, strict=True)]
    return pa.chunked_array([pa.array(good, pa.large_binary()).cast(pa.large_string())]), kinds
