"""The mean of the last weights is what it says, is what is judged, and goes on after a stop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.training.test_loop import config, problem
from tests.training.test_state import CPU, QUIET, assert_same, stopped_and_resumed, train

from bertwright.config.base import build
from bertwright.config.train import TrainConfig
from bertwright.errors import UserError
from bertwright.runs import CHECKPOINTS
from bertwright.training import state
from bertwright.training.average import WeightAverage
from bertwright.training.learners import WholeModel, learner_logits
from bertwright.training.loop import fit
from bertwright.training.loss import CrossEntropy
from bertwright.training.state import Checkpoints, read_sealed, write_sealed

SMOOTH = {"schedule": "constant", "warmup_ratio": 0.0}


@pytest.mark.parametrize("kind", [{}, {"dtype": torch.bfloat16}, {"accelerate": False}, {"frozen": True}])
def test_it_is_the_mean_of_the_states_of_shorter_trainings(kind):
    found, _ = train(config(steps=12, average_weights=0.5, **SMOOTH), judge=False, **kind)
    states = [train(config(steps=steps, **SMOOTH), judge=False, **kind)[0].state for steps in range(7, 13)]
    for name, mean in found.state.items():
        expected = np.mean([state[name].double().numpy() for state in states], axis=0)
        np.testing.assert_allclose(mean.numpy(), expected, atol=1e-6, rtol=1e-5)
    assert not torch.equal(found.state["classifier.linear.weight"], states[-1]["classifier.linear.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_judged_and_changes_no_step(dtype):
    model, ragged, label_ids, originals = problem(dtype=dtype)
    learner = WholeModel(model, ragged, CPU, 100)
    seen = []

    def evaluate():
        seen.append(learner_logits(learner, np.arange(len(label_ids)), QUIET, "Validation").copy())
        return {"log_loss": 1.0 / len(seen)}

    settings = config(steps=12, average_weights=0.5, eval_every=4)
    outcome = fit(
        learner, CrossEntropy(label_ids), settings, 3e-3, originals, evaluate, "log_loss", lambda _: None, QUIET
    )
    plain, _ = train(config(steps=12, eval_every=4), dtype=dtype)
    assert outcome.losses.tolist() == plain.losses.tolist()
    # The last judged weights are those kept, rounded as the training computes; the first were no mean yet.
    model.load_state_dict(outcome.state)
    again = learner_logits(learner, np.arange(len(label_ids)), QUIET, "Validation")
    assert again.tolist() == seen[-1].tolist()
    assert seen[0].tolist() != seen[-1].tolist()


@pytest.mark.parametrize("judge", [True, False])
def test_it_goes_on_with_the_same_bits(tmp_path, judge):
    settings = config(steps=20, average_weights=0.7, eval_every=3)
    whole = train(settings, judge=judge)
    resumed = stopped_and_resumed(tmp_path, settings, (17, 9, 12), judge=judge)
    assert_same(resumed, whole)
    assert any((tmp_path / CHECKPOINTS).glob("step-*/manifest.json"))


def test_a_checkpoint_of_another_number_of_states_is_not_used(tmp_path):
    settings = config(steps=10, average_weights=1.0, checkpoint_steps=5)
    whole = train(settings, tmp_path)
    for path in (tmp_path / CHECKPOINTS).glob("step-*/manifest.json"):
        manifest = read_sealed(path, state._Manifest)
        progress = manifest.progress.model_copy(update={"averaged_states": 0})
        write_sealed(path, manifest.model_copy(update={"progress": progress}))
    found = Checkpoints(tmp_path, QUIET).load(10, lambda saved: None)
    assert found is None
    assert_same(train(settings, tmp_path), whole)


def test_states_are_spread_over_long_trainings():
    average = WeightAverage(0.5, 10_000)
    due = [step for step in range(1, 10_001) if average.is_due(step)]
    assert len(due) == 100
    assert due[0] > 5_000
    assert due[-1] == 10_000
    assert len(set(np.diff(due))) == 1
    assert not any(WeightAverage(0.0, 50).is_due(step) for step in range(1, 51))
    assert all(WeightAverage(1.0, 50).is_due(step) for step in range(1, 51))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="--average-weights"):
        build(TrainConfig, {"train": ("a.csv",), "average_weights": 1.5})
