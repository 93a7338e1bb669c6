"""OpenVINO on the ONNX graph."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from bertwright.benchmarking.cases import Case, GraphKind
from bertwright.benchmarking.contender import NotPossible
from bertwright.benchmarking.peers.graph import graph_of
from bertwright.benchmarking.peers.padded import PaddedInference


class Inference(PaddedInference):
    """OpenVINO on CPUs.

    Args:
        precision: "f32" and "bf16" are inference precisions. "int8" keeps the weights in 8 bits and has the activations
            turned into 8 bits too, in groups as wide as the encoder ("dynamic quantisation").
        hint: OpenVINO's performance hint; None: the faster of both, found by trying.
    """

    def __init__(
        self,
        case: Case,
        precision: Literal["f32", "bf16", "int8"] = "f32",
        hint: Literal["LATENCY", "THROUGHPUT"] | None = None,
        graph: GraphKind = "first",
    ) -> None:
        import openvino

        if case.device != "cpu":
            raise NotPossible("measured on CPUs only")
        super().__init__(case)
        path = str(graph_of(case, graph))
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
            "INFERENCE_NUM_THREADS": case.num_threads,
        }
        if precision == "int8":
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(_hidden_size(case))
        core = openvino.Core()
        hints = ("LATENCY", "THROUGHPUT") if hint is None else (hint,)
        makers = {
            name: (lambda name=name: _Queue(core, path, {**settings, "PERFORMANCE_HINT": name}, self)) for name in hints
        }
        self.chosen |= {
            "openvino": openvino.__version__.split("-")[0],
            "precision": precision,
            "hint": self.choose(makers),
            "hint_reason": "the faster of both" if hint is None else "as asked",
            "graph": graph,
        }
        assert isinstance(self.scorer, _Queue)
        self.chosen["num_requests"] = self.scorer.num_requests


class _Queue:
    """A compiled graph with as many requests at once as OpenVINO finds best."""

    def __init__(self, core: Any, graph: str, settings: dict[str, Any], owner: Inference) -> None:
        import openvino

        self.owner = owner
        compiled = core.compile_model(graph, "CPU", settings)
        self.num_requests = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.queue = openvino.AsyncInferQueue(compiled, self.num_requests)
        self.queue.set_callback(self._collect)
        self.alone = compiled.create_infer_request()

    def score(self, batches: list[np.ndarray]) -> None:
        for rows in batches:
            ids, mask = self.owner.case.padded(rows)
            self.queue.start_async({"input_ids": ids, "attention_mask": mask}, rows)
        self.queue.wait_all()

    def score_padded(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self.alone.infer({"input_ids": ids, "attention_mask": mask})[0].copy()

    def _collect(self, request: Any, rows: np.ndarray) -> None:
        self.owner.logits[rows] = request.get_output_tensor(0).data


def _hidden_size(case: Case) -> int:
    import json

    return int(json.loads((case.model_folder / "config.json").read_text(encoding="utf-8"))["hidden_size"])
