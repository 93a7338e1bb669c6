"""BERT as a pure function in JAX: the formulas of ``bertwright.model.encoder`` again, on padded batches.

XLA compiles it for whatever JAX runs on: CPUs, GPUs, TPUs. Sources: Devlin et al. 2019 (arXiv 1810.04805), Vaswani et
al. 2017 (arXiv 1706.03762). Weights bear the names of Hugging Face's BertForSequenceClassification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from safetensors.numpy import load_file

Weights = Mapping[str, Array]
# Added to the score of padding: exp of it is 0, and it is finite.
_MASKED = -1e30


class Shape(NamedTuple):
    """What of a model's shape does not follow from its weights."""

    num_layers: int
    num_heads: int
    layer_norm_eps: float


def load(folder: Path) -> tuple[dict[str, Array], Shape]:
    """The weights and the shape of a BERT in Hugging Face's layout.

    Raises:
        ValueError: it is another family's model.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "bert":
        raise ValueError(f"model_type is {config['model_type']}, expected bert")
    weights = {name: jnp.asarray(value) for name, value in load_file(folder / "model.safetensors").items()}
    shape = Shape(config["num_hidden_layers"], config["num_attention_heads"], config["layer_norm_eps"])
    return weights, shape


def logits(weights: Weights, ids: Array, mask: Array, shape: Shape) -> Array:
    """(sequences, classes) float32, of token ids and attention mask (sequences, tokens): 1 for tokens, 0 for padding.

    The classifier reads the first token, through the pooler: tanh(x W' + b) (arXiv 1810.04805, section 3.2).
    """
    x = embeddings(weights, ids, shape)
    for layer in range(shape.num_layers):
        x = encoder_layer(weights, f"bert.encoder.layer.{layer}", x, mask, shape)
    return linear(weights, "classifier", jnp.tanh(linear(weights, "bert.pooler.dense", x[:, 0])))


def embeddings(weights: Weights, ids: Array, shape: Shape) -> Array:
    """(sequences, tokens, hidden): token + position + segment 0, then LayerNorm (arXiv 1810.04805, figure 2)."""
    name = "bert.embeddings"
    tokens = weights[f"{name}.word_embeddings.weight"][ids]
    positions = weights[f"{name}.position_embeddings.weight"][: ids.shape[1]]
    segment = weights[f"{name}.token_type_embeddings.weight"][0]
    return layer_norm(weights, f"{name}.LayerNorm", tokens + positions + segment, shape)


def encoder_layer(weights: Weights, name: str, x: Array, mask: Array, shape: Shape) -> Array:
    """LayerNorm(x + Sublayer(x)) twice: attention, then feed-forward (arXiv 1706.03762, section 3.1)."""
    read = attention(weights, f"{name}.attention.self", x, mask, shape)
    attended = linear(weights, f"{name}.attention.output.dense", read)
    x = layer_norm(weights, f"{name}.attention.output.LayerNorm", x + attended, shape)
    expanded = jax.nn.gelu(linear(weights, f"{name}.intermediate.dense", x), approximate=False)
    return layer_norm(weights, f"{name}.output.LayerNorm", x + linear(weights, f"{name}.output.dense", expanded), shape)


def attention(weights: Weights, name: str, x: Array, mask: Array, shape: Shape) -> Array:
    """softmax(Q K' / sqrt(d)) V of each head, the heads side by side (arXiv 1706.03762, sections 3.2.1 and 3.2.2)."""

    def heads(part: str) -> Array:
        """(sequences, tokens, heads, head_dim)."""
        return linear(weights, f"{name}.{part}", x).reshape(*x.shape[:2], shape.num_heads, -1)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = jnp.einsum("sqhd,skhd->shqk", query, key) / jnp.sqrt(query.shape[-1])
    scores = jnp.where(mask[:, None, None, :] == 1, scores, _MASKED)
    return jnp.einsum("shqk,skhd->sqhd", jax.nn.softmax(scores), value).reshape(x.shape)


def linear(weights: Weights, name: str, x: Array) -> Array:
    """x W' + b."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: Weights, name: str, x: Array, shape: Shape) -> Array:
    """Mean 0 and variance 1 over a token's features, scaled and shifted (Ba et al. 2016, arXiv 1607.06450)."""
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt((x**2).mean(axis=-1, keepdims=True) + shape.layer_norm_eps)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]
