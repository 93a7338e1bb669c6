"""Google's BERT checkpoints, as TensorFlow 1 wrote them: bert_model.ckpt.*, bert_config.json, vocab.txt.

The names are those of github.com/google-research/bert (modeling.py, run_pretraining.py, run_classifier.py). A kernel is
(inputs, outputs), the transpose of PyTorch's weight. Google's LayerNorm has an epsilon of 1e-12.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright.errors import CheckpointError, shown
from bertwright.model.casing import Casing, guess_keeps_accents, guess_lowercase, words_of
from bertwright.model.foreign import TOKENIZER, Wanted, encoder_wanted, gather, hugging_face_tokenizer, read_text
from bertwright.model.tensorflow_bundle import Bundle

if TYPE_CHECKING:
    from torch import Tensor

# Hugging Face's name, without its prefix "bert." -> Google's.
EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "bert/embeddings/word_embeddings",
    "embeddings.position_embeddings.weight": "bert/embeddings/position_embeddings",
    "embeddings.token_type_embeddings.weight": "bert/embeddings/token_type_embeddings",
    "embeddings.LayerNorm.weight": "bert/embeddings/LayerNorm/gamma",
    "embeddings.LayerNorm.bias": "bert/embeddings/LayerNorm/beta",
}
LAYER = {
    "encoder.layer.{layer}.attention.self.query.weight": "bert/encoder/layer_{layer}/attention/self/query/kernel",
    "encoder.layer.{layer}.attention.self.query.bias": "bert/encoder/layer_{layer}/attention/self/query/bias",
    "encoder.layer.{layer}.attention.self.key.weight": "bert/encoder/layer_{layer}/attention/self/key/kernel",
    "encoder.layer.{layer}.attention.self.key.bias": "bert/encoder/layer_{layer}/attention/self/key/bias",
    "encoder.layer.{layer}.attention.self.value.weight": "bert/encoder/layer_{layer}/attention/self/value/kernel",
    "encoder.layer.{layer}.attention.self.value.bias": "bert/encoder/layer_{layer}/attention/self/value/bias",
    "encoder.layer.{layer}.attention.output.dense.weight": "bert/encoder/layer_{layer}/attention/output/dense/kernel",
    "encoder.layer.{layer}.attention.output.dense.bias": "bert/encoder/layer_{layer}/attention/output/dense/bias",
    "encoder.layer.{layer}.attention.output.LayerNorm.weight": (
        "bert/encoder/layer_{layer}/attention/output/LayerNorm/gamma"
    ),
    "encoder.layer.{layer}.attention.output.LayerNorm.bias": (
        "bert/encoder/layer_{layer}/attention/output/LayerNorm/beta"
    ),
    "encoder.layer.{layer}.intermediate.dense.weight": "bert/encoder/layer_{layer}/intermediate/dense/kernel",
    "encoder.layer.{layer}.intermediate.dense.bias": "bert/encoder/layer_{layer}/intermediate/dense/bias",
    "encoder.layer.{layer}.output.dense.weight": "bert/encoder/layer_{layer}/output/dense/kernel",
    "encoder.layer.{layer}.output.dense.bias": "bert/encoder/layer_{layer}/output/dense/bias",
    "encoder.layer.{layer}.output.LayerNorm.weight": "bert/encoder/layer_{layer}/output/LayerNorm/gamma",
    "encoder.layer.{layer}.output.LayerNorm.bias": "bert/encoder/layer_{layer}/output/LayerNorm/beta",
}
# What training keeps beside the weights: the slots of Google's AdamWeightDecay and of TensorFlow's Adam and LAMB, and
# counters. Left out.
_SLOTS = ("/adam_m", "/adam_v", "/lamb_m", "/lamb_v", "/Adam", "/Adam_1")
_COUNTERS = ("global_step", "beta1_power", "beta2_power", "loss_scale", "good_steps", "bad_steps", "current_loss_scale")
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_OTHERS = ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")
_SETTINGS, _VOCABULARY, _TOKENIZER_SETTINGS = "bert_config.json", "vocab.txt", "tokenizer_config.json"
# What tokenizer_config.json may say of how texts are written before they are cut into tokens.
_OF_TEXTS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")


def find(path: Path, vocabulary: Path | None = None, casing: Casing | None = None) -> GoogleBert | None:
    """The checkpoint at ``path``: a folder that holds one, or its prefix, with or without ``.index``.

    Its other files are looked for in the folder ``vocabulary`` and beside the weights; ``casing`` overrules what
    follows from them.

    Raises:
        CheckpointError: a folder with several checkpoints.
    """
    if path.is_dir():
        prefixes = sorted(found.with_suffix("") for found in path.glob("*.index") if found.is_file())
        if not prefixes:
            return None
        usual = path / "bert_model.ckpt"
        if usual in prefixes:
            prefixes = [usual]
        if len(prefixes) > 1:
            names = ", ".join(prefix.name for prefix in prefixes[:5])
            raise CheckpointError(f"{path}: found {len(prefixes)} checkpoints ({names}), expected one; name it")
        return GoogleBert(prefixes[0], vocabulary, casing)
    if path.suffix == ".index" and path.is_file():
        path = path.with_suffix("")
    if path.name and path.with_name(path.name + ".index").is_file():
        return GoogleBert(path, vocabulary, casing)
    return None


class GoogleBert:
    """See :class:`bertwright.model.foreign.ForeignCheckpoint`."""

    layout = "TensorFlow 1"

    def __init__(self, prefix: Path, vocabulary: Path | None, casing: Casing | None) -> None:
        self.path, self._casing = prefix, casing or Casing()
        self._folders = [prefix.parent] if vocabulary is None else [vocabulary, prefix.parent]
        self.notes: list[str] = []

    def config(self) -> dict[str, Any]:
        return self._config(Bundle(self.path))

    def tensors(self) -> dict[str, Tensor]:
        import torch

        bundle = Bundle(self.path)
        config = self._config(bundle)
        weights = {name: entry.shape for name, entry in bundle.entries.items() if not _is_of_training(name)}
        left_out = sorted(bundle.entries.keys() - weights.keys())
        if left_out:
            if len(left_out) == 1:
                self.notes.append(f"left out a value that only training needs: {left_out[0]}")
            else:
                self.notes.append(f"left out {len(left_out)} values that only training needs, such as {left_out[-1]}")
        required = encoder_wanted(config, ("bert.", ""), EMBEDDINGS, LAYER, _is_kernel)
        return gather(
            str(self.path),
            weights,
            required,
            _heads(config),
            lambda name: torch.from_numpy(bundle.read(name)),
            str(self._settings_path()),
        )

    def tokenizer_files(self) -> dict[str, bytes]:
        for folder in self._folders:
            given = hugging_face_tokenizer(folder)
            if given is not None:
                return self._without_casing(given, folder / TOKENIZER)
            if (folder / _VOCABULARY).is_file():
                return self._from_vocabulary(folder)
        raise CheckpointError(
            f"{self._folders[0]}: no {_VOCABULARY}; expected Google's beside bert_config.json. bertwright convert "
            "takes that of another folder with --vocabulary"
        )

    def _without_casing(self, given: dict[str, bytes], path: Path) -> dict[str, bytes]:
        if self._casing != Casing():
            raise CheckpointError(f"{path} says already how texts are written; leave out what to do with their case")
        self.notes.append(f"the tokenizer is that of {path}")
        return given

    def _from_vocabulary(self, folder: Path) -> dict[str, bytes]:
        from bertwright.model.tokenizer import tokenizer_from_vocabulary

        path = folder / _VOCABULARY
        vocabulary = read_text(path)
        settings = {**self._said_of_texts(folder), "tokenizer_class": "BertTokenizer"}
        casing = self._casing_of(vocabulary, settings, folder)
        settings["do_lower_case"] = bool(casing.lowercase)
        if casing.strip_accents is not None:
            settings["strip_accents"] = casing.strip_accents
        max_length = self._max_length()
        if max_length is not None:
            settings["model_max_length"] = max_length
        built = tokenizer_from_vocabulary(vocabulary, settings, str(path))
        return {
            TOKENIZER: built.json_text.encode(),
            _TOKENIZER_SETTINGS: (json.dumps(settings, indent=2) + "\n").encode(),
            _VOCABULARY: vocabulary.encode(),
        }

    def _said_of_texts(self, folder: Path) -> dict[str, bool]:
        """What a tokenizer_config.json beside the vocabulary says of how texts are written."""
        path = folder / _TOKENIZER_SETTINGS
        if not path.is_file():
            return {}
        given = _read_object(path)
        said = {name: given[name] for name in _OF_TEXTS if given.get(name) is not None}
        for name, value in said.items():
            if not isinstance(value, bool):
                raise CheckpointError(f"{path}: {name} is {shown(value)}, expected true or false")
        return said

    def _casing_of(self, vocabulary: str, said: dict[str, Any], folder: Path) -> Casing:
        """As asked for or, where nothing is asked for, as tokenizer_config.json says or as the vocabulary looks."""
        words = words_of(vocabulary)
        lowercase, accents = said.get("do_lower_case"), said.get("strip_accents")
        if self._casing.lowercase is not None:
            lowercase = self._casing.lowercase
            self._say_case(lowercase, "as asked for")
        elif lowercase is not None:
            self._say_case(lowercase, f"as {folder / _TOKENIZER_SETTINGS} says")
            return Casing(lowercase, self._asked_accents(accents))  # as transformers reads that file
        else:
            lowercase, note = guess_lowercase(words)
            self.notes.append(note)
        accents = self._asked_accents(accents)
        if lowercase and accents is None:
            keeps, about_accents = guess_keeps_accents(words)
            accents = False if keeps else None
            self.notes += [] if about_accents is None else [about_accents]
        return Casing(lowercase, accents)

    def _say_case(self, lowercase: bool, source: str) -> None:
        self.notes.append(f"texts are {'' if lowercase else 'not '}lower-cased, {source}")

    def _asked_accents(self, otherwise: bool | None) -> bool | None:
        asked = self._casing.strip_accents
        if asked is None:
            return otherwise
        self.notes.append(f"texts {'lose' if asked else 'keep'} their accents, as asked for")
        return asked

    def _max_length(self) -> int | None:
        """The model's positions. A tokenizer alone may have no bert_config.json beside it."""
        path = self._settings_path()
        found = _read_object(path).get("max_position_embeddings") if path.is_file() else None
        return found if type(found) is int and found > 0 else None

    def _settings_path(self) -> Path:
        """bert_config.json: beside the weights, where it says what they are, or else beside the vocabulary."""
        paths = [folder / _SETTINGS for folder in reversed(self._folders)]
        return next((path for path in paths if path.is_file()), paths[0])

    def _config(self, bundle: Bundle) -> dict[str, Any]:
        from bertwright.model.encoder import ModelConfig

        if _OBJECTS in bundle.entries:
            raise CheckpointError(
                f"{bundle.index_path}: found a checkpoint of TensorFlow 2 objects, expected TensorFlow 1's with "
                "Google's names (bert/embeddings/word_embeddings, ...)"
            )
        path = self._settings_path()
        given = _read_object(path)
        values: dict[str, Any] = {"model_type": "bert", "layer_norm_eps": 1e-12, "pad_token_id": 0}
        for name in _SIZES:
            if type(given.get(name)) is not int:
                raise CheckpointError(f"{path}: {name} is {shown(given.get(name))}, expected a whole number above 0")
            values[name] = given[name]
        values |= {name: given[name] for name in _OTHERS if name in given}
        checked = ModelConfig.from_hugging_face(values, str(path))
        values |= {name: getattr(checked, name) for name in _OTHERS}
        self._check_vocabulary(checked.vocab_size)
        return values | _architecture(bundle)

    def _check_vocabulary(self, vocab_size: int) -> None:
        path = next((folder / _VOCABULARY for folder in self._folders if (folder / _VOCABULARY).is_file()), None)
        if path is None:
            return
        found = read_text(path).removesuffix("\n").count("\n") + 1
        if found > vocab_size:
            raise CheckpointError(
                f"{path}: found {found:,} lines, expected at most the {vocab_size:,} of bert_config.json; they do not "
                "belong together"
            )
        if found < vocab_size:
            self.notes.append(
                f"vocab.txt has {found:,} lines, the model {vocab_size:,} rows: the last rows have no token"
            )


def _architecture(bundle: Bundle) -> dict[str, Any]:
    if "output_weights" in bundle.entries:
        num_labels = (bundle.entries["output_weights"].shape or (0,))[0]
        if not 0 < num_labels <= 100_000:
            raise CheckpointError(f"{bundle.index_path}: tensor output_weights is for {num_labels:,} labels")
        labels = {str(i): f"LABEL_{i}" for i in range(num_labels)}
        return {
            "architectures": ["BertForSequenceClassification"],
            "id2label": labels,
            "label2id": {label: int(i) for i, label in labels.items()},
        }
    if "cls/seq_relationship/output_weights" in bundle.entries:
        return {"architectures": ["BertForPreTraining"]}
    if "cls/predictions/output_bias" in bundle.entries:
        return {"architectures": ["BertForMaskedLM"]}
    return {"architectures": ["BertModel"]}


def _heads(config: dict[str, Any]) -> list[list[Wanted]]:
    hidden, labels = config["hidden_size"], len(config.get("id2label", ()))
    transform = "cls/predictions/transform"
    return [
        [
            Wanted("bert.pooler.dense.weight", "bert/pooler/dense/kernel", (hidden, hidden), transposed=True),
            Wanted("bert.pooler.dense.bias", "bert/pooler/dense/bias", (hidden,)),
        ],
        [
            Wanted(
                "cls.predictions.transform.dense.weight", f"{transform}/dense/kernel", (hidden, hidden), transposed=True
            ),
            Wanted("cls.predictions.transform.dense.bias", f"{transform}/dense/bias", (hidden,)),
            Wanted("cls.predictions.transform.LayerNorm.weight", f"{transform}/LayerNorm/gamma", (hidden,)),
            Wanted("cls.predictions.transform.LayerNorm.bias", f"{transform}/LayerNorm/beta", (hidden,)),
            Wanted("cls.predictions.bias", "cls/predictions/output_bias", (config["vocab_size"],)),
        ],
        [
            Wanted("cls.seq_relationship.weight", "cls/seq_relationship/output_weights", (2, hidden)),
            Wanted("cls.seq_relationship.bias", "cls/seq_relationship/output_bias", (2,)),
        ],
        [
            Wanted("classifier.weight", "output_weights", (labels, hidden)),
            Wanted("classifier.bias", "output_bias", (labels,)),
        ],
    ]


def _is_kernel(name: str) -> bool:
    return name.endswith("/kernel")


def _is_of_training(name: str) -> bool:
    return name.endswith(_SLOTS) or name in _COUNTERS


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({str(error) or type(error).__name__})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: found {type(values).__name__}, expected an object")
    return values
