"""The page of inference engines that were measured side by side, from the record of ``bertwright bench engines``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertwright.reporting.many_plots import ranges, scatter
from bertwright.reporting.material import number_in, object_in
from bertwright.reporting.page import Page, Section, Tile, check_names
from bertwright.reporting.svg import Plot
from bertwright.reporting.tables import Cell, cell, table
from bertwright.reporting.words import counted, listed, percent, size_words

Engine = Mapping[str, Any]

# Other work for more than this share of the CPUs disturbs what is measured.
_BUSY_SHARE = 0.1
_WIDE = 400


def engines_page(result: Mapping[str, Any]) -> Page:
    """Everything that was measured.

    Args:
        result: the record, as in the line of JSON.
    """
    engines: list[Engine] = list(result["contenders"])
    ran = sorted((one for one in engines if one["not_run"] is None), key=lambda one: -_rate(one))
    left_out = [one for one in engines if one["not_run"] is not None]
    sections = (_throughput(ran), _alone(ran), _start(ran), _parity(engines), _machine(result, engines))
    check_names(sections)
    return Page(
        title=f"{counted(len(ran), 'inference engine')} side by side",
        subtitle=_subtitle(result),
        summary=tuple(str(sentence) for sentence in result["ranking"]),
        cautions=_cautions(result, left_out),
        tiles=_tiles(ran),
        sections=sections,
    )


def _rate(one: Engine) -> float:
    return number_in(one, "texts_per_s", "median") or 0.0


def _subtitle(result: Mapping[str, Any]) -> str:
    environment = object_in(result, "environment")
    parts = [
        str(result.get("model")),
        counted(int(result["num_texts"]), "text"),
        f"{object_in(result, 'text_tokens').get('mean', 0):.0f} tokens each on average",
        str(environment.get("gpu") or environment.get("cpu")),
        counted(int(result["num_threads"]), "thread"),
    ]
    return ", ".join(parts)


def _cautions(result: Mapping[str, Any], left_out: Sequence[Engine]) -> tuple[str, ...]:
    found = []
    busy = number_in(result, "busy_share_at_start")
    if busy is not None and busy > _BUSY_SHARE:
        found.append(
            f"The machine was busy: others used {percent(busy)} of its CPU time. Measure again on a quiet one."
        )
    if left_out:
        found.append(f"Not timed: {listed([str(one['name']) for one in left_out])}. The reasons stand under parity.")
    if "random" in str(result.get("model")):
        found.append(
            "Random weights hardly tell one text from another: that an engine is right shows in float32 alone."
        )
    return tuple(found)


def _tiles(ran: Sequence[Engine]) -> tuple[Tile, ...]:
    if not ran:
        return ()
    tiles = [Tile("Most texts", f"{_rate(ran[0]):,.0f}/s", str(ran[0]["name"]))]
    alone = [(value, one) for one in ran if (value := _milliseconds(one, "p50")) is not None]
    if alone:
        value, one = min(alone, key=lambda pair: pair[0])
        tiles.append(Tile("One text", f"{value:.3g} ms", f"{one['name']}, the median"))
    held = [(value, one) for one in ran if (value := _memory(one)) is not None]
    if held:
        value, one = min(held, key=lambda pair: pair[0])
        tiles.append(Tile("Least memory", size_words(value), str(one["name"])))
    return tuple(tiles)


def _milliseconds(one: Engine, name: str) -> float | None:
    return number_in(one, "alone_ms", name, "median")


def _memory(one: Engine) -> float | None:
    return number_in(one, "peak_gpu_bytes") or number_in(one, "peak_bytes")


def _throughput(ran: Sequence[Engine]) -> Section:
    points = [(str(one["name"]), _rate(one), _range(one, "texts_per_s")) for one in ran]
    told = "A point is the median of the turns, the line reaches from the slowest to the fastest"
    plots = _drawn("texts-per-second", "Texts a second", told, points, "texts a second")
    headings = ["engine", "dtype", "texts/s", "least", "most", "tokens/s", "of peak", "padding", "batch", "$ per 1M"]
    rows = [
        [
            str(one["name"]),
            str(one["precision"]),
            _shown(_rate(one), "{:,.0f}", best=one is ran[0]),
            _shown(number_in(one, "texts_per_s", "min"), "{:,.0f}"),
            _shown(number_in(one, "texts_per_s", "max"), "{:,.0f}"),
            _shown(number_in(one, "tokens_per_s", "median"), "{:,.0f}"),
            _shown(number_in(one, "share_of_peak"), "{:.1%}"),
            _shown(number_in(one, "padding_share"), "{:.1%}"),
            cell(object_in(one, "chosen").get("batch_size")),
            _shown(number_in(one, "usd_per_million_texts"), "{:.3f}"),
        ]
        for one in ran
    ]
    caption = "Many texts; tokens are real ones, padding does not count"
    return Section(
        "throughput", "Many texts", "Throughput", (), plots, (table("throughput-table", caption, headings, rows),)
    )


def _alone(ran: Sequence[Engine]) -> Section:
    known = sorted(
        (one for one in ran if _milliseconds(one, "p50") is not None), key=lambda one: _milliseconds(one, "p50") or 0
    )
    points = []
    for one in known:
        p50, p99 = _milliseconds(one, "p50"), _milliseconds(one, "p99")
        if p50 is not None:
            points.append((str(one["name"]), p50, (p50, p50 if p99 is None else p99)))
    told = "A point is the median text; the line reaches to the one that 99 of 100 are not slower than"
    plots = _drawn("one-text", "Milliseconds for one text", told, points, "milliseconds")
    headings = ["engine", "dtype", "p50, ms", "p90, ms", "p99, ms", "p50 of the fastest pass", "p50 of the slowest"]
    rows = [
        [
            str(one["name"]),
            str(one["precision"]),
            *(
                _shown(_milliseconds(one, name), "{:.2f}", one is known[0] and name == "p50")
                for name in ("p50", "p90", "p99")
            ),
            _shown(number_in(one, "alone_ms", "p50", "min"), "{:.2f}"),
            _shown(number_in(one, "alone_ms", "p50", "max"), "{:.2f}"),
        ]
        for one in known
    ]
    tables = (table("one-text-table", "One text at a time, from ids to logits", headings, rows),) if rows else ()
    return Section("alone", "One text at a time", "Latency", (), plots, tables)


def _start(ran: Sequence[Engine]) -> Section:
    least = min((value for one in ran if (value := _memory(one)) is not None), default=None)
    points = [
        (str(one["name"]), value / 2**20, _rate(one), value == least or one is ran[0])
        for one in ran
        if (value := _memory(one)) is not None
    ]
    plots: tuple[Plot, ...] = ()
    if len(points) > 1:
        plots = (
            scatter(
                "memory-and-speed",
                "Speed and memory",
                "Texts a second (up) against the most memory held (right). Filled: the fastest and the thriftiest.",
                points,
                "MiB",
                "texts a second",
                join=False,
            ),
        )
    headings = ["engine", "load, s", "warm-up, s", "finding settings, s", "memory", "kWh per 1M texts"]
    rows = []
    for one in ran:
        memory, joules = _memory(one), number_in(one, "joules_per_million_texts", "median")
        rows.append(
            [
                str(one["name"]),
                *(_shown(number_in(one, name), "{:.1f}") for name in ("load_s", "warm_up_s", "tuning_s")),
                cell(
                    memory, None if memory is None else size_words(memory), best=memory is not None and memory == least
                ),
                cell("not measured") if joules is None else cell(joules / 3.6e6, f"{joules / 3.6e6:.3f}"),
            ]
        )
    tables = (table("start-table", "Start, memory and energy", headings, rows),) if rows else ()
    return Section("start", "What it takes", "Start and memory", (), plots, tables)


def _parity(engines: Sequence[Engine]) -> Section:
    headings = ["engine", "dtype", "logits off", "scores off", "error to size", "flips", "let through"]
    rows = [
        [
            str(one["name"]),
            cell(one["precision"] if one["chosen"] else None),
            *(
                _shown(number_in(one, name), "{:.1e}")
                for name in ("largest_logit_difference", "largest_score_difference", "logit_error_to_size")
            ),
            cell(one.get("label_flips")),
            "yes" if one["not_run"] is None else f"no: {one['not_run']}",
        ]
        for one in engines
    ]
    prose = (
        "Before any timing, each engine's logits are compared with float32 logits of the same weights and token ids, "
        "in batches and one text at a time. Who is further off than its precision explains is not timed.",
    )
    caption = "Largest differences from float32, and texts whose highest class is another"
    return Section(
        "parity", "Do they compute the same?", "Parity", prose, tables=(table("parity-table", caption, headings, rows),)
    )


def _machine(result: Mapping[str, Any], engines: Sequence[Engine]) -> Section:
    chosen = [
        [str(one["name"]), ", ".join(f"{name} {value}" for name, value in object_in(one, "chosen").items())]
        for one in engines
        if one["chosen"]
    ]
    facts = [
        [str(name), cell(None if value is None else str(value))]
        for name, value in object_in(result, "environment").items()
    ]
    facts += [
        [name.replace("_", " "), cell(str(result.get(name)))] for name in ("rounds", "max_length", "data", "measured")
    ]
    folded = [table("environment", "The machine and its versions", ["what", "found"], facts, sortable=False)]
    if chosen:
        folded.insert(0, table("chosen", "What each engine runs with", ["engine", "chosen"], chosen, sortable=False))
    return Section("machine", "Machine and settings", "Machine", folded=tuple(folded))


def _drawn(name: str, title: str, told: str, points: Sequence[tuple[str, float, Any]], across: str) -> tuple[Plot, ...]:
    """The picture of ``ranges``; none without points."""
    if not points:
        return ()
    values = "; ".join(
        f"{label} {value:,.0f}" if value >= 100 else f"{label} {value:.3g}" for label, value, _ in points
    )
    return (ranges(name, title, f"{told}: {values}.", points, across, width=_WIDE),)


def _range(one: Engine, name: str) -> tuple[float, float] | None:
    low, high = number_in(one, name, "min"), number_in(one, name, "max")
    return None if low is None or high is None else (low, high)


def _shown(value: float | None, form: str, best: bool = False) -> Cell:
    return cell(value, None if value is None else form.format(value), best)
