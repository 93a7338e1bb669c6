"""Joules, by the machine's own counters: RAPL of the CPU's packages, NVML of the GPU. None where neither answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """Something that counts energy.

    Attributes:
        source: "RAPL" or "NVML".
        read_joules: since some time in the past.
        wraps_at_joules: where it starts from 0 again; None: never.
    """

    source: str
    read_joules: Callable[[], float]
    wraps_at_joules: float | None = None


class EnergyMeter:
    """All counters that answer on this machine. Those of a CPU count whatever runs on it, waiting contenders too.

    Attributes:
        source: which kinds of counters these are; None: there are none.
    """

    def __init__(self, device: str = "cpu", powercap: Path = _POWERCAP) -> None:
        self.counters = [*_rapl(powercap), *(_nvml(device) if device.startswith("cuda") else [])]
        self.source = " + ".join(dict.fromkeys(counter.source for counter in self.counters)) or None

    def read(self) -> list[float]:
        """What each counter shows, for ``joules_since``."""
        return [counter.read_joules() for counter in self.counters]

    def joules_since(self, before: list[float]) -> float | None:
        """Joules since ``before`` was read; None without counters."""
        if not self.counters:
            return None
        total = 0.0
        for counter, started, ended in zip(self.counters, before, self.read(), strict=True):
            wrapped = ended < started and counter.wraps_at_joules is not None
            total += ended - started + (counter.wraps_at_joules or 0.0 if wrapped else 0.0)
        return total


def _rapl(powercap: Path) -> list[Counter]:
    """A counter for each package and its memory (kernel.org, admin-guide/pm/intel-rapl and power/powercap).

    Often root alone may read them. ``psys`` counts what the packages count already.
    """
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if not (name.startswith("package") or name == "dram"):
                continue
            wraps_at = int((zone / "max_energy_range_uj").read_text()) / 1e6
            counter = Counter("RAPL", lambda file=zone / "energy_uj": int(file.read_text()) / 1e6, wraps_at)  # type: ignore[misc]
            counter.read_joules()
        except (OSError, ValueError):
            continue
        found.append(counter)
    return found


def _nvml(device: str) -> list[Counter]:
    """The GPU's own counter, in nvidia-ml-py, of GPUs since Volta (NVML's nvmlDeviceGetTotalEnergyConsumption)."""
    try:
        import pynvml
        import torch
    except ModuleNotFoundError:
        return []
    try:
        pynvml.nvmlInit()
        # By its name: NVML counts all GPUs, torch those that it may see.
        handle: Any = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        counter = Counter("NVML", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
        counter.read_joules()
    except pynvml.NVMLError:
        return []
    return [counter]
