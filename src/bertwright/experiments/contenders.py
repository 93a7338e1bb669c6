"""What is compared: runs of one setting that differ in their seed alone are one contender. No torch here."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.errors import RunError
from bertwright.evaluation.resampling import Judged
from bertwright.evaluation.stored import predictions_in, read_columns
from bertwright.experiments.finished_runs import JudgedTexts
from bertwright.runs import PREDICTIONS, Run, open_run
from bertwright.training.resume import HOW_KEPT

# Settings that change no result, or only how it is reached and kept; and the seed.
_NO_RESULT = HOW_KEPT | {"seed", "num_extremes", "texts", "config"}
_FILES = ("train", "validation", "test", "unlabelled")


@dataclass(frozen=True)
class Contender:
    """Runs of one setting, each with another seed.

    Attributes:
        name: of its run, or what the names of its runs share.
        members: the places of its runs in the comparison.
        settings: what was asked of the training, but for seed, output and the like; files by their content.
        trainings: the runs that trained the models: the runs themselves or, of evaluations, those that they judged.
    """

    name: str
    members: tuple[int, ...]
    settings: dict[str, Any]
    trainings: tuple[Run, ...]


def contenders_of(runs: Sequence[Run]) -> list[Contender]:
    """``runs`` by their settings, in the order of each one's first run. Of one seed, a contender has one run."""
    groups: dict[tuple[str, int], list[int]] = {}
    trainings = [training_of(run) for run in runs]
    settings = [_settings(training) for training in trainings]
    seen: dict[tuple[str, str], int] = {}
    for place, training in enumerate(trainings):
        key = json.dumps([training.act, settings[place]], sort_keys=True, default=str)
        seed = repr(training.settings.get("seed"))
        number = seen.get((key, seed), 0)  # the same seed again is no further seed: another contender
        seen[key, seed] = number + 1
        groups.setdefault((key, number), []).append(place)
    members = list(groups.values())
    names = _names([[runs[place].path for place in group] for group in members])
    return [
        Contender(name, tuple(group), settings[group[0]], tuple(trainings[place] for place in group))
        for name, group in zip(names, members, strict=True)
    ]


def training_of(run: Run) -> Run:
    """The run that trained the model that ``run`` judged; ``run`` itself if it did, or where that cannot be opened."""
    judged = run.settings.get("run")
    if run.act != "evaluate" or not isinstance(judged, str):
        return run
    for folder in (Path(judged), Path(judged).parent):
        try:
            found = open_run(folder)
        except (RunError, OSError):
            continue
        if found.is_training and found.finished:
            return found
    return run


def _settings(training: Run) -> dict[str, Any]:
    kept = {name: value for name, value in training.settings.items() if name not in _NO_RESULT}
    data = (training.result or {}).get("data") or {}
    for name in _FILES:
        if name in kept and data.get(f"{name}_sha256"):
            kept[name] = data[f"{name}_sha256"]
    if training.act == "evaluate":
        kept.pop("data", None)
    return kept


def differing(first: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """The names of the settings that differ."""
    return {name for name in {*first, *other} if first.get(name) != other.get(name)}


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """Runs by the folder's own name, where all lie in one folder; else by their paths."""
    if len({Path(path).absolute().parent for path in paths}) > 1:
        return [str(path) for path in paths]
    return [Path(path).name for path in paths]


def _names(groups: Sequence[Sequence[Path]]) -> list[str]:
    """A name for each group of runs: that of its run, or what its runs' names share, no two alike."""
    short = iter(short_names([path for group in groups for path in group]))
    found: list[str] = []
    for group in groups:
        names = [next(short) for _ in group]
        name = names[0]
        if len(names) > 1:
            name = _shared_start(names).rstrip("-_. /") or name
        while name in found:
            name += "'"
        found.append(name)
    return found


def _shared_start(names: Sequence[str]) -> str:
    places = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in places)


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of runs for the same texts, all in the order of the first run that has predictions.

    Attributes:
        judged: the scores; None where no run has any that can be used.
        places: for each run its place among the models of ``judged``; None where it has no usable predictions.
        rows: where each text stands in its file, (texts,).
        orders: for each run, the places in its file of predictions of the texts in that order.
        notes: what could not be used, and why.
    """

    judged: Judged | None
    places: list[int | None]
    rows: np.ndarray
    orders: list[np.ndarray | None]
    notes: list[str]


def read_scores(runs: Sequence[Run], texts: Sequence[JudgedTexts]) -> Scores:
    """The predictions of ``runs``, which are judged on the same texts.

    Raises:
        RunError: a file of predictions is damaged.
    """
    places: list[int | None] = []
    orders: list[np.ndarray | None] = []
    notes: list[str] = []
    parts: list[Judged] = []
    rows = np.empty(0, np.int64)
    reference: np.ndarray | None = None
    labels = next((tuple((run.result or {}).get("labels") or ()) for run in runs), ())
    for run, judged_texts in zip(runs, texts, strict=True):
        place: int | None = None
        order: np.ndarray | None = None
        if judged_texts.keys is None:
            notes.append(f"{run.path} has no {PREDICTIONS}: there are no intervals and tests of it")
        elif tuple((run.result or {}).get("labels") or ()) != labels:
            notes.append(f"{run.path} has other labels, or in another order: there are no intervals and tests of it")
        else:
            if reference is None:
                reference = judged_texts.keys
            order = _order_like(reference, judged_texts.keys)
            one, found_rows = _judged_of(run, order)
            if isinstance(one, str):
                notes.append(f"{run.path / PREDICTIONS}: {one}; there are no intervals and tests of it")
                order = None
            else:
                rows = rows if parts else found_rows
                place = len(parts)
                parts.append(one)
        places.append(place)
        orders.append(order)
    return Scores(_joined(parts), places, rows, orders, notes)


def _order_like(reference: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The places in ``keys`` of the texts in the order of ``reference``; equal texts in their own order."""
    if np.array_equal(reference, keys):
        return np.arange(len(keys))
    order = np.empty(len(keys), np.int64)
    order[np.argsort(reference, kind="stable")] = np.argsort(keys, kind="stable")
    return order


def _joined(parts: Sequence[Judged]) -> Judged | None:
    if not parts:
        return None
    first = parts[0]
    return Judged(
        first.kind,
        first.labels,
        np.concatenate([part.scores for part in parts]),
        None if first.decided is None else np.concatenate([part.decided for part in parts if part.decided is not None]),
        first.label_ids,
        first.targets,
        first.has_label,
    )


def _judged_of(run: Run, order: np.ndarray) -> tuple[Judged | str, np.ndarray]:
    """One run's scores in ``order``, or what is wrong with them; and the rows of the texts."""
    table = read_columns(run, lambda name: name not in ("text", "pair") and not name.startswith("group_"))
    assert table is not None
    try:
        found = predictions_in(table, run).scores_in_order(order)
    except ValueError as error:
        return f"cannot be used ({error})", np.arange(len(order))
    if found.judged is None:
        return "cannot be used (it is not known what is true or decided of the texts)", found.rows
    return found.judged, found.rows
