"""The page of a sweep. It reads what a sweep's record says as plain values; neither Optuna nor the trials' files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.evaluation.metrics import LOWER_IS_BETTER
from bertwright.experiments.sweep_record import DATA_SETTINGS, shown_metrics
from bertwright.progress import duration
from bertwright.reporting.many_plots import bars, scatter, search_plot
from bertwright.reporting.material import is_finite, number_in, object_in
from bertwright.reporting.page import Lines, Page, Section, Tile, check_names
from bertwright.reporting.svg import Plot
from bertwright.reporting.tables import Cell, Table, cell, table
from bertwright.reporting.words import counted, decimals, listed, metric_words, percent

_MOST_TRIALS, _MOST_LETTERS, _MOST_SETTINGS = 500, 60, 12
_STATES = ("finished", "pruned", "failed", "running", "stopped", "waiting")

Record = Mapping[str, Any]


def sweep_page(sweep: Record) -> Page:
    """Everything that is known of a sweep; ``sweep`` is ``Sweep.record()``."""
    trials = [trial for trial in sweep.get("trials") or () if isinstance(trial, Mapping)]
    groups = _groups(sweep, trials)
    sections: list[Section] = []
    for place, (name, found, best, metric) in enumerate(groups):
        suffix = "" if len(groups) == 1 else f"-{place + 1}"
        sections.append(_group_section(name, suffix, found, best, metric, sweep, alone=len(groups) == 1))
    sections += [_seeds(sweep), _again(sweep, groups)]
    check_names(sections)
    return Page(
        title=str(sweep.get("name") or Path(str(sweep.get("sweep", "sweep"))).name),
        subtitle=f"Sweep, {sweep.get('search', 'search')} · {sweep.get('sweep', '')}",
        summary=_summary(sweep, trials, groups),
        cautions=_cautions(sweep, trials, groups),
        tiles=_tiles(sweep, trials, groups),
        sections=tuple(sections),
    )


Group = tuple[str, list[Record], Record | None, str | None]


def _groups(sweep: Record, trials: Sequence[Record]) -> list[Group]:
    """By data set: its name, its trials best first, the best one, and the metric."""
    by_number = {trial.get("number"): trial for trial in trials}
    found: list[Group] = []
    for group in sweep.get("groups") or ():
        if not isinstance(group, Mapping):
            continue
        members = [by_number[number] for number in group.get("trials") or () if number in by_number]
        files = [Path(str(file)).name for file in object_in(group, "data").get("train") or ()]
        metric = group.get("metric")
        found.append(
            (", ".join(files) or "data", members, by_number.get(group.get("best")), metric if metric else None)
        )
    return found or [("trials", list(trials), None, None)]


def _summary(sweep: Record, trials: Sequence[Record], groups: Sequence[Group]) -> tuple[str, ...]:
    counts = {state: sum(trial.get("state") == state for trial in trials) for state in _STATES}
    states = listed([f"{num:,} {state}" for state, num in counts.items() if num])
    seconds = number_in(sweep, "seconds")
    took = "" if seconds is None else f", {duration(seconds)} of work"
    usd = number_in(sweep, "usd")
    cost = "" if usd is None else f" and {usd:,.2f} USD"
    sentences = []
    for name, members, best, metric in groups:
        value = None if best is None else number_in(best, "value")
        if best is None or value is None:
            continue
        on = "" if len(groups) == 1 else f"On {name}: "
        test = _test_value(best, metric)
        sentences.append(
            f"{on}Trial {best.get('number')} is the best of {sum(_has_value(trial) for trial in members):,}: "
            f"{_metric_words(metric)} {decimals(value)}{test}, with {_settings_words(best) or 'the usual settings'}."
        )
    if not sentences:
        sentences.append("No trial has finished with a value yet, so nothing is known to be best.")
    sentences.append(f"{counted(len(trials), 'trial')}: {states or 'none begun'}{took}{cost}.")
    leading = _importances(sweep, groups)[0][:1]
    if leading and leading[0][1] > 0:
        sentences.append(
            f"What mattered most is {leading[0][0].replace('_', ' ')}: {percent(leading[0][1])} of the differences."
        )
    return tuple(sentences)


def _test_value(trial: Record, metric: str | None) -> str:
    name = (metric or "").split(":")[-1]
    value = number_in(trial, "metrics", "test", name)
    return "" if value is None or (metric or "").startswith("test") else f" ({decimals(value)} on the test texts)"


def _cautions(sweep: Record, trials: Sequence[Record], groups: Sequence[Group]) -> tuple[str, ...]:
    found = _times_notes(sweep)
    for name, members, best, metric in groups:
        num = sum(_has_value(trial) for trial in members)
        if best is not None and num > 3:
            on = "" if len(groups) == 1 else f" on {name}"
            test = (
                "Its test figure is the one to believe."
                if _test_value(best, metric)
                else "There is no test figure to tell how good it is."
            )
            found.append(
                f"The best{on} is the best of {num:,} by the figure that chose it: that figure is a little too good. "
                f"{test}"
            )
    failed = [trial for trial in trials if trial.get("state") == "failed"]
    if failed:
        first = next((str(trial["error"]) for trial in failed if trial.get("error")), "")
        found.append(f"{counted(len(failed), 'trial')} failed" + (f", the first with: {first[:200]}" if first else "."))
    return tuple(found)


def _times_notes(sweep: Record) -> list[str]:
    """What must be known of the times of trials that went side by side; nothing where each had the machine alone."""
    notes = [group.get("times_note") for group in sweep.get("groups") or () if isinstance(group, Mapping)]
    return [f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(notes) if isinstance(note, str)]


def _tiles(sweep: Record, trials: Sequence[Record], groups: Sequence[Group]) -> tuple[Tile, ...]:
    tiles = []
    for name, _, best, metric in groups[:2]:
        value = None if best is None else number_in(best, "value")
        if best is not None and value is not None:
            tiles.append(Tile(f"Best {_metric_words(metric)}", decimals(value), f"trial {best.get('number')}, {name}"))
    finished = sum(trial.get("state") == "finished" for trial in trials)
    tiles.append(Tile("Trials", f"{finished:,}", f"finished, of {len(trials):,}"))
    seconds, usd = number_in(sweep, "seconds"), number_in(sweep, "usd")
    if seconds is not None:
        tiles.append(Tile("Work", duration(seconds), "of all workers"))
    if usd is not None:
        tiles.append(Tile("Cost", f"${usd:,.2f}"))
    return tuple(tiles)


# --- the trials of one data set ---------------------------------------------------------------------------------------


def _group_section(
    name: str,
    suffix: str,
    trials: Sequence[Record],
    best: Record | None,
    metric: str | None,
    sweep: Record,
    alone: bool,
) -> Section:
    plots = [plot for plot in (_search(trials, metric, suffix), _pareto(trials, metric, suffix)) if plot]
    prose: tuple[str, ...] = ()
    if alone:
        parts, how = _importances(sweep, [(name, list(trials), best, metric)])
        if parts:
            shares = "; ".join(f"{setting} {percent(share)}" for setting, share in parts)
            plots.append(
                bars(
                    "importance",
                    "What mattered",
                    f"How much of the differences between the trials each setting explains, {how}: {shares}.",
                    parts[:_MOST_SETTINGS],
                    "share of the differences",
                )
            )
    heading = "The trials" if alone else f"The trials on {name}"
    return Section(
        f"trials{suffix}",
        heading,
        "Trials" if alone else name[:30],
        prose,
        plots=tuple(plots),
        tables=(_trials_table(trials, best, metric, suffix),),
    )


def _trials_table(trials: Sequence[Record], best: Record | None, metric: str | None, suffix: str) -> Table:
    varied = _varied(trials)
    measured = shown_metrics([object_in(trial, "metrics") for trial in trials], metric)
    rows = []
    for trial in trials[:_MOST_TRIALS]:
        settings = object_in(trial, "settings")
        seconds = number_in(trial, "seconds")
        value = number_in(trial, "value")
        rows.append(
            [
                cell(trial.get("number"), str(trial.get("number"))),
                cell(trial.get("name")),
                cell(trial.get("state")),
                cell(value, best=best is not None and trial.get("number") == best.get("number")),
                *(number_in(trial, "metrics", split, name) for split, name in measured),
                *(_setting_cell(settings.get(name)) for name in varied),
                cell(seconds, None if seconds is None else duration(seconds)),
                cell(number_in(trial, "usd")),
            ]
        )
    headings = ["trial", "name", "state", _metric_words(metric)]
    headings += [f"{split} {metric_words(name)}" for split, name in measured]
    headings += [*varied, "time", "USD"]
    cut = "" if len(trials) <= _MOST_TRIALS else f" (the first {_MOST_TRIALS} of {len(trials):,})"
    return table(
        f"trial-list{suffix}",
        f"Trials, the best first{cut}",
        headings,
        rows,
    )


def _varied(trials: Sequence[Record]) -> list[str]:
    """The settings in which the trials differ."""
    names = list(dict.fromkeys(name for trial in trials for name in object_in(trial, "settings")))
    return [
        name for name in names if len({_key(object_in(trial, "settings").get(name)) for trial in trials}) > 1
    ] or names[:_MOST_SETTINGS]


def _setting_cell(value: Any) -> Cell:
    if is_finite(value):
        return cell(value, f"{value:g}")
    if value is None or isinstance(value, bool | str):
        return cell(value)
    return cell(_key(value)[:_MOST_LETTERS])


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _settings_words(trial: Record) -> str:
    """Its settings but those that name its data, which the heading says."""
    settings = [(name, value) for name, value in object_in(trial, "settings").items() if name not in DATA_SETTINGS]
    return ", ".join(f"{name.replace('_', ' ')} {_setting_cell(value).shown}" for name, value in settings[:6])


def _metric_words(metric: str | None) -> str:
    if not metric:
        return "value"
    split, _, name = metric.rpartition(":")
    return f"{split} {metric_words(name)}".strip()


def _has_value(trial: Record) -> bool:
    return trial.get("state") == "finished" and number_in(trial, "value") is not None


def _lower(metric: str | None) -> bool:
    return (metric or "").split(":")[-1] in LOWER_IS_BETTER


def _search(trials: Sequence[Record], metric: str | None, suffix: str) -> Plot | None:
    """Each trial's value and the best so far."""
    ordered = sorted((trial for trial in trials if is_finite(trial.get("number"))), key=lambda trial: trial["number"])
    points = [
        (int(trial["number"]), value, trial.get("state") == "pruned")
        for trial in ordered
        if (value := number_in(trial, "value")) is not None
    ]
    return search_plot(f"search{suffix}", points, _metric_words(metric), _lower(metric))


def _pareto(trials: Sequence[Record], metric: str | None, suffix: str) -> Plot | None:
    """Quality against the seconds that a trial took."""
    known = [
        (str(trial.get("number")), number_in(trial, "seconds") or 0.0, number_in(trial, "value") or 0.0)
        for trial in trials
        if _has_value(trial) and number_in(trial, "seconds") is not None
    ]
    if len(known) < 2:
        return None
    sign = -1 if _lower(metric) else 1
    points = [
        (
            name,
            seconds,
            value,
            not any(s <= seconds and sign * v >= sign * value and (s, v) != (seconds, value) for _, s, v in known),
        )
        for name, seconds, value in known
    ]
    front = listed([f"trial {name}" for name, _, _, on in sorted(points, key=lambda point: point[1]) if on])
    words = _metric_words(metric)
    return scatter(
        f"pareto{suffix}",
        "Quality and time",
        f"{words} (up) against the time of the training (right). No other trial is as quick and as good as those that "
        f"are filled: {front}.",
        points,
        "seconds",
        words,
    )


def _importances(sweep: Record, groups: Sequence[Group]) -> tuple[list[tuple[str, float]], str]:
    """Settings with the share of the differences that each explains, the largest first, and how it was found."""
    recorded = [
        (str(name), float(share)) for name, share in object_in(sweep, "importances").items() if is_finite(share)
    ]
    if recorded:
        return sorted(recorded, key=lambda item: -item[1]), "alone and with others (fANOVA)"
    if len(groups) != 1:
        return [], ""
    return _explained(groups[0][1]), "each setting for itself (eta squared)"


def _explained(trials: Sequence[Record]) -> list[tuple[str, float]]:
    """By setting the share of the variance of the values that lies between its own values: eta squared (Fisher 1925).

    Of a setting with as many values as trials it would be all, and is left out.
    """
    finished = [trial for trial in trials if _has_value(trial)]
    values = np.array([number_in(trial, "value") for trial in finished], np.float64)
    if len(values) < 4 or values.min() == values.max():
        return []
    found = []
    for name in _varied(finished):
        keys = [_key(object_in(trial, "settings").get(name)) for trial in finished]
        if not 1 < len(set(keys)) <= len(keys) // 2:
            continue
        between = 0.0
        for key in set(keys):
            chosen = values[[other == key for other in keys]]
            between += len(chosen) * float(chosen.mean() - values.mean()) ** 2
        found.append((name, between / float(((values - values.mean()) ** 2).sum())))
    return sorted(found, key=lambda item: -item[1])


def _seeds(sweep: Record) -> Section:
    rows = []
    for group in sweep.get("groups") or ():
        for item in (group.get("seeds") if isinstance(group, Mapping) else None) or ():
            if isinstance(item, Mapping):
                words = _settings_words(item) or "the usual settings"
                numbers = item.get("trials") or ()
                rows.append([words, number_in(item, "mean"), number_in(item, "sd"), len(numbers)])
    headings = ["settings", "mean", "standard deviation", "seeds"]
    tables = (table("seeds", "Settings over several seeds", headings, rows),) if rows else ()
    return Section("seeds-section", "How much is chance?", "Seeds", tables=tables)


def _again(sweep: Record, groups: Sequence[Group]) -> Section:
    lines = []
    for name, _, best, _ in groups:
        if best is not None and best.get("run"):
            config = shlex.quote(str(Path(str(best["run"])) / "config.json"))
            heading = "The best trial" if len(groups) == 1 else f"The best trial on {name}"
            lines.append(Lines(heading, f"bertwright train --config {config} --output NEW-FOLDER"))
    asked = object_in(sweep, "asked")
    rows = [[key, cell(_key(value))] for key, value in asked.items() if value not in (None, [], {}, "")]
    folded = (table("asked", "What was asked for", ["setting", "value"], rows, sortable=False),) if rows else ()
    return Section("again", "How to do it again", "Do it again", lines=tuple(lines), folded=folded)
