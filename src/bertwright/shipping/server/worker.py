"""A process that answers: it binds, loads the models, and serves. Loads torch only once its threads are settled."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from bertwright.config.serve import ServeConfig
from bertwright.cpus import num_usable_cpus
from bertwright.errors import UserError

# How many connections may wait to be accepted: a burst of clients must not be turned away by the system.
BACKLOG = 2_048


@dataclass(frozen=True)
class Loaded:
    """What a worker has loaded: the models' names, and lines on what was found and chosen."""

    names: list[str]
    lines: list[str]


Announce = Callable[[int, Loaded], None]


def run_alone(config: ServeConfig, announce: Announce) -> None:
    """Serve in this process; ``announce`` is called with the port and what was loaded when it answers."""
    with bind(config, config.port) as listener:
        run(config, listener, lambda loaded: announce(listener.getsockname()[1], loaded))


def num_threads(config: ServeConfig) -> int:
    """With how many threads each worker computes."""
    return config.threads or max(1, num_usable_cpus() // config.workers)


def bind(config: ServeConfig, port: int, *, shared: bool = False) -> socket.socket:
    """A socket bound to the address; ``shared`` with those of other workers, among which the system deals connections.

    Raises:
        UserError: the address is taken, or is none of this machine's.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise UserError(
            f"{config.host}:{port}: cannot listen there ({error.strerror or error}); pass another --host or --port"
        ) from None
    listener.setblocking(False)
    return listener


def run(
    config: ServeConfig, listener: socket.socket, on_ready: Callable[[Loaded], None], watched: int | None = None
) -> None:
    """Load the models, then answer on ``listener`` until a signal; see :func:`serving.serve`.

    Raises:
        UserError: a model or file that cannot be used.
    """
    # Before torch is loaded: so it holds for the thread that computes.
    os.environ["OMP_NUM_THREADS"] = str(num_threads(config))

    import uvloop

    from bertwright.shipping.server.models import load_models
    from bertwright.shipping.server.serving import serve

    models = load_models(config.runs, config, config.label_map)
    # What is loaded stays: the collector need not look through it again and again while requests wait.
    gc.collect()
    gc.freeze()
    listener.listen(BACKLOG)
    loaded = Loaded(list(models.by_name), models.described())
    uvloop.run(serve(config, models, [listener], lambda: on_ready(loaded), watched))
