"""A classifier's exported graph, computed by ONNX Runtime: the same scores without torch. It is never imported here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bertwright.config.parts import MachineSettings, ScoringMachineSettings
from bertwright.data.ragged import Ragged, check_long_texts
from bertwright.errors import CheckpointError, UserError
from bertwright.evaluation.graph_session import GRAPH, TOKEN_BUDGET, GraphSession, pooled_windows
from bertwright.evaluation.logit_scorer import ScorerByLogits
from bertwright.evaluation.scores import check_finite
from bertwright.model.classifier_settings import SETTINGS, ClassifierSettings, read_classifier_settings
from bertwright.model.tokenizer import Tokenizer, load_tokenizer
from bertwright.progress import Reporter

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


def is_exported(path: str | Path) -> bool:
    """Whether ``path`` is a folder that ``bertwright export onnx`` made: a graph with settings, and no weights."""
    try:
        folder = Path(path).expanduser()
        has_graph = (folder / GRAPH).is_file() and (folder / SETTINGS).is_file()
        return has_graph and not any((folder / name).exists() for name in _WEIGHTS)
    except (OSError, RuntimeError, ValueError):  # a name too long, the home of nobody, or a NUL
        return False


class GraphPredictor(ScorerByLogits):
    """A classifier's graph with its tokenizer, ready to score texts on the CPU.

    Attributes:
        device: None: torch takes no part.
    """

    device = None

    def __init__(
        self,
        session: GraphSession,
        tokenizer: Tokenizer,
        settings: ClassifierSettings,
        machine: MachineSettings | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        machine = machine or ScoringMachineSettings()
        _check_machine(machine, session.dtype)
        check_long_texts(
            settings.max_length,
            settings.long_texts,
            settings.window_overlap,
            settings.window_pooling,
            pairs=settings.pairs,
        )
        self.session, self.tokenizer, self.settings = session, tokenizer, settings
        self.labels = settings.labels
        self.token_budget = machine.token_budget or TOKEN_BUDGET
        self.notes = [*notes, *tokenizer.notes]

    @classmethod
    def from_folder(cls, path: str | Path, machine: MachineSettings | None = None) -> GraphPredictor:
        """The graph in a folder that ``bertwright export onnx`` made.

        Raises:
            CheckpointError: a file is missing or damaged, or they do not belong together.
            UserError: a device or dtype that this graph does not have; ONNX Runtime is not installed.
        """
        folder = Path(path).expanduser()
        settings = read_classifier_settings(folder)
        if settings is None:
            raise CheckpointError(f"{folder}: no {SETTINGS}; expected a folder that bertwright export onnx made")
        session = GraphSession(folder / GRAPH)
        if session.num_labels != len(settings.labels):
            raise CheckpointError(
                f"{folder}: {GRAPH} has {session.num_labels} logits, {SETTINGS} {len(settings.labels)} labels; they do "
                "not belong together"
            )
        return cls(session, load_tokenizer(folder), settings, machine)

    def logits(self, ragged: Ragged, reporter: Reporter | None = None) -> np.ndarray:
        reporter = reporter or Reporter(quiet=True)
        sequences, text_starts = ragged.sequences_of(np.arange(len(ragged)))
        windows = ragged.as_sequences()

        def batch_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            second = ragged.second_starts
            return windows.gather_sequences(rows)[0], None if second is None else second[rows]

        with reporter.progress("Scoring", len(sequences), "texts" if text_starts is None else "windows") as advance:
            found = self.session.logits(windows.lengths, batch_of, self.token_budget, lambda rows: advance(len(rows)))
        if text_starts is not None:
            found = pooled_windows(found, text_starts, self.settings.window_pooling)
        return check_finite(found)

    def summary(self) -> str:
        threads = self.session.num_threads
        return (
            f"computing on cpu in {self.session.dtype}: an exported graph, by ONNX Runtime {self.session.version}"
            + (f"; {threads} threads" if threads else "")
        )

    def describe(self) -> dict[str, str]:
        return {
            "dtype": self.session.dtype,
            "dtype_reason": "as exported",
            "onnxruntime": self.session.version,
            "tokenizer": self.tokenizer.engine,
            "tokenizer_reason": self.tokenizer.reason,
        }


def _check_machine(machine: MachineSettings, dtype: str) -> None:
    """Refuse what a graph cannot do.

    Raises:
        UserError: another device than the CPU, or another dtype than the graph's.
    """
    if machine.device not in ("auto", "cpu"):
        raise UserError(
            f"--device: found {machine.device!r}, expected cpu, which computes an exported graph. For a GPU name "
            "the run itself"
        )
    if machine.dtype not in ("auto", dtype):
        raise UserError(
            f"--dtype: found {machine.dtype!r}, but this graph was exported in {dtype}. Leave it out, or export "
            "the run again"
        )
