"""NumPy's .npz files: one array a column, read from the zip archive block by block; nothing is unpickled."""

from __future__ import annotations

import ast
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO

import numpy as np
import pyarrow as pa

from bertwright.data import text_stream
from bertwright.data.file_bytes import utf8_fault
from bertwright.data.names import LABEL_COLUMN_NAMES, TEXT_COLUMN_NAMES, fold_name, refuse_duplicates
from bertwright.data.table import CellKind, Table, one_line, show
from bertwright.errors import DataError

_ALIASES = {"text": ("x", "data"), "label": ("y",)}
_MOST_HEADER_BYTES = 10_000
_MOST_TEXT_BYTES = 64 << 20
_MOST_ARRAYS = 1_000


@dataclass(frozen=True)
class _Array:
    name: str
    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    header_bytes: int

    @property
    def why_unusable(self) -> str:
        """Why the array can be no column, or nothing."""
        if self.dtype.hasobject:
            return "Python objects (a pickle)"
        if len(self.shape) != 1:
            return f"an array of shape {self.shape} and type {self.dtype}"
        if self.dtype.kind in "US":
            long = self.dtype.itemsize > _MOST_TEXT_BYTES
            return f"texts of {self.dtype.itemsize >> 20:,} MiB each, more than 64" if long else ""
        usable = self.dtype.kind in "biu" or (self.dtype.kind == "f" and self.dtype.itemsize <= 8)
        return "" if usable and self.dtype.subdtype is None else f"values of type {self.dtype}"


def read_npz(path: str, stored: str, names: Collection[str]) -> Iterator[Table]:
    """The parts of the .npz file ``path``, whose bytes are in the file ``stored``.

    A column is an array of one dimension: texts (type U, or S in UTF-8), numbers or booleans, all of one length. Where
    no array has a name known for texts, "x" and the like are named "text"; in the same way "y" is named "label".

    Args:
        path: The file as messages name it.
        stored: Where its bytes are.
        names: Names of arrays that the user gave; these are not renamed.

    Raises:
        DataError: the file is no zip archive of arrays or is damaged, or an array that is needed holds Python objects.
    """
    try:
        with zipfile.ZipFile(stored) as archive:
            arrays = [_opened(path, archive, member) for member in archive.infolist()]
            if not arrays:
                raise DataError(f"{path}: found no array in it, expected texts and labels")
            refuse_duplicates(path, [array.name for array in arrays])
            _refuse_objects(path, arrays, names)
            columns, unusable, notes = _chosen(path, arrays, names)
            yield from _parts(path, archive, columns, unusable, notes)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        OSError,
        struct.error,
        UnicodeDecodeError,  # of a name
    ) as error:
        with open(stored, "rb") as file:
            head = file.read(4)
        if head.startswith(b"\x93NUM"):
            found = "found one array (.npy), expected an archive of them. Save texts and labels with numpy.savez"
        elif head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            found = (
                "found a pickle, expected an archive of arrays. Loading a pickle runs code; save arrays by numpy.savez"
            )
        elif head[:2] != b"PK":
            found = f"not a .npz file (it starts with {head.hex(' ')}). Write it by numpy.savez"
        else:
            found = f"damaged .npz file ({one_line(error)}). Copy or write it again"
        raise DataError(f"{path}: {found}") from None


def _opened(path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Array:
    """An array by its header."""
    if len(archive.filelist) > _MOST_ARRAYS:
        raise DataError(f"{path}: found {len(archive.filelist):,} arrays, expected a few: texts and labels")
    name = member.filename.removesuffix(".npy")
    if member.flag_bits & 1:
        raise DataError(f"{path}: array {show(name)} is encrypted. Write the file without a password")
    with archive.open(member) as file:
        magic = file.read(8)
        if not member.filename.endswith(".npy") or len(magic) < 8 or magic[:6] != b"\x93NUMPY":
            raise DataError(
                f"{path}: found {show(member.filename)} in it, which is no array (.npy). Write it by numpy.savez"
            )
        version = (magic[6], magic[7])
        try:
            raw = file.read(2 if version == (1, 0) else 4)
            length = int.from_bytes(raw, "little")
            if version not in ((1, 0), (2, 0), (3, 0)) or length > _MOST_HEADER_BYTES:
                raise ValueError(f"version {version[0]}.{version[1]}, {length:,} bytes long")
            text = file.read(length)
            ast.literal_eval(text.decode("latin-1" if version < (3, 0) else "utf-8"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # version 3 differs from 2 in that the names of fields may be any text, of which there are none to us
                shape, _, dtype = np.lib.format.read_array_header_2_0(
                    io.BytesIO(len(text).to_bytes(4, "little") + text), max_header_size=_MOST_HEADER_BYTES
                )
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError) as error:
            raise DataError(
                f"{path}: array {show(name)} has a header that cannot be read ({one_line(error)}). Write it again"
            ) from None
    if any(size < 0 for size in shape):
        raise DataError(f"{path}: array {show(name)} is damaged (its shape is {shape}). Write it again")
    return _Array(name, member, shape, dtype, len(magic) + len(raw) + len(text))


def _refuse_objects(path: str, arrays: list[_Array], names: Collection[str]) -> None:
    known = {*TEXT_COLUMN_NAMES, *LABEL_COLUMN_NAMES, *_ALIASES["text"], *_ALIASES["label"]}
    texts = any(array.dtype.kind in "US" and not array.why_unusable for array in arrays)
    for array in arrays:
        if array.dtype.hasobject and (array.name in names or fold_name(array.name) in known or not texts):
            target = path.removesuffix(".npz") + ".parquet"
            raise DataError(
                f"{path}: array {show(array.name)} holds Python objects, which are read by loading a pickle; that runs "
                "whatever code is in it, and is not done here. If you trust the file, convert it in Python: "
                "import numpy, pyarrow, pyarrow.parquet; "
                f"pyarrow.parquet.write_table(pyarrow.table(dict(numpy.load({path!r}, allow_pickle=True))), {target!r})"
            )


def _chosen(
    path: str, arrays: list[_Array], names: Collection[str]
) -> tuple[dict[str, _Array], dict[str, str], list[str]]:
    """The arrays that are columns, by their names; why others are not; and what to tell of that."""
    usable = [array for array in arrays if not array.why_unusable]
    unusable = {array.name: array.why_unusable for array in arrays if array.why_unusable}
    if not usable:
        shown = ", ".join(f"{show(name)}: {why}" for name, why in list(unusable.items())[:5])
        raise DataError(f"{path}: found no array of texts or numbers ({shown})")
    notes = []
    renamed = {array.name: array.name for array in usable}
    for target, known in (("text", TEXT_COLUMN_NAMES), ("label", LABEL_COLUMN_NAMES)):
        if any(fold_name(array.name) in known for array in usable):
            continue
        found = [array.name for alias in _ALIASES[target] for array in usable if fold_name(array.name) == alias]
        if found and found[0] not in names:
            renamed[found[0]] = target
            notes.append(f"took array {show(found[0])} for column {show(target)}")
    needed = {*names, *TEXT_COLUMN_NAMES, *LABEL_COLUMN_NAMES}
    lengths = {
        array.name: array.shape[0]
        for array in usable
        if renamed[array.name] in names or fold_name(renamed[array.name]) in needed
    } or {array.name: array.shape[0] for array in usable}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{show(name)} {length:,}" for name, length in list(lengths.items())[:10])
        raise DataError(f"{path}: found arrays of different lengths ({shown}), expected one value a row in each")
    length = next(iter(lengths.values()))
    if length == 0:
        raise DataError(f"{path}: found arrays ({', '.join(map(show, lengths))}) but no rows")
    for array in usable:
        if array.shape[0] != length:
            unusable[array.name] = f"{array.shape[0]:,} values beside {length:,} rows"
    columns = {renamed[array.name]: array for array in usable if array.shape[0] == length}
    return columns, unusable, notes


def _parts(
    path: str, archive: zipfile.ZipFile, columns: dict[str, _Array], unusable: dict[str, str], notes: list[str]
) -> Iterator[Table]:
    num_rows = next(iter(columns.values())).shape[0]
    row_bytes = sum(array.dtype.itemsize for array in columns.values())
    if not row_bytes:  # then nothing bounds how many rows there are said to be
        raise DataError(f"{path}: found arrays of empty texts alone, expected texts")
    step = max(1, text_stream.BLOCK_BYTES // row_bytes)
    files: dict[str, IO[bytes]] = {}
    try:
        for name, array in columns.items():
            files[name] = archive.open(array.member)
            files[name].read(array.header_bytes)
        for start in range(0, num_rows, step):
            count = min(step, num_rows - start)
            found = {name: _values(path, array, files[name], count, start) for name, array in columns.items()}
            if start + count == num_rows:
                for name, array in columns.items():
                    if files[name].read(1):  # also makes the archive compare the checksum
                        raise DataError(
                            f"{path}: array {show(array.name)} is damaged (there is more data than its header says). "
                            "Write it again"
                        )
            rows = np.arange(start, start + count, dtype=np.int64)
            yield Table(
                path,
                "npz",
                {name: pa.chunked_array([values]) for name, (values, _) in found.items()},
                True,
                rows,
                count,
                partial(np.add, rows, 1),
                notes=notes if start == 0 else [],
                cell_kinds={name: kinds for name, (_, kinds) in found.items() if kinds is not None},
                unusable=unusable,
            )
    finally:
        for file in files.values():
            file.close()


def _values(path: str, array: _Array, file: IO[bytes], count: int, start: int) -> tuple[pa.Array, np.ndarray | None]:
    """The next ``count`` values of an array and, if texts among them are broken, the kinds of the cells (rows,)."""
    size = array.dtype.itemsize
    data = file.read(count * size)
    if len(data) < count * size:
        held = start + len(data) // max(size, 1)
        raise DataError(
            f"{path}: array {show(array.name)} is damaged (it holds {held:,} values, expected {array.shape[0]:,} as "
            "its header says). Write it again"
        )
    if array.dtype.kind not in "US":
        values = np.frombuffer(data, array.dtype).astype(array.dtype.newbyteorder("="))
        return pa.array(values.astype(np.float64) if array.dtype.kind == "f" else values), None
    if size == 0:
        return pa.array([""] * count, pa.large_string()), None
    if array.dtype.kind == "S":
        cells = np.frombuffer(data, array.dtype).tolist()
        broken = np.array([bool(utf8_fault(cell)) for cell in cells], bool)
        texts = [cell.decode("utf-8", "replace") for cell in cells]
    else:
        points = np.frombuffer(data, np.dtype("u4").newbyteorder(array.dtype.byteorder)).reshape(count, size // 4)
        bad = (points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))  # (rows, characters)
        broken = np.asarray(bad.any(axis=1))
        if broken.any():
            points = points.copy()
            points[broken] = 0
        texts = points.view(array.dtype).ravel().tolist()
    if not broken.any():
        return pa.array(texts, pa.large_string()), None
    good = [None if wrong else text for text, wrong in zip(texts, broken.tolist(), strict=True)]
    return pa.array(good, pa.large_string()), np.where(broken, CellKind.BROKEN, CellKind.TEXT).astype(np.uint8)
