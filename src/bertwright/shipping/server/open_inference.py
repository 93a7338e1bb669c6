"""The Open Inference Protocol, version 2, with Triton's extension for binary tensors.

A model has one input, ``text``: BYTES of shape [n] or [n, 1], or [n, 2] for pairs. Its outputs are ``scores`` [n,
labels], ``label`` [n] (the decided one; of labels of which a text may have any number, those decided for with commas
between; none of a regression) and, where the model has them and they are asked for, ``logits`` [n, labels].
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from bertwright import __version__
from bertwright.evaluation.scorer import TextOrPair
from bertwright.shipping.server.models import VERSION, ServedModel
from bertwright.shipping.server.query import Query, check_number_of_texts, check_text, read_object
from bertwright.shipping.server.refusal import STATUS, Refusal, type_name

SERVER = {"name": "bertwright", "version": __version__, "extensions": ["binary_tensor_data"]}
HEADER_LENGTH = b"inference-header-content-length"
_MOST_DIMENSIONS = 2


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the answer holds: its id, and of each output whether it is binary."""

    id: str | None
    outputs: dict[str, bool]


def metadata(model: ServedModel) -> dict[str, Any]:
    """What GET /v2/models/{model} says."""
    settings = model.scorer.settings
    num_labels = len(settings.labels)
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "bertwright",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 2] if settings.pairs else [-1]}],
        "outputs": [
            {"name": name, "datatype": _DATATYPES[name], "shape": [-1] if name == "label" else [-1, num_labels]}
            for name in _output_names(model)
        ],
        "parameters": {"labels": list(settings.labels), "kind": settings.kind},
    }


_DATATYPES = {"scores": "FP64", "label": "BYTES", "logits": "FP32"}


def _output_names(model: ServedModel) -> list[str]:
    names = ["scores"] if model.scorer.settings.kind == "regression" else ["scores", "label"]
    return [*names, "logits"] if model.has_logits else names


def read(body: bytes, header_length: bytes | None, model: ServedModel, most_texts: int) -> Query:
    """The query of a body, of which the first ``header_length`` bytes are JSON and the others binary tensors.

    Raises:
        Refusal: it is none.
    """
    binary = memoryview(b"")
    if header_length is not None:
        if not header_length.isdigit() or len(header_length) > 12 or int(header_length) > len(body):
            raise Refusal("wrong", "Inference-Header-Content-Length is no length of a part of the body")
        binary = memoryview(body)[int(header_length) :]
        body = body[: int(header_length)]
    document = read_object(body)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refusal("wrong", "`inputs` must be an array of one tensor", "inputs")
    texts = _texts(inputs[0], binary, model.scorer.settings.pairs, most_texts)
    wanted = _wanted(document, model)
    return Query(texts, batch=True, logits="logits" in wanted.outputs, extra=wanted)


def _texts(tensor: dict[str, Any], binary: memoryview, pairs: bool, most_texts: int) -> list[TextOrPair]:
    if not isinstance(tensor.get("name"), str):
        raise Refusal("wrong", "an input must have a name that is a string", "inputs")
    if tensor.get("datatype") != "BYTES":
        raise Refusal("wrong", "an input must have the datatype BYTES", "inputs")
    shape = tensor.get("shape")
    columns = 2 if pairs else 1
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= _MOST_DIMENSIONS
        or not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape)
        or (shape[1] if len(shape) > 1 else 1) != columns
    ):
        raise Refusal("wrong", f"an input must have the shape {'[n, 2]' if pairs else '[n] or [n, 1]'}", "inputs")
    check_number_of_texts(shape[0], most_texts, "inputs")
    data = _binary_strings(tensor, binary) if "data" not in tensor else tensor["data"]
    if not isinstance(data, list):
        raise Refusal("wrong", f"`data` is {type_name(data)}, expected an array", "inputs")
    if data and isinstance(data[0], list):  # rows, as they may also be sent
        if not all(isinstance(row, list) and len(row) == columns for row in data):
            raise Refusal("wrong", "`data` holds rows of other lengths than its shape", "inputs")
        data = [text for row in data for text in row]
    if len(data) != math.prod(shape):
        raise Refusal("wrong", f"`data` holds {len(data)} strings, expected {math.prod(shape)}", "inputs")
    strings = [check_text(text, "inputs") for text in data]
    return list(zip(strings[::2], strings[1::2], strict=True)) if pairs else list(strings)


def _binary_strings(tensor: dict[str, Any], binary: memoryview) -> list[str]:
    """Each as its length in four bytes, little-endian, and its bytes: Triton's binary tensor data extension."""
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if not isinstance(size, int) or isinstance(size, bool):
        raise Refusal("wrong", "an input must have `data`, or `binary_data_size` among its parameters", "inputs")
    if size != len(binary):
        raise Refusal("wrong", f"binary_data_size is {size}, but {len(binary)} bytes follow the JSON", "inputs")
    strings, place = [], 0
    while place < size:
        if place + 4 > size:
            raise Refusal("wrong", "binary strings end within a length", "inputs")
        (length,) = struct.unpack_from("<I", binary, place)
        place += 4
        if place + length > size:
            raise Refusal("wrong", "binary strings end within a string", "inputs")
        try:
            strings.append(str(binary[place : place + length], "utf-8"))
        except UnicodeDecodeError:
            raise Refusal("wrong", "a binary string is not UTF-8", "inputs") from None
        place += length
    return strings


def _wanted(document: dict[str, Any], model: ServedModel) -> _Wanted:
    name = document.get("id")
    if name is not None and not isinstance(name, str):
        raise Refusal("wrong", f"`id` is {type_name(name)}, expected a string", "id")
    binary = _parameter(document, "binary_data_output")
    known = _output_names(model)
    asked = document.get("outputs")
    if asked is None or asked == []:
        return _Wanted(name, {output: binary for output in known if output != "logits"})
    if not isinstance(asked, list) or not all(isinstance(output, dict) for output in asked):
        raise Refusal("wrong", "`outputs` must be an array of objects", "outputs")
    outputs = {}
    for output in asked:
        if output.get("name") not in known:
            raise Refusal("wrong", f"an output has no known name, expected one of {', '.join(known)}", "outputs")
        outputs[output["name"]] = _parameter(output, "binary_data", binary)
    return _Wanted(name, outputs)


def _parameter(given: dict[str, Any], name: str, default: bool = False) -> bool:
    parameters = given.get("parameters")
    if parameters is None:
        return default
    if not isinstance(parameters, dict):
        raise Refusal("wrong", f"`parameters` is {type_name(parameters)}, expected an object", "parameters")
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refusal("wrong", f"`{name}` is {type_name(value)}, expected true or false", "parameters")
    return value


def write(query: Query, model: ServedModel, scores: np.ndarray, logits: np.ndarray | None) -> tuple[bytes, int | None]:
    """The answer, and how many of its bytes are JSON where binary tensors follow."""
    wanted: _Wanted = query.extra
    outputs, tail = [], b""
    for name, binary in wanted.outputs.items():
        values: Any = {"scores": scores, "logits": logits}.get(name)
        if name == "label":
            values = [",".join(prediction.labels) for prediction in model.scorer.predictions(scores)]
        shape = [len(scores)] if name == "label" else list(scores.shape)
        output: dict[str, Any] = {"name": name, "datatype": _DATATYPES[name], "shape": shape}
        if not binary:
            output["data"] = values if name == "label" else values.ravel().tolist()
        else:
            data = _binary(values)
            output["parameters"] = {"binary_data_size": len(data)}
            tail += data
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": VERSION, "outputs": outputs}
    if wanted.id is not None:
        answer["id"] = wanted.id
    head = orjson.dumps(answer)
    return head + tail, len(head) if any(wanted.outputs.values()) else None


def _binary(values: np.ndarray | list[str]) -> bytes:
    if isinstance(values, list):
        encoded = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    return np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()


def refuse(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal."""
    status = {"wrong": 400, "unsupported": 400, "backend": 500}.get(refusal.kind, STATUS[refusal.kind])
    return status, {"error": refusal.message}
