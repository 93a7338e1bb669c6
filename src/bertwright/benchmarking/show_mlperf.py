"""What LoadGen found, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertwright.benchmarking.mlperf_published import Published, nearest
from bertwright.evaluation.extremes import one_line
from bertwright.progress import Reporter

if TYPE_CHECKING:
    from rich.table import Table

_NUM_PUBLISHED = 5
_UNITS = {"latency_p90_ms": "ms, 90th percentile", "samples_per_s": "samples/s"}


def show_mlperf(result: Mapping[str, Any], published: Mapping[str, Sequence[Published]], reporter: Reporter) -> None:
    """The scenarios with LoadGen's own words; of the official shape published results, too, and what differs."""
    from rich.text import Text

    reporter.show(_scenarios(result))
    for one in result["scenarios"]:
        if one["value"] is not None and published.get(one["scenario"]):
            reporter.show(_beside(one, published[one["scenario"]], result))
    for difference in result["differences"]:
        reporter.show(Text(f"differs: {difference}"))


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)


def _scenarios(result: Mapping[str, Any]) -> Table:
    from rich.text import Text

    table = _table(
        f"LoadGen on {one_line(result['model'])}, {result['num_texts']:,} samples of "
        f"{result['text_tokens']['mean']:.0f} tokens on average, {result['dtype']}; unofficial"
    )
    table.add_column("scenario")
    table.add_column("result", justify="right", no_wrap=True)
    for name in ("p50", "p90", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("LoadGen says")
    for one in result["scenarios"]:
        value = "too few samples" if one["value"] is None else f"{one['value']:,.2f} {_UNITS[one['unit']]}"
        waits = [one["latency_ms"].get(f"{name}_ms") for name in ("p50", "p90", "p99")]
        shown = ["-" if one["scenario"] == "Offline" or wait is None else f"{wait:,.2f} ms" for wait in waits]
        said = [one["result_line"], *(note for note in one["notes"] if not one["valid"] or note.startswith("*"))]
        table.add_row(one["scenario"], value, *shown, Text("\n".join(said[:4])))
    return table


def _beside(one: Mapping[str, Any], published: Sequence[Published], result: Mapping[str, Any]) -> Table:
    """Ours among the nearest published results, by their values."""
    from rich.text import Text

    environment = result["environment"]
    here = str(environment.get("gpu") or environment["cpu"])
    table = _table(f"{one['scenario']}: published results of bert-99 with the nearest values, and ours, unofficial")
    table.add_column("round")
    table.add_column("system", overflow="fold")
    table.add_column("accelerators", overflow="fold")
    table.add_column(_UNITS[one["unit"]], justify="right", no_wrap=True)
    rows = [
        (row.value, (row.round, f"{row.submitter} {row.system}", f"{row.accelerator_count} x {row.accelerator}"))
        for row in nearest(published, one["value"], _NUM_PUBLISHED)
    ]
    threads = f"{environment['num_threads']} threads"
    rows.append((one["value"], ("unofficial", "ours", f"{one_line(here)}, {threads}")))
    for value, cells in sorted(rows, key=lambda row: row[0], reverse=one["unit"] == "latency_p90_ms"):
        table.add_row(*map(Text, cells), f"{value:,.2f}")
    return table
