"""The encoder on a CPU, forward and backward, by C kernels; matrix products by ``cpu_products``.

It computes what ``Encoder`` computes, from the same parameters, and is tested against it. What it does otherwise:

- Each chain of element-wise steps is one pass over memory: bias, dropout, addition and norm; bias and GELU; and their
  gradients, with the sums for biases and norms taken on the way.
- Attention goes text by text and head by head without any padding, and keeps no weights: the backward pass makes them
  again from the sums of exponentials (Dao et al. 2022, arXiv 2205.14135, section 3.1).
- Query, key and value are one product: their weights lie in one piece of memory.
- All memory is taken once and used again by every batch.
- Token embeddings get a gradient for the rows that the batch holds, not for the whole table.
- Dropout's random numbers are a hash of the place and a key drawn for the batch.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bertwright.model.batch import Batch, Readers
from bertwright.model.compiled import Attention, Dropout, Kernels, load_kernels
from bertwright.model.cpu_int8 import Int8Products, Quantized
from bertwright.model.cpu_products import PanelProducts, Products, TileProducts, TorchProducts
from bertwright.model.encoder import Encoder, EncoderLayer
from bertwright.model.memory import fresh_memory

_LANES = 16
# Matrix products have rows in multiples of the first number, or of the second where there are fewer than the third. For
# each new shape PyTorch's library for products makes new code, which takes about half a millisecond: with every number
# of tokens a shape of its own, that would be a quarter of a small model's training step. Products on tiles need
# multiples of 32; those from panels take few rows as they come.
_ROWS_STEP, _FEW_ROWS_STEP, _FEW_ROWS = 64, 32, 1_024
_MOST_COLUMNS = 8_192
_MOST_POSITIONS = 4_096


def why_not(encoder: Encoder, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why ``CpuEncoder`` cannot compute this encoder here; None if it can."""
    if device.type != "cpu":
        return f"the C kernels are for CPUs, not for {device.type}"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"the C kernels compute in float32 and bfloat16, not in {dtype}"
    config = encoder.config
    for name, value in (
        ("the width of the embeddings", config.embedding_width),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("the width of a head", config.head_dim),
    ):
        if value % _LANES or value > _MOST_COLUMNS:
            return f"the C kernels need {name} to be a multiple of {_LANES} up to {_MOST_COLUMNS}; found {value}"
    if config.max_position_embeddings > _MOST_POSITIONS:
        # Attention's backward pass holds three matrices of positions by positions for each thread.
        return f"the C kernels take texts of up to {_MOST_POSITIONS:,} tokens; found {config.max_position_embeddings:,}"
    found = load_kernels()
    if found.kernels is None:
        return found.reason
    if dtype == torch.bfloat16 and not found.kernels.has_bf16_products:
        return "the C kernels compute in bfloat16 only on CPUs with AVX512-BF16"
    return None


@dataclass
class RowGradients:
    """The gradient of a table's distinct ``rows`` (rows,) int32: ``values`` (rows, hidden) float32."""

    rows: np.ndarray
    values: Tensor


class _Memory:
    """Named pieces of memory, each as large as was ever asked for."""

    def __init__(self) -> None:
        self._pieces: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """(rows, columns); what is in it is what was left there, zeros at first.

        Zeros, since rows behind the last token are multiplied too, and must be numbers.
        """
        needed = rows * columns
        piece = self._pieces.get(name)
        if piece is None or piece.numel() < needed or piece.dtype != dtype:
            self._pieces.pop(name, None)
            with torch.inference_mode(False):  # what is made in inference mode cannot be written to later
                # Much more than is needed now: what is not written to costs nothing, to begin anew does.
                piece = fresh_memory(4 * max(needed, 1) * dtype.itemsize).view(dtype)
            self._pieces[name] = piece
        return piece.as_strided((rows, columns), (columns, 1))


class _Layer:
    """One layer's weights as the products want them, and its gradients, in memory of their own."""

    def __init__(self, layer: EncoderLayer) -> None:
        attention, feed_forward = layer.attention, layer.feed_forward
        parts = (attention.query, attention.key, attention.value)
        self.layer = layer
        self.qkv = torch.cat([part.weight.detach() for part in parts])  # (3 * hidden, hidden)
        self.qkv_bias = torch.cat([part.bias.detach() for part in parts])
        size = attention.query.weight.shape[0]
        for i, part in enumerate(parts):
            # The parameters become views, so that whoever changes them changes what is multiplied.
            part.weight.data = self.qkv[i * size : (i + 1) * size]
            part.bias.data = self.qkv_bias[i * size : (i + 1) * size]
        self.output, self.output_bias = attention.output.weight, attention.output.bias
        self.expand, self.expand_bias = feed_forward.expand.weight, feed_forward.expand.bias
        self.contract, self.contract_bias = feed_forward.contract.weight, feed_forward.contract.bias
        self.norm1, self.norm2 = layer.attention_norm, layer.feed_forward_norm
        self.gradients: dict[str, Tensor] = {}

    def is_current(self) -> bool:
        """Whether the parameters are still the views that were made of them."""
        query = self.layer.attention.query.weight
        return query.data_ptr() == self.qkv.data_ptr() and query.dtype == self.qkv.dtype

    def gradient(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if name not in self.gradients:
            self.gradients[name] = torch.empty(shape, dtype=dtype)
        return self.gradients[name]


@dataclass
class _Tape:
    """What the backward pass needs of a forward one."""

    ids: np.ndarray
    places: Tensor
    segment_ids: Tensor | None
    starts: Tensor
    order: Tensor
    longest: int
    only: Readers | None
    key: int
    dropout: float
    attention_dropout: float
    layers: list[dict[str, Tensor]]
    embedded: Tensor | None = None
    embedded_stats: Tensor | None = None
    segments: Tensor | None = None
    id_groups: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


class CpuEncoder:
    """Computes an encoder's forward and backward pass; see the module's docstring.

    Attributes:
        before_tokens: called with the distinct token ids, (ids,) int32, of a batch before their rows are read.
        table_gradient: (vocabulary, hidden), what a head that is tied to the token embeddings adds to their gradient;
            written before each backward pass, which adds that of the batch's tokens. None: there is no such head.
    """

    name = "C kernels"

    def __init__(self, encoder: Encoder, kernels: Kernels, quantized: list[dict[str, Quantized]] | None = None) -> None:
        self.encoder = encoder
        self.config = encoder.config
        self.dtype = encoder.embeddings.token.weight.dtype
        self.kernels, self.typed = kernels, kernels.of(self.dtype)
        self.layers = [_Layer(layer) for layer in encoder.layers]  # type: ignore[arg-type]
        self.int8 = None if quantized is None else Int8Products(self.typed, quantized)
        tiles = self.dtype == torch.bfloat16 and kernels.has_tile_products
        self.products: Products = TorchProducts(self.typed)
        sizes = self.config.hidden_size, self.config.intermediate_size
        if self.dtype == torch.float32 and PanelProducts.fit(kernels, *sizes):
            self.products = PanelProducts(self.typed, kernels)
        if tiles and TileProducts.fit(*sizes):
            self.products = TileProducts(kernels)
        self.attention_forward, self.attention_backward = self.typed.attention_forward, self.typed.attention_backward
        if tiles and TileProducts.fit(self.config.head_dim):
            self.attention_forward = kernels.attention_forward_tiles
            self.attention_backward = kernels.attention_backward_tiles
        # The product has added the bias, or attention does on reading.
        self._adds_bias = self.int8 is None and self.products.adds_bias
        self.before_tokens: Callable[[np.ndarray], None] | None = None
        self.table_gradient: Tensor | None = None
        self._memory = _Memory()
        self._on_panels = False
        self._turn = threading.Lock()
        self._tape: _Tape | None = None
        self._embedding_gradients: dict[str, Tensor | RowGradients] = {}
        self._layer_gradients: dict[str, Tensor | RowGradients] = {}  # in memory that stays where it is
        self._anchor = torch.zeros((), requires_grad=True)

    @classmethod
    def of(cls, encoder: Encoder, quantized: list[dict[str, Quantized]] | None = None) -> CpuEncoder:
        """For an encoder that ``why_not`` has no objection to; ``quantized``: of ``quantize_weights``, for scoring."""
        kernels = load_kernels().kernels
        assert kernels is not None
        return cls(encoder, kernels, quantized)

    def describe(self) -> str:
        """How attention and the products are computed."""
        on_tiles = self.attention_forward is not self.typed.attention_forward
        products = (self.int8 or self.products).name
        return f"text by text and head by head in C{', on AMX tiles' if on_tiles else ''}; products by {products}"

    def is_current(self) -> bool:
        """Whether the encoder's parameters are still those that this was made for."""
        weight = self.encoder.embeddings.token.weight
        return weight.dtype == self.dtype and weight.device.type == "cpu" and self.layers[0].is_current()

    def __call__(self, batch: Batch, only: Readers | None) -> Tensor:
        """As ``Encoder.forward``.

        Without gradients it may be called from several threads, which take turns. With gradients the result is
        overwritten by the next call, and the backward pass must come before that.
        """
        if torch.is_grad_enabled() and self.encoder.embeddings.token.weight.requires_grad:
            if self.int8 is not None:
                raise ValueError("an encoder in 8 bits scores; it cannot learn")
            return _Pass.apply(self._anchor, self, batch, only)
        with self._turn:
            return self._forward(batch, only, keep=False).clone()

    def release_memory(self) -> None:
        """Let go of the memory that batches share, and of packed weights; the next one takes what it needs."""
        with self._turn:
            self._memory, self._tape = _Memory(), None
            self.products.expect(None)

    def gradients(self) -> dict[str, Tensor | RowGradients]:
        """The gradients of the last backward pass by the encoder's parameter names; overwritten by the next one."""
        if not self._layer_gradients:
            for i, layer in enumerate(self.layers):
                self._layer_gradients |= self._gradients_of(layer, f"layers.{i}.")
        return self._embedding_gradients | self._layer_gradients

    def _gradients_of(self, layer: _Layer, prefix: str) -> dict[str, Tensor]:
        size, g = self.config.hidden_size, layer.gradients
        found = {}
        for j, part in enumerate(("query", "key", "value")):
            found[f"{prefix}attention.{part}.weight"] = g["qkv"][j * size : (j + 1) * size]
            found[f"{prefix}attention.{part}.bias"] = g["qkv_bias"][0, j * size : (j + 1) * size]
        for name, ours in (
            ("attention.output.weight", "output"),
            ("attention.output.bias", "output_bias"),
            ("attention_norm.weight", "gamma1"),
            ("attention_norm.bias", "beta1"),
            ("feed_forward.expand.weight", "expand"),
            ("feed_forward.expand.bias", "expand_bias"),
            ("feed_forward.contract.weight", "contract"),
            ("feed_forward.contract.bias", "contract_bias"),
            ("feed_forward_norm.weight", "gamma2"),
            ("feed_forward_norm.bias", "beta2"),
        ):
            found[prefix + name] = g[ours] if g[ours].shape[0] != 1 else g[ours][0]
        return found

    # --- forward --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _forward(self, batch: Batch, only: Readers | None, keep: bool) -> Tensor:
        config = self.config
        tokens, hidden, heads = batch.num_tokens, config.hidden_size, config.num_attention_heads
        ids = batch.token_ids[:tokens].numpy().astype(np.int32)
        self._check(ids, batch)
        distinct = None
        if keep or self.before_tokens is not None:
            groups = _group(ids)
            distinct = groups[0]
            if self.before_tokens is not None:
                self.before_tokens(distinct)
        training = self.encoder.training
        dropout = config.hidden_dropout_prob if training else 0.0
        attention_dropout = config.attention_probs_dropout_prob if training else 0.0
        seq_starts = batch.seq_starts.contiguous()
        tape = _Tape(
            ids=ids,
            places=(batch.positions[:tokens] + config.position_offset).to(torch.int32),
            segment_ids=self._segment_ids(batch),
            starts=seq_starts,
            order=torch.argsort(seq_starts.diff(), descending=True, stable=True).to(torch.int32),
            longest=batch.max_len,
            only=only,
            key=int(torch.randint(0, 2**62, ())) if dropout or attention_dropout else 0,
            dropout=dropout,
            attention_dropout=attention_dropout,
            layers=[],
        )
        self.products.expect(None if keep else self._weights_state())
        self._on_panels = not keep and self.int8 is None and isinstance(self.products, PanelProducts)
        take = self._take_rows
        x = self._embed(tape, keep)
        for i, layer in enumerate(self.layers):
            reads = only if i == len(self.layers) - 1 else None
            mark = str(i) if keep else ""
            rows = tokens if reads is None else len(reads.rows)
            kept: dict[str, Tensor] = {"x": x}
            if reads is not None:
                readers = kept["readers"] = take("readers", rows, hidden)
                torch.index_select(x, 0, reads.rows, out=readers[:rows])
                q_bias, kv_bias = layer.qkv_bias[:hidden], layer.qkv_bias[hidden:]
                kept["q"] = self._product(i, "q", readers, layer.qkv[:hidden], q_bias, "q")
                kept["kv"] = self._product(i, "kv", x, layer.qkv[hidden:], kv_bias, "kv")
            else:
                readers = x
                kept["qkv"] = self._product(i, "qkv", x, layer.qkv, layer.qkv_bias, "qkv" + mark)
            kept["read"] = take("read" + mark, rows, hidden)
            kept["softmaxes"] = self._take("softmaxes" + mark, rows, 2 * heads, torch.float32)
            attention = self._attention(tape, layer, kept, i)
            self.attention_forward(ctypes.byref(attention), _at(kept["read"]), hidden, _at(kept["softmaxes"]))
            kept["z1"] = self._product(i, "output", kept["read"], layer.output, None, "z1" + mark)
            kept["y1"] = take("y1" + mark, rows, hidden)
            kept["stats1"] = self._take("stats1" + mark, rows, 2, torch.float32)
            self._norm(layer.norm1, kept["z1"], layer.output_bias, readers, kept["y1"], kept["stats1"], tape, 3 * i + 1)
            if self.int8 is not None:
                kept["z2"] = self._take("z2", kept["y1"].shape[0], hidden)
                self.int8.feed_forward(i, kept["y1"], layer.expand_bias, kept["z2"])
            else:
                kept["a"] = take("a" + mark, rows, config.intermediate_size)
                if keep:
                    kept["h"] = take("h" + mark, rows, config.intermediate_size)
                self.products.expand(kept["y1"], layer.expand, layer.expand_bias, kept.get("h"), kept["a"])
                kept["z2"] = take("z2" + mark, rows, hidden)
                self.products.contract(kept["a"], layer.contract, kept["z2"])
            x = take(f"x{i + 1}" if keep else "x", rows, hidden)
            kept["stats2"] = self._take("stats2" + mark, rows, 2, torch.float32)
            self._norm(layer.norm2, kept["z2"], layer.contract_bias, kept["y1"], x, kept["stats2"], tape, 3 * i + 2)
            if keep:
                tape.layers.append(kept)
        if keep:
            tape.id_groups = groups
            self._tape = tape
        return x[:rows]

    def _embed(self, tape: _Tape, keep: bool) -> Tensor:
        """(at least tokens, hidden): what the first layer reads."""
        embeddings, tokens, width = self.encoder.embeddings, len(tape.ids), self.config.embedding_width
        project = embeddings.project
        x = self._take_rows("embedded" if project is not None else "x0" if keep else "x", tokens, width)
        tape.embedded = x
        tape.embedded_stats = self._take("stats0", tokens, 2, torch.float32)
        tape.segments = self._segments()
        self.typed.embed_forward(
            tape.ids.ctypes.data,
            _at(tape.places),
            _at(tape.segment_ids),
            _at(embeddings.token.weight),
            _at(embeddings.position.weight),
            _at(tape.segments),
            _at(embeddings.norm.weight),
            _at(embeddings.norm.bias),
            _at(x),
            _at(tape.embedded_stats),
            tokens,
            width,
            self.config.layer_norm_eps,
            _dropout(tape, 0),
        )
        if project is None:
            return x
        projected = self._take_rows("x0" if keep else "x", tokens, self.config.hidden_size)
        return torch.addmm(project.bias, x, project.weight.t(), out=projected)

    def _segments(self) -> Tensor:
        """(segments, width): what is added to every token of a segment, the task's vector included."""
        embeddings = self.encoder.embeddings
        if embeddings.segment is not None:
            found = embeddings.segment.weight.detach()
        else:
            found = torch.zeros(1, self.config.embedding_width, dtype=self.dtype)
        return found if embeddings.task is None else found + embeddings.task.weight.detach()[0]

    def _segment_ids(self, batch: Batch) -> Tensor | None:
        """(tokens,) int32; None: all 0, as those of models without segments."""
        if batch.segment_ids is None or self.encoder.embeddings.segment is None:
            return None
        return batch.segment_ids[: batch.num_tokens].to(torch.int32)

    def _weights_state(self) -> tuple[int, ...]:
        """The same for as long as nobody has changed the weights (but for training, which runs with gradients)."""
        parameters = self.encoder.layers.parameters()
        return tuple(0 if parameter.is_inference() else parameter._version for parameter in parameters)

    def _take_rows(self, name: str, rows: int, columns: int) -> Tensor:
        """(at least ``rows``, columns): memory for a factor or a result of a product; see ``_ROWS_STEP``."""
        step = _FEW_ROWS_STEP if rows < _FEW_ROWS else _ROWS_STEP
        if self._on_panels and rows <= PanelProducts.most_rows:
            step = PanelProducts.row_step
        return self._take(name, -(-rows // step) * step, columns)

    def _take_gradient(self, name: str, rows: int, columns: int) -> Tensor:
        """As ``_take_rows``, with zeros behind the last row: they add nothing to the gradients of weights."""
        memory = self._take_rows(name, rows, columns)
        memory[rows:].zero_()
        return memory

    def _product(self, i: int, name: str, x: Tensor, weight: Tensor, bias: Tensor | None, into: str) -> Tensor:
        """(rows, outputs): ``x`` (rows, inputs) times the transpose of ``weight`` (outputs, inputs) of layer ``i``."""
        y = self._take(into, x.shape[0], weight.shape[0])
        (self.int8 or self.products).product(i, name, x, weight, bias, y)
        return y

    def _take(self, name: str, rows: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        return self._memory.take(name, rows, columns, dtype or self.dtype)

    def _check(self, ids: np.ndarray, batch: Batch) -> None:
        """C reads where it is told: ids and positions must lie in their tables."""
        if batch.token_ids.shape[0] != batch.num_tokens or batch.num_fillers:
            raise ValueError("this encoder takes batches without unused capacity")
        if ids.min(initial=0) < 0 or ids.max(initial=0) >= self.config.vocab_size:
            raise IndexError(f"token id {ids.max()} is outside the vocabulary of {self.config.vocab_size:,}")
        if batch.max_len > self.config.num_positions:
            raise IndexError(f"{batch.max_len} tokens, but only {self.config.num_positions} positions")
        segments = self._segment_ids(batch)
        if segments is not None and not 0 <= int(segments.min()) <= int(segments.max()) < self.config.type_vocab_size:
            raise IndexError(f"a segment id is outside the {self.config.type_vocab_size} of this model")

    def _norm(
        self,
        norm: nn.LayerNorm,
        x: Tensor,
        bias: Tensor,
        residual: Tensor,
        y: Tensor,
        stats: Tensor,
        tape: _Tape,
        site: int,
    ) -> None:
        self.typed.norm_forward(
            _at(x),
            _at(bias),
            _at(residual),
            _at(norm.weight),
            _at(norm.bias),
            _at(y),
            _at(stats),
            stats.shape[0],
            x.shape[1],
            norm.eps,
            _dropout(tape, site),
        )

    def _attention(self, tape: _Tape, layer: _Layer, kept: dict[str, Tensor], i: int) -> Attention:
        hidden = self.config.hidden_size
        item = layer.qkv.element_size()
        bias = 0 if self._adds_bias else _at(layer.qkv_bias)
        if "qkv" in kept:
            q, q_stride, q_starts = _at(kept["qkv"]), 3 * hidden, tape.starts
            k, kv_stride = q + hidden * item, 3 * hidden
        else:
            assert tape.only is not None
            q, q_stride, q_starts = _at(kept["q"]), hidden, tape.only.starts
            k, kv_stride = _at(kept["kv"]), 2 * hidden
        return Attention(
            q=q,
            k=k,
            v=k + hidden * item,
            q_bias=bias,
            k_bias=bias and bias + hidden * item,
            v_bias=bias and bias + 2 * hidden * item,
            q_stride=q_stride,
            k_stride=kv_stride,
            v_stride=kv_stride,
            q_starts=_at(q_starts),
            k_starts=_at(tape.starts),
            order=_at(tape.order),
            texts=tape.starts.shape[0] - 1,
            heads=self.config.num_attention_heads,
            head=self.config.head_dim,
            longest=tape.longest,
            dropout=_dropout_values(tape.attention_dropout, tape.key, 3 * i + 3),
        )

    # --- backward -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _backward(self, grad: Tensor) -> None:
        tape = self._tape
        assert tape is not None, "no forward pass to go back from"
        self._tape = None
        config, typed, take, take_gradient = self.config, self.typed, self._take_rows, self._take_gradient
        products = self.products
        hidden, inner = config.hidden_size, config.intermediate_size
        tokens = len(tape.ids)
        widest = max(3 * hidden, inner, config.embedding_width)
        partials = self._memory.take("partials", 3 * self.kernels.num_threads(), widest, torch.float32)
        dy, dy2 = grad.to(self.dtype).contiguous(), None
        for i in range(len(self.layers) - 1, -1, -1):
            layer, kept = self.layers[i], tape.layers[i]
            rows = kept["stats2"].shape[0]
            gradient = layer.gradient

            def norm_backward(
                norm: nn.LayerNorm, number: int, dy: Tensor, dy2: Tensor | None, bias: str
            ) -> tuple[Tensor, Tensor]:
                z = kept[f"z{number}"]  # noqa: B023 - called within this turn of the loop
                dz = take_gradient(f"dz{number}", rows, hidden)  # noqa: B023
                dx = take_gradient("dx", rows, hidden) if tape.dropout else dz  # noqa: B023
                typed.norm_backward(
                    _at(dy),
                    _at(dy2),
                    _at(z),
                    _at(kept[f"stats{number}"]),  # noqa: B023
                    _at(norm.weight),
                    _at(dz),
                    _at(dx),
                    *(
                        _at(gradient(name, (1, hidden), torch.float32))  # noqa: B023
                        for name in (f"gamma{number}", f"beta{number}", bias)
                    ),
                    _at(partials),
                    rows,  # noqa: B023
                    hidden,
                    _dropout(tape, 3 * i + number),  # noqa: B023
                )
                return dz, dx

            dz2, dx = norm_backward(layer.norm2, 2, dy, dy2, "contract_bias")
            dh = take("dh", rows, inner)
            dcontract = gradient("contract", (hidden, inner), self.dtype)
            products.contract_gradients(
                dx, kept["a"], kept["h"], layer.contract, layer.expand_bias, dcontract, dh, partials
            )
            dexpand = gradient("expand", (inner, hidden), self.dtype)
            dexpand_bias = gradient("expand_bias", (1, inner), torch.float32)
            dy1 = take("dy1", rows, hidden)
            products.expand_gradients(dh, kept["y1"], layer.expand, dexpand, dexpand_bias, dy1, partials)
            dz1, dx = norm_backward(layer.norm1, 1, dz2, dy1, "output_bias")
            products.weight_gradient(dx, kept["read"], gradient("output", (hidden, hidden), self.dtype), partials, None)
            dread = take("dread", rows, hidden)
            products.input_gradient(dx, layer.output, dread)
            dqkv_weight = gradient("qkv", (3 * hidden, hidden), self.dtype)
            dqkv_bias = gradient("qkv_bias", (1, 3 * hidden), torch.float32)
            attention = self._attention(tape, layer, kept, i)
            item = dread.element_size()
            if "qkv" in kept:
                dqkv = take_gradient("dqkv", tokens, 3 * hidden)
                at = _at(dqkv)
                targets = at, at + hidden * item, at + 2 * hidden * item
            else:
                dq, dkv = take_gradient("dq", rows, hidden), take_gradient("dkv", tokens, 2 * hidden)
                targets = _at(dq), _at(dkv), _at(dkv) + hidden * item
            self.attention_backward(ctypes.byref(attention), _at(dread), hidden, _at(kept["softmaxes"]), *targets)
            if "qkv" in kept:
                products.weight_gradient(dqkv, kept["x"], dqkv_weight, partials, dqkv_bias)
                dy, dy2 = dz1, take("dx_layer", tokens, hidden)
                products.input_gradient(dqkv, layer.qkv, dy2)
            else:
                products.weight_gradient(dq, kept["readers"], dqkv_weight[:hidden], partials, dqkv_bias[:, :hidden])
                products.weight_gradient(dkv, kept["x"], dqkv_weight[hidden:], partials, dqkv_bias[:, hidden:])
                dy, dy2 = take("dx_layer", tokens, hidden), None
                products.input_gradient(dkv, layer.qkv[hidden:], dy)
                dreaders = take("dreaders", rows, hidden)
                products.input_gradient(dq, layer.qkv[:hidden], dreaders)
                dz1[:rows] += dreaders[:rows]
                assert tape.only is not None
                dy.index_add_(0, tape.only.rows, dz1[:rows])
        self._embed_backward(tape, dy, dy2, partials)

    def _embed_backward(self, tape: _Tape, dy: Tensor, dy2: Tensor | None, partials: Tensor) -> None:
        width, tokens = self.config.embedding_width, len(tape.ids)
        embeddings = self.encoder.embeddings
        found: dict[str, Tensor | RowGradients] = {}
        if embeddings.project is not None:
            assert tape.embedded is not None
            if dy2 is not None:
                dy = dy + dy2
            dy, embedded, dy2 = dy[:tokens], tape.embedded[:tokens], None
            found["embeddings.project.weight"] = dy.t() @ embedded
            found["embeddings.project.bias"] = dy.sum(0, dtype=torch.float32)
            dy = dy @ embeddings.project.weight
        dz = self._take("dz_embedded", tokens, width, torch.float32)
        sums = {name: torch.empty(width) for name in ("weight", "bias", "segment")}
        self.typed.embed_backward(
            _at(dy),
            _at(dy2),
            tape.ids.ctypes.data,
            _at(tape.places),
            _at(tape.segment_ids),
            _at(embeddings.token.weight),
            _at(embeddings.position.weight),
            _at(tape.segments),
            _at(tape.embedded_stats),
            _at(embeddings.norm.weight),
            _at(dz),
            _at(sums["weight"]),
            _at(sums["bias"]),
            _at(sums["segment"]),
            _at(partials),
            tokens,
            width,
            _dropout(tape, 0),
        )
        assert tape.id_groups is not None
        positions = torch.zeros(self.config.max_position_embeddings, width)
        at, order, starts = _group(tape.places.numpy())
        positions[torch.from_numpy(at).long()] = self._sum_rows(dz, at, order, starts).values
        if embeddings.segment is not None:
            segments = torch.zeros(self.config.type_vocab_size, width)
            if tape.segment_ids is None:
                segments[0] = sums["segment"]
            else:
                segments.index_add_(0, tape.segment_ids.long(), dz)
            found["embeddings.segment.weight"] = segments
        if embeddings.task is not None:
            tasks = found["embeddings.task.weight"] = torch.zeros(self.config.task_type_vocab_size, width)
            tasks[0] = sums["segment"]
        tokens_gradient: Tensor | RowGradients = self._sum_rows(dz, *tape.id_groups)
        if self.table_gradient is not None:
            assert isinstance(tokens_gradient, RowGradients)
            rows = torch.from_numpy(tokens_gradient.rows).long()
            both = self.table_gradient[rows].float() + tokens_gradient.values  # each row is there once
            self.table_gradient[rows] = both.to(self.table_gradient.dtype)
            tokens_gradient = self.table_gradient
        self._embedding_gradients = found | {
            "embeddings.token.weight": tokens_gradient,
            "embeddings.position.weight": positions,
            "embeddings.norm.weight": sums["weight"],
            "embeddings.norm.bias": sums["bias"],
        }

    def _sum_rows(self, dz: Tensor, distinct: np.ndarray, order: np.ndarray, starts: np.ndarray) -> RowGradients:
        values = self._take("token_gradients", len(distinct), dz.shape[1], torch.float32)
        self.kernels.sum_by_group(
            _at(dz), order.ctypes.data, starts.ctypes.data, len(distinct), dz.shape[1], _at(values)
        )
        return RowGradients(distinct, values)


class _Pass(torch.autograd.Function):
    """A forward and a backward pass as one node of PyTorch's graph; the gradients stay with the encoder."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, encoder: CpuEncoder, batch: Batch, only: Readers | None) -> Tensor:
        ctx.encoder = encoder
        return encoder._forward(batch, only, keep=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        ctx.encoder._backward(grad)
        return None, None, None, None


def _group(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct ``numbers``, all places in order of their number, and where in that each number's places start."""
    order = np.argsort(numbers, kind="stable").astype(np.int32)
    in_order = numbers[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))
    return in_order[starts], order, np.append(starts, len(numbers)).astype(np.int32)


def _at(tensor: Tensor | None) -> int:
    """Where the numbers of a tensor lie; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def _dropout(tape: _Tape, site: int) -> Any:
    return ctypes.byref(_dropout_values(tape.dropout, tape.key, site))


def _dropout_values(probability: float, key: int, site: int) -> Dropout:
    """The dropout of one place in the model; its own key is the batch's, mixed by SplitMix64 (Steele et al. 2014)."""
    if not probability:
        return Dropout(0, 1.0, 0, 0)
    mixed = (key + (site + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    mixed ^= mixed >> 31
    threshold = max(1, min(2**32 - 1, round(probability * 2**32)))
    return Dropout(threshold, 1.0 / (1.0 - probability), mixed & 0xFFFFFFFF, mixed >> 32)
