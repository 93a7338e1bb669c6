"""A plan, and what became of it, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertwright.benchmarking.machines import MOST_CORES
from bertwright.evaluation.extremes import one_line
from bertwright.prices import doubts
from bertwright.progress import Reporter, duration

if TYPE_CHECKING:
    from rich.table import Table

_PHASES = {
    "read": "reading the texts",
    "tokenize": "tokenising",
    "train": "training",
    "infer": "scoring the held-out texts",
    "total": "all of it",
    "peak_process_bytes": "memory, peak of the process",
    "peak_gpu_bytes": "memory, peak of the GPU",
}


_MOST_OFF = 100  # beyond that factor, per cent say nothing


def show_plan(plan: Mapping[str, Any], num_machines: int, reporter: Reporter) -> None:
    """The tables of a plan: this machine, what holds the memory, other machines."""
    reporter.show(_here_table(plan))
    if plan["held"]:
        reporter.show(_held_table(plan))
    if plan["most_tokens"] is not None:
        reporter.show(_most_tokens(plan))
    from rich.text import Text

    others = sorted(plan["elsewhere"], key=lambda one: (one["kind"] != "measured", _cost(one)))
    if others and num_machines:
        shown = others[:num_machines]
        reporter.show(_elsewhere_table(shown, len(others), plan))
        for line in _remarks(shown, plan):
            reporter.show(Text(line))


def _table(title: str, caption: str = "", show_header: bool = True) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, show_header=show_header
    )
    if caption:
        table.caption, table.caption_justify = Text(caption), "left"
    return table


def _here_table(plan: Mapping[str, Any]) -> Table:
    chosen = plan["chosen"]
    texts = ", ".join(f"{count:,} {name}" for name, count in plan["num_texts"].items())
    what = "scoring" if plan["steps"] is None else f"a training of {plan['steps']:,} steps"
    table = _table(
        f"On this machine: {what}; texts: {texts}",
        f"{chosen['device']}, {chosen['dtype']}, {chosen['threads']} threads; {_tried(plan)}",
    )
    table.add_column("")
    for name in ("expected", "from", "to"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, estimate in plan["seconds"].items():
        table.add_row(_PHASES.get(name, name), *(duration(estimate[key]) for key in ("value", "low", "high")))
    for name, estimate in plan["memory"].items():
        table.add_row(_PHASES[name], *(_mib(estimate[key]) for key in ("value", "low", "high")))
    if plan["usd"] is not None:
        table.add_row("cost", *(_usd(plan["usd"][key]) for key in ("value", "low", "high")))
    return table


def _tried(plan: Mapping[str, Any]) -> str:
    tried = plan["tried"]
    scored = f"{tried['texts_scored']:,} texts scored"
    return f"tried out: {scored}" if tried["steps"] is None else f"tried out: {tried['steps']:,} steps, {scored}"


def _held_table(plan: Mapping[str, Any]) -> Table:
    table = _table("What holds the memory at the step of the most tokens", show_header=False)
    table.add_column("")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    most = max(plan["held"].values()) or 1
    for name, held in plan["held"].items():
        table.add_row(name, _mib(held), "█" * round(30 * held / most))
    return table


def _most_tokens(plan: Mapping[str, Any]) -> str:
    most, config = plan["most_tokens"], plan["config"]
    longest = config.get("max_length") or 1
    return (
        f"\nmemory would do for about {most:,} tokens at once: {most // longest:,} texts of {longest:,} tokens in a "
        f"batch. Larger batches are cut by --token-budget ({plan['chosen']['token_budget']:,})"
    )


def _elsewhere_table(shown: list[Any], num_all: int, plan: Mapping[str, Any]) -> Table:
    from rich.text import Text

    here = plan["here"]
    caption = f"{len(shown)} of {num_all}; x: times as fast as this one"
    if here is not None:
        caption += f", taken as {one_line(here['name'])}: {here['source']}"
    table = _table("On other machines: rough and unofficial", caption)
    table.padding = (0, 1, 0, 0)  # there is much to tell
    table.add_column("machine", overflow="fold")
    table.add_column("with", overflow="fold")
    for name in ("USD/h", "x", "time", "from", "to", "USD", "from", "to"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    table.add_column("by", no_wrap=True)
    room = " " if any(one["doubt"] for one in shown) else ""
    for one in shown:
        seconds, cost, hour, times = one["seconds"], one["usd"], one["usd_per_hour"], one["times_as_fast"]
        table.add_row(
            Text(one_line(one["machine"])),
            Text(one_line(_with(one))),
            "-" if hour is None else f"{hour:.2f}" + ("?" if one["doubt"] else room),
            f"{times:,.0f}" if 100 <= times < 1e6 else f"{times:.3g}",
            *(duration(seconds[key]) for key in ("value", "low", "high")),
            *("-" if cost is None else _usd(cost[key]) for key in ("value", "low", "high")),
            {True: "yes", False: "no", None: "?"}[one["fits"]],
            one["kind"],
        )
    return table


def _remarks(shown: list[Any], plan: Mapping[str, Any]) -> list[str]:
    lines = [
        "A ratio of two machines is a guess from other software's results with BERT-large, no result for this job: "
        "small models use a GPU less well. One line of bench from the other machine (--measured FILE) is worth more."
    ]
    if any(one["num_idle"] for one in shown):
        lines.append("One accelerator is used, also where a machine has more; its price is that of all.")
    cores = [one["num_cores"] for one in (*shown, plan["here"] or {"num_cores": 0})]
    if max(cores) > MOST_CORES:
        lines.append(
            f"How far one job gets on more than {MOST_CORES} cores is not known: the range goes to where the others do "
            "nothing."
        )
    lines.append(_needs(plan))
    dates = sorted({one["as_of"] for one in shown if one["as_of"]})
    if dates:
        lines.append(f"Prices are of {dates[0]}" + (f" to {dates[-1]}." if len(dates) > 1 else "."))
    lines += map(one_line, doubts({one["machine"]: one["doubt"] for one in shown if one["doubt"]}))
    return lines + _sources(shown)


def _needs(plan: Mapping[str, Any]) -> str:
    needs, chosen = plan["needs_bytes"], plan["chosen"]
    what = "the model and activations" if plan["steps"] is None else "weights, gradients, optimizer and activations"
    own = plan["config"].get("token_budget") is None and chosen["device"] == "cpu"
    return (
        f"fits: whether a GPU's memory, less a tenth, holds the {_mib(needs['accelerator'])} of {what}, or a machine "
        f'without one the {_mib(needs["machine"])} of the whole process; "?": too near to say, or not known. So much '
        f"was held here, in {chosen['dtype']} with --token-budget {chosen['token_budget']}: a smaller one needs less"
        + (", and a GPU takes more tokens at once if none is given." if own else ".")
    )


def _sources(shown: list[Any]) -> list[str]:
    """Where each ratio is from, once: a line for a source, with what it is of."""
    machines: dict[tuple[str, str], list[str]] = {}
    for one in shown:
        name = one["machine"] if one["kind"] == "measured" else _with(one)
        names = machines.setdefault((one["kind"], one["source"]), [])
        if name not in names:
            names.append(name)
    return [one_line(f"{', '.join(names)}: {kind}, {source}") for (kind, source), names in machines.items()]


def _with(one: Mapping[str, Any]) -> str:
    return str(one["accelerator"]).removeprefix("none (CPU: ").removesuffix(")")


def _cost(one: Mapping[str, Any]) -> float:
    return float("inf") if one["usd"] is None else one["usd"]["value"]


def check_table(checked: Mapping[str, Any]) -> Table:
    """What was foretold, and what happened."""
    from rich.text import Text

    caption = f"planned {one_line(checked['planned_before'])}"
    if checked["differences"]:
        caption += "; the run was another: " + one_line("; ".join(checked["differences"]))
    if checked["resumed"]:
        caption += f"; the run was stopped and gone on with {checked['resumed']} times"
    table = _table("What was planned, and what happened", caption)
    table.add_column("")
    for name in ("planned", "from", "to", "happened", "planned is off by"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("within")
    for row in checked["rows"]:
        shown = _mib if row["kind"] == "memory" else duration
        off = "" if row["off_by"] is None else f"{row['off_by']:+.0%}" if row["off_by"] < _MOST_OFF else "much"
        values = (shown(row[key]) for key in ("planned", "low", "high", "happened"))
        table.add_row(
            _PHASES.get(row["what"]) or Text(one_line(row["what"])), *values, off, "yes" if row["within"] else "no"
        )
    return table


def _mib(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _usd(value: float) -> str:
    return f"{value:,.4f}" if value < 1 else f"{value:,.2f}"
