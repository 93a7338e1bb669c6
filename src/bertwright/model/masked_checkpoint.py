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
from bertwright.model.checkpoint import initial_state, load_for_training, read_tensors, save_tensors
from bertwright.model.encoder import SIZES, ModelConfig
from bertwright.model.masked_language_model import TABLE, MaskedLanguageModel
from bertwright.model.name_tables import MASKED_HEADS, MaskedHead
from bertwright.model.sources import find_folder
from bertwright.model.tokenizer import Tokenizer
from bertwright.model.word_embeddings import embeddings_from
from bertwright.randomness import purpose_seed
from bertwright.runs import write_json

_HAS_NO_POOLER = "the checkpoint has no pooler: initialised at random"


@dataclass
class LoadedMasked:
    """A masked language model ready to learn, on the CPU, in float32; see ``Loaded``.

    Attributes:
        saved_config: the configuration to save it with: the checkpoint's own dropout, whatever it learns with.
        words_sha256: of the token embeddings that another model gave.
    """

    model: MaskedLanguageModel
    tokenizer: Tokenizer
    description: str
    is_new: bool
    saved_config: ModelConfig
    notes: list[str] = field(default_factory=list)
    words_sha256: str | None = None


def load_masked(
    name: str,
    max_length: int,
    seed: int,
    tokenizer: str | None,
    dropouts: Mapping[str, float],
    initializer_range: float | None = None,
    word_embeddings: str | None = None,
) -> LoadedMasked:
    """The model ``name``, of any family but ELECTRA, with its head for masked tokens if it has one, else a new one.

    ``tokenizer`` names another model, or a folder with a vocab.txt, whose tokenizer to take. ``initializer_range`` is
    the standard deviation of weights that start from nothing, instead of BERT's 0.02; ``word_embeddings`` names a model
    that gives them its token embeddings (``bertwright.model.word_embeddings``).

    Raises:
        CheckpointError: as ``load_for_training`` and ``embeddings_from``; a head of other shapes, or not tied to the
            token embeddings; an ``initializer_range`` or ``word_embeddings`` for weights that have learnt already.
    """
    loaded = load_for_training(name, ("0", "1"), "first", max_length, seed, tokenizer)
    saved_config = loaded.model.config
    names = MASKED_HEADS.get(saved_config.model_type)
    if names is None:
        raise CheckpointError(
            f"{name}: found a model of type {saved_config.model_type!r}, which was not pretrained by guessing masked "
            f"tokens, expected one of {', '.join(MASKED_HEADS)}"
        )
    is_new = name in SIZES and not Path(name).is_dir()
    for flag, value in (("--initializer-range", initializer_range), ("--word-embeddings", word_embeddings)):
        if value is not None and not is_new:
            raise CheckpointError(
                f"{name}: its weights have learnt already; {flag} is for {', '.join(SIZES)} from nothing"
            )
    if initializer_range is not None:
        saved_config = saved_config.model_copy(update={"initializer_range": initializer_range})
        loaded.model.load_state_dict(initial_state(loaded.model, saved_config, seed))
    config = saved_config.model_copy(update=dict(dropouts))
    state = {key: tensor for key, tensor in loaded.model.state_dict().items() if key.startswith("encoder.")}
    with torch.device("meta"):
        model = MaskedLanguageModel(config)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    notes, words_sha256 = list(loaded.file_notes), None
    if word_embeddings is not None:
        words = embeddings_from(word_embeddings, loaded.tokenizer, config.hidden_size)
        state[TABLE], words_sha256 = words.table, words.sha256
        share = f"{words.share_of_variance:.1%}"
        notes.append(f"token embeddings: the principal components of {word_embeddings}'s, {share} of their variance")
    if loaded.model.pooler is not None and not is_new and _HAS_NO_POOLER not in loaded.notes:
        notes.append(
            "the checkpoint's pooler, which reads whole texts, is left out: train will read the mean of all tokens"
        )
    head = {} if is_new else _head_of(find_folder(name)[0], state[TABLE], names)
    for ours, theirs in names.head:
        if theirs in head:
            if tuple(head[theirs].shape) != shapes[ours]:
                raise CheckpointError(
                    f"{name}: tensor {theirs} has shape {tuple(head[theirs].shape)}, expected {shapes[ours]}"
                )
            if not head[theirs].is_floating_point() or not torch.isfinite(head[theirs]).all():
                raise CheckpointError(f"{name}: tensor {theirs} holds what is no finite real number; it is damaged")
            state[ours] = head[theirs].float()
    missing = [ours for ours, _ in names.head if ours not in state]
    if not is_new:
        if not missing:
            notes.append("the checkpoint's head for masked tokens is taken along")
        elif len(missing) == len(names.head):
            notes.append("the checkpoint has no head for masked tokens: initialised at random, tied to the embeddings")
        else:
            raise CheckpointError(
                f"{name}: tensor {dict(names.head)[missing[0]]} is missing, but others of its head are there"
            )
    state |= {ours: _initial(ours, shapes[ours], config, seed) for ours in missing}
    model.load_state_dict(state, assign=True)
    return LoadedMasked(model, loaded.tokenizer, loaded.description, is_new, saved_config, notes, words_sha256)


def _head_of(folder: Path, table: Tensor, names: MaskedHead) -> dict[str, Tensor]:
    """The tensors of a folder's head for masked tokens, by Hugging Face's names.

    Raises:
        CheckpointError: its output weights are others than the token embeddings.
    """
    tensors = read_tensors(folder)
    for old, new in name_tables.OLD_NORM_NAMES:
        tensors = {key.removesuffix(old) + new if key.endswith(old) else key: value for key, value in tensors.items()}
    output = tensors.get(names.output)
    if output is not None and not torch.equal(output.float(), table):
        raise CheckpointError(
            f"{folder}: tensor {names.output} differs from the token embeddings, expected weights that are tied to them"
        )
    wanted = dict(names.head)
    if names.output_bias in tensors:
        tensors.setdefault(wanted["head.bias"], tensors[names.output_bias])
    return {key: value for key, value in tensors.items() if key in wanted.values()}


def _initial(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """As ``initial_state``: BERT's rule."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(purpose_seed(seed, "weights", name))
    return torch.empty(shape).normal_(0.0, config.initializer_range, generator=generator)


def save_masked(folder: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write a folder in the layout of the family's class in Hugging Face, such as BertForMaskedLM.

    float32 safetensors, configuration, tokenizer; ``state`` has our names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = config.family
    encoder = name_tables.NAMES[config.model_type].encoder(config.num_hidden_layers)
    tensors = {family.tensor_prefix + theirs: state[ours] for ours, theirs in encoder if ours in state}
    tensors |= {theirs: state[ours] for ours, theirs in MASKED_HEADS[config.model_type].head}
    values: dict[str, Any] = {
        "architectures": [f"{family.class_prefix}ForMaskedLM"],
        **config.to_hugging_face(),
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    }
    write_json(folder / "config.json", values)
    save_tensors(tensors, folder / "model.safetensors")
    tokenizer.save(folder)
