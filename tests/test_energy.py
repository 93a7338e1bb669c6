"""Joules from counters that look like the kernel's."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from bertwright.energy import EnergyMeter


def zone(folder, number, name, microjoules, wraps_at=1_000_000_000):
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True, exist_ok=True)
    for file, value in (("name", name), ("max_energy_range_uj", wraps_at), ("energy_uj", microjoules)):
        (path / file).write_text(f"{value}\n")


def test_packages_and_their_memory_are_added_up_and_counters_wrap(tmp_path):
    zone(tmp_path, "0", "package-0", 1_000_000)
    zone(tmp_path, "0:0", "core", 0)
    zone(tmp_path, "0:1", "dram", 999_000_000)
    zone(tmp_path, "1", "psys", 0)
    meter = EnergyMeter("cpu", tmp_path)
    assert meter.source == "RAPL"
    before = meter.read()
    zone(tmp_path, "0", "package-0", 4_500_000)
    zone(tmp_path, "0:0", "core", 7_000_000)
    zone(tmp_path, "0:1", "dram", 1_000_000)
    zone(tmp_path, "1", "psys", 9_000_000)
    assert meter.joules_since(before) == pytest.approx(3.5 + 2.0)


def test_without_counters_nothing_is_measured(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()  # one that may not be read
    meter = EnergyMeter("cpu", tmp_path)
    assert meter.source is None
    assert meter.joules_since(meter.read()) is None


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A stand-in for nvidia-ml-py, with one GPU that has used so many millijoules."""
    used = {"GPU-the-one": 5_000.0}
    fake = SimpleNamespace(
        NVMLError=type("NVMLError", (Exception,), {}),
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=used.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="the-one"))
    return SimpleNamespace(used=used, fake=fake, folder=tmp_path)


def test_a_gpu_counts_millijoules(gpu):
    meter = EnergyMeter("cuda:0", gpu.folder)
    assert meter.source == "NVML"
    before = meter.read()
    gpu.used["GPU-the-one"] += 2_500
    assert meter.joules_since(before) == pytest.approx(2.5)
    assert EnergyMeter("cpu", gpu.folder).source is None  # nobody asks for the GPU's


def test_a_gpu_that_counts_nothing_is_not_measured(gpu):
    def refuse(handle):
        raise gpu.fake.NVMLError("not supported")

    gpu.fake.nvmlDeviceGetTotalEnergyConsumption = refuse
    assert EnergyMeter("cuda:0", gpu.folder).joules_since([]) is None
