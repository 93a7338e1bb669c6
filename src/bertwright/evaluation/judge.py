"""From scores and labels to a record: metrics, extremes, the file of predictions."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.config.parts import DataSettings, LabelKind
from bertwright.data.columns import LabelledTexts, read_labelled
from bertwright.errors import DataError
from bertwright.evaluation.extremes import extremes_record
from bertwright.evaluation.metrics import (
    NEEDS_DIFFERENT_LABELS,
    Threshold,
    check_metric_name,
    classification_metrics,
    decide,
    decide_each,
    default_metric,
    multilabel_metrics,
    positive_score,
    regression_metrics,
    soft_metrics,
)
from bertwright.evaluation.resampling import Judged
from bertwright.evaluation.scores import has_labels
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.progress import Reporter
from bertwright.runs import written_beside

_ROWS_PER_GROUP = 65_536

TASKS: dict[LabelKind, str] = {
    "classes": "single_label",
    "multi-label": "multi_label",
    "soft": "soft_label",
    "regression": "regression",
}
"""The ``task`` of result.json, by the kind of labels."""

KINDS = {task: kind for kind, task in TASKS.items()}
"""The kind of labels, by ``task`` of result.json."""


def judge(texts: LabelledTexts, scores: np.ndarray, threshold: Threshold) -> dict[str, Any]:
    """The metrics of ``scores`` (texts, labels) for texts with labels, those of their kind.

    Args:
        threshold: the least probability at which the last of two classes, or one of any number of labels, is decided
            for; of these there may be one for each.
    """
    if texts.kind == "classes":
        assert texts.label_ids is not None
        return classification_metrics(texts.label_ids, scores, texts.labels, threshold)
    assert texts.targets is not None
    if texts.kind == "regression":
        return regression_metrics(texts.targets[:, 0], scores[:, 0])
    if texts.kind == "soft":
        assert texts.label_ids is not None
        return soft_metrics(texts.label_ids, texts.targets, scores, texts.labels, threshold)
    return multilabel_metrics(texts.targets, scores, texts.labels, threshold, texts.hard_targets)


def judged_of(texts: LabelledTexts, settings: ClassifierSettings, scores: np.ndarray) -> Judged:
    """The ``scores`` (models, texts, labels) of models that decide by ``settings``, beside what is true.

    ``texts`` have labels.
    """
    kind: LabelKind = settings.kind
    if kind == "regression":
        return Judged(kind, settings.labels, scores, targets=texts.targets)
    if kind == "multi-label":
        decided = decide_each(scores, settings.threshold)
        return Judged(kind, settings.labels, scores, decided, None, texts.targets, has_labels(texts))
    decided = np.stack([decide(model, settings.threshold) for model in scores])
    return Judged(kind, settings.labels, scores, decided, texts.label_ids, texts.targets)


def metric_to_choose_by(validation: LabelledTexts, asked: str | None) -> tuple[str, str | None]:
    """The metric by which the best state of a training is told on ``validation``, and what the user must be told of it.

    It is the one ``asked`` for, or else the one of the kind of labels; and if that has no answer on these texts, one
    that has.

    Raises:
        UserError: ``asked`` is no metric of this kind of labels.
        DataError: ``asked`` has no answer on these texts.
    """
    kind = validation.kind
    if asked is not None:
        check_metric_name(asked, kind)
    metric = asked or default_metric(kind, len(validation.labels))
    if metric not in NEEDS_DIFFERENT_LABELS or _labels_differ(validation):
        return metric, None
    found = {
        "multi-label": "labels that some but not all of them have; found none",
        "regression": "different numbers; found one only",
    }.get(kind, "two classes; found one class only")
    if asked is not None:
        raise DataError(f"--best-metric {metric} needs validation texts of {found}")
    what = "are of one class only" if kind != "multi-label" else "have no label that some but not all of them have"
    return "log_loss", f"the validation texts {what}: states are chosen by log_loss, not by {metric}"


def _labels_differ(texts: LabelledTexts) -> bool:
    """Whether not all texts have the same class, the same labels or the same number."""
    if texts.label_ids is not None and texts.kind in ("classes", "soft"):
        return len(np.unique(texts.label_ids)) > 1
    assert texts.targets is not None
    if texts.kind == "regression":
        return len(np.unique(texts.targets)) > 1
    has_label = has_labels(texts)
    return bool((has_label.any(axis=0) & ~has_label.all(axis=0)).any())


def read_as_trained(
    files: str | Sequence[str], how: DataSettings, trained: ClassifierSettings, reporter: Reporter
) -> LabelledTexts:
    """Labelled texts for a classifier with the settings ``trained``: its labels, of its kind; notes on them are said.

    Raises:
        DataError: a file cannot be read, or holds labels that the classifier has not.
    """
    texts = read_labelled(
        files, how, trained.labels, kind=trained.kind, threshold=trained.label_threshold, hard=trained.hard_labels
    )
    say_notes(texts, reporter)
    return texts


def say_notes(texts: LabelledTexts, reporter: Reporter) -> None:
    """Tell what reading found, and how many rows were skipped."""
    for note in texts.notes:
        reporter.say(note)
    if texts.bad_rows:
        reporter.say(f"bad rows skipped: {len(texts.bad_rows):,}, the first: {texts.bad_rows[0]}")


def extremes_of(
    texts: LabelledTexts, scores: np.ndarray, labels: Sequence[str], k: int, with_texts: bool
) -> dict[str, Any]:
    """The ``k`` highest and lowest scored texts: ``extremes`` of result.json. Without texts, ``text`` is None.

    The score is ``metrics.positive_score``. ``label`` is the class; where a text may have any number of labels, theirs
    with "|" between; of a regression, the number. Of texts in pairs, ``pair`` is the second.
    """
    pairs = texts.pairs
    record = extremes_record(
        lambda i: _text_at(texts.texts, i),
        positive_score(scores, labels, texts.kind),
        texts.rows,
        _label_names(texts, labels),
        k,
        pairs_of=None if pairs is None else lambda i: _text_at(pairs, i),
    )
    if not with_texts:
        for entry in (*record["highest"], *record["lowest"]):
            entry["text"] = None
            if "pair" in entry:
                entry["pair"] = None
    return record


def _text_at(column: Any, index: int) -> str:
    """A string of an Arrow array, or of any sequence of strings."""
    value = column[index]
    return value if isinstance(value, str) else str(value.as_py())


class _LabelNames(Sequence[str]):
    """The labels of texts in words, made when asked for."""

    def __init__(self, num_texts: int, name_of: Callable[[int], str]) -> None:
        self._num_texts, self._name_of = num_texts, name_of

    def __len__(self) -> int:
        return self._num_texts

    def __getitem__(self, index: Any) -> Any:
        return self._name_of(index)


def _label_names(texts: LabelledTexts, labels: Sequence[str]) -> Sequence[str] | None:
    """The true label of each text in words; None where there are none."""
    ids, targets = texts.label_ids, texts.targets
    if texts.kind in ("classes", "soft"):
        return None if ids is None else _LabelNames(len(texts), lambda i: labels[ids[i]])
    if targets is None:
        return None
    if texts.kind == "regression":
        return _LabelNames(len(texts), lambda i: str(targets[i, 0]))
    has_label = has_labels(texts)
    return _LabelNames(len(texts), lambda i: "|".join(itertools.compress(labels, has_label[i])))


def prediction_tables(
    texts: LabelledTexts,
    scores: np.ndarray,
    labels: Sequence[str],
    threshold: Threshold,
    with_texts: bool,
    kind: LabelKind | None = None,
) -> Iterator[pa.Table]:
    """The scored texts as tables of up to 65,536 rows, so that no more than these are ever held twice.

    Columns: row, text_sha256 (of the text or, of texts in pairs, of both with a NUL between), label (the class, where
    there are classes), label_<label> (the number or the share of each, where labels are such), predicted, score_<label>
    for each, group_<name> for each group and, if asked for, text and pair. ``predicted`` is the class, a list of labels
    where there may be any number, or the number.

    Args:
        kind: of the labels that were scored; that of ``texts`` if not given.
    """
    kind = kind or texts.kind
    names = pa.array(list(labels), pa.string())
    for start in range(0, max(len(texts), 1), _ROWS_PER_GROUP):
        chosen = slice(start, start + _ROWS_PER_GROUP)
        strings = texts.texts[chosen]
        pairs = None if texts.pairs is None else texts.pairs[chosen]
        columns: dict[str, Any] = {
            "row": pa.array(texts.rows[chosen], pa.int64()),
            "text_sha256": pa.array(_hashes(strings, pairs), pa.string()),
        }
        if texts.label_ids is not None and kind in ("classes", "soft"):
            columns["label"] = names.take(pa.array(texts.label_ids[chosen]))
        if texts.targets is not None:
            for i, label in enumerate(labels):
                columns[f"label_{label}"] = pa.array(texts.targets[chosen, i])
        columns["predicted"] = _predicted(scores[chosen], names, threshold, kind)
        for i, label in enumerate(labels):
            columns[f"score_{label}"] = pa.array(scores[chosen, i], pa.float64())
        for name, column in texts.groups.items():
            columns[f"group_{name}"] = column[chosen]
        if with_texts:
            columns["text"] = strings
            if pairs is not None:
                columns["pair"] = pairs
        yield pa.table(columns)


def _predicted(scores: np.ndarray, names: pa.Array, threshold: Threshold, kind: LabelKind) -> pa.Array:
    """What is decided for each text by ``scores`` (texts, labels)."""
    if kind == "regression":
        return pa.array(scores[:, 0], pa.float64())
    if kind != "multi-label":
        return names.take(pa.array(decide(scores, threshold)))
    chosen = decide_each(scores, threshold)
    ends = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), names.take(pa.array(np.nonzero(chosen)[1])))


def write_predictions(path: Path, tables: Iterator[pa.Table]) -> None:
    """Write ``prediction_tables`` as parquet, beside ``path`` first."""
    first = next(tables)
    with written_beside(path) as partial, pq.ParquetWriter(partial, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))


def _hashes(texts: pa.ChunkedArray, pairs: pa.ChunkedArray | None) -> list[str]:
    strings = texts.to_pylist()
    if pairs is not None:
        strings = [f"{text}\0{pair}" for text, pair in zip(strings, pairs.to_pylist(), strict=True)]
    return [hashlib.sha256(string.encode("utf-8")).hexdigest() for string in strings]
