"""The paired bootstrap: from counts the same metrics as from the resampled texts themselves."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.evaluation import rankings, resampling
from bertwright.evaluation.metrics import (
    METRIC_NAMES,
    METRIC_NAMES_OF,
    classification_metrics,
    decide,
    decide_each,
    multilabel_metrics,
    regression_metrics,
    soft_metrics,
)
from bertwright.evaluation.resampling import Judged, bootstrap_metrics, contributions, point_metrics


def softmax(logits):
    scores = np.exp(logits)
    return scores / scores.sum(axis=-1, keepdims=True)


def judged_texts(kind, num_labels=2, num_texts=200, ties=False, seed=0):
    """Two models' scores for texts of any kind."""
    random = np.random.default_rng(seed)
    names = tuple(f"label {i}" for i in range(num_labels))
    noise = random.normal(size=(2, num_texts, num_labels))
    noise = noise.round(1) if ties else noise
    if kind == "regression":
        targets = random.normal(size=(num_texts, 1)).round(1 if ties else 9)
        return Judged(kind, ("number",), targets + noise[:, :, :1], targets=targets)
    if kind == "multi-label":
        has_label = random.random((num_texts, num_labels)) < 0.3
        targets = np.where(has_label, 0.7, 0.2)
        scores = 1 / (1 + np.exp(-(2 * has_label - 1 + noise)))
        return Judged(kind, names, scores, decide_each(scores), targets=targets, has_label=has_label)
    label_ids = random.integers(0, num_labels, num_texts)
    scores = softmax(noise + 1.2 * np.eye(num_labels)[label_ids])
    decided = np.stack([decide(model) for model in scores])
    shares = softmax(random.normal(size=(num_texts, num_labels))) if kind == "soft" else None
    return Judged(kind, names, scores, decided, label_ids, shares)


def metrics_py(judged, model, rows):
    """What metrics.py says of ``rows`` of the texts."""
    scores = judged.scores[model][rows]
    if judged.kind == "regression":
        return regression_metrics(judged.targets[rows, 0], scores[:, 0])
    if judged.kind == "multi-label":
        return multilabel_metrics(judged.targets[rows], scores, judged.labels, hard_targets=judged.has_label[rows])
    if judged.kind == "soft":
        return soft_metrics(judged.label_ids[rows], judged.targets[rows], scores, judged.labels)
    return classification_metrics(judged.label_ids[rows], scores, judged.labels)


KINDS = [("classes", 2), ("classes", 5), ("soft", 3), ("soft", 2), ("multi-label", 3), ("regression", 1)]


@pytest.mark.parametrize(("kind", "num_labels"), KINDS)
@pytest.mark.parametrize("ties", [False, True])
def test_metrics_of_the_texts_are_those_of_metrics_py(kind, num_labels, ties):
    judged = judged_texts(kind, num_labels, ties=ties)
    found = point_metrics(judged, judged.metric_names)
    for model in range(2):
        expected = metrics_py(judged, model, np.arange(judged.num_texts))
        for name in judged.metric_names:
            assert found[name][0, model] == pytest.approx(expected[name], abs=1e-9), name


@pytest.mark.parametrize(("kind", "num_labels"), KINDS)
@pytest.mark.parametrize("ties", [False, True])
def test_metrics_of_counts_are_those_of_the_texts_drawn(kind, num_labels, ties):
    judged = judged_texts(kind, num_labels, ties=ties, seed=1)
    rows = np.random.default_rng(2).integers(0, judged.num_texts, judged.num_texts)
    counts = np.bincount(rows, minlength=judged.num_texts)[None].astype(np.uint8)
    for family in resampling._families(judged, judged.metric_names):
        weights = counts
        if isinstance(family, resampling._Decisions):  # counts of cells, from those of texts
            truth = judged.has_label if kind == "multi-label" else judged.label_ids
            columns = [truth, *judged.decided]
            keys = np.concatenate([column.reshape(judged.num_texts, -1) for column in columns], axis=1)
            cells = np.concatenate([c.reshape(len(family.counts), -1) for c in (family.truth, *family.decided)], axis=1)
            weights = np.array([[float(counts[0][(keys == cell).all(axis=1)].sum()) for cell in cells]])
        found = family.values(weights)
        for model in range(2):
            expected = metrics_py(judged, model, rows)
            for name, values in found.items():
                assert values[0, model] == pytest.approx(expected[name], abs=1e-9), name


def test_the_bootstrap_of_a_mean_has_the_variance_that_is_known():
    judged = judged_texts("classes", num_texts=300)
    samples = bootstrap_metrics(judged, ["log_loss", "accuracy"], 4000)
    parts = contributions(judged, "log_loss")
    assert samples["log_loss"].mean(axis=0) == pytest.approx(parts.mean(axis=0), abs=0.005)
    assert np.cov(samples["log_loss"].T) == pytest.approx(np.cov(parts.T) / 300, rel=0.1, abs=3e-5)
    right = (judged.decided == judged.label_ids).T
    assert np.cov(samples["accuracy"].T) == pytest.approx(np.cov(right.T * 1.0) / 300, rel=0.1, abs=3e-5)


def test_all_models_are_judged_on_the_same_draw():
    judged = judged_texts("classes")
    twice = Judged(
        "classes", judged.labels, judged.scores[[0, 0]], judged.decided[[0, 0]], judged.label_ids, judged.targets
    )
    for values in bootstrap_metrics(twice, METRIC_NAMES, 50).values():
        assert (values[:, 0] == values[:, 1]).all()
        assert len(np.unique(values[:, 0])) > 10


def test_the_same_seed_draws_the_same():
    judged = judged_texts("multi-label", 3)
    names = METRIC_NAMES_OF["multi-label"]
    first, again, other = (bootstrap_metrics(judged, names, 300, seed) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_a_resample_without_an_answer_is_nan():
    label_ids = np.array([1] + [0] * 9)
    scores = np.stack([1 - np.linspace(0.1, 0.9, 10), np.linspace(0.1, 0.9, 10)], axis=1)[None]
    judged = Judged("classes", ("a", "b"), scores, (scores[:, :, 1] > 0.5) * 1, label_ids)
    values = bootstrap_metrics(judged, ["roc_auc", "average_precision", "matthews"], 400)
    without = 0.9**10  # of all resamples have no positive text
    for name in values:
        assert np.isnan(values[name]).mean() == pytest.approx(without, abs=0.08), name


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("kind", "num_labels"), [("classes", 2), ("multi-label", 3), ("regression", 1)])
def test_many_resamples_at_once_are_those_that_are_computed_one_by_one(kind, num_labels, ties, monkeypatch):
    """Running sums go by runs of texts or one after the other, in bytes or not, and groups part by part."""
    judged = judged_texts(kind, num_labels, num_texts=301, ties=ties)
    names = METRIC_NAMES_OF[kind]
    expected = bootstrap_metrics(judged, names, 40)
    for module, name, value in (
        (rankings, "_FEW_COLUMNS", 1000),
        (rankings, "_FEW_ROWS", 1000),
        (rankings, "_RUN", 128),
        (resampling, "_COUNTS_AT_ONCE", 301),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, value)
            patched.setattr(rankings, "ELEMENTS_AT_ONCE", 40 * 7)
            found = bootstrap_metrics(judged, names, 40)
        for metric in names:
            assert found[metric] == pytest.approx(expected[metric], abs=1e-12, nan_ok=True), (name, metric)


def test_distinct_rows_are_the_same_with_and_without_sorting():
    random = np.random.default_rng(0)
    for num_rows, num_columns in ((500, 3), (500, 12), (20, 2)):
        columns = [random.integers(0, 3, num_rows) for _ in range(num_columns)]
        first, counts = resampling._distinct(columns)
        expected = np.unique(np.stack(columns, axis=1), axis=0, return_index=True, return_counts=True)
        assert (first == expected[1]).all()
        assert (counts == expected[2]).all()
