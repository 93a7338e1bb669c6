"""What a user sees while work goes on: bars on a terminal and in a notebook, plain lines elsewhere.

Outside of notebooks it is all on standard error.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Without a terminal, a line of progress this often.
_LINE_EVERY_S = 10.0
# In a notebook, each new picture of a bar is a message to the browser.
_NOTEBOOK_EVERY_S = 0.2

Advance = Callable[..., None]


class Reporter:
    """Says what happens. ``quiet`` keeps notes and progress to itself, but never a warning.

    Results (tables) go to ``results``, standard output unless ``results_to_stderr``: what is said on the way never
    mixes with them. Without ``results`` they are not shown at all.
    """

    def __init__(self, quiet: bool = False, results_to_stderr: bool = False, results: bool = True) -> None:
        from rich.console import Console

        self.quiet, self.shows_results = quiet, results
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self.results: Console = self.errors if results_to_stderr else Console(highlight=False)
        if not self.results.is_terminal:
            self.results.width = 120  # a file or pipe has no width: keep tables whole

    def say(self, line: str) -> None:
        """One line about what was chosen or found."""
        if not self.quiet:
            self.errors.print(line, markup=False)

    def warn(self, line: str) -> None:
        """One line that must not be missed."""
        self.errors.print(f"WARNING: {line}", markup=False, style="bold yellow")

    def show(self, renderable: object) -> None:
        """A result: a table or a line."""
        if self.shows_results:
            self.results.print(renderable)

    @contextmanager
    def progress(self, what: str, total: int, unit: str = "texts") -> Iterator[Advance]:
        """Yields ``advance(amount, note="")``; shows the rate in ``unit`` a second and the time left."""
        if self.quiet or total == 0:
            yield lambda amount, note="": None
        elif self.errors.is_terminal:
            with _bar(self.errors, what, total, unit) as advance:
                yield advance
        elif self.errors.is_jupyter:
            with _notebook_bar(what, total, unit) as advance:
                yield advance
        else:
            yield _lines(what, total, unit)


@contextmanager
def _bar(console: Console, what: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    started = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(what, total=total, rate="", note="")

        def advance(amount: int, note: str = "") -> None:
            done = bars.tasks[0].completed + amount
            rate = done / max(time.perf_counter() - started, 1e-9)
            bars.update(task, advance=amount, rate=f"{_rate(rate)} {unit}/s")
            if note:
                bars.update(task, note=note)

        yield advance


@contextmanager
def _notebook_bar(what: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar in the output of a notebook's cell, gone when the work is done. It needs no widgets."""
    from IPython.display import HTML, display

    started, shown, done, said = time.perf_counter(), 0.0, 0, ""
    place = display(HTML(""), display_id=True)

    def advance(amount: int, note: str = "") -> None:
        nonlocal shown, done, said
        done, said = done + amount, note or said
        now = time.perf_counter()
        if now - shown < _NOTEBOOK_EVERY_S and done < total:
            return
        shown = now
        rate = done / max(now - started, 1e-9)
        left = duration((total - done) / rate) if rate > 0 else "some time"
        words = f"{what}: {done:,} of {total:,} {unit}, {_rate(rate)}/s, {left} left"
        if said:
            words += f", {said}"
        place.update(HTML(f'<progress value="{done}" max="{total}"></progress> {html.escape(words)}'))

    try:
        yield advance
    finally:
        place.update(HTML(""))


def _lines(what: str, total: int, unit: str) -> Advance:
    started = last = time.perf_counter()
    done = 0

    def advance(amount: int, note: str = "") -> None:
        nonlocal last, done
        done += amount
        now = time.perf_counter()
        if now - last < _LINE_EVERY_S:
            return
        last = now
        rate = done / (now - started)
        left = (total - done) / rate if rate > 0 else 0.0
        line = f"{what}: {done:,}/{total:,} {unit}, {_rate(rate)}/s, {duration(left)} left"
        print(f"{line}, {note}" if note else line, file=sys.stderr, flush=True)

    return advance


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def duration(seconds: float) -> str:
    """Seconds as "0.42 s", "42.0 s", "3 min 05 s" or "2 h 07 min"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
