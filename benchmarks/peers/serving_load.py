"""Load on a server, from a process of its own: clients that ask again and again, or requests at a rate.

    python benchmarks/peers/serving_load.py closed URL TEXTS.json --clients 16 --seconds 10 [--kind infinity]
    python benchmarks/peers/serving_load.py open URL TEXTS.json --rate 5000 --clients 512 --seconds 60

``closed``: each client sends its next text when it has the answer to the last one. ``open``: texts are sent at a rate,
whatever the answers take; where all connections are busy, a text is counted as unsent. Prints one object of JSON;
``open`` prints one before it, as soon as it sends no more: {"sending_ended_s": the moment by time.monotonic(), which is
that of all processes of the machine}. Times and rates are those of answers with 200.

Speaks HTTP over plain sockets: a client library would cost more than the server does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

KINDS = ("predict", "infinity")


class Client(asyncio.Protocol):
    """A connection that asks one thing at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of TCP, which can write

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower()
        place = lines.find(b"content-length:")
        if place >= 0:
            length = int(lines[place + 15 :].split(b"\r\n", 1)[0])
            if len(body) < length:
                return
        elif not body.endswith(b"0\r\n\r\n"):  # chunked
            return
        self._received = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(int(head[9:12]))

    async def ask(self, request: bytes) -> int:
        """The status of the answer."""
        if self.transport is None:
            raise ConnectionError("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


def requests(url: str, texts: list[str], kind: str) -> list[bytes]:
    """All requests, ready to be sent."""
    address = urlsplit(url)
    made = []
    for text in texts:
        document = {"model": "model", "input": [text]} if kind == "infinity" else {"inputs": text}
        body = json.dumps(document).encode()
        path = "/classify" if kind == "infinity" else "/predict"
        head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        made.append(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return made


async def connect(url: str) -> Client:
    address = urlsplit(url)
    _, client = await asyncio.get_running_loop().create_connection(Client, address.hostname, address.port)
    return client


async def closed(url: str, asked: list[bytes], num_clients: int, seconds: float, warm_up_s: float) -> dict:
    """Clients that wait for their answers. The first ``warm_up_s`` seconds are not counted."""
    taken: list[float] = []
    statuses: Counter[str] = Counter()
    begun = time.perf_counter() + warm_up_s
    until = begun + seconds

    async def work(number: int) -> None:
        client = await connect(url)
        place = number * 997
        while (sent := time.perf_counter()) < until:
            place += 1
            try:
                status = await client.ask(asked[place % len(asked)])
            except OSError:
                statuses["lost"] += sent >= begun
                client = await connect(url)
                continue
            now = time.perf_counter()
            if sent >= begun and now <= until:
                statuses[str(status)] += 1
                if status == 200:
                    taken.append(now - sent)
        if client.transport is not None:
            client.transport.close()

    await asyncio.gather(*(work(number) for number in range(num_clients)))
    return {"seconds": seconds, "statuses": dict(statuses), "per_s": len(taken) / seconds, **percentiles(taken)}


async def open_loop(url: str, asked: list[bytes], rate: float, num_clients: int, seconds: float) -> dict:
    """Requests at a rate. Tells when it sends no more; then all answers are waited for, 60 seconds at most."""
    idle = [await connect(url) for _ in range(num_clients)]
    statuses: Counter[str] = Counter()
    taken: list[float] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(client: Client, request: bytes) -> None:
        if client.transport is None:  # closed by the server while it was idle
            client = await connect(url)
        sent = time.perf_counter()
        try:
            status = await client.ask(request)
        except OSError:
            statuses["lost"] += 1
            with suppress(OSError):
                idle.append(await connect(url))
            return
        statuses[str(status)] += 1
        if status == 200:
            taken.append(time.perf_counter() - sent)
        idle.append(client)

    begun, num_sent = time.perf_counter(), 0
    while (now := time.perf_counter()) < begun + seconds:
        while num_sent < (now - begun) * rate:
            num_sent += 1
            if not idle:
                statuses["unsent"] += 1
                continue
            task = asyncio.ensure_future(one(idle.pop(), asked[num_sent % len(asked)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.001)
    print(json.dumps({"sending_ended_s": time.monotonic()}), flush=True)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=60)
        statuses["lost"] += len(late)
        for task in late:
            task.cancel()
    return {"seconds": seconds, "rate": rate, "statuses": dict(statuses), **percentiles(taken)}


def percentiles(taken: list[float]) -> dict[str, float | None]:
    taken = sorted(taken)

    def at(share: float) -> float | None:
        return round(taken[min(int(share * len(taken)), len(taken) - 1)] * 1e3, 3) if taken else None

    return {"p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": at(1.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("closed", "open"))
    parser.add_argument("url")
    parser.add_argument("texts")
    parser.add_argument("--kind", choices=KINDS, default="predict")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--rate", type=float, default=1000)
    given = parser.parse_args()
    with open(given.texts, encoding="utf-8") as file:
        asked = requests(given.url, json.load(file), given.kind)
    if given.mode == "closed":
        work = closed(given.url, asked, given.clients, given.seconds, given.warm_up)
    else:
        work = open_loop(given.url, asked, given.rate, given.clients, given.seconds)
    try:
        import uvloop

        found = uvloop.run(work)
    except ImportError:
        found = asyncio.run(work)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
