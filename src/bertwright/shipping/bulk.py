"""The act of scoring files of any size: shard by shard, so that memory stays flat and a stopped scoring goes on.

files -> pieces -> shards -> token ids (while the shard before is scored) -> scores -> a file each -> the output
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bertwright.config.base import build, expand_home
from bertwright.config.evaluate import PredictSettings
from bertwright.data.columns import read_unlabelled, source_files
from bertwright.data.ragged import Ragged
from bertwright.data.reading import LabelledTexts
from bertwright.data.texts import MOST_MEMORY_BYTES
from bertwright.data.tokenize import LongTextCounts, how_read
from bertwright.data.unlabelled_stream import UnlabelledStream
from bertwright.errors import Interrupted, RunError, UserError
from bertwright.evaluation.judge import say_notes
from bertwright.evaluation.predict import FORMATS, expect, load_and_say, say_deferred, tables_of
from bertwright.evaluation.score_texts import ids_of, score_in_portions, texts_or_pairs
from bertwright.evaluation.scorer import Scorer
from bertwright.hardware import give_back_free_memory, is_out_of_memory
from bertwright.progress import Advance, Reporter
from bertwright.shipping.bulk_manifest import check_unchanged, check_unmoved, file_stamps, manifest_of
from bertwright.shipping.shard_folder import NUM_SHARDS, ShardFolder, is_ours, locked, read_manifest, shard_folder_of
from bertwright.shipping.shards import Shard, shards_of
from bertwright.training.stop import Stop, StopNow

# Files of less are read before anything is scored, so that a bad row in them is known at once.
_READ_WHOLE_BYTES = MOST_MEMORY_BYTES
# For what is compiled where it pays: bytes of a file for each token, about.
_BYTES_PER_TOKEN = 5


def predict_files(
    run: str | Path,
    files: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Score the texts in ``files`` by a run's classifier into the file ``output``, or into a folder if it ends in "/".

    ``settings`` are those of ``bertwright predict``. Returns the output's name and how many texts and bad rows there
    were. Call ``bertwright.hardware.keep_few_compiled_products`` first, as the command does, where memory must stay
    flat over a large file: it changes the process's environment, and so is left to you.

    Raises:
        UserError: bad settings, a run without a classifier, files that cannot be read, an output in the way.
    """
    resolved = build(PredictSettings, {**settings, "output": os.fspath(output)})
    names = [files] if isinstance(files, str | Path) else list(files)
    return run_bulk_prediction(str(run), [os.fspath(name) for name in names], resolved, Reporter(quiet=quiet))


def run_bulk_prediction(
    run: str, files: Sequence[str], settings: PredictSettings, reporter: Reporter
) -> dict[str, Any]:
    """Score the texts of ``files`` into ``settings.output``; says and returns what was done.

    Raises:
        UserError: as :func:`predict_files`; also with ``resume``: other texts, another model or other settings than
            those that the scoring began with.
        Interrupted, SystemExit: the process was asked to stop; what is kept was said.
    """
    place = _Place.of(settings)
    if settings.resume and settings.overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    names = source_files([expand_home(file) for file in files])
    place.check(settings, names)
    stamps = file_stamps(names)
    scorer = load_and_say(run, settings, reporter)
    source = _Source(names, settings, reporter)
    with locked(place.shards):
        work = _Work(run, scorer, ShardFolder(place.shards, place.suffix), source, reporter)
        go_on = _command(run, files, settings)
        try:
            manifest = manifest_of(run, scorer, names, settings, place.suffix)
            _begin_or_resume(work, place, manifest, settings)
            with Stop() as stop:
                try:
                    num_shards = work.do(stop)
                except UserError:
                    if work.folder.records:
                        reporter.say(f"{_kept(work, place)}. When it is put right, go on with: {go_on}")
                    raise
                check_unmoved(stamps)
                with stop.uninterrupted():
                    work.finish(place, num_shards)
        except StopNow as signal:
            _leave(signal, work, place, go_on)
        except OSError as error:
            if isinstance(error, BrokenPipeError) or is_out_of_memory(error):
                raise
            raise _not_written(error, work, place, go_on) from error
        finally:
            if not work.folder.records and (work.folder.taken or read_manifest(place.shards) is None):
                work.folder.remove()  # nothing to go on from
    counts, bad_rows = work.counts, source.bad_rows()
    reporter.say(f"scores: {settings.output} ({counts.num_texts:,} texts)")
    return {"output": settings.output, "texts": counts.num_texts, "bad_rows": bad_rows}


@dataclass(frozen=True)
class _Place:
    """Where the scores go: a file or a folder of parquet files, and the folder of shards beside it."""

    output: Path
    is_folder: bool
    suffix: str
    shards: Path

    @staticmethod
    def of(settings: PredictSettings) -> _Place:
        name = settings.output
        assert name is not None
        output, is_folder = Path(name), name.endswith(("/", os.sep))
        if not is_folder and output.suffix not in FORMATS:
            expected = f"a name that ends in {', '.join(FORMATS)}, or in / for a folder of .parquet files"
            raise UserError(f"--output: found {output.name!r}, expected {expected}")
        return _Place(output, is_folder, "/" if is_folder else output.suffix, shard_folder_of(output))

    def check(self, settings: PredictSettings, names: Sequence[str]) -> None:
        """Refuse, before any work, what is in the way: also the texts themselves, the files ``names``.

        Raises:
            RunError: something is.
        """
        output, overwrite = self.output, settings.overwrite
        manifest = None
        if self.shards.is_dir() and not overwrite:
            manifest = read_manifest(self.shards)
            if manifest is not None and not settings.resume:
                raise RunError(
                    f"{self.shards} holds a scoring that was stopped; pass --resume to go on with it, or --overwrite "
                    "to begin anew"
                )
        overwrite = overwrite or bool(manifest and (manifest.get("overwrite") or NUM_SHARDS in manifest))
        if output.exists() or output.is_symlink():
            if self.is_folder != output.is_dir() or not overwrite:
                if manifest is None and self.shards.is_dir() and not settings.overwrite:
                    self._sweep()
                raise RunError(f"{output} exists; pass another --output, or --overwrite to replace it")
            if self.is_folder and not all(map(is_ours, output.iterdir())):
                raise RunError(f"{output} holds other files than scores; pass another --output, or remove it yourself")
        if not output.absolute().parent.is_dir():
            raise RunError(f"{output}: there is no folder {output.absolute().parent}")
        replaced = output.resolve()
        for name in names:
            if replaced in (Path(name).resolve(), *Path(name).resolve().parents):
                raise RunError(f"{output}: would replace the texts of {name}; pass another --output")

    def _sweep(self) -> None:
        """Remove what a scoring left that was killed while it removed its shards; not what anyone works in."""
        with suppress(RunError, OSError), locked(self.shards):
            if read_manifest(self.shards) is None:
                ShardFolder(self.shards, self.suffix).remove()


def _begin_or_resume(work: _Work, place: _Place, manifest: dict[str, Any], settings: PredictSettings) -> None:
    recorded = read_manifest(place.shards) if settings.resume else None
    if recorded is None:
        work.folder.begin(manifest)
        return
    for difference in check_unchanged(recorded, manifest, place.shards):
        work.reporter.warn(difference)
    work.folder.resume()
    for damaged in work.folder.damaged:
        work.reporter.warn(f"{place.shards}: {damaged}; it is made anew")
    num_texts = work.folder.counts.num_texts
    work.reporter.say(f"going on after {num_texts:,} texts in {len(work.folder.records):,} shards of {place.shards}")


# --- what is scored ---------------------------------------------------------------------------------------------------


class _Source:
    """Files as shards: read whole where they are small or folders, else streamed.

    Attributes:
        num_units: what progress is counted in: ``unit``, which is texts, or MB of files whose texts nobody counted.
        num_tokens: about how many there are, the same for the same files.
    """

    unit = "texts"

    def __init__(self, names: Sequence[str], settings: PredictSettings, reporter: Reporter) -> None:
        self._settings, self._reporter = settings, reporter
        columns = (settings.text_column, settings.on_bad_row, settings.pair_column, settings.group_columns)
        self.stream: UnlabelledStream | None = None
        sizes = [0 if os.path.isdir(name) or not os.path.exists(name) else os.stat(name).st_size for name in names]
        if not any(os.path.isdir(name) for name in names) and sum(sizes) > _READ_WHOLE_BYTES:
            self.stream = UnlabelledStream(names, *columns)
            self.unit, self.num_units = "MB", max(1, self.stream.num_bytes // 10**6)
            self.num_tokens = self.stream.num_bytes // _BYTES_PER_TOKEN
        else:
            self.whole: LabelledTexts = read_unlabelled(list(names), *columns)
            self.num_units = len(self.whole)
            self.num_tokens = int(self.whole.texts.num_bytes().sum()) // _BYTES_PER_TOKEN
            say_notes(self.whole, reporter)

    def shards(self) -> Iterator[tuple[Shard, int]]:
        """The shards, and the units that stand before the end of each."""
        if self.stream is None:
            for shard in shards_of([self.whole], self._settings.shard_texts):
                yield shard, shard.first + len(shard.texts)
            return
        said = 0
        for shard in shards_of(self.stream, self._settings.shard_texts):
            for note in self.stream.notes[said:]:
                self._reporter.say(note)
            said = len(self.stream.notes)
            yield shard, min(self.stream.num_bytes_read // 10**6, self.num_units)
        bad_rows = self.stream.bad_rows
        if bad_rows:
            self._reporter.say(f"bad rows skipped: {len(bad_rows):,}, the first: {bad_rows[0]}")

    def bad_rows(self) -> int:
        """How many rows were skipped, once all shards were taken."""
        return len(self.whole.bad_rows if self.stream is None else self.stream.bad_rows)


# --- the work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ready:
    """A shard with its token ids, and the units of progress that stand before its end; ``ragged`` is None where the
    shard is whole already."""

    shard: Shard
    ragged: Ragged | None
    units: int


class _Work:
    """One scoring, from its source to its shards."""

    def __init__(self, run: str, scorer: Scorer, folder: ShardFolder, source: _Source, reporter: Reporter) -> None:
        self.run, self.scorer, self.folder, self.source, self.reporter = run, scorer, folder, source, reporter
        self.counts = LongTextCounts()
        expect(scorer, source.num_tokens)

    def do(self, stop: Stop) -> int:
        """Score what is missing; gives the number of all shards.

        While a shard is scored, the next one is read and tokenised in one thread, and the one before is written in
        another.

        Raises:
            StopNow: the process was asked to stop; the shard in work is dropped.
            OSError: a shard cannot be written.
        """
        num_shards, before = 0, 0
        with _thread() as reader, _thread() as writer, ExitStack() as bar, stop.deferred():
            shards = self._ready()
            ahead = reader.submit(next, shards, None)
            written: Future[None] | None = None
            progress: _Progress | None = None
            try:
                while (ready := ahead.result()) is not None:
                    ahead = reader.submit(next, shards, None)
                    num_shards += 1
                    if ready.ragged is not None:
                        if progress is None:  # what was whole already does not count in the rate
                            left = self.source.num_units - before
                            progress = bar.enter_context(_progress(self.reporter, left, self.source.unit, before))
                        scores = self._scores(ready, ready.ragged, progress, stop.check)
                        if written is not None:
                            written.result()
                        written = writer.submit(self._write, ready.shard, ready.ragged, scores)
                        give_back_free_memory()
                    if progress is not None:
                        progress.reached(ready)
                    before = ready.units
                    stop.check()
            finally:
                if written is not None:
                    written.result()
        self.counts = self.folder.counts
        return num_shards

    def _ready(self) -> Iterator[_Ready]:
        quiet = Reporter(quiet=True)
        for shard, units in self.source.shards():
            whole = shard.number in self.folder.records
            yield _Ready(shard, None if whole else ids_of(self.scorer, shard.texts, self.run, quiet), units)

    def _scores(self, ready: _Ready, ragged: Ragged, progress: _Progress, check: Callable[[], object]) -> np.ndarray:
        texts = texts_or_pairs(ready.shard.texts)
        return score_in_portions(self.scorer, texts, ragged, lambda number: progress.within(ready, number), check)

    def _write(self, shard: Shard, ragged: Ragged, scores: np.ndarray) -> None:
        self.folder.write(shard.number, tables_of(self.scorer, shard.texts, scores), LongTextCounts.of(ragged))

    def finish(self, place: _Place, num_shards: int) -> None:
        """Let the shards become the output, and remove what is left."""
        longer = how_read(self.counts, self.scorer.settings)
        if longer is not None:
            self.reporter.say(longer)
        say_deferred(self.scorer, self.reporter)
        if place.is_folder:
            self.folder.become(place.output)
        else:
            self.folder.all_there(num_shards)
            self.folder.join(place.output, num_shards)
            self.folder.remove()


class _Progress:
    """From texts scored to units of progress: a shard's units are spread over its texts."""

    def __init__(self, advance: Advance, unit: str, before: int) -> None:
        """``before``: the units of what need not be scored."""
        self._advance, self._unit = advance, unit
        self._shown = self._before = before
        self._num_scored = self._done_here = 0
        self._started = time.perf_counter()

    def within(self, ready: _Ready, num_texts: int) -> None:
        self._num_scored += num_texts
        self._done_here += num_texts
        share = self._done_here / len(ready.shard.texts)
        self._show(self._before + int((ready.units - self._before) * share))

    def reached(self, ready: _Ready) -> None:
        self._done_here = 0
        self._before = ready.units
        self._show(ready.units)

    def _show(self, units: int) -> None:
        note = ""
        if self._unit != "texts" and self._num_scored:
            rate = self._num_scored / max(time.perf_counter() - self._started, 1e-9)
            note = f"{self._num_scored:,} texts, {rate:,.0f} texts/s"
        self._advance(units - self._shown, note)
        self._shown = units


@contextmanager
def _progress(reporter: Reporter, num_units: int, unit: str, before: int) -> Iterator[_Progress]:
    with reporter.progress("Scoring", max(num_units, 1), unit) as advance:
        yield _Progress(advance, unit, before)


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    """A thread for work beside; at the end what it does is waited for, and what it has not begun is dropped."""
    executor = ThreadPoolExecutor(1)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


# --- when it ends early -----------------------------------------------------------------------------------------------


def _kept(work: _Work, place: _Place) -> str:
    num_texts = work.folder.counts.num_texts
    if not num_texts:
        return "nothing was kept"
    return f"the scores of {num_texts:,} texts are kept in {place.shards}"


def _leave(signal: StopNow, work: _Work, place: _Place, command: str) -> NoReturn:
    """End the process as the signal asks, with a line that says what is kept and how to go on."""
    go_on = f"Go on with: {command}" if work.folder.records else "Start it again with the same command"
    line = f"stopped by {signal.name} while scoring: {_kept(work, place)}. {go_on}"
    work.reporter.errors.print(line, markup=False)
    if signal.exit_code == Interrupted.exit_code:
        raise Interrupted(line) from None
    raise SystemExit(signal.exit_code) from None


def _not_written(error: OSError, work: _Work, place: _Place, command: str) -> RunError:
    line = f"{error.filename or place.output}: {error.strerror or error}"
    if not work.folder.records:
        return RunError(f"{line}. Nothing was kept; start it again when there is room")
    return RunError(f"{line}. {_kept(work, place).capitalize()}; when there is room, go on with: {command}")


def _command(run: str, files: Sequence[str], settings: PredictSettings) -> str:
    """What to type to go on: the same command with --resume."""
    words = ["bertwright", "predict", run, *files]
    for name in sorted(settings.model_fields_set - {"resume", "overwrite"}):
        value = getattr(settings, name)
        if value not in (None, ()):
            words += ["--" + name.replace("_", "-"), ",".join(value) if isinstance(value, tuple) else str(value)]
    return " ".join(map(shlex.quote, [*words, "--resume"]))
