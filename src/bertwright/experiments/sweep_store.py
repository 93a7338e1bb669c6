"""The study of a sweep: an Optuna storage that many workers share, and who may do which trial. Torch is never imported.

A trial of a sweep may be several trials of the study: each time that somebody takes it up is one, all with the same
``key``. States of the study only ever go forward: WAITING, RUNNING, then COMPLETE, PRUNED or FAIL. One that FAILs
without an ``error`` was lost (its worker died, or was stopped): it is put in line again, with the settings that it
had, and goes on from its checkpoint. Two workers may put the same one in line at once: the one with the lowest number
counts, and the other is never begun. So nobody has to be in charge.

The step from WAITING to RUNNING is the claim. PostgreSQL locks the row meanwhile; SQLite does not, so that there a lock
on a file beside it does.
"""

from __future__ import annotations

import contextlib
import re
import socket
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright.errors import UserError
from bertwright.experiments.sweep_database import Database, InTheWay
from bertwright.experiments.sweep_draw import pruner_of, sampler_of, suggest
from bertwright.experiments.sweep_entries import Claim, Entry, entries_of
from bertwright.experiments.sweep_plan import Plan, Wanted
from bertwright.randomness import purpose_seed
from bertwright.runs import wait_for_lock

if TYPE_CHECKING:
    import optuna

_WORKERS = "workers"
_RECORD, _SPENT = "bertwright sweep", "spent:"


class Store:
    """The study ``name`` in the folder of a sweep, or in the database at ``url``.

    Raises:
        UserError: Optuna or the database's client is not installed; the database cannot be reached.
    """

    def __init__(self, folder: Path, url: str | None, name: str, heartbeat_s: int = 15, write: bool = True) -> None:
        self.folder, self.name, self.heartbeat_s = folder, name, heartbeat_s
        self.is_file = url is None
        self._database = Database(folder, url, heartbeat_s, write)
        self._optuna, self._storage, self._try = self._database.optuna, self._database.storage, self._database.ask
        self._exclusive = self._database.exclusive
        self._study_id = -1
        self.worker = uuid.uuid4().hex[:12]
        self._alive = contextlib.ExitStack()

    # --- the study ----------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The sweeps in the database."""
        studies = self._try(lambda: self._storage.get_all_studies())
        return [study.study_name for study in studies if _RECORD in study.user_attrs]

    def find(self) -> dict[str, Any] | None:
        """The record of the sweep, or None if there is none of that name."""

        def look() -> dict[str, Any] | None:
            try:
                self._study_id = self._storage.get_study_id_from_name(self.name)
            except KeyError:
                return None
            found = self._storage.get_study_user_attrs(self._study_id).get(_RECORD)
            if found is not None and not isinstance(found, dict):
                raise UserError(f"{self._database.shown_url}: the record of {self.name} is damaged")
            return found

        return self._try(look)

    def is_same(self, other: Store) -> bool:
        """Whether both are one study, whoever asks for it."""
        return (self._database.shown_url, self.name) == (other._database.shown_url, other.name)

    def create(self, record: Mapping[str, Any], minimize: bool) -> None:
        """Make the study, unless it is there, and let ``record`` be its record."""
        from optuna.study import StudyDirection

        direction = StudyDirection.MINIMIZE if minimize else StudyDirection.MAXIMIZE

        def make() -> None:
            with contextlib.suppress(self._optuna.exceptions.DuplicatedStudyError):
                self._storage.create_new_study([direction], self.name)
            self._study_id = self._storage.get_study_id_from_name(self.name)
            self._storage.set_study_user_attr(self._study_id, _RECORD, dict(record))

        self._try(make)

    def minimizes(self) -> bool:
        """Whether the study was begun to look for low values."""
        from optuna.study import StudyDirection

        directions = self._try(lambda: self._storage.get_study_directions(self._study_id))
        return bool(directions[0] == StudyDirection.MINIMIZE)

    def delete(self) -> None:
        """Remove the study and all its trials."""
        self.find()
        self._try(lambda: self._storage.delete_study(self._study_id))

    def entries(self) -> list[Entry]:
        """All trials of the sweep, by their number."""
        return entries_of(self._trials())

    def entries_begun(self) -> bool:
        """Whether any trial was ever begun."""
        return any(entry.state != "waiting" for entry in self.entries())

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._try(lambda: self._storage.get_all_trials(self._study_id, deepcopy=False))

    # --- workers ------------------------------------------------------------------------------------------------------

    def begin_work(self) -> int:
        """Let other workers see that this one is alive, until ``end_work``, or however the process ends.

        Returns the descriptor of an open file: as long as a process has it, its trials are not taken up by others.
        """
        folder = self.folder / _WORKERS
        folder.mkdir(exist_ok=True)
        path = folder / self.worker
        self._alive.callback(path.unlink, missing_ok=True)
        return self._alive.enter_context(wait_for_lock(path)).fileno()

    def end_work(self) -> None:
        self._alive.close()

    def note_spent(self, seconds: float, usd: float | None) -> None:
        """Let the record hold what this worker has spent so far."""
        value = {"seconds": seconds, "usd": usd, "host": socket.gethostname()}
        self._try(lambda: self._storage.set_study_user_attr(self._study_id, _SPENT + self.worker, value))

    def spent(self) -> dict[str, dict[str, Any]]:
        """By worker, those that ended too, what ``note_spent`` noted."""
        found = self._try(lambda: self._storage.get_study_user_attrs(self._study_id))
        return {name.removeprefix(_SPENT): value for name, value in found.items() if name.startswith(_SPENT)}

    def free_lost(self) -> None:
        """Let go of the trials of workers that died: those that gave no sign of life, and those of this folder whose
        process has ended."""
        from optuna.trial import TrialState

        study = self._loaded()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._try(lambda: self._optuna.storages.fail_stale_trials(study))
        with self._exclusive():
            for trial in self._trials():
                # Of a file, a claim is one act in the lock: without a name its worker was killed in the midst of it.
                nameless = self.is_file and "worker" not in trial.user_attrs
                if trial.state == TrialState.RUNNING and (nameless or self.has_died(trial.user_attrs)):
                    self._end(trial._trial_id, TrialState.FAIL)

    def num_at_work(self) -> int:
        """How many workers are alive: those of this folder, by the locks on their files, and those elsewhere that gave
        a sign of life for a trial. This one does not count."""
        here = locked_workers(self.folder) - {self.worker}
        if self.find() is None:
            return len(here)
        self.free_lost()
        return len(here | {entry.attributes["worker"]["id"] for entry in self.entries() if self._is_at_work(entry)})

    def _is_at_work(self, entry: Entry) -> bool:
        worker = (entry.attributes.get("worker") or {}).get("id")
        return entry.state == "running" and isinstance(worker, str) and worker != self.worker

    def has_died(self, attributes: Mapping[str, Any]) -> bool:
        """Whether who works at a trial is a worker of this folder, and no more. Of others nothing can be seen here."""
        worker = (attributes.get("worker") or {}).get("id")
        if not isinstance(worker, str) or not re.fullmatch(r"[0-9a-f]{12}", worker) or worker == self.worker:
            return False
        path = self.folder / _WORKERS / worker
        return path.is_file() and not _is_locked(path)

    # --- trials -------------------------------------------------------------------------------------------------------

    def put_in_line(self, wanted: Sequence[Wanted], retry_failed: bool = False) -> None:
        """Let every trial that is wanted, and every one that was lost, wait for a worker."""
        with self._exclusive():
            entries = self.entries()
            known = {entry.key for entry in entries}
            next_number = 1 + max((entry.number for entry in entries), default=-1)
            for one in wanted:
                if one.key in known:
                    continue
                self._enqueue(
                    {
                        "key": one.key,
                        "number": next_number,
                        "name": one.name,
                        "settings": one.settings,
                        "data": one.data,
                        "attempt": 0,
                    },
                    {},
                )
                next_number += 1
            for entry in entries:
                if entry.must_wait or (retry_failed and entry.state == "failed"):
                    again = ("key", "number", "name", "settings", "data", "result")
                    attributes = {name: entry.attributes[name] for name in again if name in entry.attributes}
                    fixed = {**entry.shown.system_attrs.get("fixed_params", {}), **entry.shown.params}
                    self._enqueue({**attributes, "attempt": entry.failures}, fixed)

    def _enqueue(self, attributes: dict[str, Any], fixed: dict[str, Any]) -> None:
        from optuna.trial import TrialState, create_trial

        waiting = create_trial(state=TrialState.WAITING, user_attrs=attributes, system_attrs={"fixed_params": fixed})
        self._try(lambda: self._storage.create_new_trial(self._study_id, waiting))

    def claim(self) -> Claim | None:
        """A trial that nobody else works at, from now on this worker's; None where none waits."""
        from optuna.trial import TrialState

        with self._exclusive():
            for entry in self.entries():
                waiting = entry.waiting
                if waiting is None:
                    continue
                trial_id = waiting._trial_id
                with contextlib.suppress(InTheWay):  # before the claim: who is killed just after it has given a sign
                    self._try(lambda trial_id=trial_id: self._storage.record_heartbeat(trial_id))  # type: ignore[misc]
                if not self._claimed(trial_id):
                    continue
                again = next((one for one in self.entries() if one.key == entry.key), entry)
                if again.shown._trial_id != trial_id:  # somebody has finished it meanwhile, or works at it
                    self._end(trial_id, TrialState.FAIL)
                    continue
                here = {"id": self.worker, "host": socket.gethostname(), "folder": str(self.folder.absolute())}
                self.note(trial_id, worker=here)
                return Claim(again, trial_id, dict(again.attributes.get("settings") or {}))
        return None

    def _claimed(self, trial_id: int) -> bool:
        from optuna.trial import TrialState

        try:
            return self._try(lambda: self._storage.set_trial_state_values(trial_id, TrialState.RUNNING))
        except self._optuna.exceptions.UpdateFinishedTrialError:
            return False

    def draw(self, claim: Claim, plan: Plan) -> None:
        """Of a search, the settings of the trial: those that it had before, or new ones.

        Each trial draws with a seed of its own, so that a sweep that was stopped draws what it would have drawn.
        """
        study = self._loaded()
        number = claim.entry.number
        seed = purpose_seed(plan.search_seed, "sweep", number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the constant liar is called experimental
            study.sampler = sampler_of(self._optuna, plan, seed)
        study.pruner = pruner_of(self._optuna, plan)
        trial = claim.trial = self._try(lambda: self._optuna.Trial(study, claim.trial_id))
        for name, dimension in plan.space.items():
            claim.settings[name] = self._try(lambda n=name, d=dimension: suggest(trial, n, d))  # type: ignore[misc]
        if plan.space:
            self.note(claim.trial_id, settings=claim.settings)

    def should_prune(self, claim: Claim, value: float, evaluation: int) -> bool:
        """Tell the value of an evaluation, counted from 1, and ask whether the trial is worse than others there."""
        assert claim.trial is not None
        trial = claim.trial
        claim.last_value = value
        self._try(lambda: trial.report(value, evaluation))
        return self._try(trial.should_prune)

    def beat(self, claims: Sequence[Claim]) -> list[Claim]:
        """Give a sign of life for ``claims``; those that were taken away, since there was none for too long."""
        from optuna.trial import TrialState

        lost = []
        for claim in claims:
            if self._try(lambda c=claim: self._storage.get_trial(c.trial_id)).state != TrialState.RUNNING:  # type: ignore[misc]
                lost.append(claim)
            else:
                self._try(lambda c=claim: self._storage.record_heartbeat(c.trial_id))  # type: ignore[misc]
        return lost

    def note(self, trial_id: int, **attributes: Any) -> None:
        """Keep what is known of a trial of the study."""

        def write() -> None:
            for name, value in attributes.items():
                self._storage.set_trial_user_attr(trial_id, name, value)

        with contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            self._try(write)

    def finish(self, claim: Claim, value: float | None, **attributes: Any) -> None:
        from optuna.trial import TrialState

        self.note(claim.trial_id, **attributes)
        self._end(claim.trial_id, TrialState.COMPLETE, value)

    def prune(self, claim: Claim, **attributes: Any) -> None:
        from optuna.trial import TrialState

        self.note(claim.trial_id, pruned_at=claim.reported, **attributes)
        self._end(claim.trial_id, TrialState.PRUNED, claim.last_value)

    def fail(self, claim: Claim, error: str, **attributes: Any) -> None:
        from optuna.trial import TrialState

        self.note(claim.trial_id, error=error, **attributes)
        self._end(claim.trial_id, TrialState.FAIL)

    def release(self, claim: Claim, **attributes: Any) -> None:
        """Let others, or a later call, go on with the trial."""
        from optuna.trial import TrialState

        self.note(claim.trial_id, **attributes)
        self._end(claim.trial_id, TrialState.FAIL)

    def _end(self, trial_id: int, state: optuna.trial.TrialState, value: float | None = None) -> None:
        values = None if value is None else [value]
        with contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            self._try(lambda: self._storage.set_trial_state_values(trial_id, state, values))

    def importances(self, plan: Plan) -> dict[str, float]:
        """By setting, its share of the differences between the values of the trials; empty where it cannot be told."""
        from optuna.trial import TrialState

        valued = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE and trial.values]
        if plan.search == "grid" or len(valued) < 4 or len({trial.value for trial in valued}) < 2:
            return {}
        evaluator = self._optuna.importance.FanovaImportanceEvaluator(seed=plan.search_seed % 2**32)
        found = self._optuna.importance.get_param_importances(self._loaded(), evaluator=evaluator)
        return {name: float(share) for name, share in found.items()}

    # --- inside -------------------------------------------------------------------------------------------------------

    def _loaded(self) -> optuna.Study:
        """The study as it is now; one that was loaded earlier remembers what there was then."""
        return self._try(lambda: self._optuna.load_study(study_name=self.name, storage=self._storage))


def locked_workers(folder: Path) -> set[str]:
    """The workers of the sweep in ``folder`` that are alive, as the locks on their files tell."""
    return {path.name for path in (folder / _WORKERS).glob("*") if path.is_file() and _is_locked(path)}


def _is_locked(path: Path) -> bool:
    try:
        with wait_for_lock(path, tries=1):
            return False
    except BlockingIOError:
        return True
