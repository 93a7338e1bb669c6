"""What to do when memory runs out: compute fewer tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from bertwright import hardware
from bertwright.data.packing import split_by_budget
from bertwright.errors import UserError
from bertwright.progress import Reporter

Computed = TypeVar("Computed")

ADVICE = "lower --max-length, take a smaller --model, or a machine with more memory"


def smaller_budget(lengths: np.ndarray, token_budget: int) -> int | None:
    """Half the tokens of the largest part that texts of ``lengths`` (texts,) are cut into; None if each is one text."""
    parts = split_by_budget(lengths, token_budget)
    if all(part.stop - part.start == 1 for part in parts):
        return None
    largest = max(int(lengths[part].sum()) for part in parts)
    return max(1, min(token_budget, largest) // 2)


def within_memory(
    compute: Callable[[int], Computed],
    lengths: np.ndarray,
    token_budget: int,
    free: Callable[[], None],
    reporter: Reporter,
    what: str,
) -> tuple[Computed, int]:
    """``compute(token_budget)``, again with half the budget for as long as memory runs out, and the budget that did.

    Args:
        lengths: (texts,) tokens of each text, computed longest first.
        free: lets go of memory that is kept to be used again.
        what: for the message, such as "scoring".

    Raises:
        UserError: a single text does not fit.
    """
    longest_first = np.sort(lengths)[::-1]
    while True:
        try:
            return compute(token_budget), token_budget
        except Exception as error:
            if not hardware.is_out_of_memory(error):
                raise
        # Behind the handler: the error held on to the memory of the frames that it came through.
        free()
        smaller = smaller_budget(longest_first, token_budget)
        if smaller is None:
            longest = int(lengths.max(initial=0))
            raise UserError(f"out of memory in {what} a single text of {longest:,} tokens: {ADVICE}")
        reporter.warn(f"out of memory in {what}: --token-budget {smaller:,} from here on, not {token_budget:,}")
        token_budget = smaller
