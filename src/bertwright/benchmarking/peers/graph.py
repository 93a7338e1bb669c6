"""What the graph runtimes share: the ONNX graph."""

from __future__ import annotations

from pathlib import Path

from bertwright.benchmarking.cases import Case, GraphKind
from bertwright.benchmarking.contender import NotPossible


def graph_of(case: Case, kind: GraphKind) -> Path:
    """The ONNX graph that was written for the case's contenders."""
    path = case.graph_file(kind)
    if not path.is_file():
        raise NotPossible("no ONNX graph could be written: pip install 'bertwright[onnx]'")
    return path
