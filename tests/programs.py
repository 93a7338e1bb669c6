"""System programs that some tests need."""

from __future__ import annotations

import glob
import os
import shutil

import pytest


def require(*names: str) -> str:
    """The path of the first of ``names`` (of programs, or patterns of paths) that is there.

    Where none is, the test is skipped, or fails if BERTWRIGHT_REQUIRE_PROGRAMS=1 is set.
    """
    for name in names:
        found = shutil.which(name) or next(iter(sorted(glob.glob(name), reverse=True)), None)
        if found:
            return found
    message = f"none of {', '.join(names)} is installed"
    if os.environ.get("BERTWRIGHT_REQUIRE_PROGRAMS") == "1":
        pytest.fail(message)
    pytest.skip(message)
