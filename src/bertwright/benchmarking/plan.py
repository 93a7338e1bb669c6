"""The acts of planning: foretell what a training or a scoring takes, here and elsewhere; check what was foretold."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertwright import hardware, runs
from bertwright.benchmarking.forecast import Forecast, forecast, record, usd
from bertwright.benchmarking.machines import (
    Here,
    Throughput,
    elsewhere,
    load_throughputs,
    read_measured,
    this_machine,
)
from bertwright.benchmarking.show_plan import check_table, show_plan
from bertwright.config.base import build, explain
from bertwright.config.evaluate import EvaluateConfig
from bertwright.config.plan import PlanConfig
from bertwright.config.train import TrainConfig
from bertwright.cpus import num_usable_cores
from bertwright.errors import RunError, UserError, shown
from bertwright.prices import Price, load_prices, selected
from bertwright.progress import Reporter

if TYPE_CHECKING:
    from bertwright.benchmarking.probe import Probe

_MOST_BYTES = 16 << 20
_MOST_SHOWN = 100  # characters of a setting
# Settings that change nothing of what a run takes, and such as are settled on the way.
_NO_MATTER = {
    *(
        "output",
        "overwrite",
        "resume",
        "usd_per_hour",
        "track",
        "checkpoint_minutes",
        "checkpoint_steps",
        "num_extremes",
    ),
    *("run", "data", "dtype", "device"),
}
_RESOLVED = {
    *(
        "learning_rate",
        "weight_decay",
        "best_metric",
        "validation_share",
        "epochs",
        "steps",
        "tokenizer",
        "token_budget",
    ),
    *("positive_label", "text_column", "label_column", "label_kind"),
}
SUFFIX = ".plan.json"


def plan(data: str | Path | Sequence[str | Path], *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """What training on ``data``, or with ``run=...`` scoring it, will take here and on other machines, as a record.

    ``settings`` are those of ``bertwright plan``, with underscores. The process should have done little before: the
    memory that is foretold is that of the whole process.

    Raises:
        UserError: what the training or the scoring would refuse, too; or a plan that is in the way.
    """
    files = (data,) if isinstance(data, str | Path) else tuple(data)
    return run_plan(build(PlanConfig, {**settings, "data": files}), Reporter(quiet=quiet, results=not quiet))


def run_plan(config: PlanConfig, reporter: Reporter) -> dict[str, Any]:
    """Try the work out, foretell the whole, show and write the plan; gives its record."""
    from bertwright.benchmarking.probe import probe_scoring, probe_training
    from bertwright.training.settings import resolve_early

    planned = config.scoring() if config.run is not None else resolve_early(config.training())
    path = _plan_file(config, planned)
    if path.exists() and not config.overwrite:
        raise RunError(f"{path} exists; pass another --plan, or --overwrite to replace it")
    if config.plan is not None and not path.absolute().parent.is_dir():
        raise RunError(f"{path}: there is no folder {path.absolute().parent}")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not os.access(there, os.W_OK):  # before any work
        raise RunError(f"{path}: {there} cannot be written to; pass another --plan")
    prices, prices_file = load_prices()
    chosen = _chosen(prices, config.machines)
    measured = read_measured(config.measured, "infer" if config.run is not None or config.freeze_encoder else "train")
    if isinstance(planned, TrainConfig):
        probe = probe_training(planned, config.probe_seconds, reporter)
    else:
        probe = probe_scoring(planned, config.probe_seconds, reporter)
    found = forecast(probe)
    other_s = found.seconds["total"].value - found.compute_s.value
    operations_per_s = _operations_per_s(probe, found)
    throughputs = load_throughputs()
    others = [one.here(operations_per_s, found.compute_s, other_s, throughputs, found.needs) for one in measured]
    here = _here(planned, probe, throughputs)
    if here is None:
        reporter.say("other machines: no published rate fits this one or this dtype; --measured FILE gives another way")
    else:
        known = elsewhere(chosen, here, found.compute_s, other_s, throughputs, found.needs)
        if len(known) < len(chosen):
            reporter.say(f"other machines: of {len(chosen) - len(known)} of {len(chosen)} no rate is known")
        others += known
    result = {
        "act": "plan",
        "planned": planned.act if isinstance(planned, TrainConfig) else "evaluate",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": planned.model_dump(mode="json", exclude_none=True),
        "environment": hardware.describe(hardware.choose_device(planned.device)),
        "chosen": probe.chosen,
        "num_texts": probe.num_texts,
        "steps": None if probe.steps is None else len(probe.steps.tokens),
        "tried": {
            "steps": None if probe.steps is None else len(probe.steps.tried),
            "texts_scored": probe.scoring.texts,
        },
        **record(found),
        "usd_per_hour": config.usd_per_hour,
        "usd": None if config.usd_per_hour is None else usd(found.seconds["total"], config.usd_per_hour).record(),
        "here": None if here is None else asdict(here),
        "prices": str(prices_file.name),
        "elsewhere": [one.record() for one in others],
    }
    show_plan(result, config.num_machines, reporter)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, result)
    reporter.say(f"plan: {path}")
    return result


def _plan_file(config: PlanConfig, planned: TrainConfig | EvaluateConfig) -> Path:
    if config.plan is not None:
        return Path(config.plan)
    if planned.output is not None:
        return Path(planned.output.rstrip("/") + SUFFIX)
    return Path("runs") / (Path(config.data[0]).name.split(".")[0] + "-scored" + SUFFIX)


def _chosen(prices: Sequence[Price], machines: Sequence[str]) -> list[Price]:
    """The rows of the price table that each part between commas names by all of its words.

    Raises:
        UserError: a part that names none.
    """
    parts = [part for one in machines for part in one.split(",") if part.strip()]
    if not parts:
        return list(prices)
    found: list[Price] = []
    for part in parts:
        rows = selected(prices, part.split())
        if not rows:
            raise UserError(
                f"--machines: no machine of the price table is called {part.strip()!r}. See bertwright prices"
            )
        found += [row for row in rows if row not in found]
    return found


def _operations_per_s(probe: Probe, found: Forecast) -> float:
    """Useful operations a second of what the encoder mostly does: learning or, where nothing of it learns, scoring."""
    if probe.training_operations:
        return probe.training_operations / found.seconds["train"].value
    return probe.scoring.operations / probe.scoring.seconds


def _here(planned: TrainConfig | EvaluateConfig, probe: Probe, throughputs: Sequence[Throughput]) -> Here | None:
    """This machine's place; None also where its fast arithmetic is not used, which the rates are of."""
    gpu = hardware.describe(hardware.choose_device(planned.device)).get("gpu")
    feature = hardware.cpu_bfloat16_feature()
    if probe.chosen["dtype"] == "float32" and (gpu is not None or feature is not None):
        return None
    return this_machine(gpu, feature, min(int(probe.chosen["threads"]), num_usable_cores()), throughputs)


# --- what happened ------------------------------------------------------------------------------------------------


# Seconds, bytes and steps of any job are fewer: a petabyte, thirty million years.
_MOST = 10**15


class _Estimate(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: float = Field(ge=0, lt=_MOST)
    low: float = Field(ge=0, lt=_MOST)
    high: float = Field(ge=0, lt=_MOST)


class _Plan(BaseModel):
    """What a check reads of a plan; a file is not trusted to hold it."""

    model_config = ConfigDict(allow_inf_nan=False)

    planned: str
    made: str
    config: dict[str, Any]
    chosen: dict[str, Any]
    steps: int | None = Field(ge=0, lt=_MOST)
    seconds: dict[str, _Estimate]
    memory: dict[str, _Estimate]


def check_plan(run: str | Path, plan: str | Path | None = None, reporter: Reporter | None = None) -> dict[str, Any]:
    """Set what was foretold beside what happened in the finished ``run``; shown and given as a record.

    ``plan`` is the file that ``bertwright plan`` wrote; ``RUN.plan.json`` if not given.

    Raises:
        UserError: there is no plan, or it is damaged or of another kind of work; the run has not finished, or its
            record holds what no run writes.
    """
    folder = Path(run)
    opened = runs.open_run(folder)
    if opened.result is None:
        raise RunError(f"{folder} has not finished: there is nothing yet to set the plan beside")
    path = Path(plan) if plan is not None else Path(str(run).rstrip("/") + SUFFIX)
    found = _read_plan(path)
    if found.planned != opened.act:
        raise RunError(f"{path}: plans a run of {found.planned}, but {folder} is one of {opened.act}")
    rows = []
    with runs.reading_records(folder):
        for kind, estimates in (("seconds", found.seconds), ("memory", found.memory)):
            for name, estimate in estimates.items():
                happened = opened.result[kind].get(name)
                if happened is not None:
                    rows.append(_row(kind, name, estimate, _count(happened, f"{kind}.{name}")))
        result = {
            "act": "plan-check",
            "run": str(run),
            "plan": str(path),
            "planned_before": found.made,
            "resumed": _count(opened.result.get("resumed") or 0, "resumed"),
            "differences": _differences(found, opened),
            "rows": rows,
        }
    (reporter or Reporter()).show(check_table(result))
    return result


def _count(value: Any, name: str) -> float:
    """A number of a run's record: seconds, bytes, steps.

    Raises:
        ValueError: it is none, or such as no run has.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise ValueError(f"{name} is {shown(value)}")
    return value


def _row(kind: str, name: str, estimate: _Estimate, happened: float) -> dict[str, Any]:
    off_by = math.inf if happened == 0 else estimate.value / happened - 1
    return {
        "kind": kind,
        "what": name,
        "planned": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "happened": happened,
        "off_by": off_by if math.isfinite(off_by) else None,
        "within": estimate.low <= happened <= estimate.high,
    }


def _differences(plan: _Plan, run: runs.Run) -> list[str]:
    """In what the run was not what was planned, where that changes what it takes; in words."""
    unset: tuple[Any, ...] = (None, [], False)
    found = []
    # What follows from the model or the data is on record in a run, and open in a plan.
    for name in sorted((plan.config.keys() | run.settings.keys()) - _NO_MATTER):
        planned, happened = plan.config.get(name), run.settings.get(name)
        if planned != happened and not (planned in unset and happened in unset):
            if name in _RESOLVED and (planned is None or happened is None):
                continue
            found.append(f"{name} {_short(repr(happened))}, not {_short(repr(planned))}")
    for name, words in (("device", "device"), ("dtype", "dtype"), ("threads", "num_threads")):
        planned, happened = plan.chosen.get(name), run.environment.get(words)
        if planned is not None and happened is not None and planned != happened:
            found.append(f"{name} {_short(str(happened))}, not {_short(str(planned))}")
    steps = (run.result or {}).get("steps")
    if plan.steps is not None and steps is not None and _count(steps, "steps") != plan.steps:
        found.append(f"{steps:,} steps, not {plan.steps:,}")
    return found


def _short(words: str) -> str:
    """A setting as it may stand in a line, whatever a file holds in its place."""
    return words if len(words) <= _MOST_SHOWN else words[:_MOST_SHOWN] + "..."


def _read_plan(path: Path) -> _Plan:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path}: found more than {_MOST_BYTES >> 20} MiB, expected a plan")
        return _Plan.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such plan. Make one before the run, with bertwright plan") from None
    except ValidationError as error:
        raise RunError(
            f"{path}: it is no plan ({explain(error)}); expected a file that bertwright plan wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise RunError(f"{path}: cannot be read ({reason}); expected a file that bertwright plan wrote") from None
