"""From texts to scores: the one way that evaluating, predicting and everything built on them go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bertwright import hardware
from bertwright.config import MachineSettings, ScoringMachineSettings
from bertwright.data.batches import batches_by_length
from bertwright.data.budget import within_memory
from bertwright.data.ragged import Ragged, tokenize_texts
from bertwright.data.resident import texts_on
from bertwright.errors import CheckpointError, UserError
from bertwright.evaluation.metrics import decide
from bertwright.model.checkpoint import ClassifierSettings, Loaded, load_classifier
from bertwright.model.gpu_encoder import Work
from bertwright.model.heads import TextClassifier
from bertwright.model.tokenizer import Tokenizer
from bertwright.progress import Reporter


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one text.

    Attributes:
        label: the label decided for.
        probability: of that label, from 0 to 1.
        scores: the probability of every label.
    """

    label: str
    probability: float
    scores: dict[str, float]


class Predictor:
    """A classifier with its tokenizer, ready to score texts.

    Attributes:
        labels: class names, in the order of the scores' columns.
        notes: what was chosen and found on loading.
    """

    def __init__(
        self,
        model: TextClassifier,
        tokenizer: Tokenizer,
        settings: ClassifierSettings,
        machine: MachineSettings | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        machine = machine or ScoringMachineSettings()
        self.device = hardware.choose_device(machine.device)
        self.int8 = int8 = machine.dtype == "int8"
        self.dtype, self.dtype_reason = hardware.choose_dtype("auto" if int8 else machine.dtype, self.device)
        self.token_budget = hardware.token_budget(machine.token_budget, self.device)
        self.model = model.to(self.device).compute_in(self.dtype, machine.compile == "auto", int8).eval()
        self.tokenizer = tokenizer
        self.settings = settings
        self.labels = settings.labels
        self.notes = list(notes)

    @classmethod
    def from_loaded(cls, loaded: Loaded, machine: MachineSettings | None = None) -> Predictor:
        return cls(loaded.model, loaded.tokenizer, loaded.settings, machine, loaded.notes)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """A prediction for each text.

        Raises:
            UserError: ``texts`` is one string, or holds something that is no valid text.
        """
        if isinstance(texts, str):
            raise UserError("predict takes a list of texts; found one string. Put it in brackets: predict([text])")
        texts = list(texts)
        probabilities = self.score(texts)
        decided = decide(probabilities, self.settings.threshold)
        return [
            Prediction(
                label=self.labels[label],
                probability=float(row[label]),
                scores={name: float(score) for name, score in zip(self.labels, row, strict=True)},
            )
            for label, row in zip(decided, probabilities, strict=True)
        ]

    def score(self, texts: Sequence[str] | Any, reporter: Reporter | None = None) -> np.ndarray:
        """(texts, labels) float64 probabilities; ``texts`` may also be a pyarrow array of strings.

        Each row sums to 1. A text scores the same alone and in company, but for the rounding of the dtype.
        """
        return self.probabilities(self.logits(self.tokenize(texts, reporter), reporter))

    def tokenize(self, texts: Sequence[str] | Any, reporter: Reporter | None = None) -> Ragged:
        """The texts' token ids, cut to the length that the classifier was trained with."""
        return tokenize_texts(self.tokenizer, texts, self.settings.max_length, reporter or Reporter(quiet=True))

    def logits(self, ragged: Ragged, reporter: Reporter | None = None) -> np.ndarray:
        """(texts, labels) float32 logits of tokenised texts.

        Raises:
            CheckpointError: one of them is not a finite number.
            UserError: a single text does not fit in memory.
        """
        reporter = reporter or Reporter(quiet=True)
        self.model.eval().compile_for(self._work(ragged), training=False)
        rows = np.arange(len(ragged))

        def compute(token_budget: int) -> np.ndarray:
            return compute_logits(self.model, ragged, rows, self.device, token_budget, reporter)

        logits, self.token_budget = within_memory(
            compute, ragged.lengths, self.token_budget, self.model.release_memory, reporter, "scoring"
        )
        if not np.isfinite(logits).all():
            raise CheckpointError("the model's scores are not numbers: its weights are damaged; train it again")
        return logits

    def _work(self, ragged: Ragged) -> Work:
        num_tokens = int(ragged.starts[-1])
        return Work(num_tokens, num_tokens // self.token_budget + 1)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(texts, labels) float64: softmax of the logits over the classifier's temperature."""
        return softmax(logits / self.settings.temperature)

    def summary(self) -> str:
        """One line of what was chosen for this machine."""
        chosen = self.describe()
        return (
            f"computing on {self.device} in {chosen['dtype']}; compiled: {chosen['compile']} "
            f"({chosen['compile_reason']}); attention: {chosen['attention_kernel']}; {torch.get_num_threads()} threads"
        )

    def describe(self) -> dict[str, str]:
        """What was chosen for this machine, and why."""
        return {
            "dtype": "int8" if self.int8 else str(self.dtype).removeprefix("torch."),
            "dtype_reason": self.dtype_reason,
            **self.model.describe(),
            "tokenizer": self.tokenizer.engine,
            "tokenizer_reason": self.tokenizer.reason,
        }


def load(path: str, device: str = "auto", dtype: str = "auto", token_budget: int | None = None) -> Predictor:
    """The classifier of a run, of a folder in Hugging Face's layout, or of a hub name.

    With ``dtype="auto"`` scores are those of bfloat16 where the machine multiplies it fast; ``dtype="float32"`` gives
    the digits that other libraries give for the same folder.

    Raises:
        UserError: no classifier is there, or it cannot be used; an unknown device or dtype.
    """
    from bertwright.config import build

    machine = build(ScoringMachineSettings, {"device": device, "dtype": dtype, "token_budget": token_budget})
    return Predictor.from_loaded(load_classifier(str(path)), machine)


@torch.inference_mode()
def compute_logits(
    model: TextClassifier,
    ragged: Ragged,
    rows: np.ndarray,
    device: torch.device,
    token_budget: int,
    reporter: Reporter,
    what: str = "Scoring",
) -> np.ndarray:
    """(rows, labels) float32 logits of the ``rows`` of ``ragged``; the model's mode is the caller's to set."""
    texts = texts_on(ragged, device)
    # On a GPU all results stay there to the end, so that the CPU is never waited for.
    logits = torch.zeros(len(rows), model.classifier.linear.out_features, device=device)
    with reporter.progress(what, len(rows)) as advance:
        for chosen in batches_by_length(ragged.lengths[rows], token_budget):
            index = torch.from_numpy(chosen).to(device, non_blocking=True)
            logits[index] = model(texts.batch(rows[chosen]))
            advance(len(chosen))
        return logits.cpu().numpy()  # waits for all of it


def softmax(logits: np.ndarray) -> np.ndarray:
    """(texts, labels) float64, each row summing to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(axis=1, keepdims=True)
