"""The page of one run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bertwright.evaluation.metrics import LOWER_IS_BETTER, describe_score
from bertwright.evaluation.tables import SPLITS
from bertwright.progress import duration
from bertwright.reporting import pretraining_page
from bertwright.reporting.calibration import calibration_section
from bertwright.reporting.curve_plots import curve_plots
from bertwright.reporting.intervals import Intervals, metric_intervals
from bertwright.reporting.material import Material, is_finite, number_in, object_in
from bertwright.reporting.mistakes import worst_mistakes
from bertwright.reporting.page import Entry, Lines, Page, Section, Texts, check_names
from bertwright.reporting.quality_plots import (
    confusion_of,
    confusion_plot,
    histogram_plot,
    length_plot,
    truth_plot,
)
from bertwright.reporting.run_words import cautions_of, subtitle_of, summary_of, tiles_of, title_of
from bertwright.reporting.svg import Plot
from bertwright.reporting.tables import Cell, Table, cell, interval_cell, table
from bertwright.reporting.training_plots import (
    loss_plot,
    memory_plot,
    phase_seconds,
    phases_plot,
    rate_plot,
    validation_plot,
)
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import decimals, metric_order, metric_words, size_words

_MOST_CLASSES, _MOST_EVALUATIONS, _MOST_ENTRIES, _MOST_LETTERS = 100, 100, 20, 600


def run_page(material: Material) -> Page:
    """Everything that is known of a run."""
    if material.run.act == pretraining_page.ACT:
        return _pretraining_page(material)
    intervals = metric_intervals(material)
    sections = (
        _quality(material, intervals),
        calibration_section(material),
        _mistakes(material),
        _bias(material),
        _learning(material),
        _resources(material),
        _again(material),
    )
    check_names(sections)
    return Page(
        title_of(material),
        subtitle_of(material),
        summary_of(material, intervals),
        cautions_of(material, intervals),
        tiles_of(material, intervals),
        sections,
    )


def _pretraining_page(material: Material) -> Page:
    """Of a run that learnt from texts without labels."""
    learning = _learning(material)
    sections = (
        replace(learning, plots=(*_present(pretraining_page.accuracy_plot(material)), *learning.plots)),
        _quality(material, {}),
        _resources(material),
        _again(material),
    )
    check_names(sections)
    return Page(
        title_of(material),
        subtitle_of(material),
        pretraining_page.summary(material),
        pretraining_page.cautions(material),
        pretraining_page.tiles(material),
        sections,
    )


def _present(*found: Any) -> tuple[Any, ...]:
    return tuple(item for item in found if item is not None)


def _quality(material: Material, intervals: Intervals) -> Section:
    plots = (
        *curve_plots(material, intervals),
        *_present(truth_plot(material), confusion_plot(material), _errors_plot(material)),
    )
    tables = _present(_metrics(material, intervals), _classes(material), _confusion(material))
    return Section("quality", "How good it is", "Quality", plots=plots, tables=tables)


def _errors_plot(material: Material) -> Plot | None:
    return histogram_plot(material) if material.kind == "regression" else None


def _metrics(material: Material, intervals: Intervals) -> Table | None:
    metrics = material.run.metrics
    splits = sorted((split for split in SPLITS if metrics.get(split)), key=lambda split: split != material.split)

    def with_interval(values: list[Any], interval: Any) -> list[Any]:
        """``values`` of the splits with the interval behind the held-out one's, if there are any."""
        if not intervals or splits[:1] != [material.split]:
            return values
        return [values[0], interval_cell(interval) if isinstance(interval, tuple) else interval, *values[1:]]

    names = sorted(
        {name for split in splits for name, value in metrics[split].items() if is_finite(value)}, key=metric_order
    )
    if not names:
        return None
    rows = []
    for name in names:
        if name == "num_texts":
            continue
        words = metric_words(name) + (" (lower is better)" if name in LOWER_IS_BETTER else "")
        numbers: list[Any] = [number_in(metrics, split, name) for split in splits]
        rows.append([words, *with_interval(numbers, intervals.get(name))])
    counts = [number_in(metrics, split, "num_texts") for split in splits]
    if any(count is not None for count in counts):
        rows.append(["texts", *with_interval([cell(count) for count in counts], None)])
    headings = ["metric", *with_interval([f"{split} texts" for split in splits], "95 % interval")]
    return table("metrics", "Quality", headings, rows, sortable=False)


def _classes(material: Material) -> Table | None:
    per_class = object_in(material.metrics, "per_class")
    labels = [label for label in material.labels if isinstance(per_class.get(label), Mapping)]
    if not labels:
        return None
    some = [
        name for name in ("precision", "recall", "f1", "roc_auc", "average_precision") if name in per_class[labels[0]]
    ]
    rows = [
        [label, *(cell(number_in(per_class, label, name)) for name in some), _count(per_class, label)]
        for label in labels[:_MOST_CLASSES]
    ]
    what = "Labels" if material.kind == "multi-label" else "Classes"
    cut = "" if len(labels) <= _MOST_CLASSES else f" (the first {_MOST_CLASSES} of {len(labels):,})"
    return table("classes", f"{what}, {material.split} texts{cut}", ["label", *map(metric_words, some), "texts"], rows)


def _count(per_class: Mapping[str, Any], label: str) -> Cell:
    support = number_in(per_class, label, "support")
    return cell(None if support is None else int(support))


def _confusion(material: Material) -> Table | None:
    """The matrix of few classes; of many the pairs that are confused most."""
    confusion = confusion_of(material)
    if confusion is None or len(confusion) < 2:
        return None
    labels = material.labels
    if len(labels) <= 6:
        rows = [[label, *map(int, counts)] for label, counts in zip(labels, confusion, strict=True)]
        return table("confusion-counts", "Texts by true (down) and predicted (across) class", ["true", *labels], rows)
    wrong = confusion * (1 - np.eye(len(labels), dtype=np.int64))
    order = [place for place in np.argsort(-wrong, axis=None, kind="stable")[:_MOST_ENTRIES] if wrong.flat[place]]
    rows = []
    for place in order:
        i, j = divmod(int(place), len(labels))
        rows.append([labels[i], cell(labels[j]), int(wrong[i, j]), float(wrong[i, j] / max(confusion[i].sum(), 1))])
    if not rows:
        return None
    headings = ["true", "predicted", "texts", "share of the true class"]
    return table("confusion-counts", "The classes that are confused most", headings, rows)


# --- texts ------------------------------------------------------------------------------------------------------------


def _mistakes(material: Material) -> Section:
    plot = length_plot(material)
    return Section(
        "texts",
        "What it gets wrong, and its extremes",
        "Mistakes",
        plots=_present(plot),
        texts=_present(worst_mistakes(material), *_extremes(material)),
    )


def _extremes(material: Material) -> Sequence[Texts | None]:
    extremes = object_in(material.run.result or {}, "extremes")
    if not material.labels:
        return []
    describe = describe_score(material.labels, material.kind)
    return [
        _extreme_texts("highest", f"Highest {describe}", extremes.get("highest")),
        _extreme_texts("lowest", f"Lowest {describe}", extremes.get("lowest")),
    ]


def _extreme_texts(name: str, heading: str, found: Any) -> Texts | None:
    entries = []
    for item in (found if isinstance(found, list) else [])[:_MOST_ENTRIES]:
        if not isinstance(item, Mapping):
            continue
        row, score = number_in(item, "row"), number_in(item, "score")
        facts = (decimals(score), str(item.get("label") or "–"), "–" if row is None else f"{int(row):,}")
        entries.append(Entry(facts, _text(item.get("text")), _text(item.get("pair"))))
    return Texts(name, heading, "", ("score", "label", "row"), tuple(entries)) if entries else None


def _text(value: Any) -> str | None:
    return value[:_MOST_LETTERS] if isinstance(value, str) else None


_AUCS = {"subgroup_auc": "subgroup AUC", "bpsn_auc": "BPSN AUC", "bnsp_auc": "BNSP AUC"}


def _bias(material: Material) -> Section:
    """Groups with the worst AUCs first, where the run was judged by groups."""
    bias = object_in(material.judgement, "bias")
    found = bias.get("groups")
    groups = [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
    if not groups:
        return Section("bias", "Fair to all?", "Groups")
    rows: list[list[Any]] = []
    for item in sorted(groups, key=lambda item: min((number_in(item, name) or 1.0) for name in _AUCS)):
        aucs = [
            value for name in _AUCS for value in (number_in(item, name), interval_cell(item.get(f"{name}_interval")))
        ]
        counts = [number_in(item, name) for name in ("texts", "positive_texts")]
        rows.append([str(item.get("group")), *aucs, *(cell(None if n is None else int(n)) for n in counts)])
    headings = ["group", *(part for words in _AUCS.values() for part in (words, "95 % interval")), "texts", "positive"]
    means = {
        "final": "Final score",
        "overall_auc": "ROC AUC of all",
        **{name: f"mean {words}" for name, words in _AUCS.items()},
    }
    figures = [
        f"{words} {decimals(value)}" for name, words in means.items() if (value := number_in(bias, name)) is not None
    ]
    notes = bias.get("notes")
    prose = (
        "ROC AUC within the texts about a group (subgroup), of its negative texts against the others' positive ones "
        "(BPSN: background positive, subgroup negative), and of its positive texts against the others' negative ones "
        "(BNSP; Borkan et al. 2019). A low BPSN AUC says that harmless texts about the group are scored too high.",
        *([f"{', '.join(figures)}."] if figures else []),
        *(f"{note}." for note in (notes if isinstance(notes, list) else [])),
    )
    found_table = table("bias", "Groups, the worst first", headings, rows)
    return Section("bias", "Fair to all?", "Groups", prose, tables=(found_table,))


# --- how it came about ------------------------------------------------------------------------------------------------


def _learning(material: Material) -> Section:
    return Section(
        "learning",
        "How it learned",
        "Learning",
        plots=_present(loss_plot(material), validation_plot(material), rate_plot(material)),
        folded=_present(_history(material)),
    )


def _history(material: Material) -> Table | None:
    history = material.run.history
    if not history:
        return None
    names = sorted(
        {name for line in history for name, value in object_in(line, "validation").items() if is_finite(value)},
        key=metric_order,
    )
    names = [name for name in names if name != "num_texts"]
    rows = [
        [
            cell(number_in(line, "step")),
            cell(number_in(line, "epoch"), None if number_in(line, "epoch") is None else f"{line['epoch']:.2f}"),
            number_in(line, "train_loss"),
            cell(number_in(line, "learning_rate"), decimals(number_in(line, "learning_rate"))),
            *(number_in(line, "validation", name) for name in names),
        ]
        for line in history[-_MOST_EVALUATIONS:]
    ]
    headings = ["step", "epoch", "training loss", "learning rate", *map(metric_words, names)]
    cut = "" if len(history) <= _MOST_EVALUATIONS else f" (the last {_MOST_EVALUATIONS} of {len(history):,})"
    return table("evaluations", f"Evaluations while it learned{cut}", headings, rows)


def _resources(material: Material) -> Section:
    result = material.run.result or {}
    rates = object_in(result, "rates")
    rows: list[list[Any]] = [[f"{name}", cell(seconds, duration(seconds))] for name, seconds in phase_seconds(material)]
    total = number_in(result, "seconds", "total")
    if total is not None:
        rows.append(["in all", cell(total, duration(total))])
    for name, value in rates.items():
        if is_finite(value):
            rows.append(
                [
                    name.removesuffix("_per_s").replace("_", " ") + " a second",
                    cell(value, f"{value:,.0f}" if value >= 100 else f"{value:.3g}"),
                ]
            )
    for name, words in (
        ("peak_process_bytes", "peak memory of the process"),
        ("peak_gpu_bytes", "peak memory of the GPU"),
    ):
        value = number_in(result, "memory", name)
        if value is not None:
            rows.append([words, cell(value, size_words(value))])
    joules = number_in(result, "energy", "joules")
    if joules is not None:
        rows.append(["energy in kWh", cell(joules / 3.6e6, f"{joules / 3.6e6:.4f}")])
    usd = number_in(result, "cost", "usd")
    if usd is not None:
        hour = number_in(result, "cost", "usd_per_hour")
        at = "" if hour is None else f" at {hour:,.4g} an hour"
        rows.append([f"cost in USD{at}", cell(usd, f"{usd:,.4f}")])
    tables = (table("resources", "Time, speed, memory, cost", ["what", "value"], rows, sortable=False),) if rows else ()
    return Section(
        "resources",
        "Time and memory",
        "Time and memory",
        plots=_present(phases_plot(material), memory_plot(material.memory, _held_bytes(result))),
        tables=tables,
    )


def _held_bytes(result: Mapping[str, Any]) -> dict[str, int]:
    """What a training held for its weights, as far as it is on record."""
    held = object_in(result, "memory", "held_bytes")
    return {name: int(value) for name, value in held.items() if is_finite(value) and value >= 0}


def _again(material: Material) -> Section:
    run = material.run
    folded = _present(
        _pairs("settings", "Settings", run.settings),
        _pairs("data", "Data", object_in(run.result or {}, "data")),
        _pairs("environment", "Environment: versions, machine, and what was chosen", run.environment),
    )
    return Section(
        "again",
        "How to do it again",
        "Do it again",
        (f"Everything that was asked for and chosen is in the folder {run.path}.",),
        lines=tuple(reproduction(material)),
        folded=folded,
    )


def reproduction(material: Material) -> list[Lines]:
    """The commands that repeat the run."""
    run = material.run
    config = shlex.quote(str(run.path / "config.json"))
    if run.is_training:
        return [
            Lines("From its record", f"bertwright {run.act} --config {config} --output NEW-FOLDER"),
            Lines("Without the record", command_of(run.settings)),
        ]
    if run.act == pretraining_page.ACT:
        return [Lines("From its record", f"bertwright pretrain --config {config} --output NEW-FOLDER")]
    if run.act == "evaluate":
        judged = shlex.quote(str(run.settings.get("run", "RUN")))
        data = " ".join(shlex.quote(str(file)) for file in _as_list(run.settings.get("data")))
        return [Lines("The command", f"bertwright evaluate {judged} {data} --output NEW-FOLDER")]
    return []


def command_of(settings: Mapping[str, Any]) -> str:
    """The command line of a training with these resolved settings; those that are as usual are left out."""
    from bertwright.config.distill import DistillConfig
    from bertwright.config.train import TrainConfig

    teacher = settings.get("teacher")
    kind = TrainConfig if teacher is None else DistillConfig
    words = [f"bertwright {kind.act}", *(shlex.quote(str(file)) for file in _as_list(settings.get("train")))]
    if teacher is not None:
        words.insert(1, shlex.quote(str(teacher)))
    for name, field in kind.model_fields.items():
        value = settings.get(name, field.default)
        if name in ("train", "teacher", "output", "overwrite", "resume") or value == field.default or value is None:
            continue
        if isinstance(value, list | tuple) and not value:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{name.replace('_', '-')}")
        else:
            words += [f"{flag} {shlex.quote(str(item))}" for item in _as_list(value)]
    return " \\\n  ".join([" ".join(words[:2]), *words[2:]])


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _pairs(name: str, caption: str, values: Mapping[str, Any]) -> Table | None:
    rows = [[key, cell(_plain(value))] for key, value in values.items() if value not in (None, [], {}, "")]
    return table(name, caption, ["name", "value"], rows, sortable=False) if rows else None


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return in_one_line(json.dumps(value, ensure_ascii=False))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 100_000 else str(value)
