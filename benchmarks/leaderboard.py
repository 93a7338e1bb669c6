"""Write the tables of LEADERBOARD.md from the lines of results/: no figure is copied by hand.

    python benchmarks/leaderboard.py

Of the lines that measure the same case, model, data and machine, the last one counts. Text outside the markers is kept.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
BEGIN, END = "<!-- tables: written by leaderboard.py -->", "<!-- end of tables -->"
ENGINE_COLUMNS = {
    "load_s": ".1f",
    "warm_up_s": ".1f",
    "largest_logit_difference": ".1e",
    "label_flips": ",",
    "usd_per_million_texts": ".3f",
}
PERCENTILES = ("p50_ms", "p90_ms", "p99_ms")
TITLES = {"train": "Training", "pretrain": "Pretraining", "infer": "Scoring", "tokenize": "Tokenising"}


def main() -> None:
    lines = [
        json.loads(line)
        for path in sorted((FOLDER / "results").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    tables = "\n".join(
        [
            *speed(line for line in lines if line["case"] in TITLES),
            *engines(line for line in lines if line["case"] == "engines"),
            *mlperf(line for line in lines if line["case"] == "mlperf"),
            *quality_beside_trainer(lines),
            *quality(lines),
            *pretrained([line for line in lines if line["case"] == "pretrained"]),
        ]
    )
    page = FOLDER / "LEADERBOARD.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}", encoding="utf-8")


def speed(lines: Iterable[dict[str, Any]]) -> list[str]:
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in lines:
        data = tuple(Path(name).name for name in line["data"])
        machine = line["environment"]["cpu"], line["environment"].get("gpu")
        work = line["batch_size"], line["max_length"], line["dtype"]
        latest[line["case"], line["model"], data, *machine, *work, is_search(line)] = line
    order = list(TITLES)
    found = []
    for key in sorted(latest, key=lambda key: (order.index(key[0]), *map(str, key[1:]))):
        found += section(latest[key])
    return found


def is_search(line: dict[str, Any]) -> bool:
    """Whether it looks for the fastest setting of Trainer: a measurement beside the one with the usual contenders."""
    return "trainer-compiled" in {one["name"] for one in line["contenders"]}


def section(line: dict[str, Any]) -> list[str]:
    """The heading, table and notes of one measurement."""
    environment = line["environment"]
    machine = environment.get("gpu") or environment["cpu"]
    data = ", ".join(Path(name).name for name in line["data"])
    model = line["model"].partition(" from ")[0]
    found = [
        f"### {TITLES[line['case']]}: {model}, {data}"
        + (f", batch {line['batch_size']}" if line["batch_size"] else "")
        + (", every known setting of Trainer" if is_search(line) else "")
        + f"; {machine}",
        "",
        f"{machine}, {line['num_usable_cpus']} CPUs, torch {environment['torch']}, commit "
        f"{str(environment['commit'])[:10]}, {line['measured'][:10]}. {line['num_texts']:,} texts a turn, "
        f"{line['rounds']} rounds; {line['busy_share_at_start']:.0%} of the CPUs busy at the start.",
    ]
    lengths = line.get("text_tokens")
    if lengths:
        found.append(
            f"Tokens of a text: mean {lengths['mean']:.0f}, median {lengths['p50']:.0f}, 90 % below "
            f"{lengths['p90']:.0f}, most {lengths['max']:.0f}."
        )
    peak = line.get("peak_operations_per_s")
    if peak:
        found.append(
            f"Peak of this run: {peak['median'] / 1e12:.2f} TFLOP/s ({line['peak_dtype']}; {peak['min'] / 1e12:.2f} to "
            f"{peak['max'] / 1e12:.2f})."
        )
    tokenizing = line["case"] == "tokenize"
    unit = "tokens" if line["case"] == "pretrain" else "texts"
    columns = ("contender", f"{unit}/s", "smallest to largest", "of peak", "memory", "ours is", "check")
    found += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in line["contenders"]:
        if one["texts_per_s"] is None:
            found.append(f"| {one['name']} | not run: {one['not_run']} | | | | | |")
            continue
        stopped = "" if one["not_run"] is None else f" (stopped: {one['not_run']})"
        rate, share, times = one[f"{unit}_per_s"], one["share_of_peak"], one["ours_is_times_as_fast"]
        off = one.get("largest_score_difference")
        check = "" if off is None else f"off by {off:.4f}"
        if tokenizing:
            check = {True: "same ids", False: "OTHER IDS"}.get(one.get("identical_ids"), "")
        found.append(
            f"| {one['name']}{stopped} | {number(rate['median'])} | {number(rate['min'])} to {number(rate['max'])} "
            f"| {'' if share is None else f'{share:.0%}'} | {gigabytes(one)} "
            f"| {'' if times is None or one['name'] == 'bertwright' else f'{times:.2f} ×'} | {check} |"
        )
    return [*found, ""]


def engines(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Which engine scores best: for each model, machine and number of threads, with the order in words."""
    latest = {}
    for line in lines:
        work = line["model"], line["dtype"], line["data_sha256"], line["max_length"]
        latest[*work, device(line), line["num_threads"], *sorted(one["name"] for one in line["contenders"])] = line
    found = []
    for _, line in sorted(latest.items(), key=lambda item: tuple(map(str, item[0]))):
        environment = line["environment"]
        usd_per_hour = line["usd_per_hour"]
        columns = (
            *("engine", "dtype", "texts/s", "smallest to largest", "ours is", "memory", "p50 ms", "p90 ms", "p99 ms"),
            *("load s", "warm-up s", "logits off", "flips", "$ per 1M texts"),
        )
        found += [
            f"### Engines: {line['model'].partition(' from ')[0]}, {line['num_threads']} threads; {device(line)}",
            "",
            f"torch {environment['torch']}, commit {str(environment['commit'])[:10]}, {line['measured'][:10]}. "
            f"{line['num_texts']:,} texts a turn, {line['rounds']} rounds; {line['busy_share_at_start']:.0%} of the "
            f"CPUs busy at the start." + ("" if usd_per_hour is None else f" $ at {usd_per_hour:g} an hour."),
            *("", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"),
        ]
        for one in line["contenders"]:
            if one["texts_per_s"] is None:
                found.append(f"| {one['name']} | not run: {one['not_run']} " + "| " * (len(columns) - 2) + "|")
                continue
            rate, times = one["texts_per_s"], one["ours_is_times_as_fast"]
            cells = (
                *(one["name"], one["precision"], number(rate["median"])),
                f"{number(rate['min'])} to {number(rate['max'])}",
                "" if times is None or one["name"] == "bertwright" else f"{times:.2f} ×",
                gigabytes(one),
                *("" if alone is None else f"{alone['median']:.1f}" for alone in one["alone_ms"].values()),
                *(shown(one[name], form) for name, form in ENGINE_COLUMNS.items()),
            )
            found.append(f"| {' | '.join(cells)} |")
        found += ["", " ".join(line["ranking"]), ""]
    return found


def mlperf(lines: Iterable[dict[str, Any]]) -> list[str]:
    """LoadGen's scenarios: of each on a model and machine the longest valid run, of equal ones the last."""
    latest: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, Any]]] = {}
    for line in lines:
        for one in line["scenarios"]:
            threads = str(line["environment"].get("num_threads"))
            key = (str(line["official_shape"]), line["model"], device(line), threads, line["dtype"], one["scenario"])
            # A valid run of as long as another, or longer, replaces it.
            if key not in latest or (one["valid"], one["seconds"]) >= (
                latest[key][1]["valid"],
                latest[key][1]["seconds"],
            ):
                latest[key] = line, one
    if not latest:
        return []
    columns = ("model", "scenario", "LoadGen says", "result", "p50 ms", "p90 ms", "p99 ms", "at least", "machine")
    found = ["### MLPerf's load generator, unofficial", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for _, (line, one) in sorted(latest.items()):
        name = "MLPerf's shape: " if line["official_shape"] else ""
        unit = {"latency_p90_ms": "ms, 90th percentile", "samples_per_s": "samples/s"}[one["unit"]]
        value = "none" if one["value"] is None else f"{number(one['value'])} {unit}"
        # Of Offline's one query they tell only how long the whole took.
        told = {} if one["scenario"] == "Offline" else one["latency_ms"]
        latencies = [f"{told[part]:,.1f}" if part in told else "" for part in PERCENTILES]
        cells: tuple[str, ...] = (
            f"{name}{line['model'].partition(' from ')[0]}",
            one["scenario"],
            f"`{one['result_line']}`",
            value,
        )
        cells = (*cells, *latencies, f"{one['seconds']:g} s", device(line))
        found.append(f"| {' | '.join(cells)} |")
    return [*found, ""]


def shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def device(line: dict[str, Any]) -> str:
    return str(line["environment"].get("gpu") or line["environment"]["cpu"])


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def gigabytes(one: dict[str, Any]) -> str:
    held = one["peak_gpu_bytes"] or one["peak_bytes"]
    return "" if held is None else f"{held / 1e9:.2f} GB"


def quality(lines: list[dict[str, Any]]) -> list[str]:
    """Means over seeds, with their standard deviations, and whether the differences are within bounds."""
    groups: dict[tuple[str, int | None], dict[str, dict[int, dict[str, Any]]]] = {}
    for line in lines:
        if line["case"] == "quality" and "table" not in line:
            contenders = groups.setdefault((line["task"], line["num_texts_asked"]), {})
            contenders.setdefault(line["contender"], {})[line["seed"]] = line  # the last of a seed counts
    found = []
    for (task, num_texts), by_seed in sorted(groups.items(), key=str):
        contenders = {name: list(seeds.values()) for name, seeds in by_seed.items()}
        rows = "all texts" if num_texts is None else f"the first {num_texts:,} texts of each file"
        found += [f"### Quality: all-MiniLM-L6-v2, {task}", "", f"One epoch, batch 32, {rows}; judged in float32.", ""]
        metrics = list(next(iter(contenders.values()))[0]["metrics"])
        found += [f"| contender | seeds | {' | '.join(metrics)} |", "|---|---|" + "---|" * len(metrics)]
        for name in ("ours", "ours_float32", "trainer"):
            if name in contenders:
                values = {m: [line["metrics"][m] for line in contenders[name]] for m in metrics}
                cells = " | ".join(f"{statistics.mean(v):.4f} ± {deviation(v):.4f}" for v in values.values())
                found.append(f"| {name} | {len(contenders[name])} | {cells} |")
        found.append("")
        for other in ("ours_float32", "trainer"):
            if "ours" in contenders and other in contenders:
                found += [difference(contenders["ours"], contenders[other], metric, other) for metric in metrics]
        found.append("")
    return found


def quality_beside_trainer(lines: list[dict[str, Any]]) -> list[str]:
    """The two tables of benchmarks/peers/quality.py: with the same settings, and each with its own."""
    same, own = (quality_rows(lines, table) for table in ("same", "own"))
    found = []
    if same:
        found += ["### Quality with the same settings: all-MiniLM-L6-v2", ""]
        found += ["| task | epochs | metric | bertwright | Trainer | difference | bound | |", "|---" * 8 + "|"]
        found += [row for task, sides in same.items() if (row := same_settings_row(task, sides))]
        found.append("")
    if own:
        found += ["### Quality with each library's own settings: all-MiniLM-L6-v2", ""]
        found += [
            "`--recipe best` beside Trainer with its default hyperparameters, and beside these in a training by "
            "bertwright. "
            "Differences are over the seeds that both have; none was tested, and so few seeds tell little apart.",
            "",
            "| task | metric | `best` | Trainer's defaults | difference | | the same by bertwright | difference | |",
            "|---" * 9 + "|",
        ]
        found += [row for task, sides in own.items() if (row := own_settings_row(task, sides))]
        found.append("")
    return found


Sides = dict[str, dict[int, dict[str, Any]]]
"""Of each contender, the line of each seed."""


def quality_rows(lines: list[dict[str, Any]], table: str) -> dict[str, Sides]:
    """Of each task what was measured; of several lines of a seed the last counts."""
    rows: dict[str, Sides] = {}
    for line in lines:
        if line["case"] == "quality" and line.get("table") == table:
            rows.setdefault(line["task"], {}).setdefault(line["contender"], {})[line["seed"]] = line
    return rows


def values_of(sides: Sides, contender: str) -> list[float]:
    """The metric of each seed."""
    return [line["metrics"][line["row"]["metric"]] for line in sides.get(contender, {}).values()]


def mean_and_spread(values: list[float]) -> str:
    spread = f" ± {deviation(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread} ({len(values)})"


def same_settings_row(task: str, sides: Sides) -> str | None:
    """A task's means and deviations over seeds, and whether ours is as good as asked for.

    That is: not below theirs by more than two standard errors, or 0.01 of accuracy, or 0.003 of the AUC, whichever is
    the most.
    """
    one, two = values_of(sides, "ours"), values_of(sides, "trainer")
    if not one or not two:
        return None
    row = next(iter(sides["ours"].values()))["row"]
    error = (deviation(one) ** 2 / len(one) + deviation(two) ** 2 / len(two)) ** 0.5
    gap = statistics.mean(one) - statistics.mean(two)
    bound = -max(2 * error, 0.003 if row["metric"] == "roc_auc" else 0.01)
    kept = "kept" if gap > bound else "NOT KEPT"
    cells = [task, f"{row['epochs']:g}", row["metric"], mean_and_spread(one), mean_and_spread(two)]
    return f"| {' | '.join(cells)} | {gap:+.4f} | > {bound:.4f} | {kept} |"


def own_settings_row(task: str, sides: Sides) -> str | None:
    """A task's means and deviations, and which mean is higher over the seeds that both have, which is no test."""
    if not values_of(sides, "ours"):
        return None
    cells = [task, next(iter(sides["ours"].values()))["row"]["metric"], mean_and_spread(values_of(sides, "ours"))]
    for other in ("trainer", "defaults"):
        theirs = values_of(sides, other)
        if not theirs:
            cells += ["not measured", "", ""]
            continue
        shared = [seed for seed in sides["ours"] if seed in sides[other]]
        both = {name: {seed: sides[name][seed] for seed in shared} for name in ("ours", other)}
        gap = statistics.mean(values_of(both, "ours")) - statistics.mean(values_of(both, other))
        which = "higher" if gap > 0 else "lower" if gap < 0 else "the same"
        seeds = f"{len(shared)} seed" + ("s" if len(shared) > 1 else "")
        cells += [mean_and_spread(theirs), f"{gap:+.4f}", f"{which}: {seeds}, not tested"]
    return f"| {' | '.join(cells)} |"


def difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], metric: str, other: str) -> str:
    one, two = ([line["metrics"][metric] for line in lines] for lines in (ours, theirs))
    error = (deviation(one) ** 2 / len(one) + deviation(two) ** 2 / len(two)) ** 0.5
    gap, bound = statistics.mean(one) - statistics.mean(two), max(2 * error, 0.005)
    within = "within" if abs(gap) <= bound else "OUTSIDE"
    return f"- {metric}, ours minus {other}: {gap:+.4f}, {within} max(2 standard errors, 0.005) = {bound:.4f}."


def pretrained(lines: list[dict[str, Any]]) -> list[str]:
    """What pretraining and distilling gain: the lines of pretrained.py."""
    titles = {
        "start": "Fine-tuned from our miniatures, beside random weights",
        "intask": "After pretraining on reviews without labels",
        "distill": "Taught by all-MiniLM-L6-v2, beside learning alone",
    }
    found = pretrainings({line["contender"]: line for line in lines if line["table"] == "record"})
    for table, title in titles.items():
        seeds: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        differences: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for line in lines:
            if line["table"] == table and "seed" in line:
                seeds.setdefault((line["task"], line["contender"]), {})[line["seed"]] = line
            elif line["table"] == table:
                differences.setdefault((line["task"], line["contender"]), {})[line["beside"]] = line
        if not seeds:
            continue
        found += [f"### {title}", "", "| task | model | metric | mean ± sd (seeds) | beside | difference | 95 % | |"]
        found.append("|---" * 8 + "|")
        for (task, name), of_seeds in sorted(seeds.items()):
            metric = next(iter(next(iter(of_seeds.values()))["metrics"]))
            values = [line["metrics"][metric] for line in of_seeds.values()]
            cells = [task, name, metric, f"{statistics.mean(values):.4f} ± {deviation(values):.4f} ({len(values)})"]
            others = list(differences.get((task, name), {}).values()) or [None]
            found += [f"| {' | '.join(cells + beside(other))} |" for other in others]
        found.append("")
    return found


def pretrainings(lines: dict[str, dict[str, Any]]) -> list[str]:
    """What each pretraining came to."""
    if not lines:
        return []
    columns = ("name", "from", "words of", "words", "budget", "learning rate", "tokens a step", "steps", "tokens seen")
    columns += ("held-out loss", "perplexity", "masked accuracy")
    found = ["### Our pretrainings", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, line in lines.items():
        settings, held_out = line["settings"], line["metrics"]["validation"]
        cells = (
            *(name, settings["model"], settings["word_embeddings"] or "its own"),
            "frozen" if settings["freeze_word_embeddings"] else "learning",
            *(settings["budget"], f"{settings['learning_rate']:g}", f"{settings['batch_tokens']:,}"),
            *(f"{line['steps']:,}", f"{line['data']['tokens_learnt_from']:,}"),
            *(f"{held_out['loss']:.4f}", f"{held_out['perplexity']:.1f}", f"{held_out['masked_accuracy']:.4f}"),
        )
        found.append(f"| {' | '.join(cells)} |")
    return [*found, ""]


def beside(line: dict[str, Any] | None) -> list[str]:
    """The cells of a difference, of the model minus the other; empty ones where there is none."""
    if line is None:
        return [""] * 4
    one = line["difference"]
    sign = 1 if one["a"] == line["contender"] else -1  # compare() may have put them the other way round
    ends = sorted(sign * one[key] for key in ("low", "high")) if one["low"] is not None else None
    interval = "" if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}"
    kept = "above 0" if ends is not None and ends[0] > 0 else "NOT above 0"
    return [line["beside"], f"{sign * one['difference']:+.4f}", interval, kept]


def deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
