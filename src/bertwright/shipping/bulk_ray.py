"""Scoring on many machines: Ray Data reads .parquet files, its actors score them, and it writes a folder of them.

    row groups -> pieces with their row numbers -> an actor for each core or GPU -> part-000000-0.parquet, ...

The model travels to the machines with the work; they need this package, and reach the files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from bertwright.config.base import build, expand_home
from bertwright.config.evaluate import PredictSettings
from bertwright.config.parts import ScoringMachineSettings
from bertwright.data.choose import Asked, Columns, choose_texts
from bertwright.data.reading import LabelledTexts, Reading
from bertwright.data.record_batches import STEP_ROWS, columns_of, tables_of
from bertwright.data.table import Table, one_line
from bertwright.data.texts import Texts
from bertwright.errors import CheckpointError, DataError, RunError, UserError
from bertwright.evaluation.load_scorer import load_scorer
from bertwright.evaluation.predict import tables_of as tables_of_scores
from bertwright.evaluation.score_texts import ids_of, score_in_portions, texts_or_pairs
from bertwright.evaluation.scorer import Scorer
from bertwright.progress import Reporter
from bertwright.shipping.bulk_manifest import model_files
from bertwright.shipping.shards import MOST_BYTES

DONE = "_SUCCESS"
"""An empty file that is written last, as Spark and Hadoop do: a folder with it is whole."""

# Reading and writing take little of a core, which an actor leaves free: else nothing would be read where all cores
# belong to actors.
_SHARE_OF_ACTOR, _SHARE_OF_FILES = 0.8, 0.1
_USERS_ERROR = re.compile(rf"^{UserError.__module__}\.\w+: (.*)$", re.MULTILINE)
# As Ray names them: of the n-th task, which writes one file.
_PART = re.compile(r"part-[0-9]{6,}(-[0-9]+)?\.parquet")
_ROW, _GROUP = "row", "group_"


def run_distributed_prediction(
    run: str, files: Sequence[str], settings: PredictSettings, reporter: Reporter
) -> dict[str, Any]:
    """Score the texts of the .parquet ``files`` into the folder ``settings.output``; says and returns what was done.

    Files and output are paths, or addresses of any file system that Arrow knows (s3://, gs://, hdfs://). Rows keep
    their numbers over all files, and stand in their order in the files that are written, taken by name.

    Raises:
        UserError: Ray is not installed; bad settings, files that cannot be read, an output in the way.
    """
    ray = _ray()
    output = _check(files, settings)
    planned = _plan(files, settings)
    machine = {name: getattr(settings, name) for name in ScoringMachineSettings.model_fields}
    weights = _files_of(run)
    with _cluster(ray, reporter) as (num_actors, resources), _written_whole(output, settings) as target:
        if target.is_local:
            _check_all_see(ray, target.name)
        on_gpu = "num_gpus" in resources
        reporter.say(f"scoring with {num_actors} actors of Ray, {'a GPU' if on_gpu else 'a core'} each")
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = not reporter.quiet
        context.target_max_block_size = MOST_BYTES  # so that large row groups, too, are shared out
        pieces = ray.data.read_datasource(
            _source(planned.pieces, planned.reading),
            override_num_blocks=len(planned.pieces),
            num_cpus=_SHARE_OF_FILES,
        )
        scored = pieces.map_batches(
            _Actor,
            fn_constructor_args=(ray.put(weights), machine, run, on_gpu),
            batch_format="pyarrow",
            batch_size=None,
            zero_copy_batch=True,
            concurrency=num_actors,
            **resources,
        )
        try:
            scored.write_parquet(
                target.name,
                filesystem=target.file_system,
                mode=ray.data.SaveMode.OVERWRITE,  # nothing is there but what may be replaced
                filename_provider=_part_names(),
                compression="zstd",
                ray_remote_args={"num_cpus": _SHARE_OF_FILES},
            )
        except Exception as error:
            cause = _users_error(error)
            if cause is None:
                raise
            raise cause from None
        num_texts = _num_rows(target)
        num_bad = planned.num_rows - num_texts
        if num_bad and settings.on_bad_row == "error":  # where none is bad, none may be missing
            raise RunError(f"{settings.output}: found {num_texts:,} scores, expected {planned.num_rows:,}; begin anew")
    if num_bad:
        reporter.say(f"bad rows skipped: {num_bad:,}")
    reporter.say(f"scores: {settings.output} ({num_texts:,} texts)")
    return {"output": settings.output, "texts": num_texts, "bad_rows": num_bad}


def _ray() -> Any:
    # Must be set before it is imported: it tells its makers about every use otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("scoring on many machines needs Ray: pip install 'bertwright[ray]'") from None
    return ray


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A file or folder of a file system."""

    file_system: pyarrow.fs.FileSystem
    name: str

    @staticmethod
    def of(address: str) -> _Place:
        try:
            if "://" in address:
                return _Place(*pyarrow.fs.FileSystem.from_uri(address.rstrip("/")))
            return _Place(pyarrow.fs.LocalFileSystem(), os.path.abspath(expand_home(address)))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{address}: not an address of a file system that is known ({one_line(error)})") from None

    @property
    def is_local(self) -> bool:
        return isinstance(self.file_system, pyarrow.fs.LocalFileSystem)

    def files(self) -> list[pyarrow.fs.FileInfo]:
        """What lies in the folder."""
        return list(self.file_system.get_file_info(pyarrow.fs.FileSelector(self.name, allow_not_found=True)))


@dataclass(frozen=True)
class _ReadAs:
    """How a piece is read: the columns, and what to do with rows that cannot be used."""

    columns: Columns
    on_bad_row: str


@dataclass(frozen=True)
class _Piece:
    """Consecutive row groups of a file. ``first_row`` is the first one's place in the file, ``rows_before`` are those
    of the files before."""

    address: str
    row_groups: tuple[int, ...]
    first_row: int
    rows_before: int
    num_rows: int
    num_bytes: int


@dataclass(frozen=True)
class _Planned:
    pieces: list[_Piece]
    reading: _ReadAs
    num_rows: int


def _check(files: Sequence[str], settings: PredictSettings) -> _Place:
    """Refuse, before any work, what Ray does not do, and an output that is in the way."""
    if not files or "-" in files:
        raise UserError("--distribute ray scores .parquet files: name one at least")
    if settings.resume:
        raise UserError("--resume is for scoring on one machine; with --distribute ray a scoring begins anew")
    if settings.output is None or not settings.output.endswith("/"):
        raise UserError(
            f"--output: found {settings.output!r}, expected a folder, whose name ends in /: Ray writes many files"
        )
    output = _Place.of(settings.output)
    found = output.files()
    if output.file_system.get_file_info(output.name).type == pyarrow.fs.FileType.File:
        raise RunError(f"{settings.output} exists and is a file; pass another --output")
    if found and not settings.overwrite:
        raise RunError(f"{settings.output} exists; pass another --output, or --overwrite to replace it")
    if any(not _PART.fullmatch(info.base_name) and info.base_name != DONE for info in found):
        raise RunError(f"{settings.output} holds other files than scores; pass another --output")
    for address in files:
        place = _Place.of(address)
        if place.file_system == output.file_system and f"{place.name}/".startswith(f"{output.name}/"):
            raise RunError(f"{settings.output}: would replace the texts of {address}; pass another --output")
    return output


def _plan(files: Sequence[str], settings: PredictSettings) -> _Planned:
    """Which row groups are read together, by the files' footers alone; and the columns, by the first texts.

    Raises:
        DataError: a file cannot be read, or holds no texts.
    """
    pieces: list[_Piece] = []
    rows_before = 0
    columns: Columns | None = None
    for address in _parquet_files(files):
        with _opened(address) as file:
            if columns is None:
                columns = _columns_of(address, file, settings)
            metadata, row, group = file.metadata, 0, 0
            while group < metadata.num_row_groups:
                first, num_rows, num_bytes = group, 0, 0
                while group < metadata.num_row_groups and num_rows < settings.shard_texts:
                    num_rows += metadata.row_group(group).num_rows
                    num_bytes += metadata.row_group(group).total_byte_size
                    group += 1
                pieces.append(_Piece(address, tuple(range(first, group)), row, rows_before, num_rows, num_bytes))
                row += num_rows
            rows_before += metadata.num_rows
    if columns is None or not pieces:
        raise DataError(f"{', '.join(files)}: found no rows, expected .parquet files of texts")
    return _Planned(pieces, _ReadAs(columns, settings.on_bad_row), rows_before)


def _parquet_files(files: Sequence[str]) -> Iterator[str]:
    """The addresses of the files; of folders, those of the .parquet files in them, by name."""
    for address in files:
        place = _Place.of(address)
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
def _opened(address: str) -> Iterator[pq.ParquetFile]:
    place = _Place.of(address)
    try:
        with place.file_system.open_input_file(place.name) as source, pq.ParquetFile(source) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{address}: damaged or not a parquet file ({one_line(error)})") from None


def _columns_of(address: str, file: pq.ParquetFile, settings: PredictSettings) -> Columns:
    asked = Asked(settings.text_column, settings.pair_column, (), tuple(settings.group_columns))
    table = next(_tables(address, file, range(min(1, file.metadata.num_row_groups)), 0), None)
    if table is None:
        raise DataError(f"{address}: found no rows, expected texts")
    return choose_texts(table, asked)[0]


def _tables(address: str, file: pq.ParquetFile, row_groups: Sequence[int], first_row: int) -> Iterator[Table]:
    columns = columns_of(address, file.schema_arrow)
    batches = file.iter_batches(
        batch_size=STEP_ROWS, row_groups=list(row_groups), columns=list(columns.kept), use_threads=False
    )
    return tables_of(address, "parquet", columns, batches, first_row)


def _read(piece: _Piece, how: _ReadAs) -> Iterator[pa.Table]:
    """The usable texts of a piece: their rows over all files, texts, second texts and groups.

    Raises:
        DataError: the file has changed or is damaged; a row cannot be used.
    """
    reading = Reading(lambda _: (how.columns, []))
    with _opened(piece.address) as file:
        for usable in reading.usable_parts(_tables(piece.address, file, piece.row_groups, piece.first_row)):
            if how.on_bad_row == "error":
                reading.bad_rows("error", 1)
            columns: dict[str, Any] = {_ROW: usable.rows + piece.rows_before, "text": usable.texts.to_arrow()}
            if usable.pairs is not None:
                columns["pair"] = usable.pairs.to_arrow()
            yield pa.table({**columns, **{_GROUP + name: column for name, column in usable.groups.items()}})


def _num_rows(place: _Place) -> int:
    count = 0
    for info in place.files():
        if info.base_name.endswith(".parquet"):
            with place.file_system.open_input_file(info.path) as source:
                count += pq.read_metadata(source).num_rows
    return count


@contextlib.contextmanager
def _written_whole(output: _Place, settings: PredictSettings) -> Iterator[_Place]:
    """Where to write: here in a folder beside, which takes its place at the end; elsewhere, where nothing can be
    renamed, in the folder itself, which is whole once it holds ``DONE``."""
    if output.is_local:
        partial = f"{output.name}.partial-{os.getpid()}"
        try:
            os.makedirs(partial)
            yield _Place(output.file_system, partial)
            if os.path.isdir(output.name):
                shutil.rmtree(output.name)
            Path(partial, DONE).touch()
            os.rename(partial, output.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return
    if settings.overwrite and output.files():
        output.file_system.delete_dir_contents(output.name)
    yield output
    with output.file_system.open_output_stream(f"{output.name}/{DONE}"):
        pass


# --- the cluster ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(ray: Any, reporter: Reporter) -> Iterator[tuple[int, dict[str, float]]]:
    """Within it there is a cluster: how many actors it has room for, and what each takes."""
    started = not ray.is_initialized()
    if started:
        level = logging.ERROR
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=level, configure_logging=True)
        logging.getLogger("ray.data").setLevel(level)
    try:
        found = ray.cluster_resources()
        gpus, cores = int(found.get("GPU", 0)), int(found.get("CPU", 0))
        if gpus:
            yield gpus, {"num_gpus": 1}
        else:
            yield max(cores, 1), {"num_cpus": _SHARE_OF_ACTOR}
    finally:
        if started:
            ray.shutdown()


def _check_all_see(ray: Any, folder: str) -> None:
    """Refuse a folder of this machine that another one of the cluster does not have: what it wrote would be lost.

    Raises:
        RunError: so it is.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    look = ray.remote(num_cpus=0)(_sees)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(folder)
        for node in nodes
    ]
    for node, sees in zip(nodes, ray.get(asked), strict=True):
        if not sees:
            raise RunError(
                f"--output: {node['NodeManagerHostname']}, which is of the cluster, does not have the folder "
                f"{os.path.dirname(folder)}; pass one that all machines share, or an address such as s3://"
            )


def _sees(folder: str) -> bool:
    return os.path.isdir(folder)


def _source(pieces: Sequence[_Piece], how: _ReadAs) -> Any:
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def task(piece: _Piece) -> Any:
        metadata = BlockMetadata(
            num_rows=None, size_bytes=piece.num_bytes, input_files=(piece.address,), exec_stats=None
        )
        return ReadTask(lambda: _read(piece, how), metadata)

    class RowGroups(Datasource):
        """.parquet files, piece by piece, with the number of each row."""

        def estimate_inmemory_data_size(self) -> int:
            return sum(piece.num_bytes for piece in pieces)

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            return [task(piece) for piece in pieces]

    return RowGroups()


def _part_names() -> Any:
    from ray.data.datasource import FilenameProvider

    class PartNames(FilenameProvider):
        """part-000000.parquet, ... in the order of the rows; Ray adds a number of its own before the end."""

        def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
            return f"part-{task_index:06d}.parquet"

    return PartNames()


def _files_of(run: str) -> dict[str, bytes]:
    folder, files = model_files(run)
    try:
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from None


class _Actor:
    """A scorer on one core or GPU of the cluster. Its files are kept for as long as it lives."""

    def __init__(self, weights: Any, machine: dict[str, Any], run: str, on_gpu: bool) -> None:
        import ray
        import torch

        if not on_gpu:
            torch.set_num_threads(1)
        files: dict[str, bytes] = ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights
        self._folder = tempfile.TemporaryDirectory(prefix="bertwright-")
        for name, content in files.items():
            path = Path(self._folder.name, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._scorer: Scorer = load_scorer(self._folder.name, build(ScoringMachineSettings, machine))
        self._run, self._reporter = run, Reporter(quiet=True)

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = batch.column_names
        texts = LabelledTexts(
            Texts.of(batch["text"]),
            None,
            (),
            batch[_ROW].to_numpy(),
            [],
            [],
            "",
            pairs=Texts.of(batch["pair"]) if "pair" in names else None,
            groups={name.removeprefix(_GROUP): batch[name] for name in names if name.startswith(_GROUP)},
        )
        ragged = ids_of(self._scorer, texts, self._run, self._reporter)
        scores = score_in_portions(self._scorer, texts_or_pairs(texts), ragged, lambda _: None)
        return pa.concat_tables(tables_of_scores(self._scorer, texts, scores)).combine_chunks()


def _users_error(error: BaseException) -> UserError | None:
    """The mistake of the user that an actor or a reader met: Ray hands on the text of its traceback."""
    found = _USERS_ERROR.findall(str(error))
    return UserError(found[-1]) if found else None
