"""The matrix products of the encoder on a CPU, with what is best done in the same pass: by PyTorch or by AMX tiles.

Matrices are (rows, columns) and contiguous; a weight is (outputs, inputs), as PyTorch keeps it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bertwright.model.compiled import Kernels, TypedKernels

_BLOCK = 32  # products.c computes blocks of so many rows and columns


class Products(Protocol):
    """What ``CpuEncoder`` multiplies with.

    Attributes:
        name: for the run's record.
        adds_bias: whether ``product`` and ``expand`` add the bias; if not, what comes next must.
    """

    name: str
    adds_bias: bool

    def product(self, layer: int, matrix: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """y (rows, outputs) = x (rows, inputs) times the weight's transpose, plus bias if ``adds_bias``."""

    def expand(self, layer: int, x: Tensor, weight: Tensor, bias: Tensor, h: Tensor | None, a: Tensor) -> None:
        """a (rows, outputs) = GELU(h), h the product as ``product`` makes it; h itself is kept where it is given."""

    def input_gradient(self, dy: Tensor, weight: Tensor, dx: Tensor) -> None:
        """dx (rows, inputs) = dy (rows, outputs) times the weight."""

    def gelu_gradient(
        self, da: Tensor, weight: Tensor, h: Tensor, bias: Tensor, dh: Tensor, partials: Tensor, dbias: Tensor
    ) -> None:
        """dh, the gradient of ``expand``'s h, from that of what its result a was multiplied to give by ``weight``.

        ``dbias`` (1, inputs) float32 is its sum over the rows; where ``weight_gradient`` sums, it is left alone.
        """

    def weight_gradient(
        self, dy: Tensor, x: Tensor, dw: Tensor, partials: Tensor, dbias: Tensor | None = None
    ) -> None:
        """dw (outputs, inputs) = dy's transpose times x; ``dbias`` (1, outputs) float32: dy's sum over the rows."""


class TorchProducts:
    """By PyTorch's library; biases and GELU are passes of their own. Float32 or bfloat16."""

    name = "PyTorch"
    adds_bias = False

    def __init__(self, typed: TypedKernels) -> None:
        self._typed = typed

    def product(self, layer: int, matrix: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        torch.mm(x, weight.t(), out=y)

    def expand(self, layer: int, x: Tensor, weight: Tensor, bias: Tensor, h: Tensor | None, a: Tensor) -> None:
        h = a if h is None else h
        torch.mm(x, weight.t(), out=h)
        self._typed.gelu_forward(h.data_ptr(), bias.data_ptr(), a.data_ptr(), *a.shape)

    def input_gradient(self, dy: Tensor, weight: Tensor, dx: Tensor) -> None:
        torch.mm(dy, weight, out=dx)

    def gelu_gradient(
        self, da: Tensor, weight: Tensor, h: Tensor, bias: Tensor, dh: Tensor, partials: Tensor, dbias: Tensor
    ) -> None:
        torch.mm(da, weight, out=dh)
        self._typed.gelu_backward(
            dh.data_ptr(), h.data_ptr(), bias.data_ptr(), dbias.data_ptr(), partials.data_ptr(), *dh.shape
        )

    def weight_gradient(
        self, dy: Tensor, x: Tensor, dw: Tensor, partials: Tensor, dbias: Tensor | None = None
    ) -> None:
        torch.mm(dy.t(), x, out=dw)
        if dbias is not None:
            self._typed.column_sums(dy.data_ptr(), dbias.data_ptr(), partials.data_ptr(), *dy.shape)


class TileProducts:
    """By products.c, in bfloat16 on AMX tiles: bias, GELU and the sums for biases cost no pass of their own."""

    name = "AMX tiles"
    adds_bias = True

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._packed = torch.empty(0, dtype=torch.bfloat16)

    @staticmethod
    def fit(*sizes: int) -> bool:
        """Whether all sizes of the weights are what the blocks need."""
        return all(size % _BLOCK == 0 for size in sizes)

    def product(self, layer: int, matrix: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        self._rows("plain", x, self._pack_transposed(weight), bias, None, y)

    def expand(self, layer: int, x: Tensor, weight: Tensor, bias: Tensor, h: Tensor | None, a: Tensor) -> None:
        what = "gelu" if h is None else "keep_and_gelu"
        self._rows(what, x, self._pack_transposed(weight), bias, h, a)

    def input_gradient(self, dy: Tensor, weight: Tensor, dx: Tensor) -> None:
        self._rows("plain", dy, self._pack_plain(weight), None, None, dx)

    def gelu_gradient(
        self, da: Tensor, weight: Tensor, h: Tensor, bias: Tensor, dh: Tensor, partials: Tensor, dbias: Tensor
    ) -> None:
        self._rows("gelu_slope", da, self._pack_plain(weight), None, h, dh)

    def weight_gradient(
        self, dy: Tensor, x: Tensor, dw: Tensor, partials: Tensor, dbias: Tensor | None = None
    ) -> None:
        # The narrower of the two is the right side, which is kept in the cache.
        turned = dy.shape[1] < x.shape[1]
        left, right = (x, dy) if turned else (dy, x)
        sums = [0 if dbias is None else dbias.data_ptr(), 0]
        left_sums, right_sums = reversed(sums) if turned else sums
        self._kernels.product_columns(
            *(left.data_ptr(), left.shape[1], left.shape[1], left_sums),
            *(right.data_ptr(), right.shape[1], right.shape[1], right_sums),
            *(self._scratch(right.numel()).data_ptr(), dw.data_ptr(), dw.shape[1], left.shape[0], int(turned)),
        )

    def _rows(self, what: str, x: Tensor, packed: Tensor, bias: Tensor | None, h: Tensor | None, y: Tensor) -> None:
        self._kernels.product_rows(
            *(x.data_ptr(), x.shape[1], packed.data_ptr()),
            *(0 if bias is None else bias.data_ptr(), 0 if h is None else h.data_ptr(), y.data_ptr()),
            *(y.shape[0], y.shape[1], x.shape[1], _AFTER[what]),
        )

    def _pack_transposed(self, weight: Tensor) -> Tensor:
        packed = self._scratch(weight.numel())
        self._kernels.pack_transposed(weight.data_ptr(), packed.data_ptr(), *weight.shape)
        return packed

    def _pack_plain(self, weight: Tensor) -> Tensor:
        packed = self._scratch(weight.numel())
        outputs, inputs = weight.shape
        self._kernels.pack_plain(weight.data_ptr(), inputs, packed.data_ptr(), inputs, outputs)
        return packed

    def _scratch(self, values: int) -> Tensor:
        if self._packed.numel() < values:
            self._packed = torch.empty(values, dtype=torch.bfloat16)
        return self._packed


# What product_rows does with its sums; as in products.c.
_AFTER = {"plain": 0, "gelu": 1, "keep_and_gelu": 2, "gelu_slope": 3}
