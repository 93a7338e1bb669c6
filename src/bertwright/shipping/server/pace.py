"""How fast tokens are computed: what tells how long those that wait will take."""

from __future__ import annotations

# The weight of the last batch in the running mean of batches of its size.
_LAST_WEIGHT = 0.2
# Sizes are powers of two; the last one is of 2^22 tokens and more.
_NUM_SIZES = 24


class Pace:
    """Seconds that a token takes, by the size of the batch: in a batch of one text a token takes many times as long as
    in a full one, so that the one tells nothing of the other.

    Written by the computing thread, read by the event loop's.
    """

    def __init__(self) -> None:
        self._seconds = [0.0] * _NUM_SIZES  # of a token, by the batch's tokens in binary digits; 0: not measured
        self._token_budget = 1

    def computed(self, num_tokens: int, seconds: float, token_budget: int) -> None:
        """A batch of so many tokens, where there may be ``token_budget``, took so long."""
        size = min(num_tokens.bit_length(), _NUM_SIZES - 1)
        known, last = self._seconds[size], max(seconds, 1e-6) / max(num_tokens, 1)
        self._seconds[size] = known + (last - known) * _LAST_WEIGHT if known else last
        self._token_budget = token_budget

    def seconds(self, num_tokens: int) -> float:
        """How long so many waiting tokens will take; 0 as long as no batch was computed that tells it.

        That is one of as many tokens, or a larger one: then they will take longer than this says. Half a budget is as
        good as a full one.
        """
        size = min(min(num_tokens, self._token_budget // 2).bit_length(), _NUM_SIZES - 1)
        return num_tokens * next(filter(None, self._seconds[size:]), 0.0)
