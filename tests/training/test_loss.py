"""The loss of each kind of labels, against formulas and PyTorch's own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from bertwright.config.train import TrainConfig
from bertwright.data.columns import LabelledTexts
from bertwright.errors import DataError, UserError
from bertwright.training.loss import (
    BinaryCrossEntropy,
    CrossEntropy,
    SoftCrossEntropy,
    SquaredError,
    balanced_weights,
    given_weights,
    objective_of,
    positive_weights,
)

CPU = torch.device("cpu")
GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(6, 3)).astype(np.float32)
ALL = torch.arange(6)


def texts(kind="classes", labels=("a", "b", "c"), label_ids=None, targets=None) -> LabelledTexts:
    num_texts = len(label_ids) if targets is None else len(targets)
    strings = pa.chunked_array([pa.array([f"text {i}" for i in range(num_texts)], pa.large_string())])
    ids = None if label_ids is None else np.asarray(label_ids)
    return LabelledTexts(strings, ids, labels, np.arange(num_texts), [], [], "", kind=kind, targets=targets)


def config(**settings) -> TrainConfig:
    return TrainConfig(train=("x.csv",), **settings)


def as_logits(values) -> torch.Tensor:
    return torch.tensor(np.asarray(values, np.float32))


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


LABEL_IDS = np.array([0, 0, 0, 1, 2, 1])
SHARES = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5], [0, 1, 0], [0, 0.25, 0.75], [0.1, 0.8, 0.1]], np.float32)
TARGETS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1], [0.25, 0, 1], [1, 1, 1]], np.float32)


def test_classes_by_the_formula():
    found = objective_of(texts(label_ids=LABEL_IDS), config(), CPU)
    assert found.num_texts == 6
    expected = -np.log(softmax(LOGITS.astype(float))[np.arange(6), LABEL_IDS])
    assert found.sum(as_logits(LOGITS), ALL).item() == pytest.approx(expected.sum(), rel=1e-6)
    assert found.sum(as_logits(LOGITS[[4, 1]]), torch.tensor([4, 1])).item() == pytest.approx(
        expected[[4, 1]].sum(), rel=1e-6
    )


def test_shares_by_the_formula_and_one_hot_shares_as_classes():
    found = objective_of(texts("soft", label_ids=SHARES.argmax(1), targets=SHARES), config(), CPU)
    expected = -(SHARES * np.log(softmax(LOGITS.astype(float)))).sum()
    assert found.sum(as_logits(LOGITS), ALL).item() == pytest.approx(expected, rel=1e-6)
    one_hot = SoftCrossEntropy(np.eye(3, dtype=np.float32)[LABEL_IDS])
    torch.testing.assert_close(one_hot.sum(as_logits(LOGITS), ALL), CrossEntropy(LABEL_IDS).sum(as_logits(LOGITS), ALL))


def test_many_labels_by_the_formula():
    found = objective_of(texts("multi-label", targets=TARGETS), config(), CPU)
    p = 1 / (1 + np.exp(-LOGITS.astype(float)))
    expected = -(TARGETS * np.log(p) + (1 - TARGETS) * np.log(1 - p)).mean(axis=1)
    assert found.sum(as_logits(LOGITS), ALL).item() == pytest.approx(expected.sum(), rel=1e-6)
    assert found.sum(as_logits(LOGITS[2:3]), ALL[2:3]).item() == pytest.approx(expected[2], rel=1e-6)
    # As transformers, which takes the mean over texts and labels.
    theirs = functional.binary_cross_entropy_with_logits(as_logits(LOGITS), torch.from_numpy(TARGETS))
    assert found.sum(as_logits(LOGITS), ALL).item() / 6 == pytest.approx(theirs.item(), rel=1e-6)


def test_huge_logits_have_finite_losses_and_gradients():
    for objective in (BinaryCrossEntropy(TARGETS), CrossEntropy(LABEL_IDS), SoftCrossEntropy(SHARES)):
        logits = torch.full((6, 3), 1e4).requires_grad_()
        loss = objective.sum(logits, ALL)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


def test_numbers_are_learnt_as_z_scores():
    numbers = np.array([[1.0], [2.0], [4.0], [5.0]], np.float32)
    found = objective_of(texts("regression", ("stars",), targets=numbers), config(), CPU)
    z = (numbers[:, 0] - 3) / np.sqrt(2.5)
    logits = np.array([[0.5], [-1.0], [0.0], [2.0]])
    expected = (logits[:, 0] - z) ** 2
    assert found.sum(as_logits(logits), ALL[:4]).item() == pytest.approx(expected.sum(), rel=1e-6)
    assert found.sum(as_logits(np.zeros((4, 1))), ALL[:4]).item() / 4 == pytest.approx(1)  # starts at 1
    np.testing.assert_allclose(found.scores(as_logits(logits).numpy()), logits * np.sqrt(2.5) + 3, rtol=1e-6)


def test_numbers_far_from_zero_keep_their_digits():
    """Mean and deviation in float32 would be off by more than the deviation."""
    numbers = (1e6 + np.arange(1000) % 7).astype(np.float32)
    found = SquaredError(np.repeat(numbers, 20)[:, None])
    assert found.mean == pytest.approx(1e6 + np.mean(np.arange(1000) % 7), abs=1e-6)
    assert found.deviation == pytest.approx(np.std(np.arange(1000) % 7), rel=1e-6)


def test_the_head_is_folded_back_into_the_unit_of_the_targets():
    numbers = np.array([10.0, 20.0, 40.0, 80.0])
    found = SquaredError(numbers[:, None])
    generator = torch.Generator().manual_seed(0)
    state = {
        "classifier.linear.weight": torch.randn(1, 8, generator=generator),
        "classifier.linear.bias": torch.randn(1, generator=generator),
        "other": torch.ones(3),
    }
    features = torch.randn(4, 8, generator=generator)

    def logits(weights):
        return features @ weights["classifier.linear.weight"].T + weights["classifier.linear.bias"]

    before = {name: tensor.clone() for name, tensor in state.items()}
    unscaled = found.unscale(state)
    np.testing.assert_allclose(logits(unscaled).numpy(), found.scores(logits(state).numpy()), rtol=1e-5)
    assert all(torch.equal(state[name], before[name]) for name in state)  # a new state, the old one as it was
    assert unscaled["other"] is state["other"]
    assert unscaled["classifier.linear.weight"].dtype == torch.float32
    back = found.scale(unscaled)
    for name in state:
        torch.testing.assert_close(back[name], state[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["classes", "soft", "multi-label"])
def test_other_kinds_are_saved_as_they_learn(kind):
    given = texts(kind, label_ids=LABEL_IDS, targets=None if kind == "classes" else SHARES)
    found = objective_of(given, config(), CPU)
    state = {"classifier.linear.weight": torch.ones(3, 2)}
    assert found.unscale(state) is state
    assert found.scale(state) is state
    scores = found.scores(LOGITS)
    if kind == "multi-label":
        np.testing.assert_allclose(scores, 1 / (1 + np.exp(-LOGITS.astype(float))))
    else:
        np.testing.assert_allclose(scores, softmax(LOGITS.astype(float)), rtol=1e-6)


@pytest.mark.parametrize("numbers", [[3.0], [3.0, 3.0, 3.0], [0.1] * 1000, []])
def test_numbers_that_are_all_the_same_are_refused(numbers):
    with pytest.raises(DataError, match="all the same"):
        SquaredError(np.array(numbers, np.float32)[:, None])


def test_numbers_that_are_none_are_refused():
    with pytest.raises(DataError, match="not finite"):
        SquaredError(np.array([[1.0], [np.nan]]))


# --- weights -----------------------------------------------------------------------------------------------


def test_balanced_weights_are_scikit_learns_and_their_mean_is_1():
    counts = np.bincount(LABEL_IDS)
    np.testing.assert_allclose(
        balanced_weights(counts), compute_class_weight("balanced", classes=np.arange(3), y=LABEL_IDS)
    )
    assert balanced_weights(counts)[LABEL_IDS].mean() == pytest.approx(1)
    np.testing.assert_allclose(balanced_weights(np.array([3, 0, 1])), [4 / (2 * 3), 1, 4 / (2 * 1)])


def test_balanced_classes_and_shares():
    logits = as_logits(LOGITS)
    weights = torch.tensor([6 / (3 * 3), 6 / (3 * 2), 6 / (3 * 1)])
    of_each = functional.cross_entropy(logits, torch.from_numpy(LABEL_IDS), reduction="none")
    found = objective_of(texts(label_ids=LABEL_IDS), config(class_weights=("balanced",)), CPU)
    torch.testing.assert_close(found.sum(logits, ALL), (weights[LABEL_IDS] * of_each).sum())
    given = texts("soft", label_ids=SHARES.argmax(1), targets=SHARES)
    found = objective_of(given, config(class_weights=("balanced",)), CPU)
    weights = torch.tensor(6 / (3 * SHARES.sum(0)))
    expected = -(weights * torch.from_numpy(SHARES) * logits.log_softmax(1)).sum()
    torch.testing.assert_close(found.sum(logits, ALL), expected)


def test_balanced_labels_weigh_those_that_have_a_label():
    targets = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    np.testing.assert_allclose(positive_weights(targets), [3, 1, 1, 1 / 3])
    found = objective_of(
        texts("multi-label", ("a", "b", "c", "d"), targets=targets), config(class_weights=("balanced",)), CPU
    )
    logits = torch.zeros(4, 4)
    # ln 2 for each pair, that of a times 3 where it is there, and that of d a third.
    expected = np.log(2) * ((3 + 3 * 1) + 4 + 4 + (1 + 3 / 3)) / 4
    assert found.sum(logits, ALL[:4]).item() == pytest.approx(expected, rel=1e-6)


def test_given_weights_multiply_the_losses_of_their_labels():
    logits = as_logits(LOGITS)
    of_each = functional.cross_entropy(logits, torch.from_numpy(LABEL_IDS), reduction="none").numpy()
    found = objective_of(texts(label_ids=LABEL_IDS), config(class_weights=("b=3", "c=0.5")), CPU)
    expected = (np.array([1, 3, 0.5])[LABEL_IDS] * of_each).sum()
    assert found.sum(logits, ALL).item() == pytest.approx(expected, rel=1e-6)
    found = objective_of(texts("multi-label", targets=TARGETS), config(class_weights=("b=3,c=0.5",)), CPU)
    of_each = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(TARGETS), reduction="none").numpy()
    assert found.sum(logits, ALL).item() == pytest.approx((of_each * [1, 3, 0.5]).sum() / 3, rel=1e-6)


def test_weights_move_the_optimum_as_scikit_learns_do():
    """A linear model trained to the end on weighted losses is scikit-learn's with the same weights."""
    generator = np.random.default_rng(1)
    label_ids = (generator.random(300) < 0.2).astype(np.int64)
    features = generator.normal(size=(300, 2)) + label_ids[:, None]
    theirs = LogisticRegression(class_weight="balanced", C=1e6, tol=1e-10).fit(features, label_ids)
    objective = CrossEntropy(label_ids, weights=balanced_weights(np.bincount(label_ids)))
    layer = torch.nn.Linear(2, 2)
    inputs = torch.tensor(features, dtype=torch.float32)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective.sum(layer(inputs), torch.arange(300)) / 300
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        weight = (layer.weight[1] - layer.weight[0]).numpy()
        bias = (layer.bias[1] - layer.bias[0]).item()
    np.testing.assert_allclose(weight, theirs.coef_[0], atol=2e-3)
    assert bias == pytest.approx(theirs.intercept_[0], abs=2e-3)


@pytest.mark.parametrize(
    ("given", "labels", "expected"),
    [
        (("a=2",), ("a", "b"), [2, 1]),
        (("a=2,b=0",), ("a", "b"), [2, 0]),
        ((" a = 2 ", "b=1e-3"), ("a", "b"), [2, 1e-3]),
        (("x, y=2", "z=3"), ("x, y", "z"), [2, 3]),
        (("a=b=2",), ("a=b", "c"), [2, 1]),
    ],
)
def test_weights_are_read(given, labels, expected):
    np.testing.assert_allclose(given_weights(given, labels), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("toxc=2",), "label 'toxc' is none of clean, toxic. Did you mean toxic?"),
        (("toxic=two",), "weight of toxic is 'two', expected a number"),
        (("toxic=nan",), "expected a number"),
        (("toxic=inf",), "expected a number"),
        (("toxic=-1",), "weight of toxic is -1, expected 0 or more"),
        (("toxic=1", "toxic=2"), "two weights for toxic"),
        (("toxic",), "expected balanced or LABEL=WEIGHT, such as toxic=2"),
        (("balanced", "toxic=2"), "balanced beside weights"),
        (("balanced,toxic=2",), "balanced beside weights"),
        (("clean=0", "toxic=0"), "all weights are 0"),
    ],
)
def test_weights_that_cannot_be_are_one_clear_error(given, message):
    with pytest.raises(UserError) as caught:
        objective_of(texts(labels=("clean", "toxic"), label_ids=[0, 1]), config(class_weights=given), CPU)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_regression_has_no_class_weights():
    given = texts("regression", ("stars",), targets=np.array([[1.0], [2.0]]))
    with pytest.raises(UserError, match="found a regression"):
        objective_of(given, config(class_weights=("balanced",)), CPU)
