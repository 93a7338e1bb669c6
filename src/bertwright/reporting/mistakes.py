"""The worst mistakes of a run, with their texts."""

from __future__ import annotations

import numpy as np

from bertwright.evaluation.stored import Predictions
from bertwright.reporting.material import Material
from bertwright.reporting.page import Entry, Texts
from bertwright.reporting.words import counted, decimals

NUM_SHOWN, MOST_LETTERS = 10, 600


def worst_mistakes(material: Material) -> Texts | None:
    """The texts about which the classifier was most surely wrong; None where there are none, or it is not known."""
    predictions = material.predictions
    if predictions is None:
        return None
    if material.kind == "regression":
        return _of_numbers(material, predictions)
    if material.kind == "multi-label":
        return _of_many_labels(material, predictions)
    return _of_classes(material, predictions)


def _of_classes(material: Material, predictions: Predictions) -> Texts | None:
    ids, predicted = predictions.label_ids, predictions.predicted_ids
    if ids is None or predicted is None:
        return None
    of_true = predictions.scores[np.arange(len(ids)), ids]
    wrong = np.flatnonzero(ids != predicted)
    worst = wrong[np.argsort(of_true[wrong], kind="stable")][:NUM_SHOWN]
    entries = [
        _entry(
            predictions,
            i,
            material.labels[ids[i]],
            material.labels[predicted[i]],
            decimals(predictions.scores[i, predicted[i]]),
        )
        for i in worst.tolist()
    ]
    return _texts(entries, len(wrong), len(ids), ("label", "called", "with probability", "row"))


def _of_many_labels(material: Material, predictions: Predictions) -> Texts | None:
    has, decided = predictions.has_label, predictions.decided
    if has is None or decided is None:
        return None
    wrong = has != decided
    off = np.where(wrong, abs(predictions.scores - has), -1.0)  # (texts, labels)
    wrong_texts = np.flatnonzero(wrong.any(axis=1))
    worst = wrong_texts[np.argsort(-off[wrong_texts].max(axis=1), kind="stable")][:NUM_SHOWN]

    def names(chosen: np.ndarray) -> str:
        return ", ".join(label for label, one in zip(material.labels, chosen, strict=True) if one) or "none"

    entries = []
    for i in worst.tolist():
        label = int(off[i].argmax())
        score = f"{material.labels[label]} {decimals(predictions.scores[i, label])}"
        entries.append(_entry(predictions, i, names(has[i]), names(decided[i]), score))
    return _texts(entries, len(wrong_texts), len(has), ("labels", "called", "most wrong", "row"))


def _of_numbers(material: Material, predictions: Predictions) -> Texts | None:
    if predictions.targets is None:
        return None
    true, predicted = predictions.targets[:, 0], predictions.scores[:, 0]
    off = predicted - true
    worst = np.argsort(-abs(off), kind="stable")[:NUM_SHOWN]
    entries = [
        _entry(predictions, i, f"{true[i]:.4g}", f"{predicted[i]:.4g}", f"{off[i]:+.4g}") for i in worst.tolist()
    ]
    return _texts(entries, None, len(true), ("true", "predicted", "error", "row"))


def _entry(predictions: Predictions, i: int, true: str, called: str, score: str) -> Entry:
    texts, pairs = predictions.texts, predictions.pairs
    return Entry(
        (true, called, score, f"{int(predictions.rows[i]):,}"),
        None if texts is None else _cut(texts[i].as_py()),
        None if pairs is None else _cut(pairs[i].as_py()),
    )


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def _texts(entries: list[Entry], num_wrong: int | None, num: int, names: tuple[str, ...]) -> Texts | None:
    if not entries:
        return None
    note = "The largest errors first."
    if num_wrong is not None:
        note = (
            f"{counted(num_wrong, 'wrong text')} of {num:,}, the surest first. Some may be labelled wrongly: a sure "
            "classifier that is wrong is a good reason to look at the label."
        )
    return Texts("mistakes", "The worst mistakes", note, names, tuple(entries))
