"""Google's BERT checkpoints, as TensorFlow 1 wrote them: bert_model.ckpt.*, bert_config.json, vocab.txt.

The names are those of github.com/google-research/bert (modeling.py, run_pretraining.py, run_classifier.py). A kernel is
(inputs, outputs), the transpose of PyTorch's weight. Google's LayerNorm has an epsilon of 1e-12.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright.errors import CheckpointError
from bertwright.model.foreign import Wanted, encoder_wanted, gather, read_text
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
_OTHERS = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}


def find(path: Path, vocabulary: Path | None = None) -> GoogleBert | None:
    """The checkpoint at ``path``: a folder that holds one, or its prefix, with or without ``.index``.

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
        return GoogleBert(prefixes[0], vocabulary or path)
    if path.suffix == ".index" and path.is_file():
        path = path.with_suffix("")
    if path.name and path.with_name(path.name + ".index").is_file():
        return GoogleBert(path, vocabulary or path.parent)
    return None


class GoogleBert:
    """See :class:`bertwright.model.foreign.ForeignCheckpoint`."""

    layout = "TensorFlow 1"

    def __init__(self, prefix: Path, folder: Path) -> None:
        self.path, self._folder = prefix, folder
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
            self.notes.append(f"left out {len(left_out)} values that only training needs, such as {left_out[-1]}")
        required = encoder_wanted(config, ("bert.", ""), EMBEDDINGS, LAYER, _is_kernel)
        return gather(
            str(self.path),
            weights,
            required,
            _heads(config),
            lambda name: torch.from_numpy(bundle.read(name)),
            str(self._folder / "bert_config.json"),
        )

    def tokenizer_files(self) -> dict[str, bytes]:
        from bertwright.model.tokenizer import tokenizer_from_vocabulary

        path = self._folder / "vocab.txt"
        if not path.is_file():
            raise CheckpointError(f"{self._folder}: no vocab.txt; expected Google's beside bert_config.json")
        vocabulary = read_text(path)
        # Google's files do not say it; a vocabulary for lower-cased texts holds no capital letter but in its marks.
        tokens = [token for token in vocabulary.split("\n") if not token.startswith("[")]
        lowercase = all(token == token.lower() for token in tokens)
        self.notes.append(
            f"the vocabulary has {'no ' if lowercase else ''}capital letters: texts are "
            f"{'' if lowercase else 'not '}lower-cased"
        )
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, "model_max_length": 512}
        built = tokenizer_from_vocabulary(vocabulary, settings, str(path))
        return {
            "tokenizer.json": built.json_text.encode(),
            "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode(),
            "vocab.txt": vocabulary.encode(),
        }

    def _config(self, bundle: Bundle) -> dict[str, Any]:
        if _OBJECTS in bundle.entries:
            raise CheckpointError(
                f"{bundle.index_path}: found a checkpoint of TensorFlow 2 objects, expected TensorFlow 1's with "
                "Google's names (bert/embeddings/word_embeddings, ...)"
            )
        path = self._folder / "bert_config.json"
        given = _read_object(path)
        values: dict[str, Any] = {}
        for name in _SIZES:
            size = given.get(name)
            if type(size) is not int or not 0 < size <= 10_000_000:
                raise CheckpointError(f"{path}: {name} is {size!r}, expected a whole number above 0")
            values[name] = size
        if values["hidden_size"] % values["num_attention_heads"]:
            raise CheckpointError(
                f"{path}: hidden_size {values['hidden_size']} is no multiple of num_attention_heads "
                f"{values['num_attention_heads']}"
            )
        self._check_vocabulary(values["vocab_size"])
        values |= {name: given.get(name, usual) for name, usual in _OTHERS.items()}
        values |= {"model_type": "bert", "layer_norm_eps": 1e-12, "pad_token_id": 0}
        return values | _architecture(bundle)

    def _check_vocabulary(self, vocab_size: int) -> None:
        path = self._folder / "vocab.txt"
        if not path.is_file():
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
