"""The encoder's matrix products on a CPU against the same in float64, of the same rounded factors."""

import pytest
import torch
from torch.nn import functional

from bertwright.model.compiled import load_kernels
from bertwright.model.cpu_products import PanelProducts, TileProducts, TorchProducts

FOUND = load_kernels()
KERNELS = FOUND.kernels
HALF = KERNELS is not None and KERNELS.has_bf16_products
TILES = KERNELS is not None and KERNELS.has_tile_products
no_tiles = pytest.mark.skipif(not TILES, reason="this CPU has no AMX tiles")

pytestmark = pytest.mark.skipif(KERNELS is None, reason=f"no C kernels here: {FOUND.reason}")

# (rows, hidden, inner): one block; few rows; odd numbers of panels; more rows than one chunk; more sums than one group
SHAPES = [(32, 32, 32), (32, 64, 256), (96, 96, 160), (64, 384, 1536), (1312, 96, 224), (992, 768, 1536)]


def products(name: str) -> tuple[TileProducts | TorchProducts, torch.dtype, float]:
    """The products, their dtype and the error that its rounding may make, as a share of the largest value."""
    if name == "tiles":
        return TileProducts(KERNELS), torch.bfloat16, 0.006
    if name == "torch-bf16":
        return TorchProducts(KERNELS.bf16), torch.bfloat16, 0.012
    if name == "panels":
        panels = PanelProducts(KERNELS.float, KERNELS)
        panels.expect("weights that stay as they are")
        return panels, torch.float32, 1e-5
    return TorchProducts(KERNELS.float), torch.float32, 1e-5


NAMES = [
    pytest.param("tiles", marks=no_tiles),
    pytest.param("torch-bf16", marks=pytest.mark.skipif(not HALF, reason="this CPU does not multiply bfloat16 fast")),
    "torch-float32",
    "panels",
]


class Work:
    """Random factors in ``dtype``, and their exact values."""

    def __init__(self, rows: int, hidden: int, inner: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int, size: float = 1.0) -> torch.Tensor:
            return (size * torch.randn(shape, generator=generator)).to(dtype)

        self.dtype = dtype
        self.x = random(rows, hidden)
        self.dy = random(rows, hidden)
        self.expand, self.contract = random(inner, hidden, size=hidden**-0.5), random(hidden, inner, size=inner**-0.5)
        self.bias = random(inner)
        self.partials = torch.empty(3 * KERNELS.num_threads(), max(hidden, inner))

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.full(shape, float("nan"), dtype=dtype or self.dtype)


def off_by(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_and_their_gradients_are_those_of_exact_math(name, shape):
    (rows, _, inner), (ours, dtype, limit) = shape, products(name)
    work = Work(*shape, dtype)

    y = work.empty(rows, inner)
    ours.product(0, "expand", work.x, work.expand, work.bias, y)
    exact = work.x.double() @ work.expand.double().t()
    assert off_by(y, exact + (work.bias.double() if ours.adds_bias else 0)) < limit

    dx = work.empty(rows, inner)
    ours.input_gradient(work.dy, work.contract, dx)
    assert off_by(dx, work.dy.double() @ work.contract.double()) < limit

    for dy, x in ((dx, work.x), (work.dy, y), (work.dy, work.x)):
        dw, dbias = work.empty(dy.shape[1], x.shape[1]), work.empty(1, dy.shape[1], dtype=torch.float32)
        ours.weight_gradient(dy, x, dw, work.partials, dbias)
        assert off_by(dw, dy.double().t() @ x.double()) < limit
        assert off_by(dbias, dy.double().sum(0, keepdim=True)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_feed_forward_block_is_that_of_exact_math(name, shape):
    (rows, hidden, inner), (ours, dtype, limit) = shape, products(name)
    work = Work(*shape, dtype)
    h, a, y = work.empty(rows, inner), work.empty(rows, inner), work.empty(rows, hidden)
    ours.expand(work.x, work.expand, work.bias, h, a)
    ours.contract(a, work.contract, y)
    dcontract, dh = work.empty(hidden, inner), work.empty(rows, inner)
    ours.contract_gradients(work.dy, a, h, work.contract, work.bias, dcontract, dh, work.partials)
    dexpand, dbias, dx = work.empty(inner, hidden), work.empty(1, inner, dtype=torch.float32), work.empty(rows, hidden)
    ours.expand_gradients(dh, work.x, work.expand, dexpand, dbias, dx, work.partials)

    x, expand, bias, contract = (
        tensor.double().requires_grad_() for tensor in (work.x, work.expand, work.bias, work.contract)
    )
    exact = functional.gelu(x @ expand.t() + bias) @ contract.t()
    exact.backward(work.dy.double())
    limit *= 2  # three roundings one after the other
    assert off_by(y, exact.detach()) < limit
    for gradient, of in ((dcontract, contract), (dexpand, expand), (dbias, bias), (dx, x)):
        assert off_by(gradient.view(of.shape), of.grad) < limit

    scored, y2 = work.empty(rows, inner), work.empty(rows, hidden)
    ours.expand(work.x, work.expand, work.bias, None, scored)
    ours.contract(scored, work.contract, y2)
    assert torch.equal(y, y2)


@no_tiles
def test_gelu_next_to_tiles_is_as_exact_as_is_said():
    """One row of weights picks one number of x, so that h is any number; far outside, GELU is 0 or x."""
    values = torch.cat([torch.linspace(-9, 9, 4094), torch.tensor([-1e30, 1e30])]).bfloat16()
    x = torch.zeros(4096, 32, dtype=torch.bfloat16)
    x[:, 0] = values
    weight = torch.zeros(32, 32, dtype=torch.bfloat16)
    weight[:, 0] = 1
    bias = torch.zeros(32, dtype=torch.bfloat16)
    h, a = torch.empty(4096, 32, dtype=torch.bfloat16), torch.empty(4096, 32, dtype=torch.bfloat16)
    ours = TileProducts(KERNELS)
    ours.expand(x, weight, bias, h, a)
    assert torch.equal(h[:, 0], values)
    exact = functional.gelu(values.double())
    rounding = values.double().abs() * 1e-6  # of the share, which is 0 or 1 far outside
    assert ((a[:, 0].double() - exact).abs() <= 1.4e-4 + exact.abs() / 256 + rounding).all()

    da, dh = torch.zeros(4096, 32, dtype=torch.bfloat16), torch.empty(4096, 32, dtype=torch.bfloat16)
    da[:, 0] = 1
    dcontract = torch.empty(32, 32, dtype=torch.bfloat16)
    only_first = torch.zeros(32, 32, dtype=torch.bfloat16)
    only_first[0] = 1
    ours.contract_gradients(da, a, h, only_first, bias, dcontract, dh, torch.empty(3, 32))
    exact_values = values.double().requires_grad_()
    functional.gelu(exact_values).sum().backward()
    assert ((dh[:, 0].double() - exact_values.grad).abs() <= 2.3e-4 + exact_values.grad.abs() / 256).all()


@no_tiles
def test_packed_weights_are_used_again_until_the_weights_change():
    ours = TileProducts(KERNELS)
    x = torch.eye(32, dtype=torch.bfloat16)
    weight = torch.randn(32, 32).bfloat16()
    y = torch.empty_like(weight)

    def multiplied(state: object | None) -> torch.Tensor:
        ours.expect(state)
        ours.product(0, "any", x, weight, None, y)
        return y.clone()

    first = multiplied(1)
    assert torch.equal(first, weight.t())
    weight.mul_(2)
    assert torch.equal(multiplied(1), first), "the same state was promised, so nothing is packed anew"
    assert torch.equal(multiplied(2), weight.t())
    weight.mul_(2)
    assert torch.equal(multiplied(None), weight.t())
    weight.mul_(2)
    assert torch.equal(multiplied(None), weight.t())
    assert torch.equal(multiplied(2), weight.t()), "between, the weights were changing"


@no_tiles
def test_results_do_not_depend_on_the_number_of_threads():
    ours, dtype, _ = products("tiles")
    work = Work(992, 96, 160, dtype)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            h, a, y = work.empty(992, 160), work.empty(992, 160), work.empty(992, 96)
            dw, dbias = work.empty(96, 96), work.empty(1, 96, dtype=torch.float32)
            ours.expand(work.x, work.expand, work.bias, h, a)
            ours.contract(a, work.contract, y)
            ours.weight_gradient(work.dy, work.x, dw, work.partials, dbias)
            found.append((h, a, y, dw, dbias))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def panel_products(rows: int, outputs: int, inputs: int = 40) -> tuple[PanelProducts, tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    return PanelProducts(KERNELS.float, KERNELS), (x, weight, torch.full((rows, outputs), float("nan")))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 11, 13, 64, PanelProducts.most_rows, PanelProducts.most_rows + 1])
@pytest.mark.parametrize("outputs", [64, 192, 200])
def test_any_number_of_rows_is_multiplied_from_panels_or_where_they_do_not_fit_without(rows, outputs):
    ours, (x, weight, y) = panel_products(rows, outputs)
    ours.expect(1)
    ours.product(0, "any", x, weight, None, y)
    assert off_by(y, x.double() @ weight.double().t()) < 1e-6
    fits = rows <= PanelProducts.most_rows and outputs % KERNELS.panel_columns == 0
    assert len(ours._held) == int(fits)


def test_panels_are_made_once_for_a_state_of_the_weights_and_never_while_they_change():
    ours, (x, weight, y) = panel_products(8, 64)
    ours.product(0, "any", x, weight, None, y)
    assert not ours._held
    for state in (1, 1, 2):
        if state == 2:
            weight += 1
        ours.expect(state)
        ours.product(0, "any", x, weight, None, y)
        assert off_by(y, x.double() @ weight.double().t()) < 1e-6
        held = ours._held[weight.data_ptr(), weight.numel()]
        if state == 1:
            first = held
        assert (held is first) == (state == 1)
    ours.expect(None)
    assert not ours._held


def test_parts_of_a_weight_that_begin_at_the_same_place_have_panels_of_their_own():
    ours, (x, weight, y) = panel_products(4, 192)
    ours.expect(1)
    for part in (weight[:64], weight, weight[64:]):
        y = torch.empty(4, len(part))
        ours.product(0, "any", x, part, None, y)
        assert off_by(y, x.double() @ part.double().t()) < 1e-6
    assert len(ours._held) == 3
