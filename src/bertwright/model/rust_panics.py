"""Libraries in Rust that give up: what pyo3 raises then is no Exception, and would end the process.

A damaged or made-up tokenizer.json may pass the checks of ``tokenizers`` and still hold what its code never expects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bertwright.errors import CheckpointError


@contextmanager
def refusing_panics(source: str) -> Iterator[None]:
    """A context in which a panic of a library in Rust, which reads what ``source`` holds, becomes a CheckpointError."""
    try:
        yield
    except BaseException as error:
        # The class is made anew by every library, and none of them gives it away.
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise CheckpointError(f"{source}: damaged: its reader gave up ({error})") from None
