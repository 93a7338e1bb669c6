"""The page of several runs side by side, from what ``compare`` returned as plain values, and the runs' own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertwright.progress import duration
from bertwright.reporting.comparison_words import best_of, main_metric, subtitle_of, summary_of, tiles_of
from bertwright.reporting.curve_plots import overlaid_curves
from bertwright.reporting.many_plots import forest, overlaid_series, scatter
from bertwright.reporting.material import Material, is_finite, number_in, object_in, objects_of
from bertwright.reporting.page import Entry, Lines, Page, Section, Texts, check_names
from bertwright.reporting.run_page import command_of
from bertwright.reporting.svg import Plot
from bertwright.reporting.tables import Cell, Table, cell, interval_cell, p_cell, table
from bertwright.reporting.words import counted, decimals, metric_order, metric_words, size_words

_SHOWN = (
    "accuracy", "precision", "recall", "f1", "micro_f1", "macro_f1", "roc_auc", "average_precision", "log_loss",
    "root_mean_squared_error", "mean_absolute_error", "r2", "spearman",
)  # fmt: skip
_MOST_RUNS_DRAWN, _MOST_RANKED, _MOST_LETTERS, _MOST_PAIRS = 8, 5, 300, 200


def comparison_page(comparison: Mapping[str, Any], materials: Sequence[Material]) -> Page:
    """Everything that is known of the runs together.

    Args:
        comparison: ``Comparison.record()``.
        materials: of the same runs, in the same order.
    """
    records = objects_of(comparison.get("records"))
    contenders = objects_of(comparison.get("contenders")) or _from_records(records)
    metric = main_metric(comparison, contenders)
    names = short_names([str(record.get("run", "")) for record in records])
    sections = (
        _quality(comparison, records, contenders, metric, names, materials),
        _differences(comparison),
        _worth(comparison, contenders, metric),
        _learning(materials, names),
        _rankings(comparison),
        _resources(records, names),
        _again(materials, names),
    )
    check_names(sections)
    return Page(
        title=f"{counted(len(contenders), 'classifier')} side by side",
        subtitle=subtitle_of(records),
        summary=summary_of(comparison, contenders, metric),
        cautions=tuple(str(note) for note in comparison.get("notes") or ()),
        tiles=tiles_of(contenders, metric),
        sections=sections,
    )


def _from_records(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each run for itself, where none were put together."""
    names = short_names([str(record.get("run", "")) for record in records])
    return [
        {
            "name": names[str(record.get("run", ""))],
            "runs": [record.get("run")],
            "metrics": record.get("metrics"),
            "intervals": record.get("intervals") or {},
            "train_s": number_in(record, "seconds", "train"),
            "usd": record.get("usd"),
        }
        for record in records
    ]


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """By path the folder's own name, where these differ; else the path."""
    names = {path: Path(path).name or path for path in paths}
    return names if len(set(names.values())) == len(names) else {path: path for path in paths}


def _quality(
    comparison: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    contenders: Sequence[Mapping[str, Any]],
    metric: str | None,
    names: Mapping[str, str],
    materials: Sequence[Material],
) -> Section:
    present = {name for item in contenders for name, value in object_in(item, "metrics").items() if is_finite(value)}
    shown = sorted((name for name in _SHOWN if name in present), key=metric_order)
    bests = {name: best_of(contenders, name) for name in shown}
    rows = []
    for item in contenders:
        numbers: list[Any] = []
        for name in shown:
            value = number_in(item, "metrics", name)
            numbers.append(cell(value, best=value is not None and value == bests[name] and len(contenders) > 1))
            if name == metric:
                numbers.append(interval_cell(object_in(item, "intervals").get(name)))
        rows.append([str(item.get("name")), *_told(item), *numbers])
    headings: list[str] = ["classifier", "model", "runs"]
    for name in shown:
        headings += [metric_words(name), "95 % interval"] if name == metric else [metric_words(name)]
    alpha = number_in(comparison, "alpha")
    level = "95" if alpha is None else f"{100 * (1 - alpha):g}"
    tables = (
        table(
            "contenders", "Quality; the best of each column is marked", [h.replace("95", level) for h in headings], rows
        ),
    )
    plots: list[Plot] = []
    if metric is not None:
        points = [
            (str(item.get("name")), number_in(item, "metrics", metric), object_in(item, "intervals").get(metric))
            for item in contenders
        ]
        found = forest("intervals", metric, points)
        plots += [found] if found else []
    plots += _curves(materials, names)
    return Section("quality", "How good they are", "Quality", plots=tuple(plots), tables=tables)


def _told(item: Mapping[str, Any]) -> list[Any]:
    runs = item.get("runs")
    return [cell(item.get("model")), len(runs) if isinstance(runs, list) else None]


def _curves(materials: Sequence[Material], names: Mapping[str, str]) -> list[Plot]:
    usable = [item for item in materials if item.predictions is not None and item.kind in ("classes", "soft")]
    if len(usable) != len(materials) or len({item.labels for item in usable}) != 1 or len(usable[0].labels) != 2:
        return []
    named = [(names[str(item.run.path)], item.predictions) for item in usable if item.predictions is not None]
    plot = overlaid_curves(named, 1)
    return [plot] if plot else []


def _differences(comparison: Mapping[str, Any]) -> Section:
    found = objects_of(comparison.get("differences"))
    rows = [
        [
            f"{item.get('a')} against {item.get('b')}",
            cell(metric_words(str(item.get("metric")))),
            cell(number_in(item, "difference"), _signed(number_in(item, "difference"))),
            interval_cell([item.get("low"), item.get("high")]),
            p_cell(number_in(item, "p")),
            p_cell(number_in(item, "p_adjusted")),
            _verdict_cell(item.get("verdict")),
            cell(_whole(number_in(item, "more_texts"))),
        ]
        for item in found[:_MOST_PAIRS]
    ]
    headings = ["pair", "metric", "difference", "interval", "p", "p, Holm", "the first is", "more texts would tell"]
    sentences = tuple(
        str(item["sentence"])
        for item in found
        if item.get("metric") == comparison.get("metric") and item.get("sentence")
    )
    tables = (table("differences", "Differences between pairs", headings, rows),) if rows else ()
    prose = sentences[:6] if sentences else ()
    return Section("differences", "Is one really better?", "Differences", prose, tables=tables)


def _verdict_cell(verdict: Any) -> Cell:
    return cell(verdict if isinstance(verdict, str) else None, best=verdict in ("better", "worse"))


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _worth(comparison: Mapping[str, Any], contenders: Sequence[Mapping[str, Any]], metric: str | None) -> Section:
    rows = [
        [
            f"{item.get('b')} instead of {item.get('a')}",
            cell(item.get("what")),
            cell(number_in(item, "gain"), _signed(number_in(item, "gain"))),
            interval_cell([item.get("low"), item.get("high")]),
            cell(item.get("verdict")),
            number_in(item, "extra_minutes"),
            number_in(item, "extra_usd"),
            number_in(item, "gain_per_minute"),
            number_in(item, "gain_per_usd"),
        ]
        for item in objects_of(comparison.get("worth"))
    ]
    headings = [
        "step",
        "what changed",
        "gain",
        "interval",
        "verdict",
        "more minutes",
        "more USD",
        "gain a minute",
        "gain a USD",
    ]
    tables = (table("worth", "What more training, or a larger model, bought", headings, rows),) if rows else ()
    plots, front = _pareto(comparison, metric)
    return Section("worth", "Was it worth it?", "Worth", plots=plots, tables=(*tables, *front))


def _pareto(comparison: Mapping[str, Any], metric: str | None) -> tuple[tuple[Plot, ...], tuple[Table, ...]]:
    points = objects_of(comparison.get("pareto"))
    words = metric_words(metric or str(next((item.get("metric") for item in points), "quality")))
    plots = []
    costs = (
        ("infer_s_per_text", "milliseconds a text", 1000.0),
        ("memory_bytes", "memory, MiB", 2.0**-20),
        ("usd", "USD", 1.0),
        ("train_s", "training, seconds", 1.0),
    )
    for key, across, factor in costs:
        known = [
            (str(item.get("name")), factor * cost, quality, bool(item.get("on_front")))
            for item in points
            if (cost := number_in(item, key)) is not None and (quality := number_in(item, "quality")) is not None
        ]
        if len(known) < 2:
            continue
        on_front = ", ".join(name for name, _, _, on in known if on)
        plots.append(
            scatter(
                f"pareto-{key.replace('_', '-')}",
                f"Quality and {across}",
                f"{words} (up) against {across} (right). Filled: no other is at least as good in everything and better "
                f"in something. These are {on_front or 'none'}.",
                known,
                across,
                words,
                join=False,
            )
        )
    rows = [
        [
            str(item.get("name")),
            number_in(item, "quality"),
            cell(ms := _times(number_in(item, "infer_s_per_text"), 1000), None if ms is None else f"{ms:.3g}"),
            _sized(number_in(item, "memory_bytes")),
            number_in(item, "usd"),
            cell(bool(item.get("on_front"))),
            cell(", ".join(map(str, item.get("dominated_by") or ())) or None),
        ]
        for item in points
    ]
    headings = ["classifier", words, "ms a text", "memory", "USD", "on the front", "worse in all than"]
    tables = (table("pareto", "The Pareto front: whom nobody beats in everything", headings, rows),) if rows else ()
    return tuple(plots), tables


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _sized(value: float | None) -> Cell:
    return cell(None) if value is None else cell(value, size_words(value))


def _learning(materials: Sequence[Material], names: Mapping[str, str]) -> Section:
    series = []
    for item in materials[:_MOST_RUNS_DRAWN]:
        for metric in ("roc_auc", "accuracy", "r2"):
            points = [
                (line["elapsed_s"], value)
                for line in item.run.history
                if (value := number_in(line, "validation", metric)) is not None and is_finite(line.get("elapsed_s"))
            ]
            if len(points) > 1:
                series.append((names[str(item.run.path)], metric, points))
                break
    metrics = {metric for _, metric, _ in series}
    if len(series) < 2 or len(metrics) != 1:
        return Section("learning", "How they learned", "Learning")
    words = metric_words(metrics.pop())
    ends = "; ".join(f"{name} ends at {decimals(points[-1][1])}" for name, _, points in series)
    plot = overlaid_series(
        "validation-of-all",
        f"Validation {words} over time",
        f"{words} of the validation texts (up) over the seconds of training (right): {ends}.",
        [(name, points) for name, _, points in series],
        "seconds",
        words,
    )
    return Section("learning", "How they learned", "Learning", plots=(plot,) if plot else ())


def _rankings(comparison: Mapping[str, Any]) -> Section:
    found = objects_of(comparison.get("rankings"))
    rows = [
        [
            f"{item.get('a')} and {item.get('b')}",
            number_in(item, "spearman"),
            number_in(item, "kendall"),
            cell(_whole(number_in(item, "shared_highest"))),
            cell(_whole(number_in(item, "shared_lowest"))),
            cell(_whole(number_in(item, "k"))),
        ]
        for item in found
    ]
    headings = ["pair", "Spearman", "Kendall", "shared highest", "shared lowest", "of"]
    tables = (table("rankings", "How alike they rank the texts", headings, rows),) if rows else ()
    texts = tuple(_moved(item, end) for item in found[:1] for end in ("highest", "lowest"))
    return Section(
        "rankings", "Do they rank the texts alike?", "Ranking", tables=tables, texts=tuple(t for t in texts if t)
    )


def _moved(item: Mapping[str, Any], end: str) -> Texts | None:
    """The texts at one end, by both runs, side by side."""
    entries = []
    for line in objects_of(item.get(end))[:_MOST_RANKED]:
        for side in ("a", "b"):
            entry = object_in(line, side)
            if not entry:
                continue
            other = entry.get("rank_in_other")
            text = entry.get("text")
            entries.append(
                Entry(
                    (
                        str(line.get("rank")),
                        str(item.get(side)),
                        decimals(number_in(entry, "score")),
                        str(entry.get("label") if entry.get("label") is not None else "–"),
                        "–" if other is None else str(other),
                    ),
                    text[:_MOST_LETTERS] if isinstance(text, str) else None,
                )
            )
    if not entries:
        return None
    note = f"Ranked by {item.get('score')}."
    heading = f"The {end}, by {item.get('a')} and by {item.get('b')}"
    return Texts(f"ranked-{end}", heading, note, ("rank", "by", "score", "label", "rank by the other"), tuple(entries))


def _resources(records: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Section:
    phases = [
        name
        for name in ("tokenize", "train", "infer", "total")
        if any(number_in(r, "seconds", name) is not None for r in records)
    ]
    rows = []
    for record in records:
        seconds = [number_in(record, "seconds", name) for name in phases]
        rows.append(
            [
                names[str(record.get("run", ""))],
                cell(record.get("seed")),
                cell(record.get("device")),
                cell(record.get("dtype")),
                *(cell(value, None if value is None else duration(value)) for value in seconds),
                _sized(number_in(record, "peak_process_bytes")),
                _sized(number_in(record, "peak_gpu_bytes")),
                cell(number_in(record, "usd")),
            ]
        )
    headings = ["run", "seed", "device", "dtype", *phases, "memory", "GPU memory", "USD"]
    return Section(
        "resources",
        "Times and memory",
        "Times and memory",
        tables=(table("resources", "Runs, one by one", headings, rows),),
    )


def _again(materials: Sequence[Material], names: Mapping[str, str]) -> Section:
    lines = tuple(
        Lines(names[str(item.run.path)], command_of(item.run.settings)) for item in materials if item.run.is_training
    )
    return Section("again", "How to do it again", "Do it again", lines=lines)
