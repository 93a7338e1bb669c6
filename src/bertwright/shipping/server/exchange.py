"""One request and its response, from the first byte to the line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from bertwright.shipping.server import hugging_face, moderations, open_inference
from bertwright.shipping.server.batcher import Job
from bertwright.shipping.server.refusal import Refusal

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")
# What a client that went away would have got: nginx's number for it, only in the log.
CLIENT_CLOSED_REQUEST = 499
LOGGER = logging.getLogger(__name__)
# Under which the scope of a request carries its exchange.
KEY = "bertwright.exchange"


class Disconnected(Exception):
    """The client is gone: there is nobody to answer."""


class Exchange:
    """What is known of one request, and its response.

    Attributes:
        scores: scores were asked for.
        jobs: the texts that it scored, one batch after the other, if it came so far; ``model``, by which model.
        kind: why it was refused.
        held_bytes: what its body takes, or may come to take while it arrives.
    """

    __slots__ = ("_receive", "_send", "begun", "held_bytes", "jobs", "kind", "model", "scope", "scores", "status")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun = time.perf_counter()
        self.scope = scope
        self._receive, self._send = receive, send
        self.scores = False
        self.jobs: list[Job] = []
        self.model: str | None = None
        self.kind: str | None = None
        self.status = self.held_bytes = 0

    def elapsed_s(self) -> float:
        return time.perf_counter() - self.begun

    def header(self, wanted: bytes) -> bytes | None:
        for name, value in self.scope["headers"]:
            if name == wanted:
                return bytes(value)
        return None

    def expected_bytes(self, most_bytes: int) -> int:
        """What its body may have: as it says, else ``most_bytes``.

        Raises:
            Refusal: that is too large.
        """
        length = self.header(b"content-length")
        if length is None or not length.isdigit():
            return most_bytes
        if int(length) > most_bytes:
            raise _too_large(most_bytes)
        return int(length)

    async def body(self, most_bytes: int, read_s: float) -> bytes:
        """The whole body.

        Raises:
            Refusal: it is too large or too slow.
            Disconnected: it does not arrive.
        """
        parts: list[bytes] = []
        num_bytes = 0
        try:
            async with asyncio.timeout(read_s):  # of the first part too: a client may send headers alone
                while True:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise Disconnected
                    part = message.get("body", b"")
                    parts.append(part)
                    num_bytes += len(part)
                    if num_bytes > most_bytes:
                        raise _too_large(most_bytes)
                    if not message.get("more_body"):
                        return part if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise Refusal("slow", f"the body did not arrive within {read_s:g} seconds") from None

    async def wait_for(self, job: Job) -> None:
        """Wait until the job is done; where the client goes away meanwhile, it is cancelled.

        Raises:
            Refusal: it could not be done.
            Disconnected: the client went away.
        """
        watcher = asyncio.ensure_future(self._watch(job))
        try:
            await job.future
        except asyncio.CancelledError:
            job.cancelled = True
            if watcher.done():
                raise Disconnected from None
            raise
        finally:
            watcher.cancel()

    async def _watch(self, job: Job) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        job.cancelled = True
        job.future.cancel()

    async def respond(self, status: int, body: bytes, headers: Headers) -> None:
        """Send the response; its length is added."""
        self.status = status
        headers.append((b"content-length", b"%d" % len(body)))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        if self.scope["method"] == "HEAD":
            body = b""
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, refusal: Refusal, headers: Headers) -> None:
        """Say why not, in the words of the dialect that the path belongs to."""
        self.kind = refusal.kind
        status, document = dialect_of(self.scope["path"]).refuse(refusal)
        if refusal.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
        if refusal.kind == "unauthorized":
            headers.append((b"www-authenticate", b"Bearer"))
        await self.respond(status, orjson.dumps(document), [JSON_TYPE, *headers])

    async def settle(self, work: Awaitable[None]) -> None:
        """Await ``work``, which responds; if it cannot, say why. Nothing that a request causes goes beyond this."""
        try:
            await work
        except Refusal as refusal:
            await self.refuse(refusal, [])
        except Disconnected:
            self.status = CLIENT_CLOSED_REQUEST
        except Exception:
            LOGGER.exception("a request failed")
            if not self.status:
                await self.refuse(Refusal("internal", "the server failed on this request"), [])

    @property
    def num_tokens(self) -> int:
        return sum(job.num_tokens for job in self.jobs)

    @property
    def seconds(self) -> dict[str, float] | None:
        """Seconds that its texts waited, were tokenised and were computed, jobs added up; None until all are done."""
        if not self.jobs or not all(job.done for job in self.jobs):
            return None
        first, *more = (job.seconds for job in self.jobs)
        return {name: value + sum(other[name] for other in more) for name, value in first.items()}

    def timing(self) -> Headers:
        """text-embeddings-inference's headers, in whole milliseconds, and the standard one, which has decimals."""
        seconds = self.seconds
        if seconds is None:
            return []
        total = self.elapsed_s() * 1e3
        part = {name: value * 1e3 for name, value in seconds.items()}
        listed = ", ".join(f"{name};dur={value:.3f}" for name, value in (*part.items(), ("total", total)))
        return [
            (b"x-compute-tokens", b"%d" % self.num_tokens),
            (b"x-compute-time", b"%d" % (total - part["queue"])),
            (b"x-queue-time", b"%d" % part["queue"]),
            (b"x-tokenization-time", b"%d" % part["tokenization"]),
            (b"x-inference-time", b"%d" % part["inference"]),
            (b"x-total-time", b"%d" % total),
            (b"server-timing", listed.encode()),
        ]


def _too_large(most_bytes: int) -> Refusal:
    return Refusal("too_large", f"the body has more than {most_bytes} bytes, which is the limit")


def dialect_of(path: str) -> Any:
    """The module of the dialect that a path belongs to."""
    if path.startswith("/v2"):
        return open_inference
    return moderations if path.startswith("/v1/") else hugging_face
