"""Results of many machines side by side, as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertwright.benchmarking.merge import Machine, Work
from bertwright.benchmarking.recorded_rates import PHASES
from bertwright.evaluation.extremes import one_line
from bertwright.progress import Reporter, duration

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = {"tokenize": "tokenise", "train": "train", "infer": "infer"}


def show_works(works: list[Work], reporter: Reporter) -> None:
    """A table for each work, which machine pays, what is to be known of the rates, and what is left out."""
    from rich.text import Text

    for work in works:
        reporter.show(_table(work))
        for line in [
            *work.verdicts,
            *(f"{line}." for line in (*work.remarks, *(f"Left out: {one}" for one in work.left_out))),
        ]:
            reporter.show(Text(one_line(line)))


def _table(work: Work) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    job = work.job
    length = "" if work.max_length is None else f", at most {work.max_length} tokens"
    table = Table(
        title=Text(one_line(f"{work.model}{length}: {job.words()}")),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("machine", overflow="fold")
    for phase in PHASES:
        table.add_column(_HEADINGS[phase], justify="right")
    quality = any(machine.quality for machine in work.machines)
    for name in ("all", "x", *(("quality",) if quality else ()), "USD/h", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    base = work.machines[0].seconds(job).get("total")
    for machine in work.machines:
        table.add_row(*_row(machine, work, base, quality))
    table.caption, table.caption_justify = Text(one_line(_caption(work))), "left"
    return table


def _row(machine: Machine, work: Work, base: float | None, quality: bool) -> list[Any]:
    from rich.text import Text

    seconds = machine.seconds(work.job)
    cells: list[Any] = [Text(one_line(machine.name))]
    for phase in PHASES:
        rate = machine.rates.get(phase)
        cells.append("-" if rate is None else f"{duration(seconds[phase])}\n{rate.texts_per_s.median:,.0f} texts/s")
    total = seconds.get("total")
    cells.append("-" if total is None else duration(total))
    cells.append("-" if total is None or base is None else f"{base / total:.2f}")
    if quality:
        cells.append("-" if machine.quality is None else f"{machine.quality[0]} {machine.quality[1]:.4f}")
    price = machine.usd_per_hour
    cells.append("-" if price is None else f"{price:.2f}")
    cells.append("-" if price is None or total is None else f"{total * price / 3600:,.2f}")
    return cells


def _caption(work: Work) -> str:
    names = sorted({source for machine in work.machines for source in machine.sources})
    dates = sorted({rate.measured[:10] for machine in work.machines for rate in machine.rates.values()} - {""})
    measured = f"measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}; " if dates else ""
    return f"x: times as fast as the first; {measured}from {', '.join(names)}"
