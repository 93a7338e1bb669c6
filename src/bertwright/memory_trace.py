"""Memory over the time of a run: a thread looks about once a second. A table of a run's folder, memory.parquet.

The peak alone does not tell which phase needs the memory; this does. Torch is never imported here: who trains on a GPU
hands in the function that tells its memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.errors import RunError
from bertwright.runs import written_beside

FILE = "memory.parquet"
MOST_ROWS = 2_000
_TYPES = {"elapsed_s": pa.float64(), "phase": pa.string(), "process_bytes": pa.int64(), "gpu_bytes": pa.int64()}
# More rows than any file of ours has: MOST_ROWS, and a row for each phase that would be lost.
_MOST_ROWS_READ = 100_000


@dataclass(frozen=True)
class MemoryTrace:
    """What a run held in memory, sample by sample; all are of the same length.

    Attributes:
        elapsed_s: float64, since the run began; of a resumed one, the time in between left out.
        phases: what the run was at, in words.
        process_bytes: int64, memory of the process that is in RAM.
        gpu_bytes: int64, memory that torch held on the GPU; None without one.
    """

    elapsed_s: np.ndarray
    phases: tuple[str, ...]
    process_bytes: np.ndarray
    gpu_bytes: np.ndarray | None

    def __len__(self) -> int:
        return len(self.phases)


class MemorySampler:
    """Samples this process's memory in a thread of its own, from entering it as a context until leaving it.

    Args:
        phase: tells what the run is at; called from the thread.
        gpu_bytes: tells the bytes held on the GPU; called from the thread.
        earlier: what a run that goes on had sampled before.
        every_s: between two samples.
    """

    def __init__(
        self,
        phase: Callable[[], str],
        gpu_bytes: Callable[[], int] | None = None,
        earlier: MemoryTrace | None = None,
        every_s: float = 1.0,
    ) -> None:
        self._phase, self._gpu_bytes, self._every_s = phase, gpu_bytes, every_s
        self._rows: list[tuple[float, str, int, int | None]] = []
        self._before_s = 0.0
        if earlier is not None and len(earlier):
            gpu = [None] * len(earlier) if earlier.gpu_bytes is None else earlier.gpu_bytes.tolist()
            columns = earlier.elapsed_s.tolist(), earlier.phases, earlier.process_bytes.tolist(), gpu
            self._rows = list(zip(*columns, strict=True))
            self._before_s = float(earlier.elapsed_s[-1])
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory sampler", daemon=True)

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.sample()

    def sample(self) -> None:
        """Take a sample now."""
        process = process_bytes()
        gpu = None if self._gpu_bytes is None else self._gpu_bytes()
        row = self._before_s + time.perf_counter() - self._started, self._phase(), process, gpu
        with self._lock:
            self._rows.append(row)
            if len(self._rows) >= 2 * MOST_ROWS:
                self._rows = _thinned(self._rows)

    def trace(self) -> MemoryTrace:
        """The samples so far, at most 2,000 or as many as there were phases."""
        with self._lock:
            rows = list(self._rows)
        while len(rows) > MOST_ROWS and len(thinner := _thinned(rows)) < len(rows):
            rows = thinner
        elapsed_s, phases, process, gpu = zip(*rows, strict=True) if rows else ((), (), (), ())
        has_gpu = any(value is not None for value in gpu)
        return MemoryTrace(
            np.array(elapsed_s, np.float64),
            tuple(phases),
            np.array(process, np.int64),
            np.array([value or 0 for value in gpu], np.int64) if has_gpu else None,
        )

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self.sample()


def _thinned(rows: list[tuple[float, str, int, int | None]]) -> list[tuple[float, str, int, int | None]]:
    """Of each two neighbours of one phase the one with more memory, so that peaks stay."""
    kept: list[tuple[float, str, int, int | None]] = []
    alone = False  # whether the last one kept stands for one sample so far
    for row in rows:
        if alone and kept[-1][1] == row[1]:
            if (row[2], row[3] or 0) > (kept[-1][2], kept[-1][3] or 0):
                kept[-1] = row
            alone = False
        else:
            kept.append(row)
            alone = True
    return kept


def process_bytes() -> int:
    """Memory of this process that is in RAM; where the system does not tell, the most that it has held so far."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # proc(5): statm is in pages, its second number the resident ones.
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere (getrusage(2))


def write_memory_trace(path: Path, trace: MemoryTrace) -> None:
    """Write ``trace`` beside ``path`` and rename it."""
    gpu = pa.nulls(len(trace), pa.int64()) if trace.gpu_bytes is None else pa.array(trace.gpu_bytes, pa.int64())
    arrays = [
        pa.array(trace.elapsed_s, pa.float64()),
        pa.array(trace.phases, pa.string()),
        pa.array(trace.process_bytes, pa.int64()),
        gpu,
    ]
    with written_beside(path) as partial:
        pq.write_table(pa.table(arrays, schema=pa.schema(list(_TYPES.items()))), partial, compression="zstd")


def read_memory_trace(path: Path) -> MemoryTrace:
    """The trace in the file ``path``.

    Raises:
        RunError: the file is missing or damaged.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; expected a run's memory over time")
    try:
        file = pq.ParquetFile(path.absolute())  # pyarrow would take a "~" for the user's home
        found = {item.name: item.type for item in file.schema_arrow}
        if found != _TYPES or file.metadata.num_rows > _MOST_ROWS_READ:
            raise RunError(f"{path}: found the columns {', '.join(found)}, expected {', '.join(_TYPES)}; it is damaged")
        table = file.read()
        gpu = table.column("gpu_bytes")
        if any(table.column(name).null_count for name in ("elapsed_s", "phase", "process_bytes")):
            raise RunError(f"{path}: holds empty places; the file is damaged")
        trace = MemoryTrace(
            table.column("elapsed_s").to_numpy(),
            tuple(table.column("phase").to_pylist()),
            table.column("process_bytes").to_numpy(),
            None if gpu.null_count else gpu.to_numpy(),
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[:1]
        raise RunError(f"{path}: cannot be read ({first[0] if first else error}); the file is damaged") from None
    if not np.isfinite(trace.elapsed_s).all() or (len(trace) and (np.diff(trace.elapsed_s) < 0).any()):
        raise RunError(f"{path}: its times are not in order; the file is damaged")
    return trace
