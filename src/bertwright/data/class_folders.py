"""A folder that holds a folder of .txt files for each class, such as neg/1.txt and pos/2.txt."""

from __future__ import annotations

import os
import re
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data import text_stream
from bertwright.data.compression import refusing_unreadable
from bertwright.data.file_bytes import utf8_fault
from bertwright.data.table import BadRow, Table, show
from bertwright.errors import DataError

_MOST_TEXT_BYTES = 64 << 20
_MOST_TEXTS = 1 << 16  # of one part


@dataclass
class _Found:
    """The folders of a folder: of each class its name and path; and what was left out."""

    root: str
    classes: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_class_folders(path: str, on_bytes: Callable[[bytes], object] | None = None) -> Iterator[Table]:
    """The parts of a folder: column "text" is a file's content, "label" the name of the folder that it is in.

    Classes are in sorted order, files in natural order (2 before 10). A file's byte order mark and the line end at its
    end are dropped. Hidden files, empty folders, files beside the folders, and links that lead out of ``path`` are left
    out, with a note. ``on_bytes`` is given, of each file, its name in ``path``, its size and its bytes.

    Raises:
        DataError: there is no folder of .txt files in it, or something else in one.
    """
    found = _look(path)
    texts: list[str] = []
    labels: list[str] = []
    paths: list[str] = []
    records: list[int] = []
    bad_rows: list[BadRow] = []
    size = row = start = 0
    notes = found.notes

    def table() -> Table:
        numbers = np.array(records, np.int64)
        return Table(
            path,
            "folder",
            {
                "text": pa.chunked_array([pa.array(texts, pa.large_string())]),
                "label": pa.chunked_array([pa.array(labels, pa.large_string())]),
            },
            True,
            numbers,
            row - start,
            lambda: numbers + 1,
            bad_rows,
            notes,
            row_paths=paths,
        )

    for label, folder in found.classes:
        for file in _sorted_files(folder, found.root):
            data = _content(file)
            if data is None:
                bad_rows.append(BadRow(file, row + 1, f"longer than {_MOST_TEXT_BYTES >> 20} MiB", "file"))
                data = b""
            else:
                size += len(data)
                text, fault = _text(data)
                if fault:
                    bad_rows.append(BadRow(file, row + 1, fault, "file"))
                else:
                    texts.append(text)
                    labels.append(label)
                    paths.append(file)
                    records.append(row)
            if on_bytes is not None:
                name = Path(os.path.relpath(file, path)).as_posix()
                on_bytes(os.fsencode(name) + b"\0%d\0" % len(data) + data)
            row += 1
            if size >= text_stream.BLOCK_BYTES or row - start >= _MOST_TEXTS:
                yield table()
                texts, labels, paths, records, bad_rows, notes = [], [], [], [], [], []
                size, start = 0, row
    if row > start:
        yield table()


def _look(path: str) -> _Found:
    root = os.path.realpath(path)
    found = _Found(root)
    with refusing_unreadable(path):
        with os.scandir(path) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        skipped = Counter(
            {"hidden": 0, "link that leads out of the folder": 0, "file beside the folders": 0, "empty folder": 0}
        )
        for entry in inside:
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif _leads_out(entry, root):
                skipped["link that leads out of the folder"] += 1
            elif not entry.is_dir():
                skipped["file beside the folders"] += 1
            else:
                if sum(1 for _ in _files(entry.path, root, skipped)):
                    found.classes.append((_label(path, entry.name), entry.path))
                else:
                    skipped["empty folder"] += 1
    if not found.classes:
        raise DataError(
            f"{path}: found a folder without folders of .txt files in it, expected one for each class (neg/1.txt, "
            "pos/2.txt), a folder that bertwright tokenize made, or a file. Name the files in it"
        )
    left_out = [f"{count:,} {what if count == 1 else _plural(what)}" for what, count in skipped.items() if count]
    if left_out:
        found.notes.append(f"left out: {', '.join(left_out)}")
    return found


def _plural(what: str) -> str:
    words = {"hidden": "hidden", "link that leads out of the folder": "links that lead out of the folder"}
    return words.get(what) or {"file beside the folders": "files beside the folders"}.get(what, "empty folders")


def _files(folder: str, root: str, skipped: Counter[str]) -> Iterator[str]:
    """The names of the .txt files of a class, in the order of the file system; what is left out is counted.

    Raises:
        DataError: something else is in the folder.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif _leads_out(entry, root):
                skipped["link that leads out of the folder"] += 1
            elif not entry.name.lower().endswith(".txt") or not stat.S_ISREG(entry.stat().st_mode):
                what = "a folder" if entry.is_dir() else "a file"
                raise DataError(
                    f"{_shown(entry.path)}: found {what} in a folder of a class, expected .txt files only. Move it away"
                )
            else:
                yield entry.name


def _sorted_files(folder: str, root: str) -> Iterator[str]:
    """The paths of the .txt files of a class, in natural order.

    Names lie end to end in few buffers: a million of them as Python objects would take hundreds of megabytes.
    """
    names, keys = _Strings(), _Strings()
    with refusing_unreadable(folder):
        for name in _files(folder, root, Counter()):
            names.add(os.fsencode(name))
            keys.add(_natural(name))
    order = pc.sort_indices(keys.finish())
    del keys
    stored = names.finish()
    for place in range(len(order)):
        yield os.path.join(folder, os.fsdecode(stored[order[place].as_py()].as_py()))


class _Strings:
    """Strings of bytes on their way into an Arrow array."""

    def __init__(self) -> None:
        self._data, self._ends = bytearray(), array("q", [0])

    def add(self, string: bytes) -> None:
        self._data += string
        self._ends.append(len(self._data))

    def finish(self) -> pa.LargeBinaryArray:
        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._data)]
        return pa.Array.from_buffers(pa.large_binary(), len(self._ends) - 1, buffers)


def _leads_out(entry: os.DirEntry[str], root: str) -> bool:
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return not os.path.exists(target) or os.path.commonpath([root, target]) != root


def _natural(name: str) -> bytes:
    """What sorts names piece by piece: numbers by value and before words, words by their characters.

    A number is a 1, the length of its value in two bytes, the value, and the digits as they stand (007 before 07); a
    word is a 2 and its bytes. Digits and words end with a 0, which no name holds.
    """
    key = bytearray()
    for piece in re.split(r"([0-9]+)", name):
        if piece[:1].isascii() and piece[:1].isdecimal():
            value = piece.lstrip("0")
            key += b"\1" + len(value).to_bytes(2, "big") + value.encode() + piece.encode() + b"\0"
        elif piece:
            key += b"\2" + piece.encode("utf-8", "surrogatepass") + b"\0"
    return bytes(key)


def _label(path: str, name: str) -> str:
    fault = utf8_fault(os.fsencode(name))
    if fault or not name.strip():
        raise DataError(f"{path}: found a folder named {show(name)}, expected a name that can be a label. Rename it")
    return name


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _content(path: str) -> bytes | None:
    """The bytes of a file; None if they are too many."""
    with refusing_unreadable(path), open(path, "rb") as file:
        data = file.read(_MOST_TEXT_BYTES + 1)
    return data if len(data) <= _MOST_TEXT_BYTES else None


def _text(data: bytes) -> tuple[str, str]:
    """The text that a file holds, and why it holds none."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if fault := utf8_fault(data):
        return "", fault
    if b"\0" in data:
        return "", "found a NUL byte (binary content?), expected UTF-8 text"
    for line_end in (b"\r\n", b"\n", b"\r"):
        if data.endswith(line_end):
            data = data.removesuffix(line_end)
            break
    return data.decode("utf-8"), ""
