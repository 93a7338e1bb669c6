"""Many trainings over a grid, a search or a list: ``bertwright sweep``. Torch is never imported here."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from bertwright.config.base import expand_home
from bertwright.config.sweep import SweepSettings
from bertwright.config.train import TrainConfig
from bertwright.errors import Interrupted, RunError, UserError
from bertwright.experiments.sweep_database import FILE
from bertwright.experiments.sweep_entries import Entry
from bertwright.experiments.sweep_flags import checked_metric
from bertwright.experiments.sweep_folder import (
    Asked,
    Replaced,
    command,
    find_or_begin,
    only_one,
    plan_on_record,
    read_record,
)
from bertwright.experiments.sweep_jobs import Side, available_cpus, budget_of, jobs_of
from bertwright.experiments.sweep_plan import Plan, is_minimized, representatives
from bertwright.experiments.sweep_processes import Processes
from bertwright.experiments.sweep_record import Sweep, Trial
from bertwright.experiments.sweep_show import show_sweep
from bertwright.experiments.sweep_store import Store
from bertwright.experiments.sweep_tokens import MAKER, SharedTokens, folder_of, shared_tokens, write_needs
from bertwright.experiments.sweep_trial_files import last_error
from bertwright.experiments.sweep_work import TRIALS, Worker, is_over
from bertwright.progress import Reporter
from bertwright.training.stop import Stop, StopNow

__all__ = ["Sweep", "Trial", "open_sweep", "sweep"]

_TOKENS_LOG = "tokens.txt"
_TOKENS_JOB = -1


def sweep(
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    space: Mapping[str, str | Sequence[Any]] | None = None,
    trials: str | Path | Sequence[Mapping[str, Any]] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Sweep:
    """Train many classifiers on the labelled texts in ``data`` (a file or several) and return what came of it.

    ``sweep("comments.csv", grid={"model": ["bert-tiny", "bert-mini"], "seed": [0, 1, 2]})`` trains all combinations;
    ``space={"learning_rate": "log:1e-5..1e-3"}`` with ``num_trials=30`` searches; ``trials`` is a list of settings, or
    the file that holds one. ``settings`` are those of ``bertwright train`` and of ``bertwright sweep``, with
    underscores. The same call goes on with a sweep that was stopped.

    Raises:
        UserError: bad settings anywhere in the grid, before anything is begun; an output in the way; all trials failed.
    """
    given = {**settings, "train": data, "grid": grid, "space": space, "trials": trials}
    return run_sweep(given, Reporter(quiet=quiet, results=not quiet))


def open_sweep(path: str | Path, storage: str | None = None) -> Sweep:
    """The sweep in the folder ``path``, finished or not.

    ``storage`` is the URL of its study's database, where the one on record lacks the password.

    Raises:
        RunError: no sweep is there, or its files are damaged.
    """
    folder = Path(expand_home(os.fspath(path)))
    record = read_record(folder)
    plan = plan_on_record(record, folder)
    if record["storage"] is None and not (folder / FILE).is_file():
        return Sweep(folder, record["study"], plan.record(), (), plan.search, 0.0, None)
    store = Store(folder, storage or record["storage"], record["study"], write=False)
    if store.find() is None:
        return Sweep(folder, record["study"], plan.record(), (), plan.search, 0.0, None)
    try:
        trials = tuple(_trial(entry, folder, store) for entry in store.entries())
        spent = list(store.spent().values())
        usd = [one["usd"] for one in spent if one["usd"] is not None]
        seconds = sum(float(one["seconds"]) for one in spent)
        importances = store.importances(plan)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder}: the sweep's study is damaged ({type(error).__name__}: {error})") from None
    return Sweep(
        folder, store.name, plan.record(), trials, plan.search, seconds, sum(usd) if usd else None, importances
    )


def run_sweep(given: Mapping[str, Any], reporter: Reporter) -> Sweep:
    """Begin, continue or join a sweep with the settings ``given`` (names of ``SweepSettings``, and ``train``)."""
    asked = Asked(given)
    folder = asked.folder
    settings = asked.settings
    budget_of(settings.budget, settings.usd_per_hour)
    jobs_of(settings.jobs)
    replaced = None
    if settings.overwrite:
        asked.check_begins()
        replaced = Replaced(folder, settings.storage)
    was_there = folder.exists()
    try:
        plan = find_or_begin(asked, folder, replaced)
        with contextlib.ExitStack() as stack:
            if not settings.join:
                stack.enter_context(only_one(folder))
            stop = stack.enter_context(Stop())
            with stop.deferred():
                ended = _work(asked, folder, plan, stop, reporter, replaced)
    except StopNow as signal:
        _leave(signal, folder, reporter, replaced is not None and replaced.put_back())
    except UserError as error:
        if isinstance(error, _Unusable) and not was_there:
            shutil.rmtree(folder, ignore_errors=True)
        if replaced is not None:
            replaced.put_back()
        raise UserError(str(error)) if isinstance(error, _Unusable) else error from None
    found = open_sweep(folder, settings.storage)
    show_sweep(found, reporter)
    _say_end(found, ended, reporter)
    return found


class _Unusable(UserError):
    """The texts cannot be learnt from: nothing was begun."""


def _work(
    asked: Asked, folder: Path, plan: Plan, stop: Stop, reporter: Reporter, replaced: Replaced | None = None
) -> str:
    """Do what is left to do of the sweep. Why it ended: "over", "budget" or "stopped"."""
    settings = asked.settings
    record = read_record(folder)
    price = settings.usd_per_hour if settings.usd_per_hour is not None else plan.shared.get("usd_per_hour")
    budget = budget_of(settings.budget, price)
    store = Store(folder, settings.storage or record["storage"], record["study"], settings.heartbeat_s)
    alive = store.begin_work()
    try:
        is_new = False
        if replaced is None:  # else the study that is there may be the old one, which stays until the texts are read
            is_new = _put_in_line(asked, plan, record, store)
            if is_over(plan, store.entries()):
                return "over"
        with Processes((alive,)) as processes:
            began = time.monotonic()
            try:
                tokens = _tokens(folder, plan, None if replaced else store, processes, stop)
            except _Unusable:
                if is_new and not store.is_file:  # it would be in the way of the next call
                    store.delete()
                raise
            spent_s = time.monotonic() - began
            if replaced is not None:  # all is known to be usable now
                replaced.remove()
                _put_in_line(asked, plan, record, store)
            for note in tokens.notes:
                reporter.say(note)
            side = Side(
                jobs_of(settings.jobs), processes.has_cuda and plan.shared.get("device") != "cpu", available_cpus()
            )
            reporter.say(_how_many(side))
            worker = Worker(folder, plan, store, tokens, processes, side, budget, price, stop, reporter, spent_s)
            return worker.work()
    finally:
        store.end_work()


def _put_in_line(asked: Asked, plan: Plan, record: Mapping[str, Any], store: Store) -> bool:
    """Make the study unless it is there, and let what is left to do wait for workers. Whether it was made.

    Raises:
        UserError: the study that is there is of another sweep.
    """
    settings = asked.settings
    known = store.find()
    if known is not None and known.get("id") != record.get("id"):
        raise UserError(
            f"the sweep {store.name} in the database is another one than that of {store.folder}: pass another "
            "--study and --output, or --overwrite with the files and what to vary"
        )
    kept = {"plan": plan.record(), "id": record.get("id")}
    if known is None or (known.get("plan") != kept["plan"] and not settings.join):
        store.create(kept, is_minimized(plan))
    store.free_lost()
    store.put_in_line(plan.wanted, settings.retry_failed)
    return known is None


def _how_many(side: Side) -> str:
    what = "trials go one after the other" if side.most == 1 else f"up to {side.most} trials side by side"
    where = "on a GPU" if side.on_gpu else f"on {side.num_cpus} processors"
    return f"{what} {where}, of {side.threads()} thread{'s' * (side.threads() != 1)} each"


def _tokens(folder: Path, plan: Plan, store: Store | None, processes: Processes, stop: Stop) -> SharedTokens:
    """The token ids of all texts, made by a process of its own unless they are there. ``store`` is None where the
    study is yet to be made."""
    place = folder_of(folder)
    configs: list[TrainConfig] = list(representatives(plan))
    for entry in store.entries() if store else ():  # a worker that joined a grid knows its trials from the study alone
        with contextlib.suppress(UserError):
            configs.append(plan.trial_config(entry.attributes.get("settings") or {}))
    if not write_needs(place, configs):
        return SharedTokens([])
    log = place / _TOKENS_LOG
    log.unlink(missing_ok=True)
    processes.start(_TOKENS_JOB, [str(place)], available_cpus(), log, MAKER)
    code = processes.wait_for(_TOKENS_JOB, stop.check)
    if code != 0:
        message = last_error(log, code)
        raise UserError(message) if store and store.entries_begun() else _Unusable(message)
    return shared_tokens(place)


def _trial(entry: Entry, folder: Path, store: Store) -> Trial:
    """A trial of the study as its readers see it."""
    attributes = entry.attributes
    result = attributes.get("result") or {}
    shown = entry.shown
    state = entry.state
    if state == "running" and store.has_died(attributes):
        state = "stopped"
    value = (
        result.get("value") if state == "finished" else shown.values[0] if state == "pruned" and shown.values else None
    )
    run = folder / TRIALS / f"{entry.number:04d}"
    worker = attributes.get("worker") or {}
    if not run.is_dir() and worker.get("folder"):
        run = Path(worker["folder"]) / TRIALS / run.name
    return Trial(
        number=entry.number,
        name=attributes.get("name"),
        settings=dict(attributes.get("settings") or {}),
        state=state,  # type: ignore[arg-type]
        metric=result.get("metric"),
        value=value,
        seconds=result.get("seconds"),
        usd=result.get("usd"),
        run=run,
        error=attributes.get("error") if state == "failed" else None,
        data=dict(attributes.get("data") or {}),
        metrics=dict(result.get("metrics") or {}),
        steps=result.get("steps"),
        pruned_at=attributes.get("pruned_at"),
        worker=worker.get("host"),
        side_by_side=(result.get("side_by_side") or {}).get("trials"),
        threads=(result.get("side_by_side") or {}).get("threads"),
    )


def judged_by(sweep: Sweep, metric: str) -> Sweep:
    """The sweep with its finished trials valued by ``metric``, such as "test:accuracy"."""
    split, _, name = metric.partition(":")

    def valued(trial: Trial) -> Trial:
        return replace(trial, metric=metric, value=trial.metrics.get(split, {}).get(name))

    trials = tuple(valued(trial) if trial.state == "finished" else trial for trial in sweep.trials)
    return replace(sweep, trials=trials, importances={})


def show_folder(path: str, settings: SweepSettings, reporter: Reporter) -> Sweep:
    """Show the sweep in the folder ``path`` as it is now; by another metric if the settings name one."""
    found = open_sweep(path, settings.storage)
    metric = checked_metric(settings.metric)
    if metric is not None:
        found = judged_by(found, metric)
    show_sweep(found, reporter)
    return found


def _say_end(found: Sweep, ended: str, reporter: Reporter) -> None:
    """The last line; an error where nothing has come out."""
    if ended == "budget":
        left = sum(trial.state not in ("finished", "pruned", "failed") for trial in found.trials)
        go_on = f"{command(found.path)} --budget ..."
        reporter.say(f"the budget is spent, {left:,} trials are left: go on with a larger one by {go_on}")
    failed = found.count("failed")
    if failed and failed == len(found.trials):
        raise UserError(f"all {failed:,} trials failed, the first: {found.trials[0].error}")
    if failed:
        reporter.warn(f"{failed:,} trials failed; {command(found.path)} --retry-failed does them again")
    reporter.say(f"sweep: {found.path}")


def _leave(signal: StopNow, folder: Path, reporter: Reporter, is_as_before: bool) -> NoReturn:
    """End the process as the signal asks, with a line that says what is kept."""
    if is_as_before:
        line = f"stopped by {signal.name}: nothing was begun, and the sweep that was in {folder} is there as it was"
    else:
        line = f"stopped by {signal.name}: what trials have learnt is saved. Go on with: {command(folder)}"
    reporter.errors.print(line, markup=False)
    if signal.exit_code == Interrupted.exit_code:
        raise Interrupted(line) from None
    raise SystemExit(signal.exit_code) from None
