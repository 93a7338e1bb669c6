"""What all libraries share that score padded batches, and finding out with which settings each is the fastest.

This does not import torch: a library that needs none has its own memory alone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import Turn

# Texts of a trial: at least so many, and two batches for each thread.
_TRIED_TEXTS, _TRIED_BATCHES_PER_THREAD = 256, 2


class Scorer(Protocol):
    """A model made ready with certain settings."""

    def score(self, batches: list[np.ndarray]) -> None:
        """Write the logits of the rows of all ``batches``."""
        ...

    def score_padded(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The logits (sequences, labels) of ids and attention mask, (sequences, tokens) int64 each."""
        ...


class PaddedInference:
    """Scoring length-sorted padded batches, from token ids to logits in the original order.

    Attributes:
        logits: (texts, labels) float32, as last computed.
        batch_size: of what was found to be the fastest.
    """

    scorer: Scorer

    def __init__(self, case: Case) -> None:
        self.case = case
        self.logits = np.full((case.num_texts, case.num_labels), np.nan, dtype=np.float32)
        self.chosen: dict[str, Any] = {}
        self.batch_size = case.batch_size

    def choose(self, makers: Mapping[str, Callable[[], Scorer]], sizes: Sequence[int] | None = None) -> str:
        """Take the fastest of the scorers that ``makers`` make, with the fastest batch size; gives its name.

        One scorer is held at a time, so that a peer's memory is that of what it then runs.

        Args:
            sizes: batch sizes to try; None: the case's.
        """
        sizes = self.case.batch_sizes if sizes is None else sizes
        started, cold_s = time.perf_counter(), 0.0
        rates: dict[tuple[str, int], float] = {}
        best = next(iter(makers)), sizes[0]
        scorer = None
        if len(makers) * len(sizes) > 1:
            for name, make in makers.items():
                scorer = None
                gc.collect()
                scorer = make()
                for size in sizes:
                    rates[name, size], colder_s = self._try(scorer, size)
                    cold_s += colder_s if len(makers) == 1 else 0.0  # others start cold once more
            best = max(rates, key=lambda tried: rates[tried])
            if len(makers) > 1:
                scorer = None
                gc.collect()
        tuning_s = time.perf_counter() - started if rates else 0.0
        self.scorer = makers[best[0]]() if scorer is None else scorer
        self.batch_size = best[1]
        batches = self.case.sorted_batches(self.batch_size)
        computed = sum(len(rows) * self.padded_width(int(self.case.ragged.lengths[rows].max())) for rows in batches)
        self.chosen |= {
            "batch_size": self.batch_size,
            "batch_size_reason": f"the fastest of {', '.join(map(str, sizes))}" if len(sizes) > 1 else "as asked",
            "padding_share": 1 - self.case.num_tokens / computed,
            "tuning_s": tuning_s - cold_s,
            "cold_s": cold_s,
            "num_threads": self.case.num_threads,
        }
        return best[0]

    def padded_width(self, longest: int) -> int:
        """Tokens that each row of a batch has whose longest text has ``longest``."""
        return longest

    def _try(self, scorer: Scorer, size: int) -> tuple[float, float]:
        """Texts a second of some of the case's texts, and by how many seconds the first pass was slower."""
        wanted = max(_TRIED_TEXTS, _TRIED_BATCHES_PER_THREAD * self.case.num_threads * size)
        batches = self.case.sorted_batches(size, wanted)
        passes = []
        for _ in range(2):
            started = time.perf_counter()
            scorer.score(batches)
            passes.append(time.perf_counter() - started)
        return sum(map(len, batches)) / passes[1], max(0.0, passes[0] - passes[1])

    def run(self) -> Turn:
        self.logits.fill(np.nan)  # a text that is passed over must not keep the answer of an earlier turn
        started = time.perf_counter()
        self.scorer.score(self.case.sorted_batches(self.batch_size))
        seconds = time.perf_counter() - started
        return Turn(seconds, self.case.num_texts, self.case.num_tokens)

    def score_alone(self, ids: np.ndarray) -> np.ndarray:
        return self.scorer.score_padded(ids[None], np.ones((1, len(ids)), dtype=np.int64))[0]

    def outcome(self) -> dict[str, np.ndarray]:
        return {"logits": self.logits}
