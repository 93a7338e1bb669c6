"""What the training of a trial wrote, read while it is at work and when it has ended. Torch is never imported here."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertwright import runs
from bertwright.errors import RunError

_LOG_BYTES = 1 << 16


def note_share(run: Path, side_by_side: float, threads: int) -> None:
    """Let the run's result.json hold how many trials went side by side with how many threads each, and as its cost its
    share of the machine's price: those of all trials then add up to the price once.

    Raises:
        RunError: the result is damaged.
    """
    result = runs.read_json(run / runs.RESULT)
    if "side_by_side" in result:
        return
    together = round(side_by_side, 2)
    result["side_by_side"] = {"trials": together, "threads": threads}
    cost = result.get("cost")
    if isinstance(cost, dict):
        for name in ("usd_per_hour", "usd"):
            if isinstance(cost.get(name), int | float):
                cost[name] /= together
    runs.write_json(run / runs.RESULT, result)


def metric_of(run: runs.Run) -> str | None:
    """By what a run kept its state, if it had validation texts."""
    name = run.settings.get("best_metric")
    return f"validation:{name}" if name and run.metrics.get("validation") else None


def plain_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """By split the metrics that are one number."""
    return {
        split: {name: value for name, value in values.items() if value is None or isinstance(value, int | float)}
        for split, values in metrics.items()
        if values
    }


def asked_metric(run: Path) -> str | None:
    """By what a training under way keeps its best state, once that is known."""
    try:
        name = runs.read_json(run / runs.CONFIG)["settings"].get("best_metric")
    except (RunError, KeyError, AttributeError):
        return None
    return f"validation:{name}" if name else None


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a history that are written whole."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    found = []
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def last_error(log: Path, code: int) -> str:
    """What a process said at last in its ``log``, and how it ended, by its exit ``code`` (minus a signal)."""
    if code == -signal.SIGKILL:
        return "killed by the system (SIGKILL), most likely since memory ran out; pass --jobs 1 or less --token-budget"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_BYTES))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = errors[-1] if errors else lines[-1] if lines else "no message"
    return last if code == 2 else f"{last} (exit code {code})"
