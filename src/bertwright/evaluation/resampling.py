"""The paired bootstrap: metrics of many models on the same resamples of the texts (Efron and Tibshirani 1993, ch. 6).

A resample draws as many texts as there are, each with the same chance, with replacement; all models are judged on the
same draw, so that differences between them are paired. Nothing is copied: a resample is a count for each text, and a
metric is computed from counts.

- What depends on decisions alone (accuracy, F1, Matthews) is computed from the few different combinations of label and
  decisions, whose counts are multinomial: 500,000 texts cost no more than 500.
- Means over texts (log loss, absolute error) are products of counts and contributions.
- What depends on the order of scores (ROC AUC, average precision, Spearman) is computed from running sums of counts in
  that order, of many resamples side by side; texts of equal scores count as one step, as in scikit-learn.

Metrics are those of ``metrics.py``, definition by definition; ``point_metrics`` gives them with every count 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bertwright.config.parts import LabelKind
from bertwright.evaluation.metrics import LOWER_IS_BETTER, METRIC_NAMES_OF
from bertwright.evaluation.rankings import ELEMENTS_AT_ONCE, RANKED, Ranking, Ranks, Values

# Texts are drawn as integers of 8 bytes. Their counts are bytes, and what is made of these goes row by row: many
# resamples side by side are quick.
_DRAWN_AT_ONCE, _COUNTS_AT_ONCE = 1 << 15, 1 << 22
_MOST_COUNTED = 1 << 21
_MOST_CODES = 1 << 62


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

    @cached_property
    def rankings(self) -> list[list[Ranking]]:
        """For each model the texts in the order of its scores, for each label of ``ranked``."""
        return [[Ranking(has, model[:, column]) for has, column in self.ranked] for model in self.scores]

    @cached_property
    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each different combination of truth and decisions the first text, and how many texts there are."""
        several = self.kind == "multi-label"
        truth = self.has_label if several else self.label_ids
        assert truth is not None
        assert self.decided is not None
        columns = [truth, *self.decided]
        if several:
            columns = [column[:, i] for column in columns for i in range(len(self.labels))]
        return _distinct(columns)

    @cached_property
    def label_counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How many texts have each label, (labels,), of how many each model decides for it, and of how many of these
        rightly, (models, labels) each."""
        first, counts = self.cells
        truth = self.has_label if self.kind == "multi-label" else self.label_ids
        assert truth is not None
        assert self.decided is not None
        if self.kind == "multi-label":
            decided = self.decided[:, first]
            hits = decided & truth[first]
            return counts @ truth[first], np.tensordot(decided, counts, (1, 0)), np.tensordot(hits, counts, (1, 0))
        num_labels = len(self.labels)

        def counted(ids: np.ndarray, which: np.ndarray | slice = slice(None)) -> np.ndarray:
            return np.bincount(ids[which], counts[which], num_labels).astype(np.int64)

        true = truth[first]
        decided = self.decided[:, first]
        return (
            counted(true),
            np.stack([counted(model) for model in decided]),
            np.stack([counted(true, model == true) for model in decided]),
        )

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


def _blocks(num_samples: int, width: int, at_once: int = ELEMENTS_AT_ONCE) -> Iterator[int]:
    size = max(1, at_once // max(width, 1))
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
        self.num_labels, self.num_models = len(judged.labels), judged.num_models
        self.num_texts = judged.num_texts
        first, self.counts = judged.cells
        truth = judged.has_label if self.several else judged.label_ids
        assert truth is not None
        assert judged.decided is not None
        self.truth = truth[first]  # (cells[, labels])
        self.decided = judged.decided[:, first]  # (models, cells[, labels])
        at_once = max(1, _MOST_COUNTED // max(1, len(first) * self.num_labels))
        self._models = [slice(start, start + at_once) for start in range(0, self.num_models, at_once)]
        self._counted = self._counted_of(self._models[0]) if len(self._models) == 1 else None
        right = self.truth == self.decided
        self._all_right = (right.all(axis=2) if self.several else right).T.astype(np.float64)  # (cells, models)

    def _counted_of(self, models: slice) -> np.ndarray:
        """(cells, (1 + 2 models) x labels): for each label which cells have it, and of each model where it is decided
        for, and where it is rightly."""
        is_true, is_decided = self.truth[None], self.decided[models]
        if not self.several:
            classes = np.arange(self.num_labels)
            is_true, is_decided = is_true[..., None] == classes, is_decided[..., None] == classes
        counted = np.concatenate([is_true, is_decided, is_true & is_decided]).swapaxes(0, 1)
        return counted.reshape(len(self.counts), -1).astype(np.float64)

    def ones(self) -> np.ndarray:
        return self.counts[None].astype(np.float64)

    def resamples(self, random: np.random.Generator, num_samples: int) -> Iterator[np.ndarray]:
        shares = self.counts / self.num_texts
        for size in _blocks(num_samples, len(shares)):
            yield random.multinomial(self.num_texts, shares, size=size).astype(np.float64)

    def values(self, weights: np.ndarray) -> Values:
        """Of ``weights`` (resamples, cells)."""
        of = self._of_labels if self.several else self._of_classes
        parts = []
        for models in self._models:
            counted = self._counted_of(models) if self._counted is None else self._counted
            counts = (weights @ counted).reshape(len(weights), -1, self.num_labels)
            supports, predictions, hits = np.split(counts, [1, 1 + counts.shape[1] // 2], axis=1)
            parts.append(of(supports, predictions, hits))  # each (resamples, models, labels), supports of one for all
        found = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        found["accuracy"] = weights @ self._all_right / self.num_texts
        return {name: found[name] for name in self.names}

    def _of_classes(self, supports: np.ndarray, predictions: np.ndarray, hits: np.ndarray) -> Values:
        precisions, recalls = _ratio(hits, predictions), _ratio(hits, supports)
        f1s = _ratio(2 * hits, predictions + supports)
        two = self.num_labels == 2
        # Gorodkin (2004), eq. 8, from the sums of the confusion matrix; 0 where all predictions are the same.
        total = float(self.num_texts)
        covariance = hits.sum(axis=2) * total - (supports * predictions).sum(axis=2)
        spread = total**2 - (supports**2).sum(axis=2)
        spread_decided = total**2 - (predictions**2).sum(axis=2)
        matthews = _ratio(covariance, np.sqrt(spread * spread_decided))
        return {
            "precision": precisions[:, :, -1] if two else precisions.mean(axis=2),
            "recall": recalls[:, :, -1] if two else recalls.mean(axis=2),
            "f1": f1s[:, :, -1] if two else f1s.mean(axis=2),
            "macro_f1": f1s.mean(axis=2),
            "matthews": np.where(spread > 0, matthews, np.nan),
        }

    def _of_labels(self, supports: np.ndarray, predictions: np.ndarray, hits: np.ndarray) -> Values:
        all_hits, all_predictions, all_supports = (x.sum(axis=2) for x in (hits, predictions, supports))
        return {
            "micro_precision": _ratio(all_hits, all_predictions),
            "micro_recall": _ratio(all_hits, all_supports),
            "micro_f1": _ratio(2 * all_hits, all_predictions + all_supports),
            "macro_precision": _ratio(hits, predictions).mean(axis=2),
            "macro_recall": _ratio(hits, supports).mean(axis=2),
            "macro_f1": _ratio(2 * hits, predictions + supports).mean(axis=2),
            "hamming_loss": (all_supports + all_predictions - 2 * all_hits) / (self.num_texts * self.num_labels),
        }


def _distinct(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``columns``, each (rows,) of integers or booleans: the first of each different one, and how many."""
    codes, num_codes = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        size = int(column.max(initial=0)) + 1
        if num_codes > _MOST_CODES // size:
            _, codes = np.unique(codes, return_inverse=True)
            num_codes = int(codes.max(initial=0)) + 1
        codes, num_codes = codes * size + column, num_codes * size
    if num_codes <= len(codes):  # without sorting
        counts = np.bincount(codes, minlength=num_codes)
        first = np.full(num_codes, len(codes))
        np.minimum.at(first, codes, np.arange(len(codes)))
        return first[counts > 0], counts[counts > 0]
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return first, counts


def _ratio(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """``counts / of``, 0 where ``of`` is."""
    return np.divide(counts, of, out=np.zeros(np.broadcast_shapes(np.shape(counts), np.shape(of))), where=of > 0)


MEANS = ("log_loss", "soft_log_loss", "brier", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error")
_CORRELATIONS = ("r2", "pearson", "spearman")
_SCORE_METRICS = (*MEANS, *RANKED, *_CORRELATIONS)


class _Scores:
    """Metrics of scores: each text is for itself, with a count."""

    def __init__(self, judged: Judged, names: Sequence[str]) -> None:
        self.names, self.num_texts, self.num_models = names, judged.num_texts, judged.num_models
        self._means = [name for name in names if name in MEANS]
        parts = [contributions(judged, name) for name in self._means]
        self._parts = np.concatenate(parts, axis=1).T if parts else None  # (metrics x models, texts)
        self._rankings = judged.rankings if any(name in RANKED for name in names) else []
        self._correlations = _Correlations(judged, names) if any(name in _CORRELATIONS for name in names) else None

    def ones(self) -> np.ndarray:
        return np.ones((1, self.num_texts), np.uint8)

    def resamples(self, random: np.random.Generator, num_samples: int) -> Iterator[np.ndarray]:
        at_once = max(1, min(num_samples, _COUNTS_AT_ONCE // max(self.num_texts, 1)))
        for start in range(0, num_samples, at_once):
            # A text is drawn more than 255 times once in 10^500 resamples. Bytes are quick to reorder.
            counts = np.empty((min(at_once, num_samples - start), self.num_texts), np.uint8)
            place = 0
            for size in _blocks(len(counts), self.num_texts, _DRAWN_AT_ONCE):
                drawn = random.integers(0, self.num_texts, size=(size, self.num_texts), dtype=np.int64)
                drawn += np.arange(size)[:, None] * self.num_texts
                found = np.bincount(drawn.ravel(), minlength=size * self.num_texts)
                counts[place : place + size] = found.reshape(size, self.num_texts)
                place += size
            yield counts

    def values(self, weights: np.ndarray) -> Values:
        """Of ``weights`` (resamples, texts)."""
        found: Values = {}
        by_text = np.ascontiguousarray(weights.T)  # (texts, resamples): what is computed alike lies side by side
        if self._parts is not None or self._correlations is not None:
            numbers = by_text.astype(np.float64)
        if self._parts is not None:
            means = (self._parts @ numbers / self.num_texts).reshape(len(self._means), self.num_models, -1)
            for name, mean in zip(self._means, means, strict=True):
                found[name] = (np.sqrt(mean) if name == "root_mean_squared_error" else mean).T
        if self._rankings:
            pairs = [[ranking.values(by_text, self.names) for ranking in model] for model in self._rankings]
            for name in RANKED:
                if name in self.names:
                    each = np.array([[pair[name] for pair in model] for model in pairs])  # (models, labels, resamples)
                    found[name] = _mean_of_known(each).T
        if self._correlations is not None:
            found.update(self._correlations.values(by_text, numbers))
        return {name: found[name] for name in self.names}


class _Correlations:
    """What a regression's numbers have to do with the true ones."""

    def __init__(self, judged: Judged, names: Sequence[str]) -> None:
        assert judged.targets is not None
        self.names, self.num_texts = names, judged.num_texts
        self._true = judged.targets[:, 0] - judged.targets[:, 0].mean()
        self._scores = judged.scores[:, :, 0] - judged.targets[:, 0].mean()  # (models, texts)
        self._ranks = []
        if "spearman" in names:
            self._ranks = [Ranks(numbers) for numbers in (judged.targets[:, 0], *judged.scores[:, :, 0])]

    def values(self, by_text: np.ndarray, weights: np.ndarray) -> Values:
        """Of weights (texts, resamples), as integers and as float64."""
        found: Values = {}
        true, scores, total = self._true, self._scores, self.num_texts

        def mean(values: np.ndarray) -> np.ndarray:  # (..., texts) to (..., resamples)
            return values @ weights / total

        if "pearson" in self.names:
            centred = scores - scores.mean(axis=1, keepdims=True)
            found["pearson"] = _correlation(
                mean(true), mean(true**2), mean(centred), mean(centred**2), mean(true * centred)
            ).T
        if "r2" in self.names:
            spread = mean(true**2) - mean(true) ** 2
            varied = spread > 1e-12 * max(float((true**2).mean()), 1e-300)
            found["r2"] = np.where(varied, 1 - mean((scores - true) ** 2) / np.where(varied, spread, 1), np.nan).T
        if self._ranks:
            # Ranks less their mean, times two: integers, so that their sums are exact.
            (first, first_squares), *others = (ranks.values(by_text) for ranks in self._ranks)
            weighted, none = weights * first, np.zeros(weights.shape[1])
            found["spearman"] = np.stack(
                [
                    _correlation(
                        none, first_squares / total, none, squares / total, (weighted * other).sum(axis=0) / total
                    )
                    for other, squares in others
                ],
                axis=1,
            )
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


def _correlation(
    first: np.ndarray, first_squares: np.ndarray, other: np.ndarray, other_squares: np.ndarray, products: np.ndarray
) -> np.ndarray:
    """From the means of two numbers, of their squares and of their products; NaN where one does not vary."""
    spread_first, spread_other = first_squares - first**2, other_squares - other**2
    known = (spread_first > 1e-12 * first_squares) & (spread_other > 1e-12 * other_squares)
    product = np.sqrt(np.where(known, spread_first * spread_other, 1.0))
    return np.where(known, np.clip((products - first * other) / product, -1, 1), np.nan)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over axis 1 of what is no NaN; NaN where all is."""
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def higher_is_better(name: str) -> bool:
    return name not in LOWER_IS_BETTER
