"""The table of servers side by side."""

from __future__ import annotations

import json

import pytest
from tests.scripts import load_script


@pytest.fixture(scope="module")
def table():
    return load_script("peers/serving_table")


def line(contender, clients, turn, per_s, p50_ms=10.0, p99_ms=20.0):
    return {
        "contender": contender,
        "clients": clients,
        "turn": turn,
        "per_s": per_s,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "largest_score_difference": 1e-3 if contender == "slow" else 2e-7,
    }


LINES = [
    line("slow", 1, 0, 10.0, 99.0),
    line("quick", 1, 0, 20.0),
    line("bertwright", 1, 0, 60.0),
    line("slow", 1, 1, 40.0, 101.0),
    line("quick", 1, 1, 20.0),
    line("bertwright", 1, 1, 80.0),
    line("quick", 16, 0, 1000.0),
    line("bertwright", 16, 0, 1500.0),
]


def test_rates_are_compared_with_the_fastest_peer_of_the_same_turn(table):
    assert table.ratios(LINES, 1) == [3.0, 2.0]
    assert table.ratios(LINES, 16) == [1.5]
    assert table.ratios([one for one in LINES if one["contender"] == "bertwright"], 1) == []


def test_the_table_has_medians_with_their_spread_and_our_server_first(table):
    rows = table.table_of(LINES).splitlines()
    assert rows[2].startswith("| 1 | bertwright | 70.0 (60.0–80.0) |")
    assert rows[2].endswith("| 2.50 × (2.00–3.00) |")
    assert rows[3] == "| 1 | slow | 25.0 (10.0–40.0) | 100.0 (99.0–101.0) | 20.0 (20.0–20.0) |  |"
    assert "| 16 | quick | 1,000.0 (1,000.0–1,000.0) |" in "\n".join(rows)
    assert not any(row.startswith("| 16 | slow") for row in rows)
    assert "slow: scores differ from float32's by at most 1.0e-03" in rows


def test_lines_of_an_overload_in_the_same_file_are_passed_over(table, tmp_path):
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps(one) + "\n" for one in [*LINES, {"case": "serving-overload", "rate": 384.0}]))
    assert table.read_lines(lines) == LINES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"\xff", "cannot be read (it is not UTF-8)"),
        (b"", "found no server's turn"),
        (b'{"case": "serving-overload"}', "found no server's turn"),
        (json.dumps(LINES[0]).encode() + b'\n{"contender": "qu', "line 2: found no server's turn"),
        (b"7", "line 1: found no server's turn"),
        (b'{"contender": "quick"}', "line 1: found no server's turn"),
    ],
)
def test_a_file_without_turns_is_one_line(table, tmp_path, content, message):
    lines = tmp_path / "lines.jsonl"
    if content is not None:
        lines.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        table.read_lines(lines)
    assert str(stopped.value).startswith(f"error: {lines}")
    assert message in str(stopped.value)
    assert "serving.py compare" in str(stopped.value)


def test_the_plot_tells_its_figures_in_words(table, tmp_path):
    plot = table.plot_of(LINES)
    assert "bertwright 70 with 1, 1,500 with 16" in plot.description
    table.write_picture(plot, tmp_path / "serving.svg")
    assert b"Servers under load" in (tmp_path / "serving.svg").read_bytes()
