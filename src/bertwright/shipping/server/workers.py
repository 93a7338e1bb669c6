"""Several workers on one address: started, watched, started again where one dies, and stopped together."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from bertwright.config.serve import ServeConfig
from bertwright.errors import UserError
from bertwright.shipping.server.worker import Announce, Loaded, bind, run

# A worker that dies sooner than this is not started again: the next one would die too.
_LEAST_LIFE_S = 5.0
_SPARE_S = 5.0
_LOOK_EVERY_S = 0.05


class _Worker:
    """A process, the pipe through which it tells that it answers, and when it was started.

    The other end of the pipe is open as long as this process lives: so the worker sees if it dies.
    """

    def __init__(self, config: ServeConfig, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.told, telling = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(config, port, telling), name="worker")
        self.process.start()
        telling.close()
        self.started = time.monotonic()
        self.loaded: Loaded | None = None  # once it answers


def supervise(config: ServeConfig, announce: Announce) -> None:
    """Serve with several workers until SIGTERM or SIGINT; ``announce`` is called when all of them answer.

    A second signal ends them at once.

    Raises:
        UserError: as of one worker; or workers die as soon as they are started.
    """
    with tempfile.TemporaryDirectory(prefix="bertwright-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        # Bound but not listening: it keeps the port for the workers, and gets no connection itself.
        held = bind(config, config.port, shared=True)
        port = held.getsockname()[1]
        stopping: list[int] = []
        wake, woken = multiprocessing.Pipe()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def stop(number: int, _: Any) -> None:
            stopping.append(number)
            wake.send(None)

        workers: list[_Worker] = []
        try:
            for number in before:
                signal.signal(number, stop)
            workers += [_Worker(config, port) for _ in range(config.workers)]
            _watch(config, port, workers, stopping, woken, announce)
        finally:
            _end(workers, config.drain_seconds + _SPARE_S, stopping)
            for number, handler in before.items():
                signal.signal(number, handler)
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
            held.close()


def _watch(
    config: ServeConfig,
    port: int,
    workers: list[_Worker],
    stopping: list[int],
    woken: Connection,
    announce: Announce,
) -> None:
    announced = False
    while not stopping:
        waiting: list[Any] = [
            woken,
            *(w.told for w in workers if w.loaded is None),
            *(w.process.sentinel for w in workers),
        ]
        multiprocessing.connection.wait(waiting)
        for worker in list(workers):
            if worker.loaded is None and worker.told.poll():
                try:
                    kind, what = worker.told.recv()
                except EOFError:
                    kind, what = "died", None
                if kind == "failed":
                    raise UserError(what)
                if kind == "ready":
                    worker.loaded = what
            if not worker.process.is_alive() and not stopping:
                workers[workers.index(worker)] = _next_worker(config, port, worker)
        loaded = [worker.loaded for worker in workers if worker.loaded is not None]
        if not announced and len(loaded) == len(workers):
            announced = True
            announce(port, loaded[0])  # all of them have loaded the same


def _next_worker(config: ServeConfig, port: int, dead: _Worker) -> _Worker:
    """Another worker in the place of one that died.

    Raises:
        UserError: it died at once.
    """
    from prometheus_client.multiprocess import mark_process_dead

    dead.process.join()
    code = dead.process.exitcode
    if dead.loaded is None or time.monotonic() - dead.started < _LEAST_LIFE_S:
        raise UserError(f"a worker ended with code {code} as soon as it was started; the lines above say why")
    print(f"a worker ended with code {code}; another one is started", file=sys.stderr)
    mark_process_dead(dead.process.pid)
    return _Worker(config, port)


def _end(workers: list[_Worker], within_s: float, signals: list[int]) -> None:
    """Ask all workers to stop, and end those that do not within so many seconds, or until a second signal comes."""
    for worker in workers:
        if worker.process.is_alive():
            worker.process.terminate()
    until = time.monotonic() + within_s
    for worker in workers:
        while worker.process.is_alive() and len(signals) < 2 and time.monotonic() < until:
            worker.process.join(_LOOK_EVERY_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(config: ServeConfig, port: int, telling: Connection) -> None:
    """What a worker's process does."""
    try:
        with bind(config, port, shared=True) as listener:
            run(config, listener, lambda loaded: telling.send(("ready", loaded)), watched=telling.fileno())
    except UserError as error:
        telling.send(("failed", str(error)))
    except (KeyboardInterrupt, BrokenPipeError):
        pass
