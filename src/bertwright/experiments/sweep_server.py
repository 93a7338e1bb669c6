"""The process that starts trials: it loads the library once, and each trial is a copy of it (``fork``).

A start of Python with torch takes seconds, a copy milliseconds. Each trial is a process of its own all the same: when
it crashes, or memory runs out, the others and the sweep go on. Where a system has no ``fork``, it is a fresh process.

Requests come as lines of JSON on standard input, events go as such lines to standard output:

    {"start": 7, "module": "bertwright.cli", "arguments": ["train", ...], "threads": 1, "log": "logs/0007.txt"}
    {"signal": 7, "number": 15}
    {"ready": true, "cuda": false}    {"ended": 7, "code": 0}

``code`` is the exit code, or minus the signal that ended it. When standard input ends, so have those who asked: trials
are then asked to save their state and end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
from typing import Any, NoReturn

from bertwright.parent import ending_with_parent

# By name: a trial is a command, and nothing below the commands knows them. The others are loaded late by a training,
# and together take it longer than three steps of a small model.
_LOADED = ("bertwright.commands", "bertwright.training.train", "sklearn.metrics", "rich.table", "rich.progress")
_FRESH = "import importlib, sys; importlib.import_module(sys.argv[1]).main(sys.argv[2:])"


class Server:
    """Starts processes, passes signals on to them, and tells when they end."""

    def __init__(self) -> None:
        self.processes: dict[int, int] = {}  # number of a request by process id
        self.fresh: dict[int, subprocess.Popen[bytes]] = {}
        self.buffer = b""

    def serve(self) -> None:
        """Until standard input ends, and all processes with it."""
        woken, wake = os.pipe()
        for end in (woken, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            asking = True
            while asking or self.processes:
                ready = {key.fd for key, _ in selector.select(1.0)}
                if woken in ready:
                    os.read(woken, 4096)
                if asking and 0 in ready and not self._read():
                    asking = False
                    selector.unregister(0)
                    for number in list(self.processes.values()):
                        self._signal(number, signal.SIGTERM)
                self._reap()

    def _read(self) -> bool:
        """Handle the requests that have come; False at their end."""
        data = os.read(0, 1 << 16)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "start" in request:
                self._start(request)
            else:
                self._signal(request["signal"], request["number"])
        return bool(data)

    def _start(self, request: dict[str, Any]) -> None:
        if not hasattr(os, "fork"):
            self._start_fresh(request)
            return
        process = os.fork()
        if process == 0:
            _be_a_trial(request)
        self.processes[process] = request["start"]

    def _start_fresh(self, request: dict[str, Any]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(request["threads"])}
        with open(request["log"], "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _FRESH, request["module"], *request["arguments"]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
            )
        self.processes[process.pid] = request["start"]
        self.fresh[process.pid] = process

    def _signal(self, number: int, which: int) -> None:
        for process, started in self.processes.items():
            if started == number:
                os.kill(process, which)

    def _reap(self) -> None:
        for process in list(self.processes):
            if process in self.fresh:
                code = self.fresh[process].poll()
                if code is None:
                    continue
                del self.fresh[process]
            else:
                found, status = os.waitpid(process, os.WNOHANG)
                if found == 0:
                    continue
                code = os.waitstatus_to_exitcode(status)
            _say({"ended": self.processes.pop(process), "code": code})


def _say(event: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # who asked is gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as there are processes


def _be_a_trial(request: dict[str, Any]) -> NoReturn:
    """In the copy: do what was asked for, and end."""
    code: Any = 1
    try:
        server = os.getppid()
        ending_with_parent(signal.SIGTERM)()  # whatever ends the server ends its trials, with their state saved
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_RDWR)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for target, source in ((0, nothing), (1, nothing), (2, log)):
            os.dup2(source, target)
        if os.getppid() != server:  # it ended before prctl
            os._exit(1)
        os.environ["OMP_NUM_THREADS"] = str(request["threads"])
        import torch

        torch.set_num_threads(request["threads"])
        importlib.import_module(request["module"]).main(request["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001  # the boundary of a process: whatever it is goes to the log
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _load() -> bool:
    """Load what trials need, and tell whether there is a GPU. Nothing is computed: threads would not survive a fork."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looks at the driver without starting CUDA
    import torch

    for name in _LOADED:
        importlib.import_module(name)
    from bertwright.model.compiled import load_kernels

    load_kernels()
    gc.collect()
    gc.freeze()  # so that the copies share what is there
    return torch.cuda.is_available()


def serve() -> None:
    """Serve standard input."""
    # Ctrl-C in a terminal is for the sweep, which tells us what is to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _say({"ready": True, "cuda": _load()})
    Server().serve()


if __name__ == "__main__":
    serve()
