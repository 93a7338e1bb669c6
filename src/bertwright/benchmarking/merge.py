"""Results of many machines side by side: who tokenises, trains and scores how fast, and what a job costs on each.

Files of ``bertwright bench`` lines, from any machine, and folders of runs, which also know the quality. Torch is never
imported: the machine that compares needs none of what was compared.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertwright import runs
from bertwright.benchmarking.result_lines import Rates, Spread, has_rates, rates_of, read_lines
from bertwright.config.bench import BenchMergeConfig
from bertwright.errors import RunError, UserError
from bertwright.progress import Reporter, duration

PHASES = ("tokenize", "train", "infer")
# What of a run's quality is shown: the first of these that it has.
_QUALITY = ("roc_auc", "accuracy", "pearson")


@dataclass(frozen=True)
class Job:
    """What is to be done: so many texts learnt from, so many times, and so many scored; all are tokenised once."""

    train_texts: int
    epochs: float
    infer_texts: int

    def words(self) -> str:
        """The job in a few words."""
        times = "once" if self.epochs == 1 else f"{self.epochs:g} times"
        return f"{self.train_texts:,} texts learnt from {times}, {self.infer_texts:,} scored"

    def num_texts(self, phase: str) -> float:
        return {
            "tokenize": self.train_texts + self.infer_texts,
            "train": self.train_texts * self.epochs,
            "infer": self.infer_texts,
        }[phase]


@dataclass
class Machine:
    """What is known of one machine.

    Attributes:
        name: the device, with its threads.
        rates: texts a second, by phase.
        quality: name and value of a run's metric; None: only benches are known.
        usd_per_hour: None: no price is known.
        sources: the files that this is from.
    """

    name: str
    rates: dict[str, Rates] = field(default_factory=dict)
    quality: tuple[str, float] | None = None
    usd_per_hour: float | None = None
    sources: list[str] = field(default_factory=list)

    def seconds(self, job: Job, which: Literal["median", "min", "max"] = "median") -> dict[str, float]:
        """Of each phase whose rate is known and, where all are, their sum as "total"; by ``which`` rate."""
        found = {name: job.num_texts(name) / getattr(rate.texts_per_s, which) for name, rate in self.rates.items()}
        if all(name in found for name in PHASES):
            found["total"] = sum(found.values())
        return found


@dataclass
class Work:
    """The same work on several machines.

    Attributes:
        model, max_length: what all of them did.
        machines: the cheapest first, those without a price last.
        left_out: what could not be set beside the rest, in words.
        verdicts: which machine pays, in words; see ``verdicts``.
    """

    model: str
    max_length: int | None
    job: Job
    machines: list[Machine]
    left_out: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        base = self.machines[0]
        return {
            "model": self.model,
            "max_length": self.max_length,
            "job": asdict(self.job),
            "machines": [_machine_record(machine, base, self.job) for machine in self.machines],
            "left_out": self.left_out,
            "verdicts": self.verdicts,
        }


def _machine_record(machine: Machine, base: Machine, job: Job) -> dict[str, Any]:
    seconds = machine.seconds(job)
    total, price = seconds.get("total"), machine.usd_per_hour
    return {
        "name": machine.name,
        "usd_per_hour": price,
        "texts_per_s": {name: asdict(rate.texts_per_s) for name, rate in machine.rates.items()},
        "times_as_fast": {
            name: rate.texts_per_s.median / base.rates[name].texts_per_s.median
            for name, rate in machine.rates.items()
            if name in base.rates
        },
        "seconds": seconds,
        "usd": None if total is None or price is None else total * price / 3600,
        "quality": None if machine.quality is None else {machine.quality[0]: machine.quality[1]},
        "measured": sorted({rate.measured[:10] for rate in machine.rates.values() if rate.measured}),
        "sources": machine.sources,
    }


def run_merge(config: BenchMergeConfig, reporter: Reporter) -> dict[str, Any]:
    """The act: shown, written where asked for, and given as a record.

    Raises:
        UserError: as ``merge``; or an output that is in the way.
    """
    from bertwright.benchmarking.show_merge import show_works

    for flag in ("output", "report"):
        if (path := getattr(config, flag)) is not None:
            _check_free(Path(path), flag, config.overwrite)
    works = merge(config)
    show_works(works, reporter)
    result = {"act": "merge", "works": [work.record() for work in works]}
    if config.report is not None:
        from bertwright.benchmarking.merge_page import merge_page
        from bertwright.reporting.page import write_page

        write_page(merge_page(works), Path(config.report))
        reporter.say(f"report: {config.report}")
    if config.output is not None:
        runs.write_json(Path(config.output), result)
    return result


def _check_free(path: Path, flag: str, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise RunError(f"{path} exists; pass another --{flag}, or --overwrite to replace it")
    if not path.absolute().parent.is_dir():
        raise RunError(f"{path}: there is no folder {path.absolute().parent}")


def merge(config: BenchMergeConfig) -> list[Work]:
    """Put the files and runs of ``config`` side by side: one work for each model and length.

    Raises:
        UserError: a file that is no result, or a price for a machine that is not among them.
    """
    job = Job(config.train_texts, config.epochs, config.infer_texts)
    prices = _given_prices(config.price)
    found: dict[_Key, dict[str, list[tuple[Rates, str]]]] = {}
    quality: dict[tuple[_Key, str], tuple[str, float]] = {}
    for name in config.results:
        rates, metric = _rates_of_run(Path(name)) if Path(name).is_dir() else (_rates_of_file(Path(name)), None)
        for one in rates:
            key = (_base_name(one.model), one.how, one.max_length)
            found.setdefault(key, {}).setdefault(one.case, []).append((one, name))
            if metric is not None:
                quality[key, _machine_name(one)] = metric
    if not found:
        raise UserError("found no rates: no line of bench tokenize, train or infer in which bertwright ran")
    works = []
    for key, by_case in sorted(found.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or 0)):
        model, how, max_length = key
        work = _work(f"{model}, {how}" if how else model, max_length, job, by_case)
        for machine in work.machines:
            machine.quality = quality.get((key, machine.name))
            for part, price in prices.items():
                if _names(part, machine.name):
                    machine.usd_per_hour = price
        work.machines.sort(key=lambda one: (one.usd_per_hour is None, one.usd_per_hour or 0.0, one.name))
        work.verdicts = verdicts(work.machines, job)
        works.append(work)
    names = [machine.name for work in works for machine in work.machines]
    for part in prices:
        if not any(_names(part, name) for name in names):
            raise UserError(f"--price {part!r}: no such machine; found {', '.join(sorted(set(names)))}")
    return works


_Key = tuple[str, str, int | None]
"""The same work: the model, what is unusual about how it is used, and the most tokens of a text."""


def _names(part: str, machine: str) -> bool:
    """Whether ``part`` stands in the machine's name as whole words: "L4" is not "L40S"."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", machine, re.IGNORECASE) is not None


def _given_prices(given: Sequence[str]) -> dict[str, float]:
    prices = {}
    for one in given:
        name, _, value = one.rpartition("=")
        try:
            price = float(value)
        except ValueError:
            price = -1.0
        if not name or not 0 <= price < 1e7:
            raise UserError(f"--price: found {one!r}, expected MACHINE=USD, such as H200=4.29")
        prices[name] = price
    return prices


def _rates_of_file(path: Path) -> list[Rates]:
    lines = read_lines(path)
    if not lines or not all("case" in line for line in lines):
        raise UserError(f"{path}: found no line of bench, expected lines of bench tokenize, train or infer")
    return [rates_of(line, path) for line in lines if line["case"] in PHASES and has_rates(line)]


def _rates_of_run(path: Path) -> tuple[list[Rates], tuple[str, float] | None]:
    """A finished run's rates as if they were benches, and its quality on the held-out texts.

    Raises:
        UserError: it is none that has finished, or the record holds what no run writes.
    """
    with runs.reading_records(path):
        return _recorded_rates(path)


def _recorded_rates(path: Path) -> tuple[list[Rates], tuple[str, float] | None]:
    run = runs.open_run(path)
    if run.result is None:
        raise UserError(f"{path} has not finished: there are no rates to set side by side")
    result, environment = run.result, run.environment
    data, settings = result["data"], run.settings
    hashes = {
        "tokenize": f"{data.get('train_sha256')} {data.get('test_sha256')}",
        "train": str(data.get("train_sha256")),
        "infer": str(data.get("test_sha256") or f"held out of {data.get('train_sha256')}"),
    }
    found = []
    for phase in PHASES:
        rate = (result.get("rates") or {}).get(f"{phase}_texts_per_s")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            continue
        found.append(
            Rates(
                case=phase,
                device=str(environment.get("gpu") or environment.get("cpu") or "unknown"),
                num_threads=environment.get("num_threads"),
                dtype=environment.get("dtype"),
                model=str(result.get("model") or ""),
                max_length=settings.get("max_length"),
                how=_how(settings),
                data=hashes[phase],
                num_texts=1,
                texts_per_s=Spread(rate, rate, rate),
                usd_per_hour=(result.get("cost") or {}).get("usd_per_hour"),
                measured=run.started,
            )
        )
    if not found:
        raise UserError(f"{path}: a run of {run.act} has no rates of tokenising, training or scoring texts")
    held_out = (result["metrics"].get("test") or {}) or (result["metrics"].get("validation") or {})
    metric = next(((name, held_out[name]) for name in _QUALITY if held_out.get(name) is not None), None)
    return found, metric


def _how(settings: Mapping[str, Any]) -> str:
    """What is unusual about a run's work."""
    words = []
    if settings.get("freeze_encoder"):
        words.append("frozen encoder")
    if settings.get("pooling") == "mean":
        words.append("mean pooling")
    if settings.get("long_texts") not in (None, "head"):
        words.append(f"long texts by {settings['long_texts']}")
    return ", ".join(words)


def _base_name(model: str) -> str:
    """The model's name without its owner, where its weights are from, or what it was trained on."""
    name = model.split(" from ")[0].split(", ")[0]
    return (name if name.startswith("folder ") else name.rpartition("/")[2]) or "unknown model"


def _machine_name(rates: Rates) -> str:
    threads = f", {rates.num_threads} thread{'' if rates.num_threads == 1 else 's'}" if rates.num_threads else ""
    return f"{rates.device}{threads}"


def _work(model: str, max_length: int | None, job: Job, by_case: Mapping[str, list[tuple[Rates, str]]]) -> Work:
    """Of each case the data that most machines were measured on, of each machine the newest line."""
    machines: dict[str, Machine] = {}
    left_out = []
    for case in PHASES:
        lines = by_case.get(case, [])
        if not lines:
            continue
        shared = Counter(
            {
                data: len({_machine_name(one) for one, _ in lines if one.data == data})
                for data in {one.data for one, _ in lines}
            }
        )
        newest = {data: max(one.measured for one, _ in lines if one.data == data) for data in shared}
        chosen = max(shared, key=lambda data: (shared[data], newest[data]))
        for one, source in sorted(lines, key=lambda line: line[0].measured):
            name, where = _machine_name(one), Path(source).name
            if one.data != chosen:
                left_out.append(f"{case} on {name}: measured on other texts ({where})")
                continue
            machine = machines.setdefault(name, Machine(name))
            older = machine.rates.get(case)
            if older is not None and older.dtype != one.dtype:
                left_out.append(f"{case} on {name} in {older.dtype}: measured before that in {one.dtype}")
            machine.rates[case] = one
            machine.usd_per_hour = one.usd_per_hour if one.usd_per_hour is not None else machine.usd_per_hour
            if where not in machine.sources:
                machine.sources.append(where)
    return Work(model, max_length, job, list(machines.values()), sorted(set(left_out)))


def verdicts(machines: Sequence[Machine], job: Job) -> list[str]:
    """Which machine pays, in words: on which the job costs least, what dearer and faster ones buy, and which never pay.

    Machines without a price, or without all rates, are not judged.
    """
    judged = [one for one in machines if one.usd_per_hour is not None and "total" in one.seconds(job)]
    if len(judged) < 2:
        return []
    front: list[Machine] = []
    for one in sorted(judged, key=lambda one: (_job_usd(one, job), one.seconds(job)["total"])):
        if not front or one.seconds(job)["total"] < front[-1].seconds(job)["total"]:
            front.append(one)
    cheapest = front[0]
    found = [
        f"The job costs least on {cheapest.name}: {usd_words(_job_usd(cheapest, job))} in "
        f"{duration(cheapest.seconds(job)['total'])}."
    ]
    found += [_faster(cheap, dear, job) for cheap, dear in itertools.pairwise(front)]
    for one in judged:
        if one not in front:
            better = next(other for other in front if _is_as_good(other, one, job))
            price = usd_words(_job_usd(one, job))
            found.append(
                f"{one.name} does not pay: the job costs {price} there, and {better.name} is no slower and no dearer"
                f"{_spread_words(better, one, job)}."
            )
    return found


def _job_usd(machine: Machine, job: Job) -> float:
    assert machine.usd_per_hour is not None
    return machine.usd_per_hour * machine.seconds(job)["total"] / 3600


def _is_as_good(one: Machine, other: Machine, job: Job) -> bool:
    return _job_usd(one, job) <= _job_usd(other, job) and one.seconds(job)["total"] <= other.seconds(job)["total"]


def _faster(cheap: Machine, dear: Machine, job: Job) -> str:
    """What the faster of two machines buys, on which the job costs more."""
    saved_h = (cheap.seconds(job)["total"] - dear.seconds(job)["total"]) / 3600
    more_usd = _job_usd(dear, job) - _job_usd(cheap, job)
    times = cheap.seconds(job)["total"] / dear.seconds(job)["total"]
    line = f"{dear.name} is {times:.1f} times as fast as {cheap.name}{_spread_words(dear, cheap, job)}. "
    if more_usd <= 0:
        return line + "It costs no more."
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
