"""fairseq's RoBERTa checkpoints: model.pt, dict.txt, and the BPE's encoder.json and vocab.bpe.

Names are those of github.com/facebookresearch/fairseq (models/roberta/model.py), of its releases of 2019 (``decoder.``,
``emb_layer_norm``, query, key and value in one ``in_proj_weight``) and later ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright.errors import CheckpointError, shown
from bertwright.model.foreign import TOKENIZER, Wanted, encoder_wanted, gather, hugging_face_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from bertwright.model.fairseq_settings import FairseqSettings

_ENCODER = "encoder.sentence_encoder."
_HEAD = "encoder.lm_head."
_CLASSIFIERS = "classification_heads."
# Hugging Face's name, without its prefix "roberta." -> fairseq's, without "encoder.sentence_encoder.".
EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "embed_tokens.weight",
    "embeddings.position_embeddings.weight": "embed_positions.weight",
    "embeddings.LayerNorm.weight": "layernorm_embedding.weight",
    "embeddings.LayerNorm.bias": "layernorm_embedding.bias",
}
LAYER = {
    "encoder.layer.{layer}.attention.self.query.weight": "layers.{layer}.self_attn.q_proj.weight",
    "encoder.layer.{layer}.attention.self.query.bias": "layers.{layer}.self_attn.q_proj.bias",
    "encoder.layer.{layer}.attention.self.key.weight": "layers.{layer}.self_attn.k_proj.weight",
    "encoder.layer.{layer}.attention.self.key.bias": "layers.{layer}.self_attn.k_proj.bias",
    "encoder.layer.{layer}.attention.self.value.weight": "layers.{layer}.self_attn.v_proj.weight",
    "encoder.layer.{layer}.attention.self.value.bias": "layers.{layer}.self_attn.v_proj.bias",
    "encoder.layer.{layer}.attention.output.dense.weight": "layers.{layer}.self_attn.out_proj.weight",
    "encoder.layer.{layer}.attention.output.dense.bias": "layers.{layer}.self_attn.out_proj.bias",
    "encoder.layer.{layer}.attention.output.LayerNorm.weight": "layers.{layer}.self_attn_layer_norm.weight",
    "encoder.layer.{layer}.attention.output.LayerNorm.bias": "layers.{layer}.self_attn_layer_norm.bias",
    "encoder.layer.{layer}.intermediate.dense.weight": "layers.{layer}.fc1.weight",
    "encoder.layer.{layer}.intermediate.dense.bias": "layers.{layer}.fc1.bias",
    "encoder.layer.{layer}.output.dense.weight": "layers.{layer}.fc2.weight",
    "encoder.layer.{layer}.output.dense.bias": "layers.{layer}.fc2.bias",
    "encoder.layer.{layer}.output.LayerNorm.weight": "layers.{layer}.final_layer_norm.weight",
    "encoder.layer.{layer}.output.LayerNorm.bias": "layers.{layer}.final_layer_norm.bias",
}
# Numbers of the module's version, and buffers of old position embeddings.
_LEFT_OUT = (".version", "._float_tensor")

# Settings that change what is computed, and what is computed here. fairseq's defaults are these.
_COMPUTED = {
    "no_scale_embedding": True,
    "no_token_positional_embeddings": False,
    "encoder_learned_pos": True,
    "adaptive_input": False,
}
# fairseq's "gelu" is the exact one; "gelu_accurate" and "gelu_fast" are its approximation by tanh.
_ACTIVATION = "gelu"
_MOST_HEADS_SHOWN = 10
_MODEL_FILES = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")


def find(path: Path, vocabulary: Path | None = None, head: str | None = None) -> Fairseq | None:
    """The checkpoint at ``path``: a .pt file, or a folder that holds one, or the tokenizer's files alone.

    Raises:
        CheckpointError: a folder with several .pt files, of which none has a usual name.
    """
    from bertwright.model.fairseq_vocabulary import is_vocabulary

    if path.is_file():
        return Fairseq(path, vocabulary or path.parent, head) if path.suffix == ".pt" else None
    if not path.is_dir():
        return None
    files = sorted(found for found in path.glob("*.pt") if found.is_file())
    usual = [path / name for name in _MODEL_FILES if path / name in files]
    # Beside a tokenizer.json other .pt files are what transformers' training keeps (optimizer.pt ...).
    files = usual[:1] or ([] if (path / TOKENIZER).is_file() else files)
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise CheckpointError(f"{path}: found {len(files)} .pt files ({names}), expected model.pt; name one of them")
    if files:
        return Fairseq(files[0], vocabulary or path, head)
    is_tokenizer = is_vocabulary(path) and not (path / TOKENIZER).is_file()
    return Fairseq(path / _MODEL_FILES[0], path, head) if is_tokenizer else None


class Fairseq:
    """See :class:`bertwright.model.foreign.ForeignCheckpoint`."""

    layout = "fairseq"

    def __init__(self, path: Path, folder: Path, head: str | None) -> None:
        self.path, self._folder, self._head = path, folder, head
        self.notes: list[str] = []
        self._num_positions: int | None = None

    def config(self) -> dict[str, Any]:
        return self._config(*self._read())

    def tensors(self) -> dict[str, Tensor]:
        import torch

        settings, model = self._read()
        config = self._config(settings, model)
        head = self._chosen(model)
        stored = {name: tuple(tensor.shape) for name, tensor in model.items() if _head_of(name) in (None, head)}
        hidden, vocab_size = config["hidden_size"], config["vocab_size"]
        heads = [_masked_language_model(hidden, vocab_size, config["tie_word_embeddings"])]
        if head is not None:
            heads.append(_classifier(head, hidden, len(config["id2label"])))
        if config["tie_word_embeddings"]:
            stored.pop(f"{_HEAD}weight", None)
        elif f"{_HEAD}bias" in model:  # Hugging Face keeps it twice
            model[f"{_HEAD}decoder.bias"] = model[f"{_HEAD}bias"]
            stored[f"{_HEAD}decoder.bias"] = tuple(model[f"{_HEAD}bias"].shape)
        required = encoder_wanted(config, ("roberta.", _ENCODER), EMBEDDINGS, LAYER)
        tensors = gather(
            str(self.path),
            stored,
            required,
            heads,
            lambda name: _own(name, model[name], str(self.path)),
            "the model's settings",
        )
        # One segment, which fairseq does not add at all.
        tensors["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, hidden)
        return tensors

    def tokenizer_files(self) -> dict[str, bytes]:
        from bertwright.model.fairseq_vocabulary import tokenizer_files

        given = hugging_face_tokenizer(self._folder)
        if given is not None:
            self.notes.append(f"the tokenizer is that of {self._folder / TOKENIZER}")
            return given
        return tokenizer_files(self._folder, self._num_positions)

    def _read(self) -> tuple[FairseqSettings, dict[str, Tensor]]:
        """The model's settings, and its tensors by the names of fairseq's later releases."""
        from bertwright.model import pickles
        from bertwright.model.fairseq_settings import FairseqSettings, is_record

        if not self.path.is_file():
            raise CheckpointError(f"{self._folder}: no model.pt; expected fairseq's model beside dict.txt")
        saved = pickles.load(self.path, is_record)
        found = saved.get("model") if isinstance(saved, dict) else None
        if not isinstance(found, dict) or not found:
            raise CheckpointError(f"{self.path}: no model in it; expected a checkpoint as fairseq saves it")
        tensors = pickles.check_tensors(found, self.path)
        return FairseqSettings(saved, str(self.path)), _new_names(tensors, str(self.path))

    def _config(self, settings: FairseqSettings, model: Mapping[str, Tensor]) -> dict[str, Any]:
        from bertwright.model.encoder import ModelConfig

        source = str(self.path)
        table, positions, wide = (
            _shape_of_two(model, name, source)
            for name in (
                f"{_ENCODER}embed_tokens.weight",
                f"{_ENCODER}embed_positions.weight",
                f"{_ENCODER}layers.0.fc1.weight",
            )
        )
        if f"{_ENCODER}layer_norm.weight" in model:
            raise CheckpointError(
                f"{source}: norms stand before attention and feed-forward (pre-norm), expected RoBERTa's, after them"
            )
        for name, computed in _COMPUTED.items():
            settings.check_flag(name, computed)
        settings.check_text("activation_fn", _ACTIVATION)
        num_heads = settings.number("encoder_attention_heads")
        if num_heads is None or table[1] % num_heads:
            raise CheckpointError(
                f"{source}: encoder_attention_heads is {shown(num_heads)}, expected a divisor of the width, {table[1]}"
            )
        self._check_dictionary(table[0])
        decoder = model.get(f"{_HEAD}weight")
        embedding = model[f"{_ENCODER}embed_tokens.weight"]
        config = {
            "model_type": "roberta",
            "vocab_size": table[0],
            "hidden_size": table[1],
            "num_hidden_layers": _num_layers(settings, model),
            "num_attention_heads": num_heads,
            "intermediate_size": wide[0],
            "hidden_act": "gelu",
            "hidden_dropout_prob": settings.share("dropout", 0.1),
            "attention_probs_dropout_prob": settings.share("attention_dropout", 0.1),
            "max_position_embeddings": positions[0],
            "type_vocab_size": 1,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "tie_word_embeddings": decoder is None or (decoder.dtype == embedding.dtype and decoder.equal(embedding)),
            "architectures": ["RobertaModel" if decoder is None else "RobertaForMaskedLM"],
        }
        checked = ModelConfig.from_hugging_face(config, source)
        self._num_positions = checked.num_positions
        return config | self._classifier_config(settings, model)

    def _check_dictionary(self, vocab_size: int) -> None:
        from bertwright.model.fairseq_vocabulary import DICTIONARY, read_dictionary

        path = self._folder / DICTIONARY
        if path.is_file() and (found := len(read_dictionary(path))) != vocab_size:
            raise CheckpointError(
                f"{path}: makes {found:,} ids (its lines, 4 marks before and <mask> after them), expected the "
                f"{vocab_size:,} of {self.path.name}; they do not belong together"
            )

    def _chosen(self, model: Mapping[str, Tensor]) -> str | None:
        """The classification head to keep: the one that was named, or the only one."""
        names = _classifiers(model)
        if self._head is None:
            return names[0] if len(names) == 1 else None
        if self._head not in names:
            there = f"it has {_listed(names)}" if names else "it has none"
            raise CheckpointError(f"{self.path}: no classification head {self._head!r}; {there}")
        return self._head

    def _classifier_config(self, settings: FairseqSettings, model: Mapping[str, Tensor]) -> dict[str, Any]:
        head = self._chosen(model)
        if head is None:
            names = _classifiers(model)
            if names:
                self.notes.append(f"left out {len(names)} classification heads ({_listed(names)}): one can be named")
            return {}
        settings.check_text("pooler_activation_fn", "tanh")
        num_labels = _shape_of_two(model, f"{_CLASSIFIERS}{head}.out_proj.weight", str(self.path))[0]
        labels = {str(i): f"LABEL_{i}" for i in range(num_labels)}
        return {
            "architectures": ["RobertaForSequenceClassification"],
            "classifier_dropout": settings.share("pooler_dropout", 0.0),
            "id2label": labels,
            "label2id": {label: int(i) for i, label in labels.items()},
        }


def _new_names(model: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors under the names of fairseq's later releases, views where one was cut into three."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in model.items():
        if name.endswith(_LEFT_OUT):
            continue
        if name.startswith("decoder."):
            name = "encoder." + name.removeprefix("decoder.")
        name = name.replace(".emb_layer_norm.", ".layernorm_embedding.")
        parts = {name: tensor}
        layer, joined, kind = name.partition(".self_attn.in_proj_")
        if joined:
            if not tensor.dim() or tensor.shape[0] % 3:
                raise CheckpointError(
                    f"{source}: tensor {name} has shape {tuple(tensor.shape)}, expected a third of it each"
                )
            cut = tensor.chunk(3)
            parts = {f"{layer}.self_attn.{part}_proj.{kind}": cut[i] for i, part in enumerate("qkv")}
        for one, part_tensor in parts.items():
            if one in renamed:
                raise CheckpointError(f"{source}: tensor {one} is there twice, under its older and its newer name")
            renamed[one] = part_tensor
    return renamed


def _own(name: str, tensor: Tensor, source: str) -> Tensor:
    """A copy, since tensors of a pickle may share memory with each other, or even with themselves."""
    import torch

    if not tensor.is_floating_point():
        raise CheckpointError(f"{source}: tensor {name} holds {tensor.dtype}, expected real numbers")
    return tensor.clone(memory_format=torch.contiguous_format)


def _shape_of_two(model: Mapping[str, Tensor], name: str, source: str) -> tuple[int, int]:
    if name not in model:
        raise CheckpointError(f"{source}: tensor {name} is missing; expected fairseq's RoBERTa")
    shape = tuple(model[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{source}: tensor {name} has shape {shape}, expected two dimensions")
    return shape


def _num_layers(settings: FairseqSettings, model: Mapping[str, Tensor]) -> int:
    """The layers that the settings say or, if layers were pruned or nothing is said, those that are there."""
    said = settings.number("encoder_layers")
    if said is not None and not settings.is_said("encoder_layers_to_keep"):
        return said
    prefix = f"{_ENCODER}layers."
    return len({name.removeprefix(prefix).split(".")[0] for name in model if name.startswith(prefix)})


def _classifiers(model: Mapping[str, Tensor]) -> list[str]:
    return sorted({head for head in map(_head_of, model) if head is not None})


def _head_of(name: str) -> str | None:
    """The classification head that a tensor belongs to."""
    return name.split(".")[1] if name.startswith(_CLASSIFIERS) else None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_HEADS_SHOWN
    return ", ".join(names[:_MOST_HEADS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _masked_language_model(hidden: int, vocab_size: int, is_tied: bool) -> list[Wanted]:
    wanted = [
        Wanted("lm_head.dense.weight", f"{_HEAD}dense.weight", (hidden, hidden)),
        Wanted("lm_head.dense.bias", f"{_HEAD}dense.bias", (hidden,)),
        Wanted("lm_head.layer_norm.weight", f"{_HEAD}layer_norm.weight", (hidden,)),
        Wanted("lm_head.layer_norm.bias", f"{_HEAD}layer_norm.bias", (hidden,)),
        Wanted("lm_head.bias", f"{_HEAD}bias", (vocab_size,)),
    ]
    if not is_tied:
        wanted.append(Wanted("lm_head.decoder.weight", f"{_HEAD}weight", (vocab_size, hidden)))
        wanted.append(Wanted("lm_head.decoder.bias", f"{_HEAD}decoder.bias", (vocab_size,)))
    return wanted


def _classifier(head: str, hidden: int, num_labels: int) -> list[Wanted]:
    prefix = f"{_CLASSIFIERS}{head}."
    return [
        Wanted("classifier.dense.weight", f"{prefix}dense.weight", (hidden, hidden)),
        Wanted("classifier.dense.bias", f"{prefix}dense.bias", (hidden,)),
        Wanted("classifier.out_proj.weight", f"{prefix}out_proj.weight", (num_labels, hidden)),
        Wanted("classifier.out_proj.bias", f"{prefix}out_proj.bias", (num_labels,)),
    ]
