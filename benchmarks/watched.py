"""A command in a process of its own, watched while it runs: seconds, and the memory of it and of all that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Watched:
    """A command that has ended.

    Attributes:
        exit_code: as subprocess has it: -9 of one that was killed.
        seconds: from its start to its end.
        largest_process_bytes: the most that one process of it held in RAM, counted by the system.
        samples: seconds since the start, and what the process and those that it started held together just then. Pages
            that several of them share, and pages of files that are mapped, count too.
    """

    exit_code: int
    seconds: float
    largest_process_bytes: int
    samples: tuple[tuple[float, int], ...]

    @property
    def peak_bytes(self) -> int:
        """The most of all: of one process, or of all together where they were seen to hold more."""
        return max(self.largest_process_bytes, *(held for _, held in self.samples), 0)

    def peaks_by_part(self, num_parts: int) -> list[int]:
        """The most that was held in each of so many parts of the time, of equal length."""
        peaks = [0] * num_parts
        for at_s, held in self.samples:
            part = min(int(at_s / self.seconds * num_parts), num_parts - 1)
            peaks[part] = max(peaks[part], held)
        return peaks


def watch(
    arguments: Sequence[str], folder: Path, kill_when: Callable[[float], bool] | None = None, log: Path | None = None
) -> Watched:
    """Run ``bertwright`` with these arguments in ``folder``.

    Args:
        kill_when: asked about ten times a second, with the seconds so far, whether to kill the process (kill -9).
        log: file for what it says on standard error; this script's own if not given.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", "bertwright", *arguments]
    errors = None if log is None else open(log, "wb")  # noqa: SIM115 - closed below, once the process has it
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors)
    if errors is not None:
        errors.close()
    samples: list[tuple[float, int]] = []
    killed = False
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - started
        if pid:
            break
        samples.append((seconds, _held_bytes(process.pid)))
        if kill_when is not None and not killed and kill_when(seconds):
            process.kill()
            killed = True
        time.sleep(_EVERY_S)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in ((0, -9) if killed else (0,)):
        said = "" if log is None else "\n" + log.read_text(errors="replace")[-2_000:]
        raise SystemExit(f"bertwright {' '.join(arguments)}: exit status {code}{said}")
    return Watched(code, seconds, usage.ru_maxrss * 1024, tuple(samples))  # KiB, getrusage(2)


def _held_bytes(pid: int) -> int:
    """What a process and its descendants hold in RAM together; of one that has ended, nothing. proc(5)."""
    try:
        held = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (OSError, ValueError, IndexError):
        return 0
    return held + sum(map(_held_bytes, children))
