"""The transformers library's pipeline, from texts to scores, as its documentation shows it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import transformers

from bertwright import hardware
from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import NotPossible, Turn


class Inference:
    """``pipeline("text-classification")`` on the texts in their order, at its defaults.

    Only what makes the work the same is set: texts are cut to the case's length, and all labels' scores are returned.
    """

    def __init__(self, case: Case, batch_size: int = 1) -> None:
        if case.pooling != "first":
            raise NotPossible("transformers has no classifier over the mean of all tokens")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.case = case
        self.texts: list[str] = case.texts.to_pylist()
        device = hardware.choose_device(case.device)
        folder = str(case.model_folder)
        self.pipeline = transformers.pipeline("text-classification", model=folder, tokenizer=folder, device=device)
        self.arguments: dict[str, Any] = {
            "truncation": True,
            "max_length": case.max_length,
            "top_k": None,
            **({} if batch_size == 1 else {"batch_size": batch_size}),
        }
        self.label_ids: Any = self.pipeline.model.config.label2id
        self.found: Any = []  # for each text, a list of {"label", "score"}
        self.chosen: dict[str, Any] = {
            "transformers": transformers.__version__,
            "dtype": str(self.pipeline.model.dtype).removeprefix("torch."),
            "attention": self.pipeline.model.config._attn_implementation,
            "batch_size": batch_size,
            "num_threads": torch.get_num_threads(),
        }

    def run(self) -> Turn:
        started = time.perf_counter()
        self.found = self.pipeline(self.texts, **self.arguments)
        seconds = time.perf_counter() - started
        return Turn(seconds, self.case.num_texts, self.case.num_tokens)

    def outcome(self) -> dict[str, np.ndarray]:
        scores = np.full((self.case.num_texts, self.case.num_labels), np.finfo(np.float64).tiny)
        for row, found in enumerate(self.found):
            for one in found:
                scores[row, self.label_ids[one["label"]]] = one["score"]
        return {"logits": np.log(scores)}  # of which softmax makes the same scores again
