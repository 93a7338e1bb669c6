"""How many CPUs there are for this process. Apart from ``hardware``, which torch belongs to."""

from __future__ import annotations

import os


def num_usable_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
