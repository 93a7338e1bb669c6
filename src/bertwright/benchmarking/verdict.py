"""The order of engines in three sentences: who is fastest and why, who answers soonest, who takes the least.

All of it is made from the record; differences within the spread of the turns are called a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Memory is read once, so that it has no spread: differences up to this share of it are called a tie.
_MEMORY_TIE = 0.05
# Less padding than this is not worth a word.
_LEAST_PADDING = 0.01
# Where all padding saved would be less than this share of the lead, it is said to explain little.
_LEAST_EXPLAINED = 0.2
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}

Engine = Mapping[str, Any]


def three_sentences(result: Mapping[str, Any]) -> list[str]:
    """Three sentences on a record of the case "engines" (``bench.record``)."""
    ran = [one for one in result["contenders"] if one["not_run"] is None]
    if not ran:
        return ["No engine ran to the end.", "So nobody answers soonest.", "And nobody takes the least."]
    return [_fastest(ran), _soonest(ran), _thriftiest(ran, result["usd_per_hour"])]


def _fastest(ran: Sequence[Engine]) -> str:
    order = sorted(ran, key=lambda one: -one["texts_per_s"]["median"])
    tied, rest = _tied(order, lambda one: one["texts_per_s"])
    rate = f"{_number(order[0]['texts_per_s']['median'])} texts/s"
    if len(tied) > 1:
        first = f"{_listed(tied)} tie for the fastest at about {rate}, within the spread of their turns"
    else:
        first = f"{order[0]['name']} is the fastest with {rate}"
    if not rest:
        return f"{first}."
    best, after = order[0], rest[0]
    ratio = best["texts_per_s"]["median"] / after["texts_per_s"]["median"]
    return f"{first}, {ratio:.2f} times as many as the next, {after['name']}: {_why(best, after, ratio)}."


def _why(faster: Engine, slower: Engine, ratio: float) -> str:
    """Which of the known differences speak for the faster of two, which is ``ratio`` times as fast."""
    reasons = []
    if _BYTES[faster["precision"]] < _BYTES[slower["precision"]]:
        reasons.append(f"it computes in {faster['precision']}, the other in {slower['precision']}")
    padding = slower["padding_share"]
    if padding - faster["padding_share"] >= _LEAST_PADDING:
        less = (
            f"{faster['padding_share']:.0%} of its tokens are" if faster["padding_share"] else "none of its tokens is"
        )
        reasons.append(f"{less} padding, {padding:.0%} of the other's")
        if (1 - faster["padding_share"]) / (1 - padding) < 1 + _LEAST_EXPLAINED * (ratio - 1):
            reasons[-1] += ", which explains little of it"
    if faster["first_token_only"] and not slower["first_token_only"]:
        reasons.append("its last layer is computed for the first token alone, the other's for all")
    if reasons:
        kernels = ": the most is its kernels" if len(reasons) == 1 and reasons[0].endswith("little of it") else ""
        return "; ".join(reasons) + kernels
    return "neither dtype nor padding nor the last layer speaks for it, so that its kernels must"


def _soonest(ran: Sequence[Engine]) -> str:
    order = sorted((one for one in ran if one["alone_ms"]["p50"]), key=lambda one: one["alone_ms"]["p50"]["median"])
    if not order:
        return "The time of one text was not measured."
    tied, rest = _tied(order, lambda one: one["alone_ms"]["p50"])
    times = {name: f"{_number(spread['median'])} ms" for name, spread in order[0]["alone_ms"].items()}
    words = f"half of the texts within {times['p50']}, 99 of 100 within {times['p99']}"
    if len(tied) > 1:
        first = f"{_listed(tied)} tie for the soonest answer to one text, {order[0]['name']} with {words}"
    else:
        first = f"{order[0]['name']} answers one text soonest, {words}"
    if not rest:
        return f"{first}."
    return f"{first}; the next, {rest[0]['name']}, needs {_number(rest[0]['alone_ms']['p50']['median'])} ms for half."


def _thriftiest(ran: Sequence[Engine], usd_per_hour: float | None) -> str:
    parts = []
    fastest = max(ran, key=lambda one: one["texts_per_s"]["median"])
    if usd_per_hour is not None:
        cheapest, _ = _tied([fastest, *(one for one in ran if one is not fastest)], lambda one: one["texts_per_s"])
        verb, about = ("are", "about ") if len(cheapest) > 1 else ("is", "")
        usd = f"{about}${fastest['usd_per_million_texts']:.3f} a million texts"
        parts.append(f"at ${usd_per_hour:g} an hour {_listed(cheapest)} {verb} the cheapest: {usd}")
    for words, take, show in (
        ("memory", _memory, lambda value: f"{value / 1e9:.2f} GB"),
        ("energy", _joules, lambda value: f"{value / 3.6e6:.3f} kWh a million texts"),
    ):
        order = sorted((one for one in ran if take(one) is not None), key=lambda one: take(one)["median"])
        if not order:
            parts.append(f"{words} was not measured")
            continue
        tied, _ = _tied(order, take)
        least = show(take(order[0])["median"])
        who = (
            f"{_listed(tied)} take the least {words}, about"
            if len(tied) > 1
            else f"{tied[0]['name']} takes the least {words},"
        )
        most = take(fastest)
        beside = "" if fastest in tied or most is None else f" against {show(most['median'])} of {fastest['name']}"
        parts.append(f"{who} {least}{beside}")
    text = "; ".join(parts)
    return f"{text[0].upper() if parts[0].startswith(('at ', 'memory')) else text[0]}{text[1:]}."


def _memory(one: Engine) -> Any:
    """Bytes, with the range that counts as the same, None where they are not known; GPU memory on a GPU."""
    found = one["peak_gpu_bytes"] or one["peak_bytes"]
    return None if not found else {"median": found, "min": found, "max": found * (1 + _MEMORY_TIE)}


def _joules(one: Engine) -> Any:
    return one["joules_per_million_texts"]


def _tied(order: Sequence[Engine], take: Callable[[Engine], Any]) -> tuple[list[Engine], list[Engine]]:
    """Those whose range, smallest to largest, overlaps that of the first; and the others."""
    best = take(order[0])
    tied = [one for one in order if take(one)["min"] <= best["max"] and best["min"] <= take(one)["max"]]
    return tied, [one for one in order if one not in tied]


def _listed(engines: Sequence[Engine]) -> str:
    names = [one["name"] for one in engines]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
