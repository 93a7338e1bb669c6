"""Numbers as texts: what counts as one in a file, and how one is written as a label."""

from __future__ import annotations

import math
import re

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What counts as a number in a file of text."""


def number_text(value: float) -> str | None:
    """A number as a label: integral ones without a point; none for NaN and infinities."""
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return None
    return str(int(value)) if value.is_integer() else repr(value)
