"""Does memory grow with the batch or with the file? The peak of each act on few rows and on many.

    python benchmarks/memory.py TEXTS.csv --output memory.jsonl

TEXTS.csv is what ``benchmarks/make_tokenize_data.py`` makes: 1.5 million comments. The first 15,000 of them are the
small file. Labels are drawn at random: only memory and time are looked at. One line of JSON for each act and size.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from watched import watch

_FEW_STEPS = ["--model", "bert-tiny", "--steps", "50", "--validation-share", "0.01"]
ACTS: dict[str, list[str]] = {
    "tokenize": ["tokenize", "{file}", "--model", "bert-tiny", "--output", "tokens"],
    "train": ["train", "{file}", *_FEW_STEPS, "--output", "run"],
    "train from token ids": ["train", "tokens", *_FEW_STEPS, "--output", "run-2"],
    "predict": ["predict", "run", "{file}", "--output", "scores.parquet"],
}


def write_rows(source: Path, target: Path, num_rows: int | None) -> int:
    """The texts of ``source`` with labels drawn at random; how many there are."""
    csv.field_size_limit(1 << 24)
    generator = np.random.default_rng(0)
    done = 0
    with source.open(newline="") as file, target.open("w", newline="") as out:
        rows = csv.DictReader(file)
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        for row in rows:
            if done == num_rows:
                break
            writer.writerow([row["text"], int(generator.random() < 0.1)])
            done += 1
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--small", type=int, default=15_000)
    parser.add_argument("--acts", nargs="+", choices=list(ACTS), default=list(ACTS))
    options = parser.parse_args()
    from bertwright import hardware

    found: dict[str, dict[int, int]] = {}
    for size in (options.small, None):
        with tempfile.TemporaryDirectory(dir=options.texts.parent) as name:
            folder = Path(name)
            num_rows = write_rows(options.texts, folder / "texts.csv", size)
            for act in options.acts:
                done = watch([*(part.format(file="texts.csv") for part in ACTS[act]), "--quiet"], folder)
                peak, seconds = done.largest_process_bytes, done.seconds
                found.setdefault(act, {})[num_rows] = peak
                line: dict[str, Any] = {
                    "case": "memory",
                    "act": act,
                    "num_texts": num_rows,
                    "file_bytes": (folder / "texts.csv").stat().st_size,
                    "peak_bytes": peak,
                    "seconds": seconds,
                    "commit": hardware.source_commit(),
                }
                with options.output.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{act:22} {num_rows:>10,} texts {peak / 2**20:>8,.0f} MiB {seconds:>7.1f} s", flush=True)
    for act, peaks in found.items():
        few, many = (peaks[size] for size in sorted(peaks))
        print(f"{act:22} grows by {(many - few) / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
