"""fairseq's files, made from a random model of transformers: what fairseq would have saved of the same weights."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "What a wonderful film! I have not laughed so much in years, and the music is lovely.",
    "Don't you dare; it's 3.99 and they're 12 of them, we've counted.",
    "the the the film film was was good, bad, lovely and long",
)
HIDDEN, LAYERS, HEADS, WIDE, POSITIONS = 16, 2, 2, 32, 40
# (Hugging Face's, fairseq's of 2020 and later), of a layer
_LAYER = (
    ("attention.self.query", "self_attn.q_proj"),
    ("attention.self.key", "self_attn.k_proj"),
    ("attention.self.value", "self_attn.v_proj"),
    ("attention.output.dense", "self_attn.out_proj"),
    ("attention.output.LayerNorm", "self_attn_layer_norm"),
    ("intermediate.dense", "fc1"),
    ("output.dense", "fc2"),
    ("output.LayerNorm", "final_layer_norm"),
)


def write_vocabulary(folder: Path, num_merges: int = 60) -> dict[str, int]:
    """dict.txt, encoder.json and vocab.bpe of a small BPE, in three orders that differ. Returns GPT-2's ids."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + num_merges,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(TEXTS * 3, trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    tokens = [*trained.get_vocab(), "<|endoftext|>"]
    order = random.Random(1)
    order.shuffle(tokens)
    encoder = {token: i for i, token in enumerate(tokens)}
    (folder / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
    symbols = [*map(str, encoder.values())]
    order.shuffle(symbols)
    symbols += ["madeupword0000", "madeupword0001"]
    (folder / "dict.txt").write_text("".join(f"{symbol} {9}\n" for symbol in symbols), encoding="utf-8")
    return encoder


def vocab_size(folder: Path) -> int:
    return len((folder / "dict.txt").read_text().splitlines()) + 5


def settings(**changed: Any) -> argparse.Namespace:
    """The ``args`` that fairseq keeps, with some that are of no use here."""
    return argparse.Namespace(
        **{
            "arch": "roberta_base",
            "task": "masked_lm",
            "encoder_layers": LAYERS,
            "encoder_embed_dim": HIDDEN,
            "encoder_ffn_embed_dim": WIDE,
            "encoder_attention_heads": HEADS,
            "activation_fn": "gelu",
            "pooler_activation_fn": "tanh",
            "dropout": 0.1,
            "attention_dropout": 0.2,
            "pooler_dropout": 0.3,
            "max_positions": POSITIONS - 2,
            "lr": [0.0005],
            "untie_weights_roberta": False,
            **changed,
        }
    )


def random_roberta(size: int) -> Any:
    """transformers' RoBERTa, with weights far from those that it starts from."""
    import transformers

    torch.manual_seed(3)
    model = transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(
            vocab_size=size,
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=WIDE,
            max_position_embeddings=POSITIONS,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.roberta.embeddings.token_type_embeddings.weight.zero_()  # fairseq has no segments
    return model


def fairseq_tensors(model: Any) -> dict[str, Tensor]:
    """The weights of transformers' RoBERTa under the names of fairseq's releases from 2020 on."""
    state = model.state_dict()
    encoder = "encoder.sentence_encoder."
    found = {
        f"{encoder}embed_tokens.weight": state["roberta.embeddings.word_embeddings.weight"],
        f"{encoder}embed_positions.weight": state["roberta.embeddings.position_embeddings.weight"],
        f"{encoder}version": torch.tensor([3.0]),
    }
    for kind in ("weight", "bias"):
        found[f"{encoder}layernorm_embedding.{kind}"] = state[f"roberta.embeddings.LayerNorm.{kind}"]
        for layer in range(LAYERS):
            for theirs, ours in _LAYER:
                found[f"{encoder}layers.{layer}.{ours}.{kind}"] = state[
                    f"roberta.encoder.layer.{layer}.{theirs}.{kind}"
                ]
        for part in ("dense", "layer_norm"):
            found[f"encoder.lm_head.{part}.{kind}"] = state[f"lm_head.{part}.{kind}"]
    found["encoder.lm_head.weight"] = found[f"{encoder}embed_tokens.weight"]
    found["encoder.lm_head.bias"] = state["lm_head.bias"]
    return found


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of fairseq's releases of 2019."""
    old: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, is_query, kind = name.partition(".self_attn.q_proj.")
        if is_query:
            parts = [tensors[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            name, tensor = f"{layer}.self_attn.in_proj_{kind}", torch.cat(parts)
        elif ".k_proj." in name or ".v_proj." in name:
            continue
        old[name.replace("encoder.", "decoder.", 1).replace("layernorm_embedding", "emb_layer_norm")] = tensor
    return old


def save(path: Path, tensors: dict[str, Tensor], args: Any = None, legacy: bool = False, **more: Any) -> None:
    """A checkpoint as fairseq saves it, with what training keeps beside."""
    saved = {
        "args": settings() if args is None else args,
        "model": tensors,
        "optimizer_history": [
            {"optimizer_name": "FairseqAdam", "num_updates": 10, "lr_scheduler_state": {"best": 2.5}}
        ],
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 2.5},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.ones(3)}}},
        **more,
    }
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
