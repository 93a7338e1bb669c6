"""What depends on the order of scores, of many resamples at once: ROC AUC, average precision and ranks, from running
sums of the counts of texts in that order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Values = dict[str, np.ndarray]
"""Metrics by their names, each (resamples, models) float64, or of one model (resamples,); NaN where a resample has no
answer."""

RANKED = ("roc_auc", "average_precision")
ELEMENTS_AT_ONCE = 1 << 17
"""Larger arrays than the caches hold, and fresh from the system each time, take three times as long."""

# Below so many resamples, or texts, simpler ways to add up are quicker; texts go by runs of so many.
_FEW_COLUMNS, _FEW_ROWS, _RUN = 16, 128, 16


class Ranking:
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
            return {name: np.full(weights.shape[1], np.nan) for name in RANKED}
        sums, hits = RunningSums(weights, self._order), RunningSums(weights, self._positives)
        num_positive = hits.at(np.array([len(self._positives) - 1]))[0].astype(np.float64)
        num_negative = len(self._order) - num_positive  # as many are drawn as there are texts
        precisions, ranked_higher = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        size = max(1, ELEMENTS_AT_ONCE // weights.shape[1])
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
        return {name: found[name] for name in RANKED if name in names}

    def _groups(
        self, weights: np.ndarray, sums: RunningSums, hits: RunningSums, some: slice
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


class RunningSums:
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


class Ranks:
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
        sums = RunningSums(weights, self._order)
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
