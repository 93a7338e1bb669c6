"""What turns texts into scores, whatever computes them: the seam behind which servers, bulk scoring and the like work.

A classifier in torch (:class:`bertwright.evaluation.predictor.Predictor`), one in an exported graph, and a cascade of
two are all this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bertwright.data.ragged import Ragged
from bertwright.errors import UserError
from bertwright.evaluation.predictions import Prediction
from bertwright.model.classifier_settings import ClassifierSettings

TextOrPair = str | tuple[str, str]


class Scorer(Protocol):
    """Texts in, scores out.

    Attributes:
        labels: names of the labels, in the order of the scores' columns.
        settings: what is decided by scores, and how texts are read.
        token_budget: how many tokens are computed at once, at most.
    """

    labels: tuple[str, ...]
    settings: ClassifierSettings
    token_budget: int

    def tokenize(self, texts: Sequence[TextOrPair] | Any) -> Ragged:
        """The texts' token ids: how much work each text is, and what ``score_tokenized`` computes with."""
        ...

    def score_tokenized(self, texts: Sequence[TextOrPair], ragged: Ragged) -> np.ndarray:
        """(texts, labels) float64 scores of ``texts``, whose ``tokenize`` gave ``ragged``.

        The texts are given too for what reads some of them again, as the large model of a cascade does.
        """
        ...

    def score(self, texts: Sequence[TextOrPair] | Any) -> np.ndarray:
        """(texts, labels) float64: ``score_tokenized`` of what ``tokenize`` gives."""
        ...

    def predictions(self, scores: np.ndarray) -> list[Prediction]:
        """What is decided by ``scores``."""
        ...

    def summary(self) -> str:
        """One line of what computes here."""
        ...

    def describe(self) -> dict[str, str]:
        """What was chosen for this machine, and why: the "dtype", and what else there was to choose."""
        ...


@runtime_checkable
class LogitScorer(Protocol):
    """A scorer that also tells the logits that its scores are made of. Not each one has any: a cascade of two models
    has those of one model for some texts and of the other for others.
    """

    def logits(self, ragged: Ragged) -> np.ndarray:
        """(texts, labels) float32."""
        ...

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(texts, labels) float64: what ``score_tokenized`` gives of texts with these ``logits``."""
        ...


def taken(texts: Sequence[TextOrPair] | Any, rows: np.ndarray) -> Sequence[TextOrPair] | Any:
    """The texts in ``rows``: of Texts and of pyarrow arrays such, else a list."""
    return texts.take(rows) if hasattr(texts, "take") else [texts[row] for row in rows.tolist()]


def checked_texts(texts: Sequence[TextOrPair]) -> list[TextOrPair]:
    """The texts as a list.

    Raises:
        UserError: they are one string.
    """
    if isinstance(texts, str):
        raise UserError("predict takes a list of texts; found one string. Put it in brackets: predict([text])")
    return list(texts)
