"""The paired bootstrap: metrics of many models on the same resamples of the texts (Efron and Tibshirani 1993, ch. 6).

A resample draws as many texts as there are, each with the same chance, with replacement; all models are judged on the
same draw, so that differences between them are paired. Nothing is copied: a resample is a count for each text, and a
metric is computed from counts.

- What depends on decisions alone (accuracy, F1, Matthews) is computed from the few different combinations of label and
  decisions, whose counts are multinomial: 500,000 texts cost no more than 500.
- Means over texts (log loss, absolute error) are products of counts and contributions.
- What depends on the order of scores (ROC AUC, average precision, Spearman) is computed from running sums of counts in
  that order; texts of equal scores count as one step, as in scikit-learn.

Metrics are those of ``metrics.py``, definition by definition; ``point_metrics`` gives them with every count 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bertwright.config import LabelKind
from bertwright.evaluation.metrics import LOWER_IS_BETTER, METRIC_NAMES_OF

Values = dict[str, np.ndarray]
"""Metrics by their names, each (resamples, models) float64; NaN where a resample has no answer."""

# Larger arrays than the caches hold, and fresh from the system each time, take three times as long.
_ELEMENTS_AT_ONCE = 1 << 17


@dataclass(frozen=True, eq=False)
class Judged:
    """The scores of several models for the same texts, in one order, and what is true of the texts.

    Attributes:
        kind: of the labels.
        labels: their names, in the order of the scores.
        scores: (models, texts, labels) float64; of a regression (models, texts, 1), the numbers.
        decided: of classes (models, texts) int, of several labels (models, texts, labels) bool; None for numbers.
        label_ids: the true classes (texts,); None where there are none.
        targets: shares, numbers or 0 and 1, (texts, labels) float64; None for classes.
        has_label: of several labels, which ones a text has, (texts, labels) bool.
    """

    kind: LabelKind
    labels: tuple[str, ...]
    scores: np.ndarray
    decided: np.ndarray | None = None
    label_ids: np.ndarray | None = None
    targets: np.ndarray | None = None
    has_label: np.ndarray | None = None

    @property
    def num_models(self) -> int:
        return self.scores.shape[0]

    @property
    def num_texts(self) -> int:
        return self.scores.shape[1]

    @cached_property
    def ranked(self) -> list[tuple[np.ndarray, int]]:
        """For each label that ROC AUC and average precision are of: which texts have it, and its column."""
        if self.kind == "regression":
            return []
        if self.kind == "multi-label":
            assert self.has_label is not None
            return [(self.has_label[:, i], i) for i in range(len(self.labels))]
        assert self.label_ids is not None
        columns = [1] if len(self.labels) == 2 else range(len(self.labels))
        return [(self.label_ids == i, i) for i in columns]

    @property
    def metric_names(self) -> tuple[str, ...]:
        return METRIC_NAMES_OF[self.kind]


def point_metrics(judged: Judged, names: Sequence[str]) -> Values:
    """The metrics ``names`` of the texts themselves, each (1, models)."""
    found: Values = {}
    for family in _families(judged, names):
        found.update(family.values(family.ones()))
    return {name: found[name] for name in names if name in found}


def bootstrap_metrics(judged: Judged, names: Sequence[str], num_samples: int, seed: int = 0) -> Values:
    """The metrics ``names`` of ``num_samples`` resamples of the texts, each (resamples, models).

    The same arguments give the same resamples on every machine with the same NumPy.
    """
    found: Values = {}
    for number, family in enumerate(_families(judged, names)):
        random = np.random.default_rng([seed, number])
        parts = [family.values(weights) for weights in family.resamples(random, num_samples)]
        found.update({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return {name: found[name] for name in names if name in found}


def _families(judged: Judged, names: Sequence[str]) -> list[_Decisions | _Scores]:
    found: list[_Decisions | _Scores] = []
    of_decisions = [name for name in names if name in _DECISION_METRICS]
    of_scores = [name for name in names if name in _SCORE_METRICS]
    if of_decisions and judged.decided is not None:
        found.append(_Decisions(judged, of_decisions))
    if of_scores:
        found.append(_Scores(judged, of_scores))
    return found


def _blocks(num_samples: int, width: int) -> Iterator[int]:
    size = max(1, _ELEMENTS_AT_ONCE // max(width, 1))
    for start in range(0, num_samples, size):
        yield min(size, num_samples - start)


_DECISION_METRICS = (
    *("accuracy", "precision", "recall", "f1", "macro_f1", "matthews", "hamming_loss"),
    *("micro_precision", "micro_recall", "micro_f1", "macro_precision", "macro_recall"),
)


class _Decisions:
    """Metrics of decisions: each different combination of truth and decisions is a cell, with a number of texts."""

    def __init__(self, judged: Judged, names: Sequence[str]) -> None:
        self.names = names
        self.several = judged.kind == "multi-label"
        self.num_labels = len(judged.labels)
        truth = judged.has_label if self.several else judged.label_ids
        assert truth is not None
        assert judged.decided is not None
        columns = [truth, *judged.decided]
        if self.several:
            columns = [column[:, i] for column in columns for i in range(self.num_labels)]
        first, self.counts = _distinct(columns)
        self.truth = truth[first]  # (cells[, labels])
        self.decided = judged.decided[:, first]  # (models, cells[, labels])
        self.num_texts = judged.num_texts

    def ones(self) -> np.ndarray:
        return self.counts[None].astype(np.float64)

    def resamples(self, random: np.random.Generator, num_samples: int) -> Iterator[np.ndarray]:
        shares = self.counts / self.num_texts
        for size in _blocks(num_samples, len(shares)):
            yield random.multinomial(self.num_texts, shares, size=size).astype(np.float64)

    def values(self, weights: np.ndarray) -> Values:
        """Of ``weights`` (resamples, cells)."""
        of = self._of_labels if self.several else self._of_classes
        models = [of(weights, decided) for decided in self.decided]
        return {name: np.stack([model[name] for model in models], axis=1) for name in self.names}

    def _of_classes(self, weights: np.ndarray, decided: np.ndarray) -> Values:
        classes = np.arange(self.num_labels)
        is_true = (self.truth[:, None] == classes).astype(np.float64)  # (cells, classes)
        is_decided = (decided[:, None] == classes).astype(np.float64)
        supports, predictions = weights @ is_true, weights @ is_decided  # (resamples, classes)
        hits = weights @ (is_true * is_decided)
        precisions, recalls = _ratio(hits, predictions), _ratio(hits, supports)
        f1s = _ratio(2 * hits, predictions + supports)
        right = hits.sum(axis=1)
        two = self.num_labels == 2
        # Gorodkin (2004), eq. 8, from the sums of the confusion matrix; 0 where all predictions are the same.
        total = float(self.num_texts)
        covariance = right * total - (supports * predictions).sum(axis=1)
        spread = total**2 - (supports**2).sum(axis=1)
        spread_decided = total**2 - (predictions**2).sum(axis=1)
        matthews = _ratio(covariance, np.sqrt(spread * spread_decided))
        return {
            "accuracy": right / total,
            "precision": precisions[:, -1] if two else precisions.mean(axis=1),
            "recall": recalls[:, -1] if two else recalls.mean(axis=1),
            "f1": f1s[:, -1] if two else f1s.mean(axis=1),
            "macro_f1": f1s.mean(axis=1),
            "matthews": np.where(spread > 0, matthews, np.nan),
        }

    def _of_labels(self, weights: np.ndarray, decided: np.ndarray) -> Values:
        supports, predictions = weights @ self.truth.astype(np.float64), weights @ decided.astype(np.float64)
        hits = weights @ (self.truth & decided).astype(np.float64)  # (resamples, labels)
        all_hits, all_predictions, all_supports = (x.sum(axis=1) for x in (hits, predictions, supports))
        total = float(self.num_texts)
        return {
            "accuracy": weights @ (self.truth == decided).all(axis=1).astype(np.float64) / total,
            "micro_precision": _ratio(all_hits, all_predictions),
            "micro_recall": _ratio(all_hits, all_supports),
            "micro_f1": _ratio(2 * all_hits, all_predictions + all_supports),
            "macro_precision": _ratio(hits, predictions).mean(axis=1),
            "macro_recall": _ratio(hits, supports).mean(axis=1),
            "macro_f1": _ratio(2 * hits, predictions + supports).mean(axis=1),
            "hamming_loss": (all_supports + all_predictions - 2 * all_hits) / (total * self.num_labels),
        }


def _distinct(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``columns``, each (rows,) of integers or booleans: the first of each different one, and how many."""
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, codes = np.unique(codes * (int(column.max(initial=0)) + 1) + column, return_inverse=True)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return first, counts


def _ratio(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """``counts / of``, 0 where ``of`` is."""
    return np.divide(counts, of, out=np.zeros(np.shape(counts)), where=of > 0)


MEANS = ("log_loss", "soft_log_loss", "brier", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error")
_RANKS = ("roc_auc", "average_precision")
_CORRELATIONS = ("r2", "pearson", "spearman")
_SCORE_METRICS = (*MEANS, *_RANKS, *_CORRELATIONS)


class _Scores:
    """Metrics of scores: each text is for itself, with a count."""

    def __init__(self, judged: Judged, names: Sequence[str]) -> None:
        self.names, self.num_texts, self.num_models = names, judged.num_texts, judged.num_models
        self._means = {name: contributions(judged, name) for name in names if name in MEANS}
        self._ranked: list[list[_Ranking]] = []
        if any(name in _RANKS for name in names):
            self._ranked = [
                [_Ranking(has, judged.scores[model, :, column]) for has, column in judged.ranked]
                for model in range(judged.num_models)
            ]
        self._judged = judged
        self._rank_groups: list[_Groups] = []
        if "spearman" in names:
            assert judged.targets is not None
            self._rank_groups = [_Groups(judged.targets[:, 0]), *(_Groups(s[:, 0]) for s in judged.scores)]

    def ones(self) -> np.ndarray:
        return np.ones((1, self.num_texts), np.uint8)

    def resamples(self, random: np.random.Generator, num_samples: int) -> Iterator[np.ndarray]:
        for size in _blocks(num_samples, self.num_texts):
            drawn = random.integers(0, self.num_texts, size=(size, self.num_texts), dtype=np.int64)
            drawn += np.arange(size)[:, None] * self.num_texts
            counts = np.bincount(drawn.ravel(), minlength=size * self.num_texts)
            # A text is drawn more than 255 times once in 10^500 resamples. Bytes are quick to reorder.
            yield counts.reshape(size, self.num_texts).astype(np.uint8)

    def values(self, weights: np.ndarray) -> Values:
        """Of ``weights`` (resamples, texts)."""
        found: Values = {}
        for name, parts in self._means.items():
            mean = weights.astype(np.float64) @ parts / self.num_texts
            found[name] = np.sqrt(mean) if name == "root_mean_squared_error" else mean
        if self._ranked:
            pairs = [[ranking.values(weights, self.names) for ranking in model] for model in self._ranked]
            for name in _RANKS:
                if name in self.names:
                    each = np.array([[pair[name] for pair in model] for model in pairs])  # (models, labels, resamples)
                    found[name] = _mean_of_known(each).T
        if any(name in _CORRELATIONS for name in self.names):
            found.update(self._correlations(weights.astype(np.float64)))
        return {name: found[name] for name in self.names}

    def _correlations(self, weights: np.ndarray) -> Values:
        targets = self._judged.targets
        assert targets is not None
        true = targets[:, 0] - targets[:, 0].mean()
        scores = self._judged.scores[:, :, 0] - targets[:, 0].mean()
        found: Values = {}
        if "pearson" in self.names:
            found["pearson"] = np.stack([_pearson(weights, true, s - s.mean()) for s in scores], axis=1)
        if "r2" in self.names:
            mean = weights @ true / self.num_texts
            spread = weights @ true**2 / self.num_texts - mean**2
            errors = weights @ ((scores - true) ** 2).T / self.num_texts  # (resamples, models)
            varied = spread > 1e-12 * max(float((true**2).mean()), 1e-300)
            found["r2"] = np.where(varied[:, None], 1 - errors / np.where(varied, spread, 1)[:, None], np.nan)
        if self._rank_groups:
            ranks = [groups.ranks(weights) for groups in self._rank_groups]
            found["spearman"] = np.stack([_pearson(weights, ranks[0], other) for other in ranks[1:]], axis=1)
        return found


def contributions(judged: Judged, name: str) -> np.ndarray:
    """What each text adds to the mean that the metric ``name`` is (of the RMSE: to its square), (texts, models)."""
    scores = judged.scores
    if name in ("mean_squared_error", "root_mean_squared_error", "mean_absolute_error"):
        assert judged.targets is not None
        errors = scores[:, :, 0] - judged.targets[:, 0]
        return (abs(errors) if name == "mean_absolute_error" else errors**2).T
    epsilon = np.finfo(scores.dtype).eps
    clipped = scores.clip(epsilon, 1 - epsilon)
    if judged.kind == "multi-label":
        targets = judged.has_label if name == "log_loss" else judged.targets
        assert targets is not None
        return -(targets * np.log(clipped) + (1 - targets * 1.0) * np.log1p(-clipped)).mean(axis=2).T
    if name == "log_loss":
        assert judged.label_ids is not None
        return -np.log(clipped[:, np.arange(judged.num_texts), judged.label_ids]).T
    assert judged.targets is not None
    if name == "soft_log_loss":
        return -(judged.targets * np.log(clipped)).sum(axis=2).T
    squares = (scores - judged.targets) ** 2
    return (squares[:, :, -1] if scores.shape[2] == 2 else squares.sum(axis=2)).T


class _Ranking:
    """Texts in the order of one score, highest first; texts of equal scores are one group."""

    def __init__(self, is_positive: np.ndarray, scores: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._starts = None if len(starts) == len(scores) else starts
        positive = is_positive[self._order]
        group = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))
        self._groups, position = np.unique(group[positive], return_inverse=True)  # those that hold a positive text
        self._positives = self._order[positive]
        self._position_starts = None
        if len(self._groups) < len(self._positives):
            self._position_starts = np.flatnonzero(np.concatenate([[True], position[1:] != position[:-1]]))

    def values(self, weights: np.ndarray, names: Sequence[str]) -> Values:
        """ROC AUC and average precision, each (resamples,), of ``weights`` (resamples, texts)."""
        if not len(self._positives) or len(self._positives) == len(self._order):
            return {name: np.full(len(weights), np.nan) for name in _RANKS}
        taken = weights[:, self._order]
        if self._starts is not None:
            taken = np.add.reduceat(taken, self._starts, axis=1, dtype=np.int32)
        above = np.cumsum(taken, axis=1, dtype=np.int32)
        total = above[:, -1].astype(np.float64)
        above, here = above[:, self._groups].astype(np.float64), taken[:, self._groups].astype(np.float64)
        positives = weights[:, self._positives].astype(np.float64)
        if self._position_starts is not None:
            positives = np.add.reduceat(positives, self._position_starts, axis=1)
        hits = np.cumsum(positives, axis=1)  # (resamples, groups), positive texts down to each group
        num_positive = hits[:, -1]
        num_negative = total - num_positive
        known = (num_positive > 0) & (num_negative > 0)
        found: Values = {}
        if "average_precision" in names:
            precision = np.divide(hits, above, out=np.zeros_like(hits), where=above > 0)
            found["average_precision"] = _known(np.einsum("ij,ij->i", positives, precision), num_positive, known)
        if "roc_auc" in names:
            below = num_negative[:, None] - (above - hits) + (here - positives) / 2
            found["roc_auc"] = _known(np.einsum("ij,ij->i", positives, below), num_positive * num_negative, known)
        return found


def _known(sums: np.ndarray, of: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.divide(sums, of, out=np.full(len(sums), np.nan), where=known)


class _Groups:
    """Texts in the order of a number, equal ones in one group."""

    def __init__(self, numbers: np.ndarray) -> None:
        _, self._group = np.unique(numbers, return_inverse=True)
        self._order = np.argsort(self._group, kind="stable")
        ordered = self._group[self._order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """(resamples, texts): the rank of each text among those drawn, equal ones sharing their mean rank."""
        sizes = np.add.reduceat(weights[:, self._order], self._starts, axis=1)  # (resamples, groups)
        ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
        return ranks[:, self._group]


def _pearson(weights: np.ndarray, first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(resamples,): the correlation of two (texts,) or (resamples, texts); NaN where one does not vary."""
    total = weights.sum(axis=1)

    def mean(values: np.ndarray) -> np.ndarray:
        return (weights * values).sum(axis=1) / total

    mean_first, mean_other = mean(first), mean(other)
    spread_first, spread_other = mean(first**2) - mean_first**2, mean(other**2) - mean_other**2
    covariance = mean(first * other) - mean_first * mean_other
    known = (spread_first > 1e-12 * mean(first**2)) & (spread_other > 1e-12 * mean(other**2))
    product = np.sqrt(np.where(known, spread_first * spread_other, 1.0))
    return np.where(known, np.clip(covariance / product, -1, 1), np.nan)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over axis 1 of what is no NaN; NaN where all is."""
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def higher_is_better(name: str) -> bool:
    return name not in LOWER_IS_BETTER
