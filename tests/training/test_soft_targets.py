"""Soft targets against the formulas: arXiv 1503.02531 equations 1 and 4, arXiv 1909.10351 equation 8."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.training.loss import BinaryCrossEntropy, CrossEntropy, SoftCrossEntropy, SquaredError
from bertwright.training.soft_targets import (
    PROJECTION,
    Distillation,
    HiddenTargets,
    SoftClasses,
    SoftLabels,
    SoftNumbers,
    soft_targets_of,
)

GENERATOR = np.random.default_rng(0)
TEACHER = GENERATOR.normal(size=(7, 3)).astype(np.float32) * 2
STUDENT = torch.from_numpy(GENERATOR.normal(size=(7, 3)).astype(np.float32))
ALL = torch.arange(7)
LABEL_IDS = np.array([0, 2, 1, 0])
NUMBERS = np.array([10.0, 20.0, 40.0, 70.0])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_classes_by_the_formula(temperature):
    p, q = softmax(TEACHER / temperature), softmax(STUDENT.numpy() / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1)
    found = SoftClasses(TEACHER, temperature).each(STUDENT, ALL)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    some = torch.tensor([5, 1])
    np.testing.assert_allclose(
        SoftClasses(TEACHER, temperature).each(STUDENT[some], some).numpy(), expected[[5, 1]], rtol=1e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_labels_by_the_formula(temperature):
    p, q = sigmoid(TEACHER / temperature), sigmoid(STUDENT.numpy() / temperature)
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = SoftLabels(TEACHER, temperature).each(STUDENT, ALL)
    np.testing.assert_allclose(found.numpy(), temperature**2 * each.mean(axis=1), rtol=1e-4)


@pytest.mark.parametrize("kind", [SoftClasses, SoftLabels])
def test_who_says_what_the_teacher_says_has_no_loss_and_no_gradient(kind):
    logits = torch.from_numpy(TEACHER.copy()).requires_grad_()
    losses = kind(TEACHER, 3.0).each(logits, ALL)
    losses.sum().backward()
    assert losses.abs().max() < 1e-5
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-5


def test_certain_teachers_give_finite_losses():
    certain = np.array([[500.0, -500.0, 0.0]], np.float32)
    for kind in (SoftClasses, SoftLabels):
        logits = torch.zeros(1, 3, requires_grad=True)
        loss = kind(certain, 1.0).each(logits, torch.zeros(1, dtype=torch.int64))
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(logits.grad).all()


def test_at_high_temperatures_the_gradient_is_that_of_matching_logits():
    """Equation 4, times T^2: (z_i - v_i) / N for logits that have a mean of 0."""
    teacher = TEACHER - TEACHER.mean(axis=1, keepdims=True)
    logits = (STUDENT - STUDENT.mean(dim=1, keepdim=True)).requires_grad_()
    SoftClasses(teacher, 500.0).each(logits, ALL).sum().backward()
    expected = (logits.detach().numpy() - teacher) / 3
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=0.01)


def test_numbers_are_matched_in_the_unit_that_is_learnt():
    hard = SquaredError(NUMBERS)
    teacher = np.array([[12.0], [20.0], [35.0], [80.0], [50.0]], np.float32)
    logits = torch.tensor([[0.5], [-1.0], [0.0], [2.0], [0.1]])
    found = SoftNumbers(teacher, hard).each(logits, torch.arange(5))
    expected = (logits[:, 0].numpy() - (teacher[:, 0] - NUMBERS.mean()) / NUMBERS.std()) ** 2
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    # the model that saves the teacher's numbers has no loss
    saved = hard.scores(((teacher - NUMBERS.mean()) / NUMBERS.std()).astype(np.float32))
    np.testing.assert_allclose(saved, teacher, rtol=1e-5)


def test_each_adds_up_to_the_sum():
    shares = softmax(TEACHER).astype(np.float32)
    held = (TEACHER > 0).astype(np.float32)
    weights = np.array([1.0, 2.0, 0.5])
    for objective in (
        CrossEntropy(TEACHER.argmax(axis=1), weights=weights),
        SoftCrossEntropy(shares, weights=weights),
        BinaryCrossEntropy(held, weights=weights, positive_weights=weights[::-1].copy()),
        SquaredError(np.arange(7.0)),
    ):
        each = objective.each(STUDENT, ALL)
        assert each.shape == (7,)
        assert each.sum().item() == pytest.approx(objective.sum(STUDENT, ALL).item(), rel=1e-5)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_labelled_texts_have_both_losses_and_others_the_teachers(weight):
    hard, soft = CrossEntropy(LABEL_IDS), SoftClasses(TEACHER, 2.0)
    found = Distillation(hard, soft, 7, 3, weight)
    assert found.num_texts == 7
    of_teacher = soft.each(STUDENT, ALL)
    of_labels = hard.each(STUDENT[:4], torch.arange(4))
    expected = of_teacher.clone()
    expected[:4] = weight * of_teacher[:4] + (1 - weight) * of_labels
    rows = torch.tensor([6, 0, 3, 4, 2])
    assert found.sum(STUDENT[rows], rows).item() == pytest.approx(expected[rows].sum().item(), rel=1e-6)
    np.testing.assert_allclose(found.each(STUDENT[rows], rows).numpy(), expected[rows].numpy(), rtol=1e-6)


def test_hidden_vectors_are_matched_in_deviations():
    hidden = (GENERATOR.normal(size=(7, 5)) * 3 + 1).astype(np.float16)
    targets = HiddenTargets(hidden)
    wide = hidden.astype(np.float64)
    scaled = (wide - wide.mean(axis=0)) / np.sqrt(((wide - wide.mean(axis=0)) ** 2).mean())
    projected = GENERATOR.normal(size=(7, 5)).astype(np.float32)
    expected = ((projected - scaled) ** 2).mean(axis=1)
    np.testing.assert_allclose(targets.each(torch.from_numpy(projected), ALL).numpy(), expected, rtol=1e-4)
    nothing = targets.each(torch.zeros(7, 5), ALL)
    assert nothing.mean().item() == pytest.approx(1, rel=1e-5)  # who knows nothing
    hard, soft = CrossEntropy(LABEL_IDS), SoftClasses(TEACHER, 2.0)
    with_hidden = Distillation(hard, soft, 7, 3, 1.0, targets, 0.5)
    outputs = torch.cat([STUDENT, torch.from_numpy(projected)], dim=1)
    together = soft.each(STUDENT, ALL).numpy() + 0.5 * expected
    np.testing.assert_allclose(with_hidden.each(outputs, ALL).numpy(), together, rtol=1e-4)


def test_a_teacher_of_one_hidden_vector_gives_finite_losses():
    targets = HiddenTargets(np.full((3, 4), 0.5, np.float16))
    assert torch.isfinite(targets.each(torch.ones(3, 4), torch.arange(3))).all()


def test_the_projection_is_not_saved():
    objective = Distillation(CrossEntropy(LABEL_IDS), SoftClasses(TEACHER, 2.0), 7, 3, 0.5)
    assert objective.unscale({"a": STUDENT, PROJECTION: STUDENT}).keys() == {"a"}


def test_the_kind_of_labels_says_which_targets():
    hard = CrossEntropy(LABEL_IDS)
    assert isinstance(soft_targets_of("classes", TEACHER, 2.0, hard), SoftClasses)
    assert isinstance(soft_targets_of("soft", TEACHER, 2.0, hard), SoftClasses)
    assert isinstance(soft_targets_of("multi-label", TEACHER, 2.0, hard), SoftLabels)
    assert isinstance(soft_targets_of("regression", TEACHER, 2.0, SquaredError(NUMBERS)), SoftNumbers)
