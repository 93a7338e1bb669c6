"""How many CPUs there are for this process. Apart from ``hardware``, which torch belongs to."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")


def num_usable_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_usable_cores() -> int:
    """Cores that these CPUs belong to: two CPUs of one core compute hardly more than one.

    Linux tells which share a core. A CPU of which that is not known, there or elsewhere, counts as a core.
    """
    if not hasattr(os, "sched_getaffinity"):
        return num_usable_cpus()
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str | int:
    """The CPUs of one core, in words that are the same for each of them; the CPU's own number where not known."""
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip() or cpu
    except (OSError, ValueError):
        return cpu
