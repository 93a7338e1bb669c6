"""How good the scores of a classifier are, and which of two results is better.

Metrics are scikit-learn's. What scikit-learn answers with a warning or NaN (one class only, no texts) is ``None`` here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertwright.errors import UserError

METRIC_NAMES = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "matthews",
)
"""The metrics that are one number, in the order in which they are shown; ``--best-metric`` takes any of them."""

LOWER_IS_BETTER = ("log_loss",)
"""Those of ``METRIC_NAMES`` that are better when lower; all others are better when higher."""


def classification_metrics(
    label_ids: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], threshold: float = 0.5
) -> dict[str, Any]:
    """All metrics of a classifier, as plain Python values that JSON can hold.

    The keys are ``METRIC_NAMES``, then ``num_texts``, ``per_class`` (for each label its ``precision``, ``recall``,
    ``f1`` and ``support``, the number of texts that have it) and ``confusion`` (rows: true, columns: predicted).

    With two classes, ``precision``, ``recall``, ``f1``, ``roc_auc`` and ``average_precision`` are those of the last
    (positive) class, and ``macro_f1`` is the mean F1 of both. With more, precision, recall and F1 are means over all
    classes (macro; ``macro_f1`` equals ``f1``), ``roc_auc`` and ``average_precision`` are means over the classes, each
    against the rest, that some but not all texts have.

    What has no answer is ``None``, never NaN: everything but the counts if there are no texts; ``roc_auc``,
    ``average_precision`` and ``matthews`` where all texts have the same label. Precision, recall and F1 whose
    denominator is 0 are 0 (``zero_division=0`` of scikit-learn), also in the means: a class that no text has, and none
    is predicted to have, counts as 0. ``matthews`` is 0 where all predictions are the same and the labels are not.

    Definitions, by their functions in ``sklearn.metrics``: ``accuracy_score``; ``precision_score``, ``recall_score``
    and ``f1_score`` with all classes as ``labels``; ``roc_auc_score``, the share of pairs of a positive and a negative
    text that the scores put in order, half a pair for a tie (Hanley and McNeil 1982; several classes: one-vs-rest, not
    the pairwise measure of Hand and Till 2001); ``average_precision_score``, the step-wise sum without interpolation;
    ``log_loss``, in nats, probabilities clipped to [eps, 1 - eps] of their dtype; ``matthews_corrcoef`` (Matthews 1975;
    several classes: Gorodkin 2004).

    Args:
        label_ids: the true classes, integers ``(texts,)``.
        probabilities: ``(texts, classes)``; rows sum to 1.
        labels: the names of the classes, in the order of the columns.
        threshold: the least probability of the last class at which a text is predicted to have it (two classes only).

    Raises:
        ValueError: arrays that do not fit together, a class outside ``labels``, a name given twice, or probabilities
            that are not finite or not probabilities.
    """
    label_ids, probabilities = _checked(label_ids, probabilities, labels)
    num_texts, num_classes = probabilities.shape
    if not num_texts:
        nothing = dict.fromkeys(("precision", "recall", "f1"))
        return {
            **dict.fromkeys(METRIC_NAMES),
            "num_texts": 0,
            "per_class": {label: {**nothing, "support": 0} for label in labels},
            "confusion": [[0] * num_classes for _ in labels],
        }
    from sklearn import metrics  # takes most of a second to load

    classes = np.arange(num_classes)
    predicted = decide(probabilities, threshold)
    precisions, recalls, f1s, supports = metrics.precision_recall_fscore_support(
        label_ids, predicted, labels=classes, zero_division=0
    )
    if num_classes == 2:
        precision, recall, f1 = precisions[-1], recalls[-1], f1s[-1]
        ranked_classes = classes[1:]
    else:
        precision, recall, f1 = np.mean(precisions), np.mean(recalls), np.mean(f1s)
        ranked_classes = classes
    ranked_classes = ranked_classes[(supports[ranked_classes] > 0) & (supports[ranked_classes] < num_texts)]
    aucs = [metrics.roc_auc_score(label_ids == i, probabilities[:, i]) for i in ranked_classes]
    averages = [metrics.average_precision_score(label_ids == i, probabilities[:, i]) for i in ranked_classes]
    epsilon = np.finfo(probabilities.dtype).eps
    of_true = np.take_along_axis(probabilities, label_ids[:, None], axis=1)[:, 0].astype(np.float64)
    # As sklearn.metrics.confusion_matrix, which warns where there is one class.
    confusion = np.bincount(label_ids * num_classes + predicted, minlength=num_classes**2)
    confusion = confusion.reshape(num_classes, num_classes)  # (true, predicted)
    one_class_only = supports.max() == num_texts

    return {
        "accuracy": float(metrics.accuracy_score(label_ids, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "macro_f1": float(np.mean(f1s)),
        "roc_auc": float(np.mean(aucs)) if aucs else None,
        "average_precision": float(np.mean(averages)) if averages else None,
        # As sklearn.metrics.log_loss, which warns of rows whose float32 sum is not 1 to its taste.
        "log_loss": float(-np.log(of_true.clip(epsilon, 1 - epsilon)).mean()),
        "matthews": None if one_class_only else float(metrics.matthews_corrcoef(label_ids, predicted)),
        "num_texts": num_texts,
        "per_class": {
            label: {
                "precision": float(precisions[i]),
                "recall": float(recalls[i]),
                "f1": float(f1s[i]),
                "support": int(supports[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
    }


def decide(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The predicted class of each text, integers ``(texts,)``.

    Of two classes the last one where its probability is at least ``threshold``; of more the most probable one, the
    first of equals. The threshold is compared in the dtype of the probabilities.

    Args:
        probabilities: ``(texts, classes)``.
        threshold: used with two classes only.
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= float(threshold)).astype(np.int64)
    return probabilities.argmax(axis=1)


def check_metric_name(name: str) -> None:
    """Refuse a name that is none of ``METRIC_NAMES``.

    Raises:
        UserError: names the nearest known metric, or all.
    """
    if name not in METRIC_NAMES:
        nearest = difflib.get_close_matches(name, METRIC_NAMES, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"the known ones are {', '.join(METRIC_NAMES)}"
        raise UserError(f"unknown metric {name!r}; {hint}")


def is_better(name: str, new: float | None, old: float | None) -> bool:
    """Whether ``new`` is a strictly better value of the metric ``name`` than ``old``.

    ``None`` and NaN are never better, and any number is better than they are.

    Raises:
        UserError: ``name`` is none of ``METRIC_NAMES``.
    """
    check_metric_name(name)
    if new is None or math.isnan(new):
        return False
    if old is None or math.isnan(old):
        return True
    return new < old if name in LOWER_IS_BETTER else new > old


def positive_score(probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The number that ranks texts from lowest to highest, ``(texts,)``; ``describe_score`` says what it is.

    More than two classes whose names are all numbers (stars, grades): the expected value of that number. Otherwise the
    probability of the last class.

    Args:
        probabilities: ``(texts, classes)``.
        labels: the names of the classes, in the order of the columns.

    Raises:
        ValueError: the columns are not as many as the labels.
    """
    if probabilities.ndim != 2 or not 0 < probabilities.shape[1] == len(labels):
        raise ValueError(f"probabilities must be (texts, {len(labels)}). Got {probabilities.shape}.")
    numbers = _numbers(labels)
    if numbers is None:
        return probabilities[:, -1]
    return probabilities @ np.asarray(numbers)


def describe_score(labels: Sequence[str]) -> str:
    """What ``positive_score`` is, as one phrase: ``probability of "toxic"`` or ``expected label``."""
    return f'probability of "{labels[-1]}"' if _numbers(labels) is None else "expected label"


def _numbers(labels: Sequence[str]) -> list[float] | None:
    """The labels as numbers, if they are more than two and all are finite numbers."""
    if len(labels) <= 2:
        return None
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _checked(label_ids: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The arrays as integers ``(texts,)`` and as float32 or float64 ``(texts, classes)``."""
    label_ids, probabilities = np.asarray(label_ids), np.asarray(probabilities)
    num_classes = len(labels)
    if not num_classes or len(set(labels)) != num_classes:
        raise ValueError(f"labels must be names, each given once. Got {list(labels)}.")
    if label_ids.ndim != 1 or probabilities.shape != (len(label_ids), num_classes):
        raise ValueError(
            f"label_ids must be (texts,) and probabilities (texts, {num_classes}). "
            f"Got {label_ids.shape} and {probabilities.shape}."
        )
    if label_ids.size and label_ids.dtype.kind not in "iu":
        raise ValueError(f"label_ids must be integers. Got {label_ids.dtype}.")
    label_ids = label_ids.astype(np.int64, copy=False)
    if probabilities.dtype not in (np.float32, np.float64):
        probabilities = probabilities.astype(np.float32 if probabilities.dtype == np.float16 else np.float64)
    if not label_ids.size:
        return label_ids, probabilities
    if label_ids.min() < 0 or label_ids.max() >= num_classes:
        raise ValueError(f"label_ids must be in 0 to {num_classes - 1}. Got {label_ids.min()} to {label_ids.max()}.")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities must be finite.")
    # Loose on purpose: this tells logits from probabilities, not float32 from float64.
    if probabilities.min() < 0 or probabilities.max() > 1.01 or abs(probabilities.sum(axis=1) - 1).max() > 0.01:
        raise ValueError("probabilities must be in 0 to 1, and those of a text must sum to 1.")
    return label_ids, probabilities
