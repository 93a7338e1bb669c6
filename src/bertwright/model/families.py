"""The families of models that one encoder computes: what is BERT's, and where the others differ.

A family is a ``model_type`` of Hugging Face's config.json. All have BERT's layers (Devlin et al. 2019, arXiv
1810.04805). Sources of the differences:

- RoBERTa: Liu et al. 2019, arXiv 1907.11692; XLM-R: Conneau et al. 2020, arXiv 1911.02116. Positions are counted from
  the id after padding's, so that 514 of them hold 512 tokens; there is one segment. The classifier has a layer of its
  own: dropout, dense, tanh, dropout, linear.
- ERNIE 2.0: Sun et al. 2020, arXiv 1907.12412. Some files add an embedding of the pretraining task; fine-tuning takes
  task 0 for every token.
- DistilBERT: Sanh et al. 2019, arXiv 1910.01108. No segments, no pooler; dense, ReLU, dropout, linear.
- ELECTRA: Clark et al. 2020, arXiv 2003.10555. Embeddings may be narrower than the layers, and are then projected;
  dropout, dense, GELU, dropout, linear.

How tensors are called stands in ``bertwright.model.name_tables``. This module loads without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ModelType = Literal["bert", "roberta", "xlm-roberta", "ernie", "distilbert", "electra"]

Activation = Literal["tanh", "relu", "gelu"]


@dataclass(frozen=True)
class Family:
    """Where a family differs from BERT.

    Attributes:
        title: as people write it.
        class_prefix: of its classes in ``transformers``: ``<prefix>ForSequenceClassification``, ``<prefix>Model``.
        tensor_prefix: of the encoder's tensors in a checkpoint with a head.
        head_activation: of the dense layer between the first token and the last linear layer.
        head_learns_alone: whether that dense layer is a part of the classifier, and not the pooler that was pretrained.
        head_drops_input: whether there is dropout before it, too.
        positions_follow_padding: whether positions are counted from ``pad_token_id + 1``, and not from 0.
        own_settings: settings of ``ModelConfig`` that only this family's config.json has.
        missing_settings: settings that its config.json does not have, with what holds instead.
        renamed_settings: Hugging Face's name for a setting, where it is not ours.
        defaults: what holds where a config.json does not say, where that differs from ``ModelConfig``'s.
    """

    title: str
    class_prefix: str
    tensor_prefix: str
    head_activation: Activation = "tanh"
    head_learns_alone: bool = False
    head_drops_input: bool = False
    positions_follow_padding: bool = False
    own_settings: tuple[str, ...] = ()
    missing_settings: Mapping[str, Any] = field(default_factory=dict)
    renamed_settings: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


_ROBERTA: dict[str, Any] = {
    "tensor_prefix": "roberta.",
    "head_learns_alone": True,
    "head_drops_input": True,
    "positions_follow_padding": True,
}

FAMILIES: dict[ModelType, Family] = {
    "bert": Family("BERT", "Bert", "bert."),
    "roberta": Family("RoBERTa", "Roberta", defaults={"vocab_size": 50265, "pad_token_id": 1}, **_ROBERTA),
    "xlm-roberta": Family("XLM-R", "XLMRoberta", defaults={"pad_token_id": 1}, **_ROBERTA),
    "ernie": Family("ERNIE", "Ernie", "ernie.", own_settings=("use_task_id", "task_type_vocab_size")),
    "distilbert": Family(
        "DistilBERT",
        "DistilBert",
        "distilbert.",
        head_activation="relu",
        head_learns_alone=True,
        missing_settings={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
        renamed_settings={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "classifier_dropout": "seq_classif_dropout",
        },
        defaults={"num_hidden_layers": 6, "classifier_dropout": 0.2},
    ),
    "electra": Family(
        "ELECTRA",
        "Electra",
        "electra.",
        head_activation="gelu",
        head_learns_alone=True,
        head_drops_input=True,
        own_settings=("embedding_size",),
        defaults={"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "embedding_size": 128},
    ),
}

OWN_SETTINGS = frozenset(name for family in FAMILIES.values() for name in family.own_settings)
"""Settings that not every family has."""
