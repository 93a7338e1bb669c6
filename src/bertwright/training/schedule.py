"""How the learning rate moves over a training."""

from __future__ import annotations

import math
import re

from bertwright.config.train import Schedule
from bertwright.errors import UserError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(s|m|min|h|d)", re.IGNORECASE)
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(given: str) -> float | None:
    """The seconds of a time such as "90s", "30m" or "2h"; None if it is none, or 0."""
    found = _DURATION.fullmatch(given.strip())
    seconds = float(found[1]) * _SECONDS[found[2].lower()] if found else 0.0
    return seconds if 0 < seconds < math.inf else None


def budget_seconds(given: str) -> float:
    """The seconds of --budget.

    Raises:
        UserError: it is no time.
    """
    seconds = seconds_of(given)
    if seconds is None:
        raise UserError(f"--budget: found {given!r}, expected a time above 0, such as 90s, 30m or 2h")
    return seconds


def rate_factor_of_share(share: float, warmup_ratio: float) -> float:
    """What the learning rate is multiplied by when ``share`` (0 to 1) of the time for a training is over.

    It rises in a straight line over the share ``warmup_ratio`` and then falls in one, to 0 at the end of the time.
    """
    if share < warmup_ratio:
        return share / warmup_ratio
    return max(0.0, (1.0 - share) / (1.0 - warmup_ratio)) if warmup_ratio < 1.0 else 1.0


def rate_factor(schedule: Schedule, step: int, num_steps: int, num_warmup: int) -> float:
    """What the learning rate is multiplied by at ``step`` (from 0) of ``num_steps``.

    It rises from 1 / num_warmup to 1 over ``num_warmup`` steps; no step is wasted on a rate of 0. Then:

    linear    falls in a straight line and would reach 0 one step after the last (arXiv 1810.04805, appendix A.2)
    cosine    half a cosine, likewise (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts)
    constant  stays
    """
    if step < num_warmup:
        return (step + 1) / num_warmup
    if schedule == "constant":
        return 1.0
    progress = (step - num_warmup) / max(num_steps - num_warmup, 1)  # 0 at the first step after the warm-up
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
