"""What a run keeps beside its checkpoints, so that one that was stopped does again only what is not on disk.

    checkpoints/inputs.json         what the run depends on: hashes of the data and the weights, and the settings
    checkpoints/parts.json          how often it was gone on with, and the seconds spent so far
    checkpoints/trained.json        what the training did, and the hashes of the files in model/
    checkpoints/losses.npy          the loss of each step, from which steps.parquet is made
    checkpoints/scores-<split>.npy  logits, with scores-<split>.json beside: their hash, and the model's that gave them
    checkpoints/predictions.json    the hash of predictions.parquet; predictions_validation.json likewise
    checkpoints/settled.json        the hash of a bertwright.json that takes the place of the one in model/

All of it is gone when the run has finished. What is damaged is said, and made anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field
from safetensors import SafetensorError

from bertwright import runs
from bertwright.errors import RunError
from bertwright.progress import Reporter
from bertwright.training.resume import shown
from bertwright.training.state import (
    Damaged,
    FileRecord,
    Record,
    StrictRecord,
    check_file,
    file_record,
    read_sealed,
    saved_inputs,
    write_file,
    write_sealed,
)

_WEIGHTS = "model.safetensors"
_PARTIAL_MODEL = f".{runs.MODEL}.partial"


class Inputs(StrictRecord):
    """What a run depends on: ``inputs`` must stay the same; another ``machine`` rounds otherwise."""

    inputs: dict[str, Any]
    machine: dict[str, Any]


class Parts(StrictRecord):
    """How often a run was gone on with, and the seconds of its phases, and "total", over all parts but this one."""

    resumed: int = Field(0, ge=0)
    seconds: dict[str, float] = Field(default_factory=dict)


class Trained(StrictRecord):
    """What a training did: the numbers of an ``Outcome``, its history, and the files that it left in model/."""

    steps: int = Field(ge=0)
    best_step: int = Field(ge=0)
    train_s: float = Field(ge=0)
    num_texts: int = Field(ge=0)
    num_tokens: int = Field(ge=0)
    token_budget: int = Field(ge=1)
    history: list[dict[str, Any]]
    losses: FileRecord | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)


class Settled(StrictRecord):
    """A file of the model that was made anew after the training."""

    name: str
    file: FileRecord


class _Scores(StrictRecord):
    file: FileRecord
    model_sha256: str
    seconds: float = Field(ge=0)


class Phases:
    """The phases of the run in ``output``; ``resumed``: the folder is there already.

    Attributes:
        doing: what the run is at, in words, for whoever stops it.
        begun: whether there is a folder of this run to go on with.
        inputs_known: whether it is on record what the run began with; else nothing has been learnt yet.
    """

    def __init__(self, output: Path, reporter: Reporter, resumed: bool) -> None:
        self.output, self.folder, self.reporter, self.resumed = output, output / runs.CHECKPOINTS, reporter, resumed
        self.doing = "reading"
        self.begun = resumed
        self.inputs_known = False
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._model_sha256 = ""
        self._before = Parts()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self.resumed:
            self.lock()
            self._before = self._read("parts.json", Parts) or Parts()
            self._before.resumed += 1
            self.note_time()
            _remove_partial_files(self.output)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def lock(self) -> None:
        """Keep other processes away from the run, until the end of the ``with`` or of the process.

        Raises:
            RunError: another one works on it.
        """
        self._held.enter_context(runs.locked(self.output))

    def kept(self) -> str:
        """What is kept if the run stops now, in words."""
        if self._model_sha256:
            return "the trained model is kept"
        steps = runs.checkpoint_steps(self.output)
        return f"step {max(steps):,} is kept" if steps else "no step is kept"

    # --- time ---------------------------------------------------------------------------------------------------

    @property
    def num_resumed(self) -> int:
        return self._before.resumed

    def spent(self, phase: str, seconds: float) -> None:
        """Count seconds of this part of the run to a phase."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def seconds(self, phase: str) -> float:
        """Of all parts of the run; of the parts that were stopped, as far as they are on record."""
        now = time.perf_counter() - self._started if phase == "total" else self._seconds.get(phase, 0.0)
        return self._before.seconds.get(phase, 0.0) + now

    def note_time(self) -> None:
        """Put the time spent so far on record."""
        phases = {*self._before.seconds, *self._seconds, "total"}
        seconds = {phase: self.seconds(phase) for phase in sorted(phases)}
        self._write("parts.json", Parts(resumed=self._before.resumed, seconds=seconds))

    # --- inputs -------------------------------------------------------------------------------------------------

    def check_inputs(self, found: Inputs) -> None:
        """Refuse other inputs than those that the run began with, and put them on record.

        Raises:
            RunError: names the first that differs.
        """
        recorded = self._read("inputs.json", Inputs)
        expected = saved_inputs(self.folder) if recorded is None else recorded.inputs
        self.inputs_known = expected is not None
        if expected is not None:
            self._refuse_others(found.inputs, expected)
        if recorded is not None:
            for name, value in found.machine.items():
                before = recorded.machine.get(name, value)  # older records know less
                if before != value:
                    self.reporter.warn(
                        f"{name.replace('_', ' ')}: {shown(value)}, but {shown(before)} when the run began: the "
                        "result is not, bit by bit, that of a run that was never stopped"
                    )
        else:
            self._write("inputs.json", found)

    def _refuse_others(self, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        for name in sorted({*found, *expected}):
            one, other = found.get(name), expected.get(name)
            if one != other:
                raise RunError(
                    f"{self.output}: {name}: found {_short(one)}, expected {_short(other)} as when the run began. Give "
                    "what it began with, or start another run with another --output"
                )

    # --- the model ----------------------------------------------------------------------------------------------

    def trained(self) -> Trained | None:
        """What the training did, where it is over and model/ is whole."""
        record = self._read("trained.json", Trained)
        if record is None:
            return None
        model, partial = self.output / runs.MODEL, self.output / _PARTIAL_MODEL
        try:
            if not model.exists() and partial.is_dir():  # killed just before it was renamed
                self._check_model(partial, record, None)
                os.rename(partial, model)
            self._check_model(model, record, self._read("settled.json", Settled))
        except Damaged as error:
            self.reporter.warn(f"{model}: {error}; made anew")
            return None
        self._model_sha256 = record.files[_WEIGHTS].sha256
        return record

    @staticmethod
    def _check_model(folder: Path, record: Trained, settled: Settled | None) -> None:
        if _WEIGHTS not in record.files:
            raise Damaged(f"no {_WEIGHTS} is on record")
        for name, file in record.files.items():
            if Path(name).name != name:
                raise Damaged(f"{name!r} is no plain file name")
            if settled is not None and name == settled.name and _is_file(folder / name, settled.file):
                continue
            check_file(folder / name, file)

    def save_model(self, record: Trained, losses: np.ndarray, write: Callable[[Path], None]) -> None:
        """Let ``write`` make the model's folder, which is then there whole or not at all.

        ``losses`` (steps,) float32 are kept until the run has finished.
        """
        model, partial = self.output / runs.MODEL, self.output / _PARTIAL_MODEL
        shutil.rmtree(partial, ignore_errors=True)
        try:
            write(partial)
        except SafetensorError as error:
            raise OSError(None, str(error), str(partial)) from None
        for path in sorted(partial.iterdir()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            record.files[path.name] = file_record(path)
        record.losses = self._write_array("losses.npy", losses)
        self._write("trained.json", record)
        if model.exists():  # damaged
            shutil.rmtree(model)
        os.rename(partial, model)
        runs.fsync_folder(self.output)
        self._model_sha256 = record.files[_WEIGHTS].sha256

    def settle(self, name: str, write: Callable[[Path], None]) -> None:
        """Let ``write`` make a file of the model anew, after the training: what was settled since then.

        Killed at any moment, the model has the one file or the other, and both are on record.
        """
        self.folder.mkdir(exist_ok=True)
        made = self.folder / name
        write(made)
        self._write("settled.json", Settled(name=name, file=file_record(made)))
        os.replace(made, self.output / runs.MODEL / name)
        runs.fsync_folder(self.output / runs.MODEL)

    def losses(self, record: Trained) -> np.ndarray | None:
        """(steps,) float32, the loss of each step of a training that is over; None where they are lost."""
        if record.losses is None:
            return None
        path = self.folder / "losses.npy"
        try:
            return _read_array(path, record.losses, (record.steps,))
        except Damaged as error:
            self.reporter.warn(f"{path}: {error}")
            return None

    def _write_array(self, name: str, array: np.ndarray) -> FileRecord | None:
        """Put an array on disk; None where that cannot be. A run does not need it as long as it is not stopped."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        try:
            self.folder.mkdir(exist_ok=True)
            return write_file(self.folder / name, buffer.getbuffer())
        except OSError as error:
            self.reporter.warn(f"{self.folder / name}: not written ({error.strerror}); the run goes on")
            return None

    # --- scores -------------------------------------------------------------------------------------------------

    def scores(self, split: str, shape: tuple[int, int], compute: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
        """Logits of ``shape`` (texts, labels) float32 of a split's texts, and the seconds that they took.

        Those on disk where the same model gave them; else by ``compute``, and then put there.
        """
        path, record_name = self.folder / f"scores-{split}.npy", f"scores-{split}.json"
        record = self._read(record_name, _Scores)
        if record is not None and record.model_sha256 == self._model_sha256:
            try:
                logits = _read_array(path, record.file, shape)
            except Damaged as error:
                self.reporter.warn(f"{path}: {error}; made anew")
            else:
                self.reporter.say(f"{split} texts: scores read from {path}")
                return logits, record.seconds
        started = time.perf_counter()
        logits = compute()
        seconds = time.perf_counter() - started
        file = self._write_array(path.name, logits)
        if file is not None:
            self._write(record_name, _Scores(file=file, model_sha256=self._model_sha256, seconds=seconds))
            self.note_time()
        return logits, seconds

    def predictions(self, write: Callable[[Path], None], name: str = runs.PREDICTIONS) -> None:
        """Let ``write`` make predictions.parquet, or another file of them, if it is not there as it was written."""
        path = self.output / name
        record_name = path.with_suffix(".json").name
        record = self._read(record_name, FileRecord)
        if record is not None:
            try:
                check_file(path, record)
            except Damaged as error:
                self.reporter.warn(f"{path}: {error}; made anew")
            else:
                return
        write(path)
        self._write(record_name, file_record(path))

    def finish(self) -> None:
        """Remove all that only a stopped run needs: the result is there."""
        remove_leftovers(self.output)

    # --- records ------------------------------------------------------------------------------------------------

    def _read(self, name: str, kind: type[Record]) -> Record | None:
        """A record, where there is one that can be used."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return read_sealed(path, kind)
        except Damaged as error:
            self.reporter.warn(f"{path.parent}: {error}; made anew")
            return None

    def _write(self, name: str, record: StrictRecord) -> None:
        """Put a record on disk. A run does not need it as long as it is not stopped."""
        try:
            self.folder.mkdir(exist_ok=True)
            write_sealed(self.folder / name, record)
        except OSError as error:
            self.reporter.warn(f"{self.folder / name}: not written ({error.strerror}); the run goes on")


def remove_leftovers(output: Path) -> None:
    """Remove what a finished run does not need."""
    for path in [output / runs.CHECKPOINTS, output / _PARTIAL_MODEL]:
        shutil.rmtree(path, ignore_errors=True)
    _remove_partial_files(output)


def _remove_partial_files(output: Path) -> None:
    """Remove files of the run that were not written to their end."""
    for path in output.glob("*.partial"):
        if path.is_file():
            path.unlink()


def _read_array(path: Path, record: FileRecord, shape: tuple[int, ...]) -> np.ndarray:
    check_file(path, record)
    try:
        with open(path, "rb") as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise Damaged(f"it is no array ({error})") from None
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float32:
        raise Damaged(f"it holds {getattr(array, 'dtype', 'something else')}, expected float32 of shape {shape}")
    if not np.isfinite(array).all():
        raise Damaged("it holds what is no number")
    return array


def _short(value: Any) -> str:
    text = "none" if value is None else shown(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_file(path: Path, record: FileRecord) -> bool:
    try:
        check_file(path, record)
    except Damaged:
        return False
    return True
