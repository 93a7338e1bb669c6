"""ONNX Runtime on the ONNX graph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from bertwright.benchmarking.cases import Case, GraphKind
from bertwright.benchmarking.contender import NotPossible
from bertwright.benchmarking.peers.graph import graph_of
from bertwright.benchmarking.peers.padded import PaddedInference
from bertwright.model.onnx_int8 import quantize_matrices


class Inference(PaddedInference):
    """ONNX Runtime on CPUs.

    Args:
        precision: "int8": ONNX Runtime's dynamic quantisation, a factor for each output of a matrix.
        batches_at_once: batches that are computed at the same time, the threads shared out among them; None: the faster
            of one and as many as there are threads, found by trying.
    """

    def __init__(
        self,
        case: Case,
        precision: Literal["float32", "int8"] = "float32",
        batches_at_once: int | None = None,
        graph: GraphKind = "first",
    ) -> None:
        import onnxruntime

        if case.device != "cpu":
            raise NotPossible("measured on CPUs only")
        super().__init__(case)
        path = graph_of(case, graph)
        if precision == "int8":
            path = _quantized(path)
        counts = dict.fromkeys([1, case.num_threads]) if batches_at_once is None else [batches_at_once]
        makers = {str(count): (lambda count=count: _Session(str(path), count, self)) for count in counts}
        self.chosen |= {"onnxruntime": onnxruntime.__version__, "precision": precision, "graph": graph}
        self.chosen["batches_at_once"] = int(self.choose(makers))


class _Session:
    """A session, asked by ``count`` threads at once."""

    def __init__(self, graph: str, count: int, owner: Inference) -> None:
        import onnxruntime

        self.owner = owner
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = max(1, owner.case.num_threads // count)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.callers = ThreadPoolExecutor(count) if count > 1 else None

    def score(self, batches: list[np.ndarray]) -> None:
        if self.callers is None:
            for rows in batches:
                self._score_one(rows)
        else:
            list(self.callers.map(self._score_one, batches))

    def _score_one(self, rows: np.ndarray) -> None:
        ids, mask = self.owner.case.padded(rows)
        self.owner.logits[rows] = self.score_padded(ids, mask)

    def score_padded(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def _quantized(graph: Path) -> Path:
    """The graph with its constant matrices in 8 bits."""
    path = graph.with_name(graph.stem + "-quantized.onnx")
    if not path.is_file():
        quantize_matrices(graph, path)
    return path
