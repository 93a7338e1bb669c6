"""SIGTERM and Ctrl-C while a run is going: what is whole is kept, and the process ends soon."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

_EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}  # 128 + the signal's number, as shells have it


class StopNow(BaseException):
    """The process was asked to stop. Not an ``Exception``: nobody may take it for a failure and go on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES.get(signal.Signals(self.number), 128 + self.number)


class Stop:
    """Within it, in the main thread, SIGTERM and Ctrl-C raise ``StopNow``: at once, or at the next ``check`` where work
    is ``deferred``. A second Ctrl-C is a plain ``KeyboardInterrupt`` at once, unless a file is being written
    (``uninterrupted``).

    In other threads it does nothing: there Python allows no handlers.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferred = self._writing = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _EXIT_CODES:
                before = signal.getsignal(number)
                # Ignored on purpose (nohup, a shell's background job), or handled outside of Python: left alone.
                if before is not signal.SIG_IGN and before is not None:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            if number == signal.SIGINT and not self._writing:
                raise KeyboardInterrupt
            return
        self.requested = number
        if not self._writing and not self._deferred:
            raise StopNow(number)

    def check(self) -> None:
        """Raise ``StopNow`` if the process has been asked to stop."""
        if self.requested is not None:
            raise StopNow(self.requested)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[Callable[[], None]]:
        """Within it a signal waits for ``check``, which is yielded; at the end of the outermost for nothing."""
        before, self._deferred = self._deferred, True
        try:
            yield self.check
        finally:
            self._deferred = before
        if not before:
            self.check()

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Within ``deferred``: work that may be left anywhere."""
        self.check()
        before, self._deferred = self._deferred, False
        try:
            yield
        finally:
            self._deferred = before

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Within it no signal raises anything; the next ``check`` does."""
        before, self._writing = self._writing, True
        try:
            yield
        finally:
            self._writing = before
