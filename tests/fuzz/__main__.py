"""``python -m tests.fuzz --minutes 60 [--target NAME]``: all parsers, or some, get spoiled inputs for so long in all.

A line for each target says how many inputs it got, in how many seconds, what they took at most, and what it did that it
must not; the last line is a JSON object. An input that was a fault goes into the corpus, which the tests replay: mend
the parser, and commit both.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz.run import fuzz
from tests.fuzz.target import CORPUS
from tests.fuzz.worker import MOST_BYTES, MOST_SECONDS

_TURN_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Give spoiled inputs to every parser.")
    parser.add_argument("--minutes", type=float, default=2.0, help="in all")
    parser.add_argument("--target", action="append", metavar="NAME", help="one of them; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="what is drawn follows from it; the time if not given")
    parser.add_argument(
        "--keep", choices=["corpus", "nothing"], default="corpus", help="whether faults go into the corpus"
    )
    given = parser.parse_args()
    names = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
    for name in given.target or ():
        if name not in names:
            parser.error(f"no target {name}; expected one of {', '.join(names)}")
    chosen = given.target or names
    seconds = given.minutes * 60 / len(chosen)
    turns = max(1, round(seconds / _TURN_SECONDS))
    seed = int(time.time()) if given.seed is None else given.seed
    started = time.monotonic()
    totals: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for turn in range(turns):
            for report in fuzz(chosen, seconds / turns, seed + 1_000_000 * turn, Path(folder)):
                for fault in report["faults"]:
                    if given.keep == "corpus":
                        fault["case"] = _keep(report["target"], Path(fault["case"]))
                _add(totals.setdefault(report["target"], {}), report)
                _show(report)
    faults = sum(len(total["faults"]) for total in totals.values())
    if turns > 1:
        print("in all:")
        for total in totals.values():
            _show(total)
    print(
        json.dumps(
            {
                "seconds": round(time.monotonic() - started, 1),
                "seed": seed,
                "inputs": sum(total["tried"] for total in totals.values()),
                "faults": faults,
                "limits": {"seconds": MOST_SECONDS, "bytes": MOST_BYTES},
                "targets": [*totals.values()],
            }
        )
    )
    return 1 if faults else 0


def _add(total: dict[str, Any], report: dict[str, Any]) -> None:
    if not total:
        total |= {**report, "faults": [*report["faults"]]}
        return
    for name in ("tried", "replayed", "seconds"):
        total[name] = round(total[name] + report[name], 1)
    for name in ("peak_mib", "slowest_s"):
        total[name] = max(total[name], report[name])
    known = {fault["signature"] for fault in total["faults"]}
    total["faults"] += [fault for fault in report["faults"] if fault["signature"] not in known]


def _show(report: dict[str, Any]) -> None:
    print(
        f"{report['target']:<16}{report['tried']:>9,} inputs{report['seconds']:>8.1f} s"
        f"{report['peak_mib']:>7,} MiB at most"
        f"{report['slowest_s']:>7.2f} s the slowest{len(report['faults']):>4} faults",
        flush=True,
    )
    for fault in report["faults"]:
        print(f"    {fault['signature']}: {fault['error'][:200]}\n        {fault['case']}", flush=True)


def _keep(target: str, case: Path) -> str:
    place = CORPUS / target / case.name
    if not place.exists() and case.is_dir():
        shutil.copytree(case, place)
    return str(place)


if __name__ == "__main__":
    sys.exit(main())
