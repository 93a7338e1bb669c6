"""Python programs in processes of their own that need not load torch anew: they are forked from one that has.

To load torch takes more than a second each time. A process that has loaded it, and has done nothing else, waits; what
is to run is forked from it, gets its own environment, folder and files, and ends as any Python does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_WAITING = """
import ctypes, json, os, runpy, signal, socket, sys
import torch
wire = socket.socket(fileno=int(sys.argv[1]))
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the process that started it
wire.send(b"ready")
while True:
    message, files, _, _ = socket.recv_fds(wire, 1 << 20, 3)
    if not message:
        os._exit(0)
    child = os.fork()
    if not child:
        break
    for file in files:
        os.close(file)
    wire.send(str(child).encode())
    status = os.waitpid(child, 0)[1]
    wire.send(str(os.waitstatus_to_exitcode(status)).encode())
wire.close()
for place, file in enumerate(files):
    os.dup2(file, place)
    os.close(file)
asked = json.loads(message)
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["env"])
sys.path[0] = ""
kind, what, *rest = asked["arguments"]
sys.argv = [kind, *rest]
if kind == "-c":
    program, module = compile(what, "<string>", "exec"), sys.modules["__main__"]
    for name in ("ctypes", "json", "runpy", "socket", "wire", "message", "files", "asked", "child"):
        module.__dict__.pop(name, None)
    exec(program, module.__dict__)
else:
    runpy.run_module(what, run_name="__main__", alter_sys=True)
"""
_turn = threading.Lock()


@functools.cache
def _waiting() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITING, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    ours.settimeout(100)
    assert ours.recv(100) == b"ready"
    return process, ours


def run_python(
    arguments: Sequence[object],
    *,
    input: str | None = None,
    env: dict[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 200,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run([sys.executable, *arguments], capture_output=True, text=True, ...)`` gives.

    ``arguments`` begin with "-c" or "-m", and are the tests' own. Elsewhere than on Linux it is that. Variables that
    Python itself or torch reads at its start have no effect.
    """
    words = [str(argument) for argument in arguments]
    if sys.platform != "linux":
        return subprocess.run(
            [sys.executable, *words], input=input, env=env, cwd=cwd, timeout=timeout, check=check,
            capture_output=True, text=True,
        )  # fmt: skip
    asked = {"arguments": words, "env": dict(os.environ if env is None else env), "cwd": str(cwd or Path.cwd())}
    with ThreadPoolExecutor() as pool, _turn:
        pipes = [os.pipe() for _ in range(3)]  # not files: a program may have been forbidden to make them grow
        (given, ours_in), (ours_out, out), (ours_err, err) = pipes
        _, wire = _waiting()
        socket.send_fds(wire, [json.dumps(asked).encode()], [given, out, err])
        for file in (given, out, err):
            os.close(file)
        said = [pool.submit(_read, file) for file in (ours_out, ours_err)]
        pool.submit(_write, ours_in, (input or "").encode())
        wire.settimeout(timeout)
        child = int(wire.recv(100))
        try:
            code = int(wire.recv(100))
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            wire.settimeout(10)
            wire.recv(100)
            raise subprocess.TimeoutExpired([sys.executable, *words], timeout) from None
    texts = [one.result().decode(errors="surrogateescape") for one in said]
    done = subprocess.CompletedProcess([sys.executable, *words], code, *texts)
    if check:
        done.check_returncode()
    return done


def _read(file: int) -> bytes:
    with open(file, "rb") as pipe:
        return pipe.read()


def _write(file: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(file, "wb") as pipe:
        pipe.write(data)
