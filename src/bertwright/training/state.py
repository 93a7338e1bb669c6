"""Checkpoints of a training: all that its next step depends on, on disk, whole or not at all.

    checkpoints/step-00000120/state.safetensors   weights, moments, losses, random state
    checkpoints/step-00000120/manifest.json       counters, history, and size and SHA-256 of every file
    checkpoints/best-00000100.safetensors         the best state so far, written when it changes

A checkpoint is written under a hidden name, flushed to the disk and renamed. Reading trusts nothing: sizes, hashes,
names, shapes and values are checked, and nothing in a file is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bertwright.progress import Reporter
from bertwright.runs import CHECKPOINTS, checkpoint_step, fsync_folder

_KEPT = 2
_STATE, _MANIFEST = "state.safetensors", "manifest.json"
_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}
_CHUNK_BYTES = 1 << 24
# Far more than a manifest with its history needs; a larger file is not read.
_MOST_RECORD_BYTES = 1 << 28
# After a checkpoint that could not be written, the next complaint comes after so long.
_WARN_EVERY_S = 600.0

# The state of a random generator of another process than the leading one.
_RANDOM_OF_OTHER = "random/(cpu|cuda)/[0-9]{1,6}"

Record = TypeVar("Record", bound=BaseModel)


class Damaged(Exception):
    """What is on disk cannot be used: says why. Something else is used in its place."""


class StrictRecord(BaseModel):
    """Base of what is read from disk: nothing unknown, no number for a word, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class FileRecord(StrictRecord):
    """What a file must be to be the one that was written."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Progress(StrictRecord):
    """How far a training is; changed step by step.

    Attributes:
        steps: taken. ``num_texts`` and ``num_tokens`` were learnt from, in ``train_s`` seconds.
        elapsed_s: seconds since the first step began, evaluations included, and without the time between two parts.
        recorded_steps: those that the lines of the history cover.
        best: the best value of the metric, which the state after ``best_step`` steps has; 0 steps: none yet.
        averaged_states: states of the weights that their mean is of, so far.
        asked_budget, token_budget: most tokens computed at once as asked for, and after memory ran out.
    """

    steps: int = Field(0, ge=0)
    num_texts: int = Field(0, ge=0)
    num_tokens: int = Field(0, ge=0)
    train_s: float = Field(0.0, ge=0)
    elapsed_s: float = Field(0.0, ge=0)
    recorded_steps: int = Field(0, ge=0)
    best: float | None = None
    best_step: int = Field(0, ge=0)
    worse_in_a_row: int = Field(0, ge=0)
    averaged_states: int = Field(0, ge=0)
    asked_budget: int = Field(1, ge=1)
    token_budget: int = Field(1, ge=1)
    history: list[dict[str, Any]] = Field(default_factory=list)


class _Manifest(StrictRecord):
    format: Literal[1] = 1
    progress: Progress
    optimizer: dict[str, float]
    state: FileRecord
    best: FileRecord | None
    inputs: dict[str, Any]


class Saved:
    """A training's state as it was read: ``tensors`` and ``optimizer`` for the optimizer, ``random`` by device,
    ``average`` the averaged weights by name."""

    def __init__(self, progress: Progress, optimizer: dict[str, float], tensors: dict[str, Tensor]) -> None:
        self.progress, self.optimizer = progress, optimizer
        self.losses = tensors.pop("losses")  # (steps,) float32
        self.random = {kind: tensors.pop("random/" + kind) for kind in ("cpu", "cuda") if "random/" + kind in tensors}
        self._others = {name: tensors.pop(name) for name in list(tensors) if re.fullmatch(_RANDOM_OF_OTHER, name)}
        means = [name for name in tensors if name.startswith("average/")]
        self.average = {name.removeprefix("average/"): tensors.pop(name) for name in means}
        self.tensors = tensors
        self.best_state: dict[str, Tensor] = {}

    def random_of(self, rank: int) -> dict[str, Tensor]:
        """``random`` of the process ``rank`` of a group; empty if there was none."""
        if rank == 0:
            return self.random
        named = ((name.split("/"), state) for name, state in self._others.items())
        return {parts[1]: state for parts, state in named if int(parts[2]) == rank}

    def for_others(self) -> dict[str, Any]:
        """All but the best state, to be sent to another process."""
        tensors = {"losses": self.losses, **self.tensors, **self._others}
        tensors |= {"random/" + kind: state for kind, state in self.random.items()}
        tensors |= {"average/" + name: mean for name, mean in self.average.items()}
        return {"progress": self.progress.model_dump(), "optimizer": self.optimizer, "tensors": tensors}

    @classmethod
    def sent(cls, parts: Mapping[str, Any]) -> Saved:
        """What ``for_others`` gave."""
        return cls(Progress(**parts["progress"]), parts["optimizer"], parts["tensors"])


class Checkpoints:
    """The checkpoints of the run in ``run``, of which the last two are kept.

    Args:
        minutes, every_steps: how often one is due; with ``every_steps`` minutes do not count.
        inputs: what the training depends on; goes into every checkpoint, and one of other inputs is not used.
        on_saved: called when one was written.
    """

    def __init__(
        self,
        run: Path,
        reporter: Reporter,
        minutes: float = 10.0,
        every_steps: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        on_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.reporter = run / CHECKPOINTS, reporter
        self.every_steps, self.every_s = every_steps, minutes * 60
        self.inputs = dict(inputs or {})
        self.last_saved: int | None = None  # steps
        self._on_saved = on_saved
        self._since = time.monotonic()
        self._failed_at: float | None = None
        self._refused: list[Path] = []
        self._best: tuple[int, FileRecord] | None = None  # the last one written, or read: its step, and the file

    def due(self, steps: int) -> bool:
        """Whether a checkpoint should be written now, after ``steps`` steps."""
        if self.every_steps is not None:
            return steps % self.every_steps == 0
        return time.monotonic() - self._since >= self.every_s

    # --- writing ----------------------------------------------------------------------------------------------

    def save(
        self, progress: Progress, optimizer: dict[str, float], tensors: Mapping[str, Tensor], best: Mapping[str, Tensor]
    ) -> bool:
        """Write a checkpoint; False, with a warning, where that fails. What was there before stays until it succeeds.

        ``tensors`` are as ``Saved`` takes them, ``best`` is the best state, empty if there is none.
        """
        steps = progress.steps
        if steps == self.last_saved:
            return True
        self._since = time.monotonic()
        partial = self.folder / f".step-{steps:08}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            best_record = self._save_best(progress.best_step, best) if best else None
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            state = write_tensors(partial / _STATE, tensors)
            manifest = _Manifest(
                progress=progress, optimizer=optimizer, state=state, best=best_record, inputs=self.inputs
            )
            write_sealed(partial / _MANIFEST, manifest)
            fsync_folder(partial)
            final = self.folder / f"step-{steps:08}"
            if final.exists():  # refused on reading
                _remove(final)
                self._refused = [path for path in self._refused if path != final]
            os.rename(partial, final)
            fsync_folder(self.folder)
        except (OSError, MemoryError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            self._warn(steps, getattr(error, "strerror", None) or "out of memory")
            return False
        self.last_saved = steps
        if self._failed_at is not None:
            self.reporter.warn(f"checkpoints can be written again: step {steps:,} is kept")
            self._failed_at = None
        self._prune()
        self._on_saved()
        return True

    def _save_best(self, step: int, best: Mapping[str, Tensor]) -> FileRecord:
        if self._best is None or self._best[0] != step:
            self._best = step, write_tensors(self._best_path(step), best)
        return self._best[1]

    def _best_path(self, step: int) -> Path:
        return self.folder / f"best-{step:08}.safetensors"

    def _warn(self, steps: int, reason: str) -> None:
        now = time.monotonic()
        if self._failed_at is None or now - self._failed_at >= _WARN_EVERY_S:
            self._failed_at = now
            self.reporter.warn(
                f"no checkpoint could be written after step {steps:,} ({reason}); {self.kept()}. The training goes on"
            )

    def kept(self) -> str:
        """What a stopped training could go on from, in words."""
        newest = next(iter(_found_in(self.folder)), None)
        return "none is kept" if newest is None else f"step {checkpoint_step(newest.name):,} is kept"

    def _prune(self) -> None:
        """Remove all but the last two, best states that none of them names, and what was left half-written."""
        for path in self._refused:
            _remove(path)
        self._refused = []
        kept: set[str] = set()
        for i, path in enumerate(_found_in(self.folder)):
            if i >= _KEPT:
                _remove(path)
                continue
            with contextlib.suppress(Damaged):
                progress = read_sealed(path / _MANIFEST, _Manifest).progress
                kept.add(self._best_path(progress.best_step).name)
        for path in [*self.folder.glob("best-*"), *self.folder.glob(".*.partial")]:
            if path.name not in kept:
                _remove(path)

    # --- reading ----------------------------------------------------------------------------------------------

    def load(self, num_steps: int, use: Callable[[Saved], None]) -> Saved | None:
        """Hand the newest checkpoint that is whole to ``use``, and return it; None if there is none.

        ``use`` raises ``Damaged``, before it has changed anything, where the checkpoint does not fit the training. A
        checkpoint that is not used is said.
        """
        for path in _found_in(self.folder):
            try:
                saved, best = self._read(path, num_steps)
                use(saved)
            except Damaged as error:
                self._refused.append(path)
                self.reporter.warn(f"{path}: {error}; not used")
            else:
                self.last_saved = saved.progress.steps
                self._best = None if best is None else (saved.progress.best_step, best)
                return saved
        return None

    def _read(self, path: Path, num_steps: int) -> tuple[Saved, FileRecord | None]:
        """The checkpoint in a folder, and the file of its best state, if it has one."""
        manifest = read_sealed(path / _MANIFEST, _Manifest)
        progress = manifest.progress
        _check_progress(progress, num_steps)
        if progress.steps != checkpoint_step(path.name):
            raise Damaged(f"holds step {progress.steps:,}, not that of its name")
        if manifest.inputs != self.inputs:
            raise Damaged("is of another training")
        if (manifest.best is None) != (progress.best_step == 0):
            raise Damaged("its best state is not named")
        tensors = read_tensors(path / _STATE, manifest.state)
        losses = tensors.get("losses")
        if losses is None or losses.shape != (progress.steps,) or losses.dtype != torch.float32:
            raise Damaged("its losses are not one for each step")
        saved = Saved(progress, manifest.optimizer, tensors)
        if bool(saved.average) != (progress.averaged_states > 0):
            raise Damaged("its averaged weights are not those of its steps")
        if manifest.best is not None:
            saved.best_state = read_tensors(self._best_path(progress.best_step), manifest.best)
        return saved, manifest.best


def saved_inputs(folder: Path) -> dict[str, Any] | None:
    """The inputs of the newest checkpoint in ``folder`` that can be read."""
    for path in _found_in(folder):
        with contextlib.suppress(Damaged):
            return read_sealed(path / _MANIFEST, _Manifest).inputs
    return None


def _found_in(folder: Path) -> list[Path]:
    """Folders that are checkpoints by their names, newest first."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if checkpoint_step(path.name) is not None and path.is_dir()]
    return sorted(paths, key=lambda path: checkpoint_step(path.name) or 0, reverse=True)


def _check_progress(progress: Progress, num_steps: int) -> None:
    steps = progress.steps
    if not 1 <= steps <= num_steps:
        raise Damaged(f"its step {steps:,} is not one of the training's {num_steps:,}")
    for name in ("recorded_steps", "best_step", "worse_in_a_row", "averaged_states"):
        if getattr(progress, name) > steps:
            raise Damaged(f"its {name} {getattr(progress, name):,} is more than its {steps:,} steps")
    before = 0
    for line in progress.history:
        step = line.get("step")
        if type(step) is not int or not before < step <= steps:
            raise Damaged("its history is not in order")
        if not isinstance(line.get("validation"), dict) or type(line.get("train_loss")) is not float:
            raise Damaged("its history is not one of losses and metrics")
        before = step
    if before != progress.recorded_steps:
        raise Damaged("its history ends elsewhere than it says")


# --- files -----------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write a safetensors file, beside ``path`` and renamed, tensor by tensor: no second copy of all of them is made.

    Ours and not the library's, since it gives the hash on the way, and a full disk is an ``OSError``.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pieces = (tensor.detach().cpu().contiguous().numpy().reshape(-1).view("uint8").data for tensor in tensors.values())
    return _write(path, [len(text).to_bytes(8, "little"), text], pieces)


def write_file(path: Path, content: bytes | memoryview) -> FileRecord:
    """Write a file beside ``path``, to the disk, and rename."""
    return _write(path, [], iter((memoryview(content),)))


def _write(path: Path, head: list[bytes], pieces: Iterator[memoryview]) -> FileRecord:
    partial = path.with_name(f".{path.name}.partial")
    digest = hashlib.sha256()
    try:
        with open(partial, "wb", buffering=0) as file:
            for piece in itertools.chain(map(memoryview, head), pieces):
                for start in range(0, len(piece), _CHUNK_BYTES):
                    chunk = piece[start : start + _CHUNK_BYTES]
                    _write_all(file, chunk)
                    digest.update(chunk)
            size = file.tell()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def _write_all(file: Any, piece: memoryview) -> None:
    while len(piece):
        piece = piece[file.write(piece) :]


def read_tensors(path: Path, record: FileRecord) -> dict[str, Tensor]:
    """The tensors of a safetensors file that is the one in ``record``.

    Raises:
        Damaged: it is another, or no safetensors file, or holds numbers that are not finite.
    """
    check_file(path, record)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise Damaged(f"{path.name} is no safetensors file ({error})") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise Damaged(f"{path.name}: {name} holds {tensor.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise Damaged(f"{path.name}: {name} holds what is no number")
    return tensors


def file_record(path: Path) -> FileRecord:
    """Size and hash of a file."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def check_file(path: Path, record: FileRecord) -> None:
    """Make sure that a file is the one in ``record``.

    Raises:
        Damaged: it is missing, or of another size or hash.
    """
    try:
        if not path.is_file():
            raise Damaged(f"{path.name} is missing")
        if path.stat().st_size != record.bytes:
            raise Damaged(f"{path.name} has {path.stat().st_size:,} bytes, expected {record.bytes:,}")
        found = file_record(path)
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from None
    if found.sha256 != record.sha256:
        raise Damaged(f"{path.name} is damaged: its SHA-256 is another")


def write_sealed(path: Path, record: BaseModel) -> None:
    """Write a record as JSON with a hash of itself, beside ``path`` and renamed."""
    content = record.model_dump(mode="json")
    text = json.dumps({"sha256": _seal(content), "content": content}, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode())


def read_sealed(path: Path, kind: type[Record]) -> Record:
    """A record that ``write_sealed`` wrote.

    Raises:
        Damaged: it is missing, no JSON, changed, or no record of this kind.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_RECORD_BYTES + 1)
        if len(text) > _MOST_RECORD_BYTES:
            raise Damaged(f"{path.name} is too large to be a record")
        values = json.loads(text, parse_constant=_refuse)
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise Damaged(f"{path.name} cannot be read as JSON ({str(error)[:100] or type(error).__name__})") from None
    if not isinstance(values, dict) or values.keys() != {"sha256", "content"}:
        raise Damaged(f"{path.name} is no record")
    try:
        if values["sha256"] != _seal(values["content"]):
            raise Damaged(f"{path.name} is damaged: its SHA-256 is another")
        return kind.model_validate(values["content"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Damaged(f"{path.name}: {where}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    except (ValueError, RecursionError) as error:  # numbers beyond float, nesting without end
        raise Damaged(f"{path.name} is no record ({type(error).__name__})") from None


def _seal(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _remove(path: Path) -> None:
    """Remove a file or folder: out of sight first, so that half of it is never taken for the whole."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.name.startswith("."):
            hidden = path.with_name(f".{path.name}.old.partial")
            shutil.rmtree(hidden, ignore_errors=True)
            os.rename(path, hidden)
            path = hidden
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


# --- random state ----------------------------------------------------------------------------------------------------


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators that a training on ``device`` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Draw from here on what would have been drawn after ``random_state``.

    Raises:
        Damaged: it is no state of a generator.
    """
    try:
        torch.set_rng_state(state["cpu"])
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
    except (KeyError, RuntimeError, TypeError) as error:
        raise Damaged(f"its random state is damaged ({str(error).splitlines()[0][:80]})") from None
