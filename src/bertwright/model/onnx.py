"""A classifier as an ONNX graph: encoder and head with dynamic shapes, for runtimes other than torch.

Built node by node from the same formulas as ``bertwright.model.encoder``. Torch is not imported: weights come as numpy
arrays. The package ``onnx`` is loaded when a graph is built.

    inputs   input_ids       (sequences, padded length) int64
             attention_mask  (sequences, padded length) int64: 1 for tokens, 0 for padding
             token_type_ids  (sequences, padded length) int64: 1 for the second text of a pair, else 0; only where
                             segments are asked for
    output   logits          (sequences, classes) float32
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright.config.train import Pooling
from bertwright.errors import UserError

if TYPE_CHECKING:
    import onnx

    from bertwright.model.encoder import ModelConfig

# LayerNormalization came with 17, Gelu with 20 (onnx.ai/onnx/operators).
OPSET = 20
_IR_VERSION = 10  # what came with opset 20 to 22: older runtimes refuse newer files
# Added to the score of padding: exp of it is 0 in float32 and in bfloat16, and it is finite in both.
_MASKED = -1e30
# protobuf, which ONNX files are written in, holds less than 2 GiB; larger weights go into a file beside.
_MOST_BYTES = 2**31 - 2**27
# Of the head's own layer: the operator, and its attributes.
_ACTIVATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "gelu": ("Gelu", {"approximate": "none"}),
}


def classifier_graph(
    config: ModelConfig,
    state: Mapping[str, np.ndarray],
    pooling: Pooling,
    only_first: bool = True,
    int8_weights: bool = False,
    segments: bool = False,
    int8_tokens: bool = False,
) -> onnx.ModelProto:
    """The graph of a ``TextClassifier``.

    Args:
        state: the weights by our names, float32, as ``TextClassifier.state_dict`` has them.
        only_first: let the last layer compute all but keys and values for the first token alone, where ``pooling`` is
            "first": exact, since nothing reads the others. False: the graph that other exporters write.
        int8_weights: keep the encoder's and the pooler's matrices as whole numbers from -127 to 127 with a float32
            factor for each output, and multiply them out in the graph: a quarter of the size, not exact, and what
            OpenVINO turns into products of 8-bit numbers.
        segments: take the tokens' segments as an input; else all are of the first.
        int8_tokens: keep the table of the tokens' embeddings as whole numbers from -127 to 127 with a float32 factor
            for each token: a quarter of what is the largest part of small models, not exact.

    Raises:
        UserError: the package ``onnx`` is not installed.
        KeyError: ``state`` lacks a weight.
    """
    return _Builder(config, state, pooling, only_first, int8_weights, segments, int8_tokens).model()


def save_graph(
    path: str | Path,
    config: ModelConfig,
    state: Mapping[str, np.ndarray],
    pooling: Pooling,
    only_first: bool = True,
    int8_weights: bool = False,
    segments: bool = False,
    int8_tokens: bool = False,
) -> None:
    """Write ``classifier_graph`` to ``path``, checked; beside its place and renamed.

    Weights of 2 GB and more, which one ONNX file cannot hold, go into ``<path>.data`` beside it.

    Raises:
        UserError: as ``classifier_graph``.
    """
    onnx = _need_onnx()
    path = Path(path)
    model = classifier_graph(config, state, pooling, only_first, int8_weights, segments, int8_tokens)
    partial = path.with_name(path.name + ".partial")
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < _MOST_BYTES:
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, str(partial))
    else:
        data = path.with_name(path.name + ".data")
        data.unlink(missing_ok=True)  # onnx would write behind what is there
        onnx.save_model(model, str(partial), save_as_external_data=True, location=data.name, convert_attribute=False)
        onnx.checker.check_model(str(partial))
    os.replace(partial, path)


def _need_onnx() -> Any:
    try:
        import onnx
    except ModuleNotFoundError:
        raise UserError("writing an ONNX graph needs onnx: pip install 'bertwright[onnx]'") from None
    return onnx


class _Builder:
    """Writes the nodes in the order in which they are computed. Values are known by their names, as in ONNX itself."""

    def __init__(
        self,
        config: ModelConfig,
        state: Mapping[str, np.ndarray],
        pooling: Pooling,
        only_first: bool,
        int8_weights: bool,
        segments: bool,
        int8_tokens: bool,
    ) -> None:
        self.onnx = _need_onnx()
        self.config, self.state, self.pooling = config, state, pooling
        self.only_first = only_first and pooling == "first"
        self.int8_weights, self.int8_tokens = int8_weights, int8_tokens
        self.segments = segments
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def model(self) -> onnx.ModelProto:
        helper, types = self.onnx.helper, self.onnx.TensorProto
        x = self._embeddings()
        bias = self._mask_bias()
        last = self.config.num_hidden_layers - 1
        for layer in range(self.config.num_hidden_layers):
            x = self._layer(layer, x, bias, self.only_first and layer == last)
        features = self._first(x) if self.pooling == "first" else self._mean(x)
        self._linear(features, "classifier.linear", output="logits")
        shape = ["sequences", "tokens"]
        graph = helper.make_graph(
            self.nodes,
            "bertwright",
            [helper.make_tensor_value_info(name, types.INT64, shape) for name in self._input_names()],
            [
                helper.make_tensor_value_info(
                    "logits", types.FLOAT, ["sequences", self._weight("classifier.linear.bias").size]
                )
            ],
            list(self.initializers.values()),
        )
        made = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="bertwright",
        )
        helper.set_model_props(made, {"dtype": "int8" if self.int8_weights or self.int8_tokens else "float32"})
        return made

    def _input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *(["token_type_ids"] if self.segments else [])]

    def _embeddings(self) -> str:
        """(sequences, tokens, hidden)."""
        name = "encoder.embeddings"
        # Every token is of the first task and, unless it is said, segment: their vectors are added to all positions,
        # once.
        places = self._weight(f"{name}.position.weight")[self.config.position_offset :]
        for table in ("task",) if self.segments else ("segment", "task"):
            if f"{name}.{table}.weight" in self.state:
                places = places + self._weight(f"{name}.{table}.weight")[0]
        words = self._token_vectors(f"{name}.token")
        if self.segments:
            table = self._constant(f"{name}.segment.weight")
            kinds = self._node("Gather", [table, "token_type_ids"], f"{name}.segment")
            words = self._node("Add", [words, kinds], f"{name}.token_and_segment")
        length = self._node("Shape", ["input_ids"], "tokens", start=1, end=2)
        here = self._node(
            "Slice",
            [self._constant(f"{name}.places", places), self._ints("zero", [0]), length, self._ints("zero", [0])],
            f"{name}.position",
        )
        x = self._norm(self._node("Add", [words, here], f"{name}.sum"), f"{name}.norm")
        return self._linear(x, f"{name}.project") if f"{name}.project.weight" in self.state else x

    def _token_vectors(self, name: str) -> str:
        """(sequences, tokens, embedding width)."""
        if not self.int8_tokens:
            return self._node("Gather", [self._constant(f"{name}.weight"), "input_ids"], name)
        whole, scale = _in_8_bits(self._weight(f"{name}.weight"), axis=1)
        found = self._node("Gather", [self._constant(f"{name}.weight.int8", whole), "input_ids"], f"{name}.int8")
        factor = self._node("Gather", [self._constant(f"{name}.weight.scale", scale), "input_ids"], f"{name}.scale")
        exact = self._node("Cast", [found], f"{name}.float", to=self.onnx.TensorProto.FLOAT)
        return self._node("Mul", [exact, factor], name)

    def _mask_bias(self) -> str:
        """(sequences, 1, 1, tokens): 0 for tokens, a very negative number for padding."""
        wide = self._node("Unsqueeze", ["attention_mask", self._ints("mask_axes", [1, 2])], "mask.wide")
        real = self._node("Cast", [wide], "mask.float", to=self.onnx.TensorProto.FLOAT)
        padding = self._node("Sub", [self._floats("one", 1.0), real], "mask.padding")
        return self._node("Mul", [padding, self._floats("masked", _MASKED)], "mask.bias")

    def _layer(self, layer: int, x: str, bias: str, only_first: bool) -> str:
        name = f"encoder.layers.{layer}"
        readers = x
        if only_first:  # (sequences, 1, hidden)
            readers = self._node(
                "Slice",
                [x, self._ints("zero", [0]), self._ints("axis_1", [1]), self._ints("axis_1", [1])],
                f"{name}.readers",
            )
        query = self._heads(self._linear(readers, f"{name}.attention.query"), [0, 2, 1, 3])
        # Keys go straight to (sequences, heads, head_dim, tokens), ready for the product.
        key = self._heads(self._linear(x, f"{name}.attention.key"), [0, 2, 3, 1])
        value = self._heads(self._linear(x, f"{name}.attention.value"), [0, 2, 1, 3])
        products = self._node("MatMul", [query, key], f"{name}.attention.products")
        scale = self._floats("scale", 1.0 / float(np.sqrt(self.config.head_dim)))
        scaled = self._node("Mul", [products, scale], f"{name}.attention.scaled")
        masked = self._node("Add", [scaled, bias], f"{name}.attention.masked")
        weights = self._node("Softmax", [masked], f"{name}.attention.weights", axis=-1)
        read = self._node("MatMul", [weights, value], f"{name}.attention.read")
        together = self._node("Transpose", [read], f"{name}.attention.transposed", perm=[0, 2, 1, 3])
        flat = self._node(
            "Reshape", [together, self._ints("hidden_shape", [0, 0, self.config.hidden_size])], f"{name}.attention.flat"
        )
        attended = self._linear(flat, f"{name}.attention.output")
        x = self._norm(self._node("Add", [attended, readers], f"{name}.attention.sum"), f"{name}.attention_norm")
        expanded = self._linear(x, f"{name}.feed_forward.expand")
        active = self._node("Gelu", [expanded], f"{name}.feed_forward.active", approximate="none")
        contracted = self._linear(active, f"{name}.feed_forward.contract")
        return self._norm(self._node("Add", [contracted, x], f"{name}.feed_forward.sum"), f"{name}.feed_forward_norm")

    def _heads(self, x: str, order: list[int]) -> str:
        """(sequences, tokens, heads, head_dim) of (sequences, tokens, hidden), its axes then put in ``order``."""
        shape = self._ints("heads_shape", [0, 0, self.config.num_attention_heads, self.config.head_dim])
        return self._node("Transpose", [self._node("Reshape", [x, shape], f"{x}.split")], f"{x}.heads", perm=order)

    def _first(self, x: str) -> str:
        """(sequences, hidden): what the last linear layer reads of the first token."""
        first = self._node("Gather", [x, self._ints("first", 0)], "pooler.first", axis=1)
        family = self.config.family
        name = "classifier.dense" if family.head_learns_alone else "pooler.dense"
        kind, attributes = _ACTIVATIONS[family.head_activation]
        return self._node(kind, [self._linear(first, name)], f"{name}.active", **attributes)

    def _mean(self, x: str) -> str:
        """(sequences, hidden): the mean over real tokens."""
        wide = self._node("Unsqueeze", ["attention_mask", self._ints("axis_2", [2])], "mean.mask")
        real = self._node("Cast", [wide], "mean.real", to=self.onnx.TensorProto.FLOAT)
        kept = self._node("Mul", [x, real], "mean.kept")
        sums = self._node("ReduceSum", [kept, self._ints("axis_1", [1])], "mean.sums", keepdims=0)
        counts = self._node("ReduceSum", [real, self._ints("axis_1", [1])], "mean.counts", keepdims=0)
        return self._node("Div", [sums, counts], "mean.features")

    def _linear(self, x: str, name: str, output: str | None = None) -> str:
        weight = self._matrix(f"{name}.weight.T", self._weight(f"{name}.weight").T)
        product = self._node("MatMul", [x, weight], f"{name}.product")
        return self._node("Add", [product, self._constant(f"{name}.bias")], output or name)

    def _matrix(self, name: str, value: np.ndarray) -> str:
        """``value`` (inputs, outputs) as a constant, in 8 bits where asked; the classifier stays in float32."""
        if not self.int8_weights or name.startswith("classifier."):
            return self._constant(name, value)
        whole, scale = _in_8_bits(value, axis=0)
        parts = [self._constant(f"{name}.int8", whole), self._constant(f"{name}.scale", scale[0])]
        return self._node("DequantizeLinear", parts, name, axis=1)

    def _norm(self, x: str, name: str) -> str:
        weights = [self._constant(f"{name}.weight"), self._constant(f"{name}.bias")]
        return self._node("LayerNormalization", [x, *weights], name, axis=-1, epsilon=self.config.layer_norm_eps)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _weight(self, name: str) -> np.ndarray:
        return np.asarray(self.state[name], dtype=np.float32)

    def _constant(self, name: str, value: np.ndarray | None = None) -> str:
        if name not in self.initializers:
            array = np.asarray(self._weight(name) if value is None else value, order="C")
            self.initializers[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def _ints(self, name: str, value: list[int] | int) -> str:
        return self._constant(name, np.array(value, dtype=np.int64))

    def _floats(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, dtype=np.float32))


def _in_8_bits(value: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """``value`` (rows, columns) as whole numbers from -127 to 127 and float32 factors, along ``axis`` one for all."""
    largest = np.abs(value).max(axis=axis, keepdims=True)
    scale = (np.maximum(largest, np.finfo(np.float32).tiny) / np.float32(127)).astype(np.float32)
    return np.clip(np.rint(value / scale), -127, 127).astype(np.int8), scale
