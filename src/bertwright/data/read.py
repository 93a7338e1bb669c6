"""From a file to its columns, in parts, so that no file need fit in memory.

Nothing here decides which column is the text and which the label (that is :mod:`bertwright.data.columns`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bertwright.data.arrow import read_arrow
from bertwright.data.class_folders import read_class_folders
from bertwright.data.compression import COMPRESSIONS, PIECE_BYTES, decompressed_pieces, raw_pieces, refusing_unreadable
from bertwright.data.delimited import read_csv, read_tsv
from bertwright.data.header import with_header
from bertwright.data.jsonl import read_jsonl
from bertwright.data.lines import read_lines_of_text, read_plain
from bertwright.data.npz import read_npz
from bertwright.data.parquet import read_parquet
from bertwright.data.table import Table, joined
from bertwright.data.text_stream import TextStream
from bertwright.errors import DataError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".npz": "npz",
}
"""The format that each file name extension stands for; each extension may be followed by one of COMPRESSIONS."""

_STORED = {"parquet": read_parquet, "arrow": read_arrow}


def read_parts(
    path: str | os.PathLike[str],
    names: Collection[str] = (),
    plain_text: bool = False,
    on_bytes: Callable[[bytes], object] | None = None,
) -> Iterator[Table]:
    """The columns of one file, by its extension, in consecutive parts of about 16 MiB (decompressed).

    All parts have the same columns, those of the first one, which also decides whether there is a header, how many
    fields a row has and what quotes mean. There is at least one part. Nothing is read before the first is asked for.

    Args:
        path: A file of one of FORMATS, which may be compressed; or a folder that holds a folder of .txt files for each
            class.
        names: Column names that the user gave; a first row that holds one of them is a header.
        plain_text: Read a .txt file as one text a line where its lines are not ``label ||| text``.
        on_bytes: Is given the file's bytes as they lie on disk, in order and once, by the time of the last part (to
            hash them).

    Raises:
        DataError: the file is missing, unreadable, damaged, empty, has a header but no rows, is not UTF-8 text, has two
            columns of one name, or has an extension that is not read. Rows that cannot be parsed raise nothing: they
            are in ``bad_rows``.
    """
    shown = os.fspath(path)
    if os.path.isdir(shown):
        yield from read_class_folders(shown, on_bytes)
        return
    with refusing_unreadable(shown):
        os.stat(shown)
    kind, compression = format_of(shown)
    if kind in ("parquet", "arrow", "npz"):
        with _stored(shown, compression, on_bytes) as stored:
            if kind == "npz":
                yield from read_npz(shown, stored, names)
            else:
                yield from _STORED[kind](shown, stored)
        return
    stream = TextStream(shown, decompressed_pieces(shown, compression, on_bytes))
    if kind == "jsonl":
        yield from read_jsonl(stream)
    elif kind == "txt":
        yield from read_lines_of_text(stream, plain_text)
    else:
        yield from with_header(read_csv(stream) if kind == "csv" else read_tsv(stream), names)


def read_table(
    path: str | os.PathLike[str],
    names: Collection[str] = (),
    plain_text: bool = False,
    on_bytes: Callable[[bytes], object] | None = None,
) -> Table:
    """All parts of one file together, with the arguments and errors of :func:`read_parts`."""
    return joined(list(read_parts(path, names, plain_text, on_bytes)))


def read_line_parts(file: IO[Any], name: str, on_bytes: Callable[[bytes], object] | None = None) -> Iterator[Table]:
    """One text a line, from a file object opened as text or as bytes, in parts; the one column is named "text".

    Raises:
        DataError: there is nothing in it, or it is not UTF-8 text.
    """
    return read_plain(TextStream(name, _pieces_of(file, name, on_bytes)))


def read_lines(file: IO[Any], name: str, on_bytes: Callable[[bytes], object] | None = None) -> Table:
    """All parts together, with the arguments and errors of :func:`read_line_parts`."""
    return joined(list(read_line_parts(file, name, on_bytes)))


def _pieces_of(file: IO[Any], name: str, on_bytes: Callable[[bytes], object] | None) -> Iterator[bytes]:
    while True:
        try:
            content = file.read(PIECE_BYTES)
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: not UTF-8 ({error.reason}, byte 0x{error.object[error.start]:02x})") from None
        if not content:
            return
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else bytes(content)
        if on_bytes is not None:
            on_bytes(data)
        yield data
        if len(content) < PIECE_BYTES and getattr(file, "isatty", bool)():
            return  # Ctrl-D ended it: to read on would wait for a second one


def is_text_file(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a .txt file, compressed or not, by its name."""
    shown = os.fspath(path).lower()
    compression = next((ending for ending in COMPRESSIONS if shown.endswith(ending)), "")
    return shown.removesuffix(compression).endswith(".txt") and not os.path.isdir(shown)


def format_of(path: str) -> tuple[str, str]:
    """The format of a file by its name, and how it is compressed, or nothing.

    Raises:
        DataError: it is none that is read.
    """
    suffixes = Path(path.lower()).suffixes
    compression = suffixes[-1] if suffixes and suffixes[-1] in COMPRESSIONS else ""
    extension = "".join((suffixes[:-1] if compression else suffixes)[-1:])
    if extension not in FORMATS:
        known = ", ".join(FORMATS)
        found = f"found the extension {extension}" if extension else "found no extension"
        raise DataError(f"{path}: {found}, expected {known} (each also with {', '.join(COMPRESSIONS)})")
    return FORMATS[extension], compression


@contextmanager
def _stored(path: str, compression: str, on_bytes: Callable[[bytes], object] | None) -> Iterator[str]:
    """The name of a file on disk that holds the decompressed bytes of ``path``, which are not read in order."""
    if not compression:
        pieces = raw_pieces(path, on_bytes)
        if next(pieces, None) is None:
            raise DataError(f"{path}: the file is empty, expected rows of texts")
        if on_bytes is not None:
            for _ in pieces:
                pass
        yield path
        return
    try:
        with tempfile.TemporaryDirectory(prefix="bertwright-") as folder:
            stored = os.path.join(folder, "decompressed")
            with open(stored, "wb") as file:
                for piece in decompressed_pieces(path, compression, on_bytes):
                    file.write(piece)
            yield stored
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path}: cannot be decompressed ({reason}). Decompress it yourself") from None
