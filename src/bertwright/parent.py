"""A process that ends with the one that started it, however that ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

LAUNCHED_END = "BERTWRIGHT_LAUNCHED_END"
"""What names the file in which processes that ``bertwright train --num-processes`` started tell it how they ended."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def ending_with_parent(number: int) -> Callable[[], None]:
    """What has the signal ``number`` sent to the process that calls it when the thread that started that is gone.

    On Linux; elsewhere it does nothing. It is made before the call, since a process that was just forked may load
    nothing: another thread may have been loading. What it sets is kept across ``exec``.
    """
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, number)


def end_with_launcher() -> None:
    """In a process that ``--num-processes`` started by torchrun: let it not outlive torchrun; its state is saved."""
    if LAUNCHED_END in os.environ:
        torchrun = os.getppid()
        ending_with_parent(signal.SIGTERM)()
        if torchrun == 1 or os.getppid() != torchrun:  # it was gone before
            sys.exit(1)
