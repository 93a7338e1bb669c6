"""The folder of a sweep, and what was asked for: begun, continued or joined. Torch is never imported here.

sweep.json    what was asked: the plan, the trials of a grid or a list, where the study is
study.db      the study, unless it is in a database elsewhere
tokens/       the token ids that all trials share
asked/        the settings of each trial, as bertwright train --config takes them
trials/       the runs of the trials: 0000, 0001, ...
logs/         what each trial wrote to standard error
workers/      a locked file for each worker at this folder
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bertwright import __version__, runs
from bertwright.config.base import build, expand_home, merged
from bertwright.config.parts import CostSettings, MachineSettings
from bertwright.config.sweep import SweepSettings
from bertwright.config.train import TrainConfig
from bertwright.errors import RunError, UserError
from bertwright.experiments.sweep_database import FILE
from bertwright.experiments.sweep_flags import axis_text, checked_list, read_trials, space_text
from bertwright.experiments.sweep_plan import Plan, Wanted, plan_of
from bertwright.experiments.sweep_store import Store, locked_workers
from bertwright.experiments.sweep_url import storage_url, without_password

SWEEP = "sweep.json"
_LOCK = "lock"
# May be others each time that a sweep is continued: they change no result.
_OF_THE_MACHINE = {
    *MachineSettings.model_fields,
    *CostSettings.model_fields,
    *("checkpoint_minutes", "checkpoint_steps"),
}
_OF_THE_SWEEP = set(SweepSettings.model_fields) - set(TrainConfig.model_fields)


class Asked:
    """What was asked for.

    Attributes:
        settings: of the sweep.
        values: of ``bertwright train``, those given, with the training files as ``train``.
        listed: an explicit list of trainings.

    Raises:
        UserError: a setting that there is not, or a value that it refuses.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        values = {name: value for name, value in given.items() if value is not None}
        listed = values.pop("trials", None)
        if isinstance(listed, str | os.PathLike):
            listed = read_trials(os.fspath(listed))
        elif listed is not None:
            listed = checked_list(listed, "trials")
        for name, as_text in (("grid", axis_text), ("space", space_text)):
            if isinstance(values.get(name), Mapping):
                values[name] = tuple(as_text(key, value) for key, value in values[name].items())
        train = values.pop("train", None)
        self.settings = build(SweepSettings, values)
        self.listed: list[dict[str, Any]] | None = listed
        self.values = {name: value for name, value in values.items() if name not in _OF_THE_SWEEP}
        for name in ("output", "overwrite", "resume"):
            self.values.pop(name, None)
        if train is not None and train != ():
            files = [train] if isinstance(train, str | os.PathLike) else list(train)
            self.values["train"] = [expand_home(os.fspath(file)) for file in files]
        for name in ("test", "validation", "label_column", "group_columns", "class_weights"):
            if name in self.values:
                self.values[name] = list(getattr(self.settings, name))
        for name, value in self.values.items():
            if isinstance(value, os.PathLike):
                self.values[name] = os.fspath(value)

    @property
    def folder(self) -> Path:
        """The folder of the sweep."""
        if self.settings.output is not None:
            return Path(self.settings.output)
        files = self.values.get("train") or [entry.get("train", "") for entry in self.listed or []][:1]
        first = files[0] if files else ""
        first = first[0] if isinstance(first, list) else first
        if not first:
            raise UserError("no training file given: name at least one file of labelled texts, or --output SWEEP")
        return Path("sweeps") / (Path(str(first)).name.split(".")[0] or "data")

    @property
    def has_plan(self) -> bool:
        """Whether anything was said of what to train, and not only which sweep to go on with."""
        settings = self.settings
        described = settings.grid or settings.space or settings.search or settings.metric or settings.prune
        return bool(described or self.listed is not None or set(self.values) - _OF_THE_MACHINE)

    def check_begins(self) -> None:
        """Check all that can be known before a sweep is begun anew.

        Raises:
            UserError: it cannot be begun.
        """
        if self.settings.join:
            raise UserError("--overwrite and --join exclude each other: give one of them")
        if not self.has_plan:
            raise UserError("--overwrite begins a sweep anew: give the files and what to vary too")
        self.plan()
        if self.settings.storage is not None:
            Store(self.folder, self.settings.storage, self.settings.study or "").names()

    def plan(self) -> Plan:
        return plan_of(self.values, self.settings, self.listed)


def with_flags(values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, and ``flags`` in their place; of a grid or a space, axis by axis."""
    together = merged(values, flags)
    for name, as_text in (("grid", axis_text), ("space", space_text)):
        axes: dict[str, str] = {}
        for given in (values.get(name), flags.get(name)):
            if isinstance(given, Mapping):
                given = [as_text(key, value) for key, value in given.items()]
            for text in [given] if isinstance(given, str) else given or ():
                axes[str(text).partition("=")[0].replace("-", "_")] = str(text)
        if axes:
            together[name] = tuple(axes.values())
    return together


def read_record(folder: Path) -> dict[str, Any]:
    """What sweep.json holds.

    Raises:
        RunError: it is missing or damaged.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; expected the folder of a sweep")
    if not (folder / SWEEP).is_file():
        raise RunError(f"{folder}: no {SWEEP}; expected the folder of a sweep")
    record = runs.read_json(folder / SWEEP)
    kinds: dict[str, Any] = {"plan": dict, "study": str, "wanted": list, "storage": str | None}
    for name, kind in kinds.items():
        if name not in record or not isinstance(record[name], kind):
            raise RunError(f"{folder / SWEEP}: holds no {name}; the file is damaged")
    return record


def plan_on_record(record: Mapping[str, Any], source: Path) -> Plan:
    """The plan of a record, with its wanted trials where they are there.

    Raises:
        RunError: it is damaged.
    """
    try:
        wanted = tuple(Wanted(**one) for one in record.get("wanted", ()))
        return replace(Plan.of(record["plan"]), wanted=wanted)
    except (TypeError, KeyError, UserError):
        raise RunError(f"{source}: the sweep's record is damaged") from None


def find_or_begin(asked: Asked, folder: Path, replaced: Replaced | None = None) -> Plan:
    """The plan of the sweep in ``folder``, which is begun if it is not there: its sweep.json is written.

    The study of ``replaced``, a sweep that the new one replaces, may still be there.

    Raises:
        UserError: something is wrong with what was asked, or it is another sweep than the one that is there.
    """
    settings = asked.settings
    if (folder / SWEEP).is_file():
        record = read_record(folder)
        plan = _continued(asked, plan_on_record(record, folder / SWEEP), folder)
        _write_record(folder, record, plan)
        return plan
    if settings.join:
        return _joined(asked, folder)
    if folder.exists() and not _is_unborn(folder):
        raise RunError(f"{folder} exists and is not a sweep's folder; pass another --output")
    if not asked.has_plan:
        raise UserError(f"{folder}: no such sweep; to begin it, give the files and what to vary")
    plan = asked.plan()
    runs.check_can_be_made(folder)
    study = settings.study or (folder.absolute().name if settings.storage else "sweep")
    storage = None if settings.storage is None else without_password(settings.storage)
    if settings.storage is not None:
        store = Store(folder, settings.storage, study)
        if not (replaced is not None and replaced.has_study(store)) and store.find() is not None:
            raise UserError(f"{storage} holds a sweep {study} already: pass --join to work on it, or another --study")
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, {"study": study, "storage": storage, "id": uuid.uuid4().hex}, plan)
    return plan


def _write_record(folder: Path, record: Mapping[str, Any], plan: Plan) -> None:
    known = {
        "act": "sweep",
        "bertwright": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **record,
        "plan": plan.record(),
        "wanted": [asdict(one) for one in plan.wanted],
    }
    if known != record:
        runs.write_json(folder / SWEEP, known)


def _continued(asked: Asked, before: Plan, folder: Path) -> Plan:
    """The plan ``before``, with what may be added to it later: values of a grid, trials, more of a search.

    Raises:
        UserError: something else was asked for.
    """
    settings = asked.settings
    of_machine = {name: value for name, value in asked.values.items() if name in _OF_THE_MACHINE}
    if not asked.has_plan:
        number = settings.num_trials or before.num_trials
        return replace(before, shared={**before.shared, **of_machine}, num_trials=number)
    now = asked.plan()
    _check_same(before, now, folder)
    known = {one.key for one in before.wanted}
    wanted = (*before.wanted, *(one for one in now.wanted if one.key not in known))
    return replace(now, shared={**before.shared, **of_machine}, wanted=wanted)


def _check_same(before: Plan, now: Plan, folder: Path) -> None:
    def settings_of(plan: Plan) -> dict[str, Any]:
        record = {**plan.record(), **plan.record()["shared"]}
        left_out = _OF_THE_MACHINE | {"shared", "num_trials"}
        return {name: value for name, value in record.items() if name not in left_out}

    expected, found = settings_of(before), settings_of(now)
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            flag = "--" + name.replace("_", "-")
            shown = [_shown(values.get(name)) for values in (found, expected)]
            raise UserError(
                f"{flag}: found {shown[0]}, expected {shown[1]} as in {folder / SWEEP}; a sweep goes on with the "
                f"settings that it began with. Pass another --output, or go on with: {command(folder)}"
            )


def _shown(value: Any) -> str:
    if value is None or value == {}:
        return "nothing"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _joined(asked: Asked, folder: Path) -> Plan:
    """The plan of a sweep that others began, by its record in the database."""
    settings = asked.settings
    if settings.storage is None:
        raise UserError(f"--join: {folder} holds no sweep; pass the --output, or the --storage, that others work with")
    store = Store(folder, settings.storage, settings.study or "")
    if settings.study is None:
        names = store.names()
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise UserError(f"--join: found these sweeps in the database: {found}; name one with --study")
        store.name = names[0]
    record = store.find()
    if record is None:
        raise UserError(f"--join: the database holds no sweep {store.name}; it must have been begun")
    if folder.exists() and not _is_unborn(folder):
        raise RunError(f"{folder} exists and is not a sweep's folder; pass another --output")
    plan = plan_on_record(record, Path(store.name))
    if asked.has_plan:
        _check_same(plan, asked.plan(), folder)
    runs.check_can_be_made(folder)
    folder.mkdir(parents=True, exist_ok=True)
    storage = without_password(settings.storage)
    _write_record(folder, {"study": store.name, "storage": storage, "id": record.get("id")}, plan)
    return plan


def _is_unborn(folder: Path) -> bool:
    """Whether the folder is one of a sweep that was killed before its sweep.json was written, or empty."""
    return folder.is_dir() and all(file.name in (f"{SWEEP}.partial", _LOCK) for file in folder.iterdir())


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Within it no other call without ``--join`` works at the sweep in ``folder``.

    Raises:
        RunError: one does.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(runs.wait_for_lock(folder / _LOCK, tries=3))
        except BlockingIOError:
            raise RunError(f"{folder}: another process works on this sweep; pass --join to work beside it") from None
        yield


class Replaced:
    """A sweep that ``--overwrite`` replaces. It lies aside until it is known that the new one can be begun; a study in
    a database elsewhere stays where it is until then.

    Raises:
        RunError: something else than a sweep is at ``folder``, or somebody works on it.
    """

    def __init__(self, folder: Path, storage: str | None) -> None:
        self._folder = folder
        self._aside: Path | None = None
        self._study: Store | None = None  # in a database elsewhere
        if not folder.exists() or _is_unborn(folder):
            return
        if not (folder / SWEEP).is_file():
            raise RunError(f"{folder} exists and is not a sweep's folder; --overwrite replaces sweeps only")
        record = read_record(folder)
        with only_one(folder):
            store = _store_of(folder, record, storage)
            self._check_nobody_works(len(locked_workers(folder)) if store is None else store.num_at_work())
            self._aside = folder.absolute().with_name(f".{folder.name}.old.partial")
            shutil.rmtree(self._aside, ignore_errors=True)
            os.rename(folder, self._aside)
            if store is not None and not store.is_file and store.find() is not None:
                store.folder = self._aside
                self._study = store

    def _check_nobody_works(self, at_work: int) -> None:
        if at_work:
            who = "a worker" if at_work == 1 else f"{at_work:,} workers"
            raise RunError(
                f"{self._folder}: --overwrite would take this sweep from {who} with --join. Stop them first, or pass "
                "another --output"
            )

    def has_study(self, store: Store) -> bool:
        """Whether ``store`` is the study that is replaced, in a database elsewhere."""
        return self._study is not None and self._study.is_same(store)

    def put_back(self) -> bool:
        """Let the folder be what it was, unless ``remove`` was called. Whether there was anything to put back."""
        if self._aside is None:
            return False
        shutil.rmtree(self._folder, ignore_errors=True)
        os.rename(self._aside, self._folder)
        self._aside = None
        return True

    def remove(self) -> None:
        """Remove what was there before for good, its study too.

        Raises:
            RunError: somebody has joined it meanwhile. Nothing is removed then.
        """
        if self._study is not None:
            self._check_nobody_works(self._study.num_at_work())
            if self._study.find() is not None:
                self._study.delete()
            self._study = None
        if self._aside is not None:
            shutil.rmtree(self._aside)
            self._aside = None


def _store_of(folder: Path, record: Mapping[str, Any], storage: str | None) -> Store | None:
    """Where the study of a sweep is; None where its file was never made, or is damaged.

    ``storage`` counts where it is the URL on record, but with a password.
    """
    if record["storage"] is None:
        with contextlib.suppress(RunError):
            return Store(folder, None, record["study"]) if (folder / FILE).is_file() else None
        return None
    is_same = storage is not None and storage_url(without_password(storage)) == storage_url(record["storage"])
    return Store(folder, storage if is_same else record["storage"], record["study"])


def command(folder: Path) -> str:
    """What to type to go on with the sweep in ``folder``."""
    return f"bertwright sweep --output {shlex.quote(str(folder))}"
