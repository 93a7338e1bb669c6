"""Which of several machines pays for a job, in words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertwright.progress import duration

if TYPE_CHECKING:
    from bertwright.benchmarking.merge import Job, Machine

# Times and dollars that differ by less than this share are the same: no measurement tells them apart.
_SAME_SHARE = 0.005


def verdicts(machines: Sequence[Machine], job: Job) -> list[str]:
    """Which machine pays, in words: on which the job costs least, what dearer and faster ones buy, and which never pay.

    Machines without a price, or without all rates, are not judged. Times that differ by less than 0.5 % are the same.
    """
    judged = [one for one in machines if one.usd_per_hour is not None and "total" in one.seconds(job)]
    if len(judged) < 2:
        return []
    front: list[Machine] = []
    for one in sorted(judged, key=lambda one: (_job_usd(one, job), one.seconds(job)["total"])):
        if not front or _is_less(_time(one, job), _time(front[-1], job)):
            front.append(one)
    cheapest = front[0]
    found = [
        f"The job costs least on {cheapest.name}: {usd_words(_job_usd(cheapest, job))} in "
        f"{duration(_time(cheapest, job))}."
    ]
    found += [_faster(cheap, dear, job) for cheap, dear in itertools.pairwise(front)]
    for one in judged:
        if one not in front:
            better = next(other for other in front if _is_as_good(other, one, job))
            if _is_as_good(one, better, job):
                found.append(f"{one.name} is as fast as {better.name}, and the job costs as much there.")
                continue
            price = usd_words(_job_usd(one, job))
            found.append(
                f"{one.name} does not pay: the job costs {price} there, and {better.name} is no slower and no dearer"
                f"{_spread_words(better, one, job)}."
            )
    return found


def _job_usd(machine: Machine, job: Job) -> float:
    assert machine.usd_per_hour is not None
    return machine.usd_per_hour * _time(machine, job) / 3600


def _time(machine: Machine, job: Job) -> float:
    return machine.seconds(job)["total"]


def _is_less(one: float, other: float) -> bool:
    return one < other * (1 - _SAME_SHARE)


def _is_as_good(one: Machine, other: Machine, job: Job) -> bool:
    return not _is_less(_job_usd(other, job), _job_usd(one, job)) and not _is_less(_time(other, job), _time(one, job))


def _faster(cheap: Machine, dear: Machine, job: Job) -> str:
    """What the faster of two machines buys, on which the job costs more."""
    saved_h = (_time(cheap, job) - _time(dear, job)) / 3600
    more_usd = _job_usd(dear, job) - _job_usd(cheap, job)
    times = _time(cheap, job) / _time(dear, job)
    line = f"{dear.name} is {times:.1f} times as fast as {cheap.name}{_spread_words(dear, cheap, job)}. "
    if not _is_less(_job_usd(cheap, job), _job_usd(dear, job)):
        return line + "The job costs as much there."
    return line + (
        f"The dearer machine pays when an hour less of waiting is worth {usd_words(more_usd / saved_h)} or more: it "
        f"saves {saved_h:.2f} h and costs {usd_words(more_usd)} more."
    )


def _spread_words(fast: Machine, slow: Machine, job: Job) -> str:
    """A doubt, where the fast one at its slowest is slower than the slow one at its fastest."""
    overlap = fast.seconds(job, "min")["total"] >= slow.seconds(job, "max")["total"]
    return " (a difference within the spread of what was measured)" if overlap else ""


def usd_words(value: float) -> str:
    """Dollars, with as many decimals as tell something."""
    return f"${value:,.2f}" if value >= 0.1 or value == 0 else f"${value:.4f}"
