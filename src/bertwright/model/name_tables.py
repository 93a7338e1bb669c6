"""Checkpoint names, written out: which tensor of a Hugging Face checkpoint is which of ours.

Every name is literal but for ``{layer}``, so that a search for a tensor's name finds it here.
"""

from __future__ import annotations

# (ours, Hugging Face's without the "bert." prefix)
BERT_ENCODER = (
    ("encoder.embeddings.token.weight", "embeddings.word_embeddings.weight"),
    ("encoder.embeddings.position.weight", "embeddings.position_embeddings.weight"),
    ("encoder.embeddings.segment.weight", "embeddings.token_type_embeddings.weight"),
    ("encoder.embeddings.norm.weight", "embeddings.LayerNorm.weight"),
    ("encoder.embeddings.norm.bias", "embeddings.LayerNorm.bias"),
)
BERT_LAYER = (
    ("encoder.layers.{layer}.attention.query.weight", "encoder.layer.{layer}.attention.self.query.weight"),
    ("encoder.layers.{layer}.attention.query.bias", "encoder.layer.{layer}.attention.self.query.bias"),
    ("encoder.layers.{layer}.attention.key.weight", "encoder.layer.{layer}.attention.self.key.weight"),
    ("encoder.layers.{layer}.attention.key.bias", "encoder.layer.{layer}.attention.self.key.bias"),
    ("encoder.layers.{layer}.attention.value.weight", "encoder.layer.{layer}.attention.self.value.weight"),
    ("encoder.layers.{layer}.attention.value.bias", "encoder.layer.{layer}.attention.self.value.bias"),
    ("encoder.layers.{layer}.attention.output.weight", "encoder.layer.{layer}.attention.output.dense.weight"),
    ("encoder.layers.{layer}.attention.output.bias", "encoder.layer.{layer}.attention.output.dense.bias"),
    ("encoder.layers.{layer}.attention_norm.weight", "encoder.layer.{layer}.attention.output.LayerNorm.weight"),
    ("encoder.layers.{layer}.attention_norm.bias", "encoder.layer.{layer}.attention.output.LayerNorm.bias"),
    ("encoder.layers.{layer}.feed_forward.expand.weight", "encoder.layer.{layer}.intermediate.dense.weight"),
    ("encoder.layers.{layer}.feed_forward.expand.bias", "encoder.layer.{layer}.intermediate.dense.bias"),
    ("encoder.layers.{layer}.feed_forward.contract.weight", "encoder.layer.{layer}.output.dense.weight"),
    ("encoder.layers.{layer}.feed_forward.contract.bias", "encoder.layer.{layer}.output.dense.bias"),
    ("encoder.layers.{layer}.feed_forward_norm.weight", "encoder.layer.{layer}.output.LayerNorm.weight"),
    ("encoder.layers.{layer}.feed_forward_norm.bias", "encoder.layer.{layer}.output.LayerNorm.bias"),
)
BERT_POOLER = (
    ("pooler.dense.weight", "pooler.dense.weight"),
    ("pooler.dense.bias", "pooler.dense.bias"),
)
BERT_CLASSIFIER = (
    ("classifier.linear.weight", "classifier.weight"),
    ("classifier.linear.bias", "classifier.bias"),
)

# Buffers and heads of other tasks that a BERT checkpoint may hold and a classifier does not need. Skipped, and said.
SKIPPED = (
    "embeddings.position_ids",
    "cls.predictions.bias",
    "cls.predictions.decoder.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.transform.LayerNorm.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.dense.weight",
    "cls.seq_relationship.bias",
    "cls.seq_relationship.weight",
)

# TensorFlow's names for a norm's weight and bias, as the oldest .bin files keep them.
OLD_NORM_NAMES = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))

HUGGING_FACE_PREFIX = "bert."


def encoder_names(num_layers: int) -> list[tuple[str, str]]:
    """(ours, Hugging Face's) for embeddings and layers."""
    layers = [
        (ours.format(layer=layer), theirs.format(layer=layer))
        for layer in range(num_layers)
        for ours, theirs in BERT_LAYER
    ]
    return [*BERT_ENCODER, *layers]
