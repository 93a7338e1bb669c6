"""Pictures of how good a run's scores are: confusion, calibration, histogram, length."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright.evaluation.stored import Predictions
from bertwright.reporting.curves import CalibrationBin, Group, errors_by_length, thinned
from bertwright.reporting.material import Material
from bertwright.reporting.svg import NUM_SERIES, Palette, Plot, line_style
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CONFUSED_CLASSES, _MOST_NUMBERED_CLASSES, _MOST_NAMED_CLASSES = 24, 9, 6
_MOST_LETTERS = 18
_FEW_IN_A_BIN = 10  # fewer are chance, and not joined by a line


def confusion_plot(material: Material) -> Plot | None:
    """True against predicted classes, shaded by the share of the true class."""
    confusion = confusion_of(material)
    if confusion is None or not 2 <= len(confusion) <= _MOST_CONFUSED_CLASSES:
        return None
    labels = [in_one_line(label, _MOST_LETTERS if len(confusion) <= 6 else 9) for label in material.labels]
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    words = "; ".join(
        f"{percent(shares[i, i])} of the {int(confusion[i].sum()):,} “{label}”"
        for i, label in enumerate(labels[:_MOST_NAMED_CLASSES])
    )
    return Plot(
        "confusion",
        "Confusion",
        "Rows are what texts are, columns what they are called; the stronger the colour, the more of the row. Called "
        f"what they are: {words}.",
        functools.partial(_draw_confusion, confusion=confusion, shares=shares, labels=labels),
        height=290,
    )


def confusion_of(material: Material) -> np.ndarray | None:
    """(classes, classes) numbers of texts, true by predicted; None where labels are no classes."""
    predictions, num = material.predictions, len(material.labels)
    if predictions is not None and predictions.label_ids is not None and predictions.predicted_ids is not None:
        cells = predictions.label_ids * num + predictions.predicted_ids
        return np.bincount(cells, minlength=num * num).reshape(num, num)
    try:
        found = np.array(material.metrics.get("confusion"), np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.shape == (num, num) else None


def _draw_confusion(
    figure: Figure, palette: Palette, confusion: np.ndarray, shares: np.ndarray, labels: Sequence[str]
) -> None:
    from matplotlib.patches import Rectangle

    axes = figure.subplots()
    num = len(labels)
    for i in range(num):
        for j in range(num):
            # Never so dark that the number on it cannot be read.
            axes.add_patch(
                Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=palette.series[0], alpha=0.55 * shares[i, j], linewidth=0)
            )
            if num <= _MOST_NUMBERED_CLASSES:
                axes.text(j, i, f"{confusion[i, j]:,}", ha="center", va="center", color=palette.ink)
    axes.set_xlim(-0.5, num - 0.5)
    axes.set_ylim(num - 0.5, -0.5)
    upright = num * max(map(len, labels)) > 30
    axes.set_xticks(range(num), labels, rotation=90 if upright else 0)
    axes.set_yticks(range(num), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(True)


def calibration_plot(
    name: str, title: str, series: Sequence[tuple[str, Sequence[CalibrationBin], float | None]], event: str
) -> Plot:
    """Mean score against what came of it, in bins; ``series`` are name, bins and expected calibration error."""
    errors = " ".join(
        f"{label.capitalize()}, the two differ by {percent(error)} on average."
        for label, _, error in series
        if error is not None
    )
    return Plot(
        name,
        title,
        f"A point stands for texts of like score: how probable the classifier found it (right) and {event} (up). On "
        f"the dotted line scores mean what they say. The larger a point, the more texts; the line through it is its "
        f"95 % interval. {errors}",
        functools.partial(_draw_calibration, series=series, event=event),
        height=290,
    )


def _draw_calibration(
    figure: Figure,
    palette: Palette,
    series: Sequence[tuple[str, Sequence[CalibrationBin], float | None]],
    event: str,
) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=palette.muted, linewidth=0.8, linestyle=(0, (2, 3)))
    for i, (label, bins, _) in enumerate(series):
        colour = palette.series[i % NUM_SERIES]
        x = [item.mean_score for item in bins]
        y = [item.share for item in bins]
        intervals = [item.interval for item in bins]
        lows, highs = zip(*intervals, strict=True) if intervals else ((), ())
        axes.vlines(x, lows, highs, color=colour, linewidth=1, alpha=0.55)
        joined = [(item.mean_score, item.share) for item in bins if item.count >= _FEW_IN_A_BIN]
        axes.plot(
            [score for score, _ in joined],
            [share for _, share in joined],
            color=colour,
            linewidth=1,
            linestyle=line_style(i),
            label=label,
        )
        most = max((item.count for item in bins), default=1)
        sizes = [8 + 42 * (item.count / most) ** 0.5 for item in bins]
        axes.scatter(x, y, s=sizes, color=colour, marker="os"[i % 2], linewidth=0, zorder=3)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("mean score")
    axes.set_ylabel(event)
    if len(series) > 1:
        axes.legend(loc="upper left")


def histogram_plot(material: Material) -> Plot | None:
    """How scores spread: of two classes by the true one, of more by right and wrong, of numbers the errors."""
    predictions, labels = material.predictions, material.labels
    if predictions is None:
        return None
    if material.kind == "regression":
        if predictions.targets is None:
            return None
        errors = predictions.scores[:, 0] - predictions.targets[:, 0]
        return _histogram(
            "Errors", [("error", errors)], f"predicted minus true {in_one_line(labels[0], _MOST_LETTERS)}", None
        )
    if predictions.has_label is not None:
        has = predictions.has_label
        parts = [("without the label", predictions.scores[~has]), ("with the label", predictions.scores[has])]
        return _histogram("Scores", parts, "probability, all labels together", (0, 1))
    ids = predictions.label_ids
    if ids is None:
        return None
    if len(labels) == 2:
        parts = [(in_one_line(label, _MOST_LETTERS), predictions.scores[ids == i, 1]) for i, label in enumerate(labels)]
        return _histogram("Scores", parts, f"probability of {in_one_line(labels[1], _MOST_LETTERS)}", (0, 1))
    top = predictions.scores.max(axis=1)
    right = predictions.predicted_ids == ids
    return _histogram(
        "Confidence", [("right", top[right]), ("wrong", top[~right])], "probability of the class decided for", (0, 1)
    )


def _histogram(
    title: str, parts: Sequence[tuple[str, np.ndarray]], across: str, span: tuple[float, float] | None
) -> Plot:
    everything = np.concatenate([values for _, values in parts])
    if span is None:
        low, high = np.percentile(everything, (0.5, 99.5))
        span = (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)
    edges = np.linspace(*span, 31)
    counts = [np.histogram(np.clip(values, *span), edges)[0] for _, values in parts]
    medians = "; ".join(
        f"{name[0].upper() + name[1:]}: {len(values):,}, half of them below {np.median(values):.3f}"
        for name, values in parts
        if len(values)
    )
    # Where most texts lie in one bin, the others would not be seen.
    largest = max(int(part.max()) for part in counts)
    logarithmic = largest > max(50 * float(np.median(np.concatenate(counts))), 400)
    scale = " The scale is logarithmic." if logarithmic else ""
    return Plot(
        "histogram",
        title,
        f"Numbers of texts by {across}. {medians}.{scale}",
        functools.partial(
            _draw_histogram,
            names=[name for name, _ in parts],
            counts=counts,
            edges=edges,
            across=across,
            logarithmic=logarithmic,
        ),
    )


def _draw_histogram(
    figure: Figure,
    palette: Palette,
    names: Sequence[str],
    counts: Sequence[np.ndarray],
    edges: np.ndarray,
    across: str,
    logarithmic: bool,
) -> None:
    axes = figure.subplots()
    for i, (name, numbers) in enumerate(zip(names, counts, strict=True)):
        colour = palette.series[i]
        shown = np.maximum(numbers, 0.5) if logarithmic else numbers
        axes.stairs(shown, edges, baseline=0.5 if logarithmic else 0, fill=True, color=colour, alpha=0.25, linewidth=0)
        axes.stairs(shown, edges, baseline=None, color=colour, linewidth=1.5, linestyle=line_style(i), label=name)
    if logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        _plain_numbers(axes)
    axes.set_xlabel(across)
    axes.set_ylabel("texts")
    if len(names) > 1:
        axes.legend(loc="upper center", ncols=2)


def _plain_numbers(axes: Axes) -> None:
    """1,000 and not 10³ on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    axes.yaxis.set_minor_formatter(NullFormatter())


def truth_plot(material: Material) -> Plot | None:
    """Of a regression: predicted against true numbers."""
    predictions = material.predictions
    if material.kind != "regression" or predictions is None or predictions.targets is None:
        return None
    true, predicted = predictions.targets[:, 0], predictions.scores[:, 0]
    label = in_one_line(material.labels[0], _MOST_LETTERS)
    return Plot(
        "truth",
        "Predicted and true",
        f"Each point is a text: its true {label} (right) and the predicted one (up); on the dotted line both are the "
        f"same. Half of the texts are off by less than {np.median(abs(predicted - true)):.3g}."
        + (f" A sample of 600 of {len(true):,} texts." if len(true) > 600 else ""),
        functools.partial(_draw_truth, true=true, predicted=predicted, label=label),
        height=290,
    )


def _draw_truth(figure: Figure, palette: Palette, true: np.ndarray, predicted: np.ndarray, label: str) -> None:
    chosen = np.arange(len(true))
    if len(true) > 600:
        chosen = np.random.default_rng(0).choice(len(true), 600, replace=False)
    axes = figure.subplots()
    span = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    axes.plot(span, span, color=palette.muted, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.plot(
        true[chosen], predicted[chosen], "o", color=palette.series[0], alpha=0.45, markersize=3, markeredgewidth=0
    )
    axes.set_xlabel(f"true {label}")
    axes.set_ylabel(f"predicted {label}")


def length_plot(material: Material) -> Plot | None:
    """How often, or by how much, the classifier errs with the length of a text."""
    predictions = material.predictions
    lengths = None if predictions is None else predictions.lengths
    errors = None if predictions is None else errors_of(material, predictions)
    if lengths is None or errors is None:
        return None
    groups = errors_by_length(lengths, errors)
    if len(groups) < 2:
        return None
    what = _error_words(material)
    first, last = groups[0], groups[-1]
    show: Callable[[float], str] = (lambda value: f"{value:.3g}") if material.kind == "regression" else percent
    return Plot(
        "length",
        "Length and error",
        f"{what.capitalize()}, by length in characters, each group holding about as many texts; lines are 95 % "
        f"intervals. Up to {first.longest:,} characters {show(first.mean)}, from {last.shortest:,} on "
        f"{show(last.mean)}.",
        functools.partial(_draw_length, groups=groups, what=what, shares=material.kind != "regression"),
    )


def _error_words(material: Material) -> str:
    return {
        "regression": "mean absolute error",
        "multi-label": "share of texts with a wrong label",
    }.get(material.kind, "share of wrong texts")


def errors_of(material: Material, predictions: Predictions) -> np.ndarray | None:
    """(texts,) 1.0 for a wrong one, or the absolute error; None where it is not known."""
    if material.kind == "regression":
        return None if predictions.targets is None else abs(predictions.scores[:, 0] - predictions.targets[:, 0])
    if predictions.has_label is not None and predictions.decided is not None:
        return (predictions.has_label != predictions.decided).any(axis=1).astype(np.float64)
    if predictions.label_ids is None or predictions.predicted_ids is None:
        return None
    return (predictions.label_ids != predictions.predicted_ids).astype(np.float64)


def _draw_length(figure: Figure, palette: Palette, groups: Sequence[Group], what: str, shares: bool) -> None:
    axes = figure.subplots()
    places = np.arange(len(groups))
    colour = palette.series[0]
    axes.vlines(places, [item.low for item in groups], [item.high for item in groups], color=colour, linewidth=1.2)
    axes.plot(places, [item.mean for item in groups], "o-", color=colour, markersize=4, linewidth=1)
    axes.set_xticks(places, [_short_number(item.longest) for item in groups])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("characters, up to")
    axes.set_ylabel(what)
    if shares:
        percent_axis(axes)


def _short_number(number: int) -> str:
    return f"{number / 1000:.3g}k" if number >= 10_000 else f"{number:,}"


def percent_axis(axes: Any) -> None:
    """Shares as percents, up."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))


def thin_line(axes: Any, x: np.ndarray, y: np.ndarray, **looks: Any) -> None:
    """A line of no more points than can be seen."""
    axes.plot(*thinned(np.asarray(x, np.float64), np.asarray(y, np.float64)), **looks)
