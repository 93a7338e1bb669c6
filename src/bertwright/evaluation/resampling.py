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

from bertwright.config import LabelKind
from bertwright.evaluation.metrics import LOWER_IS_BETTER, METRIC_NAMES_OF

Values = dict[str, np.ndarray]
"""Metrics by their names, each (resamples, models) float64; NaN where a resample has no answer."""

# Larger arrays than the caches hold, and fresh from the system each time, take three times as long.
_ELEMENTS_AT_ONCE = 1 << 17
# Texts are drawn as integers of 8 bytes. Their counts are bytes, and what is made of these goes row by row: many
# resamples side by side are quick.
_DRAWN_AT_ONCE, _COUNTS_AT_ONCE = 1 << 15, 1 << 22
# Below so many resamples, or texts, simpler ways to add up are quicker; texts go by runs of so many.
_FEW_COLUMNS, _FEW_ROWS, _RUN = 16, 128, 16
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
    def rankings(self) -> list[list[_Ranking]]:
        """For each model the texts in the order of its scores, for each label of ``ranked``."""
        return [[_Ranking(has, model[:, column]) for has, column in self.ranked] for model in self.scores]

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


def _blocks(num_samples: int, width: int, at_once: int = _ELEMENTS_AT_ONCE) -> Iterator[int]:
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
_RANKS = ("roc_auc", "average_precision")
_CORRELATIONS = ("r2", "pearson", "spearman")
_SCORE_METRICS = (*MEANS, *_RANKS, *_CORRELATIONS)


class _Scores:
    """Metrics of scores: each text is for itself, with a count."""

    def __init__(self, judged: Judged, names: Sequence[str]) -> None:
        self.names, self.num_texts, self.num_models = names, judged.num_texts, judged.num_models
        self._means = [name for name in names if name in MEANS]
        parts = [contributions(judged, name) for name in self._means]
        self._parts = np.concatenate(parts, axis=1).T if parts else None  # (metrics x models, texts)
        self._rankings = judged.rankings if any(name in _RANKS for name in names) else []
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
            for name in _RANKS:
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
            self._ranks = [_Ranks(numbers) for numbers in (judged.targets[:, 0], *judged.scores[:, :, 0])]

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


class _Ranking:
    """Texts in the order of one score, highest first; texts of equal scores are one group."""

    def __init__(self, is_positive: np.ndarray, scores: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        positive = is_positive[self._order]
        self._positives = self._order[positive]
        places = np.flatnonzero(positive)
        if (ordered[1:] != ordered[:-1]).all():
            self._firsts: np.ndarray | None = None
            self._lasts = places
            return
        firsts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        lasts = np.append(firsts[1:], len(ordered)) - 1
        group = np.searchsorted(firsts, places, "right") - 1
        changes = np.flatnonzero(np.append(group[1:] != group[:-1], [True]) if len(group) else group)
        self._firsts, self._lasts = firsts[group[changes]], lasts[group[changes]]  # of groups that hold a positive text
        self._last_positives = changes  # the last positive text of each of these groups

    def values(self, weights: np.ndarray, names: Sequence[str]) -> Values:
        """ROC AUC and average precision, each (resamples,), of ``weights`` (texts, resamples)."""
        if not len(self._positives) or len(self._positives) == len(self._order):
            return {name: np.full(weights.shape[1], np.nan) for name in _RANKS}
        sums, hits = _RunningSums(weights, self._order), _RunningSums(weights, self._positives)
        num_positive = hits.at(np.array([len(self._positives) - 1]))[0].astype(np.float64)
        num_negative = len(self._order) - num_positive  # as many are drawn as there are texts
        precisions, ranked_higher = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        size = max(1, _ELEMENTS_AT_ONCE // weights.shape[1])
        for start in range(0, len(self._lasts), size):
            some = slice(start, start + size)
            above, right, here = self._groups(weights, sums, hits, some)
            if "average_precision" in names:
                precision = np.divide(right, np.maximum(above, 1), dtype=np.float64)
                precision *= here
                precisions += precision.sum(axis=0)
            if "roc_auc" in names:
                higher = np.subtract(above, right, dtype=np.float64)  # negative texts; half of those in its own group
                if self._firsts is not None:
                    firsts = self._firsts[some]
                    higher -= (above - (sums.at(firsts) - weights[self._order[firsts]]) - here) / 2.0
                higher *= here
                ranked_higher += higher.sum(axis=0)
        known = (num_positive > 0) & (num_negative > 0)
        pairs = num_negative * num_positive
        found = {
            "average_precision": _known(precisions, num_positive, known),
            "roc_auc": _known(pairs - ranked_higher, pairs, known),
        }
        return {name: found[name] for name in _RANKS if name in names}

    def _groups(
        self, weights: np.ndarray, sums: _RunningSums, hits: _RunningSums, some: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of some of the groups that hold a positive text, each (groups, resamples): texts drawn down to the group's
        last one, positive ones among them, and positive ones in the group."""
        above = sums.at(self._lasts[some])
        if self._firsts is None:
            return above, hits.at(np.arange(len(self._positives))[some]), weights[self._positives[some]]
        lasts = self._last_positives[some]
        right = hits.at(lasts)
        before = np.append(self._last_positives[some.start - 1] if some.start else -1, lasts[:-1])
        return (
            above,
            right,
            right - np.where((before < 0)[:, None], 0, hits.at(np.maximum(before, 0))).astype(right.dtype),
        )


class _RunningSums:
    """Of counts (texts, resamples) the sums down to each text, the texts in some order.

    ``np.cumsum`` goes down one column after the other and waits for each sum. Here whole rows are added, and more: of
    runs of texts the first ones lie together, then the second ones, and so on, so that those of all runs are added at
    once. They are bytes as long as the sums of a run fit.
    """

    def __init__(self, counts: np.ndarray, order: np.ndarray) -> None:
        num_texts, num_samples = len(order), counts.shape[1]
        kind = np.uint16 if num_texts < 1 << 16 else np.uint32  # as many are drawn as there are texts
        self._num_texts, self._num_runs = num_texts, 0
        if num_samples < _FEW_COLUMNS:
            self._sums = np.cumsum(counts[order], axis=0, dtype=kind)
            return
        if num_texts < _FEW_ROWS:
            self._sums = _added_up(counts[order].astype(kind))
            return
        self._num_runs = num_runs = -(-num_texts // _RUN)
        padded = np.append(order, np.zeros(num_runs * _RUN - num_texts, order.dtype)).reshape(num_runs, _RUN)
        parts = counts[padded.T.ravel()]
        if parts.max(initial=0) > np.iinfo(np.uint8).max // _RUN:
            parts = parts.astype(kind)
        runs = parts.reshape(_RUN, num_runs, num_samples)
        for place in range(1, _RUN):
            runs[place] += runs[place - 1]
        ends = _added_up(runs[-1, :-1].astype(kind))
        self._sums = parts
        self._before = np.concatenate([np.zeros((1, num_samples), kind), ends])  # what is drawn before each run

    def at(self, places: np.ndarray) -> np.ndarray:
        """(places, resamples): down to the texts at ``places`` in the order."""
        if not self._num_runs:
            return np.asarray(self._sums[places])
        run, place = np.divmod(places, _RUN)
        return np.asarray(self._sums[place * self._num_runs + run] + self._before[run])

    def all(self) -> np.ndarray:
        """(texts, resamples)."""
        return self.at(np.arange(self._num_texts)) if self._num_runs else self._sums


def _added_up(sums: np.ndarray) -> np.ndarray:
    """Running sums in place of rows, by adding rows 1, 2, 4, 8, ... before (Hillis and Steele 1986)."""
    step = 1
    while step < len(sums):
        sums[step:] += sums[:-step].copy()
        step *= 2
    return sums


def _known(sums: np.ndarray, of: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.divide(sums, of, out=np.full(len(sums), np.nan), where=known)


class _Ranks:
    """Texts in the order of a number, equal ones in one group."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._order = np.argsort(numbers, kind="stable")
        ordered = numbers[self._order]
        starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self._place_of_text = np.empty(len(numbers), np.int64)  # its group among the groups
        self._place_of_text[self._order] = np.cumsum(starts) - 1
        self._lasts: np.ndarray | None = None
        if not starts.all():
            self._lasts = np.append(np.flatnonzero(starts)[1:], len(numbers)) - 1

    def values(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Twice the rank of each text among those drawn, less the mean rank, (texts, resamples) integers, equal ones
        with their mean rank; and the sums of their squares over the texts drawn, (resamples,)."""
        sums = _RunningSums(weights, self._order)
        if self._lasts is None:
            drawn, above = weights[self._order], sums.all()
        else:
            above = sums.at(self._lasts)
            drawn = np.diff(above, axis=0, prepend=above.dtype.type(0))
        num_texts = len(weights)  # as many are drawn
        kind = np.int16 if num_texts < 1 << 14 else np.int32
        ranks: np.ndarray = above.astype(kind)
        ranks += ranks
        ranks -= drawn.astype(kind)
        ranks -= kind(num_texts)
        # Without ties the squares were those of all ranks; each group takes from them (Kendall 1948).
        cubes = np.square(drawn, dtype=np.float64)
        cubes *= drawn
        return ranks[self._place_of_text], (float(num_texts) ** 3 - cubes.sum(axis=0)) / 3


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
