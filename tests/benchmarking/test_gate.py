"""Who is let through to be timed, and who is not."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.benchmarking.bench import refused
from bertwright.benchmarking.entries import Entry
from bertwright.benchmarking.gate import LIMITS, difference, refusal
from bertwright.benchmarking.measure import Measured
from bertwright.errors import UserError

EXPECTED = np.random.default_rng(0).normal(0, 2, (200, 2)).astype(np.float32)


def reason(precision, logits, expected=EXPECTED):
    return refusal(precision, difference(logits, expected))


def test_differences_by_hand():
    expected = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = difference(np.array([[1.0, 0.0], [2.0, 1.0]]), expected)
    assert found["largest_logit_difference"] == 2.0
    assert found["largest_score_difference"] == pytest.approx(1 / (1 + np.e**-1) - 1 / (1 + np.e))
    assert found["logit_error_to_size"] == pytest.approx(np.sqrt(4 / 4) / np.sqrt(2 / 4))
    assert found["logit_error_to_spread"] == pytest.approx(1 / 0.5)
    assert found["label_flips"] == 1
    assert difference(expected, expected) == {
        "largest_logit_difference": 0.0,
        "largest_score_difference": 0.0,
        "logit_error_to_size": 0.0,
        "logit_error_to_spread": 0.0,
        "label_flips": 0,
    }


@pytest.mark.parametrize("precision", LIMITS)
def test_the_same_logits_are_let_through_and_others_are_not(precision):
    assert reason(precision, EXPECTED) is None
    for wrong in (EXPECTED[::-1], EXPECTED * 2, EXPECTED + np.array([0, 3]), np.full_like(EXPECTED, np.nan)):
        assert reason(precision, wrong) is not None


def test_each_precision_has_its_own_limits():
    noise = np.random.default_rng(1).normal(size=EXPECTED.shape)
    assert reason("float32", EXPECTED + 1e-5 * noise) is None
    assert "a logit is off by" in reason("float32", EXPECTED + 1e-2 * noise)
    assert reason("bfloat16", EXPECTED + 2e-2 * noise) is None
    assert "in bfloat16 0.05 is the most" in reason("bfloat16", EXPECTED + 0.3 * noise)
    assert reason("int8", EXPECTED + 0.1 * noise) is None


def test_texts_mixed_up_are_seen_where_logits_hardly_differ():
    nearly_constant = 0.1 + 1e-5 * EXPECTED
    assert reason("float32", nearly_constant + 1e-8, nearly_constant) is None
    assert "from text to text" in reason("float32", nearly_constant[::-1], nearly_constant)


def measured(name, logits, **options):
    return Measured(Entry(name, "", "", **options), outcome={"logits": logits}, turns=[{}])


def test_the_gate_names_who_is_wrong_in_batches_alone_or_in_shape():
    ours, right, shifted = (
        measured("bertwright-float32", EXPECTED),
        measured("right", EXPECTED + 1e-6),
        measured("a", 0),
    )
    shifted.outcome["logits"] = EXPECTED + np.array([0, 0.01])
    alone, shape = measured("b", EXPECTED), measured("c", EXPECTED[:, :1])
    right.alone_logits, alone.alone_logits = EXPECTED[[3, 5]], EXPECTED[[5, 3]]
    peak = Measured(Entry("peak", "", ""))
    reasons = refused([ours, right, shifted, alone, shape, peak], rows=[3, 5])
    assert set(reasons) == {"a", "b", "c"}
    assert "a logit is off by 0.01 from float32; in float32 0.001 is the most" in reasons["a"]
    assert reasons["c"] == "logits of shape (200, 1), expected (200, 2)"


def test_what_is_left_to_the_contender_is_judged_by_what_it_has_chosen():
    rough = measured("bertwright", EXPECTED + 0.005, precision=None)
    rough.chosen = {"dtype": "bfloat16"}
    ours = measured("bertwright-float32", EXPECTED)
    assert refused([ours, rough], rows=[]) == {}
    rough.chosen = {"dtype": "float32"}
    assert set(refused([ours, rough], rows=[])) == {"bertwright"}


def test_without_a_reference_nobody_is_judged():
    with pytest.raises(UserError, match="bertwright-float32, which all others are compared with, did not run"):
        refused([measured("right", EXPECTED)], rows=[])
