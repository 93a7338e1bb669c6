"""Results and runs as a person reads them. Torch is never imported here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertwright.config.parts import LabelKind
from bertwright.evaluation.extremes import one_line, show_extremes
from bertwright.evaluation.metrics import describe_score
from bertwright.evaluation.tables import confusion_table, metrics_table, per_class_table
from bertwright.progress import Reporter, duration
from bertwright.runs import Run, reading_records

if TYPE_CHECKING:
    from rich.table import Table

    from bertwright.prices import Price

# More classes than this make a confusion matrix that no terminal shows.
_MOST_SHOWN_CLASSES = 12
_LISTED_METRICS = ("accuracy", "macro_f1", "roc_auc")
# Listed only where a run has them.
_LISTED_OF_NUMBERS = ("r2", "pearson")
_LISTED_OF_MASKED = ("loss", "perplexity", "masked_accuracy")
_KINDS: dict[str, LabelKind] = {"multi_label": "multi-label", "soft_label": "soft", "regression": "regression"}


def show_result(result: Mapping[str, Any], reporter: Reporter) -> None:
    """What result.json holds, as tables: quality, classes, extremes, time and memory."""
    labels = result["labels"]
    kind = _KINDS.get(result.get("task", ""), "classes")
    held_out = next((split for split in ("test", "validation", "train") if result["metrics"].get(split)), None)
    if held_out is not None:
        metrics = result["metrics"][held_out]
        reporter.show(metrics_table(result["metrics"], title="Quality"))
        if "per_class" in metrics:
            what = "Labels" if kind == "multi-label" else "Classes"
            reporter.show(per_class_table(metrics, title=f"{what}, {held_out} texts"))
        if "confusion" in metrics and len(labels) <= _MOST_SHOWN_CLASSES:
            reporter.show(confusion_table(metrics, labels, title=f"Confusion, {held_out} texts"))
    if result.get("teacher"):
        from rich.text import Text

        reporter.show(Text(_taught(result["teacher"], result["metrics"])))  # a path is no markup
    settled = list(_settled(result.get("judgement") or {}))
    if settled:
        reporter.show("\n".join(settled))
    if result["extremes"]["highest"]:
        reporter.show(show_extremes(result["extremes"], describe_score(labels, kind)))
    reporter.show(_resources(result))


def _taught(teacher: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """One line: who taught, how much smaller the student is and, where that is known, what it lost."""
    theirs, ours = teacher["num_weights"], teacher["student_num_weights"]
    line = f"teacher {one_line(str(teacher['run']))}: {theirs:,} weights, the student has {ours:,}"
    known, found = teacher["metrics"].get("test") or {}, metrics.get("test") or {}
    both = [
        f"{name} {known[name]:.4f} -> {found[name]:.4f}"
        for name in (*_LISTED_METRICS, *_LISTED_OF_NUMBERS)
        if isinstance(known.get(name), float) and isinstance(found.get(name), float)
    ]
    return line + (f"; teacher -> student on the test texts: {', '.join(both)}" if both else "")


def _settled(judgement: Mapping[str, Any]) -> Iterator[str]:
    """What was settled about scores, and what it did to their calibration."""
    threshold = judgement.get("threshold") or {}
    if threshold.get("metric") is not None:
        value = threshold["value"]
        values = value if isinstance(value, Mapping) else {"": value}
        words = ", ".join(f"{one_line(name)} {number:.4f}".strip() for name, number in values.items())
        yield f"threshold {words}: tuned for {threshold['metric']} on the {threshold['tuned_on']} texts"
    for split, found in (judgement.get("calibration") or {}).items():
        if found["after"] is not None and judgement["temperature"] != 1:
            before, after = (found[when]["expected_calibration_error"] for when in ("before", "after"))
            temperature = judgement["temperature"]
            yield f"temperature {temperature:.4f}: calibration error of {split} texts {before:.4f} -> {after:.4f}"


def _resources(result: Mapping[str, Any]) -> str:
    seconds, rates, memory = result["seconds"], result["rates"], result["memory"]
    lines = []
    for phase in ("read", "tokenize", "train", "infer", "total"):
        if seconds[phase] is None:
            continue
        line = f"{phase:<9}{duration(seconds[phase]):>14}"
        if rates.get(f"{phase}_texts_per_s") is not None:
            line += f"   {rates[f'{phase}_texts_per_s']:,.0f} texts/s"
        if rates.get(f"{phase}_tokens_per_s") is not None:
            line += "," if rates.get(f"{phase}_texts_per_s") is not None else "  "
            line += f" {rates[f'{phase}_tokens_per_s']:,.0f} tokens/s"
        lines.append(line)
    lines.append(f"{'memory':<9}{memory['peak_process_bytes'] / 2**20:>10,.0f} MiB   peak of the process")
    if memory["peak_gpu_bytes"] is not None:
        lines.append(f"{'':<9}{memory['peak_gpu_bytes'] / 2**20:>10,.0f} MiB   peak of the GPU")
    if result["cost"]["usd"] is not None:
        cost = result["cost"]
        lines.append(f"{'cost':<9}{cost['usd']:>10,.4f} USD   at {cost['usd_per_hour']:,.4f} USD/h")
    return "\n".join(lines)


def show_pretraining(result: Mapping[str, Any], reporter: Reporter) -> None:
    """What a pretraining's result.json holds: how well masked tokens are guessed, time and memory."""
    found = (result.get("metrics") or {}).get("validation")
    if found:
        reporter.show(
            f"held out: loss {found['loss']:.4f}, perplexity {found['perplexity']:.2f}, "
            f"masked accuracy {found['masked_accuracy']:.4f}"
        )
    data = result["data"]
    reporter.show(
        f"learnt from {data['tokens_learnt_from']:,} tokens in {result['steps']:,} steps, "
        f"{data['epochs']:.2f} times the corpus"
    )
    reporter.show(_resources(result))


def held_out_split(metrics: Mapping[str, Any]) -> str | None:
    """The split that a run is judged on: test, else validation, else None."""
    return next((split for split in ("test", "validation") if metrics.get(split)), None)


def summary(run: Run) -> dict[str, Any]:
    """A run in one line: its place, its state, what it trained or judged, and its main metrics."""
    split = held_out_split(run.metrics)
    metrics = run.metrics[split] if split else {}
    return {
        "run": str(run.path),
        "act": run.act,
        "started": run.started,
        "finished": run.finished,
        "state": run.state,
        "damage": run.damage,
        "model": run.settings.get("model") or run.settings.get("run"),
        "data": list(run.settings.get("train") or run.settings.get("data") or run.settings.get("corpus") or []),
        "judged_on": split,
        **{name: metrics.get(name) for name in _LISTED_METRICS},
        **{name: metrics[name] for name in _LISTED_OF_NUMBERS if name in metrics},
        "train_s": None if run.result is None else run.result["seconds"]["train"],
    }


def list_table(found: Sequence[Run]) -> Table:
    """Runs, one a row."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("run", "act", "started", "model", "judged on"):
        table.add_column(name, overflow="fold")
    lines = [summary(run) for run in found]
    listed = (*_LISTED_METRICS, *(name for name in _LISTED_OF_NUMBERS if any(name in line for line in lines)))
    for name in (*listed, "train"):
        table.add_column(name, justify="right", no_wrap=True)
    for run, line in zip(found, lines, strict=True):
        numbers = ["-" if line.get(name) is None else f"{line[name]:.4f}" for name in listed]
        judged = (line["judged_on"] or "-") if run.finished else run.state
        train = "-" if line["train_s"] is None else duration(line["train_s"])
        started = run.started.replace("T", " ")[:16]
        words = (line["run"], run.act, started, str(line["model"]), judged, *numbers, train)
        table.add_row(*(Text(one_line(word)) for word in words))
    return table


def show_run(run: Run, reporter: Reporter) -> None:
    """One run whole: settings, choices, history, results.

    Raises:
        RunError: the record holds what no run writes.
    """
    with reading_records(run.path):
        _show_run(run, reporter)


def _show_run(run: Run, reporter: Reporter) -> None:
    reporter.show(
        f"{run.path}: {run.act}, started {run.started}" + ("" if run.finished else f", NOT FINISHED: {run.state}")
    )
    reporter.show(_pairs_table("Settings", run.settings))
    reporter.show(_pairs_table("Environment", run.environment))
    if run.history:
        reporter.show(_history_table(run.history))
    if run.result is not None:
        reporter.show(_pairs_table("Data", run.result["data"]))
        (show_pretraining if run.act == "pretrain" else show_result)(run.result, reporter)


def _pairs_table(title: str, values: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, show_edge=False)
    for name, value in values.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(Text(name), Text(one_line(shown)))
    return table


def _history_table(history: Sequence[Mapping[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = [
        name
        for name in ("log_loss", *_LISTED_METRICS, *_LISTED_OF_NUMBERS, *_LISTED_OF_MASKED)
        if any(line["validation"].get(name) is not None for line in history)
    ]
    table = Table(title="History", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("step", "epoch", "train loss", "learning rate", *(f"validation {name}" for name in names)):
        table.add_column(column, justify="right")
    for line in history:
        found = [line["validation"].get(name) for name in names]
        numbers = ["-" if value is None else f"{value:.4f}" for value in found]
        first = (
            f"{line['step']:,}",
            f"{line['epoch']:.2f}",
            f"{line['train_loss']:.4f}",
            f"{line['learning_rate']:.2e}",
        )
        table.add_row(*(Text(word) for word in (*first, *numbers)))
    return table


def prices_table(prices: Sequence[Price]) -> Table:
    """Machines and what an hour of them costs; "?" after a price that is doubtful."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("cloud", "machine", "accelerator"):
        table.add_column(name, overflow="fold")
    for name in ("CPUs", "GiB", "USD/h", "spot", "as of"):
        table.add_column(name, justify="right", no_wrap=True)
    room = " " if any(price.doubtful for price in prices) else ""
    for price in prices:
        number = f"{price.num_accelerators} x " if price.num_accelerators > 1 else ""
        table.add_row(
            *(Text(one_line(text)) for text in (price.cloud, price.machine, number + price.accelerator)),
            "-" if price.num_cpus is None else str(price.num_cpus),
            "-" if price.memory_gib is None else f"{price.memory_gib:g}",
            f"{price.usd_per_hour:,.3f}" + ("?" if price.doubtful else room),
            "-" if price.spot_usd_per_hour is None else f"{price.spot_usd_per_hour:,.3f}",
            Text(price.as_of or "-"),
        )
    return table
