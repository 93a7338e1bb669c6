"""An exported cascade in a Lambda function: the small graph answers where it is sure, the large one elsewhere.

It gives what :class:`bertwright.evaluation.cascade.Cascade` gives for the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bertwright.evaluation.deferral import align_logits, sureness
from bertwright.evaluation.predictions import Prediction, predictions_of
from bertwright.evaluation.scores import scores_of
from bertwright.shipping.aws_lambda.classifier import Classifier

MANIFEST = "cascade.json"


class CascadeClassifier:
    """The two graphs in a folder that ``bertwright export`` made of a cascade.

    Attributes:
        settings: the large model's, by which is decided.
        session: the large model's.
    """

    def __init__(self, folder: Path, num_threads: int | None = None) -> None:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        self._slopes, self._biases = manifest["slopes"], manifest["biases"]
        self._sureness: float = manifest["sureness"]
        self.small, self.large = (Classifier(folder / name, num_threads) for name in ("small", "large"))
        self.settings, self.labels, self.session = self.large.settings, self.large.labels, self.large.session

    def predict(self, texts: Sequence[str | tuple[str, str]]) -> list[Prediction]:
        """A prediction for each text or, by classifiers of pairs, for each pair of texts."""
        return predictions_of(self.score(texts), self.settings)

    def score(self, texts: Sequence[str | tuple[str, str]]) -> np.ndarray:
        """(texts, labels) float64 scores."""
        kind = self.settings.kind
        scores = scores_of(align_logits(self.small.logits(texts), self._slopes, self._biases), kind)
        rows = np.flatnonzero(sureness(scores, kind, self.settings.threshold) < self._sureness)
        if len(rows):
            scores[rows] = self.large.score([texts[row] for row in rows.tolist()])
        return scores

    def warm_up(self, text: str | tuple[str, str]) -> None:
        """Let both graphs compute once: the first call is slower than others."""
        self.small.warm_up(text)
        self.large.warm_up(text)


def load(folder: Path, num_threads: int | None = None) -> Classifier | CascadeClassifier:
    """What scores, from a folder that ``bertwright export`` made."""
    return (CascadeClassifier if (folder / MANIFEST).is_file() else Classifier)(folder, num_threads)
