"""What takes part in a benchmark: something prepared once that then does the same work whenever it is its turn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np


class NotPossible(Exception):
    """This contender cannot take part here; the message says why. The others go on without it."""


@dataclass(frozen=True)
class Turn:
    """What one turn did.

    Attributes:
        seconds: of the work alone; what is set up for the turn is left out.
        texts, tokens: done in that time; real tokens, padding not counted.
        operations: additions and multiplications done, where the contender counts them itself; else None.
        num_bytes: bytes of text done, where they count; else None.
    """

    seconds: float
    texts: int
    tokens: int
    operations: float | None = None
    num_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class Contender(Protocol):
    """Made once, by a class called with the case and the options of its entry (see ``entries``).

    Attributes:
        chosen: what runs: versions, dtype, kernel, threads and the like, for the record. Of the seconds that making it
            took, "tuning_s" went into finding the fastest settings, and by "cold_s" first passes were slower meanwhile.
    """

    chosen: dict[str, Any]

    def run(self) -> Turn:
        """One turn: the case's whole work."""
        ...

    def outcome(self) -> dict[str, np.ndarray]:
        """What the last turn computed, to be compared between contenders.

        {"logits": (texts, labels)} in the case's order, {"ids_sha256": of all token ids as int32}, or nothing.
        """
        ...


class Engine(Contender, Protocol):
    """A contender that scores, and can be asked for one text as well."""

    def score_alone(self, ids: np.ndarray) -> np.ndarray:
        """The logits (labels,) of one text, from its token ids (tokens,) int64, as a server asks for them."""
        ...
