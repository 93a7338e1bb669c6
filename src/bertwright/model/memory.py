"""Memory for the C kernels, straight from the system; and Python's own, left in peace where time counts."""

from __future__ import annotations

import contextlib
import gc
import mmap
from collections.abc import Iterator

import torch
from torch import Tensor


def fresh_memory(size_bytes: int) -> Tensor:
    """(``size_bytes``,) uint8 zeros of this process alone, which take room only as they are first written to."""
    size = max(size_bytes, 1)
    if hasattr(mmap, "MAP_PRIVATE"):  # else a forked process would write to the same memory
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, size)
    return torch.frombuffer(memory, dtype=torch.uint8)[:size_bytes]


@contextlib.contextmanager
def settled_objects() -> Iterator[None]:
    """Within it, Python's collector of garbage does not look through the objects that are there already.

    A training step makes enough small objects to set it off again and again, and a model's many modules and texts
    would be searched in vain each time.
    """
    if gc.get_freeze_count():  # somebody has done so already, and will undo it
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
