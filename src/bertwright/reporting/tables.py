"""Tables of a page, and the same as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bertwright.experiments.comparison_csv import unformulated
from bertwright.reporting.visible import in_one_line, visible
from bertwright.reporting.words import decimals


@dataclass(frozen=True)
class Cell:
    """A value, how it is shown, whether it is the best of its column, and whether it stays in one line."""

    value: Any
    shown: str
    best: bool = False
    whole: bool = False

    @property
    def is_number(self) -> bool:
        return isinstance(self.value, int | float) and not isinstance(self.value, bool)

    @property
    def order(self) -> str:
        """What the page sorts by."""
        return repr(float(self.value)) if self.is_number else self.shown


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; the first cell of a row names it.

    Attributes:
        name: of files and ids; lower-case words with hyphens.
        caption: what the rows are, and what a reader must know to read them.
        numeric: by column whether it holds numbers.
    """

    name: str
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]
    sortable: bool = True

    def markdown(self) -> str:
        """As GitHub's Markdown, the caption above."""
        lines = [
            f"**{_markdown(self.caption)}**",
            "",
            _line(_markdown(heading) for heading in self.headings),
            _line("---:" if numeric else "---" for numeric in self.numeric),
            *(_line(_markdown_cell(cell) for cell in row) for row in self.rows),
        ]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """As CSV with a line of headings: numbers in full, nothing where there is none.

        A text that a spreadsheet would take for a formula gets an apostrophe before it.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([unformulated(heading) for heading in self.headings])
        for row in self.rows:
            writer.writerow(["" if cell.value is None else _csv_cell(cell) for cell in row])
        return buffer.getvalue()


def table(
    name: str, caption: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], sortable: bool = True
) -> Table:
    """A table of plain values: strings as they are, numbers with four decimals, None as a dash, cells as they are.

    A column that holds nothing at all is left out.
    """
    cells = tuple(tuple(value if isinstance(value, Cell) else cell(value) for value in row) for row in rows)
    kept = [i for i in range(len(headings)) if i == 0 or any(row[i].value is not None for row in cells)]
    if len(kept) < len(headings):
        headings, cells = [headings[i] for i in kept], tuple(tuple(row[i] for i in kept) for row in cells)
    numeric = tuple(
        any(row[i].is_number for row in cells) and all(row[i].is_number or row[i].value is None for row in cells)
        for i in range(len(headings))
    )
    return Table(name, caption, tuple(headings), cells, numeric, sortable and len(cells) > 1)


def cell(value: Any, shown: str | None = None, best: bool = False) -> Cell:
    """A cell; ``shown`` follows from the value if not given."""
    if shown is None:
        if value is None:
            shown = "–"
        elif isinstance(value, bool):
            shown = "yes" if value else "no"
        elif isinstance(value, int):
            shown = f"{value:,}"
        else:
            shown = decimals(value) if isinstance(value, float) else visible(value)
    return Cell(value, shown, best)


def p_cell(p: float | None) -> Cell:
    """A p-value."""
    return cell(p, "< 0.0001" if p is not None and p < 0.0001 else None)


def interval_cell(interval: Any) -> Cell:
    """An interval in words; a dash where there is none."""
    if not isinstance(interval, list | tuple) or len(interval) != 2 or None in interval:
        return cell(None)
    words = f"{decimals(interval[0])} to {decimals(interval[1])}"
    return Cell(words, words, whole=True)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(item: Cell) -> str:
    shown = _markdown(item.shown)
    return f"**{shown}**" if item.best and shown else shown


def _markdown(text: str) -> str:
    """In one line and without effect: neither HTML nor links, emphasis, code or the end of a cell."""
    escaped = in_one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in r"\`*_[]|~#!" else character for character in escaped)


def _csv_cell(item: Cell) -> Any:
    return item.value if item.is_number else unformulated(visible(item.value))
