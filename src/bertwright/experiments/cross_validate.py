"""Scores of texts by models that did not learn from them: cross-validation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.config.base import build
from bertwright.config.inspect import InspectConfig
from bertwright.config.train import TrainConfig
from bertwright.data.columns import LabelledTexts, read_labelled
from bertwright.errors import DataError, UserError
from bertwright.evaluation.judge import say_notes
from bertwright.evaluation.scores import has_labels, targets_of
from bertwright.evaluation.stored import StoredScores, stored_scores
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed
from bertwright.training.train import run_training

_TEXT, _PAIR, _LABEL = "text", "second text", "label"


def cross_validated(config: InspectConfig, reporter: Reporter) -> StoredScores:
    """The texts in ``config.data`` with held-out scores: each by a model that learnt from the other folds.

    Raises:
        UserError: the texts have numbers, or a class has fewer texts than there are folds.
    """
    assert config.folds is not None
    texts = read_labelled(config.data, config)
    say_notes(texts, reporter)
    if texts.kind == "regression":
        raise UserError("--folds: found numbers to predict, expected classes: numbers have no classes to be wrong in")
    folds = fold_of(texts, config.folds, config.seed)
    scores = np.zeros((len(texts), len(texts.labels)))
    with reporter.progress("Folds", len(texts)) as advance, tempfile.TemporaryDirectory() as folder:
        for number in range(config.folds):
            held = np.flatnonzero(folds == number)
            place = Path(folder)
            _write(place / "held.parquet", texts.take(held))
            _write(place / "learnt.parquet", texts.take(np.flatnonzero(folds != number)))
            run = run_training(_training(config, texts, place, number), Reporter(quiet=True, results=False))
            scores[held] = stored_scores(run).scores
            advance(len(held))
    strings = list(texts.texts)
    return StoredScores(texts.kind, texts.labels, texts.rows, strings, has_labels(texts), scores, texts.groups)


def fold_of(texts: LabelledTexts, num_folds: int, seed: int) -> np.ndarray:
    """(texts,) int64: the fold of each text, drawn so that each has its share of every class.

    Raises:
        DataError: a class has fewer texts than there are folds.
    """
    strata = np.zeros(len(texts), np.int64) if texts.label_ids is None else texts.label_ids
    generator = np.random.default_rng(purpose_seed(seed, "folds"))
    folds = np.zeros(len(texts), np.int64)
    dealt = 0
    for label in np.unique(strata):
        rows = generator.permutation(np.flatnonzero(strata == label))
        if len(rows) < num_folds:
            what = "texts" if texts.label_ids is None else f"texts of class {texts.labels[label]!r}"
            raise DataError(f"--folds {num_folds}: found {len(rows):,} {what}, expected one for each fold at least")
        folds[rows] = (dealt + np.arange(len(rows))) % num_folds
        dealt += len(rows)
    return folds


def _write(path: Path, texts: LabelledTexts) -> None:
    """Texts and labels as a file that is read to the same labels again."""
    columns = {_TEXT: texts.texts.to_arrow()}
    if texts.pairs is not None:
        columns[_PAIR] = texts.pairs.to_arrow()
    if texts.kind == "classes":
        assert texts.label_ids is not None
        columns[_LABEL] = pa.array([texts.labels[label] for label in texts.label_ids.tolist()])
    else:
        targets = targets_of(texts)
        columns |= {_column(label): pa.array(targets[:, i]) for i, label in enumerate(texts.labels)}
    pq.write_table(pa.table(columns), path)


def _column(label: str) -> str:
    """The column of a label: no label is taken for the texts."""
    return f"is {label}"


def _training(config: InspectConfig, texts: LabelledTexts, folder: Path, number: int) -> TrainConfig:
    names = [_column(label) for label in texts.labels] if texts.kind != "classes" else [_LABEL]
    values = {
        "train": folder / "learnt.parquet",
        "test": folder / "held.parquet",
        "output": folder / f"fold-{number}",
        "text_column": _TEXT,
        "pair_column": None if texts.pairs is None else _PAIR,
        "label_column": names,
        "label_kind": texts.kind,
        "positive_label": texts.labels[-1] if texts.kind == "classes" and len(texts.labels) == 2 else None,
        "num_extremes": 0,
        "texts": False,
        **{name: getattr(config, name) for name in ("model", "epochs", "max_length", "seed", "device")},
        **{name: getattr(config, name) for name in ("token_budget", "compile")},
        "dtype": "auto" if config.dtype == "int8" else config.dtype,
    }
    return build(TrainConfig, {name: value for name, value in values.items() if value is not None})
