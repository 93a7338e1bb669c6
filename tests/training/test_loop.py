"""The loop: reproducible to the bit, indifferent to how a batch is cut, honest about what it keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.golden.make_golden import GOLDEN
from tests.golden.make_golden import losses as golden_losses
from torch import nn

from bertwright.config.train import TrainConfig
from bertwright.data.batches import training_batches
from bertwright.data.ragged import Ragged
from bertwright.errors import TrainingError
from bertwright.model.checkpoint import empty_model, initial_state
from bertwright.model.compiled import load_kernels
from bertwright.model.encoder import ModelConfig
from bertwright.progress import Reporter
from bertwright.training import learners
from bertwright.training.distributed import Alone
from bertwright.training.learners import HeadOnEncoder, HeadOnFeatures, WholeModel, compute_features
from bertwright.training.loop import fit, num_steps_of
from bertwright.training.loss import CrossEntropy
from bertwright.training.optimizer import MasterOptimizer

CPU = torch.device("cpu")
QUIET = Reporter(quiet=True)


def config(**settings) -> TrainConfig:
    return TrainConfig(train=("texts.csv",), **{"batch_size": 8, **settings})


def problem(num_texts=40, num_labels=2, dropout=0.1, seed=0, dtype=torch.float32):
    """A tiny model, and texts whose label is whether token 7 is in them."""
    shape = ModelConfig(
        vocab_size=50,
        hidden_size=32,  # heads of 16: the C kernels compute it where there are any
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
    )
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 30, num_texts)
    ids = generator.integers(8, 50, lengths.sum()).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    label_ids = generator.integers(0, num_labels, num_texts)
    ids[starts[:-1]] = 7 * (label_ids > 0)
    model = empty_model(shape, num_labels, "first")
    model.load_state_dict(initial_state(model, shape, seed), assign=True)
    originals = dict(model.state_dict())
    return model.compute_in(dtype), Ragged(ids, starts, 0), label_ids, originals


def train(settings, evaluate=None, token_budget=10_000, rate=3e-3, best_metric="accuracy", **kind):
    model, ragged, label_ids, originals = problem(**kind)
    learner = WholeModel(model, ragged, CPU, token_budget)
    lines = []
    outcome = fit(
        learner, CrossEntropy(label_ids), settings, rate, originals, evaluate, best_metric, lines.append, QUIET
    )
    return outcome, lines


def test_the_loss_curve_is_the_golden_one():
    expected = json.loads(GOLDEN.read_text())
    assert len(expected) == 40
    assert np.mean(expected[-10:]) < 0.75 * expected[0]
    np.testing.assert_allclose(golden_losses(), expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_seed_gives_the_same_bits(dtype):
    first, _ = train(config(epochs=3), dtype=dtype)
    again, _ = train(config(epochs=3), dtype=dtype)
    other, _ = train(config(epochs=3, seed=1), dtype=dtype)
    assert first.losses.tolist() == again.losses.tolist()
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert first.losses.tolist() != other.losses.tolist()


def test_it_learns():
    outcome, _ = train(config(epochs=12))
    assert outcome.losses[-5:].mean() < 0.3 < 0.6 < outcome.losses[:5].mean()


def test_it_learns_in_bfloat16_too():
    outcome, _ = train(config(epochs=12), dtype=torch.bfloat16)
    assert outcome.losses[-5:].mean() < 0.3
    assert all(tensor.dtype == torch.float32 for tensor in outcome.state.values())


def test_how_a_batch_is_cut_changes_nothing():
    whole, _ = train(config(epochs=2), dropout=0.0)
    cut, _ = train(config(epochs=2), dropout=0.0, token_budget=40)
    np.testing.assert_allclose(cut.losses, whole.losses, atol=1e-5)
    for name, tensor in whole.state.items():
        torch.testing.assert_close(cut.state[name], tensor, atol=1e-4, rtol=1e-3)


def test_epochs_and_steps_are_counted():
    outcome, lines = train(config(epochs=1.5))
    assert outcome.steps == 8  # 5 batches an epoch; 7.5 rounded up
    assert outcome.num_texts == 64
    assert [line["step"] for line in lines] == [5, 8]
    assert lines[0]["epoch"] == 1.0
    outcome, lines = train(config(steps=7, eval_every=3))
    assert outcome.steps == len(outcome.losses) == 7
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert num_steps_of(config(epochs=0.01), 40) == 1


def test_the_history_says_what_happened():
    outcome, lines = train(config(epochs=2), evaluate=lambda: {"accuracy": 0.5})
    assert set(lines[0]) == {"step", "epoch", "elapsed_s", "train_loss", "learning_rate", "validation"}
    assert lines[0]["train_loss"] == pytest.approx(outcome.losses[:5].mean())
    assert lines[1]["train_loss"] == pytest.approx(outcome.losses[5:].mean())
    assert lines[0]["validation"] == {"accuracy": 0.5}
    assert outcome.history == lines


def scripted(values):
    """An evaluation whose accuracies are given."""
    remaining = iter(values)
    return lambda: {"accuracy": next(remaining), "log_loss": None}


def test_the_best_state_is_kept_not_the_last():
    best, _ = train(config(epochs=4), evaluate=scripted([0.5, 0.9, 0.9, 0.7]))
    assert best.best_step == 10  # the first of equals
    stopped_there, _ = train(config(epochs=4), scripted([0.1, 0.9, 0.2, 0.2]))
    assert all(torch.equal(best.state[name], stopped_there.state[name]) for name in best.state)
    last, _ = train(config(epochs=4))
    assert last.best_step == 20
    assert not torch.equal(best.state["classifier.linear.weight"], last.state["classifier.linear.weight"])


def test_a_lower_loss_is_the_better_one():
    losses_of = iter([0.9, 0.3, 0.5])
    outcome, _ = train(config(epochs=3), lambda: {"log_loss": next(losses_of)}, best_metric="log_loss")
    assert outcome.best_step == 10


def test_patience_stops_early():
    outcome, lines = train(config(epochs=9, patience=2), evaluate=scripted([0.5, 0.8, 0.7, 0.8, 0.9]))
    assert outcome.stopped_early
    assert outcome.steps == 20
    assert outcome.best_step == 10
    assert len(lines) == 4


def test_evaluating_changes_nothing():
    """Dropout's random numbers and the mode are the training's own."""
    model, ragged, label_ids, originals = problem()
    learner = WholeModel(model, ragged, CPU, 10_000)

    def evaluate():
        learners.learner_logits(learner, np.arange(len(label_ids)), QUIET, "Validation")
        return {"accuracy": 0.5}

    judged = fit(
        learner,
        CrossEntropy(label_ids),
        config(epochs=3),
        3e-3,
        originals,
        evaluate,
        "accuracy",
        lambda line: None,
        QUIET,
    )
    alone, _ = train(config(epochs=3))
    assert judged.losses.tolist() == alone.losses.tolist()


def test_a_loss_that_is_no_number_stops_with_a_clear_error():
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is (nan|inf).*--learning-rate"):
        train(config(epochs=50, warmup_ratio=0.0, optimizer="sgd", max_grad_norm=0), rate=1e38)


def test_a_frozen_encoder_keeps_its_bits_and_the_head_learns():
    model, ragged, label_ids, originals = problem(num_texts=60)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.encoder_parameters():
        parameter.requires_grad_(False)
    features = compute_features(model, ragged, CPU, 100, QUIET)
    learner = HeadOnFeatures(model, features, ragged.lengths, CPU)
    outcome = fit(
        learner, CrossEntropy(label_ids), config(epochs=5), 1e-2, originals, None, "", lambda line: None, QUIET
    )
    assert set(outcome.state) == {"classifier.linear.weight", "classifier.linear.bias"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("classifier"), name
    assert not model.encoder.training


def test_features_are_what_the_classifier_reads():
    model, ragged, label_ids, _ = problem()
    features = compute_features(model, ragged, CPU, 64, QUIET)
    rows = np.arange(len(label_ids))
    head = learners.learner_logits(HeadOnFeatures(model, features, ragged.lengths, CPU), rows, QUIET, "Validation")
    whole = learners.learner_logits(WholeModel(model, ragged, CPU, 1000), rows, QUIET, "Validation")
    np.testing.assert_allclose(head, whole, atol=1e-5)


@pytest.mark.gpu
def test_it_learns_on_the_gpu():
    model, ragged, label_ids, originals = problem(dtype=torch.bfloat16)
    device = torch.device("cuda")
    learner = WholeModel(model.to(device), ragged, device, 10_000)
    outcome = fit(
        learner, CrossEntropy(label_ids), config(epochs=12), 3e-3, originals, None, "", lambda line: None, QUIET
    )
    assert outcome.losses[-5:].mean() < 0.3


def test_float16_learns_with_a_scaled_loss_and_leaves_out_steps_that_overflow():
    """As on GPUs without bfloat16; by PyTorch's operators on the CPU."""
    model, ragged, label_ids, originals = problem(dtype=torch.float16)
    assert model.cpu_encoder is None
    outcome = fit(
        WholeModel(model, ragged, CPU, 10_000),
        CrossEntropy(label_ids),
        config(epochs=12),
        3e-3,
        originals,
        None,
        "",
        print,
        QUIET,
    )
    assert outcome.losses[-5:].mean() < 0.3 < 0.6 < outcome.losses[:5].mean()
    optimizer = MasterOptimizer(
        [("w", nn.Parameter(torch.ones(2, dtype=torch.float16)))], {"w": torch.ones(2)}, config(), 0.1
    )
    # that of a process of several whose share of the batch is empty: it scaled nothing
    optimizer.sum_gradients(Alone(), optimizer.held()[None])
    optimizer._masters[0].grad = torch.zeros(2)
    optimizer.step(1.0)
    before = optimizer.master_state()["w"].tolist()
    scaled = optimizer.scaled(torch.ones(()))
    assert float(scaled) > 1000
    optimizer._parameters[0].grad = torch.tensor([torch.inf, 1.0], dtype=torch.float16)
    optimizer.collect_gradients()
    optimizer.step(1.0)
    assert optimizer.master_state()["w"].tolist() == before
    assert float(optimizer.scaled(torch.ones(()))) == float(scaled) / 2


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compiled_training_on_the_gpu_learns_as_plain_training_does(dtype, graphs, monkeypatch):
    if not graphs:  # layer by layer, as models that are not small
        monkeypatch.setattr("bertwright.model.gpu_encoder._SMALL_HIDDEN_SIZE", 0)
    losses = []
    for compiled in (False, True):
        model, ragged, label_ids, originals = problem(dtype=torch.float32, dropout=0.0)
        device = torch.device("cuda")
        model.to(device).compute_in(dtype, accelerate=compiled)
        learner = WholeModel(model, ragged, device, 10_000)
        settings = config(epochs=12)
        learner.compile_for(training_batches(len(label_ids), 8, 0, num_steps_of(settings, len(label_ids))), True)
        assert (model.encoder.fast is not None) == compiled

        def evaluate(learner=learner, num_texts=len(label_ids)):
            logits = learners.learner_logits(learner, np.arange(num_texts), QUIET, "Validation")
            return {"accuracy": float(np.isfinite(logits).all())}

        outcome = fit(learner, CrossEntropy(label_ids), settings, 3e-3, originals, evaluate, "accuracy", print, QUIET)
        losses.append(outcome.losses)
    np.testing.assert_allclose(losses[0][:5], losses[1][:5], atol=0.02)
    assert losses[1][-5:].mean() < 0.3


@pytest.mark.skipif(load_kernels().kernels is None, reason="no C kernels here")
def test_what_these_tests_train_is_computed_by_the_kernels_and_learns_as_by_pytorch():
    losses = []
    for accelerate in (True, False):
        model, ragged, label_ids, originals = problem(dropout=0.0)
        model.compute_in(torch.float32, accelerate)
        assert (model.cpu_encoder is not None) == accelerate
        settings = config(epochs=4)
        outcome = fit(
            WholeModel(model, ragged, CPU, 10_000),
            CrossEntropy(label_ids),
            settings,
            3e-3,
            originals,
            None,
            "",
            print,
            QUIET,
        )
        losses.append(outcome.losses)
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)


@pytest.mark.skipif(load_kernels().kernels is None, reason="no C kernels here")
def test_an_error_leaves_nothing_of_the_optimizer_in_the_encoder():
    model, ragged, label_ids, originals = problem()
    learner = WholeModel(model, ragged, CPU, 10_000)

    def fail():
        raise RuntimeError("in the evaluation")

    with pytest.raises(RuntimeError, match="in the evaluation"):
        fit(learner, CrossEntropy(label_ids), config(epochs=1), 3e-3, originals, fail, "accuracy", print, QUIET)
    assert model.cpu_encoder.before_tokens is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_encoder_without_cached_features_learns_with_its_dropout(dtype):
    def trained(dropout, cached):
        model, ragged, label_ids, originals = problem(num_texts=60, dropout=dropout, dtype=dtype)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for parameter in model.encoder_parameters():
            parameter.requires_grad_(False)
        if cached:
            features = compute_features(model, ragged, CPU, 100, QUIET)
            learner = HeadOnFeatures(model, features, ragged.lengths, CPU)
        else:
            learner = HeadOnEncoder(model, ragged, CPU, 100)
        # The classifier's own dropout would draw other numbers.
        model.classifier.dropout.p = 0.0
        outcome = fit(
            learner, CrossEntropy(label_ids), config(epochs=5), 1e-2, originals, None, "", lambda line: None, QUIET
        )
        assert set(outcome.state) == {"classifier.linear.weight", "classifier.linear.bias"}
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]) != name.startswith("classifier"), name
        return outcome.losses

    without = trained(0.0, cached=False)
    np.testing.assert_allclose(without, trained(0.0, cached=True), atol=1e-3 if dtype == torch.bfloat16 else 1e-5)
    with_dropout = trained(0.3, cached=False)
    assert np.abs(with_dropout - without).max() > 0.01
    assert with_dropout.tolist() == trained(0.3, cached=False).tolist()
