"""Results of many machines side by side: who tokenises, trains and scores how fast, and what a job costs on each.

Files of ``bertwright bench`` lines, from any machine, and folders of runs, which also know the quality. Torch is never
imported: the machine that compares needs none of what was compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bertwright import runs
from bertwright.benchmarking.merge_verdicts import verdicts
from bertwright.benchmarking.recorded_rates import PHASES, rates_of_run
from bertwright.benchmarking.result_lines import BUSY_SHARE, Rates, has_rates, plain, rates_of, read_lines
from bertwright.config.bench import BenchMergeConfig
from bertwright.errors import RunError, UserError
from bertwright.progress import Reporter


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
        name: the device with its threads, after the name that its owner gave it; a price, where that alone tells
            machines apart.
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
        remarks: what the reader of the rates must know, in words.
        left_out: what could not be set beside the rest, in words.
        verdicts: which machine pays, in words; see ``verdicts``.
    """

    model: str
    max_length: int | None
    job: Job
    machines: list[Machine]
    remarks: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        base = self.machines[0]
        return {
            "model": self.model,
            "max_length": self.max_length,
            "job": asdict(self.job),
            "machines": [_machine_record(machine, base, self.job) for machine in self.machines],
            "remarks": self.remarks,
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


@dataclass(frozen=True)
class _Line:
    """A rate, the name of the machine that it is of, the file that it is from, and a run's quality."""

    rates: Rates
    machine: str
    source: str
    quality: tuple[str, float] | None = None


_Key = tuple[str, str, int | None]
"""The same work: the model, what is unusual about how it is used, and the most tokens of a text."""


def merge(config: BenchMergeConfig) -> list[Work]:
    """Put the files and runs of ``config`` side by side: one work for each model and length.

    Raises:
        UserError: a file that is no result, or a price for a machine that is not among them.
    """
    job = Job(config.train_texts, config.epochs, config.infer_texts)
    lines = []
    for name in config.results:
        path = Path(name)
        rates, quality = rates_of_run(path) if path.is_dir() else (_rates_of_file(path), None)
        lines += [_Line(one, _machine_name(one), plain(path.name), quality) for one in rates]
    if not lines:
        raise UserError("found no rates: no line of bench tokenize, train or infer in which bertwright ran")
    lines = _apart_by_price(_priced(lines, _given_prices(config.price)))
    by_work: dict[_Key, list[_Line]] = {}
    for line in dict.fromkeys(sorted(lines, key=lambda line: line.rates.measured)):  # one read twice counts once
        by_work.setdefault((_base_name(line.rates.model), line.rates.how, line.rates.max_length), []).append(line)
    prices = _prices(lines)
    return [
        _work(key, job, some, prices)
        for key, some in sorted(by_work.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or 0))
    ]


def _priced(lines: Sequence[_Line], given: Mapping[str, float]) -> list[_Line]:
    """The lines with the price that was given for their machine.

    Raises:
        UserError: a price is for none of them.
    """
    names = sorted({line.machine for line in lines})
    for part in given:
        if not any(_names(part, name) for name in names):
            raise UserError(f"--price {part!r}: no such machine; found {', '.join(names)}")
    found = []
    for line in lines:
        for part, price in given.items():
            if _names(part, line.machine):
                line = replace(line, rates=replace(line.rates, usd_per_hour=price))
        found.append(line)
    return found


def _apart_by_price(lines: Sequence[_Line]) -> list[_Line]:
    """Devices that are alike are machines apart where their prices differ and their owner has not named them.

    A line without a price is then of none of these: whose it is cannot be told.
    """
    prices: dict[str, set[float]] = {}
    for line in lines:
        if line.rates.usd_per_hour is not None and not line.rates.machine:
            prices.setdefault(line.machine, set()).add(line.rates.usd_per_hour)
    return [
        replace(line, machine=f"{line.machine} at {_price_words(price)} an hour")
        if (price := line.rates.usd_per_hour) is not None and not line.rates.machine and len(prices[line.machine]) > 1
        else line
        for line in lines
    ]


def _price_words(price: float) -> str:
    return f"${price:.2f}" if float(f"{price:.2f}") == price else f"${price!r}"


def _prices(lines: Iterable[_Line]) -> dict[str, float]:
    """By machine, the newest price."""
    ordered = sorted(lines, key=lambda line: line.rates.measured)
    return {line.machine: line.rates.usd_per_hour for line in ordered if line.rates.usd_per_hour is not None}


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


def _base_name(model: str) -> str:
    """The model's name without its owner, where its weights are from, or what it was trained on."""
    name = model.split(" from ")[0].split(", ")[0]
    return (name if name.startswith("folder ") else name.rpartition("/")[2]) or "unknown model"


def _machine_name(rates: Rates) -> str:
    threads = f", {rates.num_threads} thread{'' if rates.num_threads == 1 else 's'}" if rates.num_threads else ""
    return f"{rates.place}{threads}"


def _work(key: _Key, job: Job, lines: Sequence[_Line], prices: Mapping[str, float]) -> Work:
    """The work of ``lines``, from the oldest to the newest: of each machine the newest that is of the same work."""
    model, how, max_length = key
    machines: dict[str, Machine] = {}
    remarks, left_out = [], []
    for case in PHASES:
        of_case = [line for line in lines if line.rates.case == case]
        if not of_case:
            continue
        chosen = _most_shared(of_case)
        kept: dict[str, _Line] = {}
        for line in of_case:
            if (why := _why_not(line.rates, chosen)) is not None:
                left_out.append(f"{case} on {line.machine}: {why} ({line.source})")
                continue
            if (older := kept.get(line.machine)) is not None:
                left_out.append(_replaced(older, line))
            kept[line.machine] = line
        for name, line in kept.items():
            machine = machines.setdefault(name, Machine(name))
            machine.rates[case] = line.rates
            if line.source not in machine.sources:
                machine.sources.append(line.source)
        remarks += _remarks(case, list(kept.values()))
    for line in lines:
        if line.quality is not None:
            machine = machines.setdefault(line.machine, Machine(line.machine))
            machine.quality = line.quality
            if line.source not in machine.sources:
                machine.sources.append(line.source)
    for machine in machines.values():
        machine.usd_per_hour = prices.get(machine.name)
    found = sorted(
        machines.values(), key=lambda one: (not one.rates, one.usd_per_hour is None, one.usd_per_hour or 0.0, one.name)
    )
    name = f"{model}, {how}" if how else model
    return Work(name, max_length, job, found, remarks, sorted(set(left_out)), verdicts(found, job))


def _same_work(rates: Rates) -> tuple[bool, str, int | None]:
    """What lines of one case must have in common to stand in one column: training in other batches is other work."""
    return rates.is_run, rates.data, rates.batch_size if rates.case == "train" else None


def _most_shared(lines: Sequence[_Line]) -> Rates:
    """The rates whose work most machines have done; of several, benches before runs, and the newest."""
    num_machines: dict[tuple[bool, str, int | None], set[str]] = {}
    for line in lines:
        num_machines.setdefault(_same_work(line.rates), set()).add(line.machine)
    best = max(
        lines, key=lambda line: (len(num_machines[_same_work(line.rates)]), not line.rates.is_run, line.rates.measured)
    )
    return best.rates


def _why_not(rates: Rates, chosen: Rates) -> str | None:
    """Why ``rates`` are not beside ``chosen``; None: they are."""
    if rates.is_run != chosen.is_run:
        return f"{_kind(rates)}, not {_kind(chosen)}"
    if rates.data != chosen.data:
        return "measured on other texts"
    if _same_work(rates) != _same_work(chosen):
        return f"measured in batches of {rates.batch_size or 'no known size'}, not {chosen.batch_size or 'that'}"
    return None


def _kind(rates: Rates) -> str:
    return "a run's rate" if rates.is_run else "a benchmark's rate"


def _replaced(older: _Line, newer: _Line) -> str:
    line, dtypes = f"{older.rates.case} on {older.machine}", (older.rates.dtype, newer.rates.dtype)
    if dtypes[0] != dtypes[1]:
        return f"{line} in {dtypes[0]}: measured again later in {dtypes[1]} ({older.source})"
    return f"{line}: measured again later ({older.source})"


def _remarks(case: str, kept: Sequence[_Line]) -> list[str]:
    """What is to be known of the rates of a case."""
    found = []
    by_number: dict[int, list[str]] = {}
    for line in sorted(kept, key=lambda line: (line.rates.num_texts, line.machine)):
        by_number.setdefault(line.rates.num_texts, []).append(line.machine)
    if len(by_number) > 1:
        shown = [f"of {number:,} on {' and '.join(names)}" for number, names in by_number.items()]
        shown[0] = shown[0].replace(" on ", " texts on ", 1)
        found.append(f"{case}: {', '.join(shown)}")
    if any(line.rates.is_run for line in kept):
        found.append(f"{case}: rates of whole runs, not of a benchmark's turns")
    found += [
        f"{case} on {line.machine}: {line.rates.busy_share:.0%} of its CPUs were busy when it was measured"
        for line in kept
        if line.rates.busy_share is not None and line.rates.busy_share > BUSY_SHARE
    ]
    return found
