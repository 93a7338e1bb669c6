"""Checkpoints in other layouts than Hugging Face's: found, and read into plain values under Hugging Face's names.

Nothing here runs code from a checkpoint, and nothing needs fairseq or TensorFlow. torch is loaded for tensors alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bertwright.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from bertwright.model.casing import Casing

LAYOUTS = (
    "a folder in Hugging Face's layout (config.json), fairseq's (model.pt, dict.txt, encoder.json, vocab.bpe) or "
    "TensorFlow 1's (bert_config.json, vocab.txt, bert_model.ckpt.index and its data files)"
)

TOKENIZER = "tokenizer.json"


class ForeignCheckpoint(Protocol):
    """A checkpoint in another layout.

    Attributes:
        layout: "fairseq" or "TensorFlow 1".
        path: the file or the prefix of files that holds the weights, or the folder with the tokenizer alone.
        notes: what a user should know about how it was read so far.
    """

    layout: str
    path: Path
    notes: list[str]

    def config(self) -> dict[str, Any]:
        """What stands in Hugging Face's config.json of this model."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All weights, under Hugging Face's names, with the heads that are there, on the CPU."""
        ...

    def tokenizer_files(self) -> dict[str, bytes]:
        """The tokenizer as files of a Hugging Face folder, by name; tokenizer.json is always among them."""
        ...


def find_foreign(
    path: Path, vocabulary: Path | None = None, head: str | None = None, casing: Casing | None = None
) -> ForeignCheckpoint | None:
    """The foreign checkpoint at ``path``; None if there is none, or a folder in Hugging Face's layout (config.json).

    ``path`` is a folder, a file of fairseq's (``model.pt``), or a TensorFlow prefix (``bert_model.ckpt``), also with
    ``.index``. ``vocabulary`` is the folder of the tokenizer's files if it is another one; ``head`` names one of a
    fairseq model's classification heads; ``casing`` overrules what follows from TensorFlow's vocabulary.

    Raises:
        CheckpointError: a folder with several checkpoints.
    """
    from bertwright.model import fairseq, google_bert

    if path.is_dir() and (path / "config.json").is_file():
        return None
    return google_bert.find(path, vocabulary, casing) or fairseq.find(path, vocabulary, head)


# --- what the readers share ------------------------------------------------------------------------------------------

# Shapes of an encoder of BERT's kind, by Hugging Face's names without the family's prefix; (outputs, inputs).
_H, _WIDE = "hidden_size", "intermediate_size"
EMBEDDING_SHAPES: dict[str, tuple[str, ...]] = {
    "embeddings.word_embeddings.weight": ("vocab_size", _H),
    "embeddings.position_embeddings.weight": ("max_position_embeddings", _H),
    "embeddings.token_type_embeddings.weight": ("type_vocab_size", _H),
    "embeddings.LayerNorm.weight": (_H,),
    "embeddings.LayerNorm.bias": (_H,),
}
LAYER_SHAPES: dict[str, tuple[str, ...]] = {
    "encoder.layer.{layer}.attention.self.query.weight": (_H, _H),
    "encoder.layer.{layer}.attention.self.query.bias": (_H,),
    "encoder.layer.{layer}.attention.self.key.weight": (_H, _H),
    "encoder.layer.{layer}.attention.self.key.bias": (_H,),
    "encoder.layer.{layer}.attention.self.value.weight": (_H, _H),
    "encoder.layer.{layer}.attention.self.value.bias": (_H,),
    "encoder.layer.{layer}.attention.output.dense.weight": (_H, _H),
    "encoder.layer.{layer}.attention.output.dense.bias": (_H,),
    "encoder.layer.{layer}.attention.output.LayerNorm.weight": (_H,),
    "encoder.layer.{layer}.attention.output.LayerNorm.bias": (_H,),
    "encoder.layer.{layer}.intermediate.dense.weight": (_WIDE, _H),
    "encoder.layer.{layer}.intermediate.dense.bias": (_WIDE,),
    "encoder.layer.{layer}.output.dense.weight": (_H, _WIDE),
    "encoder.layer.{layer}.output.dense.bias": (_H,),
    "encoder.layer.{layer}.output.LayerNorm.weight": (_H,),
    "encoder.layer.{layer}.output.LayerNorm.bias": (_H,),
}


class Wanted:
    """A tensor that a model needs: its name in Hugging Face's layout, its name in the checkpoint, its shape there."""

    def __init__(self, name: str, theirs: str, shape: Sequence[int], transposed: bool = False) -> None:
        self.name, self.theirs, self.transposed = name, theirs, transposed
        self.shape = tuple(reversed(shape)) if transposed else tuple(shape)


def encoder_wanted(
    config: Mapping[str, Any],
    prefixes: tuple[str, str],
    embeddings: Mapping[str, str],
    layers: Mapping[str, str],
    is_transposed: Callable[[str], bool] = lambda theirs: False,
) -> list[Wanted]:
    """The tensors of an encoder. ``embeddings`` and ``layers`` say which tensor of the checkpoint is which, by their
    names without ``prefixes``: Hugging Face's and theirs.
    """
    prefix, their_prefix = prefixes
    wanted = []
    for name, sizes in EMBEDDING_SHAPES.items():
        if name in embeddings:
            theirs = their_prefix + embeddings[name]
            wanted.append(Wanted(prefix + name, theirs, [config[s] for s in sizes], is_transposed(theirs)))
    for layer in range(config["num_hidden_layers"]):
        for name, sizes in LAYER_SHAPES.items():
            theirs = their_prefix + layers[name].format(layer=layer)
            shape = [config[size] for size in sizes]
            wanted.append(Wanted(prefix + name.format(layer=layer), theirs, shape, is_transposed(theirs)))
    return wanted


def gather(
    source: str,
    stored: Mapping[str, tuple[int, ...]],
    required: Sequence[Wanted],
    heads: Sequence[Sequence[Wanted]],
    read: Callable[[str], Tensor],
    said_by: str,
) -> dict[str, Tensor]:
    """The tensors by Hugging Face's names: all of ``required``, and of each head all or none.

    ``stored`` are the shapes of what the checkpoint holds, by its names; ``said_by`` names what the shapes follow from.

    Raises:
        CheckpointError: a tensor is missing, extra or of another shape; by its name in the checkpoint.
    """
    present = [head for head in heads if any(one.theirs in stored for one in head)]
    wanted = [*required, *(one for head in present for one in head)]
    for one in wanted:
        if one.theirs not in stored:
            raise CheckpointError(f"{source}: tensor {one.theirs} is missing")
        if tuple(stored[one.theirs]) != one.shape:
            raise CheckpointError(
                f"{source}: tensor {one.theirs} has shape {tuple(stored[one.theirs])}, expected {one.shape} from "
                f"{said_by}"
            )
    extra = sorted(stored.keys() - {one.theirs for one in wanted})
    if extra:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{source}: tensor {extra[0]}{more} is not one that is known; the model may be of another kind"
        )
    return {one.name: read(one.theirs).t() if one.transposed else read(one.theirs) for one in wanted}


def hugging_face_tokenizer(folder: Path) -> dict[str, bytes] | None:
    """The files of the tokenizer in ``folder`` if it is in Hugging Face's layout already (tokenizer.json).

    Raises:
        CheckpointError: it is damaged.
    """
    if not (folder / TOKENIZER).is_file():
        return None
    from bertwright.model.tokenizer import load_tokenizer

    loaded = load_tokenizer(folder)
    return {
        name: content.encode() for name, content in {TOKENIZER: loaded.json_text, **loaded.hugging_face_files}.items()
    }


def read_file(path: Path) -> bytes:
    """A small file's bytes.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_text(path: Path) -> str:
    """A small file's text.

    Raises:
        CheckpointError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 (byte {error.start:,})") from None
