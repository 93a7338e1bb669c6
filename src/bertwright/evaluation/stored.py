"""What a finished run keeps in predictions.parquet: the one reader of it. Torch is never imported here."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertwright.config.parts import LabelKind
from bertwright.errors import RunError, UserError
from bertwright.evaluation.judge import KINDS
from bertwright.evaluation.resampling import Judged
from bertwright.runs import PREDICTIONS, Run

_GROUP = "group_"


@dataclass(frozen=True, eq=False)
class Predictions:
    """The scored texts of a run, in the order of its file.

    Attributes:
        kind: of the labels.
        labels: their names, in the order of the scores.
        rows: (texts,) int64, where each stands in its source.
        scores: (texts, labels) float64.
        label_ids: (texts,) the true classes; None where there are none.
        predicted_ids: (texts,) the decided classes; None likewise.
        targets: (texts, labels) 0, 1, shares or numbers; None where labels are classes.
        has_label, decided: (texts, labels) booleans, of texts that have any number of labels.
        texts, pairs: as they were read; None where not kept, or not asked for.
        groups: the columns of groups that were kept, by name.
    """

    kind: LabelKind
    labels: tuple[str, ...]
    rows: np.ndarray
    scores: np.ndarray
    label_ids: np.ndarray | None = None
    predicted_ids: np.ndarray | None = None
    targets: np.ndarray | None = None
    has_label: np.ndarray | None = None
    decided: np.ndarray | None = None
    texts: pa.ChunkedArray | None = None
    pairs: pa.ChunkedArray | None = None
    groups: dict[str, pa.ChunkedArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def lengths(self) -> np.ndarray | None:
        """(texts,) in characters, both texts of a pair together; None where texts are not kept."""
        if self.texts is None:
            return None
        lengths = _lengths(self.texts)
        return lengths if self.pairs is None else lengths + _lengths(self.pairs)

    @functools.cached_property
    def judged(self) -> Judged | None:
        """The scores as those of one model; None where it is not known what is true or decided of the texts."""
        scores = self.scores[None]
        if self.kind == "regression":
            return None if self.targets is None else Judged(self.kind, self.labels, scores, targets=self.targets)
        if self.kind == "multi-label":
            if self.has_label is None or self.decided is None:
                return None
            return Judged(self.kind, self.labels, scores, self.decided[None], None, self.targets, self.has_label)
        if self.label_ids is None or self.predicted_ids is None or (self.kind == "soft" and self.targets is None):
            return None
        return Judged(self.kind, self.labels, scores, self.predicted_ids[None], self.label_ids, self.targets)

    def scores_in_order(self, order: np.ndarray) -> Predictions:
        """Those of the texts at the places ``order``, without the texts themselves and their groups."""
        arrays = ("rows", "scores", "label_ids", "predicted_ids", "targets", "has_label", "decided")
        values = {name: value[order] for name in arrays if (value := getattr(self, name)) is not None}
        return replace(self, **values, texts=None, pairs=None, groups={})


def read_columns(run: Run, wanted: Callable[[str], bool], name: str = PREDICTIONS) -> pa.Table | None:
    """Of the run's file of predictions the columns whose names are ``wanted``, text_sha256 among them; None where the
    run has no such file.

    Raises:
        RunError: the file is damaged.
    """
    path = run.path / name
    if not path.is_file():
        return None
    try:
        file = pq.ParquetFile(path.absolute())  # pyarrow would take a "~" for the user's home
        table = file.read(columns=[column for column in file.schema_arrow.names if wanted(column)])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({_first_line(error)}); the file is damaged") from None
    if "text_sha256" not in table.column_names:
        raise RunError(f"{path}: holds no text_sha256; the file is damaged")
    return table


def predictions_in(table: pa.Table, run: Run) -> Predictions:
    """What the columns of ``run`` say that were read to ``table``.

    Raises:
        ValueError: there are no scores of the labels of the run, or columns hold what cannot be used.
    """
    result = run.result or {}
    labels = tuple(str(label) for label in result.get("labels") or ())
    kind = KINDS.get(str(result.get("task")), "classes")
    try:
        return _predictions_in(table, kind, labels, run.settings.get("label_threshold"))
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise ValueError(_first_line(error)) from None


def read_predictions(run: Run, name: str = PREDICTIONS) -> Predictions | None:
    """All that the run's file of predictions holds; None where there is no such file, or no text in it.

    Raises:
        RunError: the file is damaged.
    """
    table = read_columns(run, lambda column: True, name)
    if table is None or not len(table):
        return None
    try:
        return predictions_in(table, run)
    except ValueError as error:
        raise RunError(f"{run.path / name}: {_first_line(error)}; the file is damaged") from None


def _predictions_in(table: pa.Table, kind: LabelKind, labels: tuple[str, ...], label_threshold: Any) -> Predictions:
    scores = _numbers(table, [f"score_{label}" for label in labels])
    if scores is None:
        raise ValueError(f"holds no scores of {', '.join(labels) or 'any label'}")
    rows = table.column("row").cast(pa.int64()).to_numpy() if "row" in table.column_names else np.arange(len(table))
    texts, pairs = (_texts(table, name) for name in ("text", "pair"))
    groups = {name.removeprefix(_GROUP): table[name] for name in table.column_names if name.startswith(_GROUP)}
    targets = _numbers(table, [f"label_{label}" for label in labels]) if kind != "classes" else None
    found = Predictions(kind, labels, rows, scores, targets=targets, texts=texts, pairs=pairs, groups=groups)
    if kind in ("classes", "soft"):
        label_ids, predicted_ids = (_ids(table, name, labels) for name in ("label", "predicted"))
        return replace(found, label_ids=label_ids, predicted_ids=predicted_ids)
    if kind == "multi-label" and targets is not None:
        is_set = isinstance(label_threshold, int | float) and math.isfinite(label_threshold) and label_threshold > 0
        return replace(
            found, has_label=targets >= (label_threshold if is_set else 0.5), decided=_decided(table, labels)
        )
    return found


def _numbers(table: pa.Table, names: Sequence[str]) -> np.ndarray | None:
    """(texts, names) float64; None where a column is missing, ValueError where one holds no finite numbers."""
    if not names or any(name not in table.column_names for name in names):
        return None
    columns = [table.column(name).cast(pa.float64()).fill_null(float("nan")).to_numpy() for name in names]
    numbers = np.column_stack(columns)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{names[0]} or a column like it holds what is no number")
    return numbers


def _ids(table: pa.Table, name: str, labels: tuple[str, ...]) -> np.ndarray | None:
    """(texts,) the places of a column's names among ``labels``; None where there is no such column."""
    if name not in table.column_names:
        return None
    return _places_of(name, table.column(name).cast(pa.string()), labels)


def _decided(table: pa.Table, labels: tuple[str, ...]) -> np.ndarray | None:
    """(texts, labels) booleans, from the lists of names in the column of decisions; None where there is none."""
    if "predicted" not in table.column_names:
        return None
    lists = table.column("predicted").combine_chunks()
    if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
        raise ValueError("predicted holds no lists of labels")
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    found = np.zeros((len(lists), len(labels)), bool)
    found[np.repeat(np.arange(len(lists)), lengths), _places_of("predicted", pc.list_flatten(lists), labels)] = True
    return found


def _places_of(name: str, column: pa.ChunkedArray | pa.Array, labels: tuple[str, ...]) -> np.ndarray:
    found = pc.index_in(column, value_set=pa.array(labels, pa.string()))
    if found.null_count:
        raise ValueError(f"{name} holds what is none of {', '.join(labels)}")
    return found.to_numpy().astype(np.int64)


def _texts(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    if name not in table.column_names:
        return None
    column = table.column(name)
    return column if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) else None


def _lengths(texts: pa.ChunkedArray) -> np.ndarray:
    return pc.utf8_length(texts).fill_null(0).to_numpy().astype(np.int64)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class StoredScores:
    """Texts of a run with their labels and scores.

    Attributes:
        rows: where each text stands in its file (texts,).
        texts: (texts,); None where the run kept none.
        has_labels: which labels each text has, bool (texts, labels).
        scores: (texts, labels) float64.
        groups: the columns of groups that were kept, by name.
    """

    kind: LabelKind
    labels: tuple[str, ...]
    rows: np.ndarray
    texts: list[str] | None
    has_labels: np.ndarray
    scores: np.ndarray
    groups: dict[str, pa.ChunkedArray]


def stored_scores(run: Run, name: str = PREDICTIONS) -> StoredScores:
    """What is in the run's predictions.parquet, of a classifier.

    Raises:
        RunError: the run has not finished, or has no such file, or a damaged one.
        UserError: it is a regression.
    """
    if run.result is None:
        raise RunError(f"{run.path} has no result.json: it is still going, was stopped or failed; finish it first")
    path = run.path / name
    kind = KINDS.get(str(run.result.get("task")))
    if kind is None:
        raise RunError(f"{run.path}: its result.json holds no task; the file is damaged")
    if kind == "regression":
        raise UserError(f"{run.path}: found a regression, expected a classifier")
    if not path.is_file():
        raise RunError(f"{path}: no such file: the run kept no scores of held-out texts. Name files of labelled texts")
    found = read_predictions(run, name)
    if found is None:
        raise RunError(f"{path}: holds no texts; the file is damaged")
    has_labels = found.has_label
    if found.label_ids is not None:
        has_labels = found.label_ids[:, None] == np.arange(len(found.labels))
    if has_labels is None:
        raise RunError(f"{path}: holds no labels of the texts; the file is damaged")
    texts = None if found.texts is None else found.texts.to_pylist()
    return StoredScores(kind, found.labels, found.rows, texts, has_labels, found.scores, found.groups)
