"""The packing by token budget that everyone uses. Needs NumPy alone, as some runtimes have little else."""

from __future__ import annotations

import numpy as np

# Of a padded batch: at most this share of the longest sequence may be padding in the shortest one.
_MOST_PADDING = 0.25
_FEWEST_TOGETHER = 4


def split_by_budget(lengths: np.ndarray, token_budget: int) -> list[slice]:
    """Cut consecutive texts of ``lengths`` (texts,) into runs of at most ``token_budget`` tokens.

    Each is as long as can be. A text longer than the budget gets a run of its own.
    """
    ends = np.cumsum(lengths)
    parts, first, before = [], 0, 0
    while first < len(lengths):
        last = int(np.searchsorted(ends, before + token_budget, side="right"))
        last = max(last, first + 1)
        parts.append(slice(first, last))
        first, before = last, int(ends[last - 1])
    return parts


def batches_by_length(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """All texts, longest first, packed by token budget: the rows of each batch, for scoring.

    Longest first, so that memory runs out at once or not at all, and the time left is never underestimated.
    """
    order = np.argsort(-lengths, kind="stable")
    return [order[part] for part in split_by_budget(lengths[order], token_budget)]


def padded_batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """All sequences, longest first, for a runtime that pads them to one length: the rows of each batch.

    A batch has at most ``token_budget`` tokens, padding included, or one sequence. It ends before a sequence that
    would be padding for more than a quarter, once it has four.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    batches, first = [], 0
    while first < len(order):
        longest = int(ordered[first])
        most = max(1, token_budget // max(longest, 1))
        # the first that is too short; lengths fall
        shorter = int(np.searchsorted(-ordered, -longest * (1 - _MOST_PADDING), side="right"))
        last = min(first + most, max(shorter, first + _FEWEST_TOGETHER), len(order))
        batches.append(order[first:last])
        first = last
    return batches
