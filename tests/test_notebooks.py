"""The notebooks in examples/: they are what a reader gets, saved as they ran, and they run again."""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

import bertwright
from bertwright.config.evaluate import BiasConfig
from bertwright.config.report import ReportConfig
from bertwright.config.sweep import SweepSettings
from bertwright.config.train import TrainConfig
from bertwright.reporting.notebook import fragment
from bertwright.reporting.sweep_page import sweep_page
from tests.conftest import REPOSITORY
from tests.reporting.made_runs import sweep_record

nbformat = pytest.importorskip("nbformat")

# By name of the notebook: which sweep file is the whole of it, and which folders of real data it reads.
NOTEBOOKS = {
    "report-a-toxicity": ("table-a.toml", ("toxic_comments", "bias_madlibs")),
    "report-b-sizes": ("table-b.toml", ("imdb",)),
    "report-c-frozen": ("table-c.toml", ("sst5", "cfimdb")),
}
MOST_BYTES = 400_000
# A path from the root of a disk, of two names or more; not the end of a tag, of an address, or of words such as and/or.
ABSOLUTE_PATH = re.compile(r"(?<![\w.<:/·])/[A-Za-z_][\w.-]*/[\w.-]+|\b[A-Z]:\\\\?\w+")
SETTINGS = {"train": TrainConfig, "sweep": SweepSettings, "bias": BiasConfig, "report": ReportConfig}


def read(name: str) -> Any:
    return nbformat.read(REPOSITORY / "examples" / f"{name}.ipynb", as_version=4)


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> list[str]:
    """What a cell put out, without what it says: streams that follow each other are one."""
    found: list[str] = []
    for output in cell.outputs:
        kind = output.get("name") or " ".join([output.output_type, *sorted(output.get("data", {}))])
        if found[-1:] != [kind]:
            found.append(kind)
    return found


def plain_text(notebook: Any) -> str:
    """All that is written in it: sources and outputs."""
    parts = [cell.source for cell in notebook.cells]
    for cell in code_of(notebook):
        parts += [output.get("text", "") for output in cell.outputs]
        parts += [text for output in cell.outputs for text in output.get("data", {}).values()]
    return "\n".join(parts)


def test_there_is_one_for_each_table():
    assert {path.stem for path in (REPOSITORY / "examples").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_saved_as_it_ran(name):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    found = [kind for cell in cells for kind in kinds(cell)]
    assert "stderr" not in found
    assert not [kind for kind in found if kind.startswith("error")]
    assert [kind for kind in found if kind.startswith("execute_result") and "text/html" in kind]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_tells_nothing_of_where_it_ran(name):
    text = plain_text(read(name))
    assert ABSOLUTE_PATH.findall(text) == []
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4
    assert (REPOSITORY / "examples" / f"{name}.ipynb").stat().st_size < MOST_BYTES
    for cell in code_of(read(name)):  # beside HTML, a line for those who see none, and not all that an object holds
        assert all(len(o.data["text/plain"]) <= 2_000 for o in cell.outputs if "text/html" in o.get("data", {}))


def test_absolute_paths_are_found():
    for text in ("/home/me/runs", '"/tmp/tmpx1/train.csv"', "in /opt/data/a.csv", "C:\\Users\\me", "=/usr/share/x"):
        assert ABSOLUTE_PATH.search(text), text
    for text in (
        "</th></tr>",
        "http://www.w3.org/2000/svg",
        "examples/table-a.toml",
        "../docs/compare.md",
        "a / b / c",
    ):
        assert not ABSOLUTE_PATH.search(text), text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_names_what_there_is(name):
    sweep_file, _ = NOTEBOOKS[name]
    words = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    assert f"examples/{sweep_file}" in words
    assert "small version" in words
    for target in re.findall(r"\]\(([^)#]+)", words):
        assert target.startswith("http") or (REPOSITORY / "examples" / target).exists(), target


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_name_that_it_calls_exists(name):
    tree = ast.parse("\n".join(cell.source for cell in code_of(read(name))))
    nodes = list(ast.walk(tree))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and is_name(node.value, "bertwright")}
    assert used
    assert used <= set(bertwright.__all__)
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)} | {
        argument.arg for node in nodes if isinstance(node, ast.FunctionDef) for argument in node.args.args
    }
    stored |= {a.asname or a.name for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    loaded = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert loaded <= stored | set(dir(builtins))
    for node in nodes:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and is_name(node.func.value, "bertwright")
        ):
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            assert given <= keywords_of(node.func.attr), node.func.attr


def is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def keywords_of(function: str) -> set[str]:
    """What may be given by name to a function of ours, its settings among them."""
    settings = SETTINGS[function].model_fields if function in SETTINGS else {}
    return {*inspect.signature(getattr(bertwright, function)).parameters, *settings}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_again(name, real_data, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    for folder in NOTEBOOKS[name][1]:
        if not (real_data / folder).is_dir():
            pytest.skip(f"real data is absent: there is no {folder} in BERTWRIGHT_DATA")
    monkeypatch.setenv("BERTWRIGHT_DATA", str(real_data.absolute()))
    source = str(Path(bertwright.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # its own folder ends with the test's
    shutil.copy(REPOSITORY / "examples" / f"{name}.ipynb", tmp_path)
    saved, again = read(name), nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    for cell in code_of(again):
        cell.outputs, cell.execution_count = [], None
    nbclient.NotebookClient(
        again, timeout=1_500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()  # raises where a cell fails
    assert [kinds(cell) for cell in code_of(again)] == [kinds(cell) for cell in code_of(saved)]


def test_a_sweep_on_several_data_sets_shows_each(tmp_path):
    record = sweep_record(tmp_path)
    (group,) = record["groups"]
    halves = [[n for n in group["trials"] if n % 2 == odd] for odd in (0, 1)]
    record["groups"] = [
        {**group, "data": {"train": [f"{name}.csv"]}, "trials": half, "best": half[0]}
        for name, half in zip(("films", "books"), halves, strict=True)
    ]
    shown = fragment(sweep_page(record), "x")
    for name in ("films", "books"):
        assert f"<caption>The trials on {name}.csv. " in shown
        assert re.search(rf"<figcaption>The trials on {name}\.csv\. ", shown)
    assert shown.count("<svg") == 4
