"""An exported graph in a Lambda function: texts to scores with NumPy, tokenizers and ONNX Runtime alone.

It gives what :class:`bertwright.evaluation.graph_predictor.GraphPredictor` gives for the same folder, without pyarrow,
pydantic and nanotoken, which would be another 100 MB and a second of each cold start. What both need is imported;
texts are cut by ``tokenizers`` itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tokenizers

from bertwright.evaluation.graph_session import GRAPH, TOKEN_BUDGET, GraphSession, pooled_windows
from bertwright.evaluation.predictions import Prediction, predictions_of
from bertwright.evaluation.scores import check_finite, scores_of

SETTINGS = "bertwright.json"
# Of what is kept of a long text by head+tail: see bertwright.data.ragged.
_HEAD_TOKENS, _HEAD_AND_TAIL_TOKENS = 128, 510


class Classifier:
    """The graph in a folder that ``bertwright export`` made.

    Attributes:
        settings: what bertwright.json says; see :class:`bertwright.model.classifier_settings.ClassifierSettings`.
    """

    def __init__(self, folder: Path, num_threads: int | None = None) -> None:
        self.settings: Any = SimpleNamespace(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        self.labels = tuple(self.settings.labels)
        self.session = GraphSession(folder / GRAPH, num_threads)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if self.settings.long_texts != "head+tail":
            overlap = self.settings.window_overlap if self.settings.long_texts == "windows" else 0
            self._tokenizer.enable_truncation(self.settings.max_length, stride=overlap, strategy="longest_first")

    def predict(self, texts: Sequence[str | tuple[str, str]]) -> list[Prediction]:
        """A prediction for each text or, by a classifier of pairs, for each pair of texts."""
        return predictions_of(self.score(texts), self.settings)

    def score(self, texts: Sequence[str | tuple[str, str]]) -> np.ndarray:
        """(texts, labels) float64 scores."""
        return scores_of(self.logits(texts), self.settings.kind, self.settings.temperature)

    def warm_up(self, text: str | tuple[str, str]) -> None:
        """Let the graph compute once: the first call is slower than others."""
        self.logits([text])

    def logits(self, texts: Sequence[str | tuple[str, str]]) -> np.ndarray:
        """(texts, labels) float32."""
        ids, second_starts, num_windows = self._sequences(texts)
        lengths = np.array([len(one) for one in ids], np.int64)

        def batch_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.concatenate([ids[row] for row in rows]), second_starts[rows]

        logits = self.session.logits(lengths, batch_of, TOKEN_BUDGET)
        if len(ids) > len(texts):
            starts = np.concatenate([[0], np.cumsum(num_windows)])
            logits = pooled_windows(logits, starts, self.settings.window_pooling)
        return check_finite(logits)

    def _sequences(self, texts: Sequence[str | tuple[str, str]]) -> tuple[list[np.ndarray], np.ndarray, list[int]]:
        """Token ids of each sequence, where its second text begins, and how many sequences each text has."""
        ids, second_starts, num_windows = [], [], []
        for encoding in self._tokenizer.encode_batch(list(texts)):
            windows = [encoding]
            if self.settings.long_texts == "windows":
                windows += encoding.overflowing
            num_windows.append(len(windows))
            for window in windows:
                ids.append(np.array(self._both_ends(window.ids), np.int64))
                kinds = window.type_ids
                second_starts.append(kinds.index(1) if 1 in kinds else len(kinds))
        return ids, np.array(second_starts, np.int64), num_windows

    def _both_ends(self, ids: list[int]) -> list[int]:
        """``ids``, of which "head+tail" keeps the first and the last ones and the marks."""
        settings = self.settings
        if settings.long_texts != "head+tail" or len(ids) <= settings.max_length:
            return ids
        kept = settings.max_length - 2
        head = min(max(1, round(kept * _HEAD_TOKENS / _HEAD_AND_TAIL_TOKENS)), kept - 1)
        return [*ids[: head + 1], *ids[len(ids) - (kept - head) - 1 :]]
