"""Turn by turn, round by round: every contender in its own process, one at work at a time, and what came out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.benchmarking.entries import Entry
from bertwright.benchmarking.processes import Worker, WorkerFailed
from bertwright.progress import Reporter

StartWorker = Callable[[str, Path], Worker]


@dataclass
class Measured:
    """One contender's turns.

    Attributes:
        reason: why it did not run, or stopped; None: it ran to the end.
        turns: the answers of its timed turns, oldest first.
        outcome: what it computed; see ``Contender.outcome``.
    """

    entry: Entry
    chosen: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int | None = None
    peak_gpu_bytes: int | None = None
    outcome: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def ran(self) -> bool:
        return self.reason is None and bool(self.turns)

    def rates(self, unit: str) -> list[float]:
        """``unit`` ("texts", "tokens", "operations", "num_bytes") a second, of every timed turn."""
        return [turn[unit] / turn["seconds"] for turn in self.turns if unit in turn]

    @property
    def idle_cpu_s(self) -> float:
        """CPU seconds that it spent on waiting for its turns."""
        return sum(turn.get("idle_cpu_s") or 0.0 for turn in self.turns)


def measure(
    entries: Sequence[Entry],
    folder: Path,
    rounds: int,
    warm_up_rounds: int,
    reporter: Reporter,
    start: StartWorker = Worker,
) -> list[Measured]:
    """Prepare all contenders, one after the other, then let them take turns: ``rounds`` timed rounds.

    Who begins changes from round to round, so that nobody always follows the same other. A contender that fails is left
    out of what follows; its reason is kept.
    """
    found = [Measured(entry) for entry in entries]
    with ExitStack() as stack, reporter.progress("Turns", len(found) * (rounds + warm_up_rounds), "turns") as advance:
        workers: dict[str, Worker] = {}

        def ask(one: Measured, **request: Any) -> dict[str, Any] | None:
            try:
                return workers[one.entry.name].ask(**request)
            except WorkerFailed as failure:
                one.reason = str(failure)
                reporter.warn(f"{one.entry.name}: not run: {one.reason}")
                workers[one.entry.name].stop()
                return None

        for one in found:
            name = one.entry.name
            reporter.say(f"preparing {name}")
            workers[name] = stack.enter_context(start(name, folder / f"{name}.log"))
            options = dict(one.entry.options)
            answer = ask(one, act="prepare", target=one.entry.target, options=options, case=str(folder))
            if answer is not None:
                one.chosen = answer["prepared"]
        for number in range(warm_up_rounds + rounds):
            first = number % len(found)
            for one in found[first:] + found[:first]:
                answer = None if one.reason is not None else ask(one, act="run")
                if answer is not None and number >= warm_up_rounds:
                    one.turns.append(answer)
                advance(1, one.entry.name)
        for one in found:
            answer = None if one.reason is not None else ask(one, act="finish")
            if answer is not None:
                one.peak_bytes, one.peak_gpu_bytes = answer["peak_bytes"], answer["peak_gpu_bytes"]
                if answer["outcome"] is not None:
                    with np.load(answer["outcome"]) as arrays:
                        one.outcome = {name: arrays[name] for name in arrays.files}
    return found


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, smallest and largest; None of nothing."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """How many times as fast the first rates are as the second: the ratio of their medians; None without both."""
    if not ours or not theirs or statistics.median(theirs) <= 0:
        return None
    return statistics.median(ours) / statistics.median(theirs)
