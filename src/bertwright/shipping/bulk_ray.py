"""Scoring on many machines: Ray Data reads .parquet files, its actors score them, and it writes a folder of them.

    row groups -> pieces with their row numbers -> an actor for each core or GPU -> part-000000-0.parquet, ...

The model travels to the machines with the work; they need this package, and reach the files.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from bertwright.config.base import build
from bertwright.config.evaluate import PredictSettings
from bertwright.config.parts import ScoringMachineSettings
from bertwright.data.reading import LabelledTexts
from bertwright.data.texts import Texts
from bertwright.errors import CheckpointError, Interrupted, RunError, UserError
from bertwright.evaluation.load_scorer import load_scorer
from bertwright.evaluation.predict import tables_of
from bertwright.evaluation.score_texts import ids_of, score_in_portions, texts_or_pairs
from bertwright.evaluation.scorer import Scorer
from bertwright.progress import Reporter
from bertwright.shipping.bulk_manifest import model_files
from bertwright.shipping.parquet_pieces import GROUP_PREFIX, ROW, Piece, Place, ReadAs, plan_pieces, read_piece
from bertwright.shipping.shards import MOST_BYTES
from bertwright.training.stop import Stop, StopNow

DONE = "_SUCCESS"
"""An empty file that is written last, as Spark and Hadoop do: a folder with it is whole."""

# Reading and writing take little of a core, which an actor leaves free: else nothing would be read where all cores
# belong to actors.
_SHARE_OF_ACTOR, _SHARE_OF_FILES = 0.8, 0.1
_USERS_ERROR = re.compile(rf"^{UserError.__module__}\.\w+: (.*)$", re.MULTILINE)
# As Ray names them: of the n-th task, which writes one file.
_PART = re.compile(r"part-[0-9]{6,}(-[0-9]+)?\.parquet")
# Where new scores wait for their place in a folder whose old ones stay until then: what reads a folder of parquet files
# leaves out names that begin with "_".
_WAITING = re.compile(r"_waiting-[0-9a-f]{32}")
_MOVED_AT_ONCE = 16  # each is a question to a server far away, which takes no part of this machine


def run_distributed_prediction(
    run: str, files: Sequence[str], settings: PredictSettings, reporter: Reporter
) -> dict[str, Any]:
    """Score the texts of the .parquet ``files`` into the folder ``settings.output``; says and returns what was done.

    Files and output are paths, or addresses of any file system that Arrow knows (s3://, gs://, hdfs://). Rows keep
    their numbers over all files, and stand in their order in the files that are written, taken by name.

    Raises:
        UserError: Ray is not installed; bad settings, files that cannot be read, an output in the way.
        Interrupted, SystemExit: the process was asked to stop; nothing is kept.
    """
    ray = _ray()
    output = _check(files, settings)
    planned = plan_pieces(files, settings)
    machine = {name: getattr(settings, name) for name in ScoringMachineSettings.model_fields}
    weights = _files_of(run)
    try:
        # The cluster ends first: what wrote there writes no longer when it is moved or removed.
        with Stop() as stop, _written_whole(output, stop) as target, _cluster(ray, reporter) as (num_actors, resources):
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
                    mode=ray.data.SaveMode.OVERWRITE,  # nothing is there
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
                raise RunError(
                    f"{settings.output}: found {num_texts:,} scores, expected {planned.num_rows:,}; begin anew"
                )
    except StopNow as asked:
        _leave(asked, reporter)
    if num_bad:
        reporter.say(f"bad rows skipped: {num_bad:,}")
    reporter.say(f"scores: {settings.output} ({num_texts:,} texts)")
    return {"output": settings.output, "texts": num_texts, "bad_rows": num_bad}


def _leave(asked: StopNow, reporter: Reporter) -> NoReturn:
    """End the process as the signal asks, with a line that says so."""
    line = f"stopped by {asked.name} while scoring: nothing was kept. Start it again with the same command"
    reporter.errors.print(line, markup=False)
    if asked.exit_code == Interrupted.exit_code:
        raise Interrupted(line) from None
    raise SystemExit(asked.exit_code) from None


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


def _check(files: Sequence[str], settings: PredictSettings) -> Place:
    """Refuse, before any work, what Ray does not do, and an output that is in the way."""
    if not files or "-" in files:
        raise UserError("--distribute ray scores .parquet files: name one at least")
    if settings.resume:
        raise UserError("--resume is for scoring on one machine; with --distribute ray a scoring begins anew")
    if settings.output is None or not settings.output.endswith("/"):
        raise UserError(
            f"--output: found {settings.output!r}, expected a folder, whose name ends in /: Ray writes many files"
        )
    output = Place.of(settings.output)
    found = output.files()
    if output.file_system.get_file_info(output.name).type == pyarrow.fs.FileType.File:
        raise RunError(f"{settings.output} exists and is a file; pass another --output")
    if found and not settings.overwrite:
        raise RunError(f"{settings.output} exists; pass another --output, or --overwrite to replace it")
    if not all(_is_ours(info.base_name) for info in found):
        raise RunError(f"{settings.output} holds other files than scores; pass another --output")
    for address in files:
        place = Place.of(address)
        if place.file_system == output.file_system and f"{place.name}/".startswith(f"{output.name}/"):
            raise RunError(f"{settings.output}: would replace the texts of {address}; pass another --output")
    return output


def _is_ours(name: str) -> bool:
    return name == DONE or _PART.fullmatch(name) is not None or _WAITING.fullmatch(name) is not None


def _num_rows(place: Place) -> int:
    count = 0
    for info in place.files():
        if info.base_name.endswith(".parquet"):
            with place.file_system.open_input_file(info.path) as source:
                count += pq.read_metadata(source).num_rows
    return count


def _written_whole(output: Place, stop: Stop) -> AbstractContextManager[Place]:
    """Where to write. What stands at ``output`` stays until all is written; what never came to an end is removed."""
    return _beside(output, stop) if output.is_local else _within(output, stop)


@contextlib.contextmanager
def _beside(output: Place, stop: Stop) -> Iterator[Place]:
    """On this machine's disk: a folder beside ``output``, which takes its place."""
    head = f"{output.name}.partial-{socket.gethostname()}-"
    partial = Path(f"{head}{os.getpid()}")
    _sweep(Path(head))
    try:
        partial.mkdir(parents=True)
        yield Place(output.file_system, str(partial))
        with stop.uninterrupted():
            (partial / DONE).touch()
            if os.path.isdir(output.name):
                shutil.rmtree(output.name)
            os.rename(partial, output.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(head: Path) -> None:
    """Remove the folders that killed scorings into the same output have left, whose names are ``head`` and the number
    of their process. Only of this host: whether a process lives elsewhere cannot be told here."""
    for left in head.parent.glob(f"{glob.escape(head.name)}*"):
        number = left.name.removeprefix(head.name)
        if number.isdecimal() and not _lives(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _lives(process: int) -> bool:
    """Whether there is another process of that number."""
    if os.name != "posix":  # elsewhere os.kill ends a process, whatever it is given
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()  # one before had our number, as in a container that was started again


@contextlib.contextmanager
def _within(output: Place, stop: Stop) -> Iterator[Place]:
    """Elsewhere, where folders cannot be renamed: ``output`` itself, which is whole once it holds ``DONE``; or, where
    something stands there, a folder in it, whose files then take its place."""
    before, system = output.files(), output.file_system
    target = Place(system, f"{output.name}/_waiting-{uuid.uuid4().hex}") if before else output
    try:
        yield target
    except BaseException:
        with contextlib.suppress(OSError):
            if before:
                system.delete_dir(target.name)
            else:
                system.delete_dir_contents(target.name, missing_dir_ok=True)
        raise
    with stop.uninterrupted():
        if before:
            _replace(output, before, target)
        with system.open_output_stream(f"{output.name}/{DONE}"):
            pass


def _replace(output: Place, before: Sequence[pyarrow.fs.FileInfo], new: Place) -> None:
    """Let the files in ``new`` take the place of ``before``, what lay in ``output``; ``DONE`` goes first."""
    system = output.file_system

    def remove(info: pyarrow.fs.FileInfo) -> None:
        if info.type == pyarrow.fs.FileType.Directory:
            system.delete_dir(info.path)
        else:
            system.delete_file(info.path)

    def move(info: pyarrow.fs.FileInfo) -> None:
        place = f"{output.name}/{info.base_name}"
        try:
            system.move(info.path, place)
        except NotImplementedError:  # not even a file can be renamed there
            system.copy_file(info.path, place)
            system.delete_file(info.path)

    for info in before:
        if info.base_name == DONE:
            remove(info)
    _all_done(remove, [info for info in before if info.base_name != DONE])
    _all_done(move, new.files())
    if system.get_file_info(new.name).type != pyarrow.fs.FileType.NotFound:  # a mere name goes with its last file
        system.delete_dir(new.name)


def _all_done(work: Callable[[pyarrow.fs.FileInfo], None], files: Sequence[pyarrow.fs.FileInfo]) -> None:
    with ThreadPoolExecutor(_MOVED_AT_ONCE) as threads:
        for _ in threads.map(work, files):
            pass


# --- the cluster ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(ray: Any, reporter: Reporter) -> Iterator[tuple[int, dict[str, float]]]:
    """Within it there is a cluster: how many actors it has room for, and what each takes."""
    started = not ray.is_initialized()
    if started:
        level = logging.ERROR
        with _handlers_kept():
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


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray hears SIGTERM itself once it has started, and would end the process with another exit code than ours."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


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


def _source(pieces: Sequence[Piece], how: ReadAs) -> Any:
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def task(piece: Piece) -> Any:
        metadata = BlockMetadata(
            num_rows=None, size_bytes=piece.num_bytes, input_files=(piece.address,), exec_stats=None
        )
        return ReadTask(lambda: read_piece(piece, how), metadata)

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
            batch[ROW].to_numpy(),
            [],
            [],
            "",
            pairs=Texts.of(batch["pair"]) if "pair" in names else None,
            groups={name.removeprefix(GROUP_PREFIX): batch[name] for name in names if name.startswith(GROUP_PREFIX)},
        )
        ragged = ids_of(self._scorer, texts, self._run, self._reporter)
        scores = score_in_portions(self._scorer, texts_or_pairs(texts), ragged, lambda _: None)
        return pa.concat_tables(tables_of(self._scorer, texts, scores)).combine_chunks()


def _users_error(error: BaseException) -> UserError | None:
    """The mistake of the user that an actor or a reader met: Ray hands on the text of its traceback."""
    found = _USERS_ERROR.findall(str(error))
    return UserError(found[-1]) if found else None
