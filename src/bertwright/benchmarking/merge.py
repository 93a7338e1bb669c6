"""Results of many machines side by side: who tokenises, trains and scores how fast, and what a job costs on each.

Files of ``bertwright bench`` lines, from any machine, and folders of runs, which also know the quality. Torch is never
imported: the machine that compares needs none of what was compared.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bertwright import runs
from bertwright.benchmarking.result_lines import Rates, Spread, rates_of, read_lines
from bertwright.config import BenchMergeConfig
from bertwright.errors import RunError, UserError
from bertwright.progress import Reporter

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

    def seconds(self, job: Job) -> dict[str, float]:
        """Of each phase whose rate is known and, where all are, their sum as "total"."""
        found = {name: job.num_texts(name) / rate.texts_per_s.median for name, rate in self.rates.items()}
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
    found: dict[tuple[str, int | None], dict[str, list[tuple[Rates, str]]]] = {}
    quality: dict[tuple[str, int | None, str], tuple[str, float]] = {}
    for name in config.results:
        rates, metric = _rates_of_run(Path(name)) if Path(name).is_dir() else (list(_rates_of_file(Path(name))), None)
        for one in rates:
            key = (_base_name(one.model), one.max_length)
            found.setdefault(key, {}).setdefault(one.case, []).append((one, name))
            if metric is not None:
                quality[(*key, _machine_name(one))] = metric
    works = []
    for (model, max_length), by_case in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        work = _work(model, max_length, job, by_case)
        for machine in work.machines:
            machine.quality = quality.get((model, max_length, machine.name))
            for part, price in prices.items():
                if part.lower() in machine.name.lower():
                    machine.usd_per_hour = price
        work.machines.sort(key=lambda one: (one.usd_per_hour is None, one.usd_per_hour or 0.0, one.name))
        work.verdicts = verdicts(work.machines, job)
        works.append(work)
    names = [machine.name for work in works for machine in work.machines]
    for part in prices:
        if not any(part.lower() in name.lower() for name in names):
            raise UserError(f"--price {part!r}: no such machine; found {', '.join(sorted(set(names)))}")
    return works


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


def _rates_of_file(path: Path) -> Iterable[Rates]:
    lines = [line for line in read_lines(path) if line.get("case") in PHASES]
    if not lines:
        raise UserError(f"{path}: found no line of bench tokenize, train or infer, expected at least one")
    # A contender that failed, or was measured on no text of its own, is no result.
    return [rates_of(line, path) for line in lines]


def _rates_of_run(path: Path) -> tuple[list[Rates], tuple[str, float] | None]:
    """A finished run's rates as if they were benches, and its quality on the held-out texts."""
    run = runs.open_run(path)
    if run.result is None:
        raise UserError(f"{path} has not finished: there are no rates to set side by side")
    result, environment = run.result, run.environment
    found = []
    for phase in PHASES:
        rate = (result.get("rates") or {}).get(f"{phase}_texts_per_s")
        if not isinstance(rate, int | float) or not rate > 0:
            continue
        found.append(
            Rates(
                case=phase,
                device=str(environment.get("gpu") or environment.get("cpu") or "unknown"),
                num_threads=environment.get("num_threads"),
                dtype=environment.get("dtype"),
                model=str(result.get("model") or ""),
                max_length=run.settings.get("max_length"),
                data=str(result["data"].get("train_sha256") or result["data"].get("test_sha256") or ""),
                num_texts=1,
                texts_per_s=Spread(rate, rate, rate),
                usd_per_hour=(result.get("cost") or {}).get("usd_per_hour"),
                measured=run.started,
            )
        )
    held_out = (result["metrics"].get("test") or {}) or (result["metrics"].get("validation") or {})
    metric = next(((name, held_out[name]) for name in _QUALITY if held_out.get(name) is not None), None)
    return found, metric


def _base_name(model: str) -> str:
    """The model's name without what was said of where its weights are from, or what it was trained on."""
    return model.split(" from ")[0].split(", ")[0] or "unknown model"


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
            name = _machine_name(one)
            if one.data != chosen:
                left_out.append(f"{case} on {name}: measured on other texts ({Path(source).name})")
                continue
            machine = machines.setdefault(name, Machine(name))
            machine.rates[case] = one
            machine.usd_per_hour = one.usd_per_hour if one.usd_per_hour is not None else machine.usd_per_hour
            if Path(source).name not in machine.sources:
                machine.sources.append(Path(source).name)
    return Work(model, max_length, job, list(machines.values()), sorted(set(left_out)))


def verdicts(machines: Sequence[Machine], job: Job) -> list[str]:
    """For each machine and the next dearer one, whether the dearer one pays, in words."""
    priced = [one for one in machines if one.usd_per_hour is not None and "total" in one.seconds(job)]
    return [_verdict(cheap, dear, job) for cheap, dear in itertools.pairwise(priced)]


def _verdict(cheap: Machine, dear: Machine, job: Job) -> str:
    slow_s, fast_s = cheap.seconds(job)["total"], dear.seconds(job)["total"]
    assert cheap.usd_per_hour is not None
    assert dear.usd_per_hour is not None
    cheap_usd, dear_usd = cheap.usd_per_hour * slow_s / 3600, dear.usd_per_hour * fast_s / 3600
    price = f"{dear.usd_per_hour / cheap.usd_per_hour:.1f} times the price" if cheap.usd_per_hour else "a price"
    line = f"{dear.name} beside {cheap.name}: {price}, {slow_s / fast_s:.1f} times as fast. "
    if fast_s >= slow_s:
        return line + "The dearer machine never pays: it is not faster."
    if dear_usd <= cheap_usd:
        return line + f"The dearer machine pays always: the job costs {_usd(dear_usd)} on it, not {_usd(cheap_usd)}."
    hour = (dear_usd - cheap_usd) / ((slow_s - fast_s) / 3600)
    return line + (
        f"The dearer machine pays when an hour less of waiting is worth {_usd(hour)} or more: it saves "
        f"{(slow_s - fast_s) / 3600:.2f} h and costs {_usd(dear_usd - cheap_usd)} more."
    )


def _usd(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.1 else f"${value:.4f}"
