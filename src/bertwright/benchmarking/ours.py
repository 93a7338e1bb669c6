"""Our own code as contenders: the same calls that the commands make."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertwright import hardware
from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import Turn
from bertwright.config.base import build
from bertwright.config.parts import ScoringMachineSettings
from bertwright.config.tokenize import TokenizeConfig
from bertwright.config.train import TrainConfig
from bertwright.data.batches import training_batches
from bertwright.data.ragged import Ragged, tokenize_texts
from bertwright.data.token_cache import open_token_cache
from bertwright.evaluation.predictor import Predictor
from bertwright.model.checkpoint import load_classifier
from bertwright.model.gpu_encoder import Work
from bertwright.model.tokenizer import load_tokenizer
from bertwright.progress import Reporter
from bertwright.training.learners import WholeModel
from bertwright.training.loop import fit
from bertwright.training.loss import CrossEntropy

_WARM_UP_STEPS = 3
_HASHED_IDS = 1 << 20


class Inference:
    """Scoring by ``Predictor``: from token ids, or from texts with ``tokenizes``, to logits in the original order."""

    def __init__(self, case: Case, dtype: str | None = None, tokenizes: bool = False) -> None:
        self.case, self.tokenizes = case, tokenizes
        machine = build(ScoringMachineSettings, {"device": case.device, "dtype": dtype or case.dtype})
        self.predictor = Predictor.from_loaded(load_classifier(str(case.model_folder)), machine)
        # A benchmark stands for more work than it does.
        work = Work(int(case.ragged.starts[-1]), 1)
        self.predictor.model.compile_for(work, training=False, always=True)
        self.found = np.zeros((0, 0), dtype=np.float32)
        self.texts, self.ragged = case.texts, case.ragged
        self.chosen: dict[str, Any] = {
            **self.predictor.describe(),
            "token_budget": self.predictor.token_budget,
            "num_threads": torch.get_num_threads(),
        }

    def run(self) -> Turn:
        started = time.perf_counter()
        ragged = self.predictor.tokenize(self.texts) if self.tokenizes else self.ragged
        self.found = self.predictor.logits(ragged)
        seconds = time.perf_counter() - started
        return Turn(seconds, len(ragged), int(ragged.starts[-1]))

    def score_alone(self, ids: np.ndarray) -> np.ndarray:
        return self.predictor.logits(Ragged(ids, np.array([0, len(ids)]), 0))[0]

    def outcome(self) -> dict[str, np.ndarray]:
        return {"logits": self.found}


class Training:
    """An epoch of ``fit`` over the case's texts: batches, forward, backward, update, as in ``bertwright train``."""

    def __init__(self, case: Case, dtype: str | None = None) -> None:
        self.case = case
        self.device = hardware.choose_device(case.device)
        chosen, reason = hardware.choose_dtype(dtype or case.dtype, self.device)
        loaded = load_classifier(str(case.model_folder))
        self.originals = dict(loaded.model.state_dict())
        self.model = loaded.model.to(self.device).compute_in(chosen).train()
        token_budget = hardware.token_budget(None, self.device)
        self.learner = WholeModel(self.model, case.ragged, self.device, token_budget)
        num_steps = -(-case.num_texts // case.batch_size)
        self.learner.compile_for(training_batches(case.num_texts, case.batch_size, case.seed, num_steps), always=True)
        self.chosen: dict[str, Any] = {
            "dtype": str(chosen).removeprefix("torch."),
            "dtype_reason": reason,
            "token_budget": token_budget,
            "optimizer": "adamw",
            **self.model.describe(),
            "num_threads": torch.get_num_threads(),
        }
        self._fit(_WARM_UP_STEPS)

    def run(self) -> Turn:
        outcome = self._fit(None)
        return Turn(outcome.train_s, outcome.num_texts, outcome.num_tokens)

    def outcome(self) -> dict[str, np.ndarray]:
        return {}

    def _fit(self, steps: int | None) -> Any:
        settings: dict[str, Any] = {
            "train": ("texts",),
            "batch_size": self.case.batch_size,
            "learning_rate": self.case.learning_rate,
            "seed": self.case.seed,
        }
        config = build(TrainConfig, settings if steps is None else {**settings, "steps": steps})
        reporter = Reporter(quiet=True, results=False)
        return fit(
            self.learner,
            CrossEntropy(self.case.label_ids, self.learner.device),
            config,
            self.case.learning_rate,
            self.originals,
            None,
            "",
            lambda line: None,
            reporter,
        )


class Pretraining:
    """Our pretraining loop, once through the case's sequences, without looks at held-out documents."""

    def __init__(self, case: Case) -> None:
        from bertwright.data.masking import Masking, Vocabulary
        from bertwright.model.masked_checkpoint import load_masked
        from bertwright.training.pretrain_loop import Sequences

        self.case, self.device = case, hardware.choose_device(case.device)
        chosen, reason = hardware.choose_dtype(case.dtype, self.device)
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        folder = str(case.model_folder)
        loaded = load_masked(folder, case.max_length, case.seed, None, no_dropout)
        self.originals = dict(loaded.model.state_dict())
        self.model = loaded.model.to(self.device).compute_in(chosen)
        self.model.compile_for(Work(case.num_tokens, 1), always=True)
        self.sequences = Sequences(case.ragged, Masking(Vocabulary.of(loaded.tokenizer, folder)), self.device)
        self.batch_tokens = case.batch_size * case.max_length
        self.chosen: dict[str, Any] = {
            "dtype": str(chosen).removeprefix("torch."),
            "dtype_reason": reason,
            "optimizer": "adamw",
            **self.model.describe(),
            "num_threads": torch.get_num_threads(),
        }
        self._learn(_WARM_UP_STEPS)

    def run(self) -> Turn:
        progress = self._learn(None)
        return Turn(progress.train_s, progress.num_texts, progress.num_tokens)

    def outcome(self) -> dict[str, np.ndarray]:
        return {}

    def _learn(self, steps: int | None) -> Any:
        from bertwright.config.pretrain import PretrainConfig
        from bertwright.training.pretrain_loop import Pretraining as Loop
        from bertwright.training.pretrain_loop import num_steps_of

        given: dict[str, Any] = {"corpus": ("case",), "batch_tokens": self.batch_tokens, "seed": self.case.seed}
        config = build(PretrainConfig, {**given, "steps": steps, "learning_rate": self.case.learning_rate})
        num_steps = num_steps_of(config, self.sequences.lengths)
        budget = hardware.token_budget(None, self.device)
        loop = Loop(
            self.model, self.originals, self.sequences, None, config, num_steps, None, budget, lambda line: None,
            Reporter(quiet=True, results=False),
        )  # fmt: skip
        return loop.run().progress


class Tokenizing:
    """``tokenize_texts``: an Arrow array of texts in, token ids out."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.tokenizer = load_tokenizer(case.model_folder)
        self.texts = case.texts
        self.num_bytes = text_bytes(case)
        self.digest = ""
        self.chosen: dict[str, Any] = {"engine": self.tokenizer.engine, "reason": self.tokenizer.reason}
        tokenize_texts(self.tokenizer, self.texts[:256], case.max_length, Reporter(quiet=True))

    def run(self) -> Turn:
        started = time.perf_counter()
        ragged = tokenize_texts(self.tokenizer, self.texts, self.case.max_length, Reporter(quiet=True))
        seconds = time.perf_counter() - started
        self.digest = ids_sha256(ragged.ids)
        return Turn(seconds, len(ragged), int(ragged.starts[-1]), num_bytes=self.num_bytes)

    def outcome(self) -> dict[str, np.ndarray]:
        return {"ids_sha256": np.array(self.digest)}


class FileToCache:
    """``bertwright tokenize``: files in, a folder of token ids out, written to disk."""

    def __init__(self, case: Case) -> None:
        from bertwright.data.tokenize import run_tokenization

        self.case, self.act = case, run_tokenization
        self.folder = Path(case.folder) / f"tokens-{os.getpid()}"
        self.num_bytes = sum(os.path.getsize(file) for file in case.files)
        self.digest = ""
        self.chosen: dict[str, Any] = {"files": len(case.files), "counts": "bytes of the files"}

    def run(self) -> Turn:
        shutil.rmtree(self.folder, ignore_errors=True)
        values = {"data": self.case.files, "output": str(self.folder), "model": str(self.case.model_folder)}
        config = build(TokenizeConfig, {**values, "max_length": self.case.max_length, "labels": False})
        started = time.perf_counter()
        self.act(config, Reporter(quiet=True, results=False))
        seconds = time.perf_counter() - started
        cached = open_token_cache(self.folder)[1]
        self.digest = ids_sha256(cached.ids)
        return Turn(seconds, len(cached.starts) - 1, len(cached.ids), num_bytes=self.num_bytes)

    def outcome(self) -> dict[str, np.ndarray]:
        return {"ids_sha256": np.array(self.digest)}


class Peak:
    """Large matrix products: what the machine can do at most, in ``dtype``."""

    _SECONDS = 1.0

    def __init__(self, case: Case, dtype: str | None = None) -> None:
        self.device = hardware.choose_device(case.device)
        self.dtype, _ = hardware.choose_dtype(dtype or case.dtype, self.device)
        sizes = (1024, 2048, 4096) if self.device.type == "cpu" else (4096, 8192, 16384)
        rates: dict[int, float] = {}
        for size in sizes:
            if rates and 2.0 * size**3 / max(rates.values()) > self._SECONDS / 4:
                break  # too few of them would fit into a turn, and larger ones are no faster on so slow a machine
            self._set_size(size)
            self._rate(0.2)
            rates[size] = self._rate(0.4)
        best = max(rates, key=lambda size: rates[size])
        self._set_size(best)
        self.chosen: dict[str, Any] = {
            "dtype": str(self.dtype).removeprefix("torch."),
            "product": f"{best} x {best} x {best}",
            "num_threads": torch.get_num_threads(),
        }

    def run(self) -> Turn:
        seconds, operations = self._measure(self._SECONDS)
        return Turn(seconds, 0, 0, operations=operations)

    def outcome(self) -> dict[str, np.ndarray]:
        return {}

    def _set_size(self, size: int) -> None:
        self.size = size
        generator = torch.Generator().manual_seed(0)
        self.left, self.right = (
            torch.randn(size, size, generator=generator).to(self.device, self.dtype) for _ in range(2)
        )
        self.product = torch.empty(size, size, device=self.device, dtype=self.dtype)

    def _rate(self, seconds: float) -> float:
        took, operations = self._measure(seconds)
        return operations / took

    @torch.inference_mode()
    def _measure(self, seconds: float) -> tuple[float, float]:
        """Seconds taken, and operations done in them."""
        count, started = 0, time.perf_counter()
        while (took := time.perf_counter() - started) < seconds or count == 0:
            for _ in range(1 if self.device.type == "cpu" else 20):
                torch.mm(self.left, self.right.T, out=self.product)
                count += 1
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        return took, count * 2.0 * self.size**3


def ids_sha256(ids: np.ndarray) -> str:
    """The hash of token ids (tokens,) as int32, piece by piece: no second copy of them is held."""
    digest = hashlib.sha256()
    for start in range(0, len(ids), _HASHED_IDS):
        digest.update(np.ascontiguousarray(ids[start : start + _HASHED_IDS], dtype="<i4").data)
    return digest.hexdigest()


def text_bytes(case: Case) -> int:
    """Bytes of the case's texts in UTF-8."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(case.texts)).as_py() or 0)
