"""OpenAI's dialect: POST /v1/moderations."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import orjson

from bertwright.shipping.server.models import Models, ServedModel
from bertwright.shipping.server.query import Query, check_number_of_texts, check_text, read_object
from bertwright.shipping.server.refusal import STATUS, Kind, Refusal, type_name

# OpenAI's own models, which clients name: the first model stands in for them.
_THEIR_MODELS = ("omni-moderation", "text-moderation")
_CODES: dict[Kind, str] = {
    "overloaded": "rate_limit_exceeded",
    "unauthorized": "invalid_api_key",
    "unknown": "model_not_found",
    "too_large": "request_too_large",
    "stopping": "server_stopping",
}


def read(body: bytes, models: Models, most_texts: int) -> tuple[Query, ServedModel]:
    """The query, and the model that it names.

    Raises:
        Refusal: it is none, or the model cannot moderate.
    """
    document = read_object(body)
    name = document.get("model")
    if name is not None and not isinstance(name, str):
        raise Refusal("wrong", f"`model` is {type_name(name)}, expected a string", "model")
    theirs = name is not None and name.startswith(_THEIR_MODELS) and name not in models.by_name
    model = models.named(None if theirs else name)
    if model.categories is None:
        raise Refusal(
            "unsupported", f"the model {model.name} does not moderate: its labels make no categories", "model"
        )
    if "input" not in document:
        raise Refusal("wrong", "`input` is missing", "input")
    given = document["input"]
    if isinstance(given, str):
        return Query([check_text(given, "input")]), model
    if not isinstance(given, list):
        raise Refusal("wrong", f"`input` is {type_name(given)}, expected a string or an array", "input")
    check_number_of_texts(len(given), most_texts, "input")
    if isinstance(given[0], dict):
        return Query(["\n".join(_part(part) for part in given)]), model  # parts of one message
    return Query([check_text(text, "input") for text in given], batch=True), model


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        raise Refusal("wrong", f"`input` holds {type_name(part)} among objects, expected objects only", "input")
    if part.get("type") == "image_url":
        raise Refusal("wrong", "`input` holds an image, expected texts: this model does not look at images", "input")
    if part.get("type") != "text":
        raise Refusal("wrong", "`input` holds an object of another type than text", "input")
    return check_text(part.get("text"), "input")


def write(model: ServedModel, scores: np.ndarray) -> bytes:
    """The answer: of each text whether it is flagged, and for what."""
    categories = model.categories
    assert categories is not None, "read has refused it"
    types = {name: ["text"] if columns else [] for name, columns in categories.columns.items()}
    predictions = model.scorer.predictions(scores)
    results = []
    for prediction, row in zip(predictions, scores.tolist(), strict=True):
        decided = categories.decided([label in prediction.labels for label in model.scorer.labels])
        results.append(
            {
                "flagged": any(decided.values()),
                "categories": decided,
                "category_scores": categories.scores(row),
                "category_applied_input_types": types,
            }
        )
    return orjson.dumps({"id": f"modr-{uuid.uuid4().hex}", "model": model.name, "results": results})


def refuse(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal."""
    status = {"wrong": 400, "unsupported": 400, "backend": 500}.get(refusal.kind, STATUS[refusal.kind])
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": _CODES.get(refusal.kind)}
    return status, {"error": error}
