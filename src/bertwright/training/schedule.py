"""How the learning rate moves over a training."""

from __future__ import annotations

import math

from bertwright.config import Schedule


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
