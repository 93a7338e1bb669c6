"""Pictures of several runs or trials at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright.reporting.material import is_finite
from bertwright.reporting.svg import NUM_SERIES, Palette, Plot
from bertwright.reporting.training_plots import draw_series
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import decimals, metric_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 24


def forest(name: str, metric: str, points: Sequence[tuple[str, float | None, Any]]) -> Plot | None:
    """A metric of several with its intervals; ``points`` are name, value, (low, high). None where none is known."""
    known = [(label, value, interval) for label, value, interval in points if value is not None][:_MOST_POINTS]
    if len(known) < 2:
        return None
    words = metric_words(metric)
    values = "; ".join(f"{label} {decimals(value)}" for label, value, _ in known)
    return ranges(
        name,
        f"{words[0].upper()}{words[1:]} with intervals",
        f"A point is the {words}, the line through it its interval: {values}. Intervals that overlap may still "
        "belong to classifiers that differ: the differences below are of the same texts.",
        known,
        words,
    )


def ranges(
    name: str,
    title: str,
    description: str,
    points: Sequence[tuple[str, float, Any]],
    across: str,
    width: float = Plot.width,
) -> Plot:
    """Values one below the other, each with a line from low to high; ``points`` are name, value, (low, high) or None.

    A wider picture has room for longer names.
    """
    most = 20 if width == Plot.width else 32
    draw = functools.partial(_draw_ranges, points=points, words=across, most=most)
    return Plot(name, title, description, draw, width=width, height=80 + 26 * len(points))


def _draw_ranges(
    figure: Figure, palette: Palette, points: Sequence[tuple[str, float, Any]], words: str, most: int
) -> None:
    axes = figure.subplots()
    for place, (_, value, interval) in enumerate(points):
        if isinstance(interval, list | tuple) and len(interval) == 2 and all(map(is_finite, interval)):
            axes.plot(interval, [place, place], color=palette.series[0], linewidth=2)
        axes.plot([value], [place], "o", color=palette.series[0], markersize=6)
    axes.set_yticks(np.arange(len(points)), [in_one_line(label, most) for label, _, _ in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.set_xlabel(words)
    axes.grid(visible=False, axis="y")


def bars(name: str, title: str, description: str, parts: Sequence[tuple[str, float]], across: str) -> Plot:
    """Shares of names, the largest first."""
    return Plot(
        name,
        title,
        description,
        functools.partial(_draw_bars, parts=parts, across=across),
        height=70 + 26 * len(parts),
    )


def _draw_bars(figure: Figure, palette: Palette, parts: Sequence[tuple[str, float]], across: str) -> None:
    axes = figure.subplots()
    places = np.arange(len(parts))
    axes.barh(places, [value for _, value in parts], color=palette.series[0], alpha=0.75, height=0.62)
    for place, (_, value) in enumerate(parts):
        axes.text(value, place, f" {100 * value:.0f} %", va="center", color=palette.ink, fontsize=10)
    axes.set_yticks(places, [in_one_line(label, 22) for label, _ in parts])
    axes.invert_yaxis()
    axes.set_xlim(0, max(max((value for _, value in parts), default=0) * 1.25, 0.01))
    axes.set_xlabel(across)
    axes.grid(visible=False, axis="y")


def overlaid_series(
    name: str,
    title: str,
    description: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    across: str,
    up: str,
) -> Plot | None:
    """Lines of several runs in one picture; None where they are none or too many."""
    if not 0 < len(series) <= NUM_SERIES:
        return None
    return Plot(
        name, title, description, functools.partial(draw_series, series=series, best=None, across=across, up=up)
    )


def scatter(
    name: str,
    title: str,
    description: str,
    points: Sequence[tuple[str, float, float, bool]],
    across: str,
    up: str,
    join: bool = True,
) -> Plot:
    """Points with names, what is right and up of each, and whether it is filled; these are joined if ``join``."""
    return Plot(
        name,
        title,
        description,
        functools.partial(_draw_scatter, points=points, across=across, up=up, join=join),
        height=245,
    )


def _draw_scatter(
    figure: Figure,
    palette: Palette,
    points: Sequence[tuple[str, float, float, bool]],
    across: str,
    up: str,
    join: bool,
) -> None:
    axes: Any = figure.subplots()
    front = sorted((x, y) for _, x, y, on_front in points if on_front)
    if join and len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=palette.series[0], linewidth=1, linestyle="--")
    named = len(points) <= 12
    for name, x, y, on_front in points:
        colour = palette.series[0] if on_front else palette.muted
        axes.plot(
            [x], [y], "o", color=colour, markersize=6 if on_front else 5, markerfacecolor=colour if on_front else "none"
        )
        if named:
            axes.annotate(
                in_one_line(name, 20), (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=10,
                color=palette.ink,
            )  # fmt: skip
    axes.margins(0.14, 0.16)
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def search_plot(name: str, points: Sequence[tuple[int, float, bool]], words: str, lower: bool) -> Plot | None:
    """The value of each trial and the best so far; ``points`` are number, value, pruned. None with fewer than two."""
    if len(points) < 2:
        return None
    best = min if lower else max
    finished = [(number, value) for number, value, pruned in points if not pruned]
    won = best(finished or [(points[0][0], points[0][1])], key=lambda point: point[1])
    return Plot(
        name,
        "The search",
        f"The {words} of each trial (points; hollow ones were pruned) and the best so far (line). The best, "
        f"{decimals(won[1])}, came with trial {won[0]}.",
        functools.partial(_draw_search, points=points, words=words, lower=lower),
    )


def _draw_search(
    figure: Figure, palette: Palette, points: Sequence[tuple[int, float, bool]], words: str, lower: bool
) -> None:
    axes = figure.subplots()
    for pruned, face in ((False, palette.series[0]), (True, "none")):
        chosen = [(number, value) for number, value, was in points if was == pruned]
        if chosen:
            x, y = zip(*chosen, strict=True)
            axes.plot(x, y, "o", color=palette.series[0], markerfacecolor=face, markersize=4)
    finished = [(number, value) for number, value, pruned in points if not pruned]
    if finished:
        numbers, values = (np.array(column, np.float64) for column in zip(*finished, strict=True))
        so_far = np.minimum.accumulate(values) if lower else np.maximum.accumulate(values)
        axes.step(numbers, so_far, where="post", color=palette.series[1], linewidth=1.5)
    axes.set_xlabel("trial")
    axes.set_ylabel(words)
