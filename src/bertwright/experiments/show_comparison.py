"""A comparison as tables: for a terminal of 80 columns and more, and as Markdown. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bertwright.evaluation.extremes import one_line
from bertwright.evaluation.metrics import LOWER_IS_BETTER
from bertwright.experiments.compare import Comparison
from bertwright.experiments.comparison_csv import comparison_csv
from bertwright.experiments.contenders import short_names
from bertwright.experiments.differences import number, probability, rounded, signed
from bertwright.experiments.finished_runs import is_number
from bertwright.progress import Reporter, duration

if TYPE_CHECKING:
    from rich.table import Table

_OF_CLASSES = ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss")
# Shown of the held-out texts by the kind of labels (``task`` of result.json), in this order, where any run has them.
SHOWN_METRICS = {
    "single_label": _OF_CLASSES,
    "soft_label": (*_OF_CLASSES, "soft_log_loss"),
    "multi_label": ("accuracy", "micro_f1", "macro_f1", "roc_auc", "average_precision", "log_loss"),
    "regression": ("root_mean_squared_error", "mean_absolute_error", "r2", "pearson", "spearman"),
}
_HEADINGS = {"root_mean_squared_error": "RMSE", "mean_absolute_error": "MAE"}
# Widths of tables: what is between columns, and what run, model, seed and epochs take at least.
_BETWEEN, _WIDTH_OF_WORDS = 3, 45
_MOST_SENTENCES = 10
# Up to so many contenders the texts of every pair are set side by side, of more those of the first pair.
_MOST_IN_EVERY_PAIR = 3


@dataclass(frozen=True)
class PlainTable:
    """A table of words. Cells may have several lines.

    Attributes:
        title: stands above.
        columns: the headings.
        rows: as many cells as headings each.
        left: the first so many columns are words, the others numbers.
        folded: of the words, which columns may be folded where the terminal is narrow.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    folded: Sequence[int] = (0,)


def show_comparison(comparison: Comparison, reporter: Reporter, form: Literal["table", "markdown", "csv"]) -> None:
    """What ``compare`` returned, as tables and sentences."""
    if form == "table":
        for table in tables_of(comparison, reporter.results.width):
            reporter.show(rich_table(table))
        for title, lines in sentences_of(comparison).items():
            reporter.show(text_of(f"{title}\n" + "\n".join(f"- {line}" for line in lines) + "\n"))
        return
    if form == "csv":
        text = comparison_csv(comparison).rstrip("\n")
    else:
        parts = [as_markdown(table) for table in tables_of(comparison, None)]
        for title, lines in sentences_of(comparison).items():
            parts.append("\n".join([f"**{title}**", "", *(f"- {line}" for line in lines)]))
        text = "\n\n".join(parts)
    if reporter.shows_results:
        reporter.results.print(text_of(text), soft_wrap=True)  # a line of a file is never folded


def sentences_of(comparison: Comparison) -> dict[str, list[str]]:
    """Verdicts in words, what more effort bought, and what is missing and why; what is empty is left out."""
    found = {
        "In words": [record["sentence"] for record in comparison.differences[:_MOST_SENTENCES]],
        "Was it worth it": [record["sentence"] for record in comparison.worth],
        "Notes": comparison.notes,
    }
    return {title: [one_line(line) for line in lines] for title, lines in found.items() if lines}


def tables_of(comparison: Comparison, width: int | None) -> list[PlainTable]:
    """All tables; those of quality are parted where they are wider than ``width`` characters, if given."""
    records = comparison.records
    tables = quality_tables(records, width, comparison.alpha)
    repeated = [record for record in comparison.contenders if len(record["runs"]) > 1]
    if repeated:
        tables += _seeds_tables(comparison, width)
    tables.append(_resources_table(records))
    if comparison.differences:
        tables.append(_differences_table(comparison))
    if comparison.rankings:
        tables.append(_rankings_table(comparison))
        every = len(comparison.contenders) <= _MOST_IN_EVERY_PAIR
        for ranking in comparison.rankings if every else comparison.rankings[:1]:
            tables += _extremes_tables(ranking)
    if len(comparison.pareto) > 1:
        tables.append(_pareto_table(comparison))
    return tables


def quality_tables(records: Sequence[Mapping[str, Any]], width: int | None, alpha: float = 0.05) -> list[PlainTable]:
    """The metrics of each run, the interval in a second line; a star marks the best of a column."""
    names = dict(zip((r["run"] for r in records), short_names([r["run"] for r in records]), strict=True))
    words = {
        "run": [names[record["run"]] for record in records],
        "model": [str(record["model"]) for record in records],
        "seed": [_word(record["seed"]) for record in records],
        "epochs": [_epochs(record) for record in records],
    }
    split = records[0]["judged_on"]
    title = f"Quality, {split} texts" if split else "Quality"
    if any(record.get("intervals") for record in records):
        title += f"; {100 * (1 - alpha):g} % intervals over the texts"
    columns = {}
    if any(record["train_accuracy"] is not None for record in records):
        columns["train accuracy"] = _marked([record["train_accuracy"] for record in records], "accuracy", [])
    return _parted(title, words, {**columns, **_metric_columns(records)}, width)


def _seeds_tables(comparison: Comparison, width: int | None) -> list[PlainTable]:
    records = [{**record, "task": comparison.records[0]["task"]} for record in comparison.contenders]
    words = {
        "setting": [record["name"] for record in records],
        "model": [str(record["model"]) for record in records],
        "seeds": [str(len(record["runs"])) for record in records],
        "epochs": [_epochs(record) for record in records],
    }
    title = f"Means over seeds; {100 * (1 - comparison.alpha):g} % intervals over texts and seeds"
    return _parted(title, words, _metric_columns(records), width)


def _metric_columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    present = dict.fromkeys(name for record in records for name in record["metrics"] if name != "num_texts")
    wanted = dict.fromkeys(name for record in records for name in SHOWN_METRICS.get(record["task"], _OF_CLASSES))
    columns: dict[str, list[str]] = {}
    for name in [name for name in wanted if name in present] or list(present):
        values = [record["metrics"].get(name) for record in records]
        if any(value is not None for value in values):
            intervals = [(record.get("intervals") or {}).get(name) for record in records]
            columns[_HEADINGS.get(name, name.replace("_", " "))] = _marked(values, name, intervals)
    return columns


def _marked(values: Sequence[float | None], metric: str, intervals: Sequence[tuple[float, float] | None]) -> list[str]:
    known = [value for value in values if value is not None]
    best = (min if metric in LOWER_IS_BETTER else max)(known) if len(set(known)) > 1 else None
    cells = [number(value) + ("*" if value is not None and value == best else "") for value in values]
    if not any(intervals):
        return cells
    # A space keeps the numbers of one column under each other.
    cells = [cell if cell.endswith("*") else f"{cell} " for cell in cells]
    return [
        f"{cell}\n" + ("" if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f} ")
        for cell, interval in zip(cells, intervals, strict=True)
    ]


def _parted(
    title: str, words: Mapping[str, Sequence[str]], columns: Mapping[str, Sequence[str]], width: int | None
) -> list[PlainTable]:
    """One table, or several where the columns side by side are wider than ``width`` characters."""
    parts: list[dict[str, Sequence[str]]] = []
    left = 0
    for heading, cells in columns.items():
        lines = [line for cell in cells for line in cell.split("\n")]
        needed = _BETWEEN + max(map(len, (*lines, *heading.split())))
        if not parts or (width is not None and needed > left):
            parts.append({})
            left = (width or 0) - _WIDTH_OF_WORDS
        parts[-1][heading] = cells
        left -= needed
    tables = []
    for part in parts or [{}]:
        rows = list(zip(*words.values(), *part.values(), strict=True))
        headings = [*words, *("\n".join(heading.split()) for heading in part)]
        tables.append(PlainTable(title, headings, rows, 2, (0, 1)))
    return tables


def _resources_table(records: Sequence[Mapping[str, Any]]) -> PlainTable:
    names = short_names([record["run"] for record in records])
    phases = [
        p for p in ("tokenize", "train", "infer", "total") if any(r["seconds"].get(p) is not None for r in records)
    ]
    with_gpu, with_cost = (any(r[name] is not None for r in records) for name in ("peak_gpu_bytes", "usd"))
    rows = []
    for name, record in zip(names, records, strict=True):
        seconds = [record["seconds"].get(phase) for phase in phases]
        cells = ["-" if value is None else duration(value) for value in seconds]
        cells.append(_mebibytes(record["peak_process_bytes"]))
        if with_gpu:
            cells.append(_mebibytes(record["peak_gpu_bytes"]))
        if with_cost:
            cells.append(number(record["usd"]))
        rows.append([name, _word(record["device"]), _word(record["dtype"]), *cells])
    more = (["GPU MiB"] if with_gpu else []) + (["USD"] if with_cost else [])
    return PlainTable("Times and memory", ["run", "device", "dtype", *phases, "MiB", *more], rows, 2, (0, 1))


def _differences_table(comparison: Comparison) -> PlainTable:
    records = comparison.differences
    adjusted = sum(record["p"] is not None for record in records) > 1
    columns = ["a", "b", *(["metric"] if len({r["metric"] for r in records}) > 1 else []), "a is", "a - b"]
    columns += ["p", *(["p,\nHolm"] if adjusted else []), "more\ntexts"]
    title = f"Differences of {', '.join(dict.fromkeys(record['metric'] for record in records))}"
    tests = [record["test"] for record in records if record["test"] is not None]
    if tests:
        title += f" ({', '.join(dict.fromkeys(tests))})"
    if adjusted:
        title += "; intervals and p are unadjusted, verdicts are by Holm"
    rows = []
    for record in records:
        cells = [record["a"], record["b"], *([record["metric"]] if "metric" in columns else []), record["verdict"]]
        interval = "" if record["low"] is None else f"\n{signed(record['low'])} to {signed(record['high'])}"
        cells += [signed(record["difference"]) + interval, _p(record["p"])]
        cells += [_p(record["p_adjusted"])] if adjusted else []
        more = record["more_texts"]
        cells.append("seeds" if record["seeds_hide_it"] else "-" if more is None else rounded(more))
        rows.append(cells)
    words = 4 if "metric" in columns else 3
    return PlainTable(title, columns, rows, words, (0, 1))


def _p(value: float | None) -> str:
    return "-" if value is None else probability(value).removeprefix("p = ").removeprefix("p ")


def _rankings_table(comparison: Comparison) -> PlainTable:
    records = comparison.rankings
    k = records[0]["k"]
    rows = [
        [
            record["a"],
            record["b"],
            number(record["spearman"]),
            number(record["kendall"]),
            f"{record['shared_highest']} of {record['k']}",
            f"{record['shared_lowest']} of {record['k']}",
        ]
        for record in records
    ]
    title = f"How the order of the texts moved, by {records[0]['score']}"
    columns = ["a", "b", "Spearman", "Kendall", f"shared of\nhighest {k}", f"shared of\nlowest {k}"]
    if not k:
        columns, rows = columns[:4], [row[:4] for row in rows]
    return PlainTable(title, columns, rows, 2, (0, 1))


def _extremes_tables(ranking: Mapping[str, Any]) -> list[PlainTable]:
    """The highest and lowest texts of a pair, side by side."""
    tables = []
    for side in ("highest", "lowest"):
        rows = []
        for entry in ranking[side]:
            cells = []
            for which in ("a", "b"):
                text = entry[which]["text"]
                shown = f"row {entry[which]['row']:,}" if text is None else one_line(text)[:70]
                cells.append(f"{entry[which]['score']:.4f} {shown} [{entry[which]['rank_in_other']:,}]")
            rows.append([str(entry["rank"]), *cells])
        title = f"{side.capitalize()} {ranking['score']} [rank by the other]"
        tables.append(PlainTable(title, ["", ranking["a"], ranking["b"]], rows, 3, (1, 2)))
    return [table for table in tables if table.rows]


def _pareto_table(comparison: Comparison) -> PlainTable:
    records = comparison.pareto
    metric = comparison.metric or "quality"
    rows = [
        [
            record["name"],
            "on the front" if record["on_front"] else f"beaten by {', '.join(record['dominated_by'])}",
            number(record["quality"]),
            "-" if record["infer_s_per_text"] is None else f"{1000 * record['infer_s_per_text']:.2f}",
            _mebibytes(record["memory_bytes"]),
            "-" if record["train_s"] is None else duration(record["train_s"]),
            number(record["usd"]),
        ]
        for record in records
    ]
    columns = ["setting", "Pareto front", metric.replace("_", "\n"), "ms a\ntext", "MiB", "train", "USD"]
    if all(record["usd"] is None for record in records):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return PlainTable("Which are worth a look: no other is better in all at once", columns, rows, 2, (0, 1))


def rich_table(table: PlainTable) -> Table:
    """``table`` for a terminal."""
    found = empty_table(table.title)
    for place, heading in enumerate(table.columns):
        if place in table.folded:
            found.add_column(_lines(heading), overflow="fold")
        else:
            found.add_column(_lines(heading), justify="left" if place < table.left else "right", no_wrap=True)
    for row in table.rows:
        add_row(found, *row)
    return found


def as_markdown(table: PlainTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_one_cell(cell).replace("|", "\\|") for cell in cells) + " |"

    columns = [one_line(heading) for heading in table.columns]
    marks = [":---" if place < table.left else "---:" for place in range(len(table.columns))]
    return "\n".join([f"**{one_line(table.title)}**", "", line(columns), line(marks), *map(line, table.rows)])


def _one_cell(cell: str) -> str:
    """Its lines in one: a value, and its interval in brackets."""
    first, *rest = (one_line(line) for line in cell.split("\n"))
    return f"{first} ({' '.join(rest)})" if any(rest) else first


def text_of(text: str) -> Any:
    """For rich to print as it is: nothing in it is markup."""
    from rich.text import Text

    return Text(text)


def empty_table(title: str) -> Table:
    """A table of this project's looks."""
    from rich import box
    from rich.table import Table

    return Table(title=text_of(one_line(title)), title_justify="left", box=box.SIMPLE_HEAD)


def add_row(table: Table, *cells: str) -> None:
    """Add ``cells`` as they are: nothing in them is markup or a control code. Lines stay lines."""
    table.add_row(*map(_lines, cells))


def _lines(text: str) -> Any:
    """For rich to print, each line safe for a terminal."""
    # A space at the end holds the place of a star.
    lines = [one_line(line) + (" " if line.endswith(" ") else "") for line in text.split("\n")]
    return text_of("\n".join(lines))


def _mebibytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f}"


def _word(value: Any) -> str:
    return "-" if value is None else str(value)


def _epochs(record: Mapping[str, Any]) -> str:
    if is_number(record["epochs"]):
        return f"{record['epochs']:g}"
    return f"{record['steps']:,} steps" if is_number(record["steps"]) else "-"
