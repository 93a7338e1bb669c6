"""The act of serving: one worker in this process, or several under its eyes."""

from __future__ import annotations

import importlib
import ipaddress
import json
import socket

from bertwright.config.serve import ServeConfig
from bertwright.errors import UserError
from bertwright.progress import Reporter
from bertwright.shipping.server.api_keys import read_keys
from bertwright.shipping.server.worker import Loaded

_NEEDED = ("fastapi", "httptools", "orjson", "prometheus_client", "uvicorn", "uvloop")


def run_server(config: ServeConfig, reporter: Reporter, as_json: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        UserError: the libraries for it are not installed; a model or file that cannot be used; a port that is taken.
    """
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(f"serving needs {name}: pip install 'bertwright[serve]'") from None
    # Mistakes in the keys are told before the models are loaded.
    is_open = not read_keys(config.api_keys) and not is_loopback(config.host)

    def announce(port: int, loaded: Loaded) -> None:
        url = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{port}"
        workers = f"{config.workers} workers" if config.workers > 1 else "1 worker"
        for line in loaded.lines:
            reporter.say(line)
        if is_open:
            reporter.warn(
                f"--host {config.host}: whoever reaches this machine may have texts scored, without a key; pass "
                "--api-keys FILE, or keep others out"
            )
        reporter.say(f"serving {', '.join(loaded.names)} on {url} ({workers}); Ctrl-C stops it")
        if as_json:
            print(json.dumps({"url": url, "models": loaded.names, "workers": config.workers}), flush=True)

    if config.workers > 1:
        from bertwright.shipping.server.workers import supervise

        supervise(config, announce)
    else:
        from bertwright.shipping.server.worker import run_alone

        run_alone(config, announce)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on ``host``. Also True of what cannot be listened on at all."""
    try:
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return True
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
