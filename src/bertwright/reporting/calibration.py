"""Whether scores mean what they say, before and after they were calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bertwright.evaluation.calibration import calibration_error, equal_width_bins
from bertwright.reporting.curves import CalibrationBin
from bertwright.reporting.material import Material, is_finite, number_in, object_in
from bertwright.reporting.page import Section
from bertwright.reporting.quality_plots import calibration_plot, histogram_plot
from bertwright.reporting.tables import cell, table
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import decimals, percent

Series = tuple[str, list[CalibrationBin], float | None]
_FEW_IN_A_BIN = 20
_UNCHANGED = "as they are"


def calibration_section(material: Material) -> Section:
    """The reliability diagram: the run's own before and after where it has them, else from its predictions."""
    if material.kind == "regression":  # which has no probabilities
        return Section("scores", "How far it is off", "Errors")
    histogram = histogram_plot(material)
    histograms = () if histogram is None else (histogram,)
    name, heading, short = "scores", "Do its scores mean what they say?", "Scores"
    event = _event(material)
    recorded = _recorded(material)
    series = recorded or _from_predictions(material)
    prose = _prose(material)
    if not series:
        return Section(name, heading, short, prose, plots=histograms)
    rows = [
        [
            f"{item.low:.3g} to {item.high:.3g}",
            label,
            item.count,
            item.mean_score,
            item.share,
            *map(cell, item.interval),
        ]
        for label, bins, _ in series
        for item in bins
    ]
    headings = ["score", "which", "texts", "mean score", "share", "from", "to"]
    title = "Calibration" if len(series) == 1 else "Calibration, before and after"
    return Section(
        name,
        heading,
        short,
        (*prose, *_worst_bin(series[-1])),
        plots=(calibration_plot("reliability", title, series, event), *histograms),
        folded=(table("reliability-bins", f"Texts by score, and the {event}", headings, rows),),
    )


def _event(material: Material) -> str:
    if material.kind == "multi-label":
        return "share that has the label"
    if len(material.labels) == 2:
        return f"share of {in_one_line(material.labels[1], 18)}"
    return "share that is right"


def _from_predictions(material: Material) -> list[Series]:
    predictions = material.predictions
    if predictions is None:
        return []
    scores, true = _cases(material)
    if scores is None or true is None:
        return []
    bins = equal_width_bins(scores, true)
    return [(_UNCHANGED, _bins(bins), calibration_error(bins))]


def _cases(material: Material) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Scores and what came of them: of two classes the last one's, of more the decided one's, of labels all of them."""
    found = material.predictions
    assert found is not None
    if material.kind == "multi-label" and found.targets is not None:
        return found.scores.ravel(), found.targets.ravel()
    if material.kind == "soft" and found.targets is not None and len(material.labels) == 2:
        return found.scores[:, 1], found.targets[:, 1]
    if found.label_ids is None or found.predicted_ids is None:
        return None, None
    if len(material.labels) == 2:
        return found.scores[:, 1], (found.label_ids == 1).astype(np.float64)
    return found.scores.max(axis=1), (found.label_ids == found.predicted_ids).astype(np.float64)


def _recorded(material: Material) -> list[Series]:
    """Before and after, as the run's judgement has them for the held-out texts."""
    by_split = object_in(material.judgement, "calibration")
    of_split = object_in(by_split, material.split or "")
    series: list[Series] = []
    for name in ("before", "after"):
        values = object_in(of_split, name)
        bins = _bins(values.get("bins"))
        if bins:
            series.append((name, bins, number_in(values, "expected_calibration_error")))
    return series if len(series) != 1 else [(_UNCHANGED, *series[0][1:])]


def _bins(values: Any) -> list[CalibrationBin]:
    bins = []
    for item in values if isinstance(values, Sequence) and not isinstance(values, str) else []:
        if not isinstance(item, Mapping):
            return []
        numbers = [item.get(name) for name in ("low", "high", "count", "mean_score", "share")]
        if is_finite(numbers[2]) and numbers[2] == 0:
            continue
        if not all(map(is_finite, numbers)):
            return []
        low, high, count, mean, share = (float(number or 0.0) for number in numbers)
        bins.append(CalibrationBin(low, high, int(count), mean, share))
    return bins


def _prose(material: Material) -> tuple[str, ...]:
    found = []
    temperature = number_in(material.judgement, "temperature")
    if temperature is not None and temperature != 1:
        how = (
            "too sure"
            if temperature > 1.02
            else "not sure enough"
            if temperature < 0.98
            else "about as sure as it may be"
        )
        found.append(f"The validation texts gave the temperature {temperature:.3g}: before, the classifier was {how}.")
    threshold = object_in(material.judgement, "threshold")
    by_label = threshold.get("value")
    values = [(str(label), value) for label, value in by_label.items()] if isinstance(by_label, Mapping) else []
    words = [f"{decimals(value)} for “{label}”" for label, value in values if is_finite(value)]
    if (value := number_in(threshold, "value")) is not None:
        words = [decimals(value)]
    if words:
        metric, tuned = threshold.get("metric"), threshold.get("tuned_on")
        how = f", chosen for {str(metric).replace('_', ' ')} on the {tuned} texts" if metric and tuned else ""
        found.append(f"A label is decided for from this score on: {', '.join(words)}{how}.")
    return tuple(found)


def _worst_bin(series: Series) -> tuple[str, ...]:
    """The place where the scores are furthest off, in words."""
    bins = [item for item in series[1] if item.count >= _FEW_IN_A_BIN]
    off = [item for item in bins if not item.interval[0] <= item.mean_score <= item.interval[1]]
    if not bins:
        return ()
    if not off:
        return ("Nowhere are the scores further off than chance would explain.",)
    worst = max(off, key=lambda item: abs(item.mean_score - item.share))
    return (
        f"Furthest off are scores between {worst.low:.3g} and {worst.high:.3g}: of {worst.count:,} cases with a mean "
        f"score of {percent(worst.mean_score)}, {percent(worst.share)} came true.",
    )
