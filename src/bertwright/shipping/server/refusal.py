"""Why a request is not answered, before any dialect puts it into its own words."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "syntax",  # the body is not JSON
    "wrong",  # JSON, but not what is expected
    "empty",  # nothing to score
    "unsupported",  # this model cannot do that
    "too_large",  # beyond a limit
    "encoding",  # a compressed body, or one of another type
    "unauthorized",  # no key, or a wrong one
    "unknown",  # no such path or model
    "method",  # the path is there, but not for this method
    "slow",  # the body did not arrive in time
    "overloaded",  # the queue is full
    "stopping",  # the server is about to end
    "backend",  # the model cannot score this
    "internal",  # our own mistake
]

STATUS: dict[Kind, int] = {
    "syntax": 400,
    "wrong": 422,
    "empty": 400,
    "unsupported": 422,
    "too_large": 413,
    "encoding": 415,
    "unauthorized": 401,
    "unknown": 404,
    "method": 405,
    "slow": 408,
    "overloaded": 429,
    "stopping": 503,
    "backend": 424,
    "internal": 500,
}


class Refusal(Exception):
    """A request that gets no scores: what was found and expected, in words without any of its texts.

    Attributes:
        kind: by which each dialect chooses its status and its own names.
        param: the part of the request that is meant.
        retry_after_s: when to come back, of a full queue or a server that ends.
    """

    def __init__(self, kind: Kind, message: str, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


def type_name(value: object) -> str:
    """What a value of a JSON document is called there."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "a number", float: "a number", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)
