"""From a file to its columns: .csv, .tsv, .jsonl, .parquet and ``label ||| text`` lines, each also as .gz.

Nothing here decides which column is the text and which the label (that is :mod:`bertwright.data.columns`).
"""

from __future__ import annotations

import difflib
import gzip
import io
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from bertwright.data.delimited import read_csv, read_tsv
from bertwright.data.header import with_header
from bertwright.data.jsonl import read_jsonl
from bertwright.data.lines import is_plain, read_plain, read_separated
from bertwright.data.parquet import read_parquet
from bertwright.data.table import Table, one_line
from bertwright.errors import DataError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
}
"""The format that each file name extension stands for; each extension may be followed by .gz."""


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
        return read_parquet(shown, data)
    data = _checked_text(shown, data)
    if kind == "jsonl":
        return read_jsonl(shown, data)
    if kind == "txt":
        return read_plain(shown, data) if plain_text and is_plain(data) else read_separated(shown, data)
    return with_header(read_csv(shown, data) if kind == "csv" else read_tsv(shown, data), names)


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
    return read_plain(name, _checked_text(name, data))


def _read_bytes(path: str, on_bytes: Callable[[bytes], object] | None) -> tuple[str, bytes]:
    """The format of a file and its bytes, decompressed."""
    suffixes = Path(path.lower()).suffixes
    compressed = bool(suffixes) and suffixes[-1] == ".gz"
    extension = "".join((suffixes[:-1] if compressed else suffixes)[-1:])
    if os.path.isdir(path):
        raise DataError(
            f"{path}: found a folder, expected a file, or a folder that bertwright tokenize made. Name the files in it"
        )
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
        raise DataError(f"{path}: not a gzip file (it starts with {data[:2].hex(' ')}). Take the .gz off its name")
    pieces = []
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while piece := file.read(4 << 20):
                pieces.append(piece)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: damaged gzip ({one_line(error)}). Copy or download the file again") from None
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


def read_parts(
    path: str | os.PathLike[str],
    names: Collection[str] = (),
    plain_text: bool = False,
    on_bytes: Callable[[bytes], object] | None = None,
) -> Iterator[Table]:
    """The columns of one file as consecutive tables; arguments and errors are those of :func:`read_table`."""
    yield read_table(path, names, plain_text, on_bytes)
