"""Compressed files as they are read: the decompressed bytes in pieces, and what is wrong with a damaged file."""

from __future__ import annotations

import difflib
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from bertwright.data.table import one_line
from bertwright.errors import DataError

PIECE_BYTES = 4 << 20
"""How many bytes are read from a file at a time."""

_MAGIC = {
    ".gz": ("gzip", (b"\x1f\x8b",)),
    ".xz": ("xz", (b"\xfd7zXZ\0",)),
    ".zst": ("zstd", (b"\x28\xb5\x2f\xfd", *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60)))),
}
_MOST_XZ_MEMORY = 1 << 28  # the highest setting of xz needs 65 MiB
# Texts shrink to a third or a fifth of their size, tables that repeat themselves to a hundredth. What swells further is
# made to fill memory or disk. Small files may be anything.
_MOST_TIMES_LARGER, _ANYTHING_BYTES = 250, 64 << 20
COMPRESSIONS = tuple(_MAGIC)
"""The extensions of compressed files."""


def raw_pieces(path: str, on_bytes: Callable[[bytes], object] | None = None) -> Iterator[bytes]:
    """The bytes of a file as they lie on disk, in pieces; ``on_bytes`` is given each.

    Raises:
        DataError: the file cannot be read.
    """
    with refusing_unreadable(path):
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115
    with file:
        while True:
            with refusing_unreadable(path):
                piece = file.read(PIECE_BYTES)
            if not piece:
                return
            if on_bytes is not None:
                on_bytes(piece)
            yield piece


def decompressed_pieces(
    path: str, compression: str, on_bytes: Callable[[bytes], object] | None = None
) -> Iterator[bytes]:
    """The decompressed bytes of a file, in pieces; ``on_bytes`` is given the bytes as they lie on disk.

    ``compression`` is one of COMPRESSIONS, or nothing.

    Raises:
        DataError: the file cannot be read, is empty, is not compressed so, is damaged, holds nothing, or far more than
            texts of its size could.
    """
    if not compression:
        empty = True
        for piece in raw_pieces(path, on_bytes):
            empty = False
            yield piece
        if empty:
            raise DataError(f"{path}: the file is empty, expected rows of texts")
        return
    name, magics = _MAGIC[compression]
    packed_bytes = 0

    def seen(piece: bytes) -> None:
        nonlocal packed_bytes
        packed_bytes += len(piece)
        if on_bytes is not None:
            on_bytes(piece)

    with _HandingOver(path, seen) as file:
        head = file.peek(6)[:6]
        if not head:
            raise DataError(f"{path}: the file is empty, expected rows of texts")
        if not head.startswith(magics):
            found = head[:2].hex(" ")
            raise DataError(f"{path}: not a {name} file (it starts with {found}). Take the {compression} off its name")
        size = 0
        try:
            for piece in _DECOMPRESSED[compression](file):
                size += len(piece)
                refuse_swollen(path, size, packed_bytes)
                yield piece
        except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged {name} ({one_line(error)}). Copy or download the file again") from None
        if not size:
            raise DataError(f"{path}: the file is empty once decompressed, expected rows of texts")


def refuse_swollen(path: str, size: int, packed_bytes: int) -> None:
    """Raise a DataError if ``packed_bytes`` of a file became ``size`` bytes, more than texts do."""
    if size > max(_ANYTHING_BYTES, _MOST_TIMES_LARGER * packed_bytes):
        raise DataError(
            f"{path}: it becomes more than {_MOST_TIMES_LARGER} times as large, as no texts do, and may be made to "
            "fill this machine. If you trust it, decompress or rewrite it yourself"
        )


def _from_gzip(file: io.BufferedReader) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as source:
        while piece := source.read(PIECE_BYTES):
            yield piece


def _from_xz(file: io.BufferedReader) -> Iterator[bytes]:
    """All streams of an .xz file. Unlike ``lzma.open`` it refuses what stands behind them, and endless memory."""
    data = file.read(PIECE_BYTES)
    while data:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_XZ_MEMORY)
        while not stream.eof:
            if stream.needs_input and not data and not (data := file.read(PIECE_BYTES)):
                raise EOFError("the file ended before its end marker was reached")
            if piece := stream.decompress(data, PIECE_BYTES):
                yield piece
            data = b""
        data = stream.unused_data.lstrip(b"\0")  # streams may be padded
        while not data and (more := file.read(PIECE_BYTES)):
            data = more.lstrip(b"\0")


def _from_zstd(file: io.BufferedReader) -> Iterator[bytes]:
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as source:
        while piece := source.read(PIECE_BYTES):
            yield piece


_DECOMPRESSED = {".gz": _from_gzip, ".xz": _from_xz, ".zst": _from_zstd}


class _HandingOver(io.BufferedReader):
    """A file that hands over every byte that is read of it, in order; it is read forwards only."""

    def __init__(self, path: str, on_bytes: Callable[[bytes], object] | None) -> None:
        super().__init__(cast(Any, _Raw(path, on_bytes)), buffer_size=1 << 20)

    def seekable(self) -> bool:
        return False


class _Raw(io.RawIOBase):
    def __init__(self, path: str, on_bytes: Callable[[bytes], object] | None) -> None:
        self._path, self._on_bytes = path, on_bytes
        with refusing_unreadable(path):
            self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with refusing_unreadable(self._path):
            count = self._file.readinto(buffer) or 0
        if count and self._on_bytes is not None:
            self._on_bytes(bytes(memoryview(buffer)[:count]))
        return count

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


@contextmanager
def refusing_unreadable(path: str) -> Iterator[None]:
    """A context in which what the system says of the file ``path`` becomes a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{_nearest_file(path)}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path}: cannot be read ({reason}). Check the file and its permissions") from None


def _nearest_file(path: str) -> str:
    try:
        beside = os.listdir(os.path.dirname(path) or ".")
    except OSError:
        return ""
    nearest = difflib.get_close_matches(os.path.basename(path), beside, n=1, cutoff=0.8)
    return f"; did you mean {os.path.join(os.path.dirname(path), nearest[0])}?" if nearest else ""
