"""The Pareto front: contenders that no other one beats in quality, latency, memory and cost at once. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertwright.evaluation.metrics import LOWER_IS_BETTER

_LOWER = ("infer_s_per_text", "memory_bytes", "usd", "train_s")


def pareto_of(records: Sequence[Mapping[str, Any]], metric: str | None) -> list[dict[str, Any]]:
    """``pareto`` of ``compare.Comparison``, whose docstring has the keys.

    One contender dominates another if it is at least as good in all that is compared, and better in something. What is
    not known of all is not compared; seconds of training stand in for an unknown cost. Differences count as they stand:
    whether one of quality can be told is another question.
    """
    found = [
        {
            "name": record["name"],
            "quality": record["metrics"].get(metric),
            "metric": metric,
            "infer_s_per_text": record["infer_s_per_text"],
            "memory_bytes": record["peak_process_bytes"],
            "usd": record["usd"],
            "train_s": record["train_s"],
        }
        for record in records
    ]
    if records and all(record["peak_gpu_bytes"] is not None for record in records):
        for entry, record in zip(found, records, strict=True):
            entry["memory_bytes"] = record["peak_gpu_bytes"]
    compared = [key for key in ("quality", *_LOWER) if all(entry[key] is not None for entry in found)]
    if "usd" in compared and "train_s" in compared:
        compared.remove("train_s")
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    scores = [[sign * entry[key] if key == "quality" else -entry[key] for key in compared] for entry in found]
    for entry, own in zip(found, scores, strict=True):
        better = [
            other["name"]
            for other, theirs in zip(found, scores, strict=True)
            if theirs != own and all(a >= b for a, b in zip(theirs, own, strict=True))
        ]
        entry.update(on_front=not better, dominated_by=better, compared_on=compared)
    return found
