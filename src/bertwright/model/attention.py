"""Scaled dot-product attention over texts that lie end to end.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(head_dim)) V        Vaswani et al. 2017, arXiv 1706.03762, equation 1

Every text attends to itself alone. ``attend`` is the one way in; the kernels behind it compute the same function:

    plain    text by text, straight from the formula: the reference
    blocks   texts of like length stacked into padded blocks, with a backward pass of our own (CPU, and any device)
    sdpa     the same blocks through PyTorch's scaled_dot_product_attention (GPUs where varlen does not fit)
    varlen   PyTorch's variable-length flash attention (CUDA, half precision, without dropout)

On CPUs with the C kernels, ``bertwright.model.cpu_encoder`` has an attention of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

Kernel = Literal["plain", "blocks", "sdpa", "varlen"]

# Texts share a block while the shortest has at least this share of the longest's tokens. Lower wastes products on
# padding, higher makes more and smaller blocks.
_LIKE_LENGTH = 0.75


def choose_kernel(device: torch.device, dtype: torch.dtype, dropout: float, head_dim: int) -> tuple[Kernel, str]:
    """The fastest kernel for this device, dtype, attention dropout and head width, and the reason in words."""
    if device.type != "cuda":
        return "blocks", "blocks of like length: the fastest by PyTorch's operators without a CUDA device"
    if dtype not in (torch.bfloat16, torch.float16):
        return "sdpa", f"padded blocks: the flash kernel computes in half precision, not in {dtype}"
    if dropout > 0:
        return "sdpa", f"padded blocks: the flash kernel has no attention dropout (found {dropout})"
    if head_dim % 8 or head_dim > 256:
        return "sdpa", f"padded blocks: the flash kernel takes no heads of width {head_dim}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "sdpa", "padded blocks: the flash kernel needs compute capability 8.0 or newer"
    return "varlen", "variable-length flash attention"


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    max_query: int,
    max_key: int,
    dropout: float = 0.0,
    kernel: Kernel | None = None,
) -> Tensor:
    """What each query reads: (query tokens, heads, head_dim), in the order of the queries.

    Args:
        q: (query tokens, heads, head_dim). May hold fewer tokens than ``k``: the last layer asks for one a text.
        k, v: (key tokens, heads, head_dim).
        query_starts: (sequences + 1,) int32, where each text's queries start in ``q``.
        key_starts: (sequences + 1,) int32, where each text's keys start in ``k``.
        max_query, max_key: most queries and keys of one text.
        dropout: probability that an attention weight is set to 0 (the rest are scaled up). 0 outside training.
        kernel: which kernel; the fastest that fits if None.

    Tokens of ``q`` behind the last text (unused capacity) give zeros; the varlen kernel must be given none.
    """
    if kernel is None:
        kernel, _ = choose_kernel(q.device, q.dtype, dropout, q.shape[-1])
    if kernel == "plain":
        return _attend_plain(q, k, v, query_starts, key_starts, dropout)
    if kernel == "blocks":
        return _AttendBlocks.apply(q, k, v, query_starts, key_starts, dropout)
    if kernel == "sdpa":
        return _attend_sdpa(q, k, v, query_starts, key_starts, dropout)
    if dropout > 0:
        raise ValueError(f"the varlen kernel has no dropout; got {dropout}")
    from torch.nn.attention.varlen import varlen_attn

    read = varlen_attn(q, k, v, query_starts, key_starts, max_query, max_key)
    assert isinstance(read, Tensor)  # a tuple only where more is asked for
    return read


def _attend_plain(q: Tensor, k: Tensor, v: Tensor, query_starts: Tensor, key_starts: Tensor, dropout: float) -> Tensor:
    out = []
    query_bounds, key_bounds = query_starts.tolist(), key_starts.tolist()
    for i in range(len(query_bounds) - 1):
        queries = q[query_bounds[i] : query_bounds[i + 1]].transpose(0, 1)  # (heads, queries, head_dim)
        keys = k[key_bounds[i] : key_bounds[i + 1]].transpose(0, 1)  # (heads, keys, head_dim)
        values = v[key_bounds[i] : key_bounds[i + 1]].transpose(0, 1)
        weights = torch.softmax(queries @ keys.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1)
        if dropout > 0:
            weights = torch.nn.functional.dropout(weights, dropout)
        out.append((weights @ values).transpose(0, 1))  # (queries, heads, head_dim)
    unused = q.shape[0] - query_bounds[-1]
    if unused:
        out.append(q.new_zeros(unused, *q.shape[1:]))
    return torch.cat(out)


@dataclass(frozen=True)
class _Block:
    """Texts of like length, stacked.

    query_index (texts, queries) and key_index (texts, keys) say which flat token stands in each place; a place beyond
    its text repeats the text's last token and is marked in query_padding and key_padding (None: nothing is padded).
    query_real and key_real number the places that are no padding, (real places,), counted text after text.
    """

    query_index: Tensor
    key_index: Tensor
    query_padding: Tensor | None
    key_padding: Tensor | None
    query_real: Tensor | None
    key_real: Tensor | None

    def to(self, device: torch.device) -> _Block:
        return _Block(*(None if x is None else x.to(device, non_blocking=True) for x in vars(self).values()))  # type: ignore[arg-type]


def _stack(starts: Tensor, lengths: Tensor, longest: int, end: int) -> tuple[Tensor, Tensor | None]:
    """(texts, longest) flat indices, all below ``end``, and (texts, longest) which of them are padding, or None."""
    offsets = torch.arange(longest, device=starts.device)
    if int(lengths.min()) == longest:
        return starts[:, None] + offsets, None
    last = (lengths - 1).clamp(min=0)  # of a text without queries, any place that there is
    places = (starts[:, None] + torch.minimum(offsets, last[:, None])).clamp(max=end - 1)
    return places, offsets >= lengths[:, None]


# The blocks of the batch at hand: all its layers share them, and on a GPU making them waits for the device.
_MADE: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _blocks_of(query_starts: Tensor, key_starts: Tensor) -> list[_Block]:
    if query_starts is not key_starts:
        return _make_blocks(query_starts, key_starts)
    found = _MADE.get(key_starts)
    if found is None:
        found = _MADE[key_starts] = _make_blocks(query_starts, key_starts)
    return found


def _make_blocks(query_starts: Tensor, key_starts: Tensor) -> list[_Block]:
    """Group texts by their number of keys, longest first. On the device of ``key_starts``."""
    device = key_starts.device
    query_starts, key_starts = query_starts.cpu().long(), key_starts.cpu().long()
    query_lengths, key_lengths = query_starts.diff(), key_starts.diff()
    order = torch.argsort(key_lengths, descending=True, stable=True)
    sorted_lengths = key_lengths[order].tolist()
    blocks, first = [], 0
    for i in range(1, len(sorted_lengths) + 1):
        if i < len(sorted_lengths) and sorted_lengths[i] >= _LIKE_LENGTH * sorted_lengths[first]:
            continue
        texts = order[first:i]
        query_index, query_padding = _stack(
            query_starts[texts], query_lengths[texts], int(query_lengths[texts].max()), int(query_starts[-1])
        )
        key_index, key_padding = _stack(
            key_starts[texts], key_lengths[texts], sorted_lengths[first], int(key_starts[-1])
        )
        query_real, key_real = _real_places(query_padding), _real_places(key_padding)
        block = _Block(query_index, key_index, query_padding, key_padding, query_real, key_real)
        blocks.append(block if device.type == "cpu" else block.to(device))
        first = i
    return blocks


def _real_places(padding: Tensor | None) -> Tensor | None:
    return None if padding is None else (~padding).reshape(-1).nonzero()[:, 0]


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """(texts, heads, places, head_dim) of the flat (tokens, heads, head_dim)."""
    return x.index_select(0, index.reshape(-1)).view(*index.shape, *x.shape[1:]).transpose(1, 2)


def _real_rows(block: Tensor, index: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of (texts, heads, places, head_dim) what is no padding: its places (rows,), and (rows, heads, head_dim)."""
    places, rows = index.reshape(-1), block.transpose(1, 2).flatten(0, 1)
    return (places, rows) if real is None else (places[real], rows[real])


def _scatter(out: Tensor, block: Tensor, index: Tensor, real: Tensor | None) -> None:
    """Write (texts, heads, places, head_dim) to its flat places in ``out``, leaving padding out."""
    places, rows = _real_rows(block, index, real)
    out[places] = rows


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor, query_starts: Tensor, key_starts: Tensor, dropout: float) -> Tensor:
    places, rows = [], []
    for block in _blocks_of(query_starts, key_starts):
        mask = None if block.key_padding is None else ~block.key_padding[:, None, None, :]  # (texts, 1, 1, keys)
        read = torch.nn.functional.scaled_dot_product_attention(
            _gather(q, block.query_index),
            _gather(k, block.key_index),
            _gather(v, block.key_index),
            attn_mask=mask,
            dropout_p=dropout,
        )
        here, values = _real_rows(read, block.query_index, block.query_real)
        places.append(here)
        rows.append(values)
    return torch.zeros_like(q).index_copy(0, torch.cat(places), torch.cat(rows))


class _AttendBlocks(torch.autograd.Function):
    """Attention over blocks of like length. The backward pass follows from equation 1 by the chain rule:

    with S = Q K^T * scale, P = softmax(S), D = P with dropout, O = D V:
        dV = D^T dO      dD = dO V^T      dP = dD with the same dropout
        dS = P * (dP - rowsum(dP * P))    dQ = dS K * scale      dK = dS^T Q * scale
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, query_starts: Tensor, key_starts: Tensor, dropout: float
    ) -> Tensor:
        scale = 1.0 / math.sqrt(q.shape[-1])
        blocks = _blocks_of(query_starts, key_starts)
        needs_backward = any(ctx.needs_input_grad[:3])
        out = torch.zeros_like(q)
        kept: list[Tensor] = []
        for block in blocks:
            queries, keys, values = (
                _gather(q, block.query_index),
                _gather(k, block.key_index),
                _gather(v, block.key_index),
            )
            scores = torch.matmul(queries, keys.transpose(2, 3)).mul_(scale)  # (texts, heads, queries, keys)
            if block.key_padding is not None:
                scores.masked_fill_(block.key_padding[:, None, None, :], -math.inf)
            weights = torch.softmax(scores, dim=-1)
            used = weights
            if dropout > 0:
                keep = torch.empty_like(weights).bernoulli_(1.0 - dropout).div_(1.0 - dropout)
                used = weights * keep
            _scatter(out, torch.matmul(used, values), block.query_index, block.query_real)
            if needs_backward:
                kept += [weights, keep] if dropout > 0 else [weights]
        ctx.blocks, ctx.scale, ctx.dropout = blocks, scale, dropout
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        kept_tensors = iter(kept)
        for block in ctx.blocks:
            weights = next(kept_tensors)
            keep = next(kept_tensors) if ctx.dropout > 0 else None
            queries, keys, values = (
                _gather(q, block.query_index),
                _gather(k, block.key_index),
                _gather(v, block.key_index),
            )
            grad = _gather(grad_out, block.query_index)  # (texts, heads, queries, head_dim)
            if block.query_padding is not None:
                grad = grad.masked_fill(block.query_padding[:, None, :, None], 0.0)
            used = weights if keep is None else weights * keep
            block_grad_v = torch.matmul(used.transpose(2, 3), grad)
            grad_weights = torch.matmul(grad, values.transpose(2, 3))
            if keep is not None:
                grad_weights.mul_(keep)
            # softmax's backward: P * (dP - rowsum(dP * P))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scale)
            _scatter(grad_q, torch.matmul(grad_scores, keys), block.query_index, block.query_real)
            _scatter(grad_k, torch.matmul(grad_scores.transpose(2, 3), queries), block.key_index, block.key_real)
            _scatter(grad_v, block_grad_v, block.key_index, block.key_real)
        return grad_q, grad_k, grad_v, None, None, None
