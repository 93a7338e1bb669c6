"""One worker: its models, its event loop, and how it ends without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from bertwright.config.serve import ServeConfig
from bertwright.shipping.server.api_keys import read_keys
from bertwright.shipping.server.app import make_app
from bertwright.shipping.server.connection import connections_with
from bertwright.shipping.server.gate import Gate
from bertwright.shipping.server.metrics import Metrics
from bertwright.shipping.server.models import Models
from bertwright.shipping.server.request_log import RequestLog
from bertwright.shipping.server.service import Service

# After the signal, requests that are already on the wire may still come in: they are told that the server stops.
_LINGER_S = 0.3
_LOOK_EVERY_S = 0.02
# Longer than load balancers keep an idle connection (60 s are common): else they would send on one that we just closed.
_KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """Uvicorn, but for signals, which are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    config: ServeConfig,
    models: Models,
    sockets: list[socket.socket],
    on_ready: Callable[[], None],
    watched: int | None = None,
) -> None:
    """Answer until SIGTERM or SIGINT; then finish what was accepted, for ``drain_seconds`` at most, and return.

    A second signal ends it at once, unless there is a supervisor: Ctrl-C and systemd tell both, and the supervisor
    tells its workers again. ``watched`` is a file descriptor whose end means the same as a signal: that of a supervisor
    that has died.
    """
    log = RequestLog(config.log == "requests")
    logging.getLogger().addHandler(log)
    metrics = Metrics()
    service = Service(config, models, metrics)
    gate = Gate(make_app(service), service, read_keys(config.api_keys), log)
    server = server_of(gate, config)
    loop = asyncio.get_running_loop()
    draining: list[asyncio.Task[None]] = []

    def stop() -> None:
        if draining:  # asked twice
            if watched is None:
                server.should_exit = server.force_exit = True
            return
        log.event("stopping", open_requests=gate.num_open)
        draining.append(loop.create_task(drain()))

    async def drain() -> None:
        service.draining = True
        until = loop.time() + config.drain_seconds
        await asyncio.sleep(min(_LINGER_S, config.drain_seconds))
        while gate.num_open and loop.time() < until:
            await asyncio.sleep(_LOOK_EVERY_S)
        if gate.num_open:
            log.event("stopped late", "warning", open_requests=gate.num_open)
            service.batcher.close()  # who still waits is told
            await asyncio.sleep(_LOOK_EVERY_S)
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if watched is not None:

        def left_alone() -> None:
            loop.remove_reader(watched)
            stop()

        loop.add_reader(watched, left_alone)
    try:
        await _run(server, sockets, on_ready)
    finally:
        service.batcher.close()
        log.event("stopped")
        logging.getLogger().removeHandler(log)
        log.close()


def server_of(app: Any, config: ServeConfig) -> uvicorn.Server:
    """Uvicorn around an ASGI application."""
    return _Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=connections_with(config.read_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
    )


async def _run(server: uvicorn.Server, sockets: list[socket.socket], on_ready: Callable[[], None]) -> None:
    async def tell() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        on_ready()

    telling = asyncio.ensure_future(tell())
    try:
        await server.serve(sockets)
    finally:
        telling.cancel()
