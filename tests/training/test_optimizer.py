"""Updates on float32 masters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bertwright.config.train import TrainConfig
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


# --- clipping each gradient, and the formulas as Keras has them ---------------------------------------------------


def clipped_each(gradient, most):
    """tf.clip_by_norm: g * clipnorm / max(norm, clipnorm)."""
    return gradient * most / max(float(np.sqrt((gradient.astype(np.float64) ** 2).sum())), most)


class Formula:
    """An optimizer by hand, in float64: ``update(weight, gradient)`` gives the weight after the step."""

    def __init__(self, name, rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
        self.name, self.rate, self.beta1, self.beta2, self.epsilon = name, rate, beta1, beta2, epsilon
        self.step, self.m, self.v = 0, 0.0, 0.0

    def update(self, weight, gradient):
        self.step += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * gradient
        first, second = 1 - self.beta1**self.step, 1 - self.beta2**self.step
        if self.name == "sgd":
            self.v = self.beta1 * self.v + gradient
            return weight - self.rate * self.v
        if self.name == "adamax":  # Kingma and Ba 2015, algorithm 2, with Keras' epsilon
            self.v = np.maximum(self.beta2 * self.v, np.abs(gradient))
            return weight - self.rate / first * self.m / (self.v + self.epsilon)
        self.v = self.beta2 * self.v + (1 - self.beta2) * gradient**2
        if self.name == "adam, epsilon hat":  # Keras and TensorFlow
            return weight - self.rate * np.sqrt(second) / first * self.m / (np.sqrt(self.v) + self.epsilon)
        return weight - self.rate * (self.m / first) / (np.sqrt(self.v / second) + self.epsilon)


NORMS = {"a.weight": 5.0, "b.weight": 0.3, "c.bias": 2.0}  # of each gradient, in the middle; b is never clipped


def gradients_of_steps(num_steps, num_parts, seed=0):
    """For each step the parts' gradients of three weights; each step's sum has about the norms of ``NORMS``."""
    generator = np.random.default_rng(seed)
    shapes = {"a.weight": (6, 16), "b.weight": (3, 5), "c.bias": (7,)}
    for _ in range(num_steps):
        step = []
        for _ in range(num_parts):
            raw = {name: generator.normal(size=shape) for name, shape in shapes.items()}
            scale = {name: generator.uniform(0.8, 1.2) / np.sqrt(num_parts) for name in shapes}
            step.append({n: (scale[n] * NORMS[n] * g / np.linalg.norm(g)).astype(np.float32) for n, g in raw.items()})
        yield step


@pytest.mark.parametrize("name", ["adam", "adamax", "sgd"])
@pytest.mark.parametrize(("max_grad_norm", "num_parts"), [(1.0, 1), (1.0, 3), (100.0, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_gradient_is_clipped_by_its_own_norm(name, max_grad_norm, num_parts, dtype):
    steps = list(gradients_of_steps(5, num_parts))
    originals = {n: torch.zeros(g.shape) for n, g in steps[0][0].items()}
    parameters = [(n, nn.Parameter(original.to(dtype, copy=True))) for n, original in originals.items()]
    settings = config(clip="each", max_grad_norm=max_grad_norm, optimizer=name)
    optimizer = MasterOptimizer(parameters, originals, settings, 0.01)
    expected = {n: np.zeros(original.shape) for n, original in originals.items()}
    formulas = {n: Formula(name, 0.01) for n in originals}
    for parts in steps:
        total = dict.fromkeys(originals, 0.0)
        for i, part in enumerate(parts):
            for n, parameter in parameters:
                given = torch.from_numpy(part[n]).to(dtype)
                # autograd adds to the gradient that is there; what is of lower precision is taken away at each part
                parameter.grad = given if parameter.grad is None else parameter.grad + given
                total[n] = total[n] + given.float().numpy()
            optimizer.collect_gradients(i, num_parts)
        optimizer.step(1.0)
        for n in originals:
            gradient = clipped_each(total[n], max_grad_norm) if max_grad_norm else total[n]
            expected[n] = formulas[n].update(expected[n], gradient)
    for n, state in optimizer.master_state().items():
        np.testing.assert_allclose(state.numpy(), expected[n], atol=2e-6, rtol=2e-5, err_msg=n)
        assert torch.equal(dict(parameters)[n].data, state.to(dtype))


def test_clipping_each_differs_from_clipping_all():
    """A gradient below the limit stays as it is, however large the others are."""
    originals = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}
    parameters = [(n, nn.Parameter(original)) for n, original in originals.items()]
    settings = config(clip="each", max_grad_norm=1.0, optimizer="sgd", beta1=0.0)
    optimizer = MasterOptimizer(parameters, originals, settings, 1.0)
    parameters[0][1].grad, parameters[1][1].grad = torch.tensor([30.0, 40.0]), torch.tensor([0.3, 0.4])
    optimizer.collect_gradients()
    optimizer.step(1.0)
    assert parameters[0][1].tolist() == pytest.approx([-0.6, -0.8], abs=1e-6)
    assert parameters[1][1].tolist() == pytest.approx([-0.3, -0.4], abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_does_not_vanish_in_clipping_each(bad):
    parameter, original = nn.Parameter(torch.zeros(2)), torch.zeros(2)
    optimizer = MasterOptimizer([("a.weight", parameter)], {"a.weight": original}, config(clip="each"), 0.1)
    parameter.grad = torch.tensor([1.0, bad])
    optimizer.collect_gradients()
    optimizer.step(1.0)
    with pytest.raises(TrainingError):
        optimizer.check_weights(1, 0.1)


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax"])
def test_the_update_is_that_of_torch(name):
    """Not clipped, against torch.optim itself, single tensors and no fusing."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}
    start = torch.linspace(-1, 1, 32)
    parameter = nn.Parameter(start.clone())
    settings = config(optimizer=name, max_grad_norm=0, weight_decay=0.1, epsilon=1e-8)
    optimizer = MasterOptimizer([("a.weight", parameter)], {}, settings, 0.01)
    reference = nn.Parameter(start.clone())
    torch_optimizer = kinds[name]([reference], lr=0.01, eps=1e-8, weight_decay=0.1, foreach=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradient = torch.randn(32, generator=generator)
        parameter.grad, reference.grad = gradient.clone(), gradient.clone()
        optimizer.collect_gradients()
        optimizer.step(1.0)
        torch_optimizer.step()
    torch.testing.assert_close(parameter.data, reference.data, atol=1e-6, rtol=1e-6)


def adam_of_one(gradients, epsilon):
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float32))
    settings = config(optimizer="adam", max_grad_norm=0, epsilon=epsilon)
    optimizer = MasterOptimizer([("a.weight", parameter)], {}, settings, 1e-3)
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient])
        optimizer.collect_gradients()
        optimizer.step(1.0)
    return parameter.item()


def test_epsilon_is_added_as_in_torch_and_not_as_in_keras():
    """Where Keras adds epsilon, it counts as epsilon / sqrt(1 - beta2^t): 31.6 times as much in the first step.

    With gradients of 1e-4 that is 0.3 % of the first step, with gradients of 1e-6 a quarter of it.
    """
    for size, least, most in ((1e-4, 0.002, 0.004), (1e-6, 0.2, 0.3)):
        ours = adam_of_one([size], 1e-8)
        torchs, keras = Formula("adam", 1e-3), Formula("adam, epsilon hat", 1e-3)
        assert ours == pytest.approx(torchs.update(0.0, size), rel=1e-5)
        assert least < 1 - keras.update(0.0, size) / ours < most
    many = [1e-4] * 2000
    keras = Formula("adam, epsilon hat", 1e-3)
    weight = 0.0
    for gradient in many:
        weight = keras.update(weight, gradient)
    assert adam_of_one(many, 1e-8) == pytest.approx(weight, rel=3e-4)


@with_kernels
@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize(("max_grad_norm", "num_parts"), [(1.0, 1), (1.0, 3), (1000.0, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_clip_each_gradient_by_its_own_norm(name, max_grad_norm, num_parts, dtype):
    """The token embeddings' gradient by the norm of the whole table's; against the formula in float64."""
    layer = "encoder.layers.0.intermediate.weight"
    generator = np.random.default_rng(1)
    originals = {TABLE: torch.zeros(40, 32), layer: torch.zeros(33, 5), "classifier.linear.bias": torch.zeros(3)}
    parameters = [
        (n, nn.Parameter(original.to(torch.float32 if "classifier" in n else dtype, copy=True)))
        for n, original in originals.items()
    ]
    encoder = EncoderOfGradients()
    settings = config(clip="each", max_grad_norm=max_grad_norm, optimizer=name, weight_decay=0.0)
    optimizer = KernelAdamW(parameters, originals, settings, 0.01, encoder, 6)
    expected = {n: np.zeros(original.shape) for n, original in originals.items()}
    formulas = {n: Formula("adam", 0.01) for n in originals}
    for _ in range(6):
        total = {n: np.zeros(original.shape) for n, original in originals.items()}
        for part in range(num_parts):
            ids = np.sort(generator.choice(40, 7, replace=False)).astype(np.int32)
            rows = torch.from_numpy(generator.normal(size=(7, 32)).astype(np.float32))
            # in bfloat16, as a matrix's gradient comes from the encoder
            weight = torch.from_numpy(generator.normal(size=(33, 5)).astype(np.float32)).to(dtype)
            bias = torch.from_numpy(generator.uniform(-0.1, 0.1, 3).astype(np.float32))  # below the limit of 1
            encoder.before_tokens(ids)
            names = (TABLE.removeprefix("encoder."), layer.removeprefix("encoder."))
            encoder.given = dict(zip(names, (RowGradients(ids, rows), weight), strict=True))
            parameters[2][1].grad = bias
            optimizer.collect_gradients(part, num_parts)
            total[TABLE][ids] += rows.numpy()
            total[layer] += weight.float().numpy()
            total["classifier.linear.bias"] += bias.numpy()
        optimizer.step(1.0)
        for n, gradient in total.items():
            clipped = clipped_each(gradient, max_grad_norm) if max_grad_norm else gradient
            expected[n] = formulas[n].update(expected[n], clipped)
    for n, state in optimizer.master_state().items():
        np.testing.assert_allclose(state.numpy(), expected[n], atol=3e-6, rtol=3e-5, err_msg=n)
        assert torch.equal(dict(parameters)[n].data, state.to(dict(parameters)[n].dtype))


@with_kernels
def test_a_gradient_that_is_no_number_is_found_when_each_is_clipped():
    originals, parameters = start(torch.float32)
    encoder = EncoderOfGradients()
    optimizer = KernelAdamW(parameters, originals, config(clip="each"), 0.05, encoder, 1)
    encoder.given = {
        TABLE.removeprefix("encoder."): RowGradients(np.array([3], np.int32), torch.full((1, 32), float("inf")))
    }
    parameters[1][1].grad = torch.zeros(21)
    optimizer.collect_gradients()
    optimizer.step(1.0)
    with pytest.raises(TrainingError, match="largest weight is nan"):
        optimizer.check_weights(1, 0.05)
