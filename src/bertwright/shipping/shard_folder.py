"""Where the shards of a scoring lie until all are there: a folder beside the output, which tells what it belongs to.

    _manifest.json       what the scores depend on: texts, model, settings
    _shards.jsonl        a line for each shard that is whole: its texts, and the hash of its file
    part-000000.arrow    the shards: in the output's format, or as Arrow stores tables where they become one .parquet
    _lock                held by the process that works here

What reads a folder of parquet files leaves out names that begin with "_". A shard is written beside its place, flushed
and renamed before its line is added. So whatever happens, what the lines tell of is whole; it is compared with its hash
before it is believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from bertwright.data.tokenize import LongTextCounts
from bertwright.errors import RunError
from bertwright.evaluation.predict import write_tables
from bertwright.runs import fsync_folder, read_json, wait_for_lock, write_json, written_beside

MANIFEST, LOG, LOCK = "_manifest.json", "_shards.jsonl", "_lock"
NUM_SHARDS = "num_shards"
"""In the manifest, once all shards are there."""
PART = re.compile(r"part-[0-9]{6,}\.(arrow|parquet|csv|tsv|jsonl)")
SHARD_SUFFIXES = {".parquet": ".arrow", "/": ".parquet"}
"""What the shards' names end in, where it is not what the output's does. Arrow's own format takes next to no time to
write and to read back; it is compressed once, at the end."""
_ROWS_PER_GROUP = 65_536
_LOCK_TRIES = 50
_COPIED_BYTES = 1 << 20


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is whole: what a line of the log says.

    ``counts`` are of its texts, ``sha256`` of the bytes of its file.
    """

    shard: int
    sha256: str
    counts: LongTextCounts


def shard_folder_of(output: Path) -> Path:
    """Where the shards of ``output`` lie."""
    return output.absolute().with_name(output.name + ".shards")


class ShardFolder:
    """The shards of one scoring, for the process that has the lock.

    Attributes:
        records: the whole shards by their number.
        damaged: what was wrong with shards that are made anew.
        taken: whether the folder is this scoring's: it was begun, or is gone on with.
    """

    def __init__(self, path: Path, suffix: str) -> None:
        """``suffix`` is that of the output, or "/" for a folder of .parquet files."""
        self.path, self.suffix = path, SHARD_SUFFIXES.get(suffix, suffix)
        self.records: dict[int, ShardRecord] = {}
        self.damaged: list[str] = []
        self.taken = False

    def part(self, number: int) -> Path:
        return self.path / f"part-{number:06d}{self.suffix}"

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Begin anew, whatever the folder held."""
        self.taken = True
        self._clear(all_but=LOCK)
        write_json(self.path / MANIFEST, manifest)

    def resume(self) -> None:
        """Take up the shards that are whole.

        Raises:
            RunError: the log cannot be read.
        """
        self.taken = True
        try:
            lines = (self.path / LOG).read_bytes().split(b"\n") if (self.path / LOG).is_file() else []
        except OSError as error:
            raise RunError(f"{self.path / LOG}: cannot be read ({error.strerror})") from None
        for line in lines:
            record = _record_of(line)
            if record is None:
                continue  # the last one, as far as it was written; or damaged, and its shard is made anew
            part = self.part(record.shard)
            if not part.is_file():
                self.damaged.append(f"{part.name} is missing")
            elif _sha256_of(part) != record.sha256:
                self.damaged.append(f"{part.name} is damaged")
            else:
                self.records[record.shard] = record
        self._write_log()

    def write(self, number: int, tables: Iterator[pa.Table], counts: LongTextCounts) -> None:
        """Write a shard, to the disk, and then its line.

        Raises:
            OSError: it cannot be written. What was there before stays.
        """
        part = self.part(number)
        if self.suffix == ".arrow":
            _write_arrow(part, tables)
        else:
            write_tables(part, tables, header=number == 0)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        fsync_folder(self.path)
        self.records[number] = ShardRecord(number, sha256, counts)
        line = _line_of(self.records[number])
        log = self.path / LOG
        size = log.stat().st_size if log.is_file() else 0
        with open(log, "ab", buffering=0) as file:
            try:
                if file.write(line) != len(line):
                    raise OSError(28, os.strerror(28), os.fspath(log))
                os.fsync(file.fileno())
            except OSError:
                del self.records[number]
                file.truncate(size)
                raise

    def _write_log(self) -> None:
        """So that it holds the whole shards alone."""
        with written_beside(self.path / LOG) as partial, open(partial, "wb") as file:
            for _, record in sorted(self.records.items()):
                file.write(_line_of(record))
            file.flush()
            os.fsync(file.fileno())

    @property
    def counts(self) -> LongTextCounts:
        return sum((record.counts for record in self.records.values()), LongTextCounts())

    def all_there(self, num_shards: int) -> None:
        """Note that all shards are whole: from here on an output that stands there is this one."""
        write_json(self.path / MANIFEST, {**(read_manifest(self.path) or {}), NUM_SHARDS: num_shards})

    def join(self, output: Path, num_shards: int) -> None:
        """Let all shards become the file ``output``: written beside it, flushed and renamed.

        Raises:
            RunError: a shard was damaged since it was written.
            OSError: it cannot be written.
        """
        parts = [self.part(number) for number in range(num_shards)]
        with written_beside(output) as partial:
            if self.suffix == ".arrow":
                _join_arrow(parts, partial)
            else:
                with open(partial, "wb") as whole:
                    for part in parts:
                        with open(part, "rb") as file:
                            shutil.copyfileobj(file, whole, _COPIED_BYTES)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        fsync_folder(output.absolute().parent)

    def become(self, output: Path) -> None:
        """Let the folder itself, with its shards alone, become the folder ``output``, in place of an earlier one."""
        if output.exists():
            shutil.rmtree(output)
        os.rename(self.path, output)
        for name in (MANIFEST, LOG, LOCK):
            (output / name).unlink(missing_ok=True)
        fsync_folder(output.absolute().parent)

    def remove(self) -> None:
        """Remove the folder and all that it holds of a scoring."""
        self._clear()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _clear(self, all_but: str = "") -> None:
        """The manifest goes first: what is left without it is of no use to anyone."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        for file in sorted(self.path.iterdir()):
            if is_ours(file) and file.name != all_but:
                file.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it the folder of shards ``path`` is there, and no other process works in it; the lock ends with the
    process.

    Raises:
        RunError: another process works there; or something else than shards lies there.
    """
    if path.exists() and not (path.is_dir() and all(map(is_ours, path.iterdir()))):
        raise RunError(f"{path} exists and is not the folder of a scoring alone; move it, or pass another --output")
    path.mkdir(exist_ok=True)
    try:
        with wait_for_lock(path / LOCK, _LOCK_TRIES):
            yield
    except BlockingIOError:
        raise RunError(
            f"{path}: another process is scoring into it; wait for it to end, or pass another --output"
        ) from None


def is_ours(file: Path) -> bool:
    """Whether ``file`` is one of those that make up a folder of shards, by its name."""
    name = file.name.removesuffix(".partial")
    return name in (MANIFEST, LOG, LOCK) or PART.fullmatch(name) is not None


def read_manifest(path: Path) -> dict[str, Any] | None:
    """What the folder of shards ``path`` belongs to; None if there is none, or no shard in it was ever whole.

    Raises:
        RunError: its manifest is damaged.
    """
    return read_json(path / MANIFEST) if (path / MANIFEST).is_file() and (path / LOG).is_file() else None


def _write_arrow(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with written_beside(path) as partial, pa.ipc.new_file(partial, first.schema) as file:
        for table in (first, *tables):
            # in one piece, however the texts came, so that the output's pages are cut alike
            file.write_table(table.cast(first.schema).combine_chunks())


def _join_arrow(parts: list[Path], output: Path) -> None:
    """All tables in one .parquet file, in row groups of 65,536 rows however large the shards are."""
    writer: pq.ParquetWriter | None = None
    held: list[pa.Table] = []
    schema: pa.Schema | None = None

    def write(tables: list[pa.Table]) -> None:
        nonlocal writer
        if writer is None:
            writer = pq.ParquetWriter(output, tables[0].schema, compression="zstd")
        try:
            whole = pa.concat_tables(tables)
        except pa.ArrowException:  # they were not written by one scoring
            raise RunError(
                f"{output.parent}: its shards differ in their columns; pass --overwrite to begin anew"
            ) from None
        writer.write_table(whole, row_group_size=_ROWS_PER_GROUP)

    try:
        for part in parts:
            held.append(_read_arrow(part))
            schema = held[-1].schema if schema is None else schema
            if held[-1].schema != schema:
                raise RunError(f"{part}: holds other columns than the shards before; pass --overwrite to begin anew")
            rows = sum(map(len, held))
            if rows >= _ROWS_PER_GROUP:
                last, rest = held[-1], rows % _ROWS_PER_GROUP
                write([*held[:-1], last.slice(0, len(last) - rest)])
                held = [last.slice(len(last) - rest)] if rest else []
        if held:
            write(held)
    finally:
        if writer is not None:
            writer.close()


def _read_arrow(path: Path) -> pa.Table:
    try:
        with pa.memory_map(os.fspath(path)) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
        table.validate(full=True)  # Arrow reads without a look at what points where
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error}). Pass --resume: it is made anew") from None


def _line_of(record: ShardRecord) -> bytes:
    line = {"shard": record.shard, "sha256": record.sha256, **asdict(record.counts)}
    return json.dumps(line).encode() + b"\n"


def _record_of(line: bytes) -> ShardRecord | None:
    try:
        values = json.loads(line)
        shard, sha256 = values.pop("shard"), values.pop("sha256")
        counts = LongTextCounts(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    numbers = [shard, *asdict(counts).values()]
    if not isinstance(sha256, str) or not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        return None
    return ShardRecord(shard, sha256, counts)


def _sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
