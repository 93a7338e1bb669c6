"""Hugging Face's Trainer with DataCollatorForLanguageModeling, learning from the same sequences."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer

from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import Turn
from bertwright.benchmarking.peers.trainer import Clock, training_arguments, version_of

_WARM_UP_STEPS = 1


class Pretraining:
    """Once through the case's sequences. The clock runs from the first step to the end of the last.

    Args:
        blocks: the sequences end to end, cut into blocks of ``case.max_length`` tokens across documents, as the
            library's own example does it: no padding; else the sequences themselves, by length, padded.
        precision: "bfloat16_autocast" is Trainer's ``bf16=True``; "bfloat16_weights" loads the model in bfloat16.
        compiled: by ``torch_compile``, which is done before the clock runs.
    """

    def __init__(
        self,
        case: Case,
        blocks: bool = True,
        precision: Literal["bfloat16_autocast", "bfloat16_weights", "float32"] = "bfloat16_autocast",
        attention: str = "sdpa",
        compiled: bool = False,
    ) -> None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.case = case
        self.model = AutoModelForMaskedLM.from_pretrained(
            case.model_folder,
            dtype=torch.bfloat16 if precision == "bfloat16_weights" else torch.float32,
            attn_implementation=attention,
        )
        tokenizer = AutoTokenizer.from_pretrained(case.model_folder)
        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        self.items = [{"input_ids": ids.tolist()} for ids in (_blocks(case) if blocks else _sorted(case))]
        self.num_tokens = sum(len(item["input_ids"]) for item in self.items)
        self.arguments = {**training_arguments(case, precision), "torch_compile": compiled}
        self.chosen: dict[str, Any] = {
            "transformers": transformers.__version__,
            "accelerate": version_of("accelerate"),
            "precision": precision,
            "attention": attention,
            "optimizer": "adamw_torch_fused",
            "batches": f"blocks of {case.max_length}" if blocks else "length-grouped",
            "torch_compile": compiled,
            "num_threads": torch.get_num_threads(),
        }
        # A compiled model meets all shapes before it is timed: the last batch may be smaller.
        self._train(None if compiled else _WARM_UP_STEPS)

    def run(self) -> Turn:
        return Turn(self._train(None), len(self.items), self.num_tokens)

    def outcome(self) -> dict[str, np.ndarray]:
        return {}

    def _train(self, steps: int | None) -> float:
        length: dict[str, Any] = {"num_train_epochs": 1.0} if steps is None else {"max_steps": steps}
        clock = Clock(torch.device(self.case.device))
        trainer = Trainer(
            model=self.model,
            args=transformers.TrainingArguments(**self.arguments, **length),
            train_dataset=self.items,
            data_collator=self.collator,
            callbacks=[clock],
        )
        trainer.train()
        return clock.last_step_ended - clock.first_step_began


def _blocks(case: Case) -> list[np.ndarray]:
    ids = case.ragged.ids
    size = case.max_length
    return [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]


def _sorted(case: Case) -> list[np.ndarray]:
    ids, starts = case.ragged.ids, case.ragged.starts
    return [ids[starts[row] : starts[row + 1]] for row in np.concatenate(case.sorted_batches()).tolist()]
