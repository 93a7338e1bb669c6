"""Two classifiers that score as one: the small one answers where it is sure, the large one elsewhere.

Torch is never imported here: either may be an exported graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from bertwright.config.base import Settings, build
from bertwright.data.ragged import Ragged
from bertwright.errors import CheckpointError, UserError
from bertwright.evaluation.deferral import HIGHEST_BIAS, HIGHEST_SLOPE, align_logits, sureness
from bertwright.evaluation.logit_scorer import ScorerByLogits
from bertwright.evaluation.predictions import Prediction, predictions_of
from bertwright.evaluation.scorer import TextOrPair, checked_texts, taken
from bertwright.evaluation.scores import scores_of
from bertwright.model.classifier_settings import ClassifierSettings, Share, read_object
from bertwright.runs import write_json

MANIFEST = "cascade.json"
SMALL, LARGE = "small", "large"
"""The folders of the two models, beside the manifest."""


class CascadeManifest(Settings):
    """What cascade.json holds: when the small model answers, and what its scores are then.

    The models lie beside it, in folders of fixed names: no path in a manifest is ever followed.
    """

    format: Literal[1] = 1
    bertwright: str = Field("", description="The version that wrote it.")
    small: str = Field("", description="What the small model was copied from.")
    large: str = Field("", description="What the large model was copied from.")
    sureness: Share = Field(description="The small model answers where it is at least so sure.")
    slopes: tuple[Annotated[float, Field(gt=0, le=HIGHEST_SLOPE)], ...] = Field(
        min_length=1, description="See evaluation.deferral."
    )
    biases: tuple[Annotated[float, Field(ge=-HIGHEST_BIAS, le=HIGHEST_BIAS)], ...] = Field(
        min_length=1, description="One for each label."
    )
    deferred_share: Share = Field(description="Share of the tokens that went to the large model where it was tuned.")


def is_cascade(path: str | Path) -> bool:
    """Whether ``path`` is a folder that ``bertwright cascade`` made, or its export."""
    try:
        return (Path(path).expanduser() / MANIFEST).is_file()
    except (OSError, RuntimeError, ValueError):  # a name too long, the home of nobody, or a NUL
        return False


def read_cascade_manifest(folder: Path) -> CascadeManifest:
    """The manifest in ``folder``.

    Raises:
        CheckpointError: it is missing, damaged, or of a later version.
    """
    path = folder / MANIFEST
    try:
        return build(CascadeManifest, read_object(path), str(path))
    except CheckpointError:
        raise
    except UserError as error:
        raise CheckpointError(str(error)) from None


def write_manifest(folder: Path, manifest: CascadeManifest) -> None:
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


class Cascade:
    """A :class:`bertwright.evaluation.scorer.Scorer` of two: texts of which ``small`` is not sure go to ``large``.

    Decisions are the large model's: its labels, its threshold. Texts are read first as the small model reads them: so
    ``settings`` say, and what ``tokenize`` gives.

    Attributes:
        num_texts, num_deferred: how many texts were scored so far, and how many of them by the large model.
    """

    def __init__(
        self, small: ScorerByLogits, large: ScorerByLogits, manifest: CascadeManifest, source: str = "cascade"
    ) -> None:
        check_alike(small.settings, large.settings, f"{source}/{SMALL}", f"{source}/{LARGE}")
        num_slopes = len(large.labels) if large.settings.kind == "multi-label" else 1
        for name, found, expected in (
            ("slopes", len(manifest.slopes), num_slopes),
            ("biases", len(manifest.biases), len(large.labels)),
        ):
            if found != expected:
                raise CheckpointError(
                    f"{source}/{MANIFEST}: found {found} {name}, expected {expected} for these models; they do not "
                    "belong together"
                )
        self.small, self.large, self.manifest = small, large, manifest
        self.labels = large.labels
        self.settings = cascade_settings(small.settings, large.settings)
        self.token_budget = small.token_budget
        self.device = large.device
        self.notes = [*(f"small: {note}" for note in small.notes), *(f"large: {note}" for note in large.notes)]
        self.num_texts = self.num_deferred = 0

    @property
    def parts(self) -> tuple[ScorerByLogits, ScorerByLogits]:
        return self.small, self.large

    def expect(self, num_tokens: int) -> None:
        """About so many tokens will be scored in all, call after call."""
        self.small.expect(num_tokens)
        self.large.expect(int(num_tokens * self.manifest.deferred_share))

    def tokenize(self, texts: Sequence[TextOrPair] | Any) -> Ragged:
        """The texts' token ids for the small model; the large one reads those again that it gets."""
        return self.small.tokenize(texts)

    def score_tokenized(self, texts: Sequence[TextOrPair] | Any, ragged: Ragged) -> np.ndarray:
        """(texts, labels) float64 scores of ``texts``, whose ``tokenize`` gave ``ragged``."""
        scores = self.small_scores(self.small.logits(ragged))
        rows = np.flatnonzero(self.is_deferred(scores))
        self.num_texts += len(scores)
        self.num_deferred += len(rows)
        if len(rows):
            scores[rows] = self.large.score(taken(texts, rows))
        return scores

    def small_scores(self, logits: np.ndarray) -> np.ndarray:
        """(texts, labels) float64: what the small model's ``logits`` say, on the large model's scale."""
        return scores_of(align_logits(logits, self.manifest.slopes, self.manifest.biases), self.settings.kind)

    def is_deferred(self, scores: np.ndarray) -> np.ndarray:
        """(texts,) bool: of which texts the small model, with these ``small_scores``, is not sure enough."""
        return sureness(scores, self.settings.kind, self.settings.threshold) < self.manifest.sureness

    def score(self, texts: Sequence[TextOrPair] | Any) -> np.ndarray:
        """(texts, labels) float64 scores; ``texts`` may also be a pyarrow array of strings."""
        return self.score_tokenized(texts, self.tokenize(texts))

    def predict(self, texts: Sequence[TextOrPair]) -> list[Prediction]:
        """A prediction for each text, or for each pair of texts, as of one classifier."""
        return self.predictions(self.score(checked_texts(texts)))

    def predictions(self, scores: np.ndarray) -> list[Prediction]:
        """What is decided by ``scores`` (texts, labels)."""
        return predictions_of(scores, self.settings)

    def summary(self) -> str:
        return (
            f"a cascade: small, {self.small.summary()}; where it is less than {self.manifest.sureness:.4g} sure, "
            f"large, {self.large.summary()}"
        )

    def describe(self) -> dict[str, str]:
        """What was chosen for this machine, and why: of the large model, and with "small_" of the other."""
        return self.large.describe() | {f"small_{name}": value for name, value in self.small.describe().items()}

    def deferred_in_words(self) -> str:
        """How many texts the large model has scored."""
        share = self.num_deferred / max(self.num_texts, 1)
        return f"{self.num_deferred:,} of {self.num_texts:,} texts ({share:.1%}) went to the large model"


def cascade_settings(small: ClassifierSettings, large: ClassifierSettings) -> ClassifierSettings:
    """What is decided as ``large`` decides, of texts that are first read as ``small`` reads them.

    Scores are what they are: the temperatures are inside the models.
    """
    reading = ("max_length", "long_texts", "window_overlap", "window_pooling")
    return large.model_copy(update={"temperature": 1.0, **{name: getattr(small, name) for name in reading}})


def check_alike(small: ClassifierSettings, large: ClassifierSettings, small_name: str, large_name: str) -> None:
    """Refuse two models that cannot answer for each other.

    Raises:
        UserError: they differ in their labels, in the kind of these, or one judges pairs; or they predict numbers.
    """
    if "regression" in (small.kind, large.kind):
        name = small_name if small.kind == "regression" else large_name
        raise UserError(f"{name}: found a regression, expected a classifier: a number does not say how sure it is")
    if small.labels != large.labels:
        raise UserError(
            f"{small_name} has the labels {_listed(small.labels)}, {large_name} {_listed(large.labels)}; expected the "
            "same in the same order: train both on the same files"
        )
    if (small.kind == "multi-label") != (large.kind == "multi-label"):
        raise UserError(
            f"{small_name} has labels of kind {small.kind}, {large_name} of kind {large.kind}; expected the same: "
            "train both on the same files"
        )
    if small.pairs != large.pairs:
        pairs, single = (small_name, large_name) if small.pairs else (large_name, small_name)
        raise UserError(f"{pairs} judges pairs of texts, {single} single texts; expected the same of both")


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
