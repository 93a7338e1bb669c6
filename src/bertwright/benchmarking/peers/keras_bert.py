"""keras-hub's BERT with the weights of a BertForSequenceClassification in Hugging Face's layout.

Names of variables and layers are those of keras_hub/src/models/bert/bert_backbone.py and
keras_hub/src/layers/modeling/transformer_encoder.py, of keras-hub 0.32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

if TYPE_CHECKING:
    import keras

Weights = Mapping[str, np.ndarray]

# A Keras path without its last part, the parameter -> Hugging Face's module. Of a layer the number stands between.
_OUTSIDE = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "segment_embedding": "embeddings.token_type_embeddings",
    "embeddings_layer_norm": "embeddings.LayerNorm",
    "pooled_dense": "pooler.dense",
}
_OF_LAYER = {
    "self_attention_layer/query": "attention.self.query",
    "self_attention_layer/key": "attention.self.key",
    "self_attention_layer/value": "attention.self.value",
    "self_attention_layer/attention_output": "attention.output.dense",
    "self_attention_layer_norm": "attention.output.LayerNorm",
    "feedforward_intermediate_dense": "intermediate.dense",
    "feedforward_output_dense": "output.dense",
    "feedforward_layer_norm": "output.LayerNorm",
}
_PARAMETERS = {"embeddings": "weight", "kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}


def name_of(path: str) -> str:
    """Hugging Face's name of the tensor that the Keras variable ``path`` holds.

    Raises:
        ValueError: it is no variable of this BERT.
    """
    place, _, parameter = path.rpartition("/")
    layer = re.fullmatch(r"transformer_layer_(\d+)/(.+)", place)
    module = _OF_LAYER.get(layer[2]) if layer else _OUTSIDE.get(place)
    if module is None or parameter not in _PARAMETERS:
        raise ValueError(f"keras-hub's variable {path} is none that this project knows")
    return f"bert.{f'encoder.layer.{layer[1]}.' if layer else ''}{module}.{_PARAMETERS[parameter]}"


def value_of(path: str, shape: tuple[int, ...], weights: Weights) -> np.ndarray:
    """What the Keras variable ``path`` of ``shape`` must hold.

    Keras keeps matrices as (in, out), those of attention with heads and their size as two axes.

    Raises:
        ValueError: the tensor is missing, or has another size.
    """
    name = name_of(path)
    if name not in weights:
        raise ValueError(f"tensor {name} is missing")
    value = weights[name].T if path.endswith("/kernel") else weights[name]
    if value.size != np.prod(shape):
        raise ValueError(f"tensor {name} has shape {weights[name].shape}, which is not that of {path}, {shape}")
    return value.reshape(shape)


def load(folder: Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """The encoder with its pooler, and the classifier's weight (labels, hidden) and bias (labels,).

    keras-hub approximates GELU by tanh and fixes LayerNorm's epsilon. The weights were trained with GELU itself, and
    with their own epsilon: both are set.

    Raises:
        ValueError: it is another model than a BERT that keras-hub can be.
    """
    import keras
    import keras_hub

    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key, expected in {"model_type": "bert", "hidden_act": "gelu"}.items():
        if config[key] != expected:
            raise ValueError(f"{key} is {config[key]}, expected {expected}")
    weights = load_file(folder / "model.safetensors")
    encoder = keras_hub.models.BertBackbone(
        vocabulary_size=config["vocab_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["hidden_size"],
        intermediate_dim=config["intermediate_size"],
        max_sequence_length=config["max_position_embeddings"],
        num_segments=config["type_vocab_size"],
        dropout=0.0,
    )
    encoder.embeddings_layer_norm.epsilon = config["layer_norm_eps"]
    for layer in encoder.transformer_layers:
        layer._self_attention_layer_norm.epsilon = config["layer_norm_eps"]
        layer._feedforward_layer_norm.epsilon = config["layer_norm_eps"]
        layer._feedforward_intermediate_dense.activation = lambda x: keras.activations.gelu(x, approximate=False)
    for variable in encoder.weights:
        variable.assign(value_of(variable.path, tuple(variable.shape), weights))
    return encoder, weights["classifier.weight"], weights["classifier.bias"]
