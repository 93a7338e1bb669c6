"""From texts to scores: the one way that evaluating, predicting and everything built on them go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bertwright import hardware
from bertwright.config.parts import MachineSettings, ScoringMachineSettings, WindowPooling
from bertwright.data.budget import within_memory
from bertwright.data.packing import batches_by_length
from bertwright.data.ragged import Ragged, check_long_texts
from bertwright.data.resident import texts_on
from bertwright.errors import CheckpointError
from bertwright.evaluation.logit_scorer import ScorerByLogits
from bertwright.evaluation.scores import check_finite
from bertwright.model.batch import Batch
from bertwright.model.checkpoint import Loaded
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.gpu_encoder import Work
from bertwright.model.heads import TextClassifier, pooled_windows
from bertwright.model.tokenizer import Tokenizer
from bertwright.progress import Reporter


class Predictor(ScorerByLogits):
    """A classifier with its tokenizer, ready to score texts.

    Attributes:
        labels: names of the labels, in the order of the scores' columns.
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
        check_long_texts(
            settings.max_length,
            settings.long_texts,
            settings.window_overlap,
            settings.window_pooling,
            pairs=settings.pairs,
        )
        if settings.pairs:
            check_pairs(model, tokenizer)
        model.window_pooling = settings.window_pooling
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

    def logits(self, ragged: Ragged, reporter: Reporter | None = None) -> np.ndarray:
        """(texts, labels) float32 logits of tokenised texts.

        Raises:
            CheckpointError: one of them is not a finite number.
            UserError: a single text does not fit in memory.
        """
        reporter = reporter or Reporter(quiet=True)
        if self.model.training:  # eval() visits every part: half a millisecond
            self.model.eval()
        self.model.compile_for(self._work(ragged), training=False)
        rows = np.arange(len(ragged))

        def compute(token_budget: int) -> np.ndarray:
            return compute_logits(self.model, ragged, rows, self.device, token_budget, reporter)

        logits, self.token_budget = within_memory(
            compute, ragged.sequence_lengths(rows), self.token_budget, self.model.release_memory, reporter, "scoring"
        )
        return check_finite(logits)

    def _work(self, ragged: Ragged) -> Work:
        num_tokens = max(int(ragged.starts[-1]), self._expected_tokens)
        return Work(num_tokens, num_tokens // self.token_budget + 1)

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


def check_pairs(model: TextClassifier, tokenizer: Tokenizer) -> None:
    """Check that the model can read pairs of texts as the tokenizer joins them.

    Raises:
        CheckpointError: it cannot.
    """
    if tokenizer.check_pairs().segments and model.config.type_vocab_size == 1:
        raise CheckpointError(
            "the model cannot read pairs of texts: its type_vocab_size is 1, expected 2 or more for a tokenizer that "
            "makes the second text segment 1"
        )


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
    width = model.classifier.linear.out_features
    how = model.window_pooling
    return compute_texts(model, width, ragged, rows, device, token_budget, how, reporter, what).cpu().numpy()


def compute_texts(
    compute: Callable[[Batch], Tensor],
    width: int,
    ragged: Ragged,
    rows: np.ndarray,
    device: torch.device,
    token_budget: int,
    pooling: WindowPooling,
    reporter: Reporter,
    what: str,
) -> Tensor:
    """(rows, width) float32 on ``device``: what ``compute`` gives for the ``rows`` of ``ragged``, without gradients.

    ``compute`` gets batches of at most ``token_budget`` tokens (or one sequence), without ``text_starts``, and gives
    (sequences, width). Windows are computed wherever they fit and pooled by ``pooling`` afterwards: so a text of any
    length takes no more memory than others.
    """
    sequences, text_starts = ragged.sequences_of(rows)
    windows = ragged.as_sequences()
    texts = texts_on(windows, device)
    # On a GPU all results stay there to the end, so that the CPU is never waited for.
    found = torch.zeros(len(sequences), width, device=device)
    num_windows = None if text_starts is None else np.diff(text_starts)
    owners = None if num_windows is None else np.repeat(np.arange(len(rows)), num_windows)
    with reporter.progress(what, len(rows)) as advance, torch.no_grad():
        for chosen in batches_by_length(windows.lengths[sequences], token_budget):
            index = torch.from_numpy(chosen).to(device, non_blocking=True)
            found[index] = compute(texts.batch(sequences[chosen])).float()
            if owners is None or num_windows is None:
                advance(len(chosen))
                continue
            np.subtract.at(num_windows, owners[chosen], 1)
            advance(int(np.count_nonzero(num_windows[np.unique(owners[chosen])] == 0)))
    if text_starts is None:
        return found
    return pooled_windows(found, torch.from_numpy(text_starts).to(device), pooling)
