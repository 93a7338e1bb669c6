"""The encoder's matrix products in 8 bits, for scoring on a CPU: weights with a scale each output, tokens each row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bertwright.model.compiled import TypedKernels
from bertwright.model.encoder import Encoder, EncoderLayer


@dataclass(frozen=True)
class Quantized:
    """A matrix of weights in 8 bits: about ``weights`` (inputs, outputs) int8 times ``scales`` (outputs,) float32."""

    weights: Tensor
    scales: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Quantized:
        """Of ``weight`` (outputs, inputs): each output's largest weight becomes 127."""
        scales = weight.abs().amax(dim=1).clamp(min=1e-30) / 127
        return cls((weight / scales[:, None]).round().to(torch.int8).t(), scales.contiguous())


def quantize_weights(encoder: Encoder) -> list[dict[str, Quantized]]:
    """The matrices of each layer in 8 bits, from weights that are still in float32."""
    found = []
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer)
        attention, feed_forward = layer.attention, layer.feed_forward
        query, key, value = (part.weight.detach() for part in (attention.query, attention.key, attention.value))
        matrices = {
            "qkv": torch.cat([query, key, value]),
            "q": query,
            "kv": torch.cat([key, value]),
            "output": attention.output.weight.detach(),
            "expand": feed_forward.expand.weight.detach(),
            "contract": feed_forward.contract.weight.detach(),
        }
        found.append({name: Quantized.of(matrix.float()) for name, matrix in matrices.items()})
    return found


class Int8Products:
    """By PyTorch's product of 8-bit integers; what comes before and after it by the C kernels. Cannot learn."""

    name = "PyTorch, in 8 bits"
    adds_bias = False

    def __init__(self, typed: TypedKernels, quantized: list[dict[str, Quantized]]) -> None:
        self._typed, self._quantized = typed, quantized
        self._pieces: dict[str, Tensor] = {}

    def product(self, layer: int, matrix: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        small, scales = self._of_rows("x", x)
        self._multiply(small, scales, self._quantized[layer][matrix], y)

    def feed_forward(self, layer: int, x: Tensor, expand_bias: Tensor, y: Tensor) -> None:
        """y (rows, hidden): both products of the feed-forward block and GELU between them, but for the last bias."""
        expand, contract = self._quantized[layer]["expand"], self._quantized[layer]["contract"]
        rows, inner = x.shape[0], expand.weights.shape[1]
        small, scales = self._of_rows("x", x)
        sums = torch._int_mm(small, expand.weights, out=self._take("sums", rows, inner, torch.int32))
        middle = self._take("a", rows, inner, torch.int8)
        middle_scales = self._take("a_scales", rows, 1, torch.float32)
        self._typed.gelu_quantize(
            *(sums.data_ptr(), scales.data_ptr(), expand.scales.data_ptr(), expand_bias.data_ptr()),
            *(middle.data_ptr(), middle_scales.data_ptr(), rows, inner),
        )
        self._multiply(middle, middle_scales, contract, y)

    def _of_rows(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        small = self._take(name, x.shape[0], x.shape[1], torch.int8)
        scales = self._take(f"{name}_scales", x.shape[0], 1, torch.float32)
        self._typed.quantize(x.data_ptr(), small.data_ptr(), scales.data_ptr(), *x.shape)
        return small, scales

    def _multiply(self, small: Tensor, scales: Tensor, matrix: Quantized, y: Tensor) -> None:
        rows, outputs = y.shape
        sums = torch._int_mm(small, matrix.weights, out=self._take("sums", rows, outputs, torch.int32))
        self._typed.dequantize(
            sums.data_ptr(), scales.data_ptr(), matrix.scales.data_ptr(), y.data_ptr(), rows, outputs
        )

    def _take(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """(rows, columns) of memory that is used again by whoever asks for the same name."""
        piece = self._pieces.get(name)
        if piece is None or piece.numel() < rows * columns:
            with torch.inference_mode(False):  # what is made in inference mode cannot be written to later
                piece = self._pieces[name] = torch.empty(rows * columns, dtype=dtype)
        return piece[: rows * columns].view(rows, columns)
