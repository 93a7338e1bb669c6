"""What every scorer does that computes logits, whatever computes them. Torch is never imported here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertwright.data.ragged import Ragged, tokenize_texts
from bertwright.errors import UserError
from bertwright.evaluation.predictions import Prediction, predictions_of
from bertwright.evaluation.scorer import TextOrPair, checked_texts
from bertwright.evaluation.scores import scores_of
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.tokenizer import Tokenizer
from bertwright.progress import Reporter


class ScorerByLogits(ABC):
    """A :class:`bertwright.evaluation.scorer.Scorer` whose scores are made of logits.

    Attributes:
        tokenizer: what its ``tokenize`` asks.
        notes: what was chosen and found on loading.
        device: torch's; None where torch takes no part.
    """

    labels: tuple[str, ...]
    settings: ClassifierSettings
    token_budget: int
    tokenizer: Tokenizer
    notes: list[str]
    device: Any
    _expected_tokens = 0

    @abstractmethod
    def logits(self, ragged: Ragged, reporter: Reporter | None = None) -> np.ndarray:
        """(texts, labels) float32 logits of tokenised texts.

        Raises:
            CheckpointError: one of them is not a finite number.
            UserError: a single text does not fit in memory.
        """

    @abstractmethod
    def summary(self) -> str:
        """One line of what was chosen for this machine."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What was chosen for this machine, and why."""

    def expect(self, num_tokens: int) -> None:
        """About so many tokens will be scored in all, call after call: what is prepared may pay for all of them."""
        self._expected_tokens = max(self._expected_tokens, num_tokens)

    def predict(self, texts: Sequence[TextOrPair]) -> list[Prediction]:
        """A prediction for each text or, by a classifier of pairs, for each pair of texts.

        Raises:
            UserError: ``texts`` is one string, or holds something that is no valid text, or single texts for a
                classifier of pairs, or pairs for one of single texts.
        """
        return self.predictions(self.score(checked_texts(texts)))

    def predictions(self, scores: np.ndarray) -> list[Prediction]:
        """What is decided by ``scores`` (texts, labels), as ``score`` gives them."""
        return predictions_of(scores, self.settings)

    def score(self, texts: Sequence[TextOrPair] | Any, reporter: Reporter | None = None) -> np.ndarray:
        """(texts, labels) float64 scores; ``texts`` may also be a pyarrow array of strings.

        Of classes, probabilities that sum to 1 in each row; of any number of labels, a probability each; of a
        regression, the number. A classifier of pairs takes a list of (text, second text). A text scores the same alone
        and in company, but for the rounding of the dtype.
        """
        return self.probabilities(self.logits(self.tokenize(texts, reporter), reporter))

    def tokenize(
        self,
        texts: Sequence[TextOrPair] | Any,
        reporter: Reporter | None = None,
        pairs: Any = None,
    ) -> Ragged:
        """The texts' token ids, of the length and in the way that the classifier was trained with.

        ``texts`` may be a pyarrow array of strings; ``pairs`` are then the second texts, for a classifier of pairs. For
        that, a list holds (text, second text).

        Raises:
            UserError: as :meth:`predict`.
        """
        settings = self.settings
        if pairs is None and settings.pairs:
            texts, pairs = _first_and_second(texts)
        elif pairs is not None and not settings.pairs:
            raise UserError("found second texts, expected none: this classifier judges single texts")
        elif isinstance(texts, list | tuple):
            _check_single(texts)
        return tokenize_texts(
            self.tokenizer,
            texts,
            settings.max_length,
            reporter or Reporter(quiet=True),
            pairs=pairs,
            long_texts=settings.long_texts,
            window_overlap=settings.window_overlap,
        )

    def score_tokenized(self, texts: Sequence[TextOrPair], ragged: Ragged) -> np.ndarray:
        """(texts, labels) float64 scores, as ``score`` gives them, of ``texts`` whose ``tokenize`` gave ``ragged``.

        The texts themselves are not looked at: see :class:`bertwright.evaluation.scorer.Scorer`.
        """
        return self.probabilities(self.logits(ragged))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(texts, labels) float64 scores of ``logits``: ``scores_of`` with the classifier's kind and temperature."""
        return scores_of(logits, self.settings.kind, self.settings.temperature)


def _first_and_second(texts: Any) -> tuple[list[Any], list[Any]]:
    """The first and the second texts of a list of pairs."""
    texts = list(texts)
    for i, pair in enumerate(texts):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            found = f"{len(pair)} texts" if isinstance(pair, tuple | list) else type(pair).__name__
            raise UserError(f"text {i + 1}: found {found}, expected (text, second text): this classifier judges pairs")
    return [pair[0] for pair in texts], [pair[1] for pair in texts]


def _check_single(texts: Sequence[Any]) -> None:
    for i, text in enumerate(texts):
        if isinstance(text, tuple | list):
            raise UserError(
                f"text {i + 1}: found {len(text)} texts, expected one string: this classifier judges single texts"
            )
