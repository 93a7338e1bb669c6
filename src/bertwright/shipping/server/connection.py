"""A client's connection: uvicorn's, with limits of the heads of requests."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

# Far more than a client sends, and than other servers take (8 to 32 KiB). What one read of the socket brings comes on
# top: a head that ends in it is taken.
MOST_HEAD_BYTES = 65_536


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, which alone would wait for ever for the end of a request's head, however long it gets.

    A head may take ``head_s`` seconds from its first byte on, and have ``MOST_HEAD_BYTES``; else the client is told so
    (408, 431) and the connection closed. The same holds of lines behind the last chunk of a body, and a body that
    nobody reads any more may take as long. A connection on which nothing comes is closed after the time that an idle
    one is kept.
    """

    head_s = 30.0

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._head_bytes = 0  # since the last part of a body, or the end of a message
        self._in_body = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wait_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)  # which calls the methods below
        if self.transport.is_closing():
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(431, "The head of the request is too large.")
        elif self._is_answering():
            return  # whoever answers has a deadline for the body
        elif self._head_bytes or self._in_body:
            if self._deadline is None:
                self._deadline = self.loop.call_later(self.head_s, self._too_late)
        else:  # the end of a body that nobody read
            self._unset_deadline()
            self._wait_idle()

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._in_body = True
        self._unset_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        self._in_body = False
        super().on_message_complete()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_idle(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self._head_bytes:
            self._refuse(408, "The head of the request did not arrive in time.")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        self.logger.warning(message)
        if not self._is_answering():  # else it would stand in the midst of that answer
            head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(message) + message.encode())
        self.transport.close()


def connections_with(seconds: float) -> type[Connection]:
    """The class with another deadline for heads: uvicorn makes the connections, and knows nothing of it."""

    class WithDeadline(Connection):
        head_s = seconds

    return WithDeadline
