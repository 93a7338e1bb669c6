"""A process that answers: it binds, loads the models, and serves. Loads torch only once its threads are settled."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable

from bertwright.config.serve import ServeConfig
from bertwright.errors import UserError

# How many connections may wait to be accepted: a burst of clients must not be turned away by the system.
BACKLOG = 2_048


def run_alone(config: ServeConfig, announce: Callable[[int, list[str]], None]) -> None:
    """Serve in this process; ``announce`` is called with the port and the models' names when it answers."""
    with bind(config, config.port) as listener:
        run(config, listener, lambda names: announce(listener.getsockname()[1], names))


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
    config: ServeConfig, listener: socket.socket, on_ready: Callable[[list[str]], None], watched: int | None = None
) -> None:
    """Load the models, then answer on ``listener`` until a signal; see :func:`serving.serve`.

    Raises:
        UserError: a model or file that cannot be used.
    """
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // config.workers)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is loaded: so it holds for the thread that computes

    import uvloop

    from bertwright.shipping.server.api_keys import read_keys
    from bertwright.shipping.server.models import load_models
    from bertwright.shipping.server.serving import serve

    read_keys(config.api_keys)  # a mistake there is told before the models are loaded
    models = load_models(config.runs, config, config.label_map)
    # What is loaded stays: the collector need not look through it again and again while requests wait.
    gc.collect()
    gc.freeze()
    listener.listen(BACKLOG)
    uvloop.run(serve(config, models, [listener], lambda: on_ready(list(models.by_name)), watched))
