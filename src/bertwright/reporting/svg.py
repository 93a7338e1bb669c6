"""Pictures: drawn by matplotlib, as SVG for a page or as files.

On a page a picture is inline SVG without style, script or font of its own: text stays text, colours are CSS variables,
so that they follow the page's (light, dark, print), and ids are unique to the picture. A file has its colours in it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from bertwright.errors import UserError
from bertwright.reporting.visible import in_one_line
from bertwright.runs import written_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_POINTS_PER_INCH = 72
_PNG_DOTS_PER_INCH = 216


@dataclass(frozen=True)
class Palette:
    """Colours by what they are for. The series can be told apart by the colour-blind, and differ in lightness too."""

    ink: str
    muted: str
    grid: str
    surface: str
    series: tuple[str, ...]


# After Okabe and Ito (2008), darkened until each has a contrast of 3:1 on white (WCAG 2.2, 1.4.11).
LIGHT = Palette(
    ink="#1f2328",
    muted="#5b6470",
    grid="#dfe2e6",
    surface="#ffffff",
    series=("#1f5fa8", "#c2570c", "#0f7b5f", "#8a4fb0", "#a07800", "#b23a6f", "#3f7f93", "#5b6470"),
)
NUM_SERIES = len(LIGHT.series)
VARIABLES = {
    "ink": "--ink",
    "muted": "--muted",
    "grid": "--grid",
    "surface": "--surface",
    **{f"series {i}": f"--series-{i + 1}" for i in range(NUM_SERIES)},
}
"""The CSS variable of each colour."""
# Stand-ins that matplotlib carries through and that nothing else uses.
_STAND_INS = {name: f"#fe{number:02x}c7" for number, name in enumerate(VARIABLES)}
_ON_PAGE = Palette(
    ink=_STAND_INS["ink"],
    muted=_STAND_INS["muted"],
    grid=_STAND_INS["grid"],
    surface=_STAND_INS["surface"],
    series=tuple(_STAND_INS[f"series {i}"] for i in range(NUM_SERIES)),
)
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (9, 3)))


@dataclass(frozen=True)
class Plot:
    """A picture that can be drawn.

    Attributes:
        name: of files and ids; lower-case words with hyphens.
        title: a few words.
        description: what is to be seen, in words, for those who do not see it, and as the caption.
        draw: puts it on a figure, in the colours of the palette.
        width, height: in units of which the text is 11 high.
    """

    name: str
    title: str
    description: str
    draw: Callable[[Figure, Palette], None] = field(repr=False)
    width: float = 330
    height: float = 245


def line_style(i: int) -> Any:
    """Lines differ in their dashes too, not by colour alone."""
    return _DASHES[i % len(_DASHES)]


def page_svg(plot: Plot, prefix: str = "") -> str:
    """``plot`` as an inline ``svg`` element for a page whose style sheet has ``VARIABLES``.

    Args:
        prefix: of all ids, where several pages end in one document.
    """
    root = _cleaned(_drawn(plot, _ON_PAGE, "svg"), f"{prefix}{plot.name}")
    identity = f"{prefix}{plot.name}"
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-labelledby", f"{identity}-title {identity}-description")
    _describe(root, plot, identity)
    text = ElementTree.tostring(root, encoding="unicode")
    for name, stand_in in _STAND_INS.items():
        text = text.replace(stand_in, f"var({VARIABLES[name]})")
    return text


def write_picture(plot: Plot, path: Path) -> None:
    """Write ``plot`` beside ``path`` and rename it: as SVG or, if the name ends so, as PNG. Light, on white."""
    if path.suffix == ".png":
        data = _drawn(plot, LIGHT, "png")
    else:
        root = _cleaned(_drawn(plot, LIGHT, "svg"), plot.name)
        root.set("width", f"{plot.width:g}pt")
        root.set("height", f"{plot.height:g}pt")
        root.set("font-family", "DejaVu Sans, Verdana, sans-serif")
        _describe(root, plot, plot.name)
        data = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    with written_beside(path) as partial:
        partial.write_bytes(data)


def _drawn(plot: Plot, palette: Palette, kind: str) -> bytes:
    with _matplotlib(palette):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure((plot.width / _POINTS_PER_INCH, plot.height / _POINTS_PER_INCH), layout="constrained")
        FigureCanvasAgg(figure) if kind == "png" else FigureCanvasSVG(figure)
        plot.draw(figure, palette)
        buffer = io.BytesIO()
        if palette is _ON_PAGE:
            figure.patch.set_visible(False)
        figure.savefig(buffer, format=kind, dpi=_PNG_DOTS_PER_INCH if kind == "png" else _POINTS_PER_INCH)
    return buffer.getvalue()


@contextmanager
def _matplotlib(palette: Palette) -> Iterator[None]:
    """Within it matplotlib draws in this project's looks; nothing of it stays behind.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise UserError("a report needs matplotlib: pip install 'bertwright[report]'") from None
    looks: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "bertwright",
        "svg.id": None,
        "text.parse_math": False,  # a label may hold dollar signs
        "text.usetex": False,
        "font.family": "sans-serif",
        "font.size": 11,
        "axes.titlesize": 11,
        "axes.labelsize": 10.5,
        "axes.labelcolor": palette.muted,
        "axes.edgecolor": palette.muted,
        "axes.linewidth": 0.7,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.formatter.use_mathtext": False,
        "axes.unicode_minus": True,
        "axes.xmargin": 0.02,
        "grid.color": palette.grid,
        "grid.linewidth": 0.7,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "text.color": palette.ink,
        "lines.linewidth": 1.7,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "legend.handlelength": 1.8,
        "legend.borderpad": 0.1,
        "legend.borderaxespad": 0.2,
        "path.simplify": True,
        "figure.facecolor": palette.surface,
        "savefig.facecolor": "auto",
        "savefig.bbox": None,
        "savefig.transparent": False,
    }
    known = {name: value for name, value in looks.items() if name in matplotlib.rcParams}
    with matplotlib.rc_context(known), warnings.catch_warnings():
        # Signs that the measuring font lacks: on a page the reader's fonts show them.
        warnings.filterwarnings("ignore", message=r".*[Gg]lyph.*missing from.*font")
        warnings.filterwarnings("ignore", message=r".*does not support.*natively")
        yield


# --- what matplotlib wrote, made small and without effect -------------------------------------------------------------

_IDENTITIES = re.compile(r"url\(#([^)]+)\)")
_DECIMALS = re.compile(r"-?\d+\.\d{2,}(?:e-?\d+)?")
_FONT_SIZE = re.compile(r"([\d.]+)px")
_NUMERIC = ("d", "x", "y", "width", "height", "transform", "points", "x1", "x2", "y1", "y2", "cx", "cy", "r")
_KEPT_STYLES = {
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-opacity", "stroke-width", "stroke-linecap",
    "stroke-linejoin", "stroke-dasharray", "stroke-dashoffset", "opacity", "font-size", "font-weight", "text-anchor",
}  # fmt: skip


def _cleaned(data: bytes, prefix: str) -> ElementTree.Element:
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(data)
    _drop(root)
    elements = list(root.iter())
    used = {found for element in elements for value in element.attrib.values() for found in _IDENTITIES.findall(value)}
    used |= {str(element.get(f"{{{_XLINK}}}href"))[1:] for element in elements if element.get(f"{{{_XLINK}}}href")}
    new_names = {old: f"{prefix}-{number}" for number, old in enumerate(sorted(used))}
    for element in elements:
        _clean(element, new_names)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("stroke-linejoin", "round")
    _unwrap(root)
    return root


def _drop(element: ElementTree.Element) -> None:
    """Remove metadata and style sheets, in place."""
    for child in list(element):
        if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
            element.remove(child)
        else:
            _drop(child)


def _clean(element: ElementTree.Element, new_names: dict[str, str]) -> None:
    identity = element.attrib.pop("id", None)
    if identity in new_names:
        element.set("id", new_names[identity])
    target = element.attrib.pop(f"{{{_XLINK}}}href", None)
    if target is not None:
        element.set("href", "#" + new_names[target[1:]])
    for name, value in _styles(element.attrib.pop("style", "")):
        if name in _KEPT_STYLES and not element.get(name):
            element.set(name, value)
    for name, value in list(element.attrib.items()):
        if "url(#" in value:
            element.set(name, _IDENTITIES.sub(lambda found: f"url(#{new_names[found[1]]})", value))
        elif name in _NUMERIC:
            element.set(name, " ".join(_DECIMALS.sub(lambda found: f"{float(found[0]):.1f}", value).split()))
    if element.text is not None and not element.text.strip() and element.tag != f"{{{_SVG}}}text":
        element.text = None
    element.tail = None


def _styles(style: str) -> Iterator[tuple[str, str]]:
    for part in style.split(";"):
        name, _, value = part.partition(":")
        name, value = name.strip(), value.strip()
        if name == "font":
            size = _FONT_SIZE.search(value)
            if size:
                yield "font-size", size[1]
        elif name == "font-size":
            yield name, value.removesuffix("px")
        elif name:
            yield name, value


def _unwrap(element: ElementTree.Element) -> None:
    """Take groups without attributes away, and empty ones with all that they have, in place."""
    group = f"{{{_SVG}}}g"
    children: list[ElementTree.Element] = []
    for child in list(element):
        _unwrap(child)
        if child.tag in (group, f"{{{_SVG}}}defs") and not len(child):
            continue
        if child.tag == group and not child.attrib:
            children.extend(child)
        else:
            children.append(child)
    for child in list(element):
        element.remove(child)
    element.extend(children)


def _describe(root: ElementTree.Element, plot: Plot, identity: str) -> None:
    for place, (tag, suffix, words) in enumerate(
        (("title", "title", plot.title), ("desc", "description", plot.description))
    ):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{identity}-{suffix}"})
        element.text = in_one_line(words)
        root.insert(place, element)
