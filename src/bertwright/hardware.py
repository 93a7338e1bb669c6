"""The machine: device, dtype, threads, memory. Nothing happens at import, and torch is loaded when first asked for."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright import __version__
from bertwright.errors import UserError

if TYPE_CHECKING:
    import torch

# Most tokens computed at once where nothing else is asked for. On a CPU larger blocks fall out of the cache; on a GPU
# smaller ones leave it idle.
_TOKEN_BUDGET = {"cpu": 8_192, "cuda": 65_536}
_OMP_PAUSE_SOFT = 1  # omp.h
# What the messages of torch's plain RuntimeErrors say where memory ran out.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "not enough memory",
    "could not create a primitive",  # oneDNN, which has no room for its code
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
# Packages that a result depends on, besides torch and numpy.
_RECORDED_PACKAGES = ("tokenizers", "nanotoken", "scikit-learn", "pyarrow", "safetensors")

# PyTorch and oneDNN below it each keep what they compiled for the shapes of 1,024 products (0.4 MB each, measured).
# Scoring by length uses about 70 shapes again and again, and one that is new for the last batch of each shard.
_CACHES_OF_PRODUCTS = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
_PRODUCTS_KEPT = 96


def keep_few_compiled_products() -> None:
    """Let this process forget what it compiled for shapes of products that do not come again: memory stays flat.

    The libraries read this from the environment at the first product. What a user has set there is left alone.
    Sources: oneDNN's developer guide, "Primitive Cache"; ``lru_cache.hpp`` of ideep, which PyTorch calls oneDNN by.
    """
    for name in _CACHES_OF_PRODUCTS:
        os.environ.setdefault(name, str(_PRODUCTS_KEPT))


def choose_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: no such device on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    # Not left to torch, which takes indices modulo 256 and fails on some.
    found = re.fullmatch(r"cuda(?::([0-9]{1,9}))?", name)
    if found is None:
        raise UserError(f"--device: found {name!r}, expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if int(found[1] or 0) >= count:
        raise UserError(f"--device: found {name!r}, but this machine shows {count} CUDA devices; pass --device cpu")
    return torch.device("cuda") if found[1] is None else torch.device("cuda", int(found[1]))


def choose_dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """What the encoder computes in, and why: bfloat16 or (GPUs) float16 where the hardware multiplies it, else float32.

    Raises:
        UserError: float16 was asked for on a CPU.
    """
    import torch

    if name == "float16" and device.type != "cuda":
        raise UserError("--dtype float16 is for GPUs; found the CPU. Pass --dtype auto")
    if name != "auto":
        return getattr(torch, name), "as asked"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16, "this GPU multiplies bfloat16"
        # 6.1 and 6.2 have float16 too, but far slower than float32 (CUDA C++ Programming Guide, arithmetic throughput).
        if capability == (6, 0) or capability >= (7, 0):
            return torch.float16, "this GPU multiplies float16, but not bfloat16"
        return torch.float32, "this GPU multiplies neither bfloat16 nor float16 fast"
    feature = cpu_bfloat16_feature()
    if feature is None:
        return torch.float32, "this CPU does not multiply bfloat16"
    return torch.bfloat16, f"this CPU multiplies bfloat16 ({feature})"


def cpu_bfloat16_feature() -> str | None:
    """The name of the CPU's instructions that multiply bfloat16, or None."""
    capabilities = _cpu_capabilities()
    for feature in ("amx_bf16", "avx512_bf16", "bf16"):
        if capabilities.get(feature):
            return feature
    return None


def cpu_int8_feature() -> str | None:
    """The name of the CPU's instructions that multiply 8-bit integers, or None."""
    capabilities = _cpu_capabilities()
    return next((name for name in ("amx_int8", "avx512_vnni") if capabilities.get(name)), None)


def _cpu_capabilities() -> Mapping[str, Any]:
    """What the CPU can do, by torch, or by Linux where this torch does not tell."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return {}
    return dict.fromkeys(flags.group(1).split(), True) if flags else {}


def _cpu_name_by_linux() -> str | None:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


def token_budget(asked: int | None, device: torch.device) -> int:
    """Most tokens computed at once."""
    return asked if asked is not None else _TOKEN_BUDGET[device.type]


def describe(device: torch.device | None) -> dict[str, Any]:
    """Versions and machine, for a run's environment.json; ``device`` None: the CPU, and torch took no part."""
    import numpy

    found: dict[str, Any] = {
        "bertwright": __version__,
        "commit": source_commit(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        **{name: version(name) for name in _RECORDED_PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": "cpu" if device is None else str(device),
        "num_cpus": os.cpu_count(),
    }
    if device is None:
        return {**found, "cpu": _cpu_name_by_linux() or platform.processor()}
    import torch

    found |= {
        "torch": torch.__version__,
        "cpu": _cpu_capabilities().get("cpu_name") or platform.processor(),
        "num_threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["gpu_bytes"] = torch.cuda.get_device_properties(device).total_memory
        found["cuda"] = torch.version.cuda
    return found


def source_commit() -> str | None:
    """The commit of bertwright's own sources where they are a checkout, with "-dirty" if it was changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def release_openmp_threads() -> None:
    """End the threads that OpenMP keeps for the calling thread, before another thread computes in its place.

    GNU's library lets threads spin between two parallel regions only while all of them together are no more than the
    CPUs. Those of a thread that has loaded a model and then only waits count: what is computed elsewhere would have to
    wake its threads for each operation, which doubles the time of a single text. What this thread computes later
    starts its threads anew. (``omp_pause_resource_all``, OpenMP API 5.0, section 3.2.44; Linux only, elsewhere nothing
    happens.)
    """
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return
    for path in set(re.findall(r"(?<= )/\S*/libgomp[^/\s]*$", mapped, re.MULTILINE)):
        with contextlib.suppress(OSError, AttributeError):  # removed meanwhile, or older than OpenMP 5.0
            _library(path).omp_pause_resource_all(_OMP_PAUSE_SOFT)


@functools.cache
def _library(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)


def give_back_free_memory() -> None:
    """Let the C library give memory that is free to the system, where it can (glibc): it keeps what lies between."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # musl has no such function
            _own_process().malloc_trim(ctypes.c_size_t(0))


@functools.cache
def _own_process() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def peak_process_bytes() -> int:
    """Most memory that this process has held at once, since it started. Linux and macOS only."""
    try:
        # Not getrusage on Linux: what it tells starts from what the parent held when it started this process.
        found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB (getrusage(2))


def available_bytes() -> int | None:
    """Memory that a process could still have without swapping; None where the system does not tell (Linux does).

    In a container no more than its limit leaves (cgroup v2).
    """
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    if found is None:
        return None
    available = int(found[1]) * 1024
    with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
        limit, held = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        available = max(0, min(available, limit - held))
    return available


def peak_gpu_bytes(device: torch.device | None) -> int | None:
    """Most GPU memory that torch has held at once; None on a CPU."""
    if device is None or device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, a GPU's, torch's on a CPU or the system's; torch is not loaded to tell."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def cost(usd_per_hour: float | None, seconds: float) -> dict[str, float | None]:
    """``cost`` of result.json: the price of an hour, and of ``seconds`` at it; None where no price was given."""
    return {"usd_per_hour": usd_per_hour, "usd": None if usd_per_hour is None else usd_per_hour * seconds / 3600}
