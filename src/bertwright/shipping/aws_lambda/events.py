"""What calls a Lambda function: events of four shapes to one kind of request, and its answer back in the same shape.

Shapes, from AWS's documentation: payload format 2.0 (Function URL, HTTP API), 1.0 (REST API), Application Load
Balancer, and the event of a direct invocation, which is the request itself. Needs Python alone.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

Shape = Literal["direct", "v2", "v1", "alb"]


class RequestError(Exception):
    """What a client can put right: a status, a kind of error as text-embeddings-inference names it, and one line."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind

    def record(self) -> dict[str, Any]:
        return {"error": str(self), "error_type": self.kind}


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        method: of HTTP; "POST" of a direct invocation.
        path: without the stage, from "/" on.
        body: of HTTP; None of a direct invocation, whose ``value`` is the request.
    """

    shape: Shape
    method: str
    path: str
    body: bytes | None
    value: Any = None


def shape_of(event: Any) -> Shape:
    """Which kind of caller made ``event``."""
    if not isinstance(event, dict):
        return "direct"
    context = event.get("requestContext")
    if isinstance(context, dict):
        if isinstance(context.get("http"), dict):
            return "v2"
        if "elb" in context:
            return "alb"
    return "v1" if isinstance(event.get("httpMethod"), str) else "direct"


def request_of(event: Any, max_body_bytes: int) -> Request:
    """The request in ``event``.

    Raises:
        RequestError: its body is too large, or not what the event says it is.
    """
    shape = shape_of(event)
    if shape == "direct":
        return Request(shape, "POST", "/", None, event)
    context = event.get("requestContext") or {}
    if shape == "v2":
        method, path = context["http"].get("method"), event.get("rawPath")
        stage = context.get("stage")
        if isinstance(path, str) and isinstance(stage, str) and stage != "$default":
            path = path.removeprefix(f"/{stage}")
    else:
        method, path = event.get("httpMethod"), event.get("path")
    method = method.upper() if isinstance(method, str) else "GET"
    path = "/" + path.strip("/") if isinstance(path, str) else "/"
    return Request(shape, method, path, _body(event, max_body_bytes))


def _body(event: dict[str, Any], most_bytes: int) -> bytes:
    body = event.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise RequestError(400, "Validation", f"body: found {type(body).__name__}, expected a string")
    too_large = RequestError(413, "Validation", f"the body has more than {most_bytes:,} bytes; send fewer texts")
    if event.get("isBase64Encoded"):
        if len(body) > 4 * (most_bytes // 3 + 1) + 4:
            raise too_large
        try:
            found = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(400, "Validation", "isBase64Encoded is true, but the body is not base64") from None
    else:
        found = body.encode("utf-8", "surrogatepass")
    if len(found) > most_bytes:
        raise too_large
    return found


def json_of(body: bytes) -> Any:
    """The value in a body.

    Raises:
        RequestError: it is empty, not UTF-8, not JSON, or nested too deep.
    """
    if not body.strip():
        raise RequestError(400, "Empty", 'the body is empty, expected JSON such as {"inputs": "some text"}')
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(400, "Validation", f"the body is not UTF-8 (byte {error.start + 1})") from None
    except RecursionError:
        raise RequestError(400, "Validation", "the body is nested too deep") from None
    except ValueError as error:  # also of an integer of too many digits
        raise RequestError(400, "Validation", f"the body is not JSON ({str(error)[:100]})") from None


def response_of(event: Any, status: int, value: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """``value`` as the answer of HTTP that the caller of ``event`` expects."""
    shape = shape_of(event)
    named = {"content-type": "application/json", **(headers or {})}
    made: dict[str, Any] = {
        "statusCode": status,
        "headers": named,
        "body": json.dumps(value, ensure_ascii=False, allow_nan=False),
        "isBase64Encoded": False,
    }
    if shape == "alb":
        made["statusDescription"] = f"{status} {HTTPStatus(status).phrase}"
        if "multiValueHeaders" in event:  # a target group with these takes nothing else
            del made["headers"]
            made["multiValueHeaders"] = {name: [text] for name, text in named.items()}
    return made
