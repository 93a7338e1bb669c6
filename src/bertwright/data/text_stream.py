"""The bytes of a file of text as they come: checked to be text, and cut into blocks where rows end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bertwright.data.file_bytes import count
from bertwright.errors import DataError

BLOCK_BYTES = 16 << 20
"""About so many (decompressed) bytes of a file become one part of its table.

Larger blocks are slower: from 32 MiB on, the system's allocator gives each one fresh memory.
"""

# What is read to find the end of a row takes several times as much memory.
_MOST_ROW_BYTES = 64 << 20
_LINE_END_BYTES = 1 << 20


FindCut = Callable[[bytes, int, int, bytes], int]
"""Where some bytes can be cut between a start and a stop, or 0, given what a line ends with."""


def after_last_line(data: bytes, start: int, stop: int, line_end: bytes) -> int:
    """After the last line end; 0 if there is none."""
    return data.rfind(line_end, start, stop) + 1


class TextStream:
    """A file of UTF-8 text, of which only what was not taken yet is in memory.

    ``lines`` is how many lines were taken. ``line_end`` is what a line ends with: a line feed or, in a file whose first
    1 MiB (or block) has none, a carriage return. A byte order mark is dropped.

    Raises:
        DataError: on creation or later, the pieces hold something else than text, or nothing but blank lines.
    """

    def __init__(self, path: str, pieces: Iterator[bytes]) -> None:
        self.path = path
        self.lines = 0
        self.line_end = b"\n"
        self._pieces = pieces
        self._data = b""
        self._at = 0
        self._at_end = False
        self._first = True
        self._fill(max(BLOCK_BYTES, _LINE_END_BYTES))
        if not self._data:
            raise DataError(f"{path}: empty, expected texts")
        self._data = self._data.removeprefix(b"\xef\xbb\xbf")
        while not self._data or self._data.isspace() or not (b"\n" in self._data or b"\r" in self._data):
            if self._at_end:
                break
            self._fill(self._larger(len(self._data)))
        if not self._data or self._data.isspace():
            raise DataError(f"{path}: the file is empty but for blank lines, expected rows of texts")
        if b"\n" not in self._data and b"\r" in self._data:
            self.line_end = b"\r"

    @property
    def done(self) -> bool:
        """Whether everything was taken."""
        if self._at == len(self._data):
            self._fill(1)
        return self._at == len(self._data)

    def peek(
        self, find_cut: FindCut = after_last_line, size: int | None = None, most: int | None = None
    ) -> bytes | None:
        """The next ``size`` bytes (BLOCK_BYTES) up to a cut, or all that is left if it is fewer; they stay.

        Where there is no cut, more bytes are taken; beyond ``most`` the answer is None. Without ``size``, of bytes that
        are line ends for the most part a quarter is given: readers take a multiple of the memory for each line.

        Raises:
            DataError: without ``most``, a row is longer than 64 MiB.
        """
        chosen = BLOCK_BYTES if size is None else size
        found = self._peek(find_cut, chosen, most)
        if size is None and found and count(found, self.line_end) > len(found) // 2:
            cut = find_cut(self._data, self._at, self._at + len(found) // 4, self.line_end)
            if cut > self._at:
                return self._data[self._at : cut]
        return found

    def _peek(self, find_cut: FindCut, size: int, most: int | None) -> bytes | None:
        while True:
            self._fill(size + 1)
            if len(self._data) - self._at <= size:
                return self._data[self._at :]
            cut = find_cut(self._data, self._at, self._at + size, self.line_end)
            if cut > self._at:
                return self._data[self._at : cut]
            if most is not None and size >= most:
                return None
            size = self._larger(size)

    def holds_more_than(self, data: bytes) -> bool:
        """Whether there is more left than ``data``, the beginning of what is left."""
        self._fill(len(data) + 1)
        return len(self._data) - self._at > len(data)

    def take(self, data: bytes) -> None:
        """Go on after ``data``, the beginning of what is left."""
        self._at += len(data)
        self.lines += count(data, self.line_end)

    def _larger(self, size: int) -> int:
        if size >= _MOST_ROW_BYTES:
            raise DataError(
                f"{self.path}, line {self.lines + 1:,}: found no end of the row within {size >> 20:,} MiB, expected "
                "rows of texts. Are its lines ended?"
            )
        return max(2 * size, 2)

    def _fill(self, size: int) -> None:
        """Hold at least ``size`` bytes that were not taken, or all that are left."""
        missing = size - (len(self._data) - self._at)
        if self._at_end or missing <= 0:
            return
        found = [self._data[self._at :]]
        while missing > 0:
            piece = next(self._pieces, None)
            if piece is None:
                self._at_end = True
                break
            if self._first and piece:
                while len(piece) < 4 and (more := next(self._pieces, None)) is not None:
                    piece += more
                self._first = False
                refuse_other_formats(self.path, piece)
            if (nul := piece.find(b"\0")) >= 0:
                self._refuse_nul(b"".join(found), piece, nul)
            found.append(piece)
            missing -= len(piece)
        self._data = b"".join(found)
        self._at = 0

    def _refuse_nul(self, before: bytes, piece: bytes, nul: int) -> None:
        head = piece[:4096]
        line = self.lines + before.count(b"\n") + piece.count(b"\n", 0, nul) + 1
        found = "UTF-16 without a byte order mark?" if head.count(b"\0") > len(head) * 0.3 else "binary content?"
        raise DataError(
            f"{self.path}, line {line:,}: found a NUL byte ({found}), expected UTF-8 text. Convert or clean the file"
        )


def refuse_other_formats(path: str, head: bytes) -> None:
    """Raise a DataError if a file that starts with ``head`` is known to be something else than UTF-8 text."""
    for magic, found, advice in (
        (b"\xff\xfe", "UTF-16 text (byte order mark ff fe)", "Convert it: iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff", "UTF-16 text (byte order mark fe ff)", "Convert it: iconv -f UTF-16 -t UTF-8"),
        (b"\x1f\x8b", "gzip data", "Add .gz to its name"),
        (b"\xfd7zXZ", "xz data", "Add .xz to its name"),
        (b"\x28\xb5\x2f\xfd", "zstd data", "Add .zst to its name"),
        (b"PK\x03\x04", "a zip archive (or a spreadsheet)", "Unpack it, or save it as .csv"),
        (b"PAR1", "parquet data", "Name it .parquet"),
        (b"ARROW1", "Arrow data", "Name it .arrow"),
    ):
        if head.startswith(magic):
            raise DataError(f"{path}: found {found}, expected UTF-8 text. {advice}")
