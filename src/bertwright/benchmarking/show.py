"""What was measured, as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_VERBS = {
    "infer": "scoring",
    "engines": "engines scoring",
    "train": "training",
    "tokenize": "tokenising",
    "pretrain": "pretraining on",
}


def result_table(result: dict[str, Any]) -> Table:
    """The table of a record (see ``bench.record``): a row for each contender."""
    from rich.table import Table

    tokenizing, engines = result["case"] == "tokenize", result["case"] == "engines"
    table = Table(title=_title(result), title_justify="left", caption=_caption(result), caption_justify="left")
    table.add_column("contender", no_wrap=True)
    for name in ("texts/s", "min to max", "MB/s" if tokenizing else "tokens/s", "of peak", "memory"):
        if not (tokenizing and name == "of peak"):
            table.add_column(name, justify="right", no_wrap=True)
    last = {"infer": "off by", "tokenize": "same ids"}.get(result["case"])
    if last is not None:
        table.add_column(last, justify="right")
    if result["usd_per_hour"] is not None:
        table.add_column("$ per 1M", justify="right")
    table.add_column("ours is", justify="right")
    if not engines:
        table.add_column("how")
    for one in result["contenders"]:
        if one["not_run"] is not None:
            table.add_row(one["name"], "not run")  # the reason stands below
            continue
        texts = one["texts_per_s"]
        cells = [one["name"], _rate(texts["median"]), f"{_rate(texts['min'])} to {_rate(texts['max'])}"]
        if tokenizing:
            cells.append(f"{one['bytes_per_s']['median'] / 1e6:,.1f}")
        else:
            cells.append(_rate(one["tokens_per_s"]["median"]))
            cells.append("" if one["share_of_peak"] is None else f"{one['share_of_peak']:.0%}")
        peak = one["peak_gpu_bytes"] or one["peak_bytes"]
        cells.append("" if peak is None else f"{peak / 1e9:.2f} GB")
        if result["case"] == "infer":
            difference = one.get("largest_score_difference")
            cells.append("" if difference is None else f"{difference:.1e}")
        if tokenizing:
            cells.append({True: "yes", False: "NO", None: ""}[one.get("identical_ids")])
        if result["usd_per_hour"] is not None:
            cells.append(f"{one['usd_per_million_texts']:.3f}")
        cells.append("" if one["ours_is_times_as_fast"] is None else f"{one['ours_is_times_as_fast']:.2f} x")
        table.add_row(*cells, *([] if engines else [one["what"]]))
    return table


def engines_table(result: dict[str, Any]) -> Table:
    """What is told of engines besides: the time of one text, of loading and of warming up, parity, energy."""
    from rich.table import Table

    metered = any(one["energy_source"] for one in result["contenders"])
    title = "one text at a time, from ids to logits; start; parity"
    table = Table(title=title if metered else f"{title}; energy: not measured", title_justify="left")
    table.add_column("engine", no_wrap=True)
    headings = ("dtype", "p50 ms", "p90 ms", "p99 ms", "load s", "warm-up s", "logits off", "flips")
    for heading in (*headings, *(["kWh per 1M"] if metered else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in result["contenders"]:
        joules = one["joules_per_million_texts"]
        cells = [
            one["precision"] if one["chosen"] else "",
            *(_shown(None if spread is None else spread["median"], ".1f") for spread in one["alone_ms"].values()),
            _shown(one["load_s"], ".1f"),
            _shown(one["warm_up_s"], ".1f"),
            _shown(one.get("largest_logit_difference"), ".1e"),
            _shown(one.get("label_flips"), ","),
            *([_shown(None if joules is None else joules["median"] / 3.6e6, ".3f")] if metered else []),
        ]
        table.add_row(one["name"], *cells)
    return table


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _title(result: dict[str, Any]) -> str:
    text = f"{_VERBS[result['case']]} {result['num_texts']:,} texts, {result['model']}"
    lengths = result.get("text_tokens")
    if lengths is not None:
        text += (
            f"\n{lengths['mean']:.0f} tokens a text (half have at most {lengths['p50']:.0f}, a tenth more than "
            f"{lengths['p90']:.0f}, the longest {lengths['max']})"
        )
    if result.get("batch_size"):
        text += f", batches of {result['batch_size']}"
    return text


def _caption(result: dict[str, Any]) -> str:
    environment = result["environment"]
    parts = [
        f"medians of {result['rounds']} rounds in turns",
        f"{environment.get('gpu') or environment['cpu']}, {result['num_usable_cpus']} CPUs",
    ]
    if result.get("num_threads"):
        parts.append(f"{result['num_threads']} threads each")
    if result["busy_share_at_start"] is not None:
        parts.append(f"{result['busy_share_at_start']:.0%} of them busy at the start")
    peak = result["peak_operations_per_s"]
    if peak is not None:
        parts.append(f"peak {peak['median'] / 1e12:.2f} TFLOP/s ({result['peak_dtype']}, {result['peak_product']})")
    reasons = [
        f"{one['name']}: not run: {one['not_run']}" for one in result["contenders"] if one["not_run"] is not None
    ]
    return "\n".join(["; ".join(parts), *reasons])


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
