"""The scores that a finished run keeps beside its texts. Torch is never imported here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.config import LabelKind
from bertwright.errors import RunError, UserError
from bertwright.evaluation.judge import TASKS
from bertwright.runs import PREDICTIONS, Run


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
    """What is in the run's predictions.parquet.

    Raises:
        RunError: the run has not finished, or has no such file, or a damaged one.
        UserError: it is a regression.
    """
    if run.result is None:
        raise RunError(f"{run.path} has no result.json: it is still going, was stopped or failed; finish it first")
    path = run.path / name
    kind = next((kind for kind, task in TASKS.items() if task == run.result.get("task")), None)
    if kind is None:
        raise RunError(f"{run.path}: its result.json holds no task; the file is damaged")
    if kind == "regression":
        raise UserError(f"{run.path}: found a regression, expected a classifier")
    if not path.is_file():
        raise RunError(f"{path}: no such file: the run kept no scores of held-out texts. Name files of labelled texts")
    labels = tuple(map(str, run.result["labels"]))
    try:
        table = pq.ParquetFile(path.absolute()).read()
        scores = np.stack([np.asarray(table[f"score_{label}"], np.float64) for label in labels], axis=1)
        if kind == "multi-label":
            least = run.settings.get("label_threshold") or 0.5
            truth = np.stack([np.asarray(table[f"label_{label}"]) >= least for label in labels], axis=1)
        else:
            places = {label: place for place, label in enumerate(labels)}
            ids = np.array([places[name] for name in table["label"].to_pylist()], np.int64)
            truth = ids[:, None] == np.arange(len(labels))
        rows = np.asarray(table["row"], np.int64)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[:1]
        raise RunError(f"{path}: cannot be read ({first[0] if first else error}); the file is damaged") from None
    if not np.isfinite(scores).all():
        raise RunError(f"{path}: holds scores that are no numbers; the file is damaged")
    prefix = "group_"
    groups = {name.removeprefix(prefix): table[name] for name in table.column_names if name.startswith(prefix)}
    texts = table["text"].to_pylist() if "text" in table.column_names else None
    return StoredScores(kind, labels, rows, texts, truth, scores, groups)
