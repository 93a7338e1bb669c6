"""Hugging Face's Trainer, training on the same texts."""

from __future__ import annotations

import tempfile
import time
from typing import Any, Literal

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bertwright import hardware
from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import NotPossible, Turn

_WARM_UP_STEPS = 3

Precision = Literal["float32", "bfloat16_autocast", "bfloat16_weights", "float16_autocast"]


def training_arguments(case: Case, precision: Precision, optimizer: str = "adamw_torch_fused") -> dict[str, Any]:
    """What Trainer is told for ``case``; the examples come in the order in which they lie."""
    device = hardware.choose_device(case.device)
    return {
        "output_dir": case.folder,
        "per_device_train_batch_size": case.batch_size,
        "learning_rate": case.learning_rate,
        "optim": optimizer,
        "bf16": precision == "bfloat16_autocast",
        "fp16": precision == "float16_autocast",
        "train_sampling_strategy": "sequential",
        "use_cpu": device.type == "cpu",
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device.type == "cuda",
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": case.seed,
    }


class Training:
    """An epoch of ``Trainer.train`` over the case's texts. The clock runs from the first step to the end of the last.

    Args:
        precision: "bfloat16_autocast" is Trainer's ``bf16=True``; "bfloat16_weights" loads the model in bfloat16, which
            also keeps optimizer and updates in 8 bits of precision.
        attention: transformers' attn_implementation.
        length_grouped: batches of texts of like length, padded to the batch's longest, as Trainer's
            ``train_sampling_strategy="group_by_length"`` makes them of a large data set; else batches at random, padded
            to ``case.max_length``, as the usual recipe does.
        steps: take this many steps only, where a step costs the same whatever the texts are.
    """

    def __init__(
        self,
        case: Case,
        precision: Precision = "bfloat16_autocast",
        attention: str = "sdpa",
        optimizer: str = "adamw_torch_fused",
        length_grouped: bool = True,
        compiled: bool = False,
        steps: int | None = None,
    ) -> None:
        if case.pooling != "first":
            raise NotPossible("transformers has no classifier over the mean of all tokens")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.case = case
        self.device = hardware.choose_device(case.device)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            case.model_folder,
            dtype=torch.bfloat16 if precision == "bfloat16_weights" else torch.float32,
            attn_implementation=attention,
        )
        tokenizer = AutoTokenizer.from_pretrained(case.model_folder)
        padding: dict[str, Any] = {} if length_grouped else {"padding": "max_length", "max_length": case.max_length}
        self.collator = DataCollatorWithPadding(tokenizer, **padding)
        num_rows = case.num_texts if steps is None else min(case.num_texts, steps * case.batch_size)
        self.rows = np.arange(num_rows)
        if num_rows < case.num_texts:  # evenly from all, since the first batch is the longest
            self.rows = (np.arange(num_rows) * case.num_texts) // num_rows
        self.folder = tempfile.TemporaryDirectory(dir=case.folder)
        self.arguments = {
            **training_arguments(case, precision, optimizer),
            "output_dir": self.folder.name,
            # The case's texts lie in the order in which length grouping would take them.
            "train_sampling_strategy": "sequential" if length_grouped else "random",
            "torch_compile": compiled,
        }
        self.chosen: dict[str, Any] = {
            "transformers": transformers.__version__,
            "accelerate": version_of("accelerate"),
            "precision": precision,
            "attention": self.model.config._attn_implementation,
            "optimizer": optimizer,
            "batches": "length-grouped" if length_grouped else f"padded to {case.max_length}",
            "torch_compile": compiled,
            "texts_a_turn": num_rows,
            "num_threads": torch.get_num_threads(),
        }
        # A compiled model meets all shapes of an epoch before it is timed.
        self._train(None if compiled else _WARM_UP_STEPS)

    def run(self) -> Turn:
        seconds = self._train(None)
        lengths = self.case.ragged.lengths[self.rows]
        return Turn(seconds, len(self.rows), int(lengths.sum()))

    def outcome(self) -> dict[str, np.ndarray]:
        return {}

    def _train(self, steps: int | None) -> float:
        """Train for an epoch, or ``steps`` steps; the seconds that the steps took."""
        length: dict[str, Any] = {"num_train_epochs": 1.0} if steps is None else {"max_steps": steps}
        clock = Clock(self.device)
        trainer = Trainer(
            model=self.model,
            args=TrainingArguments(**self.arguments, **length),
            train_dataset=_Rows(self.case, self.rows),
            data_collator=self.collator,
            callbacks=[clock],
        )
        trainer.train()
        return clock.last_step_ended - clock.first_step_began


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The case's texts, tokenised, as the collator takes them."""

    def __init__(self, case: Case, rows: np.ndarray) -> None:
        ids, starts = case.ragged.ids, case.ragged.starts
        self.items = [
            {"input_ids": ids[starts[row] : starts[row + 1]].tolist(), "labels": int(case.label_ids[row])}
            for row in rows.tolist()
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


class Clock(TrainerCallback):
    """When the first step began and the last one ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.first_step_began = self.last_step_ended = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.first_step_began = self._now()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last_step_ended = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def version_of(package: str) -> str:
    """The version of an installed package."""
    from importlib.metadata import version

    return version(package)
