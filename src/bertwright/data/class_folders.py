"""A folder that holds a folder of .txt files for each class, such as neg/1.txt and pos/2.txt."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from bertwright.data import text_stream
from bertwright.data.compression import refusing_unreadable
from bertwright.data.file_bytes import utf8_fault
from bertwright.data.table import BadRow, Table, show
from bertwright.errors import DataError

_MOST_TEXT_BYTES = 64 << 20


@dataclass
class _Found:
    """The folders of a folder: of each class its name and files; and what was left out."""

    classes: list[tuple[str, list[str]]] = field(default_factory=list)
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

    for label, files in found.classes:
        for file in files:
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
            if size >= text_stream.BLOCK_BYTES:
                yield table()
                texts, labels, paths, records, bad_rows, notes = [], [], [], [], [], []
                size, start = 0, row
    if row > start:
        yield table()


def _look(path: str) -> _Found:
    found = _Found()
    with refusing_unreadable(path):
        root = os.path.realpath(path)
        with os.scandir(path) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        skipped = {"hidden": 0, "link that leads out of the folder": 0, "file beside the folders": 0, "empty folder": 0}
        for entry in inside:
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif _leads_out(entry, root):
                skipped["link that leads out of the folder"] += 1
            elif not entry.is_dir():
                skipped["file beside the folders"] += 1
            else:
                files = _files(entry.path, root, skipped)
                if files:
                    found.classes.append((_label(path, entry.name), files))
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


def _files(folder: str, root: str, skipped: dict[str, int]) -> list[str]:
    """The .txt files of a class, in natural order.

    Raises:
        DataError: something else is in the folder.
    """
    files = []
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
                files.append(entry.path)
    return sorted(files, key=_natural)


def _leads_out(entry: os.DirEntry[str], root: str) -> bool:
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return not os.path.exists(target) or os.path.commonpath([root, target]) != root


def _natural(name: str) -> list[tuple[int, int, str]]:
    pieces = re.split(r"([0-9]+)", os.path.basename(name))
    return [(0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]


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
