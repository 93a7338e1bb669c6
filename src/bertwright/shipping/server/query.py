"""What a request asks for, whatever dialect it speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson

from bertwright.config.parts import LabelKind
from bertwright.evaluation.scorer import TextOrPair
from bertwright.evaluation.scores import sigmoid, softmax
from bertwright.shipping.server.models import ServedModel
from bertwright.shipping.server.refusal import Refusal, type_name

Apply = Literal["own", "sigmoid", "softmax", "none"]
OWN: dict[LabelKind, Apply] = {"classes": "softmax", "soft": "softmax", "multi-label": "sigmoid", "regression": "none"}


@dataclass(frozen=True, slots=True)
class Query:
    """Texts to score.

    Attributes:
        batch: several texts were asked for as such, and the answer is a list even if there is one.
        apply: the function that makes scores of logits: the model's own, or another.
        top_k: how many of the labels to name, the highest first; None: all.
        nested: the answer to one text is a list of a list.
        uncut: refuse texts that are longer than the model reads.
        logits: the logits are asked for beside the scores.
        extra: what only the dialect understands.
    """

    texts: Sequence[TextOrPair]
    batch: bool = False
    apply: Apply = "own"
    top_k: int | None = None
    nested: bool = False
    uncut: bool = False
    logits: bool = False
    extra: Any = None

    def wants_logits(self, model: ServedModel) -> bool:
        """Whether the answer needs logits.

        Raises:
            Refusal: it is, and the model has none.
        """
        if not self.logits and self.apply in ("own", OWN[model.scorer.settings.kind]):
            return False
        if not model.has_logits:
            raise Refusal(
                "unsupported",
                f"the model {model.name} has scores but no logits: raw scores and other functions of them than its own "
                "cannot be given",
            )
        return True

    def values(self, model: ServedModel, scores: np.ndarray, logits: np.ndarray | None) -> np.ndarray:
        """(texts, labels): the scores, or what the request wants made of the logits.

        Another function is applied to the logits over the model's temperature, raw scores are the logits themselves.
        """
        if logits is None:
            return scores
        if self.apply == "none":
            return logits.astype(np.float64)
        tempered = logits / model.scorer.settings.temperature
        return sigmoid(tempered) if self.apply == "sigmoid" else softmax(tempered)


def read_json(body: bytes | memoryview) -> Any:
    """The JSON document.

    Raises:
        Refusal: the body holds something else, which is no part of the message.
    """
    if not body:
        raise Refusal("syntax", "the body is empty, expected a JSON object")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal("syntax", f"the body is not JSON in UTF-8: {error.msg} at position {error.pos}") from None


def read_object(body: bytes | memoryview) -> dict[str, Any]:
    """The JSON object that the body must be."""
    document = read_json(body)
    if not isinstance(document, dict):
        raise Refusal("wrong", f"the body is {type_name(document)}, expected an object")
    return document


def check_number_of_texts(num_texts: int, most: int, param: str) -> None:
    if num_texts == 0:
        raise Refusal("empty", f"`{param}` cannot be empty", param)
    if num_texts > most:
        raise Refusal("too_large", f"batch size {num_texts} > maximum allowed batch size {most}", param)


def check_text(text: Any, param: str) -> str:
    """The text, if it is one."""
    if not isinstance(text, str):
        raise Refusal("wrong", f"`{param}` holds {type_name(text)}, expected a string", param)
    if not text:
        raise Refusal("empty", f"`{param}` cannot be empty", param)
    return text
