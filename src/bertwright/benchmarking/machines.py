"""How fast other machines are beside this one: by published results, or by bench lines that were measured there.

``throughputs.csv`` holds one rate for each kind of accelerator, and for a core of each kind of CPU:

    name            an accelerator of the price table begins with it, or a CPU's words hold it
    unit            "accelerator" or "core": what the rate is of
    memory_gib      of an accelerator, as its data sheet has it; where a price names another ("V100-32GB"), that holds
    samples_per_s   of BERT-large on questions of 384 tokens (MLPerf inference, bert-99, Offline), or as if so
    spread          by what factor another job may be faster or slower than this makes one think
    kind, source    "published", or "derived" from such or from a like machine's; and where it is from

Only the ratio of two rates is used. The rates are of other software, of 8-bit arithmetic and of another model, and they
are no result of MLPerf's for this job: what comes out is a rough, unofficial guess, and says so.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from bertwright.benchmarking.forecast import Estimate, Needs, usd
from bertwright.benchmarking.result_lines import Rates, Spread, damaged, finite, has_rates, rates_of, read_lines
from bertwright.errors import UserError
from bertwright.prices import Price

# Clouds sell a core of these as two virtual CPUs.
_CPUS_PER_CORE = 2
# One job is not spread over any number of cores as the independent questions of MLPerf are. Nobody has measured how far
# it is: beyond so many, the slow end is as if the others did nothing.
MOST_CORES = 32
# Whoever claims more, or less, is not believed: an H200 does some 1e15 operations a second.
_MOST_OPERATIONS_PER_S, _LEAST_OPERATIONS_PER_S = 1e21, 1.0
_MOST_USD_PER_HOUR, _MOST_THREADS = 1e7, 1e6


@dataclass(frozen=True)
class Throughput:
    """How fast a kind of accelerator, or a core of a kind of CPU, is; see the module's docstring."""

    name: str
    unit: str
    memory_gib: float | None
    samples_per_s: float
    spread: float
    kind: str
    source: str


@dataclass(frozen=True)
class Here:
    """This machine: its rate as the table has it, and where that is from; its cores, 0 where a GPU computes."""

    name: str
    samples_per_s: float
    source: str
    num_cores: int = 0


@dataclass(frozen=True)
class Elsewhere:
    """A job on another machine.

    Attributes:
        times_as_fast: as this one, in what the encoder computes.
        seconds: of the whole job, reading and tokenising as here.
        usd: what they cost there; None where the price is not known.
        kind, source: where ``times_as_fast`` is from.
        num_idle: accelerators of the machine that the job does not use.
        num_cores: that compute; 0 where an accelerator does, or where it is not known.
        fits: whether the memory of the accelerator, or of the machine without one, does; None: not known.
        doubt: the price's note where that calls it doubtful.
    """

    machine: str
    accelerator: str
    usd_per_hour: float | None
    times_as_fast: float
    seconds: Estimate
    usd: Estimate | None
    kind: str
    source: str
    as_of: str = ""
    num_idle: int = 0
    num_cores: int = 0
    memory_gib: float | None = None
    fits: bool | None = None
    doubt: str = ""

    def record(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "accelerator": self.accelerator,
            "usd_per_hour": self.usd_per_hour,
            "as_of": self.as_of,
            "times_as_fast": self.times_as_fast,
            "seconds": self.seconds.record(),
            "usd": None if self.usd is None else self.usd.record(),
            "kind": self.kind,
            "source": self.source,
            "num_idle": self.num_idle,
            "num_cores": self.num_cores,
            "memory_gib": self.memory_gib,
            "fits": self.fits,
            "doubt": self.doubt,
        }


def load_throughputs() -> list[Throughput]:
    """The table that comes with the package."""
    text = files("bertwright.benchmarking").joinpath("throughputs.csv").read_text(encoding="utf-8")
    return [
        Throughput(
            name=row["name"],
            unit=row["unit"],
            memory_gib=float(row["memory_gib"]) if row["memory_gib"] else None,
            samples_per_s=float(row["samples_per_s"]),
            spread=float(row["spread"]),
            kind=row["kind"],
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    ]


def this_machine(
    gpu: str | None,
    cpu_feature: str | None,
    num_cores: int,
    throughputs: Sequence[Throughput],
) -> Here | None:
    """This machine's place in the table: by its GPU's name, or by what its cores multiply; None: it has none there.

    Args:
        cpu_feature: as ``hardware.cpu_bfloat16_feature`` names it; None also where it is not used.
        num_cores: that compute, as ``cpus.num_usable_cores`` counts them: the table of prices is read as cores, too.
    """
    if gpu is not None:
        one = _most_alike(throughputs, gpu)
        return None if one is None else Here(gpu, one.samples_per_s, one.source)
    kinds = {"amx_bf16": "CPU with AMX", "avx512_bf16": "CPU with AVX512-BF16", None: "CPU without bfloat16"}
    name = kinds.get(cpu_feature)
    one = next((one for one in throughputs if one.name == name), None)
    if one is None:
        return None
    cores = "1 core" if num_cores == 1 else f"{num_cores} cores"
    return Here(f"{cores}, {name}", num_cores * one.samples_per_s, one.source, num_cores)


def throughput_of(price: Price, throughputs: Sequence[Throughput]) -> tuple[float, Throughput] | None:
    """The rate of a machine of the price table, of one accelerator or of all cores; None: not known.

    A training uses one accelerator, also where the machine has more.
    """
    if price.num_accelerators:
        one = _most_alike(throughputs, price.accelerator)
        return None if one is None else (one.samples_per_s, one)
    cores = [one for one in throughputs if one.unit == "core" and one.name in price.accelerator]
    if not cores or not price.num_cpus:
        return None
    return cores[0].samples_per_s * price.num_cpus / _CPUS_PER_CORE, cores[0]


def _memory_gib(accelerator: str, throughputs: Sequence[Throughput]) -> float | None:
    """An accelerator's memory: as its name has it, or else its data sheet."""
    named = sorted(_words(accelerator)[1])
    if named:
        return float(named[0].removesuffix("GB"))
    one = _most_alike(throughputs, accelerator)
    return None if one is None else one.memory_gib


def _most_alike(throughputs: Sequence[Throughput], accelerator: str) -> Throughput | None:
    """The accelerator whose words all stand in ``accelerator``, as drivers and sellers call it; of several, the one
    with the most.

    Its memory may be left out ("NVIDIA H100 PCIe"), but not be another. A part of a GPU is none.
    """
    found, found_memory = _words(accelerator)
    if "MIG" in found:
        return None

    def fits(one: Throughput) -> bool:
        words, memory = _words(one.name)
        return words <= found and (memory <= found_memory or not found_memory)

    fitting = [one for one in throughputs if one.unit == "accelerator" and fits(one)]
    return max(fitting, key=lambda one: len(_words(one.name)[0]), default=None)


def _words(name: str) -> tuple[set[str], set[str]]:
    """The words of an accelerator's name, and those of its memory, such as "80GB"."""
    words = {*re.split(r"[ -]+", name.upper())} - {"NVIDIA", "TESLA"}
    memory = {word for word in words if re.fullmatch(r"\d{1,6}GB", word, re.ASCII)}
    return words - memory, memory


def elsewhere(
    prices: Sequence[Price],
    here: Here,
    compute_s: Estimate,
    other_s: float,
    throughputs: Sequence[Throughput],
    needs: Needs,
) -> list[Elsewhere]:
    """The job on each machine whose rate is known: ``compute_s`` of its seconds scale with it, ``other_s`` do not.

    Where a machine has more cores than one job is sure to use, the slow end is as if the others did nothing; where this
    one has, the fast end is, since it then is slower than its rate.
    """
    found = []
    for price in prices:
        known = throughput_of(price, throughputs)
        if known is None:
            continue
        rate, one = known
        has_accelerator = price.num_accelerators > 0
        num_cores = 0 if has_accelerator else (price.num_cpus or 0) // _CPUS_PER_CORE
        memory_gib = _memory_gib(price.accelerator, throughputs) if has_accelerator else price.memory_gib
        seconds = _scaled(
            compute_s,
            other_s,
            rate / here.samples_per_s,
            fast=one.spread * max(1.0, here.num_cores / MOST_CORES),
            slow=one.spread * max(1.0, num_cores / MOST_CORES),
        )
        found.append(
            Elsewhere(
                machine=price.name,
                accelerator=price.accelerator,
                usd_per_hour=price.usd_per_hour,
                times_as_fast=rate / here.samples_per_s,
                seconds=seconds,
                usd=usd(seconds, price.usd_per_hour),
                kind=one.kind,
                source=one.source,
                as_of=price.as_of,
                num_idle=max(0, price.num_accelerators - 1),
                num_cores=num_cores,
                memory_gib=memory_gib,
                fits=needs.fit(memory_gib, has_accelerator),
                doubt=price.note if price.doubtful else "",
            )
        )
    return found


def _scaled(compute_s: Estimate, other_s: float, ratio: float, fast: float, slow: float) -> Estimate:
    """By ``fast`` the other machine may be faster than the ratio says, by ``slow`` slower.

    The uncertainty here and that of the ratio are independent factors: their logarithms add as squares do.
    """
    own = math.log(compute_s.high / compute_s.value) if compute_s.value > 0 else 0.0
    faster, slower = (math.exp(math.hypot(own, math.log(spread))) for spread in (fast, slow))
    value = compute_s.value / ratio
    return Estimate(other_s + value, other_s + value / faster, other_s + value * slower)


@dataclass(frozen=True)
class Measured:
    """A line of bench from another machine: useful operations a second, median, smallest and largest."""

    rates: Rates
    operations_per_s: Spread
    source: str

    def here(
        self,
        operations_per_s: float,
        compute_s: Estimate,
        other_s: float,
        throughputs: Sequence[Throughput],
        needs: Needs,
    ) -> Elsewhere:
        """The job there, whose useful operations a second were ``operations_per_s`` here."""
        memory_gib = _memory_gib(self.rates.device, throughputs)  # of a CPU's machine nothing is on record
        there, price = self.operations_per_s, self.rates.usd_per_hour
        seconds = Estimate(
            value=other_s + compute_s.value * operations_per_s / there.median,
            low=other_s + compute_s.low * operations_per_s / there.max,
            high=other_s + compute_s.high * operations_per_s / there.min,
        )
        return Elsewhere(
            machine=self.rates.place,
            accelerator=f"{self.rates.num_threads or '?'} threads, {self.rates.dtype or '?'}",
            usd_per_hour=price,
            times_as_fast=there.median / operations_per_s,
            seconds=seconds,
            usd=None if price is None else usd(seconds, price),
            kind="measured",
            source=self.source,
            memory_gib=memory_gib,
            fits=needs.fit(memory_gib, has_accelerator=True),
        )


def read_measured(paths: Sequence[str], act: str) -> list[Measured]:
    """The lines of ``bench train`` (``act`` "train") or ``bench infer`` in files from other machines.

    Raises:
        UserError: a file that cannot be read, or that holds no such line.
    """
    found = []
    for path in paths:
        lines = [line for line in read_lines(Path(path)) if line.get("case") == act and has_rates(line)]
        if not lines:
            raise UserError(f"{path}: found no line of bench {act}, expected at least one")
        for line in lines:
            rates = rates_of(line, path)
            texts = rates.texts_per_s
            try:
                whole = finite(line.get("useful_operations")) / rates.num_texts
                operations = Spread(whole * texts.median, whole * texts.min, whole * texts.max)
            except (ValueError, OverflowError):
                raise damaged(path) from None
            _check(rates, operations, path)
            found.append(Measured(rates, operations, f"{Path(path).name}, {rates.measured or 'undated'}"))
    return found


def _check(rates: Rates, operations_per_s: Spread, path: str) -> None:
    """Refuse what no machine does: what follows from it could be written into no plan.

    Raises:
        UserError: with what was found.
    """
    for found in (operations_per_s.median, operations_per_s.min, operations_per_s.max):
        if not _LEAST_OPERATIONS_PER_S <= found <= _MOST_OPERATIONS_PER_S:
            raise UserError(
                f"{path}: found {found:.3g} useful operations a second, expected {_LEAST_OPERATIONS_PER_S:g} to "
                f"{_MOST_OPERATIONS_PER_S:g}; is it a file of bertwright bench?"
            )
    if (rates.usd_per_hour or 0) >= _MOST_USD_PER_HOUR or (rates.num_threads or 0) >= _MOST_THREADS:
        raise damaged(path)
