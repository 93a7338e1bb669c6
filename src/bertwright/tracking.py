"""What a run records, sent on to a tracker while it goes: TensorBoard, MLflow, Weights & Biases, Trackio.

The run's folder stays the record; a tracker gets a copy of its settings, of each line of its history and of its result.
A tracker that fails is said once and left out: it never costs a training. Torch is imported for TensorBoard alone.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from bertwright.errors import UserError
from bertwright.progress import Reporter

PROJECT = "bertwright"
_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "trackio": "trackio"}


class Tracker(Protocol):
    """One run as one tracker keeps it."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self, values: Mapping[str, float]) -> None:
        """The run's figures, and the end of it."""
        ...

    def stop(self) -> None:
        """The end of a run that was stopped, or failed."""
        ...


class _TensorBoard:
    """Event files in the run's folder: ``tensorboard --logdir runs`` shows all runs."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(output / "tensorboard"))
        lines = [f"| {name} | {value} |" for name, value in settings.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar("result/" + name, value)
        self.stop()

    def stop(self) -> None:
        self._writer.close()


class _MLflow:
    """Where MLFLOW_TRACKING_URI says; experiment MLFLOW_EXPERIMENT_NAME, or "bertwright"."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        mlflow = importlib.import_module("mlflow")
        self._mlflow = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        mlflow.start_run(run_name=output.name)
        mlflow.log_params({name: str(value)[:500] for name, value in settings.items()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({_plain(name): value for name, value in values.items()}, step=step)

    def finish(self, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({_plain("result/" + name): value for name, value in values.items()})
        self._mlflow.end_run()

    def stop(self) -> None:
        self._mlflow.end_run(status="KILLED")


class _WeightsAndBiases:
    """Project WANDB_PROJECT, or "bertwright"; with WANDB_MODE=offline nothing leaves the machine."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        # Without an account wandb would ask for one at the terminal, and the training would wait.
        if os.environ.get("WANDB_MODE", "online") in ("online", "run") and not wandb.login(prompt=False):
            raise RuntimeError("no account is known: run wandb login, or set WANDB_MODE=offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=output.name, dir=str(output), config=dict(settings)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, values: Mapping[str, float]) -> None:
        self._run.summary.update({"result/" + name: value for name, value in values.items()})
        self._run.finish()

    def stop(self) -> None:
        self._run.finish(exit_code=1)


class _Trackio:
    """Project TRACKIO_PROJECT, or "bertwright"; on this machine, unless TRACKIO_SPACE_ID names a Space."""

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self._trackio = importlib.import_module("trackio")
        self._trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=output.name, config=dict(settings), embed=False
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self, values: Mapping[str, float]) -> None:
        self._trackio.log({"result/" + name: value for name, value in values.items()})
        self.stop()

    def stop(self) -> None:
        self._trackio.finish()


_TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _WeightsAndBiases,
    "trackio": _Trackio,
}


def tracker_names(given: Sequence[str]) -> tuple[str, ...]:
    """The trackers that ``given`` names, of which each may be several with commas between.

    Raises:
        UserError: one is unknown, or not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for part in given for name in part.split(",") if name.strip()))
    for name in names:
        if name not in _TRACKERS:
            raise UserError(f"--track: found {name}, expected one of {', '.join(_TRACKERS)}")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise UserError(f"--track {name} needs its package: pip install {_PACKAGES[name]}")
    return names


class Tracking:
    """All trackers of a run, within a context that ends them however it is left. Without any it does nothing."""

    def __init__(self, names: Sequence[str], reporter: Reporter) -> None:
        self._names, self._reporter = tuple(names), reporter
        self._trackers: dict[str, Tracker] = {}

    def begin(self, output: Path, settings: Mapping[str, Any]) -> None:
        """The run in the folder ``output`` has begun."""
        for name in self._names:
            self._try(name, self._start, name, output, settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.stop)
        self._trackers = {}

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of the history."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.log, line["step"], numbers_of(line, leave_out=("step",)))

    def result(self, result: Mapping[str, Any]) -> None:
        """The result; no line comes after it."""
        wanted = {key: result.get(key) or {} for key in ("metrics", "seconds", "rates", "memory", "cost")}
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.finish, numbers_of(wanted))
        self._trackers = {}

    def _start(self, name: str, output: Path, settings: Mapping[str, Any]) -> None:
        self._trackers[name] = _TRACKERS[name](output, settings)

    def _try(self, name: str, act: Callable[..., object], *values: Any) -> None:
        """``act(*values)``; a tracker whose act fails, for whatever reason of its own, is left out from here on."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what a tracker says is no result
                act(*values)
        except Exception as error:  # noqa: BLE001 - another library's process, network and server: all can go wrong
            self._trackers.pop(name, None)
            first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            self._reporter.warn(f"--track {name} failed ({first[:200]}); the run goes on without it")


def numbers_of(values: Mapping[str, Any], prefix: str = "", leave_out: Sequence[str] = ()) -> dict[str, float]:
    """The numbers in nested mappings, by names with slashes between; other values are left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if name in leave_out:
            continue
        if isinstance(value, Mapping):
            found |= numbers_of(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name] = float(value)
    return found


def _plain(name: str) -> str:
    """A name as MLflow takes it: letters, digits, and some marks."""
    return "".join(mark if mark.isalnum() or mark in "_-. /:" else "_" for mark in name)
