"""An ONNX graph in 8 bits, as ONNX Runtime multiplies it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from bertwright.errors import UserError


def quantize_matrices(source: Path, target: Path) -> None:
    """Write the graph ``source`` with its constant matrices in 8 bits, a factor for each output, to ``target``.

    ONNX Runtime's dynamic quantisation: the other side of each product is turned into 8 bits when it is computed, with
    one factor for the whole batch. So what a text is scored together with moves its score a little.

    Raises:
        UserError: the package ``onnxruntime`` is not installed.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ModuleNotFoundError:
        raise UserError("a graph in 8 bits needs onnx and onnxruntime: pip install 'bertwright[onnx]'") from None
    partial = target.with_name(target.name + ".partial")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preparation that changes nothing here
    try:
        quantize_dynamic(
            str(source),
            str(partial),
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            extra_options={"MatMulConstBOnly": True},
        )
        os.replace(partial, target)
    finally:
        root.setLevel(level)
        partial.unlink(missing_ok=True)
