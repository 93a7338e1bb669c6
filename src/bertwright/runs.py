"""The record: one folder of plain files for every run. Written phase by phase, read by everyone, never changed after.

    config.json          what was asked, resolved; ``bertwright train --config`` runs it again
    environment.json     versions, machine, and what was chosen (dtype, attention kernel, tokenizer) and why
    history.jsonl        a line for each evaluation during training
    predictions.parquet  the held-out texts with their scores
    model/               the model in Hugging Face's layout
    result.json          everything measured; written last, so that a folder with it is a finished run

Torch is never imported here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bertwright import __version__
from bertwright.errors import RunError

CONFIG, ENVIRONMENT, HISTORY, RESULT = "config.json", "environment.json", "history.jsonl", "result.json"
PREDICTIONS, MODEL = "predictions.parquet", "model"

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
    def metrics(self) -> dict[str, Any]:
        """Metrics by split ("train", "validation", "test"); empty for a run that has not finished."""
        return {} if self.result is None else self.result["metrics"]

    @property
    def model_folder(self) -> Path:
        return self.path / MODEL


class RunWriter:
    """Writes a new run's folder. Each file is written beside its place and renamed into it.

    Raises:
        RunError: the folder has come to exist since ``prepare_output`` looked.
    """

    def __init__(self, path: Path, act: str, settings: Mapping[str, Any]) -> None:
        self.path = path
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise RunError(f"{path} exists; another run was started with the same --output") from None
        started = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"act": act, "bertwright": __version__, "started": started, "settings": dict(settings)}
        write_json(path / CONFIG, record)

    def environment(self, values: Mapping[str, Any]) -> None:
        write_json(self.path / ENVIRONMENT, values)

    def history(self, record: Mapping[str, Any]) -> None:
        with open(self.path / HISTORY, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def result(self, values: Mapping[str, Any]) -> None:
        write_json(self.path / RESULT, values)


def prepare_output(path: Path, overwrite: bool) -> None:
    """Make sure, before any work, that a run can be written to ``path``.

    Raises:
        RunError: something is there and ``overwrite`` is not given, or it is not a run, or the folder cannot be made.
    """
    if path.exists():
        if not overwrite:
            raise RunError(f"{path} exists; pass another --output, or --overwrite to replace it")
        if not is_run(path):
            raise RunError(f"{path} exists and is not a run's folder; --overwrite replaces runs only")
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


def clear_output(path: Path) -> None:
    """Remove the run that ``prepare_output`` allowed to be replaced."""
    if is_run(path):
        shutil.rmtree(path)


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
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"{path}: no such folder; expected a run's folder (bertwright runs list shows them)")
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: no {CONFIG}; expected a run's folder")
    config = _read_json(path / CONFIG)
    if not isinstance(config.get("act"), str) or not isinstance(config.get("settings"), dict):
        raise RunError(f"{path / CONFIG}: not the record of a run; expected a run's folder, not a model's")
    environment = _read_json(path / ENVIRONMENT) if (path / ENVIRONMENT).is_file() else {}
    result = _read_json(path / RESULT) if (path / RESULT).is_file() else None
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
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; expected the folder that holds runs")
    found = [_open_or_damaged(path) for path in sorted(folder.iterdir()) if path.is_dir() and is_run(path)]
    return sorted(found, key=lambda run: (run.started, run.path.name))


def _open_or_damaged(path: Path) -> Run:
    try:
        return open_run(path)
    except RunError as error:
        config = _read_json(path / CONFIG)
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
    if not isinstance(result.get("labels"), list):
        raise RunError(f"{path}: holds no labels; the file is damaged")
    if not all(isinstance(metrics, dict) for metrics in result["metrics"].values()):
        raise RunError(f"{path}: its metrics are no objects; the file is damaged")


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
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise RunError(f"{path}, line {number}: not JSON; the file is damaged") from None
        if not isinstance(record, dict) or any(key not in record for key in _HISTORY_KEYS):
            raise RunError(f"{path}, line {number}: not an object with {', '.join(_HISTORY_KEYS)}; it is damaged")
        records.append(record)
    return records


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, no JSON, or a huge integer
        raise RunError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise RunError(f"{path}: found {type(values).__name__}, expected an object")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write beside ``path`` and rename: a reader never sees half a file. NaN is refused: JSON has none."""
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
