"""Confident learning, formula by formula: hand-worked, and on labels that were turned on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.evaluation.label_errors import class_thresholds, estimated_joint, find_label_errors

LABELS = np.array([0, 0, 0, 1, 1, 1])
# of class 1; text 2 is labelled 0 and looks like 1, text 5 is labelled 1 and looks like nothing
OF_ONE = np.array([0.1, 0.2, 0.9, 0.8, 0.9, 0.55])
SCORES = np.stack([1 - OF_ONE, OF_ONE], axis=1)


def test_hand_worked():
    found = find_label_errors(LABELS, SCORES)
    # t_0 = (0.9 + 0.8 + 0.1) / 3, t_1 = (0.8 + 0.9 + 0.55) / 3
    assert found.thresholds == pytest.approx([0.6, 0.75])
    # texts 0 and 1 reach t_0; 2, 3 and 4 reach t_1; 5 reaches neither
    assert found.confident_joint.tolist() == [[2, 1], [0, 2]]
    # rows scaled to 3 texts each: [2, 1] and [0, 3], over 6
    assert found.joint == pytest.approx(np.array([[2, 1], [0, 3]]) / 6)
    assert found.estimated_share == pytest.approx(1 / 6)
    assert found.rows.tolist() == [2]
    assert found.suggested.tolist() == [1]


def test_a_text_confident_of_several_classes_counts_for_the_most_probable():
    scores = np.array([[0.34, 0.36, 0.3], [0.34, 0.33, 0.33], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6]])
    found = find_label_errors(np.array([0, 0, 1, 2]), scores)
    # t = 0.34, 0.3, 0.6: text 0 reaches 0 and 1, text 1 also both, text 2 reaches 1 and 2, text 3 reaches 2
    assert found.confident_joint.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert found.rows.tolist() == [2, 0]  # by the margin: 0.3 - 0.6 before 0.34 - 0.36
    assert found.suggested.tolist() == [2, 1]


def test_a_class_without_texts_is_suggested_to_none():
    assert np.isnan(class_thresholds(np.array([0, 0]), np.full((2, 3), 1 / 3))[1:]).all()
    found = find_label_errors(np.array([0, 0]), np.array([[0.1, 0.8, 0.1], [0.2, 0.8, 0.0]]))
    assert found.rows.tolist() == []
    assert found.estimated_share == 0
    nothing = find_label_errors(np.zeros(0, int), np.zeros((0, 2)))
    assert nothing.rows.tolist() == []
    assert nothing.joint.tolist() == [[0, 0], [0, 0]]


def test_a_class_of_which_nothing_was_counted_is_taken_to_be_right():
    joint = estimated_joint(np.array([[0, 0], [1, 1]]), np.array([4, 4]))
    assert joint == pytest.approx(np.array([[4, 0], [2, 2]]) / 8)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_turned_labels_are_found(num_classes):
    generator = np.random.default_rng(num_classes)
    true = generator.integers(0, num_classes, 4_000)
    logits = generator.normal(size=(4_000, num_classes)) + 3 * np.eye(num_classes)[true]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    turned = generator.random(4_000) < 0.08
    given = np.where(turned, (true + 1) % num_classes, true)
    found = find_label_errors(given, scores)
    hits = turned[found.rows]
    assert hits.mean() > 0.8
    assert hits.sum() > 0.65 * turned.sum()
    assert (found.suggested[hits] == true[found.rows][hits]).mean() > 0.95
    assert found.estimated_share == pytest.approx(turned.mean(), abs=0.02)
    assert hits[:100].all()  # the least doubtful come first


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must be"):
        find_label_errors(LABELS, SCORES[:3])
    with pytest.raises(ValueError, match="0 to 1"):
        find_label_errors(LABELS + 1, SCORES)
