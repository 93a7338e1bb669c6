"""The main job, read, tokenise, train, judge, save, on ever more comments: seconds and memory by phase.

    python benchmarks/scale.py --work /var/tmp/scale --output scale.jsonl --plot scale.svg

The comments are those of ``toxic_comments/train_1.csv`` in the folder that ``--data`` or BERTWRIGHT_DATA names
(``data``, if neither does), again and again: each time another word of each is changed for a word of another one, so
that no text stands there twice. Their labels and, nearly, their lengths stay. All are judged on ``train_2.csv``, which
nothing is repeated from. What the model learns from repeated comments is no measure of quality: only time and memory
are looked at.

One ``bertwright train`` for each size, in a process of its own; a line of JSON for each; sizes that --output already
has are not repeated. At the end seconds = a + b x rows is fitted so that the differences in percent are small, and a
table shows how far each size is from that line. "All else" has the metrics on the training texts among it: of all of
them, or of a sample of 50,000 where there are more.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from watched import watch

from bertwright.hardware import source_commit
from bertwright.reporting.material import Material, read_material
from bertwright.reporting.svg import Plot, write_picture
from bertwright.reporting.training_plots import draw_series, phase_seconds
from bertwright.runs import open_run, read_json

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 1_500_000)
GOAL_BYTES = 4 * 10**9
START, WHOLE = "start and end of Python", "whole"
_COLUMNS = ("comment_text", "labels")


def read_rows(path: Path) -> list[tuple[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [(row[_COLUMNS[0]], row[_COLUMNS[1]]) for row in csv.DictReader(file)]


def repeated(rows: Sequence[tuple[str, str]], num_rows: int, seed: int) -> Iterator[tuple[str, str]]:
    """So many rows of distinct texts: ``rows``, and then again and again with a word of each changed."""
    draw = random.Random(seed)
    parts = [re.split(r"(\s+)", text.strip()) for text, _ in rows]  # words, and what stands between them
    words = sorted({word for part in parts for word in part[::2] if word})
    seen: set[bytes] = set()
    for number in range(num_rows):
        text, label = rows[number % len(rows)]
        part = list(parts[number % len(rows)])
        if number >= len(rows):
            part[draw.randrange(0, len(part), 2)] = draw.choice(words)
            text = "".join(part)
        while _digest(text) in seen:  # a short text: few words make few others
            text += " " + draw.choice(words)
        seen.add(_digest(text))
        yield text, label


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()


def write_files(rows: Sequence[tuple[str, str]], sizes: Sequence[int], folder: Path, seed: int) -> dict[int, Path]:
    """A csv for each size: the first rows of the largest one. What is there already stays."""
    paths = {size: folder / f"train-{size}-seed{seed}.csv" for size in sizes}
    missing = sorted(size for size in sizes if not paths[size].exists())
    if not missing:
        return paths
    partial = folder / "train.csv.partial"
    with open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for number, row in enumerate(repeated(rows, missing[-1], seed), 1):
            writer.writerow(row)
            if number in missing[:-1]:
                file.flush()
                copy = paths[number].with_suffix(".partial")
                shutil.copyfile(partial, copy)
                os.replace(copy, paths[number])
    os.replace(partial, paths[missing[-1]])
    return paths


def measure(train: Path, test: Path, work: Path, model: str) -> dict[str, Any]:
    """Seconds, memory and counts of one training."""
    output = work / f"run-{train.stem}"
    words = ["train", str(train.absolute()), "--test", str(test.absolute()), "--model", model, "--epochs", "1"]
    log = work / "train.log"
    done = watch([*words, "--output", str(output.absolute()), "--overwrite"], work, log=log)
    run = open_run(output)
    result = run.result or {}
    material = read_material(run)
    seconds = dict(phase_seconds(material))
    seconds |= {START: done.seconds - result["seconds"]["total"], WHOLE: done.seconds}
    found = {
        "file_bytes": train.stat().st_size,
        "run_bytes": sum(path.stat().st_size for path in output.rglob("*") if path.is_file()),
        "data": result["data"],
        "steps": result["steps"],
        "num_tokens": round(result["rates"]["train_tokens_per_s"] * result["seconds"]["train"]),
        "seconds": seconds,
        "rates": result["rates"],
        "peak_bytes": done.peak_bytes,
        "largest_process_bytes": done.largest_process_bytes,
        "peak_bytes_by_phase": peaks_by_phase(material),
        "within_goal": done.peak_bytes < GOAL_BYTES,
        "metrics": result["metrics"]["test"],
        "environment": read_json(output / "environment.json"),
    }
    shutil.rmtree(output)
    return found


def peaks_by_phase(material: Material) -> dict[str, int]:
    """The most that the process held in each phase, of samples a second apart; a short phase may have few."""
    assert material.memory is not None, material.problems
    peaks: dict[str, int] = {}
    for phase, held in zip(material.memory.phases, material.memory.process_bytes.tolist(), strict=True):
        peaks[phase] = max(peaks.get(phase, 0), held)
    return peaks


def fit(rows: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, list[float]]:
    """a and b of seconds = a + b x rows, and by what share of the line each size lies above it.

    Each size weighs the same: it is the differences as shares of the seconds whose squares are least.
    """
    x, y = np.array(rows, np.float64), np.array(seconds, np.float64)
    slope, start = np.polyfit(x, y, 1, w=1 / y)
    return float(start), float(slope), (y / (start + slope * x) - 1).tolist()


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each size; below it the fitted line and the memory by phase."""
    phases = list(dict.fromkeys(name for line in lines for name in line["seconds"]))
    wholes = [line["seconds"][WHOLE] for line in lines]
    rows = [line["rows"] for line in lines]
    fitted = fit(rows, wholes) if len(lines) > 1 else None
    head = ["comments", "tokens", *(f"{name}, s" for name in phases), "from the line", "peak, MiB"]
    found = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for number, line in enumerate(lines):
        cells = [f"{line['rows']:,}", f"{line['num_tokens']:,}"]
        cells += [f"{line['seconds'].get(name, 0):,.1f}" for name in phases]
        cells += ["" if fitted is None else f"{fitted[2][number]:+.1%}", f"{line['peak_bytes'] / 2**20:,.0f}"]
        found.append("| " + " | ".join(cells) + " |")
    if fitted is not None:
        found += ["", f"seconds = {fitted[0]:.2f} + {fitted[1] * 1e6:.2f} per million comments; by phase:", ""]
        for name in phases:
            have = [(line["rows"], line["seconds"][name]) for line in lines if line["seconds"].get(name, 0) > 0]
            if len(have) > 1:
                start, slope, off = fit(*zip(*have, strict=True))
                found.append(
                    f"- {name}: {start:.2f} + {slope * 1e6:.2f} per million; off by {min(off):+.1%} to {max(off):+.1%}"
                )
    held = list(dict.fromkeys(name for line in lines for name in line["peak_bytes_by_phase"]))
    head = ["comments, MiB", *held]
    found += ["", "| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for line in lines:
        peaks = line["peak_bytes_by_phase"]
        cells = [f"{peaks[name] / 2**20:,.0f}" if name in peaks else "" for name in held]
        found.append("| " + " | ".join([f"{line['rows']:,}", *cells]) + " |")
    return "\n".join(found)


def plot_of(lines: Sequence[dict[str, Any]]) -> Plot:
    """Seconds over rows by phase, and the line that was fitted to all of them together; both axes are logarithmic."""
    rows = [line["rows"] for line in lines]
    start, slope, off = fit(rows, [line["seconds"][WHOLE] for line in lines])
    phases = dict.fromkeys(name for line in lines for name in line["seconds"] if name != START)
    series = [
        (name, [(line["rows"], line["seconds"][name]) for line in lines if line["seconds"].get(name, 0) > 0])
        for name in (WHOLE, *(name for name in phases if name != WHOLE))
    ]
    words = (
        f"Seconds over the number of comments, from {rows[0]:,} to {rows[-1]:,}, in whole and by phase. The thin line "
        f"is {start:.1f} s + {slope * 1e6:,.0f} s per million comments; no size is further from it than "
        f"{max(map(abs, off)):.1%}."
    )
    draw = functools.partial(_draw, series=series, line=(start, slope))
    return Plot("scale", "Cost over the number of comments", words, draw, width=560, height=330)


def _draw(figure: Any, palette: Any, series: Sequence[tuple[str, Any]], line: tuple[float, float]) -> None:
    draw_series(figure, palette, series, None, "comments", "seconds")
    axes = figure.axes[0]
    x = np.geomspace(series[0][1][0][0], series[0][1][-1][0], 100)
    axes.plot(x, line[0] + line[1] * x, color=palette.muted, linewidth=0.8, label="fitted line")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: _short(value))
        axis.set_minor_formatter(lambda *_: "")
    axes.set_xticks([rows for rows, _ in series[0][1]])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _short(value: float) -> str:
    return next(
        (f"{value / size:g}{unit}" for size, unit in ((10**6, "M"), (10**3, "k")) if value >= size), f"{value:g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTWRIGHT_DATA", "data")))
    parser.add_argument("--work", type=Path, required=True, help="folder for the files of comments and the runs")
    parser.add_argument("--output", type=Path, required=True, help="file of lines, added to")
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--model", default="bert-tiny")
    parser.add_argument("--seed", type=int, default=0, help="of the changed words")
    parser.add_argument("--plot", type=Path, help="file for a picture, .svg or .png")
    parser.add_argument("--prepare-only", action="store_true", help="write the files of comments, and nothing else")
    given = parser.parse_args()
    comments = given.data / "toxic_comments"
    for path in (comments / "train_1.csv", comments / "train_2.csv"):
        if not path.is_file():
            raise SystemExit(f"{path}: no such file; name the folder that holds the data with --data")
    given.work.mkdir(parents=True, exist_ok=True)
    paths = write_files(read_rows(comments / "train_1.csv"), given.rows, given.work, given.seed)
    if given.prepare_only:
        return
    found: dict[int, dict[str, Any]] = {}
    asked = {"case": "scale", "model": given.model, "seed": given.seed}
    for text in given.output.read_text(encoding="utf-8").splitlines() if given.output.exists() else []:
        line = json.loads(text)
        if {name: line.get(name) for name in asked} == asked:
            found[line["rows"]] = line
    for size in sorted(set(given.rows) - set(found)):
        line = asked | {"rows": size, "commit": source_commit()}
        line |= measure(paths[size], comments / "train_2.csv", given.work, given.model)
        with open(given.output, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        peak = f"{line['peak_bytes'] / 2**20:,.0f} MiB"
        print(f"{size:>10,} comments {line['seconds'][WHOLE]:>8.1f} s {peak:>10}", flush=True)
        found[size] = line
    lines = [found[size] for size in sorted(set(given.rows))]
    print("\n" + table(lines))
    if given.plot is not None and len(lines) > 1:
        write_picture(plot_of(lines), given.plot)


if __name__ == "__main__":
    main()
