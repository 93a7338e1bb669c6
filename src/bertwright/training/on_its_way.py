"""A run on its way: signals are heard, the folder is locked; where it stops, what is kept and how to go on is said."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from bertwright import hardware, runs
from bertwright.errors import Interrupted, RunError
from bertwright.progress import Reporter
from bertwright.training.phases import Phases
from bertwright.training.resume import command
from bertwright.training.stop import Stop, StopNow


def goes_on(resume: bool, output: Path) -> bool:
    """Whether there is a run in ``output`` to go on with, as asked; the folder of one that never began is removed."""
    if resume and runs.is_unborn(output):
        shutil.rmtree(output)
    return resume and output.exists()


@contextlib.contextmanager
def on_its_way(output: Path, reporter: Reporter, resumed: bool) -> Iterator[tuple[Phases, Stop]]:
    """Within it a run is read, learnt and judged; ``resumed``: its folder is there already.

    Raises:
        RunError: a file cannot be written, and the run can go on later.
        Interrupted, SystemExit: a signal came.
    """
    phases = Phases(output, reporter, resumed)
    try:
        with Stop() as stop, phases:
            yield phases, stop
    except StopNow as signal:
        _leave(signal, phases, reporter)
    except OSError as error:
        if not phases.begun or isinstance(error, BrokenPipeError) or hardware.is_out_of_memory(error):
            raise
        raise RunError(
            f"{error.filename or output}: {error.strerror or error}. {phases.kept().capitalize()}; when there is room, "
            f"go on with: {command(output)}"
        ) from error


def _leave(signal: StopNow, phases: Phases, reporter: Reporter) -> NoReturn:
    """End the process as the signal asks, with a line that says what is kept and how to go on."""
    line = f"stopped by {signal.name} while {phases.doing}: "
    if phases.begun:
        line += f"{phases.kept()}. Go on with: {command(phases.output)}"
    else:
        line += "nothing was written. Start it again with the same command"
    reporter.errors.print(line, markup=False)
    if signal.exit_code == Interrupted.exit_code:
        raise Interrupted(line) from None
    raise SystemExit(signal.exit_code) from None
