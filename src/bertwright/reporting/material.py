"""What a page is made from: a run's files, read once, with what cannot be read named instead of raised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertwright.config.parts import LabelKind
from bertwright.errors import RunError
from bertwright.evaluation.judge import KINDS
from bertwright.evaluation.show import held_out_split
from bertwright.evaluation.stored import Predictions, read_predictions
from bertwright.memory_trace import FILE as MEMORY
from bertwright.memory_trace import MemoryTrace, read_memory_trace
from bertwright.runs import Run
from bertwright.steps import FILE as STEPS
from bertwright.steps import Trace, read_trace


@dataclass(frozen=True)
class Material:
    """A run and what lies beside its record. ``problems`` has a line for each file that could not be read."""

    run: Run
    kind: LabelKind
    labels: tuple[str, ...]
    split: str | None
    predictions: Predictions | None = None
    trace: Trace | None = None
    memory: MemoryTrace | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Of the held-out texts; empty where there are none."""
        return self.run.metrics[self.split] if self.split else {}

    @property
    def judgement(self) -> Mapping[str, Any]:
        """Threshold, calibration and bias, where the run has them."""
        return object_in(self.run.result or {}, "judgement")


def read_material(run: Run) -> Material:
    """All that is to be known of ``run``, finished or not. Never raises for a file that is missing or damaged."""
    result = run.result or {}
    kind = KINDS.get(str(result.get("task", "")), "classes")
    labels = tuple(str(label) for label in result.get("labels", ()))
    split = held_out_split(run.metrics)
    problems: list[str] = []
    predictions = trace = memory = None
    if run.finished and labels:
        try:
            predictions = read_predictions(run)
        except RunError as error:
            problems.append(str(error))
    if (run.path / STEPS).is_file():
        try:
            trace = read_trace(run.path / STEPS)
        except RunError as error:
            problems.append(str(error))
    if (run.path / MEMORY).is_file():
        try:
            memory = read_memory_trace(run.path / MEMORY)
        except RunError as error:
            problems.append(str(error))
    return Material(run, kind, labels, split, predictions, trace, memory, problems)


def is_finite(value: Any) -> bool:
    """Whether ``value`` is a finite number, not a truth value: a damaged record may hold anything."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def number_in(values: Any, *names: str) -> float | None:
    """The number at the end of a way through objects; None where there is none."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values if is_finite(values) else None


def object_in(values: Any, *names: str) -> Mapping[str, Any]:
    """The object at the end of a way through objects; an empty one where there is none."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def objects_of(values: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; nothing where it is none."""
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list | tuple) else []
