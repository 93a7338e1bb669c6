"""Learning rates, worked by hand."""

from __future__ import annotations

import pytest

from bertwright.training.schedule import rate_factor


def factors(schedule, num_steps, num_warmup):
    return [rate_factor(schedule, step, num_steps, num_warmup) for step in range(num_steps)]


def test_linear_rises_then_falls_in_a_straight_line():
    assert factors("linear", 6, 2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_cosine_is_half_a_cosine():
    assert factors("cosine", 4, 0) == pytest.approx([1.0, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5])


def test_constant_stays_after_the_warm_up():
    assert factors("constant", 4, 2) == pytest.approx([0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("num_warmup", [0, 1, 5, 10])
def test_no_step_is_without_a_rate(schedule, num_warmup):
    assert all(0 < factor <= 1 for factor in factors(schedule, 10, num_warmup))
