"""Which of the waiting texts are computed next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

# Of a batch, what one request gets before the others have got theirs: deficit round robin (Shreedhar and Varghese 1995)
# with a quantum of a quarter, so that a request of many texts does not hold up those of one text.
_QUANTUM_SHARE = 4
# A batch with less room than this is full: hardly a text is shorter.
_LEAST_ROOM_TOKENS = 8


class Dealt(Protocol):
    """What is dealt out: rows in an order (longest first), of which ``next`` are gone, each of so many tokens."""

    order: Sequence[int]
    lengths: list[int]
    next: int


AnyDealt = TypeVar("AnyDealt", bound=Dealt)
Share = tuple[AnyDealt, list[int]]


def quantum_of(token_budget: int) -> int:
    """Tokens that each job gets of a batch before the others have got theirs; or one row, if that has more."""
    return max(1, token_budget // _QUANTUM_SHARE)


def deal(jobs: Iterable[AnyDealt], token_budget: int) -> list[Share[AnyDealt]]:
    """Rows of at most ``token_budget`` tokens together, or one row, of ``jobs`` in their order of arrival.

    Round after round each gets up to a quarter of the budget, or one row. A row that does not fit any more is passed
    over for shorter ones of later jobs; its job is the first to get something the next time.
    """
    room, quantum = token_budget, quantum_of(token_budget)
    shares: dict[int, Share[AnyDealt]] = {}
    waiting = list(jobs)
    while waiting and (room >= _LEAST_ROOM_TOKENS or not shares):
        again = []
        for job in waiting:
            rows: list[int] = []
            left = quantum
            while job.next < len(job.order):
                row = job.order[job.next]
                tokens = job.lengths[row]
                if (tokens > room and (shares or rows)) or (tokens > left and rows):
                    break
                rows.append(row)
                job.next += 1
                room -= tokens
                left -= tokens
            if rows:
                shares.setdefault(id(job), (job, []))[1].extend(rows)
                if job.next < len(job.order):
                    again.append(job)
            if room < _LEAST_ROOM_TOKENS:
                return list(shares.values())
        waiting = again
    return list(shares.values())
