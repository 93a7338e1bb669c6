"""The page of results of many machines: what a job takes and costs on each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertwright.benchmarking.merge import Machine, Work
from bertwright.benchmarking.recorded_rates import PHASES
from bertwright.progress import duration
from bertwright.reporting.page import Page, Section
from bertwright.reporting.svg import Palette, Plot
from bertwright.reporting.tables import Cell, Table, cell, table
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WORDS = {"tokenize": "tokenise", "train": "train", "infer": "infer"}
_CAUTIONS = (
    "Rates are of texts as long as those that were measured; other texts take another time.",
    "A price of one day is not that of another, and a machine that others use, too, is slower.",
)


def merge_page(works: Sequence[Work]) -> Page:
    """A section for each work."""
    num_machines = len({machine.name for work in works for machine in work.machines})
    summary = tuple(verdict for work in works for verdict in work.verdicts)
    if not summary:
        summary = ("No two machines have all rates and a price: which one pays cannot be told.",)
    return Page(
        title="Machines side by side",
        subtitle=f"{counted(num_machines, 'machine')}, {counted(len(works), 'kind of work', 'kinds of work')}",
        summary=summary,
        cautions=_CAUTIONS,
        sections=tuple(_section(work, number) for number, work in enumerate(works, 1)),
    )


def _section(work: Work, number: int) -> Section:
    job = work.job
    length = "" if work.max_length is None else f", at most {work.max_length} tokens a text"
    prose = (
        f"{work.model}{length}. The job: {job.words()}; all texts are tokenised once.",
        *(f"{line}." for line in work.remarks),
        *(f"Left out: {line}." for line in work.left_out),
    )
    timed = [machine for machine in work.machines if machine.seconds(job)]
    plots = (_plot(timed, work, number),) if timed else ()
    return Section(
        name=f"work-{number}",
        heading=f"{work.model}{length}",
        short=in_one_line(work.model, 20),
        prose=prose,
        plots=plots,
        tables=(_table(work, number), _rates(work, number)),
    )


def _table(work: Work, number: int) -> Table:
    rows = []
    base = work.machines[0].seconds(work.job).get("total")
    for machine in work.machines:
        seconds = machine.seconds(work.job)
        total, price = seconds.get("total"), machine.usd_per_hour
        rows.append(
            [
                machine.name,
                *(_time(seconds.get(name)) for name in (*PHASES, "total")),
                None if total is None or base is None else cell(base / total, f"{base / total:.2f}"),
                None if machine.quality is None else f"{machine.quality[0]} {machine.quality[1]:.4f}",
                None if price is None else cell(price, f"{price:.2f}"),
                None if price is None or total is None else cell(usd := total * price / 3600, f"{usd:,.2f}"),
            ]
        )
    headings = ("machine", *(_WORDS[name] for name in PHASES), "all", "times as fast", "quality", "USD/h", "USD")
    return table(f"job-{number}", "What the job takes and costs on each machine, the cheapest first", headings, rows)


def _time(seconds: float | None) -> Any:
    return None if seconds is None else Cell(seconds, duration(seconds), whole=True)


def _rates(work: Work, number: int) -> Table:
    rows = []
    for machine in work.machines:
        for name, rate in machine.rates.items():
            found = rate.texts_per_s
            shown = (cell(value, f"{value:,.0f}") for value in (found.median, found.min, found.max))
            rows.append([machine.name, _WORDS[name], *shown, rate.dtype, rate.measured[:10] or None])
    headings = ("machine", "act", "texts/s", "smallest", "largest", "dtype", "measured")
    return table(f"rates-{number}", "What was measured: medians over turns, and their spread", headings, rows)


def _plot(machines: Sequence[Machine], work: Work, number: int) -> Plot:
    parts = [(machine.name, machine.seconds(work.job)) for machine in machines]
    said = "; ".join(
        f"{name} " + ", ".join(f"{_WORDS[phase]} {duration(seconds[phase])}" for phase in PHASES if phase in seconds)
        for name, seconds in parts
    )
    return Plot(
        f"time-{number}",
        "Where the time goes",
        f"Hours of each act on each machine: {said}.",
        functools.partial(_draw, parts=parts),
        height=90 + 30 * len(parts),
    )


def _draw(figure: Figure, palette: Palette, parts: Sequence[tuple[str, dict[str, float]]]) -> None:
    axes = figure.subplots()
    places = range(len(parts))
    before = [0.0] * len(parts)
    for number, phase in enumerate(PHASES):
        hours = [seconds.get(phase, 0.0) / 3600 for _, seconds in parts]
        axes.barh(places, hours, left=before, height=0.62, color=palette.series[number], label=_WORDS[phase])
        before = [left + more for left, more in zip(before, hours, strict=True)]
    axes.set_yticks(places, [in_one_line(name, 22) for name, _ in parts])
    axes.invert_yaxis()
    axes.set_xlabel("hours")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1.0), ncols=len(PHASES))
