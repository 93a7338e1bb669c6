"""Heads of requests have a deadline and a size: who never ends one keeps no connection, and fills no memory."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvicorn
from tests.shipping.server.asking import run
from uvicorn.server import ServerState

from bertwright.config.base import build
from bertwright.config.serve import ServeConfig
from bertwright.shipping.server.connection import MOST_HEAD_BYTES, Connection, connections_with
from bertwright.shipping.server.serving import server_of

WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
ANSWER = b"\r\n\r\nok"


async def answer_unread(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def connected(app=answer_unread, head_s=20.0, keep_alive_s=20.0):
    """A client's end of a connection."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, timeout_keep_alive=keep_alive_s
    )
    made = connections_with(head_s)
    state = ServerState()
    server = await loop.create_server(lambda: made(config, state, {}, _loop=loop), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(15):
            yield reader, writer
    finally:
        writer.close()
        server.close()


def told(*parts, **settings):
    """What the client gets after its last part until the server closes; it waits for the answer to each part before."""

    async def asked():
        async with connected(**settings) as (reader, writer):
            for part in parts[:-1]:
                writer.write(part)
                await reader.readuntil(ANSWER)
            writer.write(parts[-1])
            return await reader.read()

    return run(asked())


@pytest.mark.parametrize("parts", [(b"P",), (POST + b"X: y",), (WHOLE, b"GET"), (WHOLE, WHOLE, b"\r\n")])
def test_a_head_that_does_not_end_in_time_is_408_and_the_end(parts):
    assert told(*parts, head_s=0.05).startswith(b"HTTP/1.1 408 ")


def test_a_connection_on_which_nothing_comes_is_closed():
    assert told(b"", keep_alive_s=0.05) == b""


def test_a_body_that_nobody_reads_has_the_same_deadline():
    assert told(POST + b"Content-Length: 9\r\n\r\n", b"aa", head_s=0.05) == b""


def test_a_head_without_end_is_431():
    start = POST + b"X: "
    assert told(start + b"a" * (MOST_HEAD_BYTES + 1 - len(start))).startswith(b"HTTP/1.1 431 ")


def test_lines_without_end_behind_a_body_close_the_connection():
    async def asked():
        arrived, gone = asyncio.Event(), asyncio.Event()

        async def app(scope, receive, send):
            await receive()
            arrived.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        async with connected(app) as (reader, writer):
            writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await arrived.wait()
            start = b"0\r\nX: "
            writer.write(start + b"a" * (MOST_HEAD_BYTES + 1 - len(start)))
            found = await reader.read()
            await gone.wait()
            return found

    assert run(asked()) == b""


def test_a_refused_body_is_read_to_its_end_and_the_connection_goes_on():
    async def asked():
        async with connected() as (reader, writer):
            writer.write(POST + b"Content-Length: 400000\r\n\r\n" + b"a" * 100_000)
            await reader.readuntil(ANSWER)
            writer.write(b"a" * 300_000 + WHOLE)
            return await reader.readuntil(ANSWER)

    assert run(asked()).startswith(b"HTTP/1.1 200 ")


def test_the_server_takes_the_deadline_from_its_settings():
    server = server_of(answer_unread, build(ServeConfig, {"runs": ("a",), "read_seconds": 7}))
    assert issubclass(server.config.http, Connection)
    assert server.config.http.head_s == 7
