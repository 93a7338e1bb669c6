"""The table and the plot of what ``serving.py compare`` measured.

    python benchmarks/peers/serving_table.py serving.jsonl [--plot serving.svg]

For each number of clients and each server: the median of its turns, and from where to where they went. "beside the best
peer" is the ratio of our rate to that of the fastest peer of the same turn, so that a machine that was slow for a while
was so for both.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.reporting.svg import Plot, write_picture
from bertwright.reporting.training_plots import draw_series

OURS = "bertwright"
OVERLOAD = "serving-overload"
KEYS = {"contender", "clients", "turn", "per_s", "p50_ms", "p99_ms", "largest_score_difference"}
EXPECTED = "what serving.py compare writes"


def middle(values: Sequence[float], digits: int) -> str:
    return f"{np.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def ratios(lines: Sequence[dict[str, Any]], clients: int) -> list[float]:
    """Our rate over that of the fastest peer, turn by turn."""
    found = []
    for turn in sorted({line["turn"] for line in lines}):
        rates = {
            line["contender"]: line["per_s"] for line in lines if (line["clients"], line["turn"]) == (clients, turn)
        }
        peers = [rate for name, rate in rates.items() if name != OURS]
        if OURS in rates and peers:
            found.append(rates[OURS] / max(peers))
    return found


def table_of(lines: Sequence[dict[str, Any]]) -> str:
    found = [
        "| clients | server | texts/s | p50, ms | p99, ms | beside the best peer |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    names = list(dict.fromkeys(line["contender"] for line in lines))
    names.sort(key=lambda name: name != OURS)
    for clients in sorted({line["clients"] for line in lines}):
        for name in names:
            turns = [line for line in lines if (line["contender"], line["clients"]) == (name, clients)]
            if not turns:
                continue
            cells = [middle([line[key] for line in turns], 1) for key in ("per_s", "p50_ms", "p99_ms")]
            beside = ratios(lines, clients) if name == OURS else []
            cells.append(f"{np.median(beside):.2f} × ({min(beside):.2f}–{max(beside):.2f})" if beside else "")
            found.append(f"| {clients} | {name} | " + " | ".join(cells) + " |")
    found.append("")
    for name in names:
        worst = max(line["largest_score_difference"] for line in lines if line["contender"] == name)
        found.append(f"{name}: scores differ from float32's by at most {worst:.1e}")
    return "\n".join(found)


def plot_of(lines: Sequence[dict[str, Any]]) -> Plot:
    """Texts a second over the number of clients."""
    names = sorted(dict.fromkeys(line["contender"] for line in lines), key=lambda name: name != OURS)
    counts = sorted({line["clients"] for line in lines})
    series = []
    for name in names:
        points = [
            (clients, float(np.median([line["per_s"] for line in lines if of(line, name, clients)])))
            for clients in counts
            if any(of(line, name, clients) for line in lines)
        ]
        series.append((name, points))
    words = "Texts a second over the number of clients that ask at once: " + "; ".join(
        f"{name} " + ", ".join(f"{rate:,.0f} with {clients}" for clients, rate in points) for name, points in series
    )
    return Plot("serving", "Servers under load", words, functools.partial(_draw, series=series), width=480, height=300)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The turns; lines of an overload, which may stand in the same file, are passed over.

    Raises:
        SystemExit: with one line of what is wrong: there is no such file, a line of it is damaged, or none is a turn.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SystemExit(f"error: {path}: cannot be read ({reason}); expected {EXPECTED}") from None
    turns = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            one = json.loads(line)
        except ValueError:
            one = None
        if not isinstance(one, dict) or (one.get("case") != OVERLOAD and not one.keys() >= KEYS):
            raise SystemExit(f"error: {path}, line {number}: found no server's turn; expected {EXPECTED}")
        if one.get("case") != OVERLOAD:
            turns.append(one)
    if not turns:
        raise SystemExit(f"error: {path}: found no server's turn; expected {EXPECTED}")
    return turns


def of(line: dict[str, Any], name: str, clients: int) -> bool:
    return line["contender"] == name and line["clients"] == clients


def _draw(figure: Any, palette: Any, series: Sequence[tuple[str, Any]]) -> None:
    draw_series(figure, palette, series, None, "clients that ask at once", "texts a second")
    axes = figure.axes[0]
    axes.set_xscale("log", base=2)
    axes.set_xticks([clients for clients, _ in series[0][1]])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=Path)
    parser.add_argument("--plot", type=Path, help="file for a picture, .svg or .png")
    given = parser.parse_args()
    lines = read_lines(given.lines)
    print(table_of(lines))
    if given.plot is not None:
        write_picture(plot_of(lines), given.plot)


if __name__ == "__main__":
    main()
