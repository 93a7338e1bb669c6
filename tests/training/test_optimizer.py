"""Updates on float32 masters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bertwright.config import TrainConfig
from bertwright.errors import TrainingError
from bertwright.model.compiled import load_kernels
from bertwright.model.cpu_encoder import RowGradients
from bertwright.training.optimizer import KernelAdamW, MasterOptimizer, takes_decay


def config(**settings):
    return TrainConfig(train=("x.csv",), **settings)


def optimizer_for(value, dtype=torch.float32, name="layer.weight", rate=0.1, **settings):
    original = torch.tensor(value)
    parameter = nn.Parameter(original.to(dtype))
    optimizer = MasterOptimizer([(name, parameter)], {name: original}, config(max_grad_norm=0, **settings), rate)
    return parameter, optimizer


def update(parameter, optimizer, grad, factor=1.0):
    parameter.grad = torch.tensor(grad, dtype=parameter.dtype)
    optimizer.collect_gradients()
    optimizer.step(factor)


def test_updates_too_small_for_bfloat16_are_kept_by_the_master():
    """1 + 100 * 0.001 is 1.1; in bfloat16 alone 1 + 0.001 is 1 again, a hundred times over."""
    parameter, optimizer = optimizer_for([1.0], torch.bfloat16, rate=0.001, optimizer="sgd", beta1=0.0)
    for _ in range(100):
        update(parameter, optimizer, [-1.0])
    torch.testing.assert_close(optimizer.master_state()["layer.weight"], torch.tensor([1.1]))
    assert parameter.item() == torch.tensor(1.1).bfloat16().item()


def test_masters_start_from_the_unrounded_weights():
    parameter, optimizer = optimizer_for([1.001], torch.bfloat16, rate=0.5, optimizer="sgd", beta1=0.0)
    update(parameter, optimizer, [0.0])
    assert optimizer.master_state()["layer.weight"].item() == pytest.approx(1.001, abs=1e-7)


def test_gradients_of_parts_add_up_in_float32():
    parameter, optimizer = optimizer_for([0.0], torch.bfloat16, rate=1.0, optimizer="sgd", beta1=0.0)
    for _ in range(300):  # in bfloat16, 256 + 1 is 256
        parameter.grad = torch.tensor([1.0], dtype=torch.bfloat16)
        optimizer.collect_gradients()
    optimizer.step(1.0)
    assert optimizer.master_state()["layer.weight"].item() == -300.0


def test_weights_decay_and_biases_and_norms_do_not():
    assert takes_decay("encoder.layers.0.attention.query.weight")
    assert takes_decay("encoder.embeddings.token.weight")
    assert not takes_decay("encoder.layers.0.attention.query.bias")
    assert not takes_decay("encoder.layers.0.attention_norm.weight")
    assert not takes_decay("encoder.embeddings.norm.weight")
    weight, optimizer = optimizer_for([2.0], rate=0.1, optimizer="adamw", weight_decay=0.5)
    update(weight, optimizer, [0.0])
    assert weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    bias, optimizer = optimizer_for([2.0], name="layer.bias", rate=0.1, optimizer="adamw", weight_decay=0.5)
    update(bias, optimizer, [0.0])
    assert bias.item() == 2.0


@pytest.mark.parametrize(
    ("optimizer_name", "decays"), [("adamw", True), ("adam", False), ("adamax", False), ("sgd", False)]
)
def test_only_adamw_decays_unless_asked(optimizer_name, decays):
    parameter, optimizer = optimizer_for([2.0], rate=0.1, optimizer=optimizer_name)
    update(parameter, optimizer, [0.0])
    assert (parameter.item() < 2.0) == decays


def test_the_first_step_of_adam_is_the_learning_rate():
    """Kingma and Ba 2015: with bias correction the first step is rate * g / (|g| + epsilon)."""
    parameter, optimizer = optimizer_for([1.0, 1.0], rate=0.1, optimizer="adam", epsilon=1e-8)
    update(parameter, optimizer, [3.0, -0.01])
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.9, 1.1]), atol=1e-6, rtol=0)


def test_the_first_step_of_adamax_is_the_learning_rate():
    parameter, optimizer = optimizer_for([1.0], rate=0.1, optimizer="adamax")
    update(parameter, optimizer, [5.0])
    assert parameter.item() == pytest.approx(0.9, abs=1e-6)


def test_sgd_has_momentum():
    parameter, optimizer = optimizer_for([0.0], rate=0.1, optimizer="sgd", beta1=0.5)
    update(parameter, optimizer, [1.0])
    update(parameter, optimizer, [1.0])
    assert parameter.item() == pytest.approx(-0.1 - 0.1 * 1.5)


def test_the_rate_factor_scales_the_step():
    parameter, optimizer = optimizer_for([0.0], rate=0.1, optimizer="sgd", beta1=0.0)
    update(parameter, optimizer, [1.0], factor=0.25)
    assert parameter.item() == pytest.approx(-0.025)


def test_the_norm_of_all_gradients_is_clipped():
    names = ("a.weight", "b.weight")
    originals = {name: torch.zeros(1) for name in names}
    parameters = [(name, nn.Parameter(originals[name])) for name in names]
    settings = config(max_grad_norm=1.0, optimizer="sgd", beta1=0.0)
    optimizer = MasterOptimizer(parameters, originals, settings, 1.0)
    parameters[0][1].grad, parameters[1][1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.collect_gradients()
    optimizer.step(1.0)
    assert [p.item() for _, p in parameters] == pytest.approx([-0.6, -0.8], abs=1e-5)


def test_gradients_are_dropped_after_a_step():
    parameter, optimizer = optimizer_for([0.0], torch.bfloat16)
    update(parameter, optimizer, [1.0])
    assert parameter.grad is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e12])
def test_weights_of_no_use_stop_the_training(value):
    parameter, optimizer = optimizer_for([1.0, 2.0])
    optimizer.check_weights(1, 0.1)
    parameter.data[1] = value
    with pytest.raises(TrainingError, match="No model was saved"):
        optimizer.check_weights(1, 0.1)


# --- AdamW by C kernels ---------------------------------------------------------------------------------------

TABLE = "encoder.embeddings.token.weight"
FOUND = load_kernels()
with_kernels = pytest.mark.skipif(FOUND.kernels is None, reason=f"no C kernels here: {FOUND.reason}")


class EncoderOfGradients:
    """Stands for the encoder: hands out given gradients, and tells before a batch's rows are read."""

    def __init__(self):
        self.kernels, self.before_tokens, self.given = FOUND.kernels, None, {}

    def gradients(self):
        return self.given


def stream(num_steps, rows=40, width=32, seed=0, rows_of_step=6):
    """For each step the distinct rows of the table that have a gradient, that gradient, and a bias's gradient."""
    generator = np.random.default_rng(seed)
    for _ in range(num_steps):
        ids = np.sort(generator.choice(rows, generator.integers(1, rows_of_step), replace=False)).astype(np.int32)
        values = torch.from_numpy(generator.normal(size=(len(ids), width)).astype(np.float32))
        yield ids, values, torch.from_numpy(generator.normal(size=21).astype(np.float32))


def start(dtype):
    generator = torch.Generator().manual_seed(0)
    originals = {TABLE: torch.randn(40, 32, generator=generator), "classifier.linear.bias": torch.randn(21)}
    return originals, [
        (TABLE, nn.Parameter(originals[TABLE].to(dtype, copy=True))),
        ("classifier.linear.bias", nn.Parameter(originals["classifier.linear.bias"].clone())),
    ]


def run_kernels(dtype, num_steps, caught_up_each_step=False, rows_of_step=6, **settings):
    torch.manual_seed(0)
    originals, parameters = start(dtype)
    encoder = EncoderOfGradients()
    optimizer = KernelAdamW(parameters, originals, config(**settings), 0.05, encoder, num_steps)
    for ids, values, bias in stream(num_steps, rows_of_step=rows_of_step):
        if num_steps > 1000:  # the first half of the table early, the other late
            ids = ids % 20 if optimizer._done < 1500 else 20 + ids % 20
            ids, first = np.unique(ids, return_index=True)
            ids, values = ids.astype(np.int32), values[first]
        encoder.before_tokens(ids)
        encoder.given = {TABLE.removeprefix("encoder."): RowGradients(ids, values)}
        parameters[1][1].grad = bias
        optimizer.collect_gradients()
        optimizer.step(0.7)
        if caught_up_each_step:
            optimizer.master_state()
    state = optimizer.master_state()
    optimizer.close()
    return state, parameters


@with_kernels
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
def test_the_kernels_update_as_torch_does(max_grad_norm):
    settings = {"weight_decay": 0.1, "max_grad_norm": max_grad_norm}
    state, _ = run_kernels(torch.float32, 60, **settings)
    torch.manual_seed(0)
    originals, parameters = start(torch.float32)
    reference = MasterOptimizer(parameters, originals, config(**settings), 0.05)
    for ids, values, bias in stream(60):
        dense = torch.zeros(40, 32)
        dense[torch.from_numpy(ids).long()] = values
        parameters[0][1].grad, parameters[1][1].grad = dense, bias
        reference.collect_gradients()
        reference.step(0.7)
    for name, expected in reference.master_state().items():
        torch.testing.assert_close(state[name], expected, atol=2e-5, rtol=2e-5)


@with_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_steps", "rows_of_step"), [(50, 6), (3000, 2)])
def test_rows_that_catch_up_late_have_the_bits_of_rows_that_never_waited(dtype, num_steps, rows_of_step):
    """Also after so many steps that moments have shrunk to nothing: half the rows wait for 1,500 steps."""
    late, late_parameters = run_kernels(dtype, num_steps, rows_of_step=rows_of_step)
    early, early_parameters = run_kernels(dtype, num_steps, caught_up_each_step=True, rows_of_step=rows_of_step)
    for name in late:
        assert torch.equal(late[name], early[name]), name
    for (name, one), (_, other) in zip(late_parameters, early_parameters, strict=True):
        assert torch.equal(one, other), name
    assert torch.equal(late_parameters[0][1].data, late[TABLE].to(dtype))


@with_kernels
def test_parts_of_a_batch_add_up_in_float32():
    originals, parameters = start(torch.float32)
    encoder = EncoderOfGradients()
    settings = config(max_grad_norm=0)
    optimizer = KernelAdamW(parameters, originals, settings, 0.05, encoder, 1)
    for part, (ids, values, bias) in enumerate(stream(3)):
        encoder.given = {TABLE.removeprefix("encoder."): RowGradients(ids, values)}
        parameters[1][1].grad = bias
        optimizer.collect_gradients(part, 3)
    optimizer.step(1.0)
    summed, sum_bias = torch.zeros(40, 32), torch.zeros(21)
    for ids, values, bias in stream(3):
        summed[torch.from_numpy(ids).long()] += values
        sum_bias += bias
    _, expected = start(torch.float32)
    expected[1][1].data.copy_(originals["classifier.linear.bias"])
    reference = MasterOptimizer([(TABLE, expected[0][1])], {}, settings, 0.05)
    expected[0][1].grad = summed
    reference.step(1.0)
    torch.testing.assert_close(optimizer.master_state()[TABLE], reference.master_state()[TABLE], atol=1e-6, rtol=1e-5)


@with_kernels
def test_a_gradient_that_is_no_number_is_found_out():
    originals, parameters = start(torch.float32)
    encoder = EncoderOfGradients()
    optimizer = KernelAdamW(parameters, originals, config(), 0.05, encoder, 1)
    encoder.given = {
        TABLE.removeprefix("encoder."): RowGradients(np.array([3], np.int32), torch.full((1, 32), float("nan")))
    }
    optimizer.collect_gradients()
    optimizer.step(1.0)
    with pytest.raises(TrainingError, match="largest weight is nan"):
        optimizer.check_weights(1, 0.05)
