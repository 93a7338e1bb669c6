"""How many trials go side by side, and what a sweep may spend. Torch is never imported here.

On CPUs one thread a trial does the most work: what a training does between its matrix products (starting up, reading,
batches, tables, evaluations, files) has one thread to itself, and threads wait for one another at the end of each
product. So there are as many trials as processors, while their memory lasts, and the threads are shared out. On a GPU
trials go one after the other. docs/sweep.md has the measurements.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bertwright.cpus import num_usable_cpus
from bertwright.errors import UserError
from bertwright.training.schedule import seconds_of

# Of the memory that is free when a trial begins, the share that all trials may come to hold.
_MEMORY_SHARE = 0.8
# What a trial is taken to need before any has finished: the libraries, and a small model.
_FIRST_TRIAL_BYTES = 1 << 30
_DOLLARS = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*usd", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """The most that a sweep may spend: ``seconds`` of work, or ``usd``. The other is None, and both without a bound."""

    seconds: float | None = None
    usd: float | None = None

    def left_s(self, spent_s: float, spent_usd: float, usd_per_hour: float | None) -> float:
        """Seconds of work that are left at this price; infinite without a bound."""
        if self.seconds is not None:
            return self.seconds - spent_s
        if self.usd is not None and usd_per_hour:
            return (self.usd - spent_usd) / usd_per_hour * 3600
        return float("inf")


def budget_of(given: str | None, usd_per_hour: float | None) -> Budget:
    """``given`` such as "90s", "30m", "2h" or "5usd".

    Raises:
        UserError: it is none of these, or dollars without a price of the machine.
    """
    if given is None:
        return Budget()
    seconds = seconds_of(given)
    if seconds is not None:
        return Budget(seconds=seconds)
    found = _DOLLARS.fullmatch(given.strip())
    amount = float(found[1]) if found else 0.0
    if not 0 < amount < float("inf"):
        raise UserError(f"--budget: found {given!r}, expected a time or an amount above 0, such as 30m, 2h or 5usd")
    if not usd_per_hour:
        raise UserError(f"--budget {given}: pass --usd-per-hour too, the price of this machine")
    return Budget(usd=amount)


def jobs_of(given: str) -> int | None:
    """``given`` as a number; None for "auto".

    Raises:
        UserError: it is neither.
    """
    if given == "auto":
        return None
    if not re.fullmatch(r"[0-9]{1,4}", given) or int(given) < 1:
        raise UserError(f"--jobs: found {given!r}, expected auto or a number above 0")
    return int(given)


@dataclass
class Side:
    """How many trials may go side by side.

    Attributes:
        asked: by ``--jobs``; None: as many as is fastest.
        on_gpu: whether trials compute on a GPU.
        num_cpus: that this process may use.
        trial_bytes: the most that a trial of this sweep has held so far; None before one has finished.
    """

    asked: int | None
    on_gpu: bool
    num_cpus: int
    trial_bytes: int | None = None

    @property
    def most(self) -> int:
        """Side by side at most, if there is memory."""
        if self.asked is not None:
            return self.asked
        return 1 if self.on_gpu else self.num_cpus

    def threads(self, num_waiting: int = 1_000_000) -> int:
        """Of each trial, where so many trials are still to be done or at work."""
        limit = os.environ.get("OMP_NUM_THREADS", "")
        most = int(limit) if limit.isdecimal() and int(limit) else self.num_cpus
        return max(1, min(most, self.num_cpus // max(1, min(self.most, num_waiting))))

    def may_begin(self, num_running: int, num_young: int, free_bytes: int | None) -> bool:
        """Whether one more may begin. The first always may; further ones that nobody asked for need memory: as much as
        the largest trial so far has held, for it and for those that are so young that they hold little yet."""
        if num_running == 0:
            return True
        if num_running >= self.most:
            return False
        if self.asked is not None or free_bytes is None:
            return True
        return (1 + num_young) * (self.trial_bytes or _FIRST_TRIAL_BYTES) <= _MEMORY_SHARE * free_bytes


def available_cpus() -> int:
    """Processors that this process may use: those it is bound to, no more than a container's share of time."""
    count = num_usable_cpus()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return count


def free_memory_bytes() -> int | None:
    """Memory that new processes may take, within a container's limit; None where that cannot be told."""
    found = []
    try:
        text = Path("/proc/meminfo").read_text()
        found += [int(kib) * 1024 for kib in re.findall(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)]
    except OSError:
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        statistics = Path("/sys/fs/cgroup/memory.stat").read_text()
        cached = sum(map(int, re.findall(r"^inactive_file (\d+)$", statistics, re.MULTILINE)))
        found.append(int(limit) - int(used) + cached)
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    return min(found, default=None)
