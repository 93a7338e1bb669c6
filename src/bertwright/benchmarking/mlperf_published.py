"""MLPerf's published BERT results, as facts: ``mlperf_bert.csv``. What may be set beside them, and what never.

Columns: ``suite``, ``round``, ``division``, ``submitter``, ``system``: MLPerf's names. ``accelerator_count``: of the
whole system; sockets of CPU systems. ``value``: of the whole system, never of one accelerator; ``metric`` is its unit.
``how_computed``, ``source_path``, ``source_commit``: where it is from.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from bertwright.benchmarking.loadgen import Scenario

# What a result of ours lacks to be one of MLPerf's. They are said wherever the two stand on one page.
DIFFERENCES = (
    "not submitted, not reviewed: unofficial",
    "random weights, so that no accuracy could be checked; theirs must answer SQuAD questions with F1 89.965 or more",
    "every sample has 384 tokens; theirs are up to 384, and padding may be left out, so that they compute far less",
    "two numbers a sample from the mean of its tokens; theirs are two for each token",
    "Server: samples that were answered a second; theirs of v4.0 and before are of those that were sent",
    "64 samples of random tokens, again and again, and seeds of our own; theirs are 10,833 questions and given seeds",
)


@dataclass(frozen=True)
class Published:
    """A published result of bert-99, of a whole system."""

    round: str
    submitter: str
    system: str
    accelerator: str
    accelerator_count: int
    scenario: str
    metric: str
    value: float


def load_published(scenario: Scenario) -> list[Published]:
    """The published results of bert-99 inference in a scenario, the slowest first.

    Left out are those of the contest's reference code, which nobody tuned: they may not stand beside tuned ones.
    Nothing else may stand beside a measurement of that scenario, either: not bert-99.9, not another scenario, not
    training.
    """
    text = files("bertwright.benchmarking").joinpath("mlperf_bert.csv").read_text(encoding="utf-8")
    found = [
        Published(
            row["round"],
            row["submitter"],
            row["system"],
            row["accelerator"],
            int(row["accelerator_count"]),
            row["scenario"],
            row["metric"],
            float(row["value"]),
        )
        for row in csv.DictReader(text.splitlines())
        if row["suite"] == "inference" and row["benchmark"] == "bert-99" and row["scenario"] == scenario
        if "reference code" not in row["accelerator"]
    ]
    return sorted(found, key=lambda one: -one.value if "latency" in one.metric else one.value)


def nearest(published: Sequence[Published], value: float, count: int) -> list[Published]:
    """The ``count`` published results whose values are nearest to ``value``, by their ratio, in their order."""
    chosen = sorted(
        published, key=lambda one: abs(one.value / value - 1) if one.value > value else value / one.value - 1
    )
    kept = set(chosen[:count])
    return [one for one in published if one in kept]
