"""The threshold of a cascade: the cheapest one that keeps what is asked for, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.data.columns import LabelledTexts
from bertwright.data.texts import Texts
from bertwright.errors import DataError, UserError
from bertwright.evaluation.metrics import classification_metrics
from bertwright.evaluation.scores import scores_of
from bertwright.evaluation.tune_cascade import Goal, tune_cascade
from bertwright.model.classifier_settings import ClassifierSettings

COUNT = 1200
SETTINGS = ClassifierSettings(labels=("no", "yes"))


def made(small_noise: float, large_noise: float = 0.5, count: int = COUNT, num_labels: int = 2):
    """Texts with scores of a small and a large model: the truth with noise, and the large one's own length."""
    chance = np.random.default_rng(0)
    truth = chance.integers(0, num_labels, count)
    signal = 3.0 * np.eye(num_labels)[truth]
    shared = chance.normal(0, 1, signal.shape)
    scores = [
        scores_of(signal + shared + chance.normal(0, noise, signal.shape), "classes")
        for noise in (small_noise, large_noise)
    ]
    labels = tuple(f"{i}" for i in range(num_labels)) if num_labels > 2 else ("no", "yes")
    texts = LabelledTexts(Texts.of(["a"] * count), truth, labels, np.arange(count), [], [], "")
    return texts, ClassifierSettings(labels=labels), *scores, chance.integers(3, 60, count)


def test_the_cheapest_threshold_that_loses_no_more_than_that():
    texts, settings, small, large, lengths = made(2.0)
    tuned = tune_cascade(texts, settings, small, large, lengths, "roc_auc", Goal(max_loss=0.02))
    chosen = tuned.candidates.index(tuned.chosen)
    assert 0 < chosen < len(tuned.candidates) - 1
    assert all(one.kept == (one.loss_at_most <= 0.02) for one in tuned.candidates)
    assert all(one.kept for one in tuned.candidates[chosen:])
    assert not tuned.candidates[chosen - 1].kept
    assert [one.deferred_texts for one in tuned.candidates] == sorted(one.deferred_texts for one in tuned.candidates)
    assert (tuned.candidates[0].deferred_texts, tuned.candidates[-1].deferred_texts) == (0, 1)
    sure = small.max(axis=1)
    deferred = sure < tuned.chosen.sureness
    mixed = np.where(deferred[:, None], large, small)
    expected = classification_metrics(texts.label_ids, mixed, settings.labels, 0.5)
    assert tuned.chosen.value == pytest.approx(expected["roc_auc"])
    assert tuned.chosen.deferred_tokens == pytest.approx(lengths[deferred].sum() / lengths.sum())
    assert tuned.chosen.interval[0] < tuned.chosen.value < tuned.chosen.interval[1]
    assert tuned.chosen.loss < tuned.chosen.loss_at_most


def test_more_loss_defers_less_and_none_given_is_the_interval():
    given = made(2.0)
    deferred = [
        tune_cascade(*given, "roc_auc", Goal(max_loss=loss)).chosen.deferred_texts for loss in (0.01, 0.03, 0.5)
    ]
    assert deferred[0] > deferred[1] > deferred[2] == 0
    tuned = tune_cascade(*given, "roc_auc", Goal())
    assert tuned.allowed == pytest.approx(tuned.large_value - tuned.large_interval[0])


@pytest.mark.parametrize(("metric", "num_labels"), [("accuracy", 4), ("macro_f1", 3), ("log_loss", 2)])
def test_other_metrics(metric, num_labels):
    tuned = tune_cascade(*made(1.5, num_labels=num_labels), metric, Goal(max_loss=0.1))
    assert tuned.chosen.kept
    assert tuned.candidates[-1].loss == 0
    assert tuned.candidates[0].loss > tuned.chosen.loss - 1e-9


def test_several_labels():
    chance = np.random.default_rng(3)
    has = chance.random((400, 3)) < 0.4
    settings = ClassifierSettings(labels=("a", "b", "c"), kind="multi-label", threshold=(0.5, 0.4, 0.6))
    texts = LabelledTexts(
        Texts.of(["a"] * 400), None, settings.labels, np.arange(400), [], [], "", kind="multi-label", targets=has * 1.0
    )
    small, large = (scores_of((has * 4 - 2) + chance.normal(0, noise, has.shape), "multi-label") for noise in (3, 1))
    tuned = tune_cascade(texts, settings, small, large, np.ones(400, np.int64), "roc_auc", Goal(max_loss=0.05))
    assert 0 < tuned.chosen.deferred_texts < 1


def test_a_target():
    given = made(2.0)
    large = tune_cascade(*given, "accuracy", Goal(max_loss=1.0)).large_value
    tuned = tune_cascade(*given, "accuracy", Goal(target=large - 0.02))
    assert tuned.allowed is None
    assert tuned.chosen.value >= large - 0.02
    with pytest.raises(UserError, match=r"--target 1: the large model alone reaches accuracy 0\.\d+"):
        tune_cascade(*given, "accuracy", Goal(target=1.0))


def test_nothing_but_deferring_all_is_refused():
    with pytest.raises(UserError, match=r"no threshold loses at most 0 of roc_auc .* every text to the large model"):
        tune_cascade(*made(6.0), "roc_auc", Goal(max_loss=0.0))


def test_texts_without_an_answer_are_refused():
    texts, settings, small, large, lengths = made(1.0, count=30)
    alike = texts.take(np.flatnonzero(texts.label_ids == 1))
    some = slice(0, len(alike))
    with pytest.raises(DataError, match="roc_auc has no answer"):
        tune_cascade(alike, settings, small[some], large[some], lengths[some], "roc_auc", Goal())
