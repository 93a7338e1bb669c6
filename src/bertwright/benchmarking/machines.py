"""How fast other machines are beside this one: by published results, or by bench lines that were measured there.

``throughputs.csv`` holds one rate for each kind of accelerator, and for a core of each kind of CPU:

    name            an accelerator of the price table begins with it, or a CPU's words hold it
    unit            "accelerator" or "core": what the rate is of
    samples_per_s   of BERT-large on questions of 384 tokens (MLPerf inference, bert-99, Offline), or as if so
    spread          by what factor another job may be faster or slower than this makes one think
    kind, source    "published", "derived" from several such, "measured" by ours; and where it is from

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

from bertwright.benchmarking.forecast import Estimate, usd
from bertwright.benchmarking.result_lines import Rates, Spread, damaged, finite, has_rates, rates_of, read_lines
from bertwright.errors import UserError
from bertwright.prices import Price

# Clouds sell a core of these as two virtual CPUs.
_CPUS_PER_CORE = 2


@dataclass(frozen=True)
class Throughput:
    """How fast a kind of accelerator, or a core of a kind of CPU, is; see the module's docstring."""

    name: str
    unit: str
    samples_per_s: float
    spread: float
    kind: str
    source: str


@dataclass(frozen=True)
class Here:
    """This machine: its rate as the table has it, and where that is from."""

    name: str
    samples_per_s: float
    source: str


@dataclass(frozen=True)
class Elsewhere:
    """A job on another machine.

    Attributes:
        times_as_fast: as this one, in what the encoder computes.
        seconds: of the whole job, reading and tokenising as here.
        usd: what they cost there; None where the price is not known.
        kind, source: where ``times_as_fast`` is from.
        num_idle: accelerators of the machine that the job does not use.
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
        }


def load_throughputs() -> list[Throughput]:
    """The table that comes with the package."""
    text = files("bertwright.benchmarking").joinpath("throughputs.csv").read_text(encoding="utf-8")
    return [
        Throughput(
            row["name"], row["unit"], float(row["samples_per_s"]), float(row["spread"]), row["kind"], row["source"]
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
        num_cores: that compute.
    """
    if gpu is not None:
        one = _most_alike(throughputs, gpu)
        return None if one is None else Here(gpu, one.samples_per_s, one.source)
    kinds = {"amx_bf16": "CPU with AMX", "avx512_bf16": "CPU with AVX512-BF16", None: "CPU without bfloat16"}
    name = kinds.get(cpu_feature)
    one = next((one for one in throughputs if one.name == name), None)
    if one is None:
        return None
    return Here(f"{num_cores} cores, {name}", num_cores * one.samples_per_s, one.source)


def throughput_of(price: Price, throughputs: Sequence[Throughput]) -> tuple[float, Throughput] | None:
    """The rate of a machine of the price table, of one accelerator or of all cores; None: not known.

    A training uses one accelerator, also where the machine has more.
    """
    if price.num_accelerators:
        one = _most_alike(throughputs, price.accelerator)
        return None if one is None else (one.samples_per_s, one)
    cores = [one for one in throughputs if one.unit == "core" and one.name in price.accelerator]
    if not cores or price.num_cpus is None:
        return None
    return cores[0].samples_per_s * price.num_cpus / _CPUS_PER_CORE, cores[0]


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
    words = {*re.split(r"[ -]+", name)} - {"NVIDIA", "Tesla"}
    memory = {word for word in words if re.fullmatch(r"\d+GB", word)}
    return words - memory, memory


def elsewhere(
    prices: Sequence[Price], here: Here, compute_s: Estimate, other_s: float, throughputs: Sequence[Throughput]
) -> list[Elsewhere]:
    """The job on each machine whose rate is known: ``compute_s`` of its seconds scale with it, ``other_s`` do not."""
    found = []
    for price in prices:
        known = throughput_of(price, throughputs)
        if known is None:
            continue
        rate, one = known
        seconds = _scaled(compute_s, other_s, rate / here.samples_per_s, one.spread)
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
            )
        )
    return found


def _scaled(compute_s: Estimate, other_s: float, ratio: float, spread: float) -> Estimate:
    """The uncertainty here and that of the ratio are independent factors: their logarithms add as squares do."""
    own = math.log(compute_s.high / compute_s.value) if compute_s.value > 0 else 0.0
    factor = math.exp(math.hypot(own, math.log(spread)))
    value = compute_s.value / ratio
    return Estimate(other_s + value, other_s + value / factor, other_s + value * factor)


@dataclass(frozen=True)
class Measured:
    """A line of bench from another machine: useful operations a second, median, smallest and largest."""

    rates: Rates
    operations_per_s: Spread
    source: str

    def here(self, operations_per_s: float, compute_s: Estimate, other_s: float) -> Elsewhere:
        """The job there, whose useful operations a second were ``operations_per_s`` here."""
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
            try:
                whole = finite(line.get("useful_operations")) / rates.num_texts
            except (ValueError, OverflowError):
                whole = 0.0
            if not whole > 0:
                raise damaged(path)
            texts = rates.texts_per_s
            operations = Spread(whole * texts.median, whole * texts.min, whole * texts.max)
            found.append(Measured(rates, operations, f"{Path(path).name}, {rates.measured or 'undated'}"))
    return found
