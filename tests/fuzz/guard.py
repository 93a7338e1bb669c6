"""What no input may bring about, watched while a target reads it: programs, connections, files outside its folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FORBIDDEN = {
    *("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request", "pickle.find_class", "ctypes.dlopen"),
}
# What changes the paths that it is given, first or also second.
_CHANGING = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown"),
    *("os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.copytree"),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Sees what Python is asked for by its audit events, and remembers what is not allowed.

    C code that opens files itself is not seen; what such code is given as a name went through Python before.
    """

    def __init__(self, folder: Path) -> None:
        """``folder`` may be written to. ``outside`` beside what is read holds a file that nobody may open."""
        self._allowed = os.path.realpath(folder) + os.sep
        self._secret = os.path.join(self._allowed, "outside", "secret")
        self._watching = False
        self.seen: list[str] = []
        os.makedirs(os.path.dirname(self._secret), exist_ok=True)
        Path(self._secret).write_bytes(b"secret")
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.seen = []
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event in _FORBIDDEN:
            if event != "ctypes.dlopen" or arguments[0]:
                self.seen.append(f"{event} {str(arguments)[:200]}")
        elif event == "open":
            self._watching = False  # what looks at the path is not the target
            try:
                self._look_at(*arguments[:3])
            finally:
                self._watching = True
        elif event in _CHANGING:
            self._watching = False
            try:
                for path in arguments[:2]:
                    if isinstance(path, str | bytes | os.PathLike) and not self._is_allowed(path):
                        self.seen.append(f"{event} {os.fspath(path)!r}")
            finally:
                self._watching = True

    def _look_at(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        is_writing = bool(isinstance(flags, int) and flags & _WRITING) or (
            isinstance(mode, str) and bool({*mode} & {*"wax+"})
        )
        try:
            real = os.path.realpath(os.fsdecode(path))
        except (OSError, ValueError):
            return
        if real in (self._secret, "/etc/passwd"):
            self.seen.append(f"reads {os.fsdecode(path)!r}")
        elif is_writing and real != os.devnull and not self._is_allowed(real):
            self.seen.append(f"writes {real!r}")

    def _is_allowed(self, path: Any) -> bool:
        try:
            real = os.path.realpath(os.fsdecode(path)) + os.sep
        except (OSError, ValueError):
            return True
        inside = real.startswith(self._allowed) and not real.startswith(os.path.dirname(self._secret) + os.sep)
        return inside or real.startswith("/dev/shm/")
