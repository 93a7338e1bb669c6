"""Seeds for one purpose each, so that no two purposes share a stream of random numbers."""

from __future__ import annotations

import hashlib


def purpose_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose of a run, such as ``purpose_seed(0, "order", epoch)``.

    The first eight bytes of the SHA-256 of the arguments' ``repr``: the same on every machine and Python.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
