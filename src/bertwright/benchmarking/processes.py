"""The workers as the benchmark sees them: started, spoken to line by line, and ended whatever happens."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# A worker that has not answered by then is taken for hung.
_PATIENCE_S = 3600.0


class WorkerFailed(Exception):
    """The worker has died, or said that its contender cannot go on; the message is the reason."""


class Worker:
    """One contender's process. Use as a context manager: it ends with the block."""

    def __init__(self, name: str, log: Path, patience_s: float = _PATIENCE_S) -> None:
        self.name, self.log, self.patience_s = name, log, patience_s
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bertwright.benchmarking.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._buffer = b""

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, **request: Any) -> dict[str, Any]:
        """The worker's answer to ``request``.

        Raises:
            WorkerFailed: it has failed, died, or is silent for too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._last_words()) from None
        answer = json.loads(self._read_line())
        if "failed" in answer:
            raise WorkerFailed(answer["failed"])
        return answer

    def stop(self) -> None:
        """End the process, kindly and then not."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        until = time.monotonic() + self.patience_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self._process.kill()
                raise WorkerFailed(f"no answer within {self.patience_s:.0f} s")
            piece = self._process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not piece:
                raise WorkerFailed(self._last_words())
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self) -> str:
        """Why a worker that said nothing is gone, as far as can be told."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "its process closed its output"
        written = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = f": {written[-1][:200]}" if written else ""
        if code < 0:
            out_of_memory = " (out of memory?)" if code == -9 else ""
            return f"its process was ended by signal {-code}{out_of_memory}{said}"
        return f"its process ended with code {code}{said}"
