"""The act: a page of a run, of several side by side, or of a sweep, and its pictures and tables as files."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertwright.config.base import build, expand_home
from bertwright.config.report import ReportConfig
from bertwright.errors import RunError, UserError
from bertwright.experiments.compare import compare
from bertwright.progress import Reporter
from bertwright.reporting.comparison_page import comparison_page
from bertwright.reporting.material import read_material
from bertwright.reporting.page import Page, write_page, write_pictures, write_tables
from bertwright.reporting.run_page import run_page
from bertwright.reporting.sweep_page import sweep_page
from bertwright.runs import check_can_be_made, is_run, open_run

SWEEP = "sweep.json"


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: of the page.
        about: "run", "comparison" or "sweep".
        num_bytes: of the page.
        figures, tables: the other files.
    """

    path: Path
    about: str
    num_bytes: int
    figures: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "report": str(self.path),
            "about": self.about,
            "num_bytes": self.num_bytes,
            "figures": [str(path) for path in self.figures],
            "tables": [str(path) for path in self.tables],
        }


def report(*runs: str | Path, quiet: bool = False, **settings: Any) -> Report:
    """Write one HTML page about ``runs``: folders of one run, of several that are compared, or of a sweep.

    ``settings`` are those of ``bertwright report``, with underscores: ``report("runs/comments",
    output="comments.html")``. The runs are not changed.

    Raises:
        UserError: bad settings; an output in the way; a run or sweep is missing or damaged; several runs that were not
            judged on the same texts; Jinja2 or matplotlib is not installed.
    """
    paths = tuple(os.fspath(path) for path in runs)
    return run_report(build(ReportConfig, {**settings, "runs": paths}), Reporter(quiet=quiet))


def run_report(config: ReportConfig, reporter: Reporter) -> Report:
    """Read, draw, write."""
    output = Path(config.output)
    folders = {name: Path(folder) for name in ("figures", "tables") if (folder := getattr(config, name)) is not None}
    _check(output, folders, config.overwrite)
    about, page = page_of(config.runs)
    figures: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    num_bytes = write_page(page, output)
    if "figures" in folders:
        figures = tuple(write_pictures(page, folders["figures"]))
    if "tables" in folders:
        tables = tuple(write_tables(page, folders["tables"]))
    for caution in page.cautions:
        reporter.say(f"keep in mind: {caution}")
    for what, written in (("figures", figures), ("tables", tables)):
        if written:
            reporter.say(f"{what}: {len(written)} files in {folders[what]}")
    reporter.say(f"report: {output} ({num_bytes / 1000:,.0f} kB)")
    return Report(output, about, num_bytes, figures, tables)


def page_of(paths: Sequence[str | Path]) -> tuple[str, Page]:
    """What the folders are about ("run", "comparison", "sweep"), and their page.

    Raises:
        UserError: as ``report``.
    """
    folders = [Path(expand_home(os.fspath(path))) for path in paths]
    sweeps = [folder for folder in folders if (folder / SWEEP).is_file()]
    if sweeps and len(folders) > 1:
        raise UserError(
            f"{sweeps[0]} is a sweep: a report is of one sweep, or of runs. Name it alone, or the runs in its trials"
        )
    if sweeps:
        return "sweep", sweep_page(_sweep_record(sweeps[0]))
    if len(folders) == 1:
        return "run", run_page(read_material(open_run(folders[0])))
    comparison = compare(*folders).record()
    return "comparison", comparison_page(comparison, [read_material(open_run(folder)) for folder in folders])


def _sweep_record(folder: Path) -> dict[str, Any]:
    # By name: that module can train too, for which it loads torch; reading a sweep does not.
    record: dict[str, Any] = importlib.import_module("bertwright.experiments.sweep").open_sweep(folder).record()
    return record


def _keep_runs(name: str, place: Path) -> None:
    """Refuse to write into a run's folder: runs are only read.

    Raises:
        RunError: ``place`` is one, or lies in one.
    """
    resolved = place.expanduser().resolve()
    for folder in (resolved, *resolved.parents):
        if is_run(folder):
            raise RunError(f"--{name} {place} lies in the run {folder}, whose files do not change; name another place")


def check_page(output: Path, overwrite: bool, flag: str = "output") -> None:
    """Make sure, before any work, that a page can be written to ``output``, which the user named with ``--flag``.

    Raises:
        UserError: something is in the way, or a library is missing.
    """
    for name, module in (("Jinja2", "jinja2"), ("matplotlib", "matplotlib")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"a report needs {name}: pip install 'bertwright[report]'")
    _keep_runs(flag, output)
    if output.is_dir():
        raise RunError(f"{output} is a folder; --{flag} names the report's file, such as report.html")
    if output.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"--{flag} {output}: found {output.suffix or 'no ending'}, expected a name that ends in .html")
    if output.exists() and not overwrite:
        raise RunError(f"{output} exists; pass another --{flag}, or --overwrite to replace it")
    check_can_be_made(output)


def _check(output: Path, folders: dict[str, Path], overwrite: bool) -> None:
    """As ``check_page``, of pictures and tables too; makes the page's folder."""
    check_page(output, overwrite)
    for name, folder in folders.items():
        _keep_runs(name, folder)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    for name, folder in folders.items():
        if folder.exists() and not folder.is_dir():
            raise RunError(f"--{name} {folder} is a file; name a folder")
        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise RunError(f"--{name} {folder} is not empty; name another folder, or pass --overwrite")
        check_can_be_made(folder)
