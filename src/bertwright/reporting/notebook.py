"""Runs, comparisons and sweeps as Jupyter shows them: what is most important of their pages, without a script."""

from __future__ import annotations

import hashlib
import html as escaping
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bertwright.errors import UserError
from bertwright.reporting.comparison_page import comparison_page
from bertwright.reporting.material import read_material
from bertwright.reporting.page import Page, Section, render
from bertwright.reporting.run_page import run_page
from bertwright.reporting.sweep_page import sweep_page
from bertwright.runs import Run, open_run

_PLOTS = (
    "roc", "truth", "confusion", "reliability", "loss", "validation",  # of a run
    "intervals", "roc-of-all", "pareto-usd", "pareto-infer-s-per-text",  # of a comparison
    "search", "pareto", "importance",  # of a sweep
)  # fmt: skip
_TABLES = ("metrics", "contenders", "differences", "trial-list")
_MOST_PLOTS, _MOST_TABLES, _MOST_ROWS = 4, 4, 12
_OF_A_DATA_SET = re.compile(r"-\d+$")  # what a sweep's page adds to names where it is about several data sets


def run_html(run: Run) -> str:
    """A run as HTML for a notebook: what it is in words, its figures, and its main pictures."""
    return _shown(lambda: run_page(read_material(run)), run, str(run.path))


def comparison_html(comparison: Any) -> str:
    """A ``Comparison`` as HTML for a notebook."""
    record: Mapping[str, Any] = comparison.record()
    paths = [str(item["run"]) for item in record["records"]]
    return _shown(
        lambda: comparison_page(record, [read_material(open_run(path)) for path in paths]), comparison, " ".join(paths)
    )


def sweep_html(sweep: Any) -> str:
    """A ``Sweep`` as HTML for a notebook."""
    record: Mapping[str, Any] = sweep.record()
    return _shown(lambda: sweep_page(record), sweep, str(record.get("sweep")))


def _shown(make: Any, what: Any, identity: str) -> str:
    """The page that ``make`` makes, in short; where that cannot be, how ``what`` prints itself, and why."""
    try:
        return fragment(make(), hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:8])
    except UserError as error:
        return f"<pre>{escaping.escape(repr(what))}\n{escaping.escape(str(error))}</pre>"


def fragment(page: Page, identity: str) -> str:
    """The most important of ``page`` as an HTML element; its ids begin with ``identity``."""
    plots = [
        replace(plot, title=_about(plot.name, plot.title, section))
        for section in page.sections
        for plot in section.plots
        if _kind(plot.name) in _PLOTS
    ]
    tables = [
        replace(table, caption=_about(table.name, table.caption, section))
        for section in page.sections
        for table in section.tables
        if _kind(table.name) in _TABLES
    ]
    plots.sort(key=lambda plot: _PLOTS.index(_kind(plot.name)))
    return render(
        "notebook.html",
        page=page,
        plots=plots[:_MOST_PLOTS],
        tables=tables[:_MOST_TABLES],
        most_rows=_MOST_ROWS,
        prefix=f"bertwright-{identity}-",
    )


def _kind(name: str) -> str:
    """The name of a picture or table without the number of its data set."""
    return _OF_A_DATA_SET.sub("", name)


def _about(name: str, words: str, section: Section) -> str:
    """``words`` over a picture or table, after the data set that it is about where there are several."""
    return words if _kind(name) == name else f"{section.heading}. {words}"
