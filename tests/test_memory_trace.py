"""Memory over time: sampled, thinned, written and read."""

from __future__ import annotations

import mmap
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertwright.errors import RunError
from bertwright.memory_trace import (
    MOST_ROWS,
    MemorySampler,
    MemoryTrace,
    process_bytes,
    read_memory_trace,
    write_memory_trace,
)


def test_the_thread_sees_memory_come_and_go():
    phase = "before"
    with MemorySampler(lambda: phase, every_s=0.01) as sampler:
        time.sleep(0.05)
        phase = "holding"
        held = mmap.mmap(-1, 64 << 20)  # of the system, and not memory that others in this process let go of
        held.write(b"x" * len(held))
        time.sleep(0.1)
        held.close()
        phase = "after"
        time.sleep(0.05)
    trace = sampler.trace()
    most = {
        name: max(b for b, p in zip(trace.process_bytes, trace.phases, strict=True) if p == name)
        for name in ("before", "holding", "after")
    }
    assert most["holding"] - most["before"] > 48 << 20
    assert trace.process_bytes[-1] < most["holding"] - (32 << 20)
    assert trace.gpu_bytes is None
    assert (np.diff(trace.elapsed_s) >= 0).all()


def test_it_stays_small_and_keeps_peaks_and_phases():
    held = iter(range(10**9))
    sampler = MemorySampler(lambda: f"phase {int(next(held) >= 9_000)}", gpu_bytes=lambda: 7)
    sampler._started = time.perf_counter()
    peak = 0
    for _ in range(10_000):
        sampler.sample()
        peak = max(peak, sampler._rows[-1][2])
    trace = sampler.trace()
    assert len(trace) <= MOST_ROWS
    assert set(trace.phases) == {"phase 0", "phase 1"}
    assert trace.process_bytes.max() == peak
    assert (trace.gpu_bytes == 7).all()


def test_written_and_read_and_gone_on_with(tmp_path):
    path = tmp_path / "memory.parquet"
    first = MemoryTrace(np.array([0.0, 1.5]), ("reading", "training"), np.array([5, 9]), None)
    write_memory_trace(path, first)
    found = read_memory_trace(path)
    assert found.phases == first.phases
    assert found.process_bytes.tolist() == [5, 9]
    assert found.gpu_bytes is None
    with MemorySampler(lambda: "scoring", lambda: 3, earlier=found) as sampler:
        pass
    trace = sampler.trace()
    assert trace.phases[:2] == first.phases
    assert trace.elapsed_s[2] >= 1.5
    assert trace.gpu_bytes.tolist()[:2] == [0, 0]
    assert trace.gpu_bytes[2] == 3


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "memory.parquet"
    with pytest.raises(RunError, match="no such file"):
        read_memory_trace(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(RunError, match="cannot be read"):
        read_memory_trace(path)
    pq.write_table(pa.table({"elapsed_s": [1.0]}), path)
    with pytest.raises(RunError, match="expected elapsed_s, phase"):
        read_memory_trace(path)
    write_memory_trace(path, MemoryTrace(np.array([2.0, 1.0]), ("a", "b"), np.array([5, 9]), None))
    with pytest.raises(RunError, match="not in order"):
        read_memory_trace(path)


def test_it_is_this_process_that_is_measured():
    assert 1 << 20 < process_bytes() < 1 << 40
