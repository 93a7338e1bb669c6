"""How good scores are, for each kind of labels, and which of two results is better.

Metrics are scikit-learn's. What scikit-learn answers with a warning or NaN (one class only, no texts) is ``None`` here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright.errors import UserError

if TYPE_CHECKING:  # pydantic, which not every runtime has
    from bertwright.config.parts import LabelKind

Threshold = float | Sequence[float]
"""The least probability at which a label is decided for: of the last of two classes, of all of several labels, or one
for each of these."""

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
"""The metrics of classes that are one number, in the order in which they are shown."""

SOFT_METRIC_NAMES = (*METRIC_NAMES, "soft_log_loss", "brier")
"""Those of shares of classes: those of the classes that most of each share makes, and two against the shares."""

MULTI_LABEL_METRIC_NAMES = (
    "accuracy",
    "micro_precision",
    "micro_recall",
    "micro_f1",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "soft_log_loss",
    "hamming_loss",
)
"""Those of texts that have any number of labels; ``soft_log_loss`` only where some of them are shares."""

REGRESSION_METRIC_NAMES = (
    "mean_squared_error",
    "root_mean_squared_error",
    "mean_absolute_error",
    "r2",
    "pearson",
    "spearman",
)
"""Those of numbers."""

METRIC_NAMES_OF: dict[LabelKind, tuple[str, ...]] = {
    "classes": METRIC_NAMES,
    "soft": SOFT_METRIC_NAMES,
    "multi-label": MULTI_LABEL_METRIC_NAMES,
    "regression": REGRESSION_METRIC_NAMES,
}
"""The metrics that are one number, of each kind of labels; ``--best-metric`` takes any of its kind."""

ALL_METRIC_NAMES = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "micro_precision",
    "micro_recall",
    "micro_f1",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "matthews",
    "soft_log_loss",
    "brier",
    "hamming_loss",
    *REGRESSION_METRIC_NAMES,
)
"""The metrics of all kinds, in the order in which they are shown."""

LOWER_IS_BETTER = (
    "log_loss",
    "soft_log_loss",
    "brier",
    "hamming_loss",
    "mean_squared_error",
    "root_mean_squared_error",
    "mean_absolute_error",
)
"""Those metrics that are better when lower; all others are better when higher."""

NEEDS_DIFFERENT_LABELS = ("roc_auc", "average_precision", "matthews", "r2", "pearson", "spearman")
"""Those metrics that have no answer where all texts have the same label, or the same number."""


def lost_by(name: str, value: float, change: float) -> float:
    """What is lost when the metric ``name`` moves from ``value`` by ``change``; below 0 where it becomes better.

    Of a share, such as accuracy, that is the change; of an error, such as log_loss, the share of it, or of an error of
    0, which has none, the change.
    """
    if name not in LOWER_IS_BETTER:
        return -change
    return change / value if value else change


def default_metric(kind: LabelKind, num_labels: int) -> str:
    """The metric by which a state is kept if none is asked for.

    Of numbers it is the mean squared error: on one set of texts it puts states in the same order as r2, and unlike r2
    and the correlations it always has an answer, and is not blind to numbers that are all too high.
    """
    if kind == "regression":
        return "mean_squared_error"
    return "roc_auc" if kind == "multi-label" or num_labels == 2 else "accuracy"


def classification_metrics(
    label_ids: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], threshold: Threshold = 0.5
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


def soft_metrics(
    label_ids: np.ndarray,
    shares: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    threshold: Threshold = 0.5,
) -> dict[str, Any]:
    """``classification_metrics`` of the classes ``label_ids``, and how near the probabilities are to the shares.

    ``soft_log_loss`` is the mean over texts of -sum over classes of share * ln(probability), in nats, probabilities
    clipped as for ``log_loss``; its least value is the mean entropy of the shares, not 0. ``brier`` is the mean squared
    difference of probability and share: with two classes that of the last one, with more the sum over the classes (as
    ``sklearn.metrics.brier_score_loss``, there for classes; Brier 1950). Both are ``None`` if there are no texts.

    Args:
        label_ids: the classes that metrics are of, integers ``(texts,)``.
        shares: ``(texts, classes)``; rows sum to 1.
        probabilities: ``(texts, classes)``; rows sum to 1.
        labels, threshold: as for ``classification_metrics``.

    Raises:
        ValueError: as ``classification_metrics``; shares that do not fit, or are none.
    """
    found = classification_metrics(label_ids, probabilities, labels, threshold)
    label_ids, probabilities = _checked(label_ids, probabilities, labels)
    shares = _checked_targets(shares, probabilities.shape)
    soft_log_loss = brier = None
    if len(shares):
        if abs(shares.sum(axis=1) - 1).max() > 0.01:
            raise ValueError("the shares of a text must sum to 1.")
        soft_log_loss = cross_entropy(shares, probabilities, "soft")
        brier = brier_score(shares, probabilities, "soft")
    numbers = {name: found[name] for name in METRIC_NAMES}
    return {**numbers, "soft_log_loss": soft_log_loss, "brier": brier, **found}


def multilabel_metrics(
    targets: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    threshold: Threshold = 0.5,
    hard_targets: np.ndarray | None = None,
) -> dict[str, Any]:
    """All metrics of a classifier whose texts have any number of labels, as plain Python values that JSON can hold.

    The keys are ``MULTI_LABEL_METRIC_NAMES``, then ``num_texts`` and ``per_class``: for each label its ``precision``,
    ``recall``, ``f1``, ``roc_auc``, ``average_precision`` and ``support``, the number of texts that have it.

    ``accuracy`` is the share of texts of which every label is right (subset accuracy), ``hamming_loss`` the share of
    all (text, label) pairs that are wrong. ``micro_`` counts all pairs alike, ``macro_`` is the mean over labels, each
    counting the same. ``roc_auc`` and ``average_precision`` are means over the labels that some but not all texts have.
    ``log_loss`` is the mean over all pairs of the binary log loss, in nats; ``soft_log_loss`` is there only where some
    targets are shares, and is the same with the shares in the place of 0 and 1.

    What has no answer is ``None``, never NaN: everything but the counts if there are no texts; ``roc_auc`` and
    ``average_precision`` of a label that all or no texts have, and their means if all labels are such. Precision,
    recall and F1 whose denominator is 0 are 0, also in the means.

    Definitions, by their functions in ``sklearn.metrics``: ``accuracy_score`` and ``hamming_loss`` of label indicators,
    ``precision_score``, ``recall_score`` and ``f1_score`` with ``average="micro"`` and ``"macro"`` and
    ``zero_division=0``, ``roc_auc_score``, ``average_precision_score``, ``log_loss``.

    Args:
        targets: 0, 1 or a share for each label ``(texts, labels)``.
        probabilities: ``(texts, labels)``, each from 0 to 1.
        labels: the names of the labels, in the order of the columns.
        threshold: the least probability at which a text is predicted to have a label, one for all or one for each.
        hard_targets: which labels each text has, booleans ``(texts, labels)``; those of at least 0.5 in ``targets`` if
            not given.

    Raises:
        ValueError: arrays that do not fit together, a name given twice, or numbers that are not from 0 to 1.
    """
    probabilities = _as_floats(probabilities)
    _check_names(labels)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(labels):
        raise ValueError(f"probabilities must be (texts, {len(labels)}). Got {probabilities.shape}.")
    targets = _checked_targets(targets, probabilities.shape)
    true = targets >= 0.5 if hard_targets is None else np.asarray(hard_targets, bool)  # (texts, labels)
    if true.shape != targets.shape:
        raise ValueError(f"hard_targets must be {targets.shape}. Got {true.shape}.")
    num_texts = len(targets)
    names = ("precision", "recall", "f1", "roc_auc", "average_precision")
    if not num_texts:
        return {
            **{name: None for name in MULTI_LABEL_METRIC_NAMES if name != "soft_log_loss"},
            "num_texts": 0,
            "per_class": {label: {**dict.fromkeys(names), "support": 0} for label in labels},
        }
    if not np.isfinite(probabilities).all() or probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError("probabilities must be in 0 to 1.")
    from sklearn import metrics  # takes most of a second to load

    has_shares = bool(((targets > 0) & (targets < 1)).any())
    predicted = decide_each(probabilities, threshold)
    hits, predictions, supports = (true & predicted).sum(axis=0), predicted.sum(axis=0), true.sum(axis=0)  # (labels,)
    precisions, recalls = _ratio(hits, predictions), _ratio(hits, supports)
    f1s = _ratio(2 * hits, predictions + supports)
    aucs: list[float | None] = [None] * len(labels)
    averages: list[float | None] = [None] * len(labels)
    for i in np.flatnonzero((supports > 0) & (supports < num_texts)):
        aucs[i] = float(metrics.roc_auc_score(true[:, i], probabilities[:, i]))
        averages[i] = float(metrics.average_precision_score(true[:, i], probabilities[:, i]))
    found: dict[str, Any] = {
        "accuracy": float((true == predicted).all(axis=1).mean()),
        "micro_precision": float(_ratio(hits.sum(), predictions.sum())),
        "micro_recall": float(_ratio(hits.sum(), supports.sum())),
        "micro_f1": float(_ratio(2 * hits.sum(), predictions.sum() + supports.sum())),
        "macro_precision": float(precisions.mean()),
        "macro_recall": float(recalls.mean()),
        "macro_f1": float(f1s.mean()),
        "roc_auc": _mean_of_known(aucs),
        "average_precision": _mean_of_known(averages),
        "log_loss": cross_entropy(true, probabilities, "multi-label"),
    }
    if has_shares:
        found["soft_log_loss"] = cross_entropy(targets, probabilities, "multi-label")
    found["hamming_loss"] = float((true != predicted).mean())
    found["num_texts"] = num_texts
    found["per_class"] = {
        label: {
            "precision": float(precisions[i]),
            "recall": float(recalls[i]),
            "f1": float(f1s[i]),
            "roc_auc": aucs[i],
            "average_precision": averages[i],
            "support": int(supports[i]),
        }
        for i, label in enumerate(labels)
    }
    return found


def regression_metrics(targets: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
    """All metrics of predicted numbers, as plain Python values that JSON can hold.

    The keys are ``REGRESSION_METRIC_NAMES``, then ``num_texts``. ``r2`` is 1 - mean squared error / variance of the
    targets (``sklearn.metrics.r2_score``); ``pearson`` the correlation of targets and predictions, ``spearman`` that of
    their ranks, equal numbers sharing their mean rank (``scipy.stats.pearsonr``, ``spearmanr``). What has no answer is
    ``None``: everything if there are no texts, ``r2`` where all targets are the same, the correlations where all
    targets or all predictions are.

    Args:
        targets: finite numbers ``(texts,)``.
        predictions: finite numbers ``(texts,)``, in the same unit.

    Raises:
        ValueError: arrays that do not fit together or hold something that is no finite number.
    """
    targets, predictions = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(f"targets and predictions must be (texts,). Got {targets.shape} and {predictions.shape}.")
    if not (np.isfinite(targets).all() and np.isfinite(predictions).all()):
        raise ValueError("targets and predictions must be finite.")
    if not len(targets):
        return {**dict.fromkeys(REGRESSION_METRIC_NAMES), "num_texts": 0}
    from scipy.stats import rankdata

    errors = predictions - targets
    mean_squared_error = float((errors**2).mean())
    r2 = None
    if targets.min() < targets.max():
        r2 = 1 - float((errors**2).sum() / ((targets - targets.mean()) ** 2).sum())
    return {
        "mean_squared_error": mean_squared_error,
        "root_mean_squared_error": math.sqrt(mean_squared_error),
        "mean_absolute_error": float(abs(errors).mean()),
        "r2": r2,
        "pearson": _correlation(targets, predictions),
        "spearman": _correlation(rankdata(targets), rankdata(predictions)),
        "num_texts": len(targets),
    }


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson's, of two (texts,) float64; None where one of them is the same everywhere."""
    centred = []
    for values in (first, second):
        if values.min() == values.max():
            return None
        values = values - values.mean()
        centred.append(values / np.sqrt((values**2).sum()))
    return float(np.clip(centred[0] @ centred[1], -1, 1))


def _ratio(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """``counts / of``, 0 where ``of`` is."""
    return np.divide(counts, of, out=np.zeros(np.shape(counts)), where=np.asarray(of) > 0)


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def cross_entropy(targets: np.ndarray, probabilities: np.ndarray, kind: LabelKind) -> float:
    """The mean over the texts of -sum over classes of t ln(p); of several labels the mean over all pairs of a text and
    a label of -t ln(p) - (1 - t) ln(1 - p). In nats; p is clipped to [eps, 1 - eps] of its dtype.

    Args:
        targets: 0, 1 or shares, (texts, labels).
        probabilities: (texts, labels), at least one text.
    """
    epsilon = np.finfo(probabilities.dtype).eps
    clipped = probabilities.clip(epsilon, 1 - epsilon).astype(np.float64)
    if kind != "multi-label":
        return float(-(targets * np.log(clipped)).sum(axis=1).mean())
    return float(-(targets * np.log(clipped) + (1 - targets) * np.log1p(-clipped)).mean())


def brier_score(targets: np.ndarray, probabilities: np.ndarray, kind: LabelKind) -> float:
    """The mean squared difference of probability and target (Brier 1950): with two classes that of the last one, with
    more the sum over the classes; of several labels the mean over all pairs of a text and a label.

    Args:
        targets, probabilities: as for ``cross_entropy``.
    """
    squares = (probabilities.astype(np.float64) - targets) ** 2
    if kind == "multi-label":
        return float(squares.mean())
    return float((squares[:, -1] if squares.shape[1] == 2 else squares.sum(axis=1)).mean())


def decide(probabilities: np.ndarray, threshold: Threshold = 0.5) -> np.ndarray:
    """The predicted class of each text, integers ``(texts,)``.

    Of two classes the last one where its probability is at least ``threshold``; of more the most probable one, the
    first of equals. The threshold is compared in the dtype of the probabilities.

    Args:
        probabilities: ``(texts, classes)``.
        threshold: used with two classes only.
    """
    if probabilities.shape[1] == 2:
        if isinstance(threshold, Sequence):
            raise ValueError("two classes have one threshold, not one for each.")
        return (probabilities[:, 1] >= float(threshold)).astype(np.int64)
    return probabilities.argmax(axis=1)


def decide_each(probabilities: np.ndarray, threshold: Threshold = 0.5) -> np.ndarray:
    """Which labels each text is predicted to have, where it may have any number: booleans ``(texts, labels)``.

    Those whose probability is at least ``threshold``, one for all labels or one for each, compared in the dtype of the
    probabilities.
    """
    return probabilities >= np.asarray(threshold, probabilities.dtype)


_SHORT_NAMES = {
    "mse": "mean_squared_error",
    "rmse": "root_mean_squared_error",
    "mae": "mean_absolute_error",
    "auc": "roc_auc",
    "auroc": "roc_auc",
    "ap": "average_precision",
    "loss": "log_loss",
    "mcc": "matthews",
}


def check_metric_name(name: str, kind: LabelKind | None = None) -> None:
    """Refuse a name that is no metric, or none of labels of ``kind``, if that is known already.

    Raises:
        UserError: names the nearest known metric, or all.
    """
    known = ALL_METRIC_NAMES if kind is None else METRIC_NAMES_OF[kind]
    if name in known:
        return
    if name in ALL_METRIC_NAMES:
        what = {"classes": "classes have", "soft": "soft labels have", "regression": "a regression has"}
        has = what.get(kind or "", f"{kind} labels have")
        raise UserError(f"--best-metric {name}: {has} no such metric; expected one of {', '.join(known)}")
    short = _SHORT_NAMES.get(name.lower())
    nearest = [short] if short in known else difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the known ones are {', '.join(known)}"
    raise UserError(f"--best-metric {name}: unknown metric; {hint}")


def is_better(name: str, new: float | None, old: float | None) -> bool:
    """Whether ``new`` is a strictly better value of the metric ``name`` than ``old``.

    ``None`` and NaN are never better, and any number is better than they are.

    Raises:
        UserError: ``name`` is no metric.
    """
    check_metric_name(name)
    if new is None or math.isnan(new):
        return False
    if old is None or math.isnan(old):
        return True
    return new < old if name in LOWER_IS_BETTER else new > old


def positive_score(scores: np.ndarray, labels: Sequence[str], kind: LabelKind = "classes") -> np.ndarray:
    """The number that ranks texts from lowest to highest, ``(texts,)``; ``describe_score`` says what it is.

    Of classes: the probability of the last one or, where they are more than two and all their names are numbers (stars,
    grades), the expected value of that number. Of any number of labels: the highest of their probabilities. Of numbers:
    the number.

    Args:
        scores: ``(texts, labels)``.
        labels: the names of the labels, in the order of the columns.

    Raises:
        ValueError: the columns are not as many as the labels.
    """
    if scores.ndim != 2 or not 0 < scores.shape[1] == len(labels):
        raise ValueError(f"scores must be (texts, {len(labels)}). Got {scores.shape}.")
    if kind == "multi-label":
        return scores.max(axis=1)
    numbers = None if kind == "regression" else _numbers(labels)
    return scores[:, -1] if numbers is None else scores @ np.asarray(numbers)


def describe_score(labels: Sequence[str], kind: LabelKind = "classes") -> str:
    """What ``positive_score`` is, as one phrase: ``probability of "toxic"`` or ``expected label``."""
    if kind == "multi-label":
        return "probability of any label" if len(labels) > 1 else f'probability of "{labels[0]}"'
    if kind == "regression":
        return f'predicted "{labels[0]}"'
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
    label_ids, probabilities = np.asarray(label_ids), _as_floats(probabilities)
    num_classes = len(labels)
    _check_names(labels)
    if label_ids.ndim != 1 or probabilities.shape != (len(label_ids), num_classes):
        raise ValueError(
            f"label_ids must be (texts,) and probabilities (texts, {num_classes}). "
            f"Got {label_ids.shape} and {probabilities.shape}."
        )
    if label_ids.size and label_ids.dtype.kind not in "iu":
        raise ValueError(f"label_ids must be integers. Got {label_ids.dtype}.")
    label_ids = label_ids.astype(np.int64, copy=False)
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


def _as_floats(values: np.ndarray) -> np.ndarray:
    """As float32 or float64."""
    values = np.asarray(values)
    if values.dtype in (np.float32, np.float64):
        return values
    return values.astype(np.float32 if values.dtype == np.float16 else np.float64)


def _check_names(labels: Sequence[str]) -> None:
    if not labels or len(set(labels)) != len(labels):
        raise ValueError(f"labels must be names, each given once. Got {list(labels)}.")


def _checked_targets(targets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """0, 1 or shares, as float64 of ``shape``."""
    targets = np.asarray(targets, np.float64)
    if targets.shape != shape:
        raise ValueError(f"targets must be {shape}. Got {targets.shape}.")
    if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
        raise ValueError("targets must be in 0 to 1.")
    return targets
