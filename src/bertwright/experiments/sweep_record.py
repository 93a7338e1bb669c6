"""What a sweep came to: its trials, which is the best, mean and spread over seeds. Torch is never imported here."""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertwright.evaluation.metrics import LOWER_IS_BETTER

State = Literal["waiting", "running", "stopped", "finished", "pruned", "failed"]
"""What a trial is: not begun; at work; begun, and going on from its checkpoint when the sweep does; over with a
result; ended early since others were better at that point; over with an error."""

# Settings that say which texts a trial is about: only trials that agree in them are ranked together.
DATA_SETTINGS = (
    "train",
    "validation",
    "validation_share",
    "test",
    "text_column",
    "pair_column",
    "label_column",
    "label_kind",
    "label_threshold",
    "positive_label",
    "on_bad_row",
)
SPREAD_OVER = "seed"
_OF_TWO_CLASSES = ("accuracy", "precision", "recall", "f1")
_OF_OTHERS = ("accuracy", "macro_f1", "roc_auc", "root_mean_squared_error", "r2")
_MOST_OF_OTHERS = 3
SIDE_BY_SIDE = 1.1
"""From so many trials at work on average on, a trial counts as one that did not have the machine alone."""


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
        number: from 0; its run is ``trials/<number>`` in the sweep's folder, in four digits.
        name: what a list of trials calls it, if anything.
        settings: of ``bertwright train``, those in which the trials differ, as they were given.
        state: see ``State``.
        metric: what ``value`` is, such as "validation:roc_auc"; None where nothing is known to choose by.
        value: the trial's; None where it has not finished, or has no such metric.
        seconds: that its training took, with all its phases; of one that was pruned or stopped, so far as known.
        usd: what these cost, of the price of a machine that several trials share its part; None without a price.
        run: the folder of its run; it need not be there (not begun, or on another machine).
        error: of one that failed, its message.
        data: the settings of ``DATA_SETTINGS`` that hold for it.
        metrics: by split ("train", "validation", "test"), those that are one number; empty until it has finished.
        steps: of one that finished, how many its training took.
        pruned_at: of one that was pruned, after which evaluation, from 1.
        worker: who works or worked at it: the name of the machine.
        side_by_side: of one that finished, how many trials were at work meanwhile on average, itself among them.
        threads: that it computed with.
    """

    number: int
    name: str | None
    settings: dict[str, Any]
    state: State
    metric: str | None
    value: float | None
    seconds: float | None
    usd: float | None
    run: Path
    error: str | None = None
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict, repr=False)
    steps: int | None = None
    pruned_at: int | None = None
    worker: str | None = None
    side_by_side: float | None = None
    threads: int | None = None

    def record(self) -> dict[str, Any]:
        """The trial as JSON has it."""
        return {
            "number": self.number,
            "name": self.name,
            "settings": self.settings,
            "state": self.state,
            "metric": self.metric,
            "value": self.value,
            "seconds": self.seconds,
            "usd": self.usd,
            "run": str(self.run),
            "error": self.error,
            "data": self.data,
            "metrics": self.metrics,
            "steps": self.steps,
            "pruned_at": self.pruned_at,
            "worker": self.worker,
            "side_by_side": self.side_by_side,
            "threads": self.threads,
        }


@dataclass(frozen=True)
class Seeds:
    """Finished trials whose settings differ in their seed alone.

    Attributes:
        settings: in which the groups differ, without the seed.
        trials: at least two.
        mean: of their values; ``sd`` is their sample standard deviation (divisor n - 1).
        test: by metric, mean and sd of the test texts.
    """

    settings: dict[str, Any]
    trials: tuple[Trial, ...]
    mean: float
    sd: float
    test: dict[str, tuple[float, float]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "trials": [trial.number for trial in self.trials],
            "mean": self.mean,
            "sd": self.sd,
            "test": {name: {"mean": mean, "sd": sd} for name, (mean, sd) in self.test.items()},
        }


@dataclass(frozen=True)
class DataGroup:
    """The trials on one data set.

    Attributes:
        data: the settings of ``DATA_SETTINGS`` in which it differs from what is usual.
        trials: best first, then those without a value by their number.
        metric: by which they stand in order; None where there is none, or they were judged by different ones.
        best: the finished trial of the best value; None where nothing may be chosen.
        seeds: by their mean, best first.
    """

    data: dict[str, Any]
    trials: tuple[Trial, ...]
    metric: str | None
    best: Trial | None
    seeds: tuple[Seeds, ...]

    @property
    def name(self) -> str:
        """The names of its files, for a heading."""
        files = [*self.data.get("train", ())]
        return ", ".join(Path(file).name or file for file in files) or "data"

    def record(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "metric": self.metric,
            "trials": [trial.number for trial in self.trials],
            "best": None if self.best is None else self.best.number,
            "seeds": [seeds.record() for seeds in self.seeds],
            "times_note": times_note(self.trials),
        }


@dataclass(frozen=True)
class Sweep:
    """A sweep as its study and its folder tell it.

    Attributes:
        path: its folder.
        name: of its study.
        asked: the settings of ``bertwright sweep`` that it was begun with.
        trials: by their number.
        search: "grid", "random" or "tpe".
        seconds: of work, those of all its workers and of all the times that it was continued together.
        usd: what these cost; None without a price.
        importances: by setting, the share of the differences between the trials' values that it explains (fANOVA), most
            important first; empty where there was no search, or too little is known.
    """

    path: Path
    name: str
    asked: dict[str, Any] = field(repr=False)
    trials: tuple[Trial, ...] = field(repr=False)
    search: str
    seconds: float
    usd: float | None
    importances: dict[str, float] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[DataGroup, ...]:
        """The trials by the data set that they are about, in the order of their first trial."""
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(_key(trial.data), []).append(trial)
        return tuple(_data_group(trials) for trials in groups.values())

    def count(self, state: State) -> int:
        return sum(trial.state == state for trial in self.trials)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return not any(trial.state in ("waiting", "running", "stopped") for trial in self.trials)

    def _repr_html_(self) -> str:
        """What Jupyter shows: the trials, the best of them, and pictures. They are drawn when it asks for them."""
        return str(importlib.import_module("bertwright.reporting.notebook").sweep_html(self))

    def record(self) -> dict[str, Any]:
        """The sweep as JSON has it."""
        return {
            "sweep": str(self.path),
            "name": self.name,
            "search": self.search,
            "asked": self.asked,
            "seconds": self.seconds,
            "usd": self.usd,
            "trials": [trial.record() for trial in self.trials],
            "groups": [group.record() for group in self.groups],
            "importances": self.importances,
        }


def higher_is_better(metric: str) -> bool:
    """Of a metric's name such as "validation:log_loss", or without the split."""
    return metric.split(":")[-1] not in LOWER_IS_BETTER


def shown_metrics(metrics: Sequence[Mapping[str, Any]], metric: str | None) -> list[tuple[str, str]]:
    """Which metrics a table of trials has beside their value: split and name of each.

    They are those of the held-out texts (test, else validation), of two classes with precision and recall, and the
    accuracy on the training texts.

    Args:
        metrics: of each trial, by split.
        metric: what the value is, with its split; None where there is none.
    """

    def of(split: str) -> list[Mapping[str, Any]]:
        return [part for own in metrics if isinstance(part := own.get(split), Mapping)]

    def known(split: str, name: str) -> bool:
        return any(isinstance(part.get(name), int | float) for part in of(split))

    split = "test" if any(of("test")) else "validation"
    # Of more classes f1 is the mean over them, macro_f1.
    two_classes = any(own.get("f1") != own.get("macro_f1") and known(split, "macro_f1") for own in of(split))
    names = _OF_TWO_CLASSES if two_classes else _OF_OTHERS
    chosen_by = [] if metric is None else [metric.split(":")[-1]]
    found = [(split, name) for name in dict.fromkeys([*chosen_by, *names]) if known(split, name)]
    if not two_classes:
        found = found[:_MOST_OF_OTHERS]
    if known("train", "accuracy"):
        place = found.index((split, "accuracy")) if (split, "accuracy") in found else 0
        found.insert(place, ("train", "accuracy"))
    return [one for one in found if ":".join(one) != metric]


def in_order(trials: Sequence[Trial], metric: str | None) -> list[Trial]:
    """Best first; finished before all others, those without a value by their number."""
    sign = -1.0 if metric is None or higher_is_better(metric) else 1.0
    states: dict[str, int] = {"finished": 0, "pruned": 1, "running": 2, "stopped": 3, "waiting": 4, "failed": 5}

    def place(trial: Trial) -> tuple[int, float, int]:
        known = metric is not None and trial.value is not None and trial.state in ("finished", "pruned")
        value = sign * (trial.value or 0.0) if known else float("inf")
        return states[trial.state], value, trial.number

    return sorted(trials, key=place)


def times_note(trials: Sequence[Trial]) -> str | None:
    """What must be known of the times of trials that shared a machine; None where each had it alone."""
    together = [trial for trial in trials if trial.side_by_side is not None and trial.side_by_side >= SIDE_BY_SIDE]
    if not together:
        return None
    counts = sorted({max(2, round(trial.side_by_side or 0.0)) for trial in together})
    threads = sorted({trial.threads for trial in together if trial.threads})
    each = f", of {_span(threads)} thread{'s' * (threads != [1])} each" if threads else ""
    cost = "; USD are each one's share of the machine" if any(trial.usd is not None for trial in together) else ""
    return f"times are of {_span(counts)} trials side by side{each}: alone one may be faster{cost}"


def _span(numbers: Sequence[int]) -> str:
    """Numbers in order, in words."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _data_group(trials: Sequence[Trial]) -> DataGroup:
    metrics = {trial.metric for trial in trials if trial.value is not None}
    metric = metrics.pop() if len(metrics) == 1 else None
    ordered = in_order(trials, metric)
    with_value = [trial for trial in ordered if trial.state == "finished" and trial.value is not None]
    best = with_value[0] if metric is not None and with_value else None
    seeds = () if metric is None else _over_seeds(with_value, higher_is_better(metric))
    return DataGroup(dict(trials[0].data), tuple(ordered), metric, best, seeds)


def _over_seeds(trials: Sequence[Trial], higher: bool) -> tuple[Seeds, ...]:
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(_key(_without_seed(trial.settings)), []).append(trial)
    found = [_seeds(group) for group in alike.values() if len({_seed(trial) for trial in group}) > 1]
    return tuple(sorted(found, key=lambda seeds: -seeds.mean if higher else seeds.mean))


def _seeds(trials: Sequence[Trial]) -> Seeds:
    values = [trial.value for trial in trials if trial.value is not None]
    test: dict[str, tuple[float, float]] = {}
    for name in trials[0].metrics.get("test", {}):
        known = [value for trial in trials if (value := trial.metrics.get("test", {}).get(name)) is not None]
        if len(known) == len(trials):
            test[name] = (statistics.mean(known), statistics.stdev(known))
    ordered = tuple(sorted(trials, key=lambda trial: trial.number))
    return Seeds(_without_seed(trials[0].settings), ordered, statistics.mean(values), statistics.stdev(values), test)


def _without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != SPREAD_OVER}


def _seed(trial: Trial) -> Any:
    return trial.settings.get(SPREAD_OVER)


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
