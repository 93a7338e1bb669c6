"""A page: a summary in words, sections of pictures, tables and texts; as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertwright import __version__
from bertwright.errors import UserError
from bertwright.reporting.svg import Plot, page_svg, write_picture
from bertwright.reporting.tables import Table, cell, table
from bertwright.reporting.visible import in_one_line, visible
from bertwright.runs import write_text

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Tile:
    """A headline figure: what it is, its value, and what to know of it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """A text with facts about it. ``text`` is None where it was not kept."""

    facts: tuple[str, ...]
    text: str | None
    pair: str | None = None


@dataclass(frozen=True)
class Texts:
    """Texts under a heading, one by one. ``fact_names`` name the entries' facts, for the files."""

    name: str
    heading: str
    note: str
    fact_names: tuple[str, ...]
    entries: tuple[Entry, ...]

    def table(self) -> Table:
        """The same as a table."""
        pairs = any(entry.pair is not None for entry in self.entries)
        headings = (*self.fact_names, "text", *(["pair"] if pairs else []))
        rows = [
            [*map(cell, entry.facts), cell(entry.text), *([cell(entry.pair)] if pairs else [])]
            for entry in self.entries
        ]
        return table(self.name, self.heading, headings, rows)


@dataclass(frozen=True)
class Lines:
    """Code or a command, to be copied."""

    heading: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading, ``short`` in the list of all. ``folded`` tables have to be opened."""

    name: str
    heading: str
    short: str
    prose: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    texts: tuple[Texts, ...] = ()
    lines: tuple[Lines, ...] = ()
    folded: tuple[Table, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.prose or self.plots or self.tables or self.texts or self.lines or self.folded)


@dataclass(frozen=True)
class Page:
    """All that a page shows. ``summary`` are sentences, ``cautions`` what must be kept in mind when reading them."""

    title: str
    subtitle: str
    summary: tuple[str, ...]
    cautions: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    sections: tuple[Section, ...] = field(default=())

    def plots(self) -> Iterator[Plot]:
        for section in self.sections:
            yield from section.plots

    def tables(self) -> Iterator[Table]:
        """All tables, those of texts too."""
        for section in self.sections:
            yield from section.tables
            yield from (texts.table() for texts in section.texts)
            yield from section.folded


def html(page: Page) -> str:
    """The page as one document that asks for nothing from anywhere and runs no script but its own.

    Raises:
        UserError: Jinja2 or matplotlib is not installed.
    """
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    sections = [section for section in page.sections if not section.is_empty]
    return str(
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            sections=sections,
            style=_markup(style),
            script=_markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
            version=__version__,
        )
    )


def render(template: str, **values: Any) -> str:
    """A template of this package with ``values``, all of them escaped.

    Raises:
        UserError: Jinja2 is not installed.
    """
    return str(_environment().get_template(template).render(**values))


@functools.cache
def _environment() -> Any:
    try:
        import jinja2
    except ModuleNotFoundError:
        raise UserError("a report needs Jinja2: pip install 'bertwright[report]'") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["in_one_line"] = in_one_line
    environment.filters["svg"] = lambda plot, prefix="": _markup(page_svg(plot, prefix))
    return environment


def _markup(text: str) -> Any:
    """Text of our own that is HTML already."""
    import markupsafe

    return markupsafe.Markup(text)


def _hash(text: str) -> str:
    """Of a script or style sheet as it stands between its tags, for the Content-Security-Policy."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def write_page(page: Page, path: Path) -> int:
    """Write the page's document beside ``path`` and rename it; its size in bytes."""
    document = html(page)
    write_text(path, document)
    return len(document.encode("utf-8"))


def write_pictures(page: Page, folder: Path) -> list[Path]:
    """Each picture as NAME.svg and NAME.png in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{plot.name}{suffix}" for plot in page.plots() for suffix in (".svg", ".png")]
    for plot in page.plots():
        for suffix in (".svg", ".png"):
            write_picture(plot, folder / f"{plot.name}{suffix}")
    return paths


def write_tables(page: Page, folder: Path) -> list[Path]:
    """Each table as NAME.md and NAME.csv in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for item in page.tables():
        for suffix, text in ((".md", item.markdown()), (".csv", item.csv())):
            path = folder / f"{item.name}{suffix}"
            write_text(path, text)
            paths.append(path)
    return paths


def check_names(sections: Sequence[Section]) -> None:
    """Names are of ids and files: none may stand for two things."""
    names: list[str] = []
    for section in sections:
        names += [plot.name for plot in section.plots]
        names += [item.name for item in (*section.tables, *section.folded)]
        names += [texts.name for texts in section.texts]
    assert len(set(names)) == len(names), names
