"""The encoder on a GPU, with its element-wise chains fused by torch.compile.

One layer is compiled for any number of tokens and used for all of them, which takes seconds where a whole encoder would
take minutes; PyTorch keeps the result on disk for the next run. Small models are bound by starting kernels, not by
computing: they are compiled whole for batches of one shape and replayed as CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertwright.model.attention import Kernel
from bertwright.model.batch import Batch, Readers
from bertwright.model.encoder import Encoder, EncoderLayer

# Below this hidden size a layer's kernels are shorter than the time to start them; of few layers, since the whole of
# them is compiled.
_SMALL_HIDDEN_SIZE = 512
_SMALL_NUM_LAYERS = 4
# Compiling takes some tens of seconds the first time; work of fewer operations and batches than this is done sooner
# without. By estimate: not measured on a GPU yet.
_LEAST_OPERATIONS = 5e15
_LEAST_BATCHES = 5_000
# Layers, embeddings and whole encoders are one function each to torch.compile, whatever models there are: each shape
# of model, dtype, mode and kind of batch is one more version of it. Beyond this many it computes without compiling.
_MOST_VERSIONS = 64


@dataclass(frozen=True)
class Work:
    """What an encoder will be given in all: tokens, and batches."""

    num_tokens: int
    num_batches: int


def is_small(encoder: Encoder) -> bool:
    """Whether starting kernels, not computing, bounds this encoder on a GPU, and it is compiled fast enough."""
    config = encoder.config
    return config.hidden_size <= _SMALL_HIDDEN_SIZE and config.num_hidden_layers <= _SMALL_NUM_LAYERS


def why_not_compile(encoder: Encoder, kernel: Kernel, work: Work | None, training: bool) -> str | None:
    """Why compiling would not pay for ``work``, or None; without ``work``, only whether it can be done."""
    if kernel != "varlen":
        return f"the attention kernel {kernel} looks at the texts' lengths, which cannot be compiled"
    per_token = 2 * sum(p.numel() for layer in encoder.layers for p in layer.parameters()) * (3 if training else 1)
    if work is None or work.num_tokens * per_token >= _LEAST_OPERATIONS or work.num_batches >= _LEAST_BATCHES:
        return None
    return "too little work to pay for compiling"


class GpuEncoder:
    """Computes an encoder with compiled layers.

    ``graphs``: batches with fillers all have one shape, and run as CUDA graphs. ``backend`` is torch.compile's.
    ``strict``: what cannot be compiled whole is an error, for tests, and not computed in pieces.
    """

    name = "torch.compile"

    def __init__(
        self, encoder: Encoder, kernel: Kernel, graphs: bool, backend: str = "inductor", strict: bool = False
    ) -> None:
        self.encoder, self.graphs = encoder, graphs
        from torch._dynamo import config as dynamo_config  # a second of loading that only compiling needs

        for layer in encoder.layers:
            assert isinstance(layer, EncoderLayer)
            layer.attention.kernel = kernel  # chosen now: the choice itself cannot be compiled
        options: dict[str, Any] = {"backend": backend, "fullgraph": strict}
        dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, _MOST_VERSIONS)
        mode: dict[str, Any] = {"mode": "reduce-overhead"} if backend == "inductor" else {}
        self._whole: Callable[..., Tensor] = torch.compile(_whole, dynamic=False, **options, **mode)
        self._embeddings: Callable[..., Tensor] = torch.compile(_embeddings, dynamic=True, **options)
        self._layer: Callable[..., Tensor] = torch.compile(_layer, dynamic=True, **options)
        self._device, self._dtype = self._where()

    def _where(self) -> tuple[torch.device, torch.dtype]:
        weight = self.encoder.embeddings.token.weight
        return weight.device, weight.dtype

    def is_current(self) -> bool:
        """Whether the parameters are still on the device and in the dtype that this was made for."""
        return self._where() == (self._device, self._dtype)

    def __call__(self, batch: Batch, only: Readers | None) -> Tensor:
        """As ``Encoder.forward``."""
        arrays = (batch.token_ids, batch.positions, batch.segment_ids, batch.seq_starts, batch.max_len)
        readers = (None, None, 0) if only is None else (only.rows, only.starts, only.most)
        if self.graphs and batch.num_fillers:  # others, as in scoring, are of any shape
            torch.compiler.cudagraph_mark_step_begin()
            return self._whole(self.encoder, *arrays, *readers).clone()
        x = self._embeddings(self.encoder, *arrays)
        last = len(self.encoder.layers) - 1
        for i, layer in enumerate(self.encoder.layers):
            x = self._layer(layer, x, *arrays, *(readers if i == last else (None, None, 0)))
        return x


def _batch(token_ids: Tensor, positions: Tensor, segment_ids: Tensor | None, seq_starts: Tensor, max_len: int) -> Batch:
    return Batch(token_ids, positions, segment_ids, seq_starts, max_len, token_ids.shape[0])


def _readers(rows: Tensor | None, starts: Tensor | None, most: int) -> Readers | None:
    return None if rows is None or starts is None else Readers(rows, starts, most)


def _whole(encoder: Encoder, *arrays: Any) -> Tensor:
    return encoder.compute(_batch(*arrays[:-3]), only=_readers(*arrays[-3:]))


def _embeddings(encoder: Encoder, *arrays: Any) -> Tensor:
    return encoder.embeddings(_batch(*arrays))


def _layer(layer: EncoderLayer, x: Tensor, *arrays: Any) -> Tensor:
    return layer(x, _batch(*arrays[:-3]), _readers(*arrays[-3:]))
