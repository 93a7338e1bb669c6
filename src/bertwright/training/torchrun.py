"""torchrun as a process of ours: signals go to it, it goes where we go. Torch is imported in that process alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from bertwright.parent import ending_with_parent

# What is passed on to torchrun, and as what: when a terminal is closed (SIGHUP), or at Ctrl-\\, the state is saved too.
_PASSED_ON = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}
if os.name == "posix":
    _PASSED_ON |= {signal.SIGHUP: signal.SIGTERM, signal.SIGQUIT: signal.SIGTERM}


def run_torchrun(command: list[str], environment: dict[str, str], results: Any) -> tuple[int, int]:
    """Run the command to its end; its exit code, and the signal that was passed on to it, or 0. Signals are its to
    answer; but a second Ctrl-C does not wait for that."""
    process: subprocess.Popen[bytes] | None = None
    came: list[signal.Signals] = []
    early: list[signal.Signals] = []

    def pass_on(number: int, frame: Any) -> None:
        again = bool(came)
        came.append(_PASSED_ON[signal.Signals(number)])
        if process is None:
            early.append(came[0])
        elif not again:
            process.send_signal(came[0])
        elif number == signal.SIGINT:
            _kill(process)

    end_with_us = ending_with_parent(signal.SIGTERM) if sys.platform == "linux" else None
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread
        for number in _PASSED_ON:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored on purpose: nohup, a background job
                before[number] = signal.signal(number, pass_on)
    try:
        # In a session of its own, so that a terminal's Ctrl-C reaches it by us alone, and once.
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=results,
            start_new_session=True,
            preexec_fn=end_with_us,
        )
        if early:
            process.send_signal(early[0])
        return process.wait(), came[0] if came else 0
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)
        if process is not None and process.poll() is None:
            process.terminate()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """torchrun, and the processes that it started, as far as Linux tells which they are."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    for child in children:
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)  # each is in a session of its own


def main() -> None:
    """torchrun itself, with its own arguments; but a signal is no fault of which it would show where it came."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.run import main as torchrun

    try:
        torchrun()
    except SignalException as stop:
        sys.exit(128 + stop.sigval)


if __name__ == "__main__":
    main()
