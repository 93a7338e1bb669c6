"""A bundle run on this machine as AWS runs it: unpacked, by AWS's own runtime client, with nothing else importable."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from bertwright.errors import UserError
from bertwright.shipping.aws_lambda.runtime_api import RuntimeApi

_CLIENT = ("awslambdaric", "simplejson", "snapshot-restore-py")
# Python's own modules, then the function's folder, then the client's (AWS: /var/runtime), then the layers'.
_BOOT = """
import sys
sys.path += [{task!r}, {client!r}, {packages!r}]
sys.argv = ["awslambdaric", "lambda_function.handler"]
from awslambdaric.__main__ import main
main(sys.argv)
"""
_START_S = 120.0


@dataclass(frozen=True)
class LocalFunction:
    """A function that waits for events.

    Attributes:
        init_s: seconds from the start of its process to its first question for an event.
    """

    api: RuntimeApi
    process: subprocess.Popen[str]
    init_s: float

    def peak_bytes(self) -> int:
        """Most memory that the process has held at once. Linux only."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0


def unpack_bundle(bundle: Path, architecture: str, room: Path) -> None:
    """Unpack function and layers as AWS does, to ``room/task`` and ``room/opt``, and the runtime client beside.

    Raises:
        UserError: AWS's runtime client is not installed.
    """
    for name, folder in (
        ("function.zip", "task"),
        ("layer-model.zip", "opt"),
        (f"layer-runtime-{architecture}.zip", "opt"),
    ):
        with zipfile.ZipFile(bundle / name) as archive:
            archive.extractall(room / folder)
    for package in _CLIENT:
        try:
            listed = files(package) or []
        except PackageNotFoundError:
            raise UserError("trying a function out needs AWS's runtime client: pip install awslambdaric") from None
        for file in listed:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = room / "client" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)


@contextlib.contextmanager
def local_function(
    room: Path, environment: Mapping[str, str] | None = None, python: str = sys.executable
) -> Iterator[LocalFunction]:
    """The function that :func:`unpack_bundle` unpacked to ``room``, started; it ends with the block.

    Its standard output and error go to ``room/log``.

    Raises:
        RuntimeError: it did not start; with what it said.
    """
    boot = _BOOT.format(task=str(room / "task"), client=str(room / "client"), packages=str(room / "opt" / "python"))
    with RuntimeApi() as api, open(room / "log", "w", encoding="utf-8") as log:
        variables = {
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "_HANDLER": "lambda_function.handler",
            "LAMBDA_TASK_ROOT": str(room / "task"),
            "AWS_LAMBDA_FUNCTION_NAME": "local",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            "BERTWRIGHT_MODEL": str(room / "opt" / "model"),
            **(environment or {}),
        }
        started = time.perf_counter()
        # -I and -S: no other folder of packages, no variables and no user's modules.
        process = subprocess.Popen(
            [python, "-I", "-S", "-B", "-c", boot], cwd=room, env=variables, stdout=log, stderr=log, text=True
        )
        try:
            while not api.asked_first.wait(0.001):
                if process.poll() is not None or time.perf_counter() - started > _START_S:
                    break
            init_s = time.perf_counter() - started
            if api.init_error is not None or not api.asked_first.is_set():
                process.kill()
                process.wait()
                raise RuntimeError(f"the function did not start: {api.init_error} {(room / 'log').read_text()[-2000:]}")
            yield LocalFunction(api, process, init_s)
        finally:
            process.kill()
            process.wait()
