"""Checkpoint names, written out: which tensor of a Hugging Face checkpoint is which of ours.

Every name is literal but for ``{layer}``, so that a search for a tensor's name finds it here. The encoders of BERT,
RoBERTa, XLM-R, ERNIE and ELECTRA share their names, but for the prefix (``bertwright.model.families``).
"""

from __future__ import annotations

from dataclasses import dataclass

from bertwright.model.families import ModelType

# (ours, Hugging Face's without the family's prefix, such as "bert.")
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

ROBERTA_CLASSIFIER = (
    ("classifier.dense.weight", "classifier.dense.weight"),
    ("classifier.dense.bias", "classifier.dense.bias"),
    ("classifier.linear.weight", "classifier.out_proj.weight"),
    ("classifier.linear.bias", "classifier.out_proj.bias"),
)

# What not every model of these families has.
ERNIE_ENCODER = (*BERT_ENCODER, ("encoder.embeddings.task.weight", "embeddings.task_type_embeddings.weight"))
ELECTRA_ENCODER = (
    *BERT_ENCODER,
    ("encoder.embeddings.project.weight", "embeddings_project.weight"),
    ("encoder.embeddings.project.bias", "embeddings_project.bias"),
)

DISTILBERT_ENCODER = (
    ("encoder.embeddings.token.weight", "embeddings.word_embeddings.weight"),
    ("encoder.embeddings.position.weight", "embeddings.position_embeddings.weight"),
    ("encoder.embeddings.norm.weight", "embeddings.LayerNorm.weight"),
    ("encoder.embeddings.norm.bias", "embeddings.LayerNorm.bias"),
)
DISTILBERT_LAYER = (
    ("encoder.layers.{layer}.attention.query.weight", "transformer.layer.{layer}.attention.q_lin.weight"),
    ("encoder.layers.{layer}.attention.query.bias", "transformer.layer.{layer}.attention.q_lin.bias"),
    ("encoder.layers.{layer}.attention.key.weight", "transformer.layer.{layer}.attention.k_lin.weight"),
    ("encoder.layers.{layer}.attention.key.bias", "transformer.layer.{layer}.attention.k_lin.bias"),
    ("encoder.layers.{layer}.attention.value.weight", "transformer.layer.{layer}.attention.v_lin.weight"),
    ("encoder.layers.{layer}.attention.value.bias", "transformer.layer.{layer}.attention.v_lin.bias"),
    ("encoder.layers.{layer}.attention.output.weight", "transformer.layer.{layer}.attention.out_lin.weight"),
    ("encoder.layers.{layer}.attention.output.bias", "transformer.layer.{layer}.attention.out_lin.bias"),
    ("encoder.layers.{layer}.attention_norm.weight", "transformer.layer.{layer}.sa_layer_norm.weight"),
    ("encoder.layers.{layer}.attention_norm.bias", "transformer.layer.{layer}.sa_layer_norm.bias"),
    ("encoder.layers.{layer}.feed_forward.expand.weight", "transformer.layer.{layer}.ffn.lin1.weight"),
    ("encoder.layers.{layer}.feed_forward.expand.bias", "transformer.layer.{layer}.ffn.lin1.bias"),
    ("encoder.layers.{layer}.feed_forward.contract.weight", "transformer.layer.{layer}.ffn.lin2.weight"),
    ("encoder.layers.{layer}.feed_forward.contract.bias", "transformer.layer.{layer}.ffn.lin2.bias"),
    ("encoder.layers.{layer}.feed_forward_norm.weight", "transformer.layer.{layer}.output_layer_norm.weight"),
    ("encoder.layers.{layer}.feed_forward_norm.bias", "transformer.layer.{layer}.output_layer_norm.bias"),
)
DISTILBERT_CLASSIFIER = (
    ("classifier.dense.weight", "pre_classifier.weight"),
    ("classifier.dense.bias", "pre_classifier.bias"),
    ("classifier.linear.weight", "classifier.weight"),
    ("classifier.linear.bias", "classifier.bias"),
)

# Buffers and heads of other tasks that a checkpoint may hold and a classifier does not need. Skipped, and said.
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
# Without use_task_id in config.json, the task's embedding is not added: what transformers does, too.
ERNIE_SKIPPED = (*SKIPPED, "embeddings.task_type_embeddings.weight")
# The pooler is of no use either: a classifier of RoBERTa's has a layer of its own instead.
ROBERTA_SKIPPED = (
    "embeddings.position_ids",
    "lm_head.bias",
    "lm_head.decoder.bias",
    "lm_head.decoder.weight",
    "lm_head.dense.bias",
    "lm_head.dense.weight",
    "lm_head.layer_norm.bias",
    "lm_head.layer_norm.weight",
    "pooler.dense.bias",
    "pooler.dense.weight",
)
DISTILBERT_SKIPPED = (
    "embeddings.position_ids",
    "vocab_layer_norm.bias",
    "vocab_layer_norm.weight",
    "vocab_projector.bias",
    "vocab_projector.weight",
    "vocab_transform.bias",
    "vocab_transform.weight",
)
ELECTRA_SKIPPED = (
    "embeddings.position_ids",
    "discriminator_predictions.dense.bias",
    "discriminator_predictions.dense.weight",
    "discriminator_predictions.dense_prediction.bias",
    "discriminator_predictions.dense_prediction.weight",
    "generator_lm_head.bias",
    "generator_lm_head.weight",
    "generator_predictions.LayerNorm.bias",
    "generator_predictions.LayerNorm.weight",
    "generator_predictions.dense.bias",
    "generator_predictions.dense.weight",
)

# TensorFlow's names for a norm's weight and bias, as the oldest .bin files keep them.
OLD_NORM_NAMES = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))

Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NameTable:
    """The names of a family's tensors, each (ours, Hugging Face's).

    Attributes:
        embeddings, layer: without the family's prefix; a model may lack some of the embeddings.
        pooler: without the prefix; empty: the family has none that a classifier reads.
        classifier: never with a prefix.
        skipped: Hugging Face's names of what a classifier does not need.
    """

    embeddings: Names = BERT_ENCODER
    layer: Names = BERT_LAYER
    pooler: Names = ()
    classifier: Names = ROBERTA_CLASSIFIER
    skipped: tuple[str, ...] = SKIPPED

    def encoder(self, num_layers: int) -> list[tuple[str, str]]:
        """(ours, Hugging Face's) for all embeddings that a model may have, and its layers."""
        layers = [
            (ours.format(layer=layer), theirs.format(layer=layer))
            for layer in range(num_layers)
            for ours, theirs in self.layer
        ]
        return [*self.embeddings, *layers]

    def theirs(self, ours: str, num_layers: int) -> str:
        """Hugging Face's name of one of our tensors, without the prefix."""
        return dict([*self.encoder(num_layers), *self.pooler, *self.classifier])[ours]


NAMES: dict[ModelType, NameTable] = {
    "bert": NameTable(pooler=BERT_POOLER, classifier=BERT_CLASSIFIER),
    "roberta": NameTable(skipped=ROBERTA_SKIPPED),
    "xlm-roberta": NameTable(skipped=ROBERTA_SKIPPED),
    "ernie": NameTable(ERNIE_ENCODER, pooler=BERT_POOLER, classifier=BERT_CLASSIFIER, skipped=ERNIE_SKIPPED),
    "distilbert": NameTable(
        DISTILBERT_ENCODER, DISTILBERT_LAYER, classifier=DISTILBERT_CLASSIFIER, skipped=DISTILBERT_SKIPPED
    ),
    "electra": NameTable(ELECTRA_ENCODER, skipped=ELECTRA_SKIPPED),
}


@dataclass(frozen=True)
class MaskedHead:
    """The head that guesses masked tokens, each name as a whole: (ours, Hugging Face's).

    Attributes:
        head: what a checkpoint keeps.
        output, output_bias: the output layer, whose weights are the token embeddings; some files keep it too.
    """

    head: Names
    output: str
    output_bias: str


BERT_MASKED_HEAD = MaskedHead(
    (
        ("head.dense.weight", "cls.predictions.transform.dense.weight"),
        ("head.dense.bias", "cls.predictions.transform.dense.bias"),
        ("head.norm.weight", "cls.predictions.transform.LayerNorm.weight"),
        ("head.norm.bias", "cls.predictions.transform.LayerNorm.bias"),
        ("head.bias", "cls.predictions.bias"),
    ),
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
)
ROBERTA_MASKED_HEAD = MaskedHead(
    (
        ("head.dense.weight", "lm_head.dense.weight"),
        ("head.dense.bias", "lm_head.dense.bias"),
        ("head.norm.weight", "lm_head.layer_norm.weight"),
        ("head.norm.bias", "lm_head.layer_norm.bias"),
        ("head.bias", "lm_head.bias"),
    ),
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
)
DISTILBERT_MASKED_HEAD = MaskedHead(
    (
        ("head.dense.weight", "vocab_transform.weight"),
        ("head.dense.bias", "vocab_transform.bias"),
        ("head.norm.weight", "vocab_layer_norm.weight"),
        ("head.norm.bias", "vocab_layer_norm.bias"),
        ("head.bias", "vocab_projector.bias"),
    ),
    "vocab_projector.weight",
    "vocab_projector.bias",
)
# ELECTRA's discriminators do not guess masked tokens.
MASKED_HEADS: dict[ModelType, MaskedHead] = {
    "bert": BERT_MASKED_HEAD,
    "roberta": ROBERTA_MASKED_HEAD,
    "xlm-roberta": ROBERTA_MASKED_HEAD,
    "ernie": BERT_MASKED_HEAD,
    "distilbert": DISTILBERT_MASKED_HEAD,
}
