"""The outermost part of the server: keys, what is refused unread, and what is counted and logged of every request."""

from __future__ import annotations

from typing import Any

from bertwright.shipping.server.api_keys import ApiKeys
from bertwright.shipping.server.exchange import KEY, Exchange, Receive, Scope, Send
from bertwright.shipping.server.refusal import Refusal
from bertwright.shipping.server.request_log import RequestLog
from bertwright.shipping.server.service import Service

# What needs no key: whether the server is there, its numbers, its description, and the page, which asks for a key.
OPEN_PATHS = frozenset(
    ["/", "/health", "/ping", "/metrics", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"]
)


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: Any, service: Service, keys: ApiKeys, log: RequestLog) -> None:
        self._app, self._service, self._keys, self._log = app, service, keys, log
        self.num_open = 0  # requests that are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        scope[KEY] = exchange
        self.num_open += 1
        try:
            await exchange.settle(self._answer(exchange, receive, send))
        finally:
            self.num_open -= 1
            self._service.release(exchange)
            self._record(exchange)

    async def _answer(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        if self._service.draining and exchange.scope["method"] != "GET":
            refusal = Refusal("stopping", "the server is stopping", retry_after_s=1)
            await exchange.refuse(refusal, [(b"connection", b"close")])
            return
        self._check(exchange)
        await self._app(exchange.scope, receive, send)

    def _check(self, exchange: Exchange) -> None:
        scope = exchange.scope
        is_read = scope["method"] in ("GET", "HEAD")
        if self._keys and not (is_read and scope["path"] in OPEN_PATHS) and not self._keys.allow(scope["headers"]):
            raise Refusal("unauthorized", "a key is needed: Authorization: Bearer KEY, and it must be a known one")
        if is_read:
            return
        for name, value in scope["headers"]:
            if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
                raise Refusal("encoding", "compressed bodies are not read: send it without Content-Encoding")
            if name == b"content-type" and value[:10].lower() == b"multipart/":
                raise Refusal("encoding", "forms are not read: send Content-Type: application/json")

    def _record(self, exchange: Exchange) -> None:
        metrics, seconds = self._service.metrics, exchange.seconds
        total_s = exchange.elapsed_s()
        if exchange.status:
            metrics.response(exchange.status)
        if exchange.scores:
            if seconds is not None and exchange.status == 200:
                metrics.scored(seconds, total_s)
            else:
                metrics.refused(exchange.kind or "disconnected")
        if not self._log.all_requests and exchange.status < 500:
            return
        route = exchange.scope.get("route")
        facts: dict[str, Any] = {
            "method": exchange.scope["method"],
            "path": getattr(route, "path", None),  # as declared: what a client wrote may be a text
            "status": exchange.status,
            "total_ms": round(total_s * 1e3, 3),
        }
        if exchange.kind is not None:
            facts["refused"] = exchange.kind
        if exchange.jobs:
            num_texts = sum(len(job.texts) for job in exchange.jobs)
            facts |= {"model": exchange.model, "texts": num_texts, "tokens": exchange.num_tokens}
        if seconds is not None:
            facts |= {f"{name}_ms": round(value * 1e3, 3) for name, value in seconds.items()}
        self._log.event("request", "error" if exchange.status >= 500 else "info", **facts)
