"""What is settled about a classifier's scores: its threshold and temperature; and the record of that, with calibration.

Torch is never imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertwright.config.evaluate import BiasSettings
from bertwright.config.parts import JudgementSettings
from bertwright.data.columns import LabelledTexts
from bertwright.errors import UserError
from bertwright.evaluation.bias import bias_of
from bertwright.evaluation.calibration import calibration_of, fit_temperature
from bertwright.evaluation.metrics import Threshold
from bertwright.evaluation.scores import has_labels, scores_of, sigmoid, targets_of
from bertwright.evaluation.subgroups import groups_of_columns
from bertwright.evaluation.threshold import Goal, tune_threshold
from bertwright.progress import Reporter


@dataclass(frozen=True)
class Settled:
    """Threshold and temperature of a classifier.

    Attributes:
        threshold: one for all labels, or one for each.
        temperature: that logits are divided by.
        goal: what the threshold was tuned for; None where it was not.
        reached: the goal's metric on the texts that it was tuned on, by label; None for a label that all of these
            texts have, or none.
        calibrated: whether a temperature was looked for.
        tuned_on: which texts: the name of a split.
    """

    threshold: Threshold
    temperature: float
    goal: Goal | None = None
    reached: Mapping[str, float | None] = field(default_factory=dict)
    calibrated: bool = False
    tuned_on: str | None = None


def check_asked(asked: JudgementSettings, texts: LabelledTexts | None, what: str = "validation texts") -> Goal | None:
    """The goal of the threshold, if one is asked for. Refuse what cannot be settled, before any work is done.

    Args:
        texts: those that threshold and temperature are to be found on; ``what`` they are.

    Raises:
        UserError: an unknown goal; there are no texts, or they have numbers, more than two classes, or one class only.
    """
    goal = None if asked.tune_threshold is None else Goal.of(asked.tune_threshold)
    for flag, given in (("--tune-threshold", goal), ("--calibrate", asked.calibrate)):
        if not given:
            continue
        if texts is None:
            raise UserError(f"{flag} needs {what}: pass --validation FILE or --validation-share 0.1")
        if texts.kind == "regression":
            raise UserError(f"{flag}: found numbers to predict, which have none; expected classes or labels")
    if goal is None or texts is None:
        return goal
    if texts.kind != "multi-label" and len(texts.labels) != 2:
        raise UserError(
            f"--tune-threshold: found {len(texts.labels)} classes, of which the most probable one is decided for; "
            "expected two classes, or several labels a text"
        )
    truth = _decided(has_labels(texts), texts)
    if not (truth.any(axis=0) & ~truth.all(axis=0)).any():
        raise UserError(f"--tune-threshold: the {what} are all of one class, expected both")
    return goal


def settle(
    asked: JudgementSettings,
    goal: Goal | None,
    logits: np.ndarray,
    texts: LabelledTexts,
    on: str,
    before: Settled,
    reporter: Reporter,
) -> Settled:
    """Temperature and threshold as asked for, found on ``texts`` by their ``logits`` (texts, labels).

    The temperature comes first: the threshold is that of the scores that it gives. ``on`` names the texts. What is not
    asked for stays as it was ``before``; a threshold follows a new temperature, so that decisions stay. A label that
    all texts have, or none, gets the threshold 0.5, and that is said.
    """
    temperature = _temperature(asked, logits, texts, on, before, reporter)
    if goal is None:
        threshold = _moved(before.threshold, before.temperature / temperature)
        return Settled(threshold, temperature, calibrated=asked.calibrate, tuned_on=on if asked.calibrate else None)
    threshold, reached = _thresholds(goal, scores_of(logits, texts.kind, temperature), texts, on, reporter)
    return Settled(threshold, temperature, goal, reached, asked.calibrate, on)


def _temperature(
    asked: JudgementSettings,
    logits: np.ndarray,
    texts: LabelledTexts,
    on: str,
    before: Settled,
    reporter: Reporter,
) -> float:
    temperature = before.temperature
    if asked.calibrate:
        found = fit_temperature(logits, targets_of(texts), texts.kind)
        if found is None:
            reporter.warn(
                f"--calibrate: no temperature is most likely on these {len(texts):,} {on} texts (every one is right, "
                f"or the scores tell nothing); it stays {temperature:g}"
            )
        else:
            temperature = found
            reporter.say(f"temperature {temperature:.4f}: most likely on the {len(texts):,} {on} texts")
    return temperature


def _moved(threshold: Threshold, factor: float) -> Threshold:
    """The threshold at which the same is decided when all logits are multiplied by ``factor``."""
    if isinstance(threshold, Sequence):
        return tuple(float(np.asarray(_moved(one, factor))) for one in threshold)
    if threshold in (0, 1) or factor == 1:
        return threshold
    return float(sigmoid(np.array(factor * np.log(threshold / (1 - threshold)))))


def _thresholds(
    goal: Goal, scores: np.ndarray, texts: LabelledTexts, on: str, reporter: Reporter
) -> tuple[Threshold, dict[str, float | None]]:
    """The threshold of the last of two classes or of each label, and what the goal's metric is with it, by label."""
    scores = _decided(scores, texts)
    truth = _decided(has_labels(texts), texts)
    names = texts.labels if texts.kind == "multi-label" else texts.labels[-1:]
    thresholds: list[float] = []
    reached: dict[str, float | None] = {}
    for i, name in enumerate(names):
        tuned = tune_threshold(truth[:, i], scores[:, i], goal)
        thresholds.append(0.5 if tuned is None else tuned.value)
        reached[name] = None if tuned is None else tuned.reached
        if tuned is None:
            reporter.warn(f"--tune-threshold: all or none of the {on} texts are {name!r}: its threshold stays 0.5")
        elif not tuned.met:
            reporter.warn(
                f"--tune-threshold {goal}: no threshold of {name!r} reaches it on the {on} texts; taken is the one "
                f"with the highest {goal.metric}, {tuned.reached:.4f}"
            )
        if tuned is not None:
            reporter.say(
                f"threshold of {name!r}: {tuned.value:.4f}, {goal.metric} {tuned.reached:.4f} on the {on} texts"
            )
    return tuple(thresholds) if texts.kind == "multi-label" else thresholds[0], reached


def _decided(values: np.ndarray, texts: LabelledTexts) -> np.ndarray:
    """Of (texts, labels) the columns that a threshold decides on: all of several labels, the last of two classes."""
    return values if texts.kind == "multi-label" else values[:, -1:]


def judgement_record(
    settled: Settled,
    labels: Sequence[str],
    splits: Mapping[str, tuple[LabelledTexts, np.ndarray]],
    held_out: str | None,
) -> dict[str, Any]:
    """``judgement`` of result.json: ``threshold``, ``temperature``, ``calibration`` and ``bias``.

    ``calibration`` has for each split ``before``, with the logits as they are, and ``after``, divided by the
    temperature; None where none was looked for. ``bias`` is that of the held-out texts of two classes by their columns
    of groups; None where there are none.

    Args:
        splits: texts with their logits (texts, labels), by name.
        held_out: the split that the model is judged on.
    """
    value: Any = settled.threshold
    if isinstance(value, Sequence):
        value = dict(zip(labels, value, strict=True))
    calibration = {}
    for name, (texts, logits) in splits.items():
        targets = targets_of(texts)
        after = calibration_of(logits, targets, texts.kind, settled.temperature) if settled.calibrated else None
        calibration[name] = {"before": calibration_of(logits, targets, texts.kind), "after": after}
    return {
        "threshold": {
            "value": value,
            "metric": None if settled.goal is None else str(settled.goal),
            "reached": dict(settled.reached) or None,
            "tuned_on": None if settled.goal is None else settled.tuned_on,
        },
        "temperature": settled.temperature,
        "calibration": {name: one for name, one in calibration.items() if one["before"] is not None},
        "bias": None if held_out is None else bias_by_columns(*splits[held_out]),
    }


def bias_by_columns(texts: LabelledTexts, logits: np.ndarray) -> dict[str, Any] | None:
    """The bias of a classifier of two classes by the texts' columns of groups; None where there is no answer."""
    if not texts.groups or texts.kind not in ("classes", "soft") or len(texts.labels) != 2:
        return None
    try:
        groups = groups_of_columns(texts.groups)
    except UserError:  # a column of something else, kept beside the scores for another purpose
        return None
    scores = scores_of(logits, texts.kind)[:, -1]
    least: int = BiasSettings.model_fields["min_group_texts"].default
    return bias_of(has_labels(texts)[:, -1], scores, groups, texts.labels[-1], least)
