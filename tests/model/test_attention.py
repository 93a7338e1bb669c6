"""Every kernel equals plain math, forward and backward."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.model.attention import attend, choose_kernel

LENGTHS = [
    [1],
    [7],
    [5, 5, 5],
    [1, 2, 3, 40, 41, 39, 7],
    [64, 3, 64, 60, 9, 1],
]


def starts_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def case(lengths, heads=3, head_dim=8, one_query=False, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    num_queries = len(lengths) if one_query else num_tokens
    shapes = [(num_queries, heads, head_dim)] + [(num_tokens, heads, head_dim)] * 2
    q, k, v = (torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes)
    key_starts = starts_of(lengths).to(device)
    query_starts = torch.arange(len(lengths) + 1, dtype=torch.int32, device=device) if one_query else key_starts
    return q, k, v, query_starts, key_starts, 1 if one_query else max(lengths), max(lengths)


def run(arguments, kernel, **options):
    """Output, and gradients of q, k and v for a fixed random gradient of the output."""
    q, k, v = arguments[:3]
    out = attend(*arguments, kernel=kernel, **options)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return out, *torch.autograd.grad(out, (q, k, v), grad)


def test_plain_is_the_formula():
    """A text of two tokens, one head of width 1, worked by hand: softmax([0, ln 3]) = [1/4, 3/4]."""
    q = torch.tensor([0.0, math.log(3.0)]).view(2, 1, 1)
    k = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    v = torch.tensor([8.0, 4.0]).view(2, 1, 1)
    starts = torch.tensor([0, 2], dtype=torch.int32)
    out = attend(q, k, v, starts, starts, 2, 2, kernel="plain")
    torch.testing.assert_close(out.flatten(), torch.tensor([6.0, 5.0]))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("one_query", [False, True])
@pytest.mark.parametrize("kernel", ["blocks", "sdpa"])
def test_the_kernels_equal_plain_in_float32(lengths, one_query, kernel):
    arguments = case(lengths, one_query=one_query)
    for ours, reference in zip(run(arguments, kernel), run(arguments, "plain"), strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("one_query", [False, True])
@pytest.mark.parametrize("kernel", ["blocks", "sdpa"])
def test_in_bfloat16_the_kernels_err_less_than_three_times_plain(one_query, kernel):
    """Low precision is right when its error is under 3 times the reference's own low-precision error."""
    exact = run(case(LENGTHS[4], one_query=one_query), "plain")
    low = case(LENGTHS[4], one_query=one_query, dtype=torch.bfloat16)
    for ours, reference, truth in zip(run(low, kernel), run(low, "plain"), exact, strict=True):
        error, allowed = (ours.float() - truth).abs().max(), (reference.float() - truth).abs().max()
        assert error <= 3 * allowed + 1e-6


def test_blocks_gradients_pass_the_numeric_check():
    q, k, v, *rest = case([3, 1, 4], heads=2, head_dim=3)
    inputs = tuple(x.detach().double().requires_grad_() for x in (q, k, v))
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, *rest, kernel="blocks"), inputs)


def test_blocks_gradients_under_dropout_pass_the_numeric_check():
    q, k, v, *rest = case([3, 1, 4], heads=2, head_dim=3)
    inputs = tuple(x.detach().double().requires_grad_() for x in (q, k, v))

    def same_dropout(q, k, v):
        torch.manual_seed(5)
        return attend(q, k, v, *rest, dropout=0.4, kernel="blocks")

    assert torch.autograd.gradcheck(same_dropout, inputs)


def test_dropout_keeps_the_mean():
    """1,600 copies of one text in one call: their mean is what no dropout gives, up to 6 standard errors."""
    copies = 1600
    q, k, v, *rest = case([12])
    many = [x.detach().repeat(copies, 1, 1) for x in (q, k, v)]
    starts = 12 * torch.arange(copies + 1, dtype=torch.int32)
    torch.manual_seed(0)
    dropped = attend(*many, starts, starts, 12, 12, dropout=0.3, kernel="blocks").view(copies, 12, 3, 8)
    expected = attend(q, k, v, *rest, kernel="plain")
    assert dropped.std(0).min() > 0
    assert ((dropped.mean(0) - expected).abs() < 6 * dropped.std(0) / copies**0.5).all()


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), one_query=st.booleans())
def test_blocks_equal_plain_for_any_lengths(lengths, one_query):
    arguments = case(lengths, heads=2, head_dim=4, one_query=one_query)
    for ours, reference in zip(run(arguments, "blocks"), run(arguments, "plain"), strict=True):
        torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["plain", "blocks", "sdpa"])
def test_unused_capacity_behind_the_last_text_gives_zeros(kernel):
    q, k, v, query_starts, key_starts, *longest = case([4, 2])
    padded = [torch.cat([x, torch.full_like(x[:3], 7.0)]) for x in (q, k, v)]
    out = attend(*padded, query_starts, key_starts, *longest, kernel=kernel)
    torch.testing.assert_close(out[:6], attend(q, k, v, query_starts, key_starts, *longest, kernel="plain"))
    assert not out[6:].any()


def test_the_choice_of_kernel_says_why():
    assert choose_kernel(torch.device("cpu"), torch.bfloat16, 0.0, 32)[0] == "blocks"
    kernel, reason = choose_kernel(torch.device("cuda"), torch.float32, 0.0, 32)
    assert kernel == "sdpa"
    assert "float32" in reason
    kernel, reason = choose_kernel(torch.device("cuda"), torch.bfloat16, 0.1, 32)
    assert kernel == "sdpa"
    assert "0.1" in reason
    kernel, reason = choose_kernel(torch.device("cuda"), torch.bfloat16, 0.0, 20)
    assert kernel == "sdpa"
    assert "20" in reason


def test_varlen_refuses_dropout():
    with pytest.raises(ValueError, match=r"0\.1"):
        attend(*case([3]), dropout=0.1, kernel="varlen")


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("one_query", [False, True])
def test_varlen_errs_less_than_three_times_plain(lengths, one_query):
    exact = run(case(lengths, head_dim=32, one_query=one_query, device="cuda"), "plain")
    low = case(lengths, head_dim=32, one_query=one_query, dtype=torch.bfloat16, device="cuda")
    for ours, reference, truth in zip(run(low, "varlen"), run(low, "plain"), exact, strict=True):
        error, allowed = (ours.float() - truth).abs().max(), (reference.float() - truth).abs().max()
        assert error <= 3 * allowed + 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kernel", ["blocks", "sdpa"])
def test_the_kernels_equal_plain_on_the_gpu(lengths, kernel):
    arguments = case(lengths, device="cuda")
    for ours, reference in zip(run(arguments, kernel), run(arguments, "plain"), strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
