"""Where there are too few texts of a kind for an interval or a test, and how that is said.

A bootstrap of one positive text draws it or not, and drops the resamples without it: what is left is certain and wrong.
The figures behind the limits stand in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bertwright.evaluation.rankings import RANKED
from bertwright.evaluation.resampling import Judged

FEWEST_OF_A_KIND = 3
"""Positive, and negative, texts of each label below which a ranking has no interval and no test: with two, Student's t
still rejects a true null in 6 to 9 % of cases, and an interval of 95 % covers 85 %."""
FEW_OF_A_KIND = 20
"""Below this many the interval of one AUC covers less than it says, most of all near 1."""
FEWEST_COUNTED = 2
"""Texts in the denominator of a precision, recall or F1 below which it has no interval and no test."""
_OF_DECISIONS = ("precision", "recall", "f1", "macro_precision", "macro_recall", "macro_f1")
_IN_DENOMINATOR = f"fewer than {FEWEST_COUNTED} texts are in the denominator"
_MOST_NAMED = 5


def ranked_too_little(judged: Judged, name: str) -> str | None:
    """Why the metric ``name`` has neither interval nor test, in words; None where it can have them."""
    if name not in RANKED or not judged.ranked:
        return None
    few = _labels_below(judged, FEWEST_OF_A_KIND)
    if not few:
        return None
    return f"{_listed(few)}; at least {FEWEST_OF_A_KIND} texts of each kind are needed"


def ranked_little(judged: Judged) -> str | None:
    """What a reader of intervals and tests of a ranking must know where a kind is rare; None where none is."""
    few = _labels_below(judged, FEW_OF_A_KIND)
    if not few or _labels_below(judged, FEWEST_OF_A_KIND):
        return None
    return (
        f"{_listed(few)}: with fewer than {FEW_OF_A_KIND} of a kind an interval of ROC AUC or average precision is "
        "too narrow, most of all near 1, and tests find little"
    )


def notes_of_few(judged: Judged, names: Iterable[str]) -> list[str]:
    """What there is too little of for the metrics ``names``, one line for each reason."""
    names = list(names)
    notes = []
    ranked = [name for name in RANKED if name in names]
    if ranked and (why := ranked_too_little(judged, ranked[0])) is not None:
        notes.append(f"No intervals and tests of {' and '.join(ranked)}: {why}")
    elif ranked and (why := ranked_little(judged)) is not None:
        notes.append(why)
    for shares in (True, False):
        few = [name for name in names if is_one_share(judged, name) == shares and _counts_too_few(judged, name)]
        if few and shares:
            notes.append(f"No intervals and tests of {' and '.join(few)} of runs where {_IN_DENOMINATOR}")
        elif few:
            notes.append(
                f"Intervals of {' and '.join(few)} are too narrow where {_IN_DENOMINATOR} of some class or label: such "
                "a class adds 0 or a guess, as if that were certain"
            )
    return notes


def _counts_too_few(judged: Judged, name: str) -> bool:
    counts = fewest_counted(judged, name)
    return counts is not None and bool((counts < FEWEST_COUNTED).any())


def counted_too_little(judged: Judged, name: str, models: Sequence[int]) -> bool:
    """Whether ``name`` is a share of fewer than two texts for one of the ``models``: no interval, no test."""
    if not is_one_share(judged, name):
        return False
    counts = fewest_counted(judged, name)
    return counts is not None and bool((counts[list(models)] < FEWEST_COUNTED).any())


def _labels_below(judged: Judged, limit: int) -> list[str]:
    found = []
    for is_positive, column in judged.ranked:
        positives = int(is_positive.sum())
        negatives = len(is_positive) - positives
        if min(positives, negatives) < limit:
            kind, count = ("positive", positives) if positives <= negatives else ("negative", negatives)
            found.append(f'"{judged.labels[column]}" has {count} {kind} {"text" if count == 1 else "texts"}')
    return found


def _listed(few: list[str]) -> str:
    more = f" and {len(few) - _MOST_NAMED} labels more" if len(few) > _MOST_NAMED else ""
    return ", ".join(few[:_MOST_NAMED]) + more


def fewest_counted(judged: Judged, name: str) -> np.ndarray | None:
    """The texts in the denominator of precision, recall or F1, (models,); of several classes the fewest of any.

    None for other metrics, and for the micro averages, whose denominators are those of all labels together.
    """
    if name not in _OF_DECISIONS or judged.decided is None or judged.kind == "regression":
        return None
    supports, predictions, hits = judged.label_counts
    of = predictions
    if "recall" in name:
        of = np.broadcast_to(supports, predictions.shape)
    elif "f1" in name:
        of = supports + predictions - hits
    if judged.kind != "multi-label" and len(judged.labels) == 2 and not name.startswith("macro"):
        of = of[:, 1:]
    return of.min(axis=1)


def is_one_share(judged: Judged, name: str) -> bool:
    """Whether ``name`` is a precision, recall or F1 of one class alone."""
    return judged.kind != "multi-label" and len(judged.labels) == 2 and name in ("precision", "recall", "f1")
