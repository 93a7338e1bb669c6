"""A scorer for tests: what it says of a text follows from the text alone, at once and without a model."""

from __future__ import annotations

import hashlib
import time

import numpy as np

from bertwright.data.ragged import Ragged, starts_of
from bertwright.evaluation.predictions import predictions_of
from bertwright.model.classifier_settings import ClassifierSettings


class MadeScorer:
    """A token is a byte; the score of "yes" is made of the text's hash. ``pause_s`` is what a call takes."""

    def __init__(self, pairs: bool = False, pause_s: float = 0.0, token_budget: int = 8) -> None:
        self.labels = ("no", "yes")
        self.settings = ClassifierSettings(labels=self.labels, max_length=1000, pairs=pairs)
        self.token_budget = token_budget
        self.pause_s = pause_s
        self.calls: list[list] = []

    def tokenize(self, texts):
        strings = ["\0".join(text) if isinstance(text, tuple) else str(text) for text in texts]
        lengths = np.array([len(string.encode()) + 2 for string in strings], np.int64)
        return Ragged(np.zeros(int(lengths.sum()), np.int32), starts_of(lengths), 0)

    def score_tokenized(self, texts, ragged):
        assert len(texts) == len(ragged)
        time.sleep(self.pause_s)
        self.calls.append(list(texts))
        return np.array([self.score_of(text) for text in texts]).reshape(-1, 2)

    def score(self, texts):
        return self.score_tokenized(list(texts), self.tokenize(texts))

    @staticmethod
    def score_of(text) -> tuple[float, float]:
        whole = "\0".join(text) if isinstance(text, tuple) else text
        yes = int.from_bytes(hashlib.sha256(whole.encode()).digest()[:6], "big") / 2**48
        return 1 - yes, yes

    def predictions(self, scores):
        return predictions_of(scores, self.settings)

    def summary(self) -> str:
        return "computing by hand"
