"""From a part to the whole, on invented measurements whose whole is known."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.benchmarking.forecast import (
    Estimate,
    Memory,
    Probe,
    Scoring,
    Steps,
    forecast,
    held,
    most_tokens,
    needs,
    steps_s,
    usd,
)

MIB = 2**20
LEARNT = {"before": 300 * MIB, "peak": 900 * MIB, "available": None, "weights": 100 * MIB, "gradients": 40 * MIB}
LEARNT |= {"optimizer": 160 * MIB, "heavy": 700 * MIB}


def made_steps(num_steps=500, num_tried=40, fixed=0.02, per_token=1e-5, per_pair=2e-8, noise=0.0, seed=0):
    """Steps of a training whose costs are known, and some of them tried out."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 200, (num_steps, 16))
    tokens, pairs = lengths.sum(axis=1), (lengths**2).sum(axis=1)
    seconds = fixed + per_token * tokens + per_pair * pairs
    tried = generator.permutation(num_steps)[:num_tried]
    measured = seconds[tried] * (1 + noise * generator.standard_normal(num_tried))
    return Steps(tokens, pairs, tried, measured), seconds.sum()


def made_probe(**changes):
    steps, _ = made_steps()
    values = {
        "phases": {"read": 1.0, "tokenize": 2.0, "load": 3.0, "save": 4.0},
        "steps": steps,
        "scoring": Scoring(texts=10, tokens=1000, operations=1_000, seconds=0.5),
        "to_score": {"train": 10_000, "validation": 2_000, "test": 4_000},
        "held_out": "test",
        "memory": Memory(before=100 * MIB, peak=500 * MIB, peak_gpu=None, available=1000 * MIB),
        "num_texts": {"train": 100, "validation": 20, "test": 40},
        "num_evaluations": 3,
    }
    return Probe(**(values | changes))


def test_steps_of_known_costs_are_foretold_exactly():
    steps, whole = made_steps()
    expected, error = steps_s(steps)
    assert expected == pytest.approx(whole, rel=1e-6)
    assert error < 1e-6


def test_short_steps_alone_foretell_long_ones_within_their_noise():
    steps, whole = made_steps(noise=0.05, num_tried=60)
    expected, error = steps_s(steps)
    assert expected == pytest.approx(whole, rel=0.05)
    assert 0.002 < error < 0.04


def test_what_few_steps_tell_is_as_unsure_as_it_is():
    """Of trainings foretold from few noisy steps, the truth lies within the stated share in most cases."""
    for num_tried in (2, 3, 5, 12, 30):
        within = []
        for seed in range(300):
            steps, whole = made_steps(num_steps=200, num_tried=num_tried, noise=0.1, seed=seed, fixed=0.0, per_pair=0.0)
            expected, share = steps_s(steps)
            within.append(abs(expected / whole - 1) <= share)
        assert np.mean(within) > 0.88, num_tried


def test_steps_of_one_size_are_foretold_by_their_mean():
    same = np.full(100, 320)
    expected, _ = steps_s(Steps(same, same * 10, np.arange(4), np.array([1.0, 1.0, 1.0, 2.0])))
    assert expected == pytest.approx(125.0)


def test_a_training_is_the_sum_of_its_parts():
    probe = made_probe()
    found = forecast(probe)
    assert list(found.seconds) == ["read", "tokenize", "train", "infer", "total"]
    steps, _ = steps_s(probe.steps)
    assert found.seconds["train"].value == pytest.approx(steps)
    assert found.seconds["infer"].value == pytest.approx(2.0)  # 4,000 operations at 2,000 a second
    judged = 3 * 1.0
    scored = 5.0 + 1.0 + 2.0
    assert found.seconds["total"].value == pytest.approx(10.0 + steps + judged + scored)
    assert found.compute_s.value == pytest.approx(steps + judged + scored)
    total = found.seconds["total"]
    assert total.low < total.value < total.high


def test_features_of_a_frozen_encoder_count_as_training_as_they_do_on_record():
    without = forecast(made_probe()).seconds["train"].value
    probe = made_probe()
    probe.to_score["features"] = 10_000
    found = forecast(probe)
    assert found.seconds["train"].value == pytest.approx(without + 5.0)


def test_a_scoring_has_no_training():
    found = forecast(made_probe(steps=None, to_score={"test": 4_000}, num_evaluations=0))
    assert list(found.seconds) == ["read", "tokenize", "infer", "total"]
    assert found.held == {}
    assert found.compute_s.value == pytest.approx(2.0)


def test_what_holds_the_memory_adds_up_to_the_peak():
    memory = Memory(
        before=400 * MIB,
        peak=900 * MIB,
        peak_gpu=None,
        available=None,
        weights=100 * MIB,
        gradients=30 * MIB,
        optimizer=60 * MIB,
        light=500 * MIB,
        heavy=800 * MIB,
        light_tokens=100,
        heavy_tokens=1_000,
    )
    assert sum(held(memory).values()) == 800 * MIB
    assert held(memory)["activations"] == 310 * MIB


def test_the_largest_batch_follows_from_two_steps():
    memory = Memory(
        before=400 * MIB,
        peak=900 * MIB,
        peak_gpu=None,
        available=700 * MIB,
        light=500 * MIB,
        heavy=800 * MIB,
        light_tokens=100,
        heavy_tokens=1_000,
    )
    # 300 MiB for 900 tokens; 1,100 MiB in all, 500 of them for the first 100 tokens: 600 MiB for 1,800 more.
    assert most_tokens(memory) == 1_900


@pytest.mark.parametrize("change", [{"heavy": 500 * MIB}, {"heavy_tokens": 100}, {"available": None}])
def test_steps_that_tell_nothing_of_memory_foretell_nothing(change):
    values = {"before": 0, "peak": 0, "peak_gpu": None, "available": 1, "light": 500 * MIB, "heavy": 800 * MIB}
    values |= {"light_tokens": 100, "heavy_tokens": 1_000}
    assert most_tokens(Memory(**(values | change))) is None


def test_an_hour_costs_the_price_of_an_hour():
    assert usd(Estimate(3600, 1800, 7200), 4.0) == Estimate(4.0, 2.0, 8.0)


@pytest.mark.parametrize(
    ("operations", "changes", "accelerator", "machine"),
    [
        (1, {}, 500, 900),  # what is held at the heaviest step, but for 200 of libraries and texts
        (1, {"scored": 850 * MIB}, 500, 900),
        (0, {"scored": 850 * MIB}, 650, 900),  # the encoder learns nothing: its scoring holds the most
        (1, {"heavy": 400 * MIB}, 300, 900),  # never less than what is counted
        (1, {"peak_gpu": 600 * MIB}, 600, 1500),
    ],
)
def test_what_another_machine_must_hold(operations, changes, accelerator, machine):
    memory = Memory(**{"peak_gpu": None, **LEARNT, **changes})
    found = needs(made_probe(memory=memory, training_operations=operations))
    assert (found.accelerator, found.machine) == (accelerator * MIB, machine * MIB)
