"""The transformers library's own model, in torch."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import torch
import transformers

from bertwright import hardware
from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import NotPossible, Turn


class Inference:
    """Scoring length-sorted padded batches, from token ids to logits in the original order.

    Args:
        dtype: of weights and activations.
        attention: transformers' attn_implementation.
    """

    def __init__(self, case: Case, dtype: Literal["float32", "bfloat16"] = "float32", attention: str = "sdpa") -> None:
        if case.pooling != "first":
            raise NotPossible("transformers has no classifier over the mean of all tokens")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.case = case
        self.device = hardware.choose_device(case.device)
        self.model = (
            transformers.AutoModelForSequenceClassification.from_pretrained(
                case.model_folder, dtype=getattr(torch, dtype), attn_implementation=attention
            )
            .to(self.device)
            .eval()
        )
        self.logits = np.zeros((case.num_texts, case.num_labels), dtype=np.float32)
        self.chosen: dict[str, Any] = {
            "transformers": transformers.__version__,
            "dtype": dtype,
            "attention": self.model.config._attn_implementation,
            "num_threads": torch.get_num_threads(),
        }

    @torch.inference_mode()
    def run(self) -> Turn:
        started = time.perf_counter()
        batches = self.case.sorted_batches()
        found = []  # fetched at the end, so that a GPU is not waited for after each batch
        for rows in batches:
            ids, mask = (torch.from_numpy(array).to(self.device, non_blocking=True) for array in self.case.padded(rows))
            found.append(self.model(input_ids=ids, attention_mask=mask).logits.float())
        for rows, logits in zip(batches, found, strict=True):
            self.logits[rows] = logits.cpu().numpy()
        seconds = time.perf_counter() - started
        return Turn(seconds, self.case.num_texts, self.case.num_tokens)

    def outcome(self) -> dict[str, np.ndarray]:
        return {"logits": self.logits}
