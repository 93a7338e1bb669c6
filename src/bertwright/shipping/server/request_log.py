"""Lines of JSON on standard error: what happened to each request, but nothing of what it said."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

# Lines that may wait. A reader that sleeps must not stop the server: what comes on top is dropped and counted.
_MOST_LINES = 10_000
_EVERY_S = 0.1


def _line(event: str, level: str, **facts: Any) -> bytes:
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    return orjson.dumps({"time": moment, "level": level, "event": event, **facts})


class RequestLog(logging.Handler):
    """Collects lines and writes them from a thread of its own. Also takes what other libraries log, warnings and up."""

    def __init__(self, all_requests: bool) -> None:
        super().__init__(logging.WARNING)
        self.all_requests = all_requests
        self._lines: list[bytes] = []
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def event(self, event: str, level: str = "info", **facts: Any) -> None:
        if len(self._lines) >= _MOST_LINES:
            self._dropped += 1
            return
        self._lines.append(_line(event, level, **facts))

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            # Where it happened, without the message, which may quote a text.
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            facts["error"] = type(error).__name__
            facts["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        self.event(record.getMessage().partition("\n")[0], record.levelname.lower(), **facts)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=1)
        super().close()

    def _write_all(self) -> None:
        while True:
            ended = self._closing.wait(_EVERY_S)
            lines = self._lines[:]
            del self._lines[: len(lines)]  # others may have added more meanwhile
            if self._dropped:
                lines.append(_line(f"{self._dropped} lines dropped", "warning"))
                self._dropped = 0
            if lines:
                try:
                    sys.stderr.write(b"".join(line + b"\n" for line in lines).decode())
                    sys.stderr.flush()
                except (OSError, ValueError):  # nobody reads it any more
                    return
            if ended:
                return
