"""What the graph runtimes share: the ONNX graph, and finding out which of a few settings is the fastest.

Neither this nor the runtimes' modules import torch: their memory is their own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from bertwright.benchmarking.cases import Case, GraphKind
from bertwright.benchmarking.contender import NotPossible


class Runner(Protocol):
    """A graph made ready with certain settings."""

    def score(self, batches: list[np.ndarray]) -> None:
        """Write the logits of the rows of all ``batches``."""
        ...


def graph_of(case: Case, kind: GraphKind) -> Path:
    """The ONNX graph that was written for the case's contenders."""
    path = case.graph_file(kind)
    if not path.is_file():
        raise NotPossible("no ONNX graph could be written: pip install 'bertwright[onnx]'")
    return path


def fastest(case: Case, makers: Mapping[str, Callable[[], Runner]]) -> tuple[str, Runner]:
    """The name of the settings that score a few of the case's batches fastest, and a runner with them.

    One runner is held at a time, so that a peer's memory is that of what it then runs.
    """
    if len(makers) > 1:
        batches = case.sorted_batches()[:: max(1, len(case.sorted_batches()) // 8)]
        seconds = {}
        for name, make in makers.items():
            runner = make()
            runner.score(batches)
            started = time.perf_counter()
            runner.score(batches)
            seconds[name] = time.perf_counter() - started
            del runner
            gc.collect()
        best = min(seconds, key=lambda name: seconds[name])
    else:
        best = next(iter(makers))
    return best, makers[best]()
