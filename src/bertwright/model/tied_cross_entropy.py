"""The cross-entropy over a vocabulary whose weights are the token embeddings, without the matrix of logits.

    loss = sum over the rows of  log(sum of exp(logits)) - logit of the target,    logits = x E^T + b

The logits of all masked tokens would be the largest matrix of a training by far, and in float32, with its gradient,
most of its memory. On AMX tiles they are made twice, a part of the vocabulary at a time: once for their sums of
exponentials, once for the gradient, which is multiplied at once and forgotten (as Wijmans et al. 2024, "Cut Your Losses
in Large-Vocabulary Language Models", arXiv 2411.09009), and they are never rounded to bfloat16 (products.c). Elsewhere
they are made once, a part of the rows at a time.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bertwright.model.compiled import Kernels, Softmax
from bertwright.model.cpu_encoder import CpuEncoder
from bertwright.model.cpu_products import TileProducts
from bertwright.model.memory import fresh_memory

_LANES, _BLOCK = 16, 32
# Columns of the vocabulary at once. On tiles their gradient, (rows, columns) bfloat16, stays in the level-2 cache.
_TILE_COLUMNS = 1_024
# Elsewhere rows of logits are made whole; so many numbers at once, in float32.
_MOST_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 28}
_LEAST_LOGIT = -1e9  # of columns that fill the last block: their exponential is 0


class Scored:
    """What a batch's masked tokens came to: (rows,) float32 losses, and (rows,) whether the target was likeliest."""

    def __init__(self, losses: Tensor, correct: Tensor) -> None:
        self.losses, self.correct = losses, correct


class PlainCrossEntropy:
    """By PyTorch's operators, rows at a time, on any device and in any dtype.

    With ``encoder`` the table's gradient goes there and not through PyTorch, as in ``TileCrossEntropy``.
    """

    name = "PyTorch, rows at a time"

    def __init__(self, table: Tensor, bias: nn.Parameter, encoder: CpuEncoder | None = None) -> None:
        self.table, self.bias, self.encoder = table, bias, encoder

    def is_current(self) -> bool:
        return self.encoder is None or self.encoder.is_current()

    def loss(self, x: Tensor, targets: Tensor, scale: float) -> Tensor:
        """The sum of the losses of ``x`` (rows, hidden) for ``targets`` (rows,) int64, times ``scale``."""
        return _PlainLoss.apply(x, self.table, self.bias, self.encoder, targets, scale)

    @torch.no_grad()
    def score(self, x: Tensor, targets: Tensor) -> Scored:
        """Of ``x`` (rows, hidden) for ``targets`` (rows,) int64."""
        losses, correct = [], []
        for rows in _row_parts(x, self.table):
            logits = torch.addmm(self.bias.float(), x[rows].float(), self.table.float().T)
            losses.append(nn.functional.cross_entropy(logits, targets[rows], reduction="none"))
            right = logits.gather(1, targets[rows, None])[:, 0]
            correct.append(right >= logits.amax(1))
        return Scored(torch.cat(losses), torch.cat(correct))


def _row_parts(x: Tensor, table: Tensor) -> list[slice]:
    step = max(1, _MOST_LOGITS["cuda" if x.is_cuda else "cpu"] // table.shape[0])
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]


class _PlainLoss(torch.autograd.Function):
    """The gradients are computed on the way forward, so that each part of the logits is made once and forgotten."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, bias: Tensor, encoder: CpuEncoder | None, targets: Tensor, scale: float
    ) -> Tensor:
        dx, dtable = torch.empty_like(x), torch.zeros(table.shape, dtype=torch.float32, device=x.device)
        dbias = torch.zeros(bias.shape, dtype=torch.float32, device=x.device)
        total = torch.zeros((), device=x.device)
        for rows in _row_parts(x, table):
            logits = (x[rows] @ table.T).float().add_(bias)
            log_sums = torch.logsumexp(logits, 1)
            right = targets[rows, None]
            total += (log_sums - logits.gather(1, right)[:, 0]).sum()
            slopes = logits.sub_(log_sums[:, None]).exp_()  # in the logits' memory
            slopes.scatter_add_(1, right, torch.full_like(right, -1.0, dtype=slopes.dtype))
            dbias += slopes.sum(0)
            slopes = slopes.to(x.dtype)
            dx[rows] = slopes @ table
            dtable += slopes.T @ x[rows]
        dtable *= scale
        if encoder is not None:
            encoder.table_gradient = dtable
        ctx.gradients = dx * scale, None if encoder is not None else dtable.to(table.dtype), dbias * scale
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dtable, dbias = ctx.gradients
        if dtable is None:
            _check_is_one(grad)
            return dx, None, dbias, None, None, None
        return dx * grad, dtable * grad, dbias * grad, None, None, None


def _check_is_one(grad: Tensor) -> None:
    if float(grad) != 1.0:
        raise ValueError(f"go back from the loss as it is: the table's gradient is made. Found a factor {float(grad)}")


class TileCrossEntropy:
    """On AMX tiles, in bfloat16 with sums in float32.

    The table's gradient does not go through PyTorch: it is handed to the encoder, whose backward pass comes after, and
    adds that of the tokens that were read.
    """

    name = "AMX tiles, columns at a time"

    def __init__(self, kernels: Kernels, encoder: CpuEncoder, bias: nn.Parameter) -> None:
        self.kernels, self.encoder, self.bias = kernels, encoder, bias
        self.products = TileProducts(kernels)
        weight = encoder.encoder.embeddings.token.weight
        self.num_tokens, self.hidden = weight.shape
        self.columns = -(-self.num_tokens // _BLOCK) * _BLOCK
        # The table with a whole number of blocks of rows. The parameter becomes a view of it.
        self.table = fresh_memory(2 * self.columns * self.hidden).view(torch.bfloat16).view(self.columns, self.hidden)
        self.table[: self.num_tokens] = weight.detach()
        weight.data = self.table[: self.num_tokens]
        self.gradient = torch.zeros_like(self.table)
        self.packed = torch.zeros_like(self.table)
        self.padded_bias = torch.full((self.columns,), _LEAST_LOGIT)
        self.bias_sums = torch.zeros(1, self.columns)

    @staticmethod
    def fits(kernels: Kernels, encoder: CpuEncoder) -> bool:
        """Whether this machine and model have what it needs."""
        return (
            encoder.dtype == torch.bfloat16
            and kernels.has_tile_products
            and TileProducts.fit(encoder.config.hidden_size)
        )

    def is_current(self) -> bool:
        return self.encoder.encoder.embeddings.token.weight.data_ptr() == self.table.data_ptr()

    def loss(self, x: Tensor, targets: Tensor, scale: float) -> Tensor:
        """As ``PlainCrossEntropy.loss``."""
        return _TileLoss.apply(x, self.bias, self, targets, scale)

    @torch.no_grad()
    def score(self, x: Tensor, targets: Tensor) -> Scored:
        """As ``PlainCrossEntropy.score``."""
        rows = x.shape[0]
        x, padded_targets = self._padded(x, targets)
        tops = torch.full((x.shape[0], _LANES), torch.finfo(torch.float32).min)
        log_sums, right = self._sums(x, padded_targets, tops)
        return Scored((log_sums - right)[:rows], (right >= tops.amax(1))[:rows])

    def _padded(self, x: Tensor, targets: Tensor) -> tuple[Tensor, np.ndarray]:
        """A whole number of blocks of rows: zeros, and no target, behind the last."""
        padded = torch.zeros(-(-x.shape[0] // _BLOCK) * _BLOCK, self.hidden, dtype=torch.bfloat16)
        padded[: x.shape[0]] = x
        padded_targets = np.full(len(padded), -1, dtype=np.int32)
        padded_targets[: x.shape[0]] = targets.numpy()
        return padded, padded_targets

    def _sums(self, x: Tensor, targets: np.ndarray, tops: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of each row log(sum of exp(logits)) and the target's logit, (rows,) float32 each; packs the table."""
        rows = x.shape[0]
        self.padded_bias[: self.num_tokens] = self.bias.detach()
        most, sums = torch.full((rows,), torch.finfo(torch.float32).min), torch.zeros(rows, _LANES)
        right = torch.zeros(rows)
        softmax = Softmax(
            bias=self.padded_bias.data_ptr(),
            targets=targets.ctypes.data,
            most=most.data_ptr(),
            sums=sums.data_ptr(),
            tops=0 if tops is None else tops.data_ptr(),
            target_logits=right.data_ptr(),
        )
        self.kernels.vocabulary_sums(
            *(x.data_ptr(), self.table.data_ptr(), self.packed.data_ptr()),
            *(rows, self.columns, self.hidden, ctypes.byref(softmax)),
        )
        return most + sums.sum(1).log(), right

    def gradients(self, x: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and the gradients of ``x`` (rows, hidden) and the bias; the table's stays with the encoder."""
        num_rows = x.shape[0]
        x, padded_targets = self._padded(x, targets)
        rows, columns = x.shape[0], min(_TILE_COLUMNS, self.columns)
        log_sums, right = self._sums(x, padded_targets)
        if not rows:  # products over no rows write nothing
            self.gradient.zero_()
            self.bias_sums.zero_()
        scales = torch.zeros(rows)
        scales[:num_rows] = scale
        offsets = (scales.log2() - log_sums * math.log2(math.e)).clamp_(min=_LEAST_LOGIT)
        slopes = torch.empty(rows * columns, dtype=torch.bfloat16)
        dx, part = torch.zeros(rows, self.hidden), torch.empty(rows, self.hidden, dtype=torch.bfloat16)
        for start in range(0, self.columns, columns):
            count = min(columns, self.columns - start)
            here = slopes[: rows * count].view(rows, count)
            local = padded_targets - start
            softmax = Softmax(
                bias=self.padded_bias[start:].data_ptr(),
                targets=local.ctypes.data,
                scales=scales.data_ptr(),
                offsets=offsets.data_ptr(),
            )
            self.kernels.vocabulary_slopes(
                *(x.data_ptr(), self.packed[start:].data_ptr(), here.data_ptr()),
                *(rows, count, self.hidden, ctypes.byref(softmax)),
            )
            these = slice(start, start + count)
            self.products.weight_gradient(here, x, self.gradient[these], part, self.bias_sums[:, these])
            self.products.input_gradient(here, self.table[these], part)
            dx += part
        self.encoder.table_gradient = self.gradient[: self.num_tokens]
        loss = ((log_sums - right) * scales).sum()
        return loss, dx[:num_rows].to(torch.bfloat16), self.bias_sums[0, : self.num_tokens].clone()


class _TileLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, how: TileCrossEntropy, targets: Tensor, scale: float) -> Tensor:
        loss, *ctx.gradients = how.gradients(x, targets, scale)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dbias = ctx.gradients
        _check_is_one(grad)
        return dx, dbias, None, None, None
