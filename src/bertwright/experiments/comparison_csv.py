"""A comparison as CSV for programs and spreadsheets: one value a cell, numbers in full. No torch here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertwright.evaluation.extremes import one_line

if TYPE_CHECKING:
    from bertwright.experiments.compare import Comparison

# What opens a formula in spreadsheet programs (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_RUN = ("run", "contender", "model", "seed", "epochs", "steps", "judged_on", "device", "dtype", "train_accuracy")
_COSTS = ("peak_process_bytes", "peak_gpu_bytes", "usd")
_TIMES = ("train_s", "total_s", "infer_s_per_text")
_DIFFERENCE = (
    *("a", "b", "metric", "verdict", "value_a", "value_b", "difference", "low", "high", "p", "p_adjusted", "test"),
    *("num_texts", "texts_needed", "more_texts", "seeds_hide_it", "why_untested"),
)
_RANKING = ("a", "b", "score", "spearman", "kendall", "k", "shared_highest", "shared_lowest")
_TEXT = ("row", "score", "label", "rank_in_other", "text")
_WORTH = (
    *("a", "b", "what", "metric", "verdict", "gain", "low", "high", "p", "p_adjusted"),
    *("extra_minutes", "extra_usd", "gain_per_minute", "gain_per_usd"),
)
_PARETO = ("name", "on_front", "metric", "quality", "infer_s_per_text", "memory_bytes", "train_s", "usd")

Row = dict[str, Any]


def comparison_csv(comparison: Comparison) -> str:
    """All tables, an empty line between two. Each begins with its headings; the first column, ``table``, names it."""
    found = [_csv(name, rows) for name, rows in _tables(comparison).items() if rows]
    return "\n".join(found)


def unformulated(text: str) -> str:
    """``text``, after an apostrophe where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _tables(comparison: Comparison) -> dict[str, list[Row]]:
    runs = [
        {
            **_chosen(record, _RUN),
            **_metrics(record),
            **{f"{name}_s": value for name, value in record["seconds"].items()},
            **_chosen(record, _COSTS),
        }
        for record in comparison.records
    ]
    contenders = [
        {
            **_chosen(record, ("name", "model", "epochs", "steps")),
            "num_runs": len(record["runs"]),
            **_metrics(record),
            **_chosen(record, (*_TIMES, *_COSTS)),
        }
        for record in comparison.contenders
    ]
    differences = [
        {**_chosen(record, _DIFFERENCE), "runs_a": record["seeds"][0], "runs_b": record["seeds"][1]}
        for record in comparison.differences
    ]
    return {
        "runs": runs,
        "contenders": contenders,
        "differences": differences,
        "rankings": [_chosen(record, _RANKING) for record in comparison.rankings],
        "texts": [row for record in comparison.rankings for row in _texts(record)],
        "worth": [_chosen(record, _WORTH) for record in comparison.worth],
        "pareto": [_chosen(record, _PARETO) for record in comparison.pareto],
        "notes": [{"note": note} for note in comparison.notes],
    }


def _chosen(record: Mapping[str, Any], names: Iterable[str]) -> Row:
    return {name: record.get(name) for name in names}


def _metrics(record: Mapping[str, Any]) -> Row:
    """Each metric's value, and the ends of its interval in two columns more."""
    found: Row = {}
    for name, value in record["metrics"].items():
        found[name] = value
        if name != "num_texts":
            interval = (record.get("intervals") or {}).get(name) or (None, None)
            found[f"{name}_low"], found[f"{name}_high"] = interval
    return found


def _texts(record: Mapping[str, Any]) -> Iterable[Row]:
    for side in ("highest", "lowest"):
        for entry in record[side]:
            for which in ("a", "b"):
                pair = {"a": record["a"], "b": record["b"], "side": side, "rank": entry["rank"]}
                yield {**pair, "by": record[which], **_chosen(entry[which], _TEXT)}


def _csv(name: str, rows: Sequence[Row]) -> str:
    """One table: every line of it has as many cells as its headings, of which a row may lack some."""
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", *map(_cell, headings)])
    writer.writerows([name, *(_cell(row.get(heading)) for heading in headings)] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> str:
    """A number in full, "true" or "false", a text in one line, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else unformulated(one_line(str(value)))
