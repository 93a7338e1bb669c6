"""The parity certificate: what an exported graph makes of texts, set beside the classifier that it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.config.export import ParitySettings
from bertwright.data.columns import LabelledTexts
from bertwright.data.texts import Texts
from bertwright.errors import DataError, RunError, UserError
from bertwright.evaluation.judge import judged_of, read_as_trained
from bertwright.evaluation.metrics import LOWER_IS_BETTER, check_metric_name, default_metric, lost_by
from bertwright.evaluation.resampling import Judged, point_metrics
from bertwright.evaluation.stored import read_predictions
from bertwright.evaluation.uncertainty import difference, measure
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed
from bertwright.runs import PREDICTIONS, Run, is_run, open_run

_ALPHA = 0.05
# Of classes, a metric that has an answer where all texts are of one.
_ALWAYS_ANSWERED = "log_loss"


@dataclass(frozen=True)
class Compared:
    """The texts that both are compared on.

    Attributes:
        source: where they are from, in words.
        num_available: how many there were to draw from.
        metric: whose loss is judged.
    """

    texts: LabelledTexts
    source: str
    num_available: int
    metric: str


def texts_to_compare(run: str, trained: ClassifierSettings, settings: ParitySettings, reporter: Reporter) -> Compared:
    """The labelled texts that ``settings`` name, or the run's held-out ones.

    Raises:
        UserError: there are none, or they cannot be read; a metric that there is not.
    """
    found = open_run(run) if is_run(Path(run).expanduser()) else None
    metric = settings.metric or (found.settings.get("best_metric") if found is not None and not settings.data else None)
    if settings.metric is not None:
        check_metric_name(settings.metric, trained.kind)
    if settings.data:
        texts = read_as_trained(settings.data, settings, trained, reporter)
        source = ", ".join(settings.data)
    elif found is None:
        raise UserError(f"{run}: not a run, so that there are no held-out texts to compare on; name a file with --data")
    else:
        texts, source = _held_out(found), f"held-out texts of {run}"
    available = len(texts)
    if available > settings.num_texts:
        chance = np.random.default_rng(purpose_seed(0, "texts to compare exports on"))
        texts = texts.take(np.sort(chance.choice(available, settings.num_texts, replace=False)))
    return Compared(texts, source, available, metric or default_metric(trained.kind, len(trained.labels)))


def _held_out(run: Run) -> LabelledTexts:
    """The texts that the run was judged on, as it kept them.

    Raises:
        RunError: it kept none.
    """
    path = run.path / PREDICTIONS
    found = read_predictions(run)
    if found is None or found.texts is None:
        what = "no such file" if found is None else "holds no texts (--no-texts)"
        raise RunError(
            f"{path}: {what}, so that there is nothing to compare on; name a file of labelled texts with --data"
        )
    return LabelledTexts(
        Texts.of(found.texts),
        found.label_ids,
        found.labels,
        found.rows,
        [],
        [],
        "",
        kind=found.kind,
        targets=found.targets,
        pairs=None if found.pairs is None else Texts.of(found.pairs),
        hard_targets=found.has_label,
    )


def parity_record(
    compared: Compared,
    settings: ClassifierSettings,
    scores: tuple[np.ndarray, np.ndarray],
    max_loss: float,
) -> dict[str, Any]:
    """What parity.json says of the metric and the decisions.

    Args:
        scores: (texts, labels) of the classifier in float32, then of the graph.

    Raises:
        DataError: no metric can be told on these texts.
    """
    judged = judged_of(compared.texts, settings, np.stack(scores))
    metric = _loss(judged, compared.metric)
    return {
        "texts": len(compared.texts),
        "texts_available": compared.num_available,
        "texts_from": compared.source,
        "label_flips": _flips(judged),
        "metric": metric,
        "max_loss": max_loss,
        "within_max_loss": metric["loss"] <= max_loss,
    }


def difference_record(exact: np.ndarray, exported: np.ndarray) -> dict[str, Any]:
    """What parity.json says of the logits or scores, (texts, labels), of the classifier in float32 and of the graph."""
    differences = np.abs(exact.astype(np.float64) - exported)
    return {"largest_difference": float(differences.max()), "mean_difference": float(differences.mean())}


def _flips(judged: Judged) -> dict[str, Any] | None:
    """Texts of which the graph decides something else; None for numbers, of which nothing is decided."""
    if judged.decided is None:
        return None
    differs = judged.decided[0] != judged.decided[1]
    number = int(np.count_nonzero(differs.any(axis=1) if differs.ndim == 2 else differs))
    return {"texts": number, "share": number / judged.num_texts}


def _loss(judged: Judged, name: str) -> dict[str, Any]:
    """What the graph loses in the metric ``name``, or in log_loss where that has no answer on these texts."""
    values = point_metrics(judged, [name]).get(name)
    if (values is None or np.isnan(values).any()) and judged.kind != "regression":
        name = _ALWAYS_ANSWERED
        values = point_metrics(judged, [name]).get(name)
    if values is None or np.isnan(values).any():
        raise DataError(
            f"{name} has no answer on these {judged.num_texts:,} texts; name others with --data, or another --metric"
        )
    exact, exported = (float(value) for value in values[0])
    change = exported - exact
    measured = measure(judged, [name]).get(name)
    found = None if measured is None else difference(judged, measured, [1], [0], _ALPHA)
    interval = None if found is None or found.low is None or found.high is None else [found.low, found.high]
    if interval is None and found is not None and change == 0:  # the same in every resample
        interval = [0.0, 0.0]
    worst = None if interval is None else lost_by(name, exact, interval[1] if name in LOWER_IS_BETTER else interval[0])
    return {
        "name": name,
        "float32": exact,
        "exported": exported,
        "change": change,
        "interval": interval,
        "confidence": 1 - _ALPHA,
        "method": None if found is None else found.test,
        "loss": max(lost_by(name, exact, change), 0.0),
        "loss_at_most": None if worst is None else max(worst, 0.0),
    }


def loss_in_words(metric: dict[str, Any]) -> str:
    """The loss of a metric's record: in a share the number, of an error its share."""
    if metric["name"] in LOWER_IS_BETTER:
        return f"{metric['loss']:.2%} of its {metric['name']}"
    return f"{metric['loss']:.4f} in {metric['name']}"
