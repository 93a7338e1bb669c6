"""From which sureness on a small model may answer, so that a cascade keeps what its large model achieves.

Torch is never imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertwright.data.columns import LabelledTexts
from bertwright.errors import DataError, UserError
from bertwright.evaluation.deferral import sureness
from bertwright.evaluation.judge import judged_of
from bertwright.evaluation.metrics import LOWER_IS_BETTER, lost_by
from bertwright.evaluation.resampling import Judged, point_metrics
from bertwright.evaluation.significance import Interval
from bertwright.evaluation.uncertainty import Measured, difference, mean_interval, measure
from bertwright.model.classifier_settings import ClassifierSettings

ALPHA = 0.05
_STEPS = 50
"""The shares of texts that are tried for the large model are 0, 1/50, 2/50, ... 1."""


@dataclass(frozen=True)
class Goal:
    """What must be kept: a loss of at most ``max_loss``, or a value of ``target``; with neither, the large model's
    interval."""

    max_loss: float | None = None
    target: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A cascade with one threshold of sureness, judged on the validation texts.

    Attributes:
        sureness: the threshold; 0: the small model answers all.
        deferred_texts, deferred_tokens: shares that go to the large model.
        value: of the metric; ``interval`` is of 95 %, None where it cannot be told.
        loss_at_most: beside the large model, at the worse end of the interval of the difference; where there is none,
            the loss as it was found.
        kept: whether this is good enough.
    """

    sureness: float
    deferred_texts: float
    deferred_tokens: float
    value: float
    interval: Interval | None
    loss: float
    loss_at_most: float
    kept: bool


@dataclass(frozen=True)
class TunedCascade:
    """What was found on the validation texts.

    Attributes:
        large_value, large_interval: of the large model alone.
        allowed: the most that may be lost; None where a target was asked for.
        candidates: by rising share of deferred texts, from none to all.
        chosen: the cheapest one that is good enough, and so are all that defer more.
    """

    metric: str
    large_value: float
    large_interval: Interval | None
    allowed: float | None
    candidates: tuple[Candidate, ...]
    chosen: Candidate


def tune_cascade(
    texts: LabelledTexts,
    settings: ClassifierSettings,
    small_scores: np.ndarray,
    large_scores: np.ndarray,
    large_lengths: np.ndarray,
    metric: str,
    goal: Goal,
) -> TunedCascade:
    """The cheapest threshold of sureness that keeps ``goal``.

    Args:
        settings: by which is decided.
        small_scores: (texts, labels), on the large model's scale.
        large_lengths: (texts,) tokens of each text for the large model: what deferring it costs.

    Raises:
        DataError: the metric has no answer on these texts, or no interval where one is needed.
        UserError: nothing but deferring every text is good enough.
    """
    sure = sureness(small_scores, settings.kind, settings.threshold)
    thresholds = _thresholds(sure)
    deferred = sure < np.array(thresholds)[:, None]  # (candidates, texts)
    mixed = np.where(deferred[:, :, None], large_scores, small_scores)
    judged = judged_of(texts, settings, np.concatenate([large_scores[None], mixed]))
    values = point_metrics(judged, [metric]).get(metric)
    if values is None or np.isnan(values).any():
        raise DataError(
            f"{metric} has no answer on these {len(texts):,} texts; name others with --validation, or another --metric"
        )
    measured = measure(judged, [metric]).get(metric)
    intervals = [
        None if measured is None else mean_interval(judged, measured, [model], ALPHA) for model in range(len(values[0]))
    ]
    value = float(values[0, 0])
    allowed = _allowed(goal, metric, value, intervals[0], len(texts))
    tokens = (deferred * large_lengths).sum(axis=1) / max(int(large_lengths.sum()), 1)
    candidates = []
    for place, threshold in enumerate(thresholds):
        own = float(values[0, place + 1])
        loss = lost_by(metric, value, own - value)
        worst = max(loss, _worst_loss(judged, measured, place + 1, metric, value))
        kept = worst <= allowed if allowed is not None else _reaches(goal, metric, own)
        share = float(deferred[place].mean())
        interval = intervals[place + 1]
        candidates.append(Candidate(threshold, share, float(tokens[place]), own, interval, loss, worst, kept))
    chosen = _cheapest(candidates, metric, value, allowed, goal)
    return TunedCascade(metric, value, intervals[0], allowed, tuple(candidates), chosen)


def _thresholds(sure: np.ndarray) -> list[float]:
    """Thresholds under which about 0, 1/50, 2/50, ... of the texts are deferred, and all."""
    ordered = np.sort(sure)
    found = [0.0]
    for step in range(1, _STEPS):
        place = round(len(ordered) * step / _STEPS)
        if 0 < place < len(ordered):  # between two texts, so that rounding moves neither
            found.append(float((ordered[place - 1] + ordered[place]) / 2))
    return [*dict.fromkeys(found), float("inf")]


def _worst_loss(judged: Judged, measured: Measured | None, model: int, metric: str, value: float) -> float:
    """The loss at the worse end of the interval of the difference from model 0; -inf where that cannot be told."""
    found = None if measured is None else difference(judged, measured, [model], [0], ALPHA)
    if found is None or found.low is None or found.high is None:
        return -np.inf
    return lost_by(metric, value, found.high if metric in LOWER_IS_BETTER else found.low)


def _allowed(goal: Goal, metric: str, value: float, interval: Interval | None, num_texts: int) -> float | None:
    if goal.target is not None:
        return None
    if goal.max_loss is not None:
        return goal.max_loss
    if interval is None:
        raise DataError(
            f"{metric} of the large model has no interval on these {num_texts:,} texts: give --max-loss or --target, "
            "or more texts"
        )
    return lost_by(metric, value, (interval[1] if metric in LOWER_IS_BETTER else interval[0]) - value)


def _reaches(goal: Goal, metric: str, value: float) -> bool:
    assert goal.target is not None
    return value <= goal.target if metric in LOWER_IS_BETTER else value >= goal.target


def _cheapest(
    candidates: Sequence[Candidate], metric: str, value: float, allowed: float | None, goal: Goal
) -> Candidate:
    """The first one from which on all are kept.

    Raises:
        UserError: that is the one that defers every text, or not even that one.
    """
    if not candidates[-1].kept:
        raise UserError(
            f"--target {goal.target:g}: the large model alone reaches {metric} {value:.4f} on these texts; ask for "
            "less, or make a better large model"
        )
    last = max((place for place, one in enumerate(candidates) if not one.kept), default=-1)
    if last + 1 < len(candidates) - 1:
        return candidates[last + 1]
    nearly = candidates[last]
    wanted = f"reaches {metric} {goal.target:g}" if allowed is None else f"loses at most {allowed:.4g} of {metric}"
    found = f"{nearly.value:.4f}" if allowed is None else f"{nearly.loss_at_most:.4g}"
    raise UserError(
        f"no threshold {wanted} on these texts but one that gives every text to the large model (with "
        f"{nearly.deferred_texts:.0%} of them it is {found}): nothing is written. Ask for less with --max-loss or "
        "--target, give more texts, or teach a better small model (bertwright distill)"
    )
