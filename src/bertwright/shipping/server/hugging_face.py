"""Two dialects of one request: text-embeddings-inference's /predict, and Hugging Face's text-classification.

They differ in what a list of strings is (a pair of texts; a batch), and in how one text is answered (a list of labels;
a list of such lists). Hugging Face's client always sends ``parameters``, which the other one does not know.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from bertwright.evaluation.scorer import TextOrPair
from bertwright.shipping.server.models import ServedModel
from bertwright.shipping.server.query import Apply, Query, check_number_of_texts, check_text, read_object
from bertwright.shipping.server.refusal import STATUS, Kind, Refusal, type_name

_APPLY: dict[str, Apply] = {"sigmoid": "sigmoid", "softmax": "softmax", "none": "none"}
# text-embeddings-inference 1.9's ErrorType.
_ERROR_TYPES: dict[Kind, str] = {
    "empty": "Empty",
    "backend": "Backend",
    "internal": "Backend",
    "overloaded": "Overloaded",
    "stopping": "Unhealthy",
    "unauthorized": "Unauthorized",
}


def read(body: bytes, model: ServedModel, most_texts: int, *, hugging_face: bool) -> Query:
    """The query of a body in either dialect; in Hugging Face's if ``hugging_face`` or if it has ``parameters``.

    Raises:
        Refusal: it is none.
    """
    document = read_object(body)
    if "inputs" not in document:
        raise Refusal("wrong", "`inputs` is missing", "inputs")
    if hugging_face or "parameters" in document:
        return _read_classification(document, model, most_texts)
    return _read_predict(document, model, most_texts)


def _read_predict(document: dict[str, Any], model: ServedModel, most_texts: int) -> Query:
    inputs, pairs = document["inputs"], model.scorer.settings.pairs
    raw = _flag(document, "raw_scores", False)
    direction = document.get("truncation_direction")
    if direction is not None and (not isinstance(direction, str) or direction.lower() not in ("left", "right")):
        raise Refusal("wrong", "`truncation_direction` must be left or right", "truncation_direction")
    # A model cuts texts as it was trained to, never at their left: then no text may need to be cut.
    uncut = not _flag(document, "truncate", True) or (isinstance(direction, str) and direction.lower() == "left")
    batch = isinstance(inputs, list) and not (inputs and isinstance(inputs[0], str))
    if batch:
        check_number_of_texts(len(inputs), most_texts, "inputs")
        texts = [_text_or_pair(one, pairs) for one in inputs]
    else:
        texts = [_text_or_pair(inputs, pairs)]
    return Query(texts, batch, "none" if raw else "own", uncut=uncut)


def _text_or_pair(given: Any, pairs: bool) -> TextOrPair:
    """ "a" or ["a"] is a text, ["a", "b"] a pair."""
    texts = given if isinstance(given, list) else [given]
    if not texts:
        raise Refusal("empty", "`inputs` cannot be empty", "inputs")
    if len(texts) > 2:
        message = (
            f"`inputs` holds a list of {len(texts)} strings, expected one, or two as a pair; a batch is [[..], ..]"
        )
        raise Refusal("wrong", message, "inputs")
    checked = [check_text(text, "inputs") for text in texts]
    if len(checked) == 2 and not pairs:
        message = "`inputs` is a pair of texts, expected single texts; a batch of texts is [[..], ..]"
        raise Refusal("wrong", message, "inputs")
    if len(checked) == 1 and pairs:
        raise Refusal("wrong", "`inputs` is a single text, expected a pair of texts", "inputs")
    return (checked[0], checked[1]) if pairs else checked[0]


def _read_classification(document: dict[str, Any], model: ServedModel, most_texts: int) -> Query:
    inputs, pairs = document["inputs"], model.scorer.settings.pairs
    parameters = document.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise Refusal("wrong", f"`parameters` is {type_name(parameters)}, expected an object", "parameters")
    named = parameters.get("function_to_apply")
    if named is not None and (not isinstance(named, str) or named not in _APPLY):
        raise Refusal("wrong", "`function_to_apply` must be sigmoid, softmax or none", "function_to_apply")
    top_k = parameters.get("top_k")
    if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
        raise Refusal("wrong", "`top_k` must be a whole number from 1 on", "top_k")
    batch = isinstance(inputs, list)
    given = inputs if batch else [inputs]
    check_number_of_texts(len(given), most_texts, "inputs")
    texts = [_text_and_pair(one, pairs) for one in given]
    return Query(texts, batch, "own" if named is None else _APPLY[named], top_k, nested=True)


def _text_and_pair(given: Any, pairs: bool) -> TextOrPair:
    """ "a" or {"text": "a"} is a text, {"text": "a", "text_pair": "b"} a pair."""
    if not isinstance(given, dict):
        given = {"text": given}
    text = check_text(given.get("text"), "inputs")
    second = given.get("text_pair")
    if (second is not None) != pairs:
        expected = "pairs of texts, {text, text_pair}" if pairs else "single texts"
        raise Refusal("wrong", f"`inputs`: expected {expected}", "inputs")
    return (text, check_text(second, "inputs")) if pairs else text


def _flag(document: dict[str, Any], name: str, default: bool) -> bool:
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Refusal("wrong", f"`{name}` is {type_name(value)}, expected true or false", name)
    return value


def write(query: Query, model: ServedModel, scores: np.ndarray, logits: np.ndarray | None) -> bytes:
    """The answer: of each text its labels with their scores, the highest first."""
    labels = model.scorer.labels
    answers = []
    for row in query.values(model, scores, logits).tolist():
        ranked = sorted(zip(row, labels, strict=True), key=_score, reverse=True)
        answers.append([{"score": score, "label": label} for score, label in ranked[: query.top_k]])
    return orjson.dumps(answers if query.batch or query.nested else answers[0])


def _score(ranked: tuple[float, str]) -> float:
    return ranked[0]


def refuse(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal."""
    error_type = _ERROR_TYPES.get(refusal.kind, "Validation")
    return STATUS[refusal.kind], {"error": refusal.message, "error_type": error_type}
