"""What requests and responses look like, as JSON schemas for the OpenAPI document."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _one_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


TEXT: Schema = {"type": "string", "minLength": 1}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
ANY_STRING: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
ANYTHING: Schema = {}
_OR_NULL: Schema = {"type": "null"}

SCORE = _object(["score", "label"], score=NUMBER, label=ANY_STRING)
SCORES = _one_of(_list(SCORE), _list(_list(SCORE)))

PREDICT = _object(
    ["inputs"],
    inputs=_one_of(TEXT, _list(TEXT, minItems=1, maxItems=2), _list(_list(TEXT, minItems=1, maxItems=2), minItems=1)),
    raw_scores=_one_of(BOOLEAN, _OR_NULL),
    truncate=_one_of(BOOLEAN, _OR_NULL),
    truncation_direction=_one_of({"enum": ["left", "right", "Left", "Right"]}, _OR_NULL),
)
_PAIR = _object(["text"], text=TEXT, text_pair=_one_of(TEXT, _OR_NULL))
CLASSIFY = _object(
    ["inputs"],
    inputs=_one_of(TEXT, _PAIR, _list(_one_of(TEXT, _PAIR), minItems=1)),
    parameters=_one_of(
        _object(
            [],
            function_to_apply=_one_of({"enum": ["sigmoid", "softmax", "none"]}, _OR_NULL),
            top_k=_one_of({"type": "integer", "minimum": 1}, _OR_NULL),
        ),
        _OR_NULL,
    ),
)
# On "/" both are understood: the second where there are ``parameters``.
EITHER = _one_of(PREDICT, CLASSIFY)

_PARAMETERS: Schema = {"type": "object"}
_TENSOR_DATA = _list(_one_of(ANY_STRING, _list(ANY_STRING)))
INFER = _object(
    ["inputs"],
    id=_one_of(ANY_STRING, _OR_NULL),
    parameters=_one_of(_PARAMETERS, _OR_NULL),
    inputs=_list(
        _object(
            ["name", "shape", "datatype", "data"],
            name=ANY_STRING,
            shape=_list({"type": "integer", "minimum": 1}, minItems=1, maxItems=2),
            datatype={"enum": ["BYTES"]},
            data=_TENSOR_DATA,
            parameters=_one_of(_PARAMETERS, _OR_NULL),
        ),
        minItems=1,
        maxItems=1,
    ),
    outputs=_one_of(
        _list(
            _object(["name"], name={"enum": ["scores", "label", "logits"]}, parameters=_one_of(_PARAMETERS, _OR_NULL))
        ),
        _OR_NULL,
    ),
)
_OUTPUT = _object(
    ["name", "shape", "datatype"], name=ANY_STRING, shape=_list(WHOLE), datatype=ANY_STRING, data=_list(ANYTHING)
)
INFERRED = _object(
    ["model_name", "outputs"],
    model_name=ANY_STRING,
    model_version=ANY_STRING,
    id=ANY_STRING,
    outputs=_list(_OUTPUT),
)
_TENSOR = _object(["name", "datatype", "shape"], name=ANY_STRING, datatype=ANY_STRING, shape=_list(WHOLE))
METADATA = _object(
    ["name", "platform", "inputs", "outputs"],
    name=ANY_STRING,
    versions=_list(ANY_STRING),
    platform=ANY_STRING,
    inputs=_list(_TENSOR),
    outputs=_list(_TENSOR),
)
SERVER = _object(["name", "version", "extensions"], name=ANY_STRING, version=ANY_STRING, extensions=_list(ANY_STRING))
LIVE = _object(["live"], live=BOOLEAN)
READY = _object(["ready"], ready=BOOLEAN)

MODERATE = _object(
    ["input"],
    input=_one_of(
        TEXT,
        _list(TEXT, minItems=1),
        _list(_object(["type", "text"], type={"enum": ["text"]}, text=TEXT), minItems=1),
    ),
    model=_one_of(ANY_STRING, _OR_NULL),
)
MODERATED = _object(
    ["id", "model", "results"],
    id=ANY_STRING,
    model=ANY_STRING,
    results=_list(
        _object(
            ["flagged", "categories", "category_scores", "category_applied_input_types"],
            flagged=BOOLEAN,
            categories={"type": "object", "additionalProperties": BOOLEAN},
            category_scores={"type": "object", "additionalProperties": NUMBER},
            category_applied_input_types={"type": "object", "additionalProperties": _list(ANY_STRING)},
        )
    ),
)

EXPLAIN = _object(
    ["inputs"],
    inputs=_one_of(TEXT, _list(TEXT, minItems=2, maxItems=2)),
    model=_one_of(ANY_STRING, _OR_NULL),
)
_RECENT = _object(
    ["window_s", "requests", "p50_ms", "p99_ms"],
    window_s=NUMBER,
    requests=WHOLE,
    p50_ms=_one_of(NUMBER, _OR_NULL),
    p99_ms=_one_of(NUMBER, _OR_NULL),
)
EXPLAINED = _object(
    ["model", "label", "scores", "pieces", "recent"],
    model=ANY_STRING,
    label=ANY_STRING,
    scores=_list(SCORE),
    pieces=_list(_list(_object(["text", "effect"], text=ANY_STRING, effect=NUMBER))),
    recent=_RECENT,
)
INFO = _object(
    ["model_id", "model_type", "max_input_length", "version"],
    model_id=ANY_STRING,
    model_type={"type": "object"},
    max_input_length=WHOLE,
    version=ANY_STRING,
)
MODEL_LIST = _object(
    ["object", "data"],
    object={"enum": ["list"]},
    data=_list(_object(["id", "object"], id=ANY_STRING, object={"enum": ["model"]})),
)

# Refusals of the three families of dialects.
HUGGING_FACE_ERROR = _object(["error", "error_type"], error=ANY_STRING, error_type=ANY_STRING)
OPEN_INFERENCE_ERROR = _object(["error"], error=ANY_STRING)
OPENAI_ERROR = _object(
    ["error"],
    error=_object(
        ["message", "type", "param", "code"],
        message=ANY_STRING,
        type=ANY_STRING,
        param=_one_of(ANY_STRING, _OR_NULL),
        code=_one_of(ANY_STRING, _OR_NULL),
    ),
)
