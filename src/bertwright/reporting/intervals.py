"""The 95 % intervals of a run's held-out metrics, from its predictions alone: the one place where a page gets them."""

from __future__ import annotations

import numpy as np

from bertwright.reporting.curves import rates
from bertwright.reporting.material import Material, Predictions

_NUM_DRAWS = 1_000
_ENDS = (2.5, 97.5)

Intervals = dict[str, tuple[float, float]]


def metric_intervals(material: Material) -> Intervals:
    """By metric, low and high of 95 %, over the texts; a metric whose interval is not known is absent.

    All by the bootstrap over texts (percentiles 2.5 and 97.5). Metrics of decisions are those of drawn confusion
    matrices: drawing texts with replacement is a multinomial draw of their cells.
    """
    predictions = material.predictions
    if predictions is None:
        return {}
    if material.kind == "regression":
        return _of_numbers(predictions)
    if material.kind == "multi-label":
        return _of_many_labels(predictions)
    return _of_classes(predictions, len(material.labels))


def _of_classes(predictions: Predictions, num_classes: int) -> Intervals:
    ids, predicted = predictions.label_ids, predictions.predicted_ids
    if ids is None or predicted is None:
        return {}
    num = len(ids)
    cells = np.bincount(ids * num_classes + predicted, minlength=num_classes**2)
    drawn = np.random.default_rng(0).multinomial(num, cells / num, _NUM_DRAWS).reshape(-1, num_classes, num_classes)
    hits = np.diagonal(drawn, axis1=1, axis2=2)  # (draws, classes)
    called, true = drawn.sum(axis=1), drawn.sum(axis=2)
    precision, recall, f1 = _share(hits, called), _share(hits, true), _share(2 * hits, called + true)
    chosen = slice(1, 2) if num_classes == 2 else slice(None)
    found = {
        "accuracy": hits.sum(axis=1) / num,
        "precision": precision[:, chosen].mean(axis=1),
        "recall": recall[:, chosen].mean(axis=1),
        "f1": f1[:, chosen].mean(axis=1),
        "macro_f1": f1.mean(axis=1),
    }
    intervals = {name: _ends(values) for name, values in found.items()}
    epsilon = np.finfo(np.float64).eps
    of_true = predictions.scores[np.arange(num), ids].clip(epsilon, 1 - epsilon)
    intervals["log_loss"] = _of_mean(-np.log(of_true))
    if num_classes == 2 and (curves := rates(predictions.scores[:, 1], ids == 1)) is not None:
        intervals["roc_auc"], intervals["average_precision"] = (curve.area[1:] for curve in curves)
    return intervals


def _of_many_labels(predictions: Predictions) -> Intervals:
    true, decided = predictions.has_label, predictions.decided
    if true is None or decided is None:
        return {}
    wrong = true != decided
    intervals = {
        "accuracy": _of_mean((~wrong.any(axis=1)).astype(float)),
        "hamming_loss": _of_mean(wrong.mean(axis=1)),
    }
    hits, called, has = (part.sum(axis=1) for part in (true & decided, decided, true))
    counts = np.stack([hits, called, has])  # (3, texts)
    generator = np.random.default_rng(0)
    drawn = np.stack([counts[:, generator.integers(0, len(true), len(true))].sum(axis=1) for _ in range(_NUM_DRAWS)])
    intervals["micro_precision"] = _ends(_share(drawn[:, 0], drawn[:, 1]))
    intervals["micro_recall"] = _ends(_share(drawn[:, 0], drawn[:, 2]))
    intervals["micro_f1"] = _ends(_share(2 * drawn[:, 0], drawn[:, 1] + drawn[:, 2]))
    return intervals


def _of_numbers(predictions: Predictions) -> Intervals:
    if predictions.targets is None:
        return {}
    errors = predictions.scores[:, 0] - predictions.targets[:, 0]
    squared = _of_mean(errors**2)
    return {
        "mean_squared_error": squared,
        "root_mean_squared_error": (squared[0] ** 0.5, squared[1] ** 0.5),
        "mean_absolute_error": _of_mean(abs(errors)),
    }


def _of_mean(values: np.ndarray) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(_NUM_DRAWS)]
    return _ends(np.array(means))


def _share(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """``counts / of``, 0 where ``of`` is."""
    return np.divide(counts, of, out=np.zeros(np.shape(counts)), where=np.asarray(of) > 0)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, _ENDS)
    return float(low), float(high)
