"""What a user sees while work goes on."""

from __future__ import annotations

import re
from types import SimpleNamespace

import nbclient
import nbformat
import pytest

from bertwright import progress
from bertwright.progress import Reporter, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.004, "0.00 s"), (1.5, "1.50 s"), (42.04, "42.0 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_are_readable(seconds, words):
    assert duration(seconds) == words


def test_off_a_terminal_progress_is_plain_lines_with_rate_and_time_left(capsys, monkeypatch):
    now = iter([100.0, 105.0, 112.0, 130.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    with Reporter().progress("Scoring", 100, "texts") as advance:
        advance(10)
        advance(14, "loss 0.5")
        advance(76)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "Scoring: 24/100 texts, 2.0/s, 38.0 s left, loss 0.5",
        "Scoring: 100/100 texts, 3.3/s, 0.00 s left",
    ]
    assert captured.out == ""


def test_quiet_says_nothing(capsys):
    reporter = Reporter(quiet=True, results=False)
    reporter.say("something")
    reporter.show("a table")
    with reporter.progress("Scoring", 10) as advance:
        advance(10, "note")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_quiet_shows_results_and_warnings_all_the_same(capsys):
    reporter = Reporter(quiet=True)
    reporter.show("a table")
    reporter.warn("random weights")
    captured = capsys.readouterr()
    assert captured.out == "a table\n"
    assert captured.err == "WARNING: random weights\n"


def test_markup_in_a_line_is_not_taken_as_such(capsys):
    Reporter().say("file [red].csv")
    assert capsys.readouterr().err == "file [red].csv\n"


def test_bars_may_stand_within_bars(monkeypatch):
    """The validation's bar inside the training's, as on a terminal."""
    reporter = Reporter()
    monkeypatch.setattr(type(reporter.errors), "is_terminal", True)
    with reporter.progress("Training", 2, "batches") as outer, reporter.progress("Validation", 3) as inner:
        inner(3)
        outer(2, "loss 0.1")


def test_in_a_notebook_there_is_a_bar_that_goes_when_the_work_is_done():
    code = """
from bertwright.progress import Reporter
import time
with Reporter().progress("Training", 40, "batches") as advance:
    for i in range(40):
        advance(1, "loss < 0.3")
        time.sleep(0.02)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    seen = []
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3")
    update = client.process_message

    def spy(message, cell, index):
        if message["msg_type"] == "update_display_data":
            seen.append(message["content"]["data"]["text/html"])
        return update(message, cell, index)

    client.process_message = spy
    client.execute()
    assert 2 <= len(seen) <= 15
    assert re.search(
        r'<progress value="\d+" max="40"></progress> Training: \d+ of 40 batches, .* loss &lt; 0.3', seen[0]
    )
    assert 'value="40"' in seen[-2]
    assert seen[-1] == ""
    assert notebook.cells[0].outputs[0]["data"]["text/html"] == ""
    assert not [output for output in notebook.cells[0].outputs if output["output_type"] == "stream"]


def test_a_notebooks_bar_may_begin_with_nothing_done(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: SimpleNamespace(update=shown.append))
    with progress._notebook_bar("Scoring", 10, "texts") as advance:
        advance(0)
        advance(10)
    assert "some time left" in shown[0].data
