"""Pictures of how a training went: losses, validation metrics, time by phase, memory over time."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright.evaluation.metrics import LOWER_IS_BETTER
from bertwright.memory_trace import MemoryTrace
from bertwright.progress import duration
from bertwright.reporting.curves import running_mean, thinned
from bertwright.reporting.material import Material, number_in, object_in
from bertwright.reporting.quality_plots import thin_line
from bertwright.reporting.svg import NUM_SERIES, Palette, Plot, line_style
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import decimals, metric_words, size_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = ("roc_auc", "accuracy", "macro_f1", "average_precision", "r2", "pearson")
_MOST_SHOWN = 3
_MOST_STEPS_DRAWN = 300


def loss_plot(material: Material) -> Plot | None:
    """The loss of each step, its running mean, and the validation loss."""
    steps, losses = _losses(material)
    history = material.run.history
    name = "loss" if material.run.act == "pretrain" else "log_loss"
    validation = [
        (line["step"], value) for line in history if (value := number_in(line, "validation", name)) is not None
    ]
    if not len(losses) and not validation:
        return None
    best = best_step(material)
    words = []
    if len(losses):
        width = max(len(losses) // 20, 1)
        words.append(f"From {losses[:width].mean():.3f} at the start to {losses[-width:].mean():.3f} at the end.")
    if validation:
        lowest = min(validation, key=lambda point: point[1])
        words.append(f"The validation loss is lowest, {lowest[1]:.3f}, at step {lowest[0]:,}.")
    if best is not None:
        words.append(f"The dotted line marks step {best:,}, whose weights were kept.")
    return Plot(
        "loss",
        "Loss",
        "The loss of the steps, pale, and its running mean. " + " ".join(words),
        functools.partial(_draw_loss, steps=steps, losses=losses, validation=validation, best=best),
    )


def _losses(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses, from the trace or, in an older run, from the evaluations."""
    if material.trace is not None:
        return np.arange(1, len(material.trace) + 1), material.trace.losses.astype(np.float64)
    points = [
        (line["step"], value) for line in material.run.history if (value := number_in(line, "train_loss")) is not None
    ]
    return np.array([step for step, _ in points]), np.array([loss for _, loss in points], np.float64)


def best_step(material: Material) -> int | None:
    """The step whose weights were kept, where states were told apart."""
    best = number_in(material.run.result or {}, "best_step")
    return int(best) if best and len(material.run.history) > 1 else None


def _draw_loss(
    figure: Figure,
    palette: Palette,
    steps: np.ndarray,
    losses: np.ndarray,
    validation: Sequence[tuple[int, float]],
    best: int | None,
) -> None:
    axes = figure.subplots()
    colour = palette.series[0]
    if len(losses) > 1:
        every = max(len(losses) // _MOST_STEPS_DRAWN, 1)
        smooth = running_mean(losses, max(len(losses) // 12, 1))
        raw = running_mean(losses, every)
        axes.plot(steps[::every], raw[::every], color=colour, alpha=0.35, linewidth=0.7)
        thin_line(axes, steps, smooth, color=colour, label="training")
    elif len(losses):
        axes.plot(steps, losses, "o", color=colour, label="training")
    if validation:
        x, y = zip(*validation, strict=True)
        mark = "o" if len(x) <= 40 else ""
        axes.plot(x, y, mark + "--", color=palette.series[1], markersize=3.5, label="validation")
    if len(losses) > 20:  # the first steps may be far off
        axes.set_ylim(top=max(float(np.percentile(losses, 99)), *(value for _, value in validation), 0) * 1.08)
    axes.set_ylim(bottom=0)
    if best is not None:
        axes.axvline(best, color=palette.muted, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(loc="upper right")


def validation_plot(material: Material) -> Plot | None:
    """The validation metrics over the steps; None with fewer than two evaluations."""
    history = material.run.history
    chosen = material.run.settings.get("best_metric")
    names = [name for name in dict.fromkeys((chosen, *_SHOWN)) if isinstance(name, str) and name not in LOWER_IS_BETTER]
    series: list[tuple[str, list[tuple[float, float]]]] = []
    for name in names:
        points = [
            (line["step"], value) for line in history if (value := number_in(line, "validation", name)) is not None
        ]
        if len(points) > 1 and len(series) < _MOST_SHOWN:
            series.append((metric_words(name), points))
    if not series:
        return None
    words = "; ".join(
        f"{name} from {decimals(points[0][1])} to {decimals(points[-1][1])}, highest "
        f"{decimals(max(value for _, value in points))}"
        for name, points in series
    )
    return Plot(
        "validation",
        "Validation",
        f"Metrics of the validation texts over the steps: {words}.",
        functools.partial(draw_series, series=series, best=best_step(material), across="step", up=""),
    )


def draw_series(
    figure: Figure,
    palette: Palette,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    best: float | None,
    across: str,
    up: str,
) -> None:
    axes = figure.subplots()
    for i, (name, points) in enumerate(series):
        x, y = np.array(points, np.float64).T
        if len(x) <= 40:
            axes.plot(x, y, "o", color=palette.series[i % NUM_SERIES], markersize=3.5)
        thin_line(axes, x, y, color=palette.series[i % NUM_SERIES], linestyle=line_style(i), label=name)
    if best is not None:
        axes.axvline(best, color=palette.muted, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(loc="best")


def rate_plot(material: Material) -> Plot | None:
    """The learning rate of each step; None where it is not known."""
    if material.trace is None or len(material.trace) < 2:
        return None
    rates = material.trace.learning_rates
    steps = np.arange(1, len(rates) + 1)
    highest = int(rates.argmax())
    return Plot(
        "learning-rate",
        "Learning rate",
        f"The learning rate of the steps: at most {rates[highest]:.3g}, at step {highest + 1:,}; {rates[-1]:.3g} at "
        "the last one.",
        functools.partial(_draw_rates, steps=steps, rates=rates),
    )


def _draw_rates(figure: Figure, palette: Palette, steps: np.ndarray, rates: np.ndarray) -> None:
    axes = figure.subplots()
    thin_line(axes, steps, rates, color=palette.series[0])
    axes.set_ylim(0, float(rates.max()) * 1.08 or 1)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.ticklabel_format(axis="y", style="plain" if rates.max() >= 0.001 else "sci", scilimits=(0, 0))


def phases_plot(material: Material) -> Plot | None:
    """How the time went by."""
    parts = phase_seconds(material)
    if not parts:
        return None
    return Plot(
        "phases",
        "Time by phase",
        "Seconds of each phase: " + "; ".join(f"{name} {duration(seconds)}" for name, seconds in parts) + ".",
        functools.partial(_draw_phases, parts=parts),
        height=70 + 28 * len(parts),
    )


def phase_seconds(material: Material) -> list[tuple[str, float]]:
    """The phases that took time, in their order, and the rest of the total."""
    seconds = object_in(material.run.result or {}, "seconds")
    words = {"read": "reading", "tokenize": "tokenising", "train": "training", "infer": "scoring"}
    parts = [(word, value) for name, word in words.items() if (value := number_in(seconds, name)) is not None]
    total = number_in(seconds, "total")
    if total is not None and (rest := total - sum(value for _, value in parts)) > 0.01 * total:
        parts.append(("all else", rest))
    return parts


def _draw_phases(figure: Figure, palette: Palette, parts: Sequence[tuple[str, float]]) -> None:
    axes = figure.subplots()
    names = [name for name, _ in parts]
    values = [value for _, value in parts]
    places = np.arange(len(parts))
    axes.barh(places, values, color=palette.series[0], alpha=0.75, height=0.62)
    for place, value in enumerate(values):
        axes.text(value, place, f" {duration(value)}", va="center", color=palette.ink, fontsize=10)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.35 or 1)
    axes.set_xlabel("seconds")
    axes.grid(visible=False, axis="y")


def memory_plot(memory: MemoryTrace | None, held_bytes: Mapping[str, int] | None = None) -> Plot | None:
    """Memory over time, the phases marked; None with fewer than two samples.

    ``held_bytes`` are what a training holds for its "weights", "gradients" and "optimizer": then it is shown which part
    of the memory they are while it learnt: of the GPU's where that computed, else of the process'.
    """
    if memory is None or len(memory) < 2:
        return None
    bands = _bands(memory, held_bytes) if held_bytes else ()
    most = int(memory.process_bytes.argmax())
    held, phase = size_words(memory.process_bytes[most]), in_one_line(memory.phases[most], 60)
    words = f"The process held most, {held}, while {phase}."
    if memory.gpu_bytes is not None:
        words += f" The GPU's peak was {size_words(memory.gpu_bytes.max())}."
    if bands:
        parts = ", ".join(f"{name} {size_words(held)}" for name, held in bands)
        where = "it" if memory.gpu_bytes is None else "the GPU"
        words += f" While it learnt {where} held at most: {parts}; the first and the last are what counting leaves."
    return Plot(
        "memory",
        "Memory over time",
        f"{words} Vertical lines are where a phase begins.",
        functools.partial(_draw_memory, memory=memory, bands=bands),
        height=245 if not bands else 285,
    )


_TRAINING = "training"


def _bands(memory: MemoryTrace, held_bytes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """What the memory was while the model learnt, from below: names and bytes, that add up to the most held then.

    Empty where the trace has too few samples to tell. Weights, gradients and the optimizer are counted. The model was
    loaded before, so that what was held before, less its weights, is libraries, texts and token ids.
    """
    used = memory.process_bytes if memory.gpu_bytes is None else memory.gpu_bytes
    while_learning = [i for i, phase in enumerate(memory.phases) if phase == _TRAINING]
    if len(while_learning) < 2 or while_learning[0] == 0:
        return ()
    counted = [(name, int(held_bytes.get(name, 0))) for name in ("weights", "gradients", "optimizer")]
    before = int(used[while_learning[0] - 1])
    most = int(used[while_learning].max())
    below = max(0, before - counted[0][1])
    rest = most - below - sum(held for _, held in counted)
    if rest < 0:
        return ()
    first = ("libraries and texts" if memory.gpu_bytes is None else "texts and what else lay there", below)
    return (first, *counted, ("activations", rest))


def _draw_bands(
    axes: Any, palette: Palette, memory: MemoryTrace, bands: Sequence[tuple[str, int]], divisor: float
) -> None:
    """The bands lie one upon the other, cut off by what was held."""
    chosen = [i for i, phase in enumerate(memory.phases) if phase == _TRAINING]
    used = memory.process_bytes if memory.gpu_bytes is None else memory.gpu_bytes
    x, held = memory.elapsed_s[chosen], used[chosen] / divisor
    below = np.zeros(len(chosen))
    for number, (name, size) in enumerate(bands):
        above = np.minimum(below + size / divisor, held)
        color = palette.series[(number + 1) % len(palette.series)]
        axes.fill_between(x, below, above, color=color, alpha=0.55, linewidth=0, label=name)
        below = above
    axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1.0), ncols=3, fontsize=9, columnspacing=1)


def _draw_memory(figure: Figure, palette: Palette, memory: MemoryTrace, bands: Sequence[tuple[str, int]] = ()) -> None:
    axes = figure.subplots()
    divisor, unit = (2**30, "GiB") if memory.process_bytes.max() >= 1 << 30 else (2**20, "MiB")
    x = memory.elapsed_s
    shown_x, shown_y = thinned(x, memory.process_bytes / divisor)
    axes.fill_between(shown_x, shown_y, color=palette.series[0], alpha=0.15, linewidth=0)
    alone = memory.gpu_bytes is None and bands
    axes.plot(shown_x, shown_y, color=palette.series[0], label="_process" if alone else "process")
    if memory.gpu_bytes is not None:
        thin_line(axes, x, memory.gpu_bytes / divisor, color=palette.series[1], linestyle="--", label="GPU")
        axes.legend(loc="lower right")
    if bands:
        _draw_bands(axes, palette, memory, bands, divisor)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    begins = [i for i, phase in enumerate(memory.phases) if i == 0 or phase != memory.phases[i - 1]]
    for begin, end in zip(begins, [*begins[1:], len(memory) - 1], strict=True):
        axes.axvline(x[begin], color=palette.muted, linewidth=0.6, linestyle=(0, (1, 2)))
        if x[end] - x[begin] > 0.22 * (x[-1] - x[0]):  # else its name would lie on another
            axes.annotate(
                in_one_line(memory.phases[begin], 16), (x[begin], 0.99), (3, 0), xycoords=("data", "axes fraction"),
                textcoords="offset points", va="top", color=palette.muted, fontsize=9,
            )  # fmt: skip
    axes.set_xlabel("seconds")
    axes.set_ylabel(unit)
