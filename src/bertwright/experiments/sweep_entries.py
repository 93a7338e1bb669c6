"""What the trials of a sweep are, told from those of its study (``sweep_store`` has the rules). Torch is never imported
here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Entry:
    """A trial of the sweep, whatever number of times it was taken up.

    Attributes:
        state: as ``sweep_record.State``.
        shown: the trial of the study that tells most of it.
        waiting: the one to claim, if it may be claimed.
        must_wait: whether it has to be put in line again, since it was lost.
        failures: how often it failed with an error.
    """

    key: str
    number: int
    state: str
    shown: optuna.trial.FrozenTrial
    waiting: optuna.trial.FrozenTrial | None
    must_wait: bool
    failures: int

    @property
    def attributes(self) -> dict[str, Any]:
        return self.shown.user_attrs


@dataclass
class Claim:
    """A trial that this worker has taken up."""

    entry: Entry
    trial_id: int
    settings: dict[str, Any]
    trial: optuna.Trial | None = None
    reported: int = 0
    last_value: float | None = None


def entries_of(trials: Sequence[optuna.trial.FrozenTrial]) -> list[Entry]:
    """The trials of the sweep, by their number, from those of its study."""
    alike: dict[str, list[optuna.trial.FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if "key" in trial.user_attrs:  # the study may hold trials of other making
            alike.setdefault(trial.user_attrs["key"], []).append(trial)
    return sorted((_entry(key, group) for key, group in alike.items()), key=lambda entry: entry.number)


def _entry(key: str, trials: Sequence[optuna.trial.FrozenTrial]) -> Entry:
    from optuna.trial import TrialState

    number = trials[0].user_attrs["number"]
    errors = [trial for trial in trials if trial.state == TrialState.FAIL and "error" in trial.user_attrs]
    of_now = [trial for trial in trials if trial.user_attrs.get("attempt", 0) == len(errors)]
    lost = [trial for trial in of_now if trial.state == TrialState.FAIL]
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            state = "finished" if trial.state == TrialState.COMPLETE else "pruned"
            return Entry(key, number, state, trial, None, False, len(errors))
    for trial in of_now:
        if trial.state == TrialState.RUNNING:
            return Entry(key, number, "running", trial, None, False, len(errors))
    for trial in of_now:
        if trial.state == TrialState.WAITING:
            shown = lost[-1] if lost else trial
            return Entry(key, number, "stopped" if lost else "waiting", shown, trial, False, len(errors))
    if lost:
        return Entry(key, number, "stopped", lost[-1], None, True, len(errors))
    return Entry(key, number, "failed", errors[-1], None, False, len(errors))
