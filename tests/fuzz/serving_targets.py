"""What comes from clients and from other processes: bodies of HTTP, events of Lambda, messages of a training."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bertwright.hardware import release_openmp_threads
from bertwright.shipping.aws_lambda.classifier import Classifier
from bertwright.shipping.aws_lambda.handler import Handler
from bertwright.training.distributed import announced_tensor, received
from tests.fuzz.data_targets import dumped, json_values
from tests.fuzz.target import Case, Fault, Target, refused, write_case
from tests.shipping.server.asking import Asking, PlainScorer

release_openmp_threads()  # the first time it opens torch's library, which no parser may do

# --- HTTP -------------------------------------------------------------------------------------------------------------

_INFER = {"id": "1", "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a film", "b"]}]}
_PREDICT = {"inputs": [["a film"], ["b"]], "truncate": True, "raw_scores": False}
_REQUESTS: dict[str, tuple[str, Any]] = {
    "predict": ("POST /predict", _PREDICT),
    "predict-one": ("POST /models/words/predict", {"inputs": "a film"}),
    "predict-pairs": ("POST /models/pairs/predict", {"inputs": [["a", "b"], ["c", "d"]]}),
    "hugging-face": (
        "POST /models/words",
        {"inputs": "a film", "parameters": {"top_k": 1, "function_to_apply": "sigmoid"}},
    ),
    "hugging-face-pairs": ("POST /models/pairs", {"inputs": {"text": "a", "text_pair": "b"}}),
    "root": ("POST /", {"inputs": ["a"], "parameters": {"top_k": None}}),
    "invocations": ("POST /invocations", {"inputs": ["a film"]}),
    "infer": (
        "POST /v2/models/words/infer",
        _INFER | {"parameters": {"binary_data_output": False}, "outputs": [{"name": "scores"}]},
    ),
    "infer-version": ("POST /v2/models/words/versions/1/infer", _INFER),
    "infer-binary": (
        "POST /v2/models/words/infer\nInference-Header-Content-Length: 0",
        _INFER,
    ),
    "moderations": ("POST /v1/moderations", {"input": ["a film", "b"], "model": "words"}),
    "moderations-parts": ("POST /v1/moderations", {"input": [{"type": "text", "text": "a film"}], "model": "labels"}),
    "explain": ("POST /explain", {"inputs": "a good film", "label": "toxic", "model": "words"}),
    "get": ("GET /v2/models/words/ready", None),
    "info": ("GET /models/labels", None),
}


def _binary_request() -> Case:
    """Open Inference's binary form: a head of JSON, then strings with their lengths before them."""
    strings = b"".join(len(text).to_bytes(4, "little") + text for text in (b"a film", b"b"))
    head = json.dumps(
        {
            "inputs": [
                {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(strings)}}
            ]
        }
    ).encode()
    return {
        "head": f"POST /v2/models/words/infer\nInference-Header-Content-Length: {len(head)}".encode(),
        "body": head + strings,
    }


def _request_seeds() -> Mapping[str, Case]:
    made = {
        name: {"head": head.encode(), "body": b"" if document is None else json.dumps(document).encode()}
        for name, (head, document) in _REQUESTS.items()
    }
    return made | {"infer-binary": _binary_request()}


def _drawn_requests() -> st.SearchStrategy[Case]:
    heads = st.sampled_from([head for head, _ in _REQUESTS.values()])
    keys = st.sampled_from(["inputs", "input", "parameters", "model", "label", "truncate", "top_k", "outputs", "id"])
    inner = st.one_of(
        json_values(),
        st.fixed_dictionaries(
            {},
            optional={
                "name": json_values(),
                "shape": json_values(),
                "datatype": st.sampled_from(["BYTES", "FP32", ""]),
                "data": json_values(),
                "text": json_values(),
                "text_pair": json_values(),
                "type": st.just("text"),
                "parameters": json_values(),
            },
        ),
    )
    bodies = st.dictionaries(keys, st.one_of(inner, st.lists(inner, max_size=3)), max_size=3)
    return st.builds(
        lambda head, body: {"head": head.encode(), "body": dumped(body).encode("utf-8", "replace")}, heads, bodies
    )


@functools.cache
def _loop() -> asyncio.Runner:
    return asyncio.Runner()


@functools.cache
def _asking() -> Asking:
    async def made() -> Asking:
        scorers = {
            "words": PlainScorer(),
            "pairs": PlainScorer(pairs=True),
            "labels": PlainScorer(kind="multi-label", labels=("hate", "rude")),
        }
        return Asking(scorers, max_batch_texts=16, max_request_tokens=200, queue_tokens=200)

    return _loop().run(made())


def _ask(folder: Path) -> None:
    head = (folder / "head").read_bytes().decode("utf-8", "replace") if (folder / "head").is_file() else "POST /predict"
    body = (folder / "body").read_bytes() if (folder / "body").is_file() else b""
    first, *lines = head.split("\n")
    method, _, path = first.partition(" ")
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    latin = {
        name.encode("latin-1", "replace").decode("latin-1"): value.encode("latin-1", "replace").decode("latin-1")
        for name, value in headers.items()
    }
    for parts in ([body], [body[: len(body) // 2], body[len(body) // 2 :]]):
        answer = _loop().run(_asking().ask(method or "POST", path or "/", parts, headers=latin))
        if not 200 <= answer.status < 500:
            raise Fault(f"answered {answer.status}: {answer.body[:200]!r}")
        if (
            "json" in answer.headers.get("content-type", "")
            and method != "HEAD"
            and "inference-header" not in str(answer.headers)
        ):
            answer.json()


# --- Lambda -----------------------------------------------------------------------------------------------------------

_BODY = json.dumps({"inputs": ["a film", "b"], "parameters": {"top_k": 1}})
_EVENTS: dict[str, Any] = {
    "direct": {"inputs": ["a film", "b"], "parameters": {"top_k": 1}},
    "warm": {"source": "serverless-plugin-warmup"},
    "url": {
        "version": "2.0",
        "rawPath": "/prod/predict",
        "headers": {"content-type": "application/json"},
        "isBase64Encoded": True,
        "requestContext": {"http": {"method": "POST", "path": "/predict"}, "stage": "prod"},
        "body": base64.b64encode(_BODY.encode()).decode(),
    },
    "rest": {
        "httpMethod": "POST",
        "path": "/predict",
        "requestContext": {"stage": "prod"},
        "body": _BODY,
        "isBase64Encoded": False,
    },
    "balancer": {
        "httpMethod": "POST",
        "path": "/",
        "requestContext": {"elb": {"targetGroupArn": "arn"}},
        "multiValueHeaders": {"a": ["b"]},
        "body": _BODY,
    },
    "info": {"httpMethod": "GET", "path": "/info", "requestContext": None, "body": None},
}


def _event_seeds() -> Mapping[str, Case]:
    return {name: {"event.json": json.dumps(event).encode()} for name, event in _EVENTS.items()}


def _drawn_events() -> st.SearchStrategy[Case]:
    inputs = st.one_of(json_values(), st.lists(st.one_of(st.text(max_size=20), json_values()), max_size=4))
    bodies = st.dictionaries(st.sampled_from(["inputs", "parameters"]), inputs, max_size=2)
    body = bodies.map(dumped)

    def made(name: str, body: str, encoded: bool, extra: Any, key: str) -> Case:
        event = dict(_EVENTS[name])
        if name in ("direct", "warm"):
            return {"event.json": body.encode("utf-8", "replace")}
        event["body"] = base64.b64encode(body.encode("utf-8", "replace")).decode() if encoded else body
        event["isBase64Encoded"] = encoded
        event[key] = extra
        return {"event.json": dumped(event).encode("utf-8", "replace")}

    keys = st.sampled_from(
        ["extra", "requestContext", "path", "rawPath", "httpMethod", "headers", "body", "isBase64Encoded"]
    )
    return st.builds(made, st.sampled_from([*_EVENTS]), body, st.booleans(), json_values(), keys)


@functools.cache
def _handlers() -> tuple[Handler, Handler]:
    from tests.fuzz.target import corpus_of

    graphs = dict(corpus_of("graph"))
    found = []
    for name in ("seed-single", "seed-pairs"):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        write_case(folder, graphs[name])
        found.append(Handler(Classifier(folder, 1), max_texts=8, max_body_bytes=20_000))
    return found[0], found[1]


def _handle(folder: Path) -> None:
    try:
        event = json.loads((folder / "event.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # Lambda itself reads the event: what is no JSON never comes to the function
    for handler in _handlers():
        answer = handler(event)
        status = answer.get("statusCode", answer.get("status", 200)) if isinstance(answer, dict) else 200
        if not isinstance(status, int) or not 200 <= status < 500:
            raise Fault(f"answered {status}")
        json.dumps(answer, allow_nan=False).encode()
        if isinstance(answer, dict) and "body" in answer:
            json.loads(answer["body"])


# --- messages between the processes of a training ---------------------------------------------------------------------


def _message_seeds() -> Mapping[str, Case]:
    tensor = {"$tensor": ["float32", [2, 3]]}
    values = {
        "words": ["score", {"texts": "train", "limit": None}],
        "tensors": {"state": {"weight": tensor, "bias": {"$tensor": ["int64", []]}}, "step": 3, "loss": 0.5},
    }
    return {name: {"message.json": json.dumps(value).encode()} for name, value in values.items()}


def _drawn_messages() -> st.SearchStrategy[Case]:
    value = st.recursive(
        st.one_of(
            json_values(),
            st.fixed_dictionaries(
                {
                    "$tensor": st.one_of(
                        json_values(), st.tuples(st.sampled_from(["float32", "uint8", "x"]), json_values())
                    )
                }
            ),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "$tensor"]), inner, max_size=2)
        ),
        max_leaves=6,
    )
    return value.map(lambda one: {"message.json": dumped(one).encode("utf-8", "replace")})


def _receive(folder: Path) -> None:
    path = folder / "message.json"
    refused(lambda: received(path.read_bytes() if path.is_file() else b"", announced_tensor))


TARGETS = (
    Target(
        "http",
        _ask,
        _request_seeds,
        _drawn_requests,
        words=(
            b"POST /v1/moderations",
            b"Content-Length: 9",
            b"Content-Encoding: gzip",
            b"Inference-Header-Content-Length: 99999999999999999999",
        ),
    ),
    Target("lambda", _handle, _event_seeds, _drawn_events),
    Target("messages", _receive, _message_seeds, _drawn_messages, words=(b'{"$tensor": ["float32", [2, 2]]}',)),
)
