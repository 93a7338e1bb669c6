"""Masked language models from folders, the hub, or from nothing; and back into a folder that others can load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertwright.errors import CheckpointError
from bertwright.model import name_tables
from bertwright.model.checkpoint import load_for_training, read_tensors, save_tensors
from bertwright.model.encoder import SIZES, ModelConfig
from bertwright.model.masked_language_model import MaskedLanguageModel
from bertwright.model.sources import find_folder
from bertwright.model.tokenizer import Tokenizer
from bertwright.randomness import purpose_seed
from bertwright.runs import write_json

# (ours, Hugging Face's): the head of BertForMaskedLM. Its output weights are the token embeddings, and are not kept.
HEAD = (
    ("head.dense.weight", "cls.predictions.transform.dense.weight"),
    ("head.dense.bias", "cls.predictions.transform.dense.bias"),
    ("head.norm.weight", "cls.predictions.transform.LayerNorm.weight"),
    ("head.norm.bias", "cls.predictions.transform.LayerNorm.bias"),
    ("head.bias", "cls.predictions.bias"),
)
_OUTPUT, _OUTPUT_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
_TABLE = "encoder.embeddings.token.weight"


@dataclass
class LoadedMasked:
    """A masked language model ready to learn, on the CPU, in float32; see ``Loaded``."""

    model: MaskedLanguageModel
    tokenizer: Tokenizer
    description: str
    is_new: bool
    notes: list[str] = field(default_factory=list)


def load_masked(
    name: str, max_length: int, seed: int, tokenizer: str | None, dropouts: Mapping[str, float]
) -> LoadedMasked:
    """The model ``name``, with its head where it has one for masked tokens, else a new one.

    ``tokenizer`` names another model, or a folder with a vocab.txt, whose tokenizer to take.

    Raises:
        CheckpointError: as ``load_for_training``; a head of other shapes, or not tied to the token embeddings.
    """
    loaded = load_for_training(name, ("0", "1"), "first", max_length, seed, tokenizer, dropouts)
    config = loaded.model.config
    kind = getattr(config, "model_type", "bert")
    if kind != "bert":
        raise CheckpointError(
            f"{name}: found a model of type {kind!r}, expected 'bert', whose head alone can be pretrained"
        )
    is_new = name in SIZES and not Path(name).is_dir()
    state = {key: tensor for key, tensor in loaded.model.state_dict().items() if key.startswith("encoder.")}
    with torch.device("meta"):
        model = MaskedLanguageModel(config)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    notes = []
    head = {} if is_new else _head_of(find_folder(name)[0], state[_TABLE])
    for ours, theirs in HEAD:
        if theirs in head:
            if tuple(head[theirs].shape) != shapes[ours]:
                raise CheckpointError(
                    f"{name}: tensor {theirs} has shape {tuple(head[theirs].shape)}, expected {shapes[ours]}"
                )
            state[ours] = head[theirs].float()
    missing = [ours for ours, _ in HEAD if ours not in state]
    if not is_new:
        if not missing:
            notes.append("the checkpoint's head for masked tokens is taken along")
        elif len(missing) == len(HEAD):
            notes.append("the checkpoint has no head for masked tokens: initialised at random, tied to the embeddings")
        else:
            raise CheckpointError(
                f"{name}: tensor {dict(HEAD)[missing[0]]} is missing, but others of its head are there"
            )
    state |= {ours: _initial(ours, shapes[ours], config, seed) for ours in missing}
    model.load_state_dict(state, assign=True)
    return LoadedMasked(model, loaded.tokenizer, loaded.description, is_new, notes)


def _head_of(folder: Path, table: Tensor) -> dict[str, Tensor]:
    """The tensors of a folder's head for masked tokens, by Hugging Face's names.

    Raises:
        CheckpointError: its output weights are others than the token embeddings.
    """
    tensors = read_tensors(folder)
    for old, new in name_tables.OLD_NORM_NAMES:
        tensors = {key.removesuffix(old) + new if key.endswith(old) else key: value for key, value in tensors.items()}
    output = tensors.get(_OUTPUT)
    if output is not None and not torch.equal(output.float(), table):
        raise CheckpointError(
            f"{folder}: tensor {_OUTPUT} differs from the token embeddings, expected weights that are tied to them"
        )
    if _OUTPUT_BIAS in tensors:
        tensors.setdefault("cls.predictions.bias", tensors[_OUTPUT_BIAS])
    wanted = {theirs for _, theirs in HEAD}
    return {key: value for key, value in tensors.items() if key in wanted}


def _initial(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """As ``initial_state``: BERT's rule."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(purpose_seed(seed, "weights", name))
    return torch.empty(shape).normal_(0.0, config.initializer_range, generator=generator)


def save_masked(folder: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write a folder in the layout of Hugging Face's BertForMaskedLM: float32 safetensors, configuration, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = name_tables.HUGGING_FACE_PREFIX
    tensors = {prefix + theirs: state[ours] for ours, theirs in name_tables.encoder_names(config.num_hidden_layers)}
    tensors |= {theirs: state[ours] for ours, theirs in HEAD}
    values: dict[str, Any] = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        **config.model_dump(),
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    }
    write_json(folder / "config.json", values)
    save_tensors(tensors, folder / "model.safetensors")
    tokenizer.save(folder)
