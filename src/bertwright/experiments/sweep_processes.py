"""Processes of trials, as the sweep sees them: started by a server (``sweep_server``), ended by their number.
Torch is never imported here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from bertwright.errors import RunError

# The server loads torch first; on a slow disk, or a busy machine, that takes long.
_STARTS_WITHIN_S = 300.0
_ENDS_WITHIN_S = 120.0


class Processes:
    """Starts commands, each in a process of its own. Ends all of them, with their state saved, at exit."""

    def __init__(self, kept_open: tuple[int, ...] = ()) -> None:
        """``kept_open`` are descriptors of files that all processes get."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        source = str(Path(__file__).resolve().parents[2])  # also where bertwright is not installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, environment.get("PYTHONPATH", "")]))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "bertwright.experiments.sweep_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            pass_fds=kept_open,
            start_new_session=True,  # Ctrl-C in a terminal is for the sweep alone
        )
        self._buffer = b""
        self._has_cuda: bool | None = None
        self._ended: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.close()
        try:
            self._server.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()

    @property
    def has_cuda(self) -> bool:
        """Whether trials will find a GPU. Waits until the server has loaded torch."""
        until = time.monotonic() + _STARTS_WITHIN_S
        while self._has_cuda is None:
            if time.monotonic() > until:
                raise RunError(f"the process that starts trials did not come up within {_STARTS_WITHIN_S:.0f} s")
            self._receive(1.0)
        return self._has_cuda

    def start(self, number: int, arguments: list[str], threads: int, log: Path, module: str = "bertwright.cli") -> None:
        """Start ``main(arguments)`` of ``module`` as process ``number``, with so many threads; errors go to ``log``."""
        request = {"start": number, "module": module, "arguments": arguments, "threads": threads, "log": str(log)}
        self._send(request)

    def signal(self, number: int, which: int) -> None:
        """Send a signal to process ``number``; nothing if it has ended."""
        self._send({"signal": number, "number": int(which)})

    def ended(self, timeout_s: float) -> list[tuple[int, int]]:
        """Those that ended since the last call, with their exit codes (minus the signal that ended them); waits up to
        ``timeout_s`` for one."""
        if not self._ended:
            self._receive(timeout_s)
        found, self._ended = self._ended, []
        return found

    def wait_for(self, number: int, check: Callable[[], None] = lambda: None) -> int:
        """The exit code of process ``number``, the only one there is, once it ends; ``check`` may raise meanwhile."""
        while not self._ended:
            self._receive(0.2)
            check()
        return dict(self.ended(0.0))[number]

    def _send(self, request: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        try:
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def _receive(self, timeout_s: float) -> None:
        """Take in what the server says; wait up to ``timeout_s`` for it."""
        assert self._server.stdout is not None
        descriptor = self._server.stdout.fileno()
        if not select.select([descriptor], [], [], timeout_s)[0]:
            return
        data = os.read(descriptor, 1 << 16)
        if not data:
            raise self._gone()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for event in map(json.loads, lines):
            if "ready" in event:
                self._has_cuda = event["cuda"]
            elif "ended" in event:
                self._ended.append((event["ended"], event["code"]))

    def _gone(self) -> RunError:
        code = self._server.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return RunError(f"the process that starts trials ended {how}; go on with the same command")
