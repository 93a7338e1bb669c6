"""The encoder by C kernels computes what the encoder by PyTorch's operators does, forward and backward."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from bertwright.hardware import cpu_int8_feature
from bertwright.model import compiled
from bertwright.model.batch import Batch, pack
from bertwright.model.compiled import load_kernels
from bertwright.model.cpu_encoder import CpuEncoder, RowGradients, why_not
from bertwright.model.cpu_int8 import quantize_weights
from bertwright.model.encoder import Encoder, ModelConfig

CPU = torch.device("cpu")
FOUND = load_kernels()
LENGTHS = (5, 1, 17, 33, 64, 100, 16, 48, 2, 31)

pytestmark = pytest.mark.skipif(FOUND.kernels is None, reason=f"no C kernels here: {FOUND.reason}")
DTYPES = [torch.float32] + [torch.bfloat16] * (FOUND.kernels is not None and FOUND.kernels.has_bf16_products)


def shape(**changes) -> ModelConfig:
    return ModelConfig(
        **{
            "vocab_size": 100,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **changes,
        }
    )


def encoders(config: ModelConfig, dtype: torch.dtype) -> tuple[Encoder, Encoder, Encoder]:
    """The same weights three times: in float64, in ``dtype`` by PyTorch, in ``dtype`` by the kernels."""
    generator = torch.Generator().manual_seed(0)
    exact = Encoder(config)
    for name, parameter in exact.named_parameters():
        size = 0.12 if parameter.dim() > 1 else 0.2
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        parameter.data = (centre + size * torch.randn(parameter.shape, generator=generator)).to(dtype).float()
    plain, ours = Encoder(config), Encoder(config)
    plain.load_state_dict(exact.state_dict())
    ours.load_state_dict(exact.state_dict())
    plain.to(dtype)
    ours.to(dtype)
    assert why_not(ours, CPU, dtype) is None
    ours.fast = CpuEncoder.of(ours)
    return exact.double(), plain, ours


def batch_of(lengths=LENGTHS, segments=False) -> Batch:
    generator = np.random.default_rng(0)
    batch = pack([generator.integers(0, 100, length) for length in lengths])
    if segments:
        segment_ids = torch.from_numpy(generator.integers(0, 2, batch.num_tokens))
        return Batch(**{**batch.__dict__, "segment_ids": segment_ids})
    return batch


def dense(gradient, like: torch.Tensor) -> torch.Tensor:
    if isinstance(gradient, RowGradients):
        whole = torch.zeros(like.shape)
        whole[torch.from_numpy(gradient.rows).long()] = gradient.values
        return whole
    return gradient.float()


def errors(ours: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """Of ours and of PyTorch's own, as shares of the largest exact value."""
    largest = float(exact.abs().max()) + 1e-12
    return tuple(float((x.double() - exact).abs().max()) / largest for x in (ours, plain))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("only_first", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("case", ["short", "segments", "long"])
def test_it_equals_the_formulas_forward_and_backward(dtype, only_first, heads, case):
    exact, plain, ours = encoders(shape(num_attention_heads=heads, max_position_embeddings=512), dtype)
    batch = batch_of((512, 220, 3, 129), False) if case == "long" else batch_of(segments=case == "segments")
    outputs = [encoder(batch, only_first) for encoder in (ours, plain, exact)]
    error, error_of_plain = errors(*(output.detach() for output in outputs))
    assert error < (3 * error_of_plain if dtype == torch.bfloat16 else 1e-5)
    grad = torch.randn(outputs[-1].shape, generator=torch.Generator().manual_seed(1))
    for output in outputs:
        output.backward(grad.to(output.dtype))
    found = ours.fast.gradients()
    plain_parameters = dict(plain.named_parameters())
    assert set(found) == set(plain_parameters)
    for name, parameter in exact.named_parameters():
        if name.endswith("key.bias"):
            # Adding a constant to all keys changes nothing: 0 but for rounding, which PyTorch's own has too.
            size, allowed = (float(dense(g, parameter).abs().max()) for g in (found[name], plain_parameters[name].grad))
            assert size <= 4 * allowed + 1e-5, (name, size, allowed)
            continue
        error, error_of_plain = errors(dense(found[name], parameter), plain_parameters[name].grad, parameter.grad)
        if dtype == torch.bfloat16:
            assert error <= 3 * error_of_plain + 1e-3, (name, error, error_of_plain)
        else:
            assert error <= max(1e-5, 10 * error_of_plain), (name, error, error_of_plain)


@pytest.mark.skipif(len(DTYPES) == 1, reason="this CPU does not multiply bfloat16 fast")
@pytest.mark.parametrize("head", [16, 32])
def test_without_tiles_it_equals_the_formulas_too(head, monkeypatch):
    monkeypatch.setattr(FOUND.kernels, "has_tile_products", False)
    exact, plain, ours = encoders(shape(num_attention_heads=64 // head), torch.bfloat16)
    batch = batch_of()
    outputs = [encoder(batch, False) for encoder in (ours, plain, exact)]
    assert "tiles" not in ours.fast.describe()
    error, error_of_plain = errors(*(output.detach() for output in outputs))
    assert error < 3 * error_of_plain
    for output in outputs:
        output.sum().backward()
    found = ours.fast.gradients()
    for name, parameter in exact.named_parameters():
        if not name.endswith("key.bias"):
            like = dict(plain.named_parameters())[name].grad
            error, error_of_plain = errors(dense(found[name], parameter), like, parameter.grad)
            assert error <= 3 * error_of_plain + 2e-3, (name, error, error_of_plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_gradients_it_equals_itself_with_gradients(dtype):
    _, _, ours = encoders(shape(), dtype)
    batch = batch_of()
    with_gradients = ours(batch, True).detach().clone()
    with torch.inference_mode():
        without = ours(batch, True)
        assert torch.equal(without, ours(batch, True))
    # In float32 the products of few rows are another kernel's without gradients.
    torch.testing.assert_close(with_gradients, without, rtol=0, atol=0 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("lengths", [LENGTHS, (5, 17, 33)], ids=["many", "few"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_follow_the_weights(dtype, lengths):
    """Whoever changes them: in place between two scorings, or training by the kernels' optimizer."""
    config = shape()
    _, _, ours = encoders(config, dtype)
    batch = batch_of(lengths)

    def scored(encoder: Encoder) -> torch.Tensor:
        with torch.inference_mode():
            return encoder(batch, True).float().clone()

    def scored_anew() -> torch.Tensor:
        copy = Encoder(config).to(dtype)
        copy.load_state_dict(ours.state_dict())
        copy.fast = CpuEncoder.of(copy)
        return scored(copy)

    first = scored(ours)
    with torch.no_grad():
        ours.layers[1].feed_forward.expand.weight.mul_(2)
    second = scored(ours)
    assert not torch.equal(first, second)
    assert torch.equal(second, scored_anew())
    ours(batch, True).sum().backward()
    weight = ours.layers[0].attention.output.weight
    (weight.data.view(torch.int16) if dtype == torch.bfloat16 else weight.data.view(torch.int32)).numpy()[:] = 0
    third = scored(ours)
    assert not torch.equal(second, third), "written past PyTorch, as the optimizer does after a training pass"
    assert torch.equal(third, scored_anew())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_text_computes_the_same_alone_and_in_company(dtype):
    _, _, ours = encoders(shape(), dtype)
    generator = np.random.default_rng(0)
    texts = [generator.integers(0, 100, length) for length in LENGTHS]
    with torch.inference_mode():
        together = ours(pack(texts), True).float().clone()
        for i, text in enumerate(texts):
            alone = ours(pack([text]), True).float()
            assert float((alone[0] - together[i]).abs().max()) < (1e-5 if dtype == torch.float32 else 0.05)


def test_threads_take_turns():
    _, _, ours = encoders(shape(), torch.float32)
    generator = np.random.default_rng(0)
    batches = [
        pack([generator.integers(0, 100, length) for length in lengths]) for lengths in ((100, 90), (5,), (64,) * 8)
    ]

    def compute(batch: Batch) -> torch.Tensor:
        with torch.inference_mode():
            return ours(batch, True)

    alone = [compute(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(compute, batches * 20))
    for i, found in enumerate(together):
        assert torch.equal(found, alone[i % 3])


def test_dropout_drops_its_share_scales_the_rest_and_differs_by_seed():
    config = shape(hidden_dropout_prob=0.3, num_hidden_layers=1)
    _, _, ours = encoders(config, torch.float32)
    ours.train()
    batch = batch_of((128,) * 8)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(ours(batch, False).detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    # The embedding's dropout alone can be seen from outside: what it drops is exactly 0.
    embedded = ours.fast._take_rows("x0", batch.num_tokens, 64)[: batch.num_tokens]
    assert abs(float((embedded == 0).float().mean()) - 0.3) < 0.005
    ours.eval()
    ours(batch, False)
    plain = ours.fast._take_rows("x0", batch.num_tokens, 64)[: batch.num_tokens].clone()
    ours.train()
    ours(batch, False)
    dropped = ours.fast._take_rows("x0", batch.num_tokens, 64)[: batch.num_tokens]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], plain[kept] / 0.7)
    rows = kept.float().mean(dim=1)
    assert float(rows.min()) > 0.3
    assert float(rows.std()) < 0.075  # sqrt(0.3 * 0.7 / 64) is 0.057


@pytest.mark.parametrize("settings", [{"hidden_dropout_prob": 0.2}, {"attention_probs_dropout_prob": 0.2}], ids=str)
@pytest.mark.parametrize("only_first", [False, True])
def test_with_dropout_the_gradients_are_those_of_what_was_computed(settings, only_first):
    """Against finite differences, with the same numbers drawn each time."""
    _, _, ours = encoders(shape(num_hidden_layers=2, **settings), torch.float32)
    ours.train()
    batch = batch_of((5, 20, 33))
    direction = torch.randn(64, generator=torch.Generator().manual_seed(2))

    def value() -> torch.Tensor:
        torch.manual_seed(3)
        return (ours(batch, only_first) @ direction).sum()

    value().backward()
    found = {name: dense(g, ours.get_parameter(name)).clone() for name, g in ours.fast.gradients().items()}
    for name in (
        "layers.0.attention.value.weight",
        "layers.0.attention.query.weight",
        "layers.1.feed_forward.expand.bias",
    ):
        parameter = ours.get_parameter(name)
        step = 1e-2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
        slope = float((found[name] * step).sum())
        with torch.no_grad():
            parameter += step
            above = float(value())
            parameter -= 2 * step
            below = float(value())
            parameter += step
        assert slope == pytest.approx((above - below) / 2, rel=0.03, abs=1e-3), name


def test_attention_dropout_drops_its_share():
    """Values that are all 1 are read as the sum of the kept weights: their mean over many is 1, and they vary."""
    _, _, ours = encoders(shape(num_hidden_layers=1, attention_probs_dropout_prob=0.25), torch.float32)
    attention = ours.layers[0].attention
    with torch.no_grad():
        attention.value.weight.zero_()
        attention.value.bias.fill_(1.0)
    ours.train()
    batch = batch_of((64,) * 40)
    ours(batch, False)
    sums = ours.fast._take_rows("read0", batch.num_tokens, 64).view(-1, 2, 32)[:, :, 0]
    assert abs(float(sums.mean()) - 1) < 0.01
    assert 0.02 < float(sums.std()) < 0.2  # of 64 weights of like size: sqrt(0.25 / 0.75 / 64) is 0.07
    ours.eval()
    ours(batch, False)
    torch.testing.assert_close(sums, torch.ones_like(sums))  # the same memory, written anew


def test_only_the_rows_of_the_batch_have_a_gradient_and_the_hook_sees_them_first():
    _, _, ours = encoders(shape(), torch.float32)
    seen = []
    ours.fast.before_tokens = lambda ids: seen.append(ids.tolist())
    batch = pack([np.array([7, 3, 7, 90])])
    ours(batch, True).sum().backward()
    assert seen == [[3, 7, 90]]
    assert ours.fast.gradients()["embeddings.token.weight"].rows.tolist() == [3, 7, 90]


def test_ids_and_positions_outside_their_tables_are_refused():
    _, _, ours = encoders(shape(), torch.float32)
    for ids in (np.array([5, 100]), np.array([-1, 5]), np.arange(129) % 100):
        with pytest.raises(IndexError):
            ours(pack([ids]), True)


def test_parameters_of_another_dtype_send_the_work_back_to_pytorch():
    _, _, ours = encoders(shape(), torch.float32)
    ours.double()
    assert not ours.fast.is_current()
    assert ours(batch_of(), True).dtype == torch.float64


def test_loaded_weights_are_the_ones_computed_with():
    _, plain, ours = encoders(shape(), torch.float32)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(0.5)
    ours.load_state_dict(plain.state_dict())
    batch = batch_of()
    torch.testing.assert_close(ours(batch, False), plain(batch, False), atol=1e-5, rtol=1e-5)


def test_what_the_kernels_cannot_compute_is_said():
    assert "cuda" in why_not(Encoder(shape()), torch.device("cuda"), torch.float32)
    assert "float16" in why_not(Encoder(shape()), CPU, torch.float16)
    narrow = Encoder(shape(num_attention_heads=8))
    assert "multiple of 16" in why_not(narrow, CPU, torch.float32)


def run_python(code: str, **environment: str) -> str:
    """What a new process prints; its environment is this one's with changes."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.strip()


REASON = (
    "from bertwright.model.compiled import load_kernels; f = load_kernels(); print(f.kernels is not None, f.reason)"
)


def test_they_are_compiled_once_and_then_taken_from_the_cache(tmp_path):
    assert run_python(REASON, XDG_CACHE_HOME=str(tmp_path)).startswith("True C kernels, compiled by")
    assert run_python(REASON, XDG_CACHE_HOME=str(tmp_path)) == "True C kernels, from the cache"


def test_without_a_compiler_or_a_safe_cache_pytorch_computes_and_the_reason_is_said(tmp_path):
    nothing = str(tmp_path / "empty")
    assert "False no C compiler" in run_python(REASON, PATH=nothing, CC="", XDG_CACHE_HOME=str(tmp_path))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'cc: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "out of order" in run_python(REASON, CC=str(broken), XDG_CACHE_HOME=str(tmp_path))
    (tmp_path / "bertwright").mkdir(exist_ok=True)
    (tmp_path / "bertwright").chmod(0o777)
    assert "can be written to by others" in run_python(REASON, XDG_CACHE_HOME=str(tmp_path))
    assert run_python(REASON, BERTWRIGHT_KERNELS="off").startswith("False switched off")


def test_the_source_of_the_kernels_is_part_of_the_package():
    assert all((compiled._FOLDER / name).is_file() for name in (*compiled._SOURCES, *compiled._HEADERS))


@pytest.mark.skipif(cpu_int8_feature() is None, reason="this CPU does not multiply 8-bit integers fast")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("only_first", [False, True])
def test_in_8_bits_it_is_close_and_cannot_learn(dtype, only_first):
    exact, _, ours = encoders(shape(), torch.float32)
    small = quantize_weights(ours)
    ours.to(dtype)
    ours.fast = CpuEncoder.of(ours, small)
    batch = batch_of()
    with pytest.raises(ValueError, match="cannot learn"):
        ours(batch, only_first)
    with torch.inference_mode():
        expected = exact(batch, only_first)
        found = ours(batch, only_first).double()
    # Each of a few roundings to 1 in 254 of the largest value; the norms keep the scale at 1.
    assert 0 < float((found - expected).pow(2).mean().sqrt()) < 0.02


def test_weights_in_8_bits_are_within_half_a_step():
    _, _, ours = encoders(shape(), torch.float32)
    matrix = quantize_weights(ours)[0]["expand"]
    weight = ours.layers[0].feed_forward.expand.weight.detach()
    restored = matrix.weights.t().float() * matrix.scales[:, None]
    assert bool(((restored - weight).abs() <= matrix.scales[:, None] * 0.501).all())
    assert matrix.weights.abs().amax(dim=0).tolist() == [127] * 128
