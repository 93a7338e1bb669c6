"""From scores and labels to a record: metrics, extremes, the file of predictions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.data.columns import LabelledTexts
from bertwright.evaluation.extremes import extremes_record
from bertwright.evaluation.metrics import classification_metrics, decide, positive_score
from bertwright.progress import Reporter

_ROWS_PER_GROUP = 65_536


def judge(texts: LabelledTexts, probabilities: np.ndarray, threshold: float) -> dict[str, Any]:
    """The metrics of ``probabilities`` (texts, labels) for texts with labels."""
    assert texts.label_ids is not None
    return classification_metrics(texts.label_ids, probabilities, texts.labels, threshold)


def say_notes(texts: LabelledTexts, reporter: Reporter) -> None:
    """Tell what reading found, and how many rows were skipped."""
    for note in texts.notes:
        reporter.say(note)
    if texts.bad_rows:
        reporter.say(f"bad rows skipped: {len(texts.bad_rows):,}, the first: {texts.bad_rows[0]}")


def extremes_of(
    texts: LabelledTexts, probabilities: np.ndarray, labels: Sequence[str], k: int, with_texts: bool
) -> dict[str, Any]:
    """The ``k`` highest and lowest scored texts: ``extremes`` of result.json. Without texts, ``text`` is None."""
    names = None if texts.label_ids is None else np.array(labels, dtype=object)[texts.label_ids]
    scores = positive_score(probabilities, labels)
    record = extremes_record(lambda i: texts.texts[i], scores, texts.rows, names, k)
    if not with_texts:
        for entry in (*record["highest"], *record["lowest"]):
            entry["text"] = None
    return record


def prediction_tables(
    texts: LabelledTexts, probabilities: np.ndarray, labels: Sequence[str], threshold: float, with_texts: bool
) -> Iterator[pa.Table]:
    """The scored texts as tables of up to 65,536 rows, so that no more than these are ever held twice.

    Columns: row, text_sha256, label (where there are labels), predicted, score_<label> for each, text if asked for.
    """
    decided = decide(probabilities, threshold)
    names = pa.array(list(labels), pa.string())
    for start in range(0, max(len(texts), 1), _ROWS_PER_GROUP):
        chosen = slice(start, start + _ROWS_PER_GROUP)
        strings = texts.texts[chosen]
        columns: dict[str, Any] = {
            "row": pa.array(texts.rows[chosen], pa.int64()),
            "text_sha256": pa.array([_sha256(text) for text in strings.to_pylist()], pa.string()),
        }
        if texts.label_ids is not None:
            columns["label"] = names.take(pa.array(texts.label_ids[chosen]))
        columns["predicted"] = names.take(pa.array(decided[chosen]))
        for i, label in enumerate(labels):
            columns[f"score_{label}"] = pa.array(probabilities[chosen, i], pa.float64())
        if with_texts:
            columns["text"] = strings
        yield pa.table(columns)


def write_predictions(path: Path, tables: Iterator[pa.Table]) -> None:
    """Write ``prediction_tables`` as parquet, beside ``path`` first."""
    partial = path.with_name(path.name + ".partial")
    first = next(tables)
    with pq.ParquetWriter(partial, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))
    os.replace(partial, path)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
