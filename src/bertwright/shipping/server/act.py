"""The act of serving: one worker in this process, or several under its eyes."""

from __future__ import annotations

import importlib
import json

from bertwright.config.serve import ServeConfig
from bertwright.errors import UserError
from bertwright.progress import Reporter

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

    def announce(port: int, names: list[str]) -> None:
        url = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{port}"
        workers = f"{config.workers} workers" if config.workers > 1 else "1 worker"
        reporter.say(f"serving {', '.join(names)} on {url} ({workers}); Ctrl-C stops it")
        if as_json:
            print(json.dumps({"url": url, "models": names, "workers": config.workers}), flush=True)

    if config.workers > 1:
        from bertwright.shipping.server.workers import supervise

        supervise(config, announce)
    else:
        from bertwright.shipping.server.worker import run_alone

        run_alone(config, announce)
