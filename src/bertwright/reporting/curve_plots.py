"""Pictures of ROC curves and of precision against recall, of one run and of several."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertwright.evaluation.stored import Predictions
from bertwright.reporting.curves import Curve, rates
from bertwright.reporting.intervals import Intervals
from bertwright.reporting.material import Material
from bertwright.reporting.svg import NUM_SERIES, Palette, Plot, line_style
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import interval_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More curves than these in one picture, and bands around more than those, cannot be told apart.
_MOST_CURVES, _MOST_BANDS = 6, 2
_MOST_LETTERS = 18


def curve_plots(material: Material, intervals: Intervals) -> list[Plot]:
    """ROC and precision-recall: of two classes the positive one's, else each label's against the rest.

    The areas' intervals are those of ``intervals`` where there is one label, so that a page has one only.
    """
    named = [(name, found) for name, found in _curves(material) if found is not None]
    if not named:
        return []
    shown = named if len(named) <= _MOST_CURVES else sorted(named, key=lambda item: item[1][0].area[0])[:_MOST_CURVES]
    left_out = "" if len(shown) == len(named) else f" Shown are the {len(shown)} worst of {len(named)} labels."
    plots = []
    for place, (name, title, area) in enumerate(
        (("roc", "ROC curve", "ROC AUC"), ("precision-recall", "Precision and recall", "Average precision"))
    ):
        curves = [(label, found[place]) for label, found in shown]
        known = intervals.get(("roc_auc", "average_precision")[place]) if len(named) == 1 else None
        words = "; ".join(
            f"of “{label}” {interval_words(curve.area[0], *(known or curve.area[1:]))}" for label, curve in curves
        )
        what = {
            "roc": "How many of the texts that have the label are found (up) at how many false alarms (right)",
            "precision-recall": "How many of the texts called so are so (up) as more of those that are so are found "
            "(right)",
        }[name]
        plots.append(
            Plot(
                name,
                title,
                f"{what}. Bands and brackets hold 95 % of resampled texts. {area} {words}.{left_out}",
                functools.partial(_draw_curves, curves=curves, roc=name == "roc"),
                height=290,
            )
        )
    return plots


def _curves(material: Material) -> list[tuple[str, tuple[Curve, Curve] | None]]:
    predictions, labels = material.predictions, material.labels
    if predictions is None or material.kind == "regression":
        return []
    if predictions.has_label is not None:
        return [(label, rates(predictions.scores[:, i], predictions.has_label[:, i])) for i, label in enumerate(labels)]
    if predictions.label_ids is None:
        return []
    chosen = [1] if len(labels) == 2 else range(len(labels))
    return [(labels[i], rates(predictions.scores[:, i], predictions.label_ids == i)) for i in chosen]


def _draw_curves(figure: Figure, palette: Palette, curves: Sequence[tuple[str, Curve]], roc: bool) -> None:
    axes = figure.subplots()
    if roc:
        axes.plot([0, 1], [0, 1], color=palette.muted, linewidth=0.8, linestyle=(0, (2, 3)))
    for i, (label, curve) in enumerate(curves):
        colour = palette.series[i % NUM_SERIES]
        if len(curves) <= _MOST_BANDS:
            axes.fill_between(curve.at, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        name = f"{in_one_line(label, _MOST_LETTERS)}: {curve.area[0]:.3f}"
        axes.plot(curve.x, curve.y, color=colour, linestyle=line_style(i), label=name)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.set_xlabel("false alarms among the others" if roc else "recall")
    axes.set_ylabel("recall" if roc else "precision")
    if len(curves) <= _MOST_BANDS:
        axes.legend(loc="lower right" if roc else "lower left")
    else:  # curves go everywhere
        axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1.0), ncols=2, fontsize=9.5, columnspacing=1)


def overlaid_curves(named: Sequence[tuple[str, Predictions]], label_index: int) -> Plot | None:
    """The ROC curves of several runs on the same texts, of the label ``label_index``."""
    curves = []
    for name, predictions in named:
        if predictions.has_label is not None:
            positive = predictions.has_label[:, label_index]
        elif predictions.label_ids is not None:
            positive = predictions.label_ids == label_index
        else:
            continue
        found = rates(predictions.scores[:, label_index], positive)
        if found is not None:
            curves.append((name, found[0]))
    if len(curves) < 2 or len(curves) > NUM_SERIES:
        return None
    words = "; ".join(f"{name}: ROC AUC {curve.area[0]:.3f}" for name, curve in curves)
    return Plot(
        "roc-of-all",
        "ROC curves",
        f"How many of the texts that have the label are found (up) at how many false alarms (right). {words}.",
        functools.partial(_draw_curves, curves=curves, roc=True),
        height=290,
    )
