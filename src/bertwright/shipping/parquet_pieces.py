"""Which rows of .parquet files are read together, on any file system that Arrow knows, and how."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from bertwright.config.base import expand_home
from bertwright.config.evaluate import PredictSettings
from bertwright.data.choose import Asked, Columns, choose_texts
from bertwright.data.parquet import tables_in
from bertwright.data.reading import Reading
from bertwright.data.table import one_line
from bertwright.errors import DataError

ROW, GROUP_PREFIX = "row", "group_"
"""The column of row numbers over all files, and what the names of columns of groups begin with."""


@dataclass(frozen=True)
class Place:
    """A file or folder of a file system."""

    file_system: pyarrow.fs.FileSystem
    name: str

    @staticmethod
    def of(address: str) -> Place:
        try:
            if "://" in address:
                return Place(*pyarrow.fs.FileSystem.from_uri(address.rstrip("/")))
            return Place(pyarrow.fs.LocalFileSystem(), os.path.abspath(expand_home(address)))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{address}: not an address of a file system that is known ({one_line(error)})") from None

    @property
    def is_local(self) -> bool:
        return isinstance(self.file_system, pyarrow.fs.LocalFileSystem)

    def files(self) -> list[pyarrow.fs.FileInfo]:
        """What lies in the folder."""
        return list(self.file_system.get_file_info(pyarrow.fs.FileSelector(self.name, allow_not_found=True)))


@dataclass(frozen=True)
class ReadAs:
    """How a piece is read: the columns, and what to do with rows that cannot be used."""

    columns: Columns
    on_bad_row: str


@dataclass(frozen=True)
class Piece:
    """Consecutive row groups of a file. ``first_row`` is the first one's place in the file, ``rows_before`` are those
    of the files before."""

    address: str
    row_groups: tuple[int, ...]
    first_row: int
    rows_before: int
    num_rows: int
    num_bytes: int


@dataclass(frozen=True)
class Planned:
    pieces: list[Piece]
    reading: ReadAs
    num_rows: int


def plan_pieces(files: Sequence[str], settings: PredictSettings) -> Planned:
    """Which row groups are read together, by the files' footers alone; and the columns, by the first texts.

    Raises:
        DataError: a file cannot be read, or holds no texts.
    """
    pieces: list[Piece] = []
    rows_before = 0
    columns: Columns | None = None
    for address in parquet_files(files):
        with _opened(address) as (source, file):
            if columns is None:
                columns = _columns_of(address, source, file, settings)
            metadata, row, group = file.metadata, 0, 0
            while group < metadata.num_row_groups:
                first, num_rows, num_bytes = group, 0, 0
                while group < metadata.num_row_groups and num_rows < settings.shard_texts:
                    num_rows += metadata.row_group(group).num_rows
                    num_bytes += metadata.row_group(group).total_byte_size
                    group += 1
                pieces.append(Piece(address, tuple(range(first, group)), row, rows_before, num_rows, num_bytes))
                row += num_rows
            rows_before += metadata.num_rows
    if columns is None or not pieces:
        raise DataError(f"{', '.join(files)}: found no rows, expected .parquet files of texts")
    return Planned(pieces, ReadAs(columns, settings.on_bad_row), rows_before)


def parquet_files(files: Sequence[str]) -> Iterator[str]:
    """The addresses of the files; of folders, those of the .parquet files in them, by name."""
    for address in files:
        place = Place.of(address)
        try:
            info = place.file_system.get_file_info(place.name)
            if info.type == pyarrow.fs.FileType.NotFound:
                raise DataError(f"{address}: no such file or folder")
            if info.type == pyarrow.fs.FileType.File:
                if not address.endswith(".parquet"):
                    raise DataError(f"{address}: expected a .parquet file, which --distribute ray reads alone")
                yield address
                continue
            names = sorted(one.base_name for one in place.files() if one.base_name.endswith(".parquet"))
        except OSError as error:
            raise DataError(f"{address}: cannot be read ({one_line(error)})") from None
        if not names:
            raise DataError(f"{address}: found no .parquet file in it")
        yield from (f"{address.rstrip('/')}/{name}" for name in names)


@contextlib.contextmanager
def _opened(address: str) -> Iterator[tuple[pa.NativeFile, pq.ParquetFile]]:
    place = Place.of(address)
    try:
        with place.file_system.open_input_file(place.name) as source, pq.ParquetFile(source) as file:
            yield source, file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{address}: damaged or not a parquet file ({one_line(error)})") from None


def _columns_of(address: str, source: pa.NativeFile, file: pq.ParquetFile, settings: PredictSettings) -> Columns:
    asked = Asked(settings.text_column, settings.pair_column, (), tuple(settings.group_columns))
    table = next(tables_in(address, source, file, list(range(min(1, file.metadata.num_row_groups)))), None)
    if table is None:
        raise DataError(f"{address}: found no rows, expected texts")
    return choose_texts(table, asked)[0]


def read_piece(piece: Piece, how: ReadAs) -> Iterator[pa.Table]:
    """The usable texts of a piece: their rows over all files, texts, second texts and groups.

    Raises:
        DataError: the file has changed or is damaged; a row cannot be used.
    """
    reading = Reading(lambda _: (how.columns, []))
    with _opened(piece.address) as (source, file):
        tables = tables_in(piece.address, source, file, list(piece.row_groups), piece.first_row)
        for usable in reading.usable_parts(tables):
            if how.on_bad_row == "error":
                reading.bad_rows("error", 1)
            columns: dict[str, Any] = {ROW: usable.rows + piece.rows_before, "text": usable.texts.to_arrow()}
            if usable.pairs is not None:
                columns["pair"] = usable.pairs.to_arrow()
            yield pa.table({**columns, **{GROUP_PREFIX + name: column for name, column in usable.groups.items()}})
