"""Tiny random models of every family, as transformers makes and saves them: what the parity tests go through."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
import torch
import transformers

from bertwright.model.batch import Batch

SHAPE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
DISTILBERT_SHAPE = {"dim": 64, "n_layers": 3, "n_heads": 2, "hidden_dim": 96}


@dataclass(frozen=True)
class Case:
    """A kind of model.

    ``tokenizer``: its kind. ``segments``: the second text of a pair is told apart.
    """

    model_type: str
    config_class: Any
    values: dict[str, Any]
    tokenizer: Literal["wordpiece", "byte-level", "unigram"] = "wordpiece"
    segments: bool = True

    @property
    def class_prefix(self) -> str:
        return self.config_class.__name__.removesuffix("Config")

    def config(self, vocab_size: int, num_labels: int = 3, **values: Any) -> Any:
        return self.config_class(
            vocab_size=vocab_size, num_labels=num_labels, attn_implementation="eager", **{**self.values, **values}
        )

    def model(self, vocab_size: int, head: str = "ForSequenceClassification", seed: int = 0, **values: Any) -> Any:
        """transformers' model of this kind in evaluation mode; weights larger than usual: no mistake can hide."""
        torch.manual_seed(seed)
        config = self.config(vocab_size, **values)
        model = getattr(transformers, self.class_prefix + head)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return model


_ROBERTA = {**SHAPE, "type_vocab_size": 1, "max_position_embeddings": 66, "layer_norm_eps": 1e-5, "pad_token_id": 1}
CASES = {
    "bert": Case("bert", transformers.BertConfig, {**SHAPE, "max_position_embeddings": 64}),
    "roberta": Case("roberta", transformers.RobertaConfig, _ROBERTA, "byte-level", False),
    "xlm-roberta": Case("xlm-roberta", transformers.XLMRobertaConfig, _ROBERTA, "unigram", False),
    "ernie": Case(
        "ernie",
        transformers.ErnieConfig,
        {**SHAPE, "max_position_embeddings": 64, "type_vocab_size": 4, "layer_norm_eps": 1e-5},
    ),
    "ernie-with-tasks": Case(
        "ernie", transformers.ErnieConfig, {**SHAPE, "max_position_embeddings": 64, "use_task_id": True}
    ),
    "distilbert": Case(
        "distilbert",
        transformers.DistilBertConfig,
        {**DISTILBERT_SHAPE, "max_position_embeddings": 64},
        segments=False,
    ),
    "electra": Case(
        "electra", transformers.ElectraConfig, {**SHAPE, "max_position_embeddings": 64, "embedding_size": 64}
    ),
    "electra-narrow": Case(
        "electra", transformers.ElectraConfig, {**SHAPE, "max_position_embeddings": 64, "embedding_size": 32}
    ),
}

LENGTHS = np.array([9, 3, 64, 33, 20, 50])
SECOND_STARTS = np.array([4, 2, 40, 32, 2, 49])


def padded(case: Case, batch: Batch, pad_id: int) -> dict[str, torch.Tensor]:
    """What transformers' models are given for the texts of ``batch``, in a rectangle."""
    lengths = batch.seq_starts.diff().tolist()
    shape = len(lengths), max(lengths)
    given = {"input_ids": torch.full(shape, pad_id), "attention_mask": torch.zeros(shape, dtype=torch.long)}
    if case.segments:
        given["token_type_ids"] = torch.zeros(shape, dtype=torch.long)
    for i, (begin, length) in enumerate(zip(batch.seq_starts.tolist(), lengths, strict=False)):
        given["input_ids"][i, :length] = batch.token_ids[begin : begin + length]
        given["attention_mask"][i, :length] = 1
        if case.segments and batch.segment_ids is not None:
            given["token_type_ids"][i, :length] = batch.segment_ids[begin : begin + length]
    return given


def random_ids(vocab_size: int, lengths: np.ndarray = LENGTHS) -> np.ndarray:
    """(tokens,) ids without those of the marks, which are the first five."""
    return np.random.default_rng(0).integers(5, vocab_size, int(lengths.sum()))


TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog is not amused.",
    "An unbelievable film: unputdownable, unforgettable, and under two hours!",
    "Café naïve résumé 中文字符 😀 -- don't you think it's a little   too much?",
]


def save_tokenizer(case: Case, folder: Path) -> int:
    """A small tokenizer of the case's kind, learnt from ``TEXTS``, in ``folder``; returns how many tokens it knows."""
    if case.tokenizer == "byte-level":
        learnt = tokenizers.ByteLevelBPETokenizer()
        learnt.train_from_iterator(TEXTS, vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        learnt.save_model(str(folder))  # vocab.json and merges.txt
    elif case.tokenizer == "unigram":
        learnt = tokenizers.SentencePieceUnigramTokenizer()
        marks = ["<s>", "<pad>", "</s>", "<unk>"]
        learnt.train_from_iterator(TEXTS, 120, special_tokens=marks, unk_token="<unk>", show_progress=False)
        pieces = [tuple(piece) for piece in json.loads(learnt.to_str())["model"]["vocab"]]
        learnt = transformers.XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])
        learnt.save_pretrained(folder)  # tokenizer.json
        return len(learnt)
    else:
        learnt = tokenizers.BertWordPieceTokenizer()
        learnt.train_from_iterator(TEXTS, vocab_size=200, show_progress=False)
        learnt.save_model(str(folder))  # vocab.txt
    return learnt.get_vocab_size()
