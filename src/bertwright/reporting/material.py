"""What a page is made from: a run's files, read once, with what cannot be read named instead of raised."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.config import LabelKind
from bertwright.errors import RunError
from bertwright.evaluation.judge import TASKS
from bertwright.evaluation.show import held_out_split
from bertwright.experiments.finished_runs import read_predictions
from bertwright.memory_trace import FILE as MEMORY
from bertwright.memory_trace import MemoryTrace, read_memory_trace
from bertwright.runs import PREDICTIONS, Run
from bertwright.steps import FILE as STEPS
from bertwright.steps import Trace, read_trace

_KINDS: dict[str, LabelKind] = {task: kind for kind, task in TASKS.items()}


@dataclass(frozen=True)
class Predictions:
    """The scored texts of a run, in the order of its predictions.parquet.

    Attributes:
        rows: (texts,) int64, where each stands in its file.
        scores: (texts, labels) float64.
        label_ids: (texts,) the true classes; None where there are none.
        predicted_ids: (texts,) the decided classes; None likewise.
        targets: (texts, labels) 0, 1, shares or numbers; None where labels are classes.
        has_label, decided: (texts, labels) booleans, of texts that have any number of labels.
        texts, pairs: as they were read; None where not kept.
    """

    rows: np.ndarray
    scores: np.ndarray
    label_ids: np.ndarray | None = None
    predicted_ids: np.ndarray | None = None
    targets: np.ndarray | None = None
    has_label: np.ndarray | None = None
    decided: np.ndarray | None = None
    texts: pa.ChunkedArray | None = None
    pairs: pa.ChunkedArray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def lengths(self) -> np.ndarray | None:
        """(texts,) in characters, both texts of a pair together; None where texts are not kept."""
        if self.texts is None:
            return None
        lengths = _lengths(self.texts)
        return lengths if self.pairs is None else lengths + _lengths(self.pairs)


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
    kind = _KINDS.get(str(result.get("task", "")), "classes")
    labels = tuple(str(label) for label in result.get("labels", ()))
    split = held_out_split(run.metrics)
    problems: list[str] = []
    predictions = trace = memory = None
    if run.finished and labels:
        try:
            predictions = _predictions(run, kind, labels)
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


def _predictions(run: Run, kind: LabelKind, labels: tuple[str, ...]) -> Predictions | None:
    """The run's predictions; None where it has none.

    Raises:
        RunError: the file is damaged.
    """
    table = read_predictions(run, lambda name: True)
    if table is None or not len(table):
        return None
    path = run.path / PREDICTIONS
    try:
        scores = _numbers(table, [f"score_{label}" for label in labels])
        if scores is None:
            raise RunError(f"{path}: holds no scores of {', '.join(labels)}; the file is damaged")
        texts, pairs = (_texts(table, name) for name in ("text", "pair"))
        rows = table.column("row").cast(pa.int64()).to_numpy() if "row" in table.column_names else np.arange(len(table))
        found = Predictions(rows, scores, texts=texts, pairs=pairs)
        return _with_labels(found, table, kind, labels, run.settings.get("label_threshold"))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise RunError(f"{path}: {str(error).splitlines()[0]}; the file is damaged") from None


def _with_labels(
    found: Predictions, table: pa.Table, kind: LabelKind, labels: tuple[str, ...], label_threshold: Any
) -> Predictions:
    targets = _numbers(table, [f"label_{label}" for label in labels]) if kind != "classes" else None
    found = replace(found, targets=targets)
    if kind in ("classes", "soft"):
        ids, predicted_ids = (_ids(table, name, labels) for name in ("label", "predicted"))
        return replace(found, label_ids=ids, predicted_ids=predicted_ids)
    if kind == "multi-label" and targets is not None:
        threshold = label_threshold if is_finite(label_threshold) else 0.5
        return replace(found, has_label=targets >= threshold, decided=_decided(table, labels, found.scores))
    return found


def _numbers(table: pa.Table, names: list[str]) -> np.ndarray | None:
    """(rows, names) float64; None where one of the columns is missing, ValueError where one holds no finite numbers."""
    if any(name not in table.column_names for name in names):
        return None
    columns = [table.column(name).cast(pa.float64()).fill_null(float("nan")).to_numpy() for name in names]
    numbers = np.column_stack(columns)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{names[0]} or a column like it holds what is no number")
    return numbers


def _ids(table: pa.Table, name: str, labels: tuple[str, ...]) -> np.ndarray | None:
    """(rows,) the places of a column's names among ``labels``; None where there is no such column."""
    if name not in table.column_names:
        return None
    ids = pc.index_in(table.column(name).cast(pa.string()), value_set=pa.array(labels, pa.string()))
    if ids.null_count:
        raise ValueError(f"{name} holds what is none of {', '.join(labels)}")
    return ids.to_numpy().astype(np.int64)


def _decided(table: pa.Table, labels: tuple[str, ...], scores: np.ndarray) -> np.ndarray:
    """(rows, labels) booleans, from the lists of names in the column of decisions."""
    decided = np.zeros(scores.shape, bool)
    if "predicted" not in table.column_names:
        return scores >= 0.5
    column = table.column("predicted").combine_chunks()
    counts = pc.list_value_length(column).fill_null(0).to_numpy()
    ids = pc.index_in(pc.list_flatten(column), value_set=pa.array(labels, pa.string()))
    if ids.null_count:
        raise ValueError(f"predicted holds what is none of {', '.join(labels)}")
    decided[np.repeat(np.arange(len(scores)), counts), ids.to_numpy()] = True
    return decided


def _texts(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    if name not in table.column_names:
        return None
    column = table.column(name)
    return column if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) else None


def _lengths(texts: pa.ChunkedArray) -> np.ndarray:
    return pc.utf8_length(texts).fill_null(0).to_numpy().astype(np.int64)


def is_finite(value: Any) -> bool:
    """Whether ``value`` is a finite number, not a truth value: a damaged record may hold anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


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
