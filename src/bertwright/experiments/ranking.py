"""How the order of the texts moved from one contender to another. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertwright.evaluation.extremes import find_extremes
from bertwright.evaluation.metrics import describe_score, positive_score
from bertwright.evaluation.resampling import Judged
from bertwright.evaluation.stored import read_columns
from bertwright.experiments.contenders import Scores
from bertwright.runs import Run

MOST_CHARACTERS = 500


def rankings_of(
    names: Sequence[str],
    models: Sequence[Sequence[int]],
    pairs: Sequence[tuple[int, int]],
    runs: Sequence[Run],
    scores: Scores,
    k: int,
) -> list[dict[str, Any]]:
    """``rankings`` of ``compare.Comparison``, whose docstring has the keys.

    A text's score is the mean over the contender's runs of ``metrics.positive_score``.

    Args:
        names: of the contenders.
        models: for each contender the models of ``scores``; empty where it has no predictions.
        pairs: places of contenders.
        k: how many texts at each end.
    """
    judged = scores.judged
    if judged is None or judged.num_texts < 2:
        return []
    chosen = sorted({place for pair in pairs for place in pair if models[place]})
    values = {place: _score(judged, models[place]) for place in chosen}
    ends = {place: find_extremes(values[place], k) for place in chosen}
    shown = [side for place in chosen for side in ends[place]]
    texts = _texts(runs, scores, np.unique(np.concatenate(shown)) if shown else np.empty(0, np.int64))
    known = [(one, other) for one, other in pairs if one in values and other in values]
    return [_ranking(names, values, ends, judged, scores.rows, texts, pair) for pair in known]


def _score(judged: Judged, models: Sequence[int]) -> np.ndarray:
    return np.mean([positive_score(judged.scores[model], judged.labels, judged.kind) for model in models], axis=0)


def _ranking(
    names: Sequence[str],
    values: dict[int, np.ndarray],
    ends: dict[int, tuple[np.ndarray, np.ndarray]],
    judged: Judged,
    rows: np.ndarray,
    texts: dict[int, str | None],
    pair: tuple[int, int],
) -> dict[str, Any]:
    from scipy.stats import kendalltau, spearmanr

    one, other = (values[place] for place in pair)
    varied = np.ptp(one) > 0 and np.ptp(other) > 0
    found: dict[str, Any] = {
        "a": names[pair[0]],
        "b": names[pair[1]],
        "score": describe_score(judged.labels, judged.kind),
        "spearman": float(spearmanr(one, other).statistic) if varied else None,
        "kendall": float(kendalltau(one, other).statistic) if varied else None,
        "k": len(ends[pair[0]][0]),
    }
    for side, name in enumerate(("highest", "lowest")):
        chosen = [ends[place][side] for place in pair]
        found[f"shared_{name}"] = len(np.intersect1d(chosen[0], chosen[1]))
        sign = -1 if name == "highest" else 1
        found[name] = [
            {
                "rank": rank + 1,
                "a": _entry(first, sign * one, sign * other, judged, rows, texts, sign),
                "b": _entry(second, sign * other, sign * one, judged, rows, texts, sign),
            }
            for rank, (first, second) in enumerate(zip(*(ends.tolist() for ends in chosen), strict=True))
        ]
    return found


def _entry(
    text: int,
    own: np.ndarray,
    other: np.ndarray,
    judged: Judged,
    rows: np.ndarray,
    texts: dict[int, str | None],
    sign: int,
) -> dict[str, Any]:
    """``own`` and ``other`` are the scores, with their sign such that the text of rank 1 has the least."""
    return {
        "row": int(rows[text]),
        "score": float(sign * own[text]),
        "text": texts.get(text),
        "label": _label(judged, text),
        "rank_in_other": int((other < other[text]).sum()) + 1,
    }


def _label(judged: Judged, text: int) -> str | None:
    if judged.label_ids is not None:
        return judged.labels[judged.label_ids[text]]
    if judged.has_label is not None:
        return "|".join(label for label, has in zip(judged.labels, judged.has_label[text], strict=True) if has)
    return None if judged.targets is None else str(judged.targets[text, 0])


def _texts(runs: Sequence[Run], scores: Scores, chosen: np.ndarray) -> dict[int, str | None]:
    """Of the ``chosen`` texts what they say, from the first run that kept them."""
    for run, order in zip(runs, scores.orders, strict=True):
        if order is None or not len(chosen):
            continue
        table = read_columns(run, lambda name: name in ("text", "pair", "text_sha256"))
        if table is None or "text" not in table.column_names:
            continue
        taken = table.take(order[chosen]).to_pylist()
        return {
            int(place): _cut(row["text"] if row.get("pair") is None else f"{row['text']} ||| {row['pair']}")
            for place, row in zip(chosen, taken, strict=True)
        }
    return {}


def _cut(text: Any) -> str | None:
    if not isinstance(text, str):
        return None
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
