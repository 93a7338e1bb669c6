"""A process that ends with the one that started it, however that ends."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent(number: int) -> None:
    """Have the signal ``number`` sent to this process when the thread that started it is gone, or all of its parent.

    On Linux; elsewhere nothing happens. It is kept across ``exec``. Whether the parent was gone before must be asked of
    ``os.getppid``.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
