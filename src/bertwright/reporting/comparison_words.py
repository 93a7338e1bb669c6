"""A comparison in sentences: who is best, and whether that can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertwright.evaluation.metrics import LOWER_IS_BETTER
from bertwright.reporting.material import is_finite, number_in, object_in, objects_of
from bertwright.reporting.page import Tile
from bertwright.reporting.tables import interval_cell
from bertwright.reporting.words import counted, decimals, metric_words


def main_metric(comparison: Mapping[str, Any], contenders: Sequence[Mapping[str, Any]]) -> str | None:
    """The metric that the comparison speaks of."""
    metric = comparison.get("metric")
    if isinstance(metric, str):
        return metric
    present = {name for item in contenders for name, value in object_in(item, "metrics").items() if is_finite(value)}
    return next((name for name in ("roc_auc", "accuracy", "mean_absolute_error") if name in present), None)


def best_of(contenders: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """The best value of ``metric``; None where nobody has one."""
    values = [value for item in contenders if (value := number_in(item, "metrics", metric)) is not None]
    if not values:
        return None
    return min(values) if metric in LOWER_IS_BETTER else max(values)


def subtitle_of(records: Sequence[Mapping[str, Any]]) -> str:
    """How many runs there are, and what they were judged on."""
    split = next((record.get("judged_on") for record in records if record.get("judged_on")), None)
    num = next((value for record in records if (value := number_in(record, "metrics", "num_texts")) is not None), None)
    judged = "" if split is None or num is None else f", all judged on the same {num:,.0f} {split} texts"
    return f"{counted(len(records), 'run')}{judged}"


def summary_of(
    comparison: Mapping[str, Any], contenders: Sequence[Mapping[str, Any]], metric: str | None
) -> tuple[str, ...]:
    """A few sentences: who is best, whether that can be told, whether it was worth it."""
    if metric is None or (best := best_of(contenders, metric)) is None:
        return ("These runs have no metric in common by which they could be put in order.",)
    winner = next(item for item in contenders if number_in(item, "metrics", metric) == best)
    name = str(winner.get("name"))
    interval = object_in(winner, "intervals").get(metric)
    between = f" ({interval_cell(interval).value})" if interval else ""
    order = "lowest" if metric in LOWER_IS_BETTER else "highest"
    sentences = [f"{name} has the {order} {metric_words(metric)}: {decimals(best)}{between}."]
    sentences.append(_verdict(comparison, name, metric))
    told = [
        str(item["sentence"]) for item in objects_of(comparison.get("worth")) if isinstance(item.get("sentence"), str)
    ]
    sentences += told[:2]
    return tuple(sentence for sentence in sentences if sentence)


def _verdict(comparison: Mapping[str, Any], name: str, metric: str) -> str:
    """Which of the others the best one is told apart from."""
    better: list[str] = []
    unclear: list[str] = []
    for item in objects_of(comparison.get("differences")):
        if item.get("metric") != metric or name not in (item.get("a"), item.get("b")):
            continue
        other = str(item["b"] if item.get("a") == name else item["a"])
        (unclear if item.get("verdict") == "cannot tell" else better).append(other)
    if not better and not unclear:
        return ""
    told = f"It is told apart from {counted(len(better), 'other')}" if better else "It is told apart from none"
    if not unclear:
        return "It is told apart from all others; chance does not explain it."
    return f"{told}; whether it is really better than {_some(unclear)} cannot be told from these texts."


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def tiles_of(contenders: Sequence[Mapping[str, Any]], metric: str | None) -> tuple[Tile, ...]:
    """The best four, by the metric."""
    if metric is None:
        return ()
    known = [item for item in contenders if number_in(item, "metrics", metric) is not None]
    known.sort(key=lambda item: number_in(item, "metrics", metric) or 0.0, reverse=metric not in LOWER_IS_BETTER)
    tiles = []
    for item in known[:4]:
        interval = object_in(item, "intervals").get(metric)
        note = f"{metric_words(metric)}" + (f", {interval_cell(interval).value}" if interval else "")
        tiles.append(Tile(str(item.get("name")), decimals(number_in(item, "metrics", metric)), note))
    return tuple(tiles)
