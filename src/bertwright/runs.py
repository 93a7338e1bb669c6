"""The record: one folder of plain files for every run. Written phase by phase, read by everyone, never changed after.

    config.json          what was asked, resolved; ``bertwright train --config`` runs it again
    environment.json     versions, machine, and what was chosen (dtype, attention kernel, tokenizer) and why
    history.jsonl        a line for each evaluation during training
    checkpoints/         what a stopped run goes on from; gone once it has finished
    model/               the model in Hugging Face's layout
    predictions.parquet  the held-out texts with their scores
    predictions_validation.parquet  the validation texts with theirs, where there are test texts too
    memory.parquet       memory over time (see bertwright.memory_trace)
    teacher_scores/      of a distilled model: what its teacher makes of the texts (see training.teacher)
    steps.parquet        a line for each step of the training: its loss, rate and texts (see bertwright.steps)
    result.json          everything measured; written last, so that a folder with it is a finished run

Torch is never imported here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from bertwright import __version__
from bertwright.config.base import expand_home
from bertwright.errors import RunError

CONFIG, ENVIRONMENT, HISTORY, RESULT = "config.json", "environment.json", "history.jsonl", "result.json"
PREDICTIONS, MODEL, CHECKPOINTS = "predictions.parquet", "model", "checkpoints"
VALIDATION_PREDICTIONS = "predictions_validation.parquet"
TEACHER_SCORES = "teacher_scores"
TRAININGS = ("train", "distill")
"""The acts whose runs train a classifier: they have steps, a history and checkpoints, and go on with --resume."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # also one of a pair, which is a character
_LOCK, _LOCK_TRIES = "lock", 50
RESUMABLE = (*TRAININGS, "pretrain")
"""Acts whose runs can be gone on with."""

# What is read from a finished run by those who list and show it; a result without one of them is damaged.
_RESULT_KEYS = {
    "data": (),
    "seconds": ("read", "tokenize", "train", "infer", "total"),
    "rates": (),
    "memory": ("peak_process_bytes", "peak_gpu_bytes"),
    "cost": ("usd_per_hour", "usd"),
    "metrics": (),
    "extremes": ("highest", "lowest"),
}
_HISTORY_KEYS = ("step", "epoch", "train_loss", "learning_rate", "validation")


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it. ``result`` is None for a run that has not finished.

    ``damage`` says what is wrong with a run that ``list_runs`` found but could not read; its other fields are then what
    its config.json tells, and it counts as unfinished.
    """

    path: Path
    act: str
    started: str
    settings: dict[str, Any]
    environment: dict[str, Any] = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    result: dict[str, Any] | None = field(repr=False)
    damage: str | None = None

    @property
    def finished(self) -> bool:
        return self.result is not None

    @property
    def is_training(self) -> bool:
        """Whether the run trains a model, and did not only judge one."""
        return self.act in TRAININGS

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint of a training that has not finished; None where there is none."""
        return None if self.finished else max(checkpoint_steps(self.path), default=None)

    @property
    def state(self) -> str:
        """What became of it: "finished", "damaged", "running", "stopped at step 120", "stopped" or "unfinished".

        ``--resume`` goes on with what was stopped.
        """
        if self.damage is not None:
            return "damaged"
        if self.finished:
            return "finished"
        if self.act not in RESUMABLE or not (self.path / CHECKPOINTS).is_dir():
            return "unfinished"
        if is_locked(self.path):
            return "running"
        return "stopped" if self.saved_step is None else f"stopped at step {self.saved_step:,}"

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by split ("train", "validation", "test"); empty for a run that has not finished."""
        return {} if self.result is None else self.result["metrics"]

    @property
    def model_folder(self) -> Path:
        return self.path / MODEL

    def _repr_html_(self) -> str:
        """What Jupyter shows: the run in words, its figures and main pictures. They are drawn when it asks for them."""
        return str(importlib.import_module("bertwright.reporting.notebook").run_html(self))


class RunWriter:
    """Writes a run's folder. Each file is written beside its place and renamed into it.

    With ``resumed`` the folder is there already, and goes on as it is; with ``rewritten`` its settings are replaced.

    Raises:
        RunError: the folder has come to exist since ``prepare_output`` looked.
    """

    def __init__(
        self, path: Path, act: str, settings: Mapping[str, Any], resumed: bool = False, rewritten: bool = False
    ) -> None:
        self.path = path
        self._history: list[str] = []
        self._history_bytes = 0  # of the file, as far as it is whole
        if resumed and not rewritten:
            return
        if not resumed:
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                raise RunError(f"{path} exists; another run was started with the same --output") from None
        started = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"act": act, "bertwright": __version__, "started": started, "settings": dict(settings)}
        write_json(path / CONFIG, record)

    def environment(self, values: Mapping[str, Any]) -> None:
        write_json(self.path / ENVIRONMENT, values)

    def history(self, record: Mapping[str, Any]) -> bool:
        """Add a line to the history; False if the disk took it not: it is then written with a later one."""
        self._history.append(json.dumps(record, allow_nan=False) + "\n")
        data = "".join(self._history).encode()
        try:
            # Unbuffered: a process that is killed has written a line whole or not at all.
            with open(self.path / HISTORY, "ab", buffering=0) as file:
                try:
                    if file.write(data) != len(data):
                        raise OSError
                except OSError:
                    file.truncate(self._history_bytes)
                    raise
        except OSError:
            return False
        self._history_bytes += len(data)
        self._history = []
        return True

    @property
    def history_is_whole(self) -> bool:
        """Whether all lines are on disk."""
        return not self._history

    def history_from(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Let the history consist of ``records``, whatever it was."""
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        self._history, self._history_bytes = [], len(text.encode())
        if text:
            write_text(self.path / HISTORY, text)
        else:
            (self.path / HISTORY).unlink(missing_ok=True)

    def result(self, values: Mapping[str, Any]) -> None:
        write_json(self.path / RESULT, values)


def prepare_output(path: Path, overwrite: bool) -> None:
    """Make sure, before any work, that a run can be written to ``path``.

    Raises:
        RunError: something is there and ``overwrite`` is not given, or it is not a run, or the folder cannot be made.
    """
    if path.exists():
        if not overwrite:
            if is_run(path) and not (path / RESULT).is_file():
                go_on = "--resume to go on with it, " if read_json(path / CONFIG)["act"] in RESUMABLE else ""
                raise RunError(
                    f"{path} exists and is a run that has not finished; pass {go_on}another --output, or --overwrite "
                    "to replace it"
                )
            raise RunError(f"{path} exists; pass another --output, or --overwrite to replace it")
        if not is_run(path):
            raise RunError(f"{path} exists and is not a run's folder; --overwrite replaces runs only")
        if is_locked(path):
            raise RunError(f"{path}: another process is working on this run; wait for it to end, or stop it")
    check_can_be_made(path)


def check_can_be_made(path: Path) -> None:
    """Make sure, before any work, that the folder ``path`` can be made.

    Raises:
        RunError: a file is in the way, or there is no permission.
    """
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise RunError(f"{path} cannot be made: {parent} is a file")
    if not os.access(parent, os.W_OK):
        raise RunError(f"{path} cannot be made: no permission to write in {parent}")


def clear_output(path: Path, is_ours: Callable[[Path], bool] | None = None) -> None:
    """Remove the run that ``prepare_output`` allowed to be replaced, or what ``is_ours`` knows. No half of it ever
    bears its name."""
    if (is_ours or is_run)(path):
        doomed = path.with_name(f".{path.name}.old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def is_unborn(path: Path) -> bool:
    """Whether ``path`` is the folder of a run that was killed before its config.json was written."""
    return path.is_dir() and all(file.name == f"{CONFIG}.partial" for file in path.iterdir())


def checkpoint_step(name: str) -> int | None:
    """The step of a checkpoint's folder by its name, step-00000120; None for other names."""
    found = re.fullmatch(r"step-([0-9]{8,12})", name)
    return int(found[1]) if found else None


def checkpoint_steps(path: Path) -> list[int]:
    """The steps of the checkpoints of the run in ``path``, in no order."""
    folder = path / CHECKPOINTS
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return [step for name in names if (step := checkpoint_step(name)) is not None]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it no other process may go on with the run in ``path``; the lock ends with the process, however it ends.

    Raises:
        RunError: another process works on this run.
    """
    (path / CHECKPOINTS).mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            # whoever looks whether it is locked has it for a moment
            stack.enter_context(wait_for_lock(path / CHECKPOINTS / _LOCK, _LOCK_TRIES))
        except BlockingIOError:
            raise RunError(f"{path}: another process is working on this run; wait for it to end, or stop it") from None
        yield


@contextlib.contextmanager
def wait_for_lock(path: Path, tries: int | None = None) -> Iterator[IO[bytes]]:
    """Within it this process alone has the lock on the file ``path``, which is made and yielded; it ends with the
    process and those that it hands the open file to.

    Raises:
        BlockingIOError: after so many ``tries``, 10 ms apart, another process has it still.
    """
    with open(path, "ab") as file:
        while not _lock(file):
            tries = None if tries is None else tries - 1
            if tries is not None and tries <= 0:
                raise BlockingIOError(f"{path} is locked")
            time.sleep(0.01)
        yield file


def is_locked(path: Path) -> bool:
    """Whether a process works on the run in ``path``."""
    try:
        with open(path / CHECKPOINTS / _LOCK, "rb") as file:
            return not _lock(file)
    except OSError:
        return False


def _lock(file: IO[bytes]) -> bool:
    """Take the lock; False if another has it. Where there are no locks, such as on Windows, everybody gets it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def free_name(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3``, ... that is free."""
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate


def is_run(path: Path) -> bool:
    """Whether ``path`` holds a run's record, finished or not."""
    try:
        record = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "act" in record


def open_run(path: str | Path) -> Run:
    """The run in the folder ``path``.

    Raises:
        RunError: no run is there, or its files are damaged.
    """
    path = Path(expand_home(os.fspath(path)))
    if not path.is_dir():
        raise RunError(f"{path}: no such folder; expected a run's folder (bertwright runs list shows them)")
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: no {CONFIG}; expected a run's folder")
    config = read_json(path / CONFIG)
    if not isinstance(config.get("act"), str) or not isinstance(config.get("settings"), dict):
        raise RunError(f"{path / CONFIG}: not the record of a run; expected a run's folder, not a model's")
    environment = read_json(path / ENVIRONMENT) if (path / ENVIRONMENT).is_file() else {}
    result = read_json(path / RESULT) if (path / RESULT).is_file() else None
    if result is not None:
        _check_result(path / RESULT, result)
    return Run(
        path, config["act"], str(config.get("started", "")), config["settings"], environment, _history(path), result
    )


def list_runs(folder: str | Path = "runs") -> list[Run]:
    """All runs directly inside ``folder``, oldest first; folders that are not runs are left out.

    A run whose files are damaged is among them and says so in its ``damage``: it does not hide the others.

    Raises:
        RunError: there is no such folder.
    """
    folder = Path(expand_home(os.fspath(folder)))
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; expected the folder that holds runs")
    found = [_open_or_damaged(path) for path in sorted(folder.iterdir()) if _may_be_run(path)]
    return sorted(found, key=lambda run: (run.started, run.path.name))


def _may_be_run(path: Path) -> bool:
    """Whether ``path`` is a run's folder, and not one that was left half-written beside its place."""
    return not path.name.startswith(".") and path.is_dir() and is_run(path)


def _open_or_damaged(path: Path) -> Run:
    try:
        return open_run(path)
    except RunError as error:
        config = read_json(path / CONFIG)
        settings = config.get("settings")
        if not isinstance(settings, dict):
            settings = {}
        return Run(path, str(config["act"]), str(config.get("started", "")), settings, {}, [], None, str(error))


def _check_result(path: Path, result: Mapping[str, Any]) -> None:
    """Raise where something is missing that is read from a finished run."""
    for name, keys in _RESULT_KEYS.items():
        values = result.get(name)
        if not isinstance(values, dict):
            raise RunError(f"{path}: holds no {name}; the file is damaged")
        for key in keys:
            if key not in values:
                raise RunError(f"{path}: holds no {name}.{key}; the file is damaged")
    for name in ("seconds", "memory", "cost", "rates"):
        for key, value in result[name].items():
            if value is not None and not _is_number(value) and not _holds_more(value):
                raise RunError(f"{path}: its {name}.{key} is no number; the file is damaged")
    labels = result.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise RunError(f"{path}: holds no labels; the file is damaged")
    if not all(isinstance(metrics, dict) for metrics in result["metrics"].values()):
        raise RunError(f"{path}: its metrics are no objects; the file is damaged")


@contextlib.contextmanager
def reading_records(*paths: str | Path) -> Iterator[None]:
    """A context in which what a reader of the records in ``paths`` stumbles over becomes a RunError.

    What ``open_run`` checks is what every reader needs; deeper in a record any value may be another one than a run
    writes. The error behind it is kept for --debug.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        names = ", ".join(map(str, paths[:3]))
        what = f"{type(error).__name__}: {error}"[:200]
        raise RunError(f"{names}: the record holds what no run writes ({what}); a file in it is damaged") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _holds_more(value: Any) -> bool:
    return isinstance(value, dict | list)


def _history(path: Path) -> list[dict[str, Any]]:
    path = path / HISTORY
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = _json_of(line)
        except (ValueError, RecursionError):
            raise RunError(f"{path}, line {number}: not JSON; the file is damaged") from None
        if not isinstance(record, dict) or any(key not in record for key in _HISTORY_KEYS):
            raise RunError(f"{path}, line {number}: not an object with {', '.join(_HISTORY_KEYS)}; it is damaged")
        validation = record["validation"]
        if not isinstance(validation, dict) or not all(map(_is_number, (record[key] for key in _HISTORY_KEYS[:4]))):
            raise RunError(f"{path}, line {number}: its values are no numbers and metrics; it is damaged")
        if not all(value is None or _is_number(value) for value in validation.values() if not _holds_more(value)):
            raise RunError(f"{path}, line {number}: a metric is no number; it is damaged")
        records.append(record)
    return records


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON.

    Raises:
        RunError: it cannot be read, or is something else.
    """
    try:
        values = _json_of(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, no JSON, or a number out of range
        raise RunError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise RunError(f"{path}: found {type(values).__name__}, expected an object")
    return values


def _json_of(text: str) -> Any:
    """A value of JSON that can be written again: NaN, infinity and lone surrogates, which Python reads, are refused."""
    value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"found {text[:40]}, expected a finite number")
    return value


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """As ``write_text``. NaN is refused: JSON has none."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write beside ``path``, to the disk, and rename: a reader never sees half a file."""
    with written_beside(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yields the absolute path of a file to write beside ``path``: it takes its place at the end, or is removed.

    Raises:
        OSError: the file cannot be written; it names ``path`` if it named no file.
    """
    partial = path.absolute().with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def whole_folder(path: Path, overwrite: bool, is_ours: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yields the path of a folder to make beside ``path``: it takes its place at the end, or is removed.

    With ``overwrite`` a run that stands at ``path``, or what ``is_ours`` knows, stays until then.

    Raises:
        RunError: a folder that may not be replaced has come to stand at ``path``.
    """
    whole = path.absolute()
    partial = whole.with_name(f".{whole.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if overwrite:
            clear_output(path, is_ours)
        if path.exists():
            raise RunError(f"{path} exists; another run was started with the same --output")
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fsync_folder(path: Path) -> None:
    """Make sure that what was made or renamed in the folder is there after a crash of the machine too."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
