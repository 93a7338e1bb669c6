"""What a user writes of a sweep, read: grids, spaces, metrics, files with a list of trials. Torch is never imported."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertwright.config.base import build, expand_home
from bertwright.config.train import TrainConfig, TrainSettings
from bertwright.errors import UserError
from bertwright.evaluation.metrics import check_metric_name

NOT_OF_A_TRIAL = {"output", "overwrite", "resume"}
DEFAULT = "default"
"""As a value: the setting is not given."""

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?")


@dataclass(frozen=True)
class Dimension:
    """What a setting is drawn from: ``choices``, or numbers from ``low`` to ``high``, both included."""

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    step: float | None = None

    def ends(self) -> tuple[Any, ...]:
        """What must be possible for all between it to be possible: every choice, or both ends."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def record(self) -> dict[str, Any]:
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log, "whole": self.whole, "step": self.step}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Dimension:
        if "choices" in record:
            return cls(choices=tuple(record["choices"]))
        return cls((), record["low"], record["high"], record["log"], record["whole"], record["step"])


def read_trials(path: str | Path) -> list[dict[str, Any]]:
    """The list of trainings in a file: .toml with tables [[trials]], .json with a list, .jsonl with one on each line.

    Raises:
        UserError: it is missing, or is something else.
    """
    path = Path(expand_home(os.fspath(path)))
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            found: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif path.suffix == ".json":
            found = json.loads(text)
        else:
            found = tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a .toml, .json or .jsonl file with a list of trials") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a list of trials ({error})") from None
    if isinstance(found, dict):
        found = found.get("trials")
    return checked_list(found, str(path))


def checked_list(found: Any, source: str) -> list[dict[str, Any]]:
    """``found`` if it is a list of trainings.

    Raises:
        UserError: it is not, or is empty.
    """
    if not isinstance(found, list | tuple) or not found or not all(isinstance(trial, Mapping) for trial in found):
        raise UserError(f"{source}: found no list of trials, expected one with the settings of each")
    return [dict(trial) for trial in found]


def axis_text(name: str, values: Any) -> str:
    """An entry of a [grid] table, or of ``grid={...}``, as the flag has it."""
    values = list(values) if isinstance(values, list | tuple) else [values]
    return f"{name}={json.dumps(values)}"


def space_text(name: str, values: Any) -> str:
    """An entry of a [space] table, or of ``space={...}``, as the flag has it."""
    return f"{name}={values}" if isinstance(values, str) else axis_text(name, values)


def several(texts: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        name = _name_of(text)
        if name in seen:
            raise UserError(f"{name} is named twice: give all its values at once")
        seen.add(name)
        yield text


def _name_of(text: str) -> str:
    name, equals, _ = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not equals or not name:
        raise UserError(f"found {text!r}, expected NAME=VALUES such as seed=0,1,2")
    return name


def axis_of(text: str) -> tuple[str, list[Any]]:
    """A name and its values; ``None`` stands for a setting that is not given."""
    name, value = _name_of(text), text.partition("=")[2].strip()
    values = _json_list(text, value) if value.startswith("[") else [part.strip() for part in value.split(",")]
    if not values or "" in values:
        raise UserError(f"--grid {text}: found an empty value, expected NAME=V1,V2 (or the word default)")
    return name, [None if part == DEFAULT else part for part in values]


def _json_list(text: str, value: str) -> list[Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        raise UserError(f"{text}: found an opening [, expected a list as in JSON") from None
    if not isinstance(found, list):
        raise UserError(f"{text}: found {type(found).__name__}, expected a list of values")
    return found


def dimension_of(text: str) -> tuple[str, Dimension]:
    name, value = _name_of(text), text.partition("=")[2].strip()
    if value.startswith("["):
        return name, Dimension(choices=tuple(_json_list(text, value)))
    found = _RANGE.fullmatch(value)
    if found is None:
        if ".." in value or value.startswith("log:"):
            raise UserError(f"--space {text}: found {value!r}, expected LOW..HIGH, log:LOW..HIGH or LOW..HIGH:STEP")
        choices = [part.strip() for part in value.split("|")]
        if len(choices) < 2 or "" in choices:
            raise UserError(f"--space {text}: found {value!r}, expected LOW..HIGH, log:LOW..HIGH or A|B")
        return name, Dimension(choices=tuple(None if part == DEFAULT else part for part in choices))
    log, low, high = found[1] is not None, float(found[2]), float(found[3])
    step = None if found[4] is None else float(found[4])
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        raise UserError(f"--space {text}: found {found[2]}..{found[3]}, expected the lower number first")
    if log and (low <= 0 or step is not None):
        raise UserError(f"--space {text}: log: takes numbers above 0, without a step")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"--space {text}: found the step {found[4]}, expected one above 0 that fits in")
    whole = _is_whole(name)
    if whole and not all(number is None or number == int(number) for number in (low, high, step)):
        raise UserError(f"--space {text}: {name} takes whole numbers")
    return name, Dimension((), low, high, log, whole, step)


def _is_whole(name: str) -> bool:
    """Whether a setting takes whole numbers only."""
    found = TrainConfig.model_fields.get(name)
    return found is not None and found.annotation in (int, int | None)


def check_name(name: str, flag: str) -> None:
    if name in NOT_OF_A_TRIAL:
        raise UserError(f"{flag} {name}: each trial has a folder of its own; expected a setting that trainings share")
    if name not in TrainConfig.model_fields:
        build(TrainSettings, {name: None}, flag)


def checked_metric(given: str | None) -> str | None:
    """``given`` with its split.

    Raises:
        UserError: no metric, or no split.
    """
    if given is None:
        return None
    split, colon, name = given.rpartition(":")
    split = split if colon else "validation"
    if split not in ("validation", "test"):
        raise UserError(f"--metric {given}: found the texts {split!r}, expected validation:{name} or test:{name}")
    try:
        check_metric_name(name)
    except UserError as error:
        raise UserError(str(error).replace("--best-metric", "--metric", 1)) from None
    return f"{split}:{name}"
