"""Memory for the C kernels, straight from the system; and Python's own, left in peace where time counts."""

from __future__ import annotations

import contextlib
import gc
import mmap
from collections.abc import Iterator

import torch
from torch import Tensor

_LARGE_PAGE_BYTES = 2 * 1024 * 1024


def fresh_memory(size_bytes: int) -> Tensor:
    """(at least ``size_bytes``,) uint8 zeros, which take room only as they are first written to.

    In large pages where the system has them: rows that lie far apart are then found with fewer look-ups.
    """
    pages = -(-size_bytes // _LARGE_PAGE_BYTES) + 1
    memory = mmap.mmap(-1, pages * _LARGE_PAGE_BYTES if size_bytes >= _LARGE_PAGE_BYTES else max(size_bytes, 1))
    if hasattr(mmap, "MADV_HUGEPAGE") and size_bytes >= _LARGE_PAGE_BYTES:
        with contextlib.suppress(OSError):  # a refusal changes nothing but the speed
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % _LARGE_PAGE_BYTES if size_bytes >= _LARGE_PAGE_BYTES else 0
    return whole[start : start + size_bytes]


@contextlib.contextmanager
def settled_objects() -> Iterator[None]:
    """Within it, Python's collector of garbage does not look through the objects that are there already.

    A training step makes enough small objects to set it off again and again, and a model's many modules and texts
    would be searched in vain each time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
