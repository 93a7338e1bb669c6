"""The small model's scores on the large one's scale, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.evaluation.deferral import align, align_logits, sureness
from bertwright.evaluation.scores import logits_of, scores_of


@pytest.mark.parametrize("kind", ["classes", "multi-label"])
def test_what_was_changed_is_found(kind):
    logits = np.random.default_rng(0).normal(0, 3, (500, 3))
    slopes = np.array([0.4, 1.5, 3.0]) if kind == "multi-label" else np.array([0.4])
    biases = np.array([-1.0, 0.2, 0.8])
    scores = scores_of(logits * slopes + biases, kind)
    found = align(logits.astype(np.float32), scores, kind)
    np.testing.assert_allclose(found[0], slopes, atol=0.01)
    np.testing.assert_allclose(scores_of(align_logits(logits, *found), kind), scores, atol=0.005)


@pytest.mark.parametrize("kind", ["classes", "multi-label"])
def test_a_model_that_says_the_opposite_is_never_sure(kind):
    logits = np.random.default_rng(1).normal(0, 3, (300, 2))
    slopes, biases = align(logits, scores_of(-logits, kind), kind)
    sure = sureness(scores_of(align_logits(logits, slopes, biases), kind), kind, 0.5)
    assert sure.max() < 0.6


def test_huge_logits_are_no_trouble():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [3.0, -3.0], [0.0, 0.0]] * 5)
    slopes, biases = align(logits, scores_of(logits / 1e3, "classes"), "classes")
    scores = scores_of(align_logits(logits, slopes, biases), "classes")
    assert np.isfinite(scores).all()
    assert np.isfinite(sureness(scores, "classes", 0.5)).all()


def test_sureness():
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    np.testing.assert_allclose(sureness(scores, "classes", 0.5), [0.9, 0.6, 1.0])
    np.testing.assert_allclose(sureness(scores, "multi-label", 0.5), [0.9, 0.6, 1.0])
    np.testing.assert_allclose(sureness(np.array([[0.2, 0.3, 0.5]]), "classes", 0.5), [0.5])
    assert sureness(np.array([[0.95, 0.45]]), "multi-label", 0.5) == pytest.approx(0.55)


def test_a_score_at_the_threshold_is_the_least_sure():
    scores = np.array([[1 - p, p] for p in (0.05, 0.19, 0.2, 0.21, 0.5, 1.0)])
    sure = sureness(scores, "classes", 0.2)
    assert sure.argmin() == 2
    assert sure[2] == pytest.approx(0.5)
    assert (np.diff(sure[2:]) > 0).all()
    assert np.isfinite(sureness(scores, "classes", 0.0)).all()
    both = sureness(np.array([[0.2, 0.9]]), "multi-label", (0.2, 0.9))
    assert both == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["classes", "multi-label"])
def test_logits_of_scores(kind):
    logits = np.random.default_rng(2).normal(0, 5, (20, 3))
    scores = scores_of(logits, kind)
    np.testing.assert_allclose(scores_of(logits_of(scores, kind), kind), scores, atol=1e-12)
    assert np.isfinite(logits_of(np.array([[0.0, 1.0]]), kind)).all()
