"""Goes round the targets: each is read by a process that is watched, and killed where it hangs or takes the memory."""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.worker import _HEARTBEAT, MOST_BYTES, MOST_SECONDS, clock

_REPOSITORY = Path(__file__).resolve().parents[2]
_LOOK_EVERY_S = 0.2
_KILLED_AT_BYTES = MOST_BYTES + MOST_BYTES // 2
_PATIENCE_TO_START_S = 300.0


def fuzz(targets: Sequence[str], seconds: float, seed: int, work: Path) -> Iterator[dict[str, Any]]:
    """The report of each target, fuzzed for ``seconds`` in one process after the other; a killed one is followed by
    another for the targets that are left."""
    left = list(targets)
    while left:
        for report in _one_process(left, seconds, seed, work):
            left.remove(report["target"])
            yield report


def _one_process(targets: Sequence[str], seconds: float, seed: int, work: Path) -> Iterator[dict[str, Any]]:
    work.mkdir(parents=True, exist_ok=True)
    (work / "heartbeat").unlink(missing_ok=True)
    paths = os.pathsep.join(
        filter(None, [str(_REPOSITORY), str(_REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
    )
    command = [sys.executable, "-m", "tests.fuzz.worker", *targets, "--seconds", str(seconds), "--seed", str(seed)]
    with open(work / "errors.txt", "wb") as errors:
        process = subprocess.Popen(
            [*command, "--work", str(work)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": paths},
        )
    assert process.stdout is not None
    at, began, why, data = targets[0], time.monotonic(), "", b""
    done: list[str] = []
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if selector.select(_LOOK_EVERY_S):
                    piece = os.read(process.stdout.fileno(), 1 << 16)
                    if not piece:
                        break
                    data += piece
                    *lines, data = data.split(b"\n")
                    for line in lines:
                        record = json.loads(line)
                        at, began = record.get("begins", at), time.monotonic()
                        if "target" in record:
                            done.append(record["target"])
                            yield record
                why = why or _why_to_kill(process.pid, work, time.monotonic() - began, seconds)
                if why:
                    process.kill()
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if len(done) < len(targets):
        if not why:
            last = (work / "errors.txt").read_text(errors="replace").strip().splitlines()[-1:] or [""]
            named = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            why = f"the process ended ({named}): {last[0][:200]}"
        yield _report_of_the_dead(at, why, time.monotonic() - began, work)


def _why_to_kill(process: int, work: Path, at_it_s: float, seconds: float) -> str:
    try:
        since, _ = _HEARTBEAT.unpack((work / "heartbeat").read_bytes())
    except (OSError, struct.error):
        return "" if at_it_s < _PATIENCE_TO_START_S else "it never began"
    taken = clock(process) - since if since else 0.0
    if taken > MOST_SECONDS:
        return f"hung for {taken:.0f} s"
    resident = _resident_bytes(process)
    return f"took {resident >> 20:,} MiB of memory" if resident > _KILLED_AT_BYTES else ""


def _resident_bytes(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _report_of_the_dead(target: str, why: str, seconds: float, work: Path) -> dict[str, Any]:
    """What is known of a target whose process ended in the midst of an input, which is kept."""
    inside = work / "in"
    kept = work / "faults" / target / f"found-{hashlib.sha256(f'{why}{time.time()}'.encode()).hexdigest()[:10]}"
    shutil.rmtree(kept, ignore_errors=True)
    if inside.is_dir():
        shutil.copytree(inside, kept)
    try:
        _, tried = _HEARTBEAT.unpack((work / "heartbeat").read_bytes())
    except (OSError, struct.error):
        tried = 0
    return {
        "target": target,
        "replayed": 0,
        "tried": tried,
        "seconds": round(seconds, 1),
        "peak_mib": 0,
        "slowest_s": 0.0,
        "faults": [{"signature": why, "error": why, "case": str(kept)}],
    }
