"""A worker of a sweep: takes up trials, starts them as processes, watches them, and notes what they came to.
Torch is never imported here."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertwright import runs
from bertwright.errors import RunError, UserError
from bertwright.evaluation.extremes import one_line
from bertwright.experiments.sweep_entries import Claim, Entry
from bertwright.experiments.sweep_jobs import Budget, Side, free_memory_bytes
from bertwright.experiments.sweep_plan import Plan, Wanted, data_of, is_compared
from bertwright.experiments.sweep_processes import Processes
from bertwright.experiments.sweep_record import higher_is_better
from bertwright.experiments.sweep_show import shown_value
from bertwright.experiments.sweep_store import Store
from bertwright.experiments.sweep_tokens import SharedTokens
from bertwright.experiments.sweep_trial_files import (
    asked_metric,
    last_error,
    metric_of,
    note_share,
    plain_metrics,
    whole_lines,
)
from bertwright.progress import Reporter, duration
from bertwright.training.stop import Stop

TRIALS, ASKED, LOGS = "trials", "asked", "logs"
_TICK_S = 0.2
# With nothing to do but trials of other workers that may yet be lost, look this often.
_LOOK_S = 1.0
_YOUNG_S = 20.0
# So many first trials that all fail alike: the others would too.
_ALIKE = 3


@dataclass
class _Slot:
    """A trial that this worker has taken up. ``started`` is None until its folder is free.

    ``share_s`` is its part of the time that this worker's trials were at work: of a second with two at work each has
    half. So the parts add up to what the sweep spends.
    """

    claim: Claim
    run: Path
    threads: int
    started: float | None = None
    share_s: float = 0.0
    history_bytes: int = 0
    metric: str | None = None  # by which its training keeps its best state, once that is known
    end: str = ""  # why it was asked to end: "pruned", "stopped", "taken" or "other metric"

    @property
    def number(self) -> int:
        return self.claim.entry.number

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None else time.monotonic() - self.started

    @property
    def side_by_side(self) -> float | None:
        """How many trials were at work while this one was, it among them, on average; None if it was not."""
        return max(1.0, self.seconds / self.share_s) if self.share_s > 0 else None


class Worker:
    """Works on a sweep until nothing is left to do, the budget is spent, or it is asked to stop."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        store: Store,
        tokens: SharedTokens,
        processes: Processes,
        side: Side,
        budget: Budget,
        usd_per_hour: float | None,
        stop: Stop,
        reporter: Reporter,
        spent_s: float = 0.0,
    ) -> None:
        """``spent_s`` is what was spent before the first trial, by making the token ids that all share."""
        self.folder, self.plan, self.store, self.tokens = folder, plan, store, tokens
        self.processes, self.side, self.budget, self.stop = processes, side, budget, stop
        self.reporter = reporter
        self.slots: dict[int, _Slot] = {}
        self.spent_s = spent_s
        self.others_s = self.others_usd = 0.0
        self.last_tick = self.last_beat = self.last_look = 0.0
        self.durations: list[float] = []
        self.errors: list[str] = []
        self.num_finished = 0
        self.look_again = True
        self.usd_per_hour = usd_per_hour

    # --- the loop -----------------------------------------------------------------------------------------------------

    def work(self) -> str:
        """Why it ended: "over", "budget" or "stopped". All processes have ended then, and nobody's trials are lost."""
        for name in (TRIALS, ASKED, LOGS):
            (self.folder / name).mkdir(exist_ok=True)
        self._learn_from_before()
        self.last_tick = time.monotonic()
        self._note_spent()
        try:
            return self._work()
        finally:
            for slot in self.slots.values():  # after an error: the processes end with the server
                with contextlib.suppress(UserError):
                    self.store.release(slot.claim)
            with contextlib.suppress(UserError):
                self._note_spent()

    def _work(self) -> str:
        ending = ""
        while True:
            ended = self.processes.ended(_TICK_S if self.slots else 0.0)
            self._count_time()
            for number, code in ended:
                self._end(self.slots.pop(number), code)
            self._beat()
            if not ending:
                ending = self._why_end()
                if ending:
                    self._ask_to_end(list(self.slots.values()), "stopped")
            if ending:
                if not any(slot.started is not None for slot in self.slots.values()):
                    return ending
                continue
            self._watch()
            self._begin()
            if not self.slots:
                if is_over(self.plan, self.store.entries()):
                    return "over"
                if not self._may_spend_more():
                    return "budget"
                self.processes.ended(_LOOK_S)

    def _why_end(self) -> str:
        if self.stop.requested is not None:
            return "stopped"
        return "budget" if self._left_s() <= 0 else ""

    def _ask_to_end(self, slots: list[_Slot], why: str) -> None:
        for slot in slots:
            if slot.started is None:
                del self.slots[slot.number]
                self.store.release(slot.claim)
            elif not slot.end:
                slot.end = why
                self.processes.signal(slot.number, signal.SIGTERM if why in ("stopped", "taken") else signal.SIGKILL)

    # --- time and money -----------------------------------------------------------------------------------------------

    def _count_time(self) -> None:
        now = time.monotonic()
        at_work = [slot for slot in self.slots.values() if slot.started is not None]
        if at_work:
            self.spent_s += now - self.last_tick
        for slot in at_work:
            slot.share_s += (now - self.last_tick) / len(at_work)
        self.last_tick = now

    def _usd(self) -> float:
        return self.spent_s / 3600 * (self.usd_per_hour or 0.0)

    def _left_s(self) -> float:
        return self.budget.left_s(self.others_s + self.spent_s, self.others_usd + self._usd(), self.usd_per_hour)

    def _may_spend_more(self) -> bool:
        """Whether a trial that takes as long as those so far took on average ends within the budget."""
        mean = sum(self.durations) / len(self.durations) if self.durations else 0.0
        return self._left_s() > mean

    def _beat(self) -> None:
        """Now and then: a sign of life, what is spent, and whether a trial was taken away."""
        now = time.monotonic()
        if now - self.last_beat < self.store.heartbeat_s:
            return
        self.last_beat = now
        started = {slot.claim.trial_id: slot for slot in self.slots.values()}
        for claim in self.store.beat([slot.claim for slot in self.slots.values()]):
            self.reporter.warn(f"trial {claim.entry.number}: given no sign of life for too long, and taken by another")
            self._ask_to_end([started[claim.trial_id]], "taken")
        self._note_spent()

    def _note_spent(self) -> None:
        self.store.note_spent(self.spent_s, self._usd() if self.usd_per_hour is not None else None)
        others = [spent for worker, spent in self.store.spent().items() if worker != self.store.worker]
        self.others_s = sum(spent["seconds"] for spent in others)
        self.others_usd = sum(spent["usd"] or 0.0 for spent in others)

    def _learn_from_before(self) -> None:
        """How long trials took, and what they held, that ended before this worker began."""
        for entry in self.store.entries():
            result = entry.attributes.get("result") or {}
            if entry.state == "finished" and result.get("seconds"):
                self.durations.append(result["seconds"])
                self._note_memory(result.get("peak_process_bytes"))

    def _note_memory(self, peak_bytes: int | None) -> None:
        if peak_bytes:
            self.side.trial_bytes = max(self.side.trial_bytes or 0, peak_bytes)

    # --- beginning ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take up trials while there is room, and start those whose folders are free."""
        while self._has_room():
            claim = self._claim()
            if claim is None:
                break
            self._take_up(claim)
        for slot in list(self.slots.values()):
            if slot.started is None and not runs.is_locked(slot.run):
                self._start(slot)

    def _has_room(self) -> bool:
        if self.slots and time.monotonic() - self.last_look < _LOOK_S and not self.look_again:
            return False
        young = sum(slot.seconds < _YOUNG_S for slot in self.slots.values())
        free = free_memory_bytes() if self.slots else None
        return self.side.may_begin(len(self.slots), young, free) and self._may_spend_more()

    def _claim(self) -> Claim | None:
        """A trial to do, or None; lost ones and, of a search without a number, new ones are put in line first."""
        self.last_look = time.monotonic()
        claim = self.store.claim()
        if claim is None:
            self.store.free_lost()
            self.store.put_in_line(self._more())
            claim = self.store.claim()
        self.look_again = claim is not None
        return claim

    def _more(self) -> list[Wanted]:
        """What a search has to put in line."""
        if self.plan.search == "grid":
            return []
        known = {entry.key for entry in self.store.entries()}
        number = len(known) + 1 if self.plan.num_trials is None else self.plan.num_trials
        data = data_of(self.plan.trial_config({}))
        keys = (f"search-{place}" for place in range(number))
        return [Wanted(key, None, {}, data) for key in keys if key not in known]

    def _take_up(self, claim: Claim) -> None:
        run = self.folder / TRIALS / f"{claim.entry.number:04d}"
        if (run / runs.RESULT).is_file():  # it finished just when its worker was killed
            self._note_finished(_Slot(claim, run, 0))
            return
        try:
            if self.plan.search != "grid" or self.plan.pruner is not None:
                self.store.draw(claim, self.plan)
            config = self.plan.trial_config(claim.settings)
            asked = {**config.model_dump(mode="json", exclude_unset=True), **self.tokens.files(config)}
        except UserError as error:  # settings drawn that exclude each other
            self._note_failed(claim, str(error))
            return
        if self.plan.search != "grid":
            self.store.note(claim.trial_id, data=data_of(config))
        asked |= {"output": str(run), "resume": True}
        runs.write_json(self._asked_file(claim.entry), {"settings": asked})
        waiting = sum(entry.state in ("waiting", "running", "stopped") for entry in self.store.entries())
        self.slots[claim.entry.number] = _Slot(claim, run, self.side.threads(waiting))

    def _asked_file(self, entry: Entry) -> Path:
        return self.folder / ASKED / f"{entry.number:04d}.json"

    def _log(self, number: int) -> Path:
        return self.folder / LOGS / f"{number:04d}.txt"

    def _start(self, slot: _Slot) -> None:
        slot.started = time.monotonic()
        goes_on = " goes on" if slot.run.exists() else ""
        self.reporter.say(f"trial {slot.number}{goes_on}: {shown_settings(slot.claim)}")
        arguments = ["train", "--config", str(self._asked_file(slot.claim.entry)), "--quiet"]
        self._log(slot.number).unlink(missing_ok=True)
        self.processes.start(slot.number, arguments, slot.threads, self._log(slot.number))

    # --- watching -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look at those at work, and end the ones that are worse than others were at an evaluation, or are judged by
        another metric than they."""
        if not is_compared(self.plan):
            return
        for slot in list(self.slots.values()):
            if slot.started is None or slot.end:
                continue
            if self.plan.metric is None and slot.metric is None:
                slot.metric = asked_metric(slot.run)
                if self._why_not_comparable(slot.metric) is not None:
                    self._ask_to_end([slot], "other metric")
                    continue
            if self.plan.pruner is not None and self._is_worse(slot):
                self._ask_to_end([slot], "pruned")

    def _why_not_comparable(self, metric: str | None) -> str | None:
        """Why a trial that is judged by ``metric`` cannot be put beside the others; None if it can.

        What its texts are has a say in it: those of one class have no AUC, and are judged by log_loss.
        """
        if metric is None or not is_compared(self.plan):
            return None
        go_on = f"begin another sweep with --metric {metric}"
        if higher_is_better(metric) == self.store.minimizes():
            better, wanted = ("higher", "lower") if higher_is_better(metric) else ("lower", "higher")
            return f"it is judged by {metric}, better when {better}, and the study looks for what is {wanted}: {go_on}"
        known = (entry for entry in self.store.entries() if entry.state in ("finished", "pruned"))
        metrics = ((entry.attributes.get("result") or {}).get("metric") for entry in known)
        other = next((name for name in metrics if name is not None and name != metric), None)
        return None if other is None else f"it is judged by {metric}, and trials before it by {other}: {go_on}"

    def _is_worse(self, slot: _Slot) -> bool:
        lines = whole_lines(slot.run / runs.HISTORY)
        for line in lines[slot.claim.reported :]:
            slot.claim.reported += 1
            value = self._value_of_evaluation(slot, line)
            if value is not None and self.store.should_prune(slot.claim, value, slot.claim.reported):
                return True
        return False

    def _value_of_evaluation(self, slot: _Slot, line: Mapping[str, Any]) -> float | None:
        if self.plan.metric is not None:
            name = self.plan.metric.split(":")[1]
        else:
            name = runs.read_json(slot.run / runs.CONFIG)["settings"].get("best_metric", "")
        value = (line.get("validation") or {}).get(name)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    # --- ending -------------------------------------------------------------------------------------------------------

    def _end(self, slot: _Slot, code: int) -> None:
        self.look_again = True
        if slot.end == "taken":
            return
        if (slot.run / runs.RESULT).is_file():
            self._note_finished(slot)
        elif slot.end == "pruned":
            self._note_pruned(slot)
        elif slot.end == "other metric":
            why = self._why_not_comparable(slot.metric) or "it is judged by another metric"
            self._note_failed(slot.claim, why, seconds=slot.seconds)
        elif slot.end == "stopped":
            before = (slot.claim.entry.attributes.get("result") or {}).get("seconds") or 0.0
            self.store.release(slot.claim, result={"seconds": before + slot.seconds})
        else:
            self._note_failed(slot.claim, last_error(self._log(slot.number), code), seconds=slot.seconds)

    def _note_finished(self, slot: _Slot) -> None:
        try:
            if slot.side_by_side is not None:
                note_share(slot.run, slot.side_by_side, slot.threads)
            run = runs.open_run(slot.run)
            assert run.result is not None
        except RunError as error:
            self._note_failed(slot.claim, str(error))
            return
        metric = self.plan.metric or metric_of(run)
        why_not = self._why_not_comparable(metric)
        if why_not is not None:
            self._note_failed(slot.claim, why_not)
            return
        split, _, name = (metric or "").partition(":")
        value = run.metrics.get(split, {}).get(name)
        if value is None and self.plan.search != "grid":
            self._note_failed(slot.claim, f"{metric} has no value on these texts, so there is nothing to search by")
            return
        result = {
            "metric": metric,
            "value": value,
            "metrics": plain_metrics(run.metrics),
            "seconds": run.result["seconds"]["total"],
            "usd": run.result["cost"]["usd"],
            "steps": run.result.get("steps"),
            "peak_process_bytes": run.result["memory"]["peak_process_bytes"],
            "side_by_side": run.result.get("side_by_side"),
        }
        self.store.finish(slot.claim, value, result=result)
        self.num_finished += 1
        self.durations.append(result["seconds"])
        self._note_memory(result["peak_process_bytes"])
        shown = "" if value is None else f"{metric} {value:.4f}, "
        self.reporter.say(f"trial {slot.number}: {shown}{duration(result['seconds'])}")

    def _note_pruned(self, slot: _Slot) -> None:
        self.store.prune(
            slot.claim, result={"seconds": slot.seconds, "metric": self.plan.metric or asked_metric(slot.run)}
        )
        shutil.rmtree(slot.run / runs.CHECKPOINTS, ignore_errors=True)  # nobody goes on with it
        self.reporter.say(f"trial {slot.number}: ended after evaluation {slot.claim.reported}, worse than others there")

    def _note_failed(self, claim: Claim, error: str, **result: Any) -> None:
        self.store.fail(claim, error, result=result)
        self.reporter.warn(f"trial {claim.entry.number} failed: {one_line(error)}")
        self.errors.append(error)
        if not self.num_finished and len(self.errors) == _ALIKE and len(set(self.errors)) == 1 and not self.durations:
            raise UserError(
                f"the first {_ALIKE} trials failed alike: {one_line(error)}. Put it right, then pass --retry-failed"
            )


def is_over(plan: Plan, entries: Sequence[Entry]) -> bool:
    """Whether nothing is left to do of a sweep, for anybody."""
    if any(entry.state in ("waiting", "running", "stopped") for entry in entries):
        return False
    return plan.search == "grid" or (plan.num_trials is not None and len(entries) >= plan.num_trials)


def shown_settings(claim: Claim) -> str:
    """The settings of a trial in one line."""
    name = claim.entry.attributes.get("name")
    words = ", ".join(f"{setting} {shown_value(value)}" for setting, value in claim.settings.items())
    return one_line(f"{name}: {words}" if name and words else name or words)
