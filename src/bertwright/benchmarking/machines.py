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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from bertwright.benchmarking.forecast import Estimate, usd
from bertwright.benchmarking.result_lines import damaged, rates_of, read_lines
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
        cpu_feature: as ``hardware.cpu_bfloat16_feature`` names it.
        num_cores: that compute.
    """
    if gpu is not None:
        accelerators = [one for one in throughputs if one.unit == "accelerator"]
        one = _longest(accelerators, lambda name: _same_gpu(name, gpu))
        return None if one is None else Here(gpu, one.samples_per_s, one.source)
    kinds = {"amx_bf16": "CPU with AMX", "avx512_bf16": "CPU with AVX512-BF16", None: "CPU without bfloat16"}
    name = kinds.get(cpu_feature)
    one = next((one for one in throughputs if one.name == name), None)
    if one is None:
        return None
    return Here(f"{num_cores} cores, {name}", num_cores * one.samples_per_s, one.source)


def _same_gpu(name: str, gpu: str) -> bool:
    """Whether a GPU that its driver calls "NVIDIA A100-SXM4-40GB", "NVIDIA H100 PCIe" or "Tesla T4" is ``name``."""
    wanted, found = ({*re.split(r"[ -]", words)} - {"NVIDIA", "Tesla"} for words in (name, gpu))
    memory, found_memory = ({word for word in words if re.fullmatch(r"\d+GB", word)} for words in (wanted, found))
    return wanted - memory <= found and (memory <= found or not found_memory)


def _longest(throughputs: Sequence[Throughput], fits: Callable[[str], bool]) -> Throughput | None:
    """The one with the longest name of those that fit."""
    return max((one for one in throughputs if fits(one.name)), key=lambda one: len(one.name), default=None)


def throughput_of(price: Price, throughputs: Sequence[Throughput]) -> tuple[float, Throughput] | None:
    """The rate of a machine of the price table, of one accelerator or of all cores; None: not known.

    A training uses one accelerator, also where the machine has more.
    """
    if price.num_accelerators:
        accelerators = [one for one in throughputs if one.unit == "accelerator"]
        one = _longest(accelerators, price.accelerator.startswith)
        return None if one is None else (one.samples_per_s, one)
    cores = [one for one in throughputs if one.unit == "core"]
    one = _longest(cores, lambda name: name in price.accelerator)
    if one is None or price.num_cpus is None:
        return None
    return one.samples_per_s * price.num_cpus / _CPUS_PER_CORE, one


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


def measured_elsewhere(
    paths: Sequence[str], act: str, operations_per_s: float, compute_s: Estimate, other_s: float
) -> list[Elsewhere]:
    """The job on machines where ``bench train`` (``act`` "train") or ``bench infer`` was measured, from their lines.

    ``operations_per_s`` are the useful ones of the job that was tried out here.

    Raises:
        UserError: a file that cannot be read, or that holds no such line.
    """
    found = []
    for path in paths:
        lines = [line for line in read_lines(Path(path)) if line.get("case") == act]
        if not lines:
            raise UserError(f"{path}: found no line of bench {act}, expected at least one")
        for line in lines:
            rates = _operations_per_s(line, path)
            ratio = {name: rate / operations_per_s for name, rate in rates.items()}
            estimate = Estimate(
                value=other_s + compute_s.value / ratio["median"],
                low=other_s + compute_s.low / ratio["max"],
                high=other_s + compute_s.high / ratio["min"],
            )
            measured = rates_of(line, path)
            price = measured.usd_per_hour
            found.append(
                Elsewhere(
                    machine=measured.device,
                    accelerator=f"{measured.num_threads or '?'} threads, {measured.dtype or '?'}",
                    usd_per_hour=price,
                    times_as_fast=ratio["median"],
                    seconds=estimate,
                    usd=None if price is None else usd(estimate, price),
                    kind="measured",
                    source=f"{Path(path).name}, {line.get('measured', 'undated')}",
                )
            )
    return found


def _operations_per_s(line: dict[str, Any], path: str) -> dict[str, float]:
    """Useful operations a second of ours in a bench line: median, min, max."""
    found = rates_of(line, path)
    operations = line.get("useful_operations")
    if not isinstance(operations, int | float) or not operations > 0:
        raise damaged(path)
    whole = operations / found.num_texts
    return {name: getattr(found.texts_per_s, name) * whole for name in ("median", "min", "max")}
