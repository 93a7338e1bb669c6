"""The command: files in and out, mistakes, and a process that cannot load torch."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree

import pytest
from tests.reporting.made_runs import HOSTILE, make_run
from tests.test_cli import call

import bertwright
from bertwright.errors import RunError, UserError
from bertwright.reporting.notebook import comparison_html
from bertwright.reporting.tables import cell, interval_cell, table


def test_a_page_pictures_and_tables_where_torch_cannot_be_imported(made, tmp_path):
    run = made["hostile"].path
    done = call(
        "report", run, "--output", tmp_path / "a page.html", "--figures", tmp_path / "f", "--tables", tmp_path / "t",
        "--json", without_torch=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["about"] == "run"
    page = (tmp_path / "a page.html").read_bytes()
    assert record["num_bytes"] == len(page) > 50_000
    assert {str(path) for path in (tmp_path / "f").iterdir()} == set(record["figures"])
    assert {str(path) for path in (tmp_path / "t").iterdir()} == set(record["tables"])
    svg = ElementTree.parse(tmp_path / "f" / "roc.svg")
    assert svg.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert (tmp_path / "f" / "roc.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "t" / "mistakes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["label", "called", "with probability", "row", "text"]
    assert not [value for row in rows for value in row if value.startswith(("=", "@", "+"))]
    markdown = (tmp_path / "t" / "mistakes.md").read_text(encoding="utf-8")
    assert "<" not in markdown.replace("&lt;", "")
    assert not [path for path in tmp_path.rglob("*.partial")]


def test_in_python(made, tmp_path):
    found = bertwright.report(made["two classes"].path, output=tmp_path / "page.html", quiet=True)
    assert found.path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert found.about == "run"
    again = bertwright.report(made["two classes"].path, output=tmp_path / "page.html", overwrite=True, quiet=True)
    assert again.num_bytes == found.num_bytes


def test_what_is_in_the_way_is_named(made, tmp_path):
    run = made["two classes"].path
    page = tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(RunError, match="exists; pass another --output, or --overwrite"):
        bertwright.report(run, output=page, quiet=True)
    assert page.read_text() == "mine"
    with pytest.raises(RunError, match="is a folder"):
        bertwright.report(run, output=tmp_path, quiet=True)
    with pytest.raises(RunError, match="is not empty"):
        bertwright.report(run, output=tmp_path / "new.html", figures=tmp_path, quiet=True)
    with pytest.raises(RunError, match="is a file; name a folder"):
        bertwright.report(run, output=tmp_path / "new.html", tables=page, quiet=True)
    with pytest.raises(UserError, match="no run given"):
        bertwright.report(quiet=True)
    with pytest.raises(RunError, match="no such folder"):
        bertwright.report(tmp_path / "nowhere", output=tmp_path / "new.html", quiet=True)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="is a sweep"):
        bertwright.report(run, tmp_path / "sweep", output=tmp_path / "new.html", quiet=True)
    assert not (tmp_path / "new.html").exists()


def test_tables_as_files_keep_every_value():
    found = table("t", "A | B", ["text", "n", "c"], [[text, i, None] for i, text in enumerate(HOSTILE)])
    rows = list(csv.reader(io.StringIO(found.csv())))
    assert len(rows) == len(HOSTILE) + 1
    assert rows[1][0] == HOSTILE[0]
    assert rows[7][0] == "'=cmd|' /C calc'!A0"
    assert [row[1] for row in rows[1:]] == [str(i) for i in range(len(HOSTILE))]
    lines = found.markdown().splitlines()
    assert lines[0] == "**A \\| B**"
    assert len(lines) == 4 + len(HOSTILE)
    assert "\\[link\\]" in lines[-1]
    assert found.headings == ("text", "n")  # of nothing but what is not known there is no column
    assert found.numeric == (False, True)


def test_cells():
    assert cell(None).shown == "–"
    assert cell(12345).shown == "12,345"
    assert cell(0.00012).shown == "0.00012"
    assert cell(True).shown == "yes"
    assert interval_cell((0.1, 0.25)).shown == "0.1000 to 0.2500"
    assert interval_cell((None, 0.25)).shown == "–"
    assert interval_cell(None).value is None


def test_notebooks_show_runs(made):
    for name in ("two classes", "regression", "hostile", "without predictions"):
        shown = made[name]._repr_html_()
        assert shown.count("<svg") >= 2
        assert len(shown) < 200_000
        assert "<script" not in shown
        assert "{{" not in shown.replace("{{ 7 * 7 }}", "")
    first, second = made["two classes"]._repr_html_(), made["old"]._repr_html_()
    assert not set(_ids(first)) & set(_ids(second))


def _ids(text):
    return [part.split('"')[0] for part in text.split(' id="')[1:]]


def test_several_runs_where_torch_cannot_be_imported(tmp_path):
    runs = [make_run(tmp_path / f"run-{i}", seed=i, epochs=float(i + 1)) for i in range(3)]
    paths = [run.path for run in runs]
    done = call("report", *paths, "--output", tmp_path / "page.html", "--json", without_torch=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["about"] == "comparison"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for words in ("3 classifiers side by side", "run-0", "Is one really better?", "Was it worth it?"):
        assert words in page
    shown = comparison_html(bertwright.compare(*paths))
    assert shown.count("<svg") >= 2


def test_runs_are_only_read(made, tmp_path):
    run = made["two classes"].path
    for given in (
        {"output": run / "page.html"},
        {"output": tmp_path / "a.html", "tables": run},
        {"output": tmp_path / "a.html", "figures": run / "model" / "figures"},
        {"output": run / "result.json"},
    ):
        with pytest.raises(RunError, match="lies in the run"):
            bertwright.report(run, **given, overwrite=True, quiet=True)
    with pytest.raises(RunError, match=r"found \.json, expected a name that ends in \.html"):
        bertwright.report(run, output=tmp_path / "other.json", quiet=True)
