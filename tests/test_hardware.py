"""What is chosen for a machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from bertwright import hardware
from bertwright.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "amx_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_bfloat16_is_taken_where_the_cpu_multiplies_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(hardware, "_cpu_capabilities", lambda: capabilities)
    chosen, reason = hardware.choose_dtype("auto", CPU)
    assert chosen == dtype
    assert "bfloat16" in reason
    assert hardware.choose_dtype("float32", CPU) == (torch.float32, "as asked")


def test_a_torch_that_does_not_tell_is_asked_by_way_of_linux(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert isinstance(hardware.cpu_bfloat16_feature(), str | None)
    assert hardware.describe(CPU)["num_threads"] >= 1


@pytest.mark.parametrize("name", ["abacus", "cuda:-1", "cuda:99999999999", "mps:0:1", ""])
def test_devices_that_are_not_there_are_one_line(name):
    with pytest.raises(UserError, match="--device"):
        hardware.choose_device(name)


def test_costs_are_hours_times_their_price():
    assert hardware.cost(6.29, 1800) == {"usd_per_hour": 6.29, "usd": pytest.approx(3.145)}
    assert hardware.cost(None, 1800) == {"usd_per_hour": None, "usd": None}


def test_the_token_budget_asked_for_is_taken():
    assert hardware.token_budget(17, CPU) == 17
    assert hardware.token_budget(None, CPU) > 512


# What begins to compute in a thread of its own: the server's queue, and what LoadGen drives.
BEGINNINGS = {
    "nothing": "pass",
    "release": "hardware.release_openmp_threads()",
    "loadgen": """
import numpy as np
from bertwright.benchmarking.loadgen import Subject
from bertwright.data.ragged import Ragged
Subject(None, Ragged(np.array([1, 2], np.int32), np.array([0, 2]), 0), 100).close()
""",
    "batcher": """
import asyncio
from bertwright.shipping.server.batcher import Batcher
async def begin():
    Batcher(1, 1, 1, 0.0).close()
asyncio.run(begin())
""",
}


@pytest.mark.parametrize(("beginning", "left"), [("nothing", 3), ("release", 1), ("loadgen", 1), ("batcher", 1)])
def test_threads_of_the_thread_that_loads_are_ended_where_another_computes(beginning, left):
    program = f"""
import os, re, time, torch
from bertwright import hardware
import bertwright.benchmarking.loadgen, bertwright.shipping.server.batcher
torch.set_num_threads(3)
before = len(os.listdir("/proc/self/task"))
torch.ones(1000, 1000).add(1)
{BEGINNINGS[beginning]}
deadline = time.monotonic() + 20
while len(os.listdir("/proc/self/task")) - before > {left - 1} and time.monotonic() < deadline:
    time.sleep(0.01)  # they end by themselves
print(len(os.listdir("/proc/self/task")) - before + 1)
assert float(torch.ones(1000, 1000).add(1).sum()) == 2e6
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    made = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert (made.stdout, made.stderr) == (f"{left}\n", "")


def test_memory_that_is_free_between_what_is_used_goes_back_to_the_system():
    program = """
import ctypes, os, re
from bertwright.hardware import give_back_free_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def resident():
    return int(re.search(r"^VmRSS:\\s*(\\d+)", open("/proc/self/status").read(), re.M)[1]) >> 10

blocks = [libc.malloc(ctypes.c_size_t(4096)) for _ in range(25_000)]
for block in blocks:
    libc.memset(ctypes.c_void_p(block), 1, ctypes.c_size_t(4096))
for block in blocks[:-1]:
    libc.free(ctypes.c_void_p(block))
before = resident()
give_back_free_memory()
print(before - resident())
"""
    if sys.platform != "linux":
        hardware.give_back_free_memory()  # which does nothing, and does not fail
        return
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    if platform.libc_ver()[0] == "glibc":
        assert int(done.stdout) > 80  # MiB, of 100
