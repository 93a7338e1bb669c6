"""What a sweep will do, from what was asked: which trainings, or what to draw them from. Everything is checked here,
before anything is begun. Torch is never imported here."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bertwright.config.base import build, merged
from bertwright.config.sweep import SweepSettings
from bertwright.config.train import TrainConfig
from bertwright.errors import UserError
from bertwright.evaluation.metrics import check_metric_name, default_metric
from bertwright.experiments.sweep_flags import (
    DEFAULT,
    NOT_OF_A_TRIAL,
    Dimension,
    axis_of,
    check_name,
    checked_metric,
    dimension_of,
    several,
)
from bertwright.experiments.sweep_record import DATA_SETTINGS, higher_is_better

Search = Literal["grid", "random", "tpe"]

_MOST_TRIALS = 100_000
# What token ids depend on.
_OF_TOKENS = {
    *("train", "validation", "test", "model", "tokenizer", "max_length", "long_texts"),
    *("recipe", "freeze_encoder"),  # which say how long texts are read
    *("text_column", "pair_column", "label_column", "group_columns", "on_bad_row"),
}


@dataclass(frozen=True)
class Wanted:
    """A training that is asked for. ``key`` tells it from all others of the sweep."""

    key: str
    name: str | None
    settings: dict[str, Any]
    data: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A sweep as asked for.

    Attributes:
        shared: settings of ``bertwright train`` that all trials have, as given.
        search: how trials come about.
        wanted: those of a grid or a list, in order; empty for a search.
        space: what a search draws from, by setting.
        num_trials: of a search; None: as many as the budget allows.
        search_seed: what a search draws follows from it.
        metric: with its split, such as "validation:f1", or None.
        pruner: None where nothing is pruned.
    """

    shared: dict[str, Any]
    search: Search
    wanted: tuple[Wanted, ...] = field(default=(), repr=False)
    space: dict[str, Dimension] = field(default_factory=dict)
    num_trials: int | None = None
    search_seed: int = 0
    metric: str | None = None
    pruner: Literal["median", "hyperband"] | None = None

    def trial_config(self, settings: Mapping[str, Any], **more: Any) -> TrainConfig:
        """The training of a trial.

        Raises:
            UserError: its settings are no training's.
        """
        return build(TrainConfig, {**merged(self.shared, settings), **more})

    def record(self) -> dict[str, Any]:
        """All but the wanted trials, as JSON has it."""
        return {
            "shared": self.shared,
            "search": self.search,
            "space": {name: dimension.record() for name, dimension in self.space.items()},
            "num_trials": self.num_trials,
            "search_seed": self.search_seed,
            "metric": self.metric,
            "pruner": self.pruner,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Plan:
        """The plan of a ``record``, without its wanted trials.

        Raises:
            UserError: it is no record of a plan.
        """
        try:
            return cls(
                dict(record["shared"]),
                record["search"],
                (),
                {name: Dimension.of(values) for name, values in record["space"].items()},
                record["num_trials"],
                record["search_seed"],
                record["metric"],
                record["pruner"],
            )
        except (KeyError, TypeError, AttributeError):
            raise UserError("the sweep's record is damaged: its plan cannot be read") from None


def plan_of(values: Mapping[str, Any], settings: SweepSettings, listed: Sequence[Mapping[str, Any]] | None) -> Plan:
    """The plan of what was asked for.

    Args:
        values: settings of ``bertwright train`` that were given, with the training files as ``train``.
        settings: those of the sweep.
        listed: an explicit list of trainings: their settings, and a ``name`` if they have one.

    Raises:
        UserError: anything that would fail later: a name that is no setting, a value that its setting refuses, ones
            that exclude each other, a search without an end.
    """
    shared = {name: value for name, value in values.items() if name not in NOT_OF_A_TRIAL}
    axes = dict(axis_of(text) for text in several(settings.grid))
    space = dict(dimension_of(text) for text in several(settings.space))
    for name in axes:
        if name in space:
            raise UserError(f"--grid and --space both name {name}: give one of them")
    for name in (*axes, *space):
        check_name(name, "--grid" if name in axes else "--space")
    search: Search = settings.search or ("tpe" if space else "grid")
    pruner = settings.pruner if settings.prune or "pruner" in settings.model_fields_set else None
    metric = checked_metric(settings.metric)
    if search == "grid":
        plan = Plan(shared, "grid", metric=metric, pruner=pruner)
        wanted = _grid(plan, axes, space, listed, settings.num_trials)
        plan = Plan(shared, "grid", wanted, metric=metric, pruner=pruner)
    else:
        if listed is not None:
            raise UserError(f"--search {search} and a list of trials exclude each other: give one of them")
        for name, values_of in axes.items():
            space[name] = Dimension(choices=tuple(values_of))
        plan = _search_plan(shared, search, space, settings, metric, pruner)
    _check_metric_has_texts(plan)
    return plan


def data_of(config: TrainConfig) -> dict[str, Any]:
    """Of a training the settings that say which texts it is about, but for those that are as usual."""
    values = config.model_dump(mode="json")
    fields = TrainConfig.model_fields
    return {name: values[name] for name in DATA_SETTINGS if values[name] != fields[name].default and values[name] != []}


def has_validation(config: TrainConfig) -> bool:
    """Whether a training has validation texts."""
    if config.validation or config.validation_share:
        return True
    return config.validation_share is None and not config.test


def is_compared(plan: Plan) -> bool:
    """Whether what is done depends on how good trials are, so that all must be judged by one metric."""
    return plan.search != "grid" or plan.pruner is not None


def is_minimized(plan: Plan) -> bool:
    """Whether a search, or pruning, looks for low values, as far as settings tell. By what a trial is judged may follow
    from its texts too: a worker fails those that have it otherwise."""
    metric = plan.metric or next(iter(_said_metrics(plan)), None)
    return metric is not None and not higher_is_better(metric)


def _said_metrics(plan: Plan) -> dict[str | None, None]:
    """By what the trials are judged on validation texts, as their settings say it; None: as their texts have it."""
    found: dict[str | None, None] = {}
    for own in [one.settings for one in plan.wanted] or _drawn_metrics(plan):
        values = merged(plan.shared, own)
        kind = values.get("label_kind")
        found[values.get("best_metric") or (default_metric(kind, 1) if kind == "regression" else None)] = None
    return found


def _drawn_metrics(plan: Plan) -> Iterator[dict[str, Any]]:
    names = [name for name in ("best_metric", "label_kind") if name in plan.space]
    for values in itertools.product(*(plan.space[name].choices for name in names)):
        yield dict(zip(names, values, strict=True))


def representatives(plan: Plan) -> Iterator[TrainConfig]:
    """Trainings that need all the token ids that any trial of the plan may need."""
    if plan.search == "grid":
        for one in plan.wanted:
            yield plan.trial_config(one.settings)
        return
    ends = {name: dimension.ends() for name, dimension in plan.space.items() if name in _OF_TOKENS}
    for values in itertools.product(*ends.values()):
        with contextlib.suppress(UserError):  # values that exclude each other: such a trial fails, and says so
            yield plan.trial_config(dict(zip(ends, values, strict=True)))


# --- trials -----------------------------------------------------------------------------------------------------------


def _grid(
    plan: Plan,
    axes: Mapping[str, Sequence[Any]],
    space: Mapping[str, Dimension],
    listed: Sequence[Mapping[str, Any]] | None,
    num_trials: int | None,
) -> tuple[Wanted, ...]:
    """Every combination of the axes, for every entry of the list."""
    for name, dimension in space.items():
        if not dimension.choices:
            raise UserError(f"--space {name}: a grid has no end of numbers between two; pass --search tpe or random")
    axes = {**axes, **{name: dimension.choices for name, dimension in space.items()}}
    if num_trials is not None:
        raise UserError("--num-trials is for a search: pass --search random or tpe, or leave it out")
    if not axes and listed is None:
        raise UserError("nothing to vary: pass --grid NAME=V1,V2, --space NAME=LOW..HIGH or --trials FILE")
    number = math.prod(len(values) for values in axes.values()) * len(listed or [{}])
    if number > _MOST_TRIALS:
        raise UserError(f"found {number:,} combinations, expected at most {_MOST_TRIALS:,}: pass --search random")
    wanted: dict[str, Wanted] = {}
    for place, entry in enumerate(listed or [{}], 1):
        own = dict(entry)
        name = own.pop("name", None)
        if name is not None and not isinstance(name, str):
            raise UserError(f"trial {place} of the list: name: found {name!r}, expected a text")
        for setting in own:
            if setting in NOT_OF_A_TRIAL:
                raise UserError(
                    f"trial {place} of the list: {setting}: each trial has a folder of its own; leave it out"
                )
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            one = _wanted(plan, merged(own, chosen), name, _where(place if listed else None, chosen))
            if one.key in wanted and one.name != wanted[one.key].name:
                raise UserError(f"{_where(place, chosen)}: the same settings as another trial of the list")
            wanted.setdefault(one.key, one)
    return tuple(wanted.values())


def _where(place: int | None, chosen: Mapping[str, Any]) -> str:
    parts = [] if place is None else [f"trial {place} of the list"]
    parts += [f"{name}={DEFAULT if value is None else value}" for name, value in chosen.items()]
    return ", ".join(parts)


def _wanted(plan: Plan, settings: Mapping[str, Any], name: str | None, where: str) -> Wanted:
    config = _checked(plan.shared, settings, where)
    typed = config.model_dump(mode="json")
    given = {setting: typed[setting] for setting in settings if setting in typed}
    return Wanted(json.dumps(given, sort_keys=True), name, given, data_of(config))


def _checked(shared: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> TrainConfig:
    """The training of these settings; what a training finds out only later about settings alone is found out now."""
    values = {name: value for name, value in merged(shared, settings).items() if value is not None}
    config = build(TrainConfig, values, where)
    if not has_validation(config):
        for name in ("patience", "best_metric"):
            if getattr(config, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{where}: {flag} needs validation texts: pass --validation FILE or --validation-share")
    if config.best_metric is not None:
        check_metric_name(config.best_metric)
    for role in ("train", "validation", "test"):
        for file in getattr(config, role):
            if not file.startswith("hub:") and not os.path.exists(file):
                raise UserError(f"{where + ': ' if where else ''}{file}: no such file")
    return config


def _search_plan(
    shared: dict[str, Any],
    search: Search,
    space: dict[str, Dimension],
    settings: SweepSettings,
    metric: str | None,
    pruner: Literal["median", "hyperband"] | None,
) -> Plan:
    if not space:
        raise UserError(f"--search {search}: nothing to search in; pass --space NAME=LOW..HIGH or --grid NAME=V1,V2")
    if settings.num_trials is None and settings.budget is None:
        raise UserError(f"--search {search} has no end: pass --num-trials 30, or --budget 30m")
    checked: dict[str, Dimension] = {}
    for name, dimension in space.items():
        typed = []
        for value in dimension.ends():
            config = _checked(shared, {name: value}, _where(None, {name: value}))
            typed.append(None if value is None else config.model_dump(mode="json")[name])
        if dimension.choices:
            dimension = Dimension(choices=tuple(typed))
        elif not all(isinstance(value, int | float) for value in typed):
            raise UserError(f"--space {name}: takes no numbers; expected A|B")
        checked[name] = dimension
    num_trials = settings.num_trials
    return Plan(shared, search, (), checked, num_trials, settings.search_seed, metric, pruner)


def _check_metric_has_texts(plan: Plan) -> None:
    """A search, and pruning, need a value of each trial that no test text had a part in, unless it was asked for."""
    config = plan.trial_config(plan.wanted[0].settings if plan.wanted else {})
    split = None if plan.metric is None else plan.metric.split(":")[0]
    if plan.pruner is not None and (split == "test" or not has_validation(config)):
        raise UserError("--prune goes by validation texts: pass --validation FILE or --validation-share 0.2")
    if split == "validation" and not has_validation(config):
        raise UserError(f"--metric {plan.metric}: there are no validation texts; pass --validation FILE")
    if split == "test" and not config.test:
        raise UserError(f"--metric {plan.metric}: there are no test texts; pass --test FILE")
    said = _said_metrics(plan)
    if is_compared(plan) and plan.metric is None and len(said) > 1:
        names = ", ".join(name or "the one of their texts" for name in said)
        raise UserError(
            f"trials would be judged by different metrics ({names}), and cannot be compared: name one for all with "
            "--metric, such as --metric validation:accuracy"
        )
    if plan.search != "grid" and split is None and not has_validation(config):
        raise UserError(
            f"--search {plan.search} chooses by validation texts: pass --validation FILE or --validation-share 0.2 (or "
            "say --metric test:accuracy; what is then found best looks better than it is)"
        )
