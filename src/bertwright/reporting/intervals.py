"""The 95 % intervals of a run's held-out metrics, from its predictions alone: the one place where a page gets them."""

from __future__ import annotations

from bertwright.evaluation.few_texts import notes_of_few
from bertwright.evaluation.uncertainty import NUM_SAMPLES, mean_interval, measure
from bertwright.reporting.material import Material, is_finite

# Texts drawn in all resamples together, and the fewest resamples: their standard error is then off by 5 % of itself.
_MOST_DRAWN, _FEWEST_SAMPLES = 20_000_000, 200

Intervals = dict[str, tuple[float, float]]


def metric_intervals(material: Material) -> Intervals:
    """By metric, low and high of 95 %, over the texts; a metric whose interval is not known is absent.

    As ``compare`` gives them of a run (docs/statistics.md), with fewer resamples of many texts: a page is to be there
    in seconds.
    """
    found = None if material.predictions is None else material.predictions.judged
    if found is None or found.num_texts < 2:
        return {}
    num_samples = max(_FEWEST_SAMPLES, min(NUM_SAMPLES, _MOST_DRAWN // found.num_texts))
    measured = measure(found, num_samples=num_samples)
    intervals = {name: mean_interval(found, one, [0]) for name, one in measured.items()}
    return {name: interval for name, interval in intervals.items() if interval is not None}


def few_texts_notes(material: Material) -> list[str]:
    """Which metrics have no interval, or one that is too narrow, for lack of texts of a kind; a sentence each."""
    found = None if material.predictions is None else material.predictions.judged
    if found is None:
        return []
    names = [name for name, value in material.metrics.items() if is_finite(value)]
    return [f"{note}." for note in notes_of_few(found, names)]
