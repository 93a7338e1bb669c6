"""Turn by turn, round by round: every contender in its own process, one at work at a time, and what came out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.benchmarking.entries import Entry
from bertwright.benchmarking.processes import Worker, WorkerFailed
from bertwright.progress import Reporter

StartWorker = Callable[[str, Path], Worker]
Gate = Callable[[Sequence["Measured"]], Mapping[str, str]]
"""The names of the refused ones, with the reasons; some may have stopped before, with what they had computed."""


@dataclass
class Measured:
    """One contender's turns.

    Attributes:
        reason: why it did not run, or stopped; None: it ran to the end.
        turns: the answers of its timed turns, oldest first.
        outcome: what it computed; see ``Contender.outcome``.
        prepare_s: seconds that making it took, libraries loaded included.
        first_turn: the answer of the first turn of all, which does not count.
        alone: seconds of each text that was scored by itself, pass by pass; the first does not count.
        alone_logits: (texts, labels) of these, of the last pass.
        energy_source: the counters that its turns' joules are from; None: there are none.
    """

    entry: Entry
    chosen: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int | None = None
    peak_gpu_bytes: int | None = None
    outcome: dict[str, np.ndarray] = field(default_factory=dict)
    prepare_s: float | None = None
    first_turn: dict[str, Any] | None = None
    alone: list[list[float]] = field(default_factory=list)
    alone_logits: np.ndarray | None = None
    energy_source: str | None = None

    @property
    def ran(self) -> bool:
        return self.reason is None and bool(self.turns)

    def rates(self, unit: str) -> list[float]:
        """``unit`` ("texts", "tokens", "operations", "num_bytes") a second, of every timed turn."""
        return [turn[unit] / turn["seconds"] for turn in self.turns if unit in turn]

    @property
    def load_s(self) -> float | None:
        """Seconds until it could begin, without those that went into finding its fastest settings."""
        if self.prepare_s is None:
            return None
        return self.prepare_s - self.chosen.get("tuning_s", 0.0) - self.chosen.get("cold_s", 0.0)

    @property
    def warm_up_s(self) -> float | None:
        """By how many seconds its first passes, in batches and one text at a time, were slower than later ones."""
        if self.first_turn is None or not self.turns:
            return None
        slower = self.first_turn["seconds"] - statistics.median(turn["seconds"] for turn in self.turns)
        first, *later = map(sum, self.alone) if self.alone else [0.0]
        slower_alone = first - statistics.median(later) if later else 0.0
        return max(0.0, slower) + max(0.0, slower_alone) + self.chosen.get("cold_s", 0.0)

    def alone_ms(self, percent: float) -> dict[str, float] | None:
        """Milliseconds within which ``percent`` of the texts were scored, by themselves: median and range of passes."""
        return spread([float(np.percentile(times, percent)) * 1e3 for times in self.alone[1:]])

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
    gate: Gate | None = None,
    rows_alone: Sequence[int] = (),
) -> list[Measured]:
    """Prepare all contenders, one after the other, then let them take turns: ``rounds`` timed rounds.

    Who begins changes from round to round, so that nobody always follows the same other. A contender that fails is left
    out of what follows; its reason is kept.

    Args:
        gate: asked after the first round, and once more at the end: why is a contender refused by what it has computed?
            Such are not timed, or lose the times that they had.
        rows_alone: texts that every contender with logits is given one at a time, in as many passes as rounds, after
            one that does not count.
    """
    found = [Measured(entry) for entry in entries]
    num_turns = len(found) * (rounds + warm_up_rounds + (1 + rounds if rows_alone else 0))
    with ExitStack() as stack, reporter.progress("Turns", num_turns, "turns") as advance:
        workers: dict[str, Worker] = {}

        def ask(one: Measured, **request: Any) -> dict[str, Any] | None:
            if one.reason is not None:
                return None
            try:
                return workers[one.entry.name].ask(**request)
            except WorkerFailed as failure:
                leave_out(one, str(failure))
                return None

        def leave_out(one: Measured, reason: str) -> None:
            one.reason = reason
            one.turns, one.alone = [], []
            reporter.warn(f"{one.entry.name}: not run: {reason}")
            workers[one.entry.name].stop()

        def judge(gate: Gate) -> None:
            for name, reason in gate(found).items():
                refused = next(one for one in found if one.entry.name == name)
                if refused.reason is None:
                    leave_out(refused, reason)

        def turn(one: Measured, number: int) -> None:
            answer = ask(one, act="run")
            if answer is not None and number == 0 and warm_up_rounds:
                one.first_turn = answer
            if answer is not None and number >= warm_up_rounds:
                one.turns.append(answer)
            advance(1, one.entry.name)

        def alone(one: Measured) -> None:
            answer = ask(one, act="alone", rows=list(rows_alone)) if one.outcome else None
            if answer is not None:
                one.alone.append(answer["seconds"])
                one.alone_logits = _arrays(answer["outcome"])["logits"]
            advance(1, one.entry.name)

        for one in found:
            name = one.entry.name
            reporter.say(f"preparing {name}")
            workers[name] = stack.enter_context(start(name, folder / f"{name}.log"))
            options = dict(one.entry.options)
            answer = ask(one, act="prepare", target=one.entry.target, options=options, case=str(folder))
            if answer is not None:
                one.chosen = answer["prepared"]
                one.prepare_s, one.energy_source = answer.get("seconds"), answer.get("energy_source")
        for number in range(warm_up_rounds + rounds):
            for one in _turned(found, number):
                turn(one, number)
            if number == 0 and gate is not None:
                for one in found:
                    one.outcome = _arrays((ask(one, act="outcome") or {}).get("outcome"))
                    if rows_alone:
                        alone(one)
                judge(gate)
        if rows_alone:
            for number in range(rounds):
                for one in _turned(found, number):
                    alone(one)
        for one in found:
            answer = ask(one, act="finish")
            if answer is not None:
                one.peak_bytes, one.peak_gpu_bytes = answer["peak_bytes"], answer["peak_gpu_bytes"]
                one.outcome = _arrays(answer["outcome"])
        if gate is not None:  # once more: of what was computed while the clock ran
            judge(gate)
    return found


def _turned(found: Sequence[Measured], number: int) -> list[Measured]:
    """All of them, another one first in each round."""
    first = number % len(found)
    return [*found[first:], *found[:first]]


def _arrays(path: str | None) -> dict[str, np.ndarray]:
    """What a worker wrote to ``path``; nothing of None."""
    if path is None:
        return {}
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


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
