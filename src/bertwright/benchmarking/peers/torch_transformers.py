"""The transformers library's own model, in torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import transformers

from bertwright import hardware
from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import NotPossible
from bertwright.benchmarking.peers.padded import PaddedInference


class Inference(PaddedInference):
    """``AutoModelForSequenceClassification``, as it is or compiled.

    Args:
        dtype: of weights and activations.
        attention: transformers' attn_implementation.
        compiled: by torch.compile, for any shape of a batch.
    """

    def __init__(
        self,
        case: Case,
        dtype: Literal["float32", "bfloat16"] = "float32",
        attention: str = "sdpa",
        compiled: bool = False,
    ) -> None:
        if case.pooling != "first":
            raise NotPossible("transformers has no classifier over the mean of all tokens")
        super().__init__(case)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.device = hardware.choose_device(case.device)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            case.model_folder, dtype=getattr(torch, dtype), attn_implementation=attention
        )
        self.model = model.to(self.device).eval()
        self.chosen |= {
            "transformers": transformers.__version__,
            "dtype": dtype,
            "attention": self.model.config._attn_implementation,
            "compiled": compiled,
        }
        if compiled:
            self.model = torch.compile(self.model, dynamic=True)
        self.choose({"": lambda: self})
        self.chosen["num_threads"] = torch.get_num_threads()

    def score(self, batches: list[np.ndarray]) -> None:
        # Fetched at the end, so that a GPU is not waited for after each batch.
        found = [self._compute(*self.case.padded(rows)) for rows in batches]
        for rows, logits in zip(batches, found, strict=True):
            self.logits[rows] = logits.cpu().numpy()

    def score_padded(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self._compute(ids, mask).cpu().numpy()

    @torch.inference_mode()
    def _compute(self, *arrays: np.ndarray) -> torch.Tensor:
        ids, mask = (torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays)
        return self.model(input_ids=ids, attention_mask=mask).logits.float()
