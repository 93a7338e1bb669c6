"""OpenVINO on the ONNX graph."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np

from bertwright.benchmarking.cases import Case, GraphKind
from bertwright.benchmarking.contender import NotPossible, Turn
from bertwright.benchmarking.peers.graph import fastest, graph_of


class Inference:
    """Scoring length-sorted padded batches, from token ids to logits in the original order.

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
        self.case = case
        path = str(graph_of(case, graph))
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
            "INFERENCE_NUM_THREADS": case.num_threads,
        }
        if precision == "int8":
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(_hidden_size(case))
        self.logits = np.zeros((case.num_texts, case.num_labels), dtype=np.float32)
        core = openvino.Core()
        hints = ("LATENCY", "THROUGHPUT") if hint is None else (hint,)
        makers = {
            name: (lambda name=name: _Queue(core, path, {**settings, "PERFORMANCE_HINT": name}, self)) for name in hints
        }
        chosen_hint, self.runner = fastest(case, makers)
        assert isinstance(self.runner, _Queue)
        self.chosen: dict[str, Any] = {
            "openvino": openvino.__version__.split("-")[0],
            "precision": precision,
            "hint": chosen_hint,
            "hint_reason": "the faster of both" if hint is None else "as asked",
            "num_requests": self.runner.num_requests,
            "num_threads": case.num_threads,
            "graph": graph,
        }

    def run(self) -> Turn:
        started = time.perf_counter()
        self.runner.score(self.case.sorted_batches())
        seconds = time.perf_counter() - started
        return Turn(seconds, self.case.num_texts, self.case.num_tokens)

    def outcome(self) -> dict[str, np.ndarray]:
        return {"logits": self.logits}


class _Queue:
    """A compiled graph with as many requests at once as OpenVINO finds best."""

    def __init__(self, core: Any, graph: str, settings: dict[str, Any], owner: Inference) -> None:
        import openvino

        self.owner = owner
        compiled = core.compile_model(graph, "CPU", settings)
        self.num_requests = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.queue = openvino.AsyncInferQueue(compiled, self.num_requests)
        self.queue.set_callback(self._collect)

    def score(self, batches: list[np.ndarray]) -> None:
        for rows in batches:
            ids, mask = self.owner.case.padded(rows)
            self.queue.start_async({"input_ids": ids, "attention_mask": mask}, rows)
        self.queue.wait_all()

    def _collect(self, request: Any, rows: np.ndarray) -> None:
        self.owner.logits[rows] = request.get_output_tensor(0).data


def _hidden_size(case: Case) -> int:
    import json

    return int(json.loads((case.model_folder / "config.json").read_text(encoding="utf-8"))["hidden_size"])
