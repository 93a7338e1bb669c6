"""The matrix products of the encoder on a CPU, with what is best done in the same pass: by PyTorch or by AMX tiles.

Matrices are (rows, columns) and contiguous; a weight is (outputs, inputs), as PyTorch keeps it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bertwright.model.compiled import Kernels, TypedKernels
from bertwright.model.memory import fresh_memory

_WIDEST_PANEL = 16
_BLOCK = 32  # products.c computes blocks of so many rows and columns
# As in products.c: what product_rows does with its sums, and how its right side comes.
_PLAIN, _GELU, _KEEP_AND_GELU, _GELU_SLOPE = range(4)
_PACKED, _TRANSPOSED, _PLAINLY = range(3)


class Products(Protocol):
    """What ``CpuEncoder`` multiplies with.

    The matrices between the two products of a feed-forward block, h, a and dh (rows, inner), are each one's own affair:
    only these functions read them.

    Attributes:
        name: for the run's record.
        adds_bias: whether ``product`` adds the bias; if not, what comes next must.
    """

    name: str
    adds_bias: bool

    def expect(self, weights: object | None) -> None:
        """Before a forward pass: ``weights`` names their state, the same for the same weights; None: they are changing.

        What was made of weights may be used again while their state is the same. Who writes to weights past PyTorch
        (``.data``, pointers) must train, or make a new encoder.
        """

    def product(self, layer: int, matrix: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """y (rows, outputs) = x (rows, inputs) times the weight's transpose, plus bias if ``adds_bias``."""

    def expand(self, x: Tensor, weight: Tensor, bias: Tensor, h: Tensor | None, a: Tensor) -> None:
        """a = GELU(h) of h = x (rows, hidden) times the weight's transpose plus bias; h is kept where it is given."""

    def contract(self, a: Tensor, weight: Tensor, y: Tensor) -> None:
        """y (rows, hidden) = a times the weight's transpose."""

    def input_gradient(self, dy: Tensor, weight: Tensor, dx: Tensor) -> None:
        """dx (rows, inputs) = dy (rows, outputs) times the weight."""

    def weight_gradient(self, dy: Tensor, x: Tensor, dw: Tensor, partials: Tensor, dbias: Tensor | None) -> None:
        """dw (outputs, inputs) = dy's transpose times x; ``dbias`` (1, outputs) float32: dy's sum over the rows."""

    def contract_gradients(
        self, dy: Tensor, a: Tensor, h: Tensor, weight: Tensor, bias: Tensor, dw: Tensor, dh: Tensor, partials: Tensor
    ) -> None:
        """The gradients of ``contract``'s weight and of ``expand``'s h, from that of ``contract``'s y."""

    def expand_gradients(
        self, dh: Tensor, x: Tensor, weight: Tensor, dw: Tensor, dbias: Tensor, dx: Tensor, partials: Tensor
    ) -> None:
        """The gradients of ``expand``'s weight, bias and x, from that of its h."""


class TorchProducts:
    """By PyTorch's library; biases and GELU are passes of their own. Float32 or bfloat16."""

    name = "PyTorch"
    adds_bias = False

    def __init__(self, typed: TypedKernels) -> None:
        self._typed = typed
        self._inner_bias_sums = torch.empty(0)

    def expect(self, weights: object | None) -> None:
        pass

    def product(self, layer: int, matrix: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        torch.mm(x, weight.t(), out=y)

    def expand(self, x: Tensor, weight: Tensor, bias: Tensor, h: Tensor | None, a: Tensor) -> None:
        h = a if h is None else h  # without the bias
        torch.mm(x, weight.t(), out=h)
        self._typed.gelu_forward(h.data_ptr(), bias.data_ptr(), a.data_ptr(), *a.shape)

    def contract(self, a: Tensor, weight: Tensor, y: Tensor) -> None:
        torch.mm(a, weight.t(), out=y)

    def input_gradient(self, dy: Tensor, weight: Tensor, dx: Tensor) -> None:
        torch.mm(dy, weight, out=dx)

    def weight_gradient(self, dy: Tensor, x: Tensor, dw: Tensor, partials: Tensor, dbias: Tensor | None) -> None:
        torch.mm(dy.t(), x, out=dw)
        if dbias is not None:
            self._typed.column_sums(dy.data_ptr(), dbias.data_ptr(), partials.data_ptr(), *dy.shape)

    def contract_gradients(
        self, dy: Tensor, a: Tensor, h: Tensor, weight: Tensor, bias: Tensor, dw: Tensor, dh: Tensor, partials: Tensor
    ) -> None:
        torch.mm(dy.t(), a, out=dw)
        torch.mm(dy, weight, out=dh)
        if self._inner_bias_sums.shape != bias.shape:
            self._inner_bias_sums = torch.empty(bias.shape)
        sums = self._inner_bias_sums.data_ptr()
        self._typed.gelu_backward(dh.data_ptr(), h.data_ptr(), bias.data_ptr(), sums, partials.data_ptr(), *dh.shape)

    def expand_gradients(
        self, dh: Tensor, x: Tensor, weight: Tensor, dw: Tensor, dbias: Tensor, dx: Tensor, partials: Tensor
    ) -> None:
        torch.mm(dh.t(), x, out=dw)
        dbias[0] = self._inner_bias_sums
        torch.mm(dh, weight, out=dx)


class PanelProducts(TorchProducts):
    """As ``TorchProducts``, in float32; scoring few rows by kernels.c, from weights that were packed once.

    A library's product packs the weight each time, which for few rows takes longer than to multiply. The rows alone
    decide: without gradients the same batch always gives the same bits.

    Attributes:
        most_rows: of more rows the library's product is the faster one.
        row_step: the rows of a tile.
    """

    name = "PyTorch, of few rows by C kernels"
    most_rows, row_step = 252, 6

    @staticmethod
    def fit(kernels: Kernels, *outputs: int) -> bool:
        """Whether every weight has a panel for each thread; narrow ones, as on the processors this was measured on."""
        narrow = kernels.panel_columns <= _WIDEST_PANEL
        least = kernels.panel_columns * kernels.num_threads()
        return narrow and all(size >= least and size % kernels.panel_columns == 0 for size in outputs)

    def __init__(self, typed: TypedKernels, kernels: Kernels) -> None:
        super().__init__(typed)
        self._kernels = kernels
        self._expected: object | None = None
        self._held: dict[tuple[int, int], Tensor] = {}  # panels by where the weights lie and how many they are

    def expect(self, weights: object | None) -> None:
        if weights is None or weights != self._expected:
            self._held = {}
        self._expected = weights

    def product(self, layer: int, matrix: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        self._times(x, weight, y)

    def expand(self, x: Tensor, weight: Tensor, bias: Tensor, h: Tensor | None, a: Tensor) -> None:
        h = a if h is None else h
        self._times(x, weight, h)
        self._typed.gelu_forward(h.data_ptr(), bias.data_ptr(), a.data_ptr(), *a.shape)

    def contract(self, a: Tensor, weight: Tensor, y: Tensor) -> None:
        self._times(a, weight, y)

    def _times(self, x: Tensor, weight: Tensor, y: Tensor) -> None:
        outputs, inputs = weight.shape
        if self._expected is None or len(x) > self.most_rows or outputs % self._kernels.panel_columns:
            torch.mm(x, weight.t(), out=y)
            return
        key = weight.data_ptr(), weight.numel()
        if key not in self._held:
            panels = weight.detach().reshape(-1, self._kernels.panel_columns, inputs)
            self._held[key] = panels.transpose(1, 2).contiguous()
        self._kernels.product_panels(*(x.data_ptr(), self._held[key].data_ptr(), y.data_ptr(), len(x), outputs, inputs))


class TileProducts:
    """By products.c, in bfloat16 on AMX tiles: bias, GELU and the sums for biases cost no pass of their own."""

    name = "AMX tiles"
    adds_bias = True

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._packed = torch.empty(0, dtype=torch.bfloat16)
        self._expected: object | None = None
        self._held: dict[tuple[int, int], Tensor] = {}  # packed weights by where the weights lie and how many they are

    def expect(self, weights: object | None) -> None:
        if weights is None or weights != self._expected:
            self._held = {}
        self._expected = weights

    @staticmethod
    def fit(*sizes: int) -> bool:
        """Whether all sizes of the weights are what the blocks need."""
        return all(size % _BLOCK == 0 for size in sizes)

    def product(self, layer: int, matrix: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        self._rows(_PLAIN, x, weight, _TRANSPOSED, bias, None, y)

    def expand(self, x: Tensor, weight: Tensor, bias: Tensor, h: Tensor | None, a: Tensor) -> None:
        self._rows(_GELU if h is None else _KEEP_AND_GELU, x, weight, _TRANSPOSED, bias, h, a)

    def contract(self, a: Tensor, weight: Tensor, y: Tensor) -> None:
        self._rows(_PLAIN, a, weight, _TRANSPOSED, None, None, y, blocked=True)

    def input_gradient(self, dy: Tensor, weight: Tensor, dx: Tensor) -> None:
        self._rows(_PLAIN, dy, weight, _PLAINLY, None, None, dx)

    def weight_gradient(self, dy: Tensor, x: Tensor, dw: Tensor, partials: Tensor, dbias: Tensor | None) -> None:
        self._columns(dy, False, dbias, x, dw, transposed=False)

    def contract_gradients(
        self, dy: Tensor, a: Tensor, h: Tensor, weight: Tensor, bias: Tensor, dw: Tensor, dh: Tensor, partials: Tensor
    ) -> None:
        self._columns(a, True, None, dy, dw, transposed=True)
        self._rows(_GELU_SLOPE, dy, weight, _PLAINLY, None, h, dh)

    def expand_gradients(
        self, dh: Tensor, x: Tensor, weight: Tensor, dw: Tensor, dbias: Tensor, dx: Tensor, partials: Tensor
    ) -> None:
        self._columns(dh, True, dbias, x, dw, transposed=False)
        self._rows(_PLAIN, dh, weight, _PLAINLY, None, None, dx, blocked=True)

    def _columns(
        self, left: Tensor, blocked: bool, sums: Tensor | None, right: Tensor, out: Tensor, transposed: bool
    ) -> None:
        assert left.shape[0] == right.shape[0]
        assert left.shape[0] % _BLOCK == 0, "rows come in whole blocks"
        self._kernels.product_columns(
            *(left.data_ptr(), int(blocked), left.shape[1], 0 if sums is None else sums.data_ptr()),
            *(right.data_ptr(), right.shape[1], out.data_ptr(), out.shape[1], left.shape[0], int(transposed)),
        )

    def _rows(
        self,
        what: int,
        x: Tensor,
        weight: Tensor,
        packing: int,
        bias: Tensor | None,
        h: Tensor | None,
        y: Tensor,
        blocked: bool = False,
    ) -> None:
        assert x.shape[0] == y.shape[0]
        assert x.shape[0] % _BLOCK == 0, "rows come in whole blocks"
        packed, packing = self._place_for(weight, packing)
        self._kernels.product_rows(
            *(x.data_ptr(), int(blocked), weight.data_ptr(), packing, packed.data_ptr()),
            *(0 if bias is None else bias.data_ptr(), 0 if h is None else h.data_ptr(), y.data_ptr()),
            *(y.shape[0], y.shape[1], x.shape[1], what),
        )
        if self._expected is not None and packing == _TRANSPOSED:
            self._held[weight.data_ptr(), weight.numel()] = packed

    def _place_for(self, weight: Tensor, packing: int) -> tuple[Tensor, int]:
        """Where ``weight`` is packed, or is to be packed by ``packing``, and what is left to do."""
        if self._expected is None or packing != _TRANSPOSED:
            if self._packed.numel() < weight.numel():
                self._packed = fresh_memory(4 * weight.numel()).view(torch.bfloat16)
            return self._packed, packing
        key = weight.data_ptr(), weight.numel()
        if key in self._held:
            return self._held[key], _PACKED
        return fresh_memory(2 * weight.numel()).view(torch.bfloat16), packing
