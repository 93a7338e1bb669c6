"""Models from folders, the hub, an installed package, or from nothing; and back into a folder that others can load."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bertwright.config.base import build
from bertwright.config.parts import LabelKind, LongTexts, WindowPooling
from bertwright.config.train import Pooling
from bertwright.errors import CheckpointError, UserError
from bertwright.model import name_tables, pickles
from bertwright.model.classifier_settings import (
    SETTINGS,
    ClassifierSettings,
    read_classifier_settings,
    read_object,
)
from bertwright.model.encoder import SIZES, ModelConfig
from bertwright.model.foreign import LAYOUTS, ForeignCheckpoint, find_foreign
from bertwright.model.heads import HEAD_WEIGHT, TextClassifier
from bertwright.model.sources import TINY, find_folder
from bertwright.model.tokenizer import Tokenizer, load_tokenizer
from bertwright.randomness import purpose_seed
from bertwright.runs import write_json

# Hugging Face's problem_type of each kind. It knows no shares: a softmax over classes is what their scores are too.
_PROBLEM_TYPES: dict[LabelKind, str] = {
    "classes": "single_label_classification",
    "soft": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


@dataclass
class Loaded:
    """A classifier ready to train or to score, on the CPU, in float32.

    ``description`` says where the weights come from; ``notes`` what a user should know about how they were read,
    and ``warnings`` what must not be missed. ``head_is_new``: the classifier's weights are drawn at random, and have
    not learnt anything. ``file_notes`` are the first of ``notes``: those on its files, whatever is made of them.
    """

    model: TextClassifier
    tokenizer: Tokenizer
    settings: ClassifierSettings
    description: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    head_is_new: bool = False
    file_notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model.window_pooling = self.settings.window_pooling
        self.file_notes = list(dict.fromkeys([*self.file_notes, *self.tokenizer.notes]))
        self.notes = [*self.file_notes, *self.notes]
        if self.tokenizer.engine != "nanotoken":
            self.notes.append(f"tokenising with tokenizers, which is slower: {self.tokenizer.reason}")


# --- loading ---------------------------------------------------------------------------------------------------------


def load_for_training(
    name: str,
    labels: Sequence[str],
    pooling: Pooling,
    max_length: int,
    seed: int,
    tokenizer: str | None = None,
    dropouts: Mapping[str, float] | None = None,
    kind: LabelKind = "classes",
    pairs: bool = False,
    long_texts: LongTexts = "head",
    window_overlap: int = 0,
    window_pooling: WindowPooling = "mean",
    label_threshold: float | None = None,
    hard_labels: bool = False,
) -> Loaded:
    """The model ``name`` with a classifier for ``labels`` of ``kind``.

    A checkpoint's own classifier is kept where it is for the same labels, in the same order, of the same kind (classes
    and shares of them count as one: both are a softmax) and reads the same pooling.

    What the checkpoint lacks of the head is drawn from ``seed``. ``tokenizer`` names another model whose tokenizer to
    take; ``dropouts`` replaces settings of the model by name. ``label_threshold`` and ``hard_labels``, with which the
    labels were read, are kept for evaluations.

    Raises:
        CheckpointError: see ``find_folder``, ``read_tensors`` and ``assign``.
    """
    settings = ClassifierSettings(
        labels=tuple(labels),
        kind=kind,
        pooling=pooling,
        max_length=max_length,
        pairs=pairs,
        long_texts=long_texts,
        window_overlap=window_overlap,
        window_pooling=window_pooling,
        label_threshold=label_threshold,
        hard_labels=hard_labels,
    )
    if name in SIZES and not Path(name).is_dir():
        return _random_model(name, settings, seed, tokenizer, dropouts or {})
    folder, description = find_folder(name)
    foreign = _foreign_at(folder)
    values = _read_config(folder, foreign)
    config = ModelConfig.from_hugging_face(values, str(folder / "config.json")).model_copy(update=dropouts or {})
    _check_length(max_length, config, name)
    model = empty_model(config, len(labels), pooling)
    tensors = read_tensors(folder, foreign)
    saved = read_classifier_settings(folder)
    if saved is not None and saved.pooling == "mean":
        tensors.update(_head_tensors(folder))
    state: dict[str, Tensor] = {}
    notes = assign(state, tensors, config, model, str(folder), _why_head_differs(values, saved, settings))
    head_is_new = HEAD_WEIGHT not in state
    if not head_is_new:
        notes.append("the checkpoint's classifier is for the same labels: training goes on from it")
    state |= initial_state(model, config, seed, model.state_dict().keys() - state.keys())
    model.load_state_dict(state, assign=True)
    loaded_tokenizer = load_tokenizer(folder if tokenizer is None else _tokenizer_folder(tokenizer))
    _check_vocabulary(loaded_tokenizer, config, description)
    file_notes = [] if foreign is None else foreign.notes
    return Loaded(model, loaded_tokenizer, settings, description, notes, head_is_new=head_is_new, file_notes=file_notes)


def load_classifier(name: str) -> Loaded:
    """A trained classifier: a run, a run's model folder, or a BertForSequenceClassification folder or hub name.

    Of a folder without bertwright.json, its ``problem_type`` says what kind of labels it is for; without one, a single
    logit is a regression, as in ``transformers``, and several are classes.

    Raises:
        CheckpointError: as ``load_for_training``, or the checkpoint holds no classifier.
    """
    if name in SIZES and not Path(name).is_dir():
        raise CheckpointError(f"{name}: a size without weights cannot score texts; train it first")
    folder, description = find_folder(name)
    foreign = _foreign_at(folder)
    values = _read_config(folder, foreign)
    config = ModelConfig.from_hugging_face(values, str(folder / "config.json"))
    settings = read_classifier_settings(folder)
    tensors = read_tensors(folder, foreign)
    read_notes: list[str] = []
    if settings is None:
        settings = _settings_of_hugging_face(values, config, folder, read_notes)
    elif settings.pooling == "mean":
        tensors.update(_head_tensors(folder))
    _check_length(settings.max_length, config, str(folder))
    names = name_tables.NAMES[config.model_type]
    last = dict(names.classifier)[HEAD_WEIGHT]
    if last not in tensors:
        raise CheckpointError(f"{folder}: tensor {last} is missing; expected a trained classifier")
    model = empty_model(config, len(settings.labels), settings.pooling)
    state: dict[str, Tensor] = {}
    notes = read_notes + assign(state, tensors, config, model, str(folder))
    missing = sorted(model.state_dict().keys() - state.keys())
    if missing:
        theirs = names.theirs(missing[0], config.num_hidden_layers)
        raise CheckpointError(f"{folder}: tensor {theirs} is missing")
    model.load_state_dict(state, assign=True)
    tokenizer = load_tokenizer(folder)
    _check_vocabulary(tokenizer, config, description)
    return Loaded(model, tokenizer, settings, description, notes, file_notes=[] if foreign is None else foreign.notes)


def _settings_of_hugging_face(
    values: dict[str, Any], config: ModelConfig, folder: Path, notes: list[str]
) -> ClassifierSettings:
    """What a classifier that ``transformers`` saved is for, by its config.json.

    Raises:
        CheckpointError: a kind of labels that is not known, or labels that it cannot have.
    """
    labels = _labels_of(values, None)
    problem = _problem_type(values, labels)
    kinds = [kind for kind, name in _PROBLEM_TYPES.items() if name == problem]
    if not kinds:
        known = ", ".join(dict.fromkeys(_PROBLEM_TYPES.values()))
        raise CheckpointError(f"{folder / 'config.json'}: problem_type is {problem!r}, expected one of {known}")
    if problem == "regression" and values.get("problem_type") is None:
        notes.append("one logit and no problem_type: taken for a regression, whose scores are the logits")
    given = {"labels": tuple(labels), "kind": kinds[0], "max_length": min(512, config.num_positions)}
    try:
        return build(ClassifierSettings, given, str(folder / "config.json"))
    except UserError as error:
        raise CheckpointError(str(error)) from None


def _problem_type(values: dict[str, Any], labels: Sequence[str]) -> Any:
    """Hugging Face's problem_type or, where it is not said, what ``transformers`` then takes it for."""
    said = values.get("problem_type")
    return said if said is not None else _PROBLEM_TYPES["regression" if len(labels) == 1 else "classes"]


def _why_head_differs(
    values: dict[str, Any], saved: ClassifierSettings | None, settings: ClassifierSettings
) -> str | None:
    """Why the classifier of a checkpoint is not the one that ``settings`` ask for; None if it is."""
    labels = tuple(_labels_of(values, saved))
    if labels != settings.labels:
        return "for other labels"
    problem = _problem_type(values, labels) if saved is None else _PROBLEM_TYPES[saved.kind]
    if problem != _PROBLEM_TYPES[settings.kind]:
        return f"for labels of another kind ({problem}, not {_PROBLEM_TYPES[settings.kind]})"
    if (saved.pooling if saved is not None else "first") != settings.pooling:
        return "over another pooling"
    return None


def _foreign_at(folder: Path) -> ForeignCheckpoint | None:
    """The checkpoint there in another layout than Hugging Face's, opened once: its notes are of all that was read."""
    return None if (folder / "config.json").is_file() else find_foreign(folder)


def _read_config(folder: Path, foreign: ForeignCheckpoint | None) -> dict[str, Any]:
    if foreign is not None:
        return foreign.config()
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; expected {LAYOUTS}")
    return read_object(folder / "config.json")


def _labels_of(values: dict[str, Any], saved: ClassifierSettings | None) -> list[str]:
    """Class names in order of id: ours, or Hugging Face's id2label (LABEL_0, LABEL_1 where a config names none)."""
    if saved is not None:
        return list(saved.labels)
    id2label = values.get("id2label")
    if not isinstance(id2label, dict):
        num_labels = values.get("num_labels", 2)
        return [
            f"LABEL_{i}" for i in range(num_labels if isinstance(num_labels, int) and 0 < num_labels < 10_000 else 2)
        ]
    try:
        return [str(id2label[key]) for key in sorted(id2label, key=int)]
    except ValueError:
        raise CheckpointError(f"config.json: id2label has keys {list(id2label)[:3]}, expected whole numbers") from None


def _check_length(max_length: int, config: ModelConfig, name: str) -> None:
    if max_length > config.num_positions:
        raise CheckpointError(
            f"the length is {max_length} tokens, but {name} has {config.num_positions} positions; "
            f"give a --max-length of at most {config.num_positions}"
        )


def _check_vocabulary(tokenizer: Tokenizer, config: ModelConfig, description: str) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{description}: the tokenizer knows {tokenizer.vocab_size:,} tokens, the model {config.vocab_size:,}; "
            "they do not belong together"
        )


def read_tensors(folder: Path, foreign: ForeignCheckpoint | None = None) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder, by name: model.safetensors or pytorch_model.bin, whole or in parts.

    A .bin file is read with ``weights_only``: no code in it is ever run. Of a checkpoint in another layout
    (``bertwright.model.foreign``), ``foreign`` if it is open already, the names are Hugging Face's too.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    if foreign is not None:
        return foreign.tensors()
    for whole, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_bin)):
        if (folder / whole).is_file():
            return read(folder / whole)
        index = folder / (whole + ".index.json")
        if index.is_file():
            tensors: dict[str, Tensor] = {}
            for part in _parts_of(index):
                tensors.update(read(folder / part))
            return tensors
    if (foreign := find_foreign(folder)) is not None:
        return foreign.tensors()
    raise CheckpointError(f"{folder}: no model.safetensors and no pytorch_model.bin; expected one of them")


def _parts_of(index: Path) -> list[str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: no weight_map; expected an index of parts")
    for part in weight_map.values():
        if not isinstance(part, str) or Path(part).name != part:
            raise CheckpointError(f"{index}: part {part!r} is not a plain file name")
    return sorted(set(weight_map.values()))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error})") from None


def _read_bin(path: Path) -> dict[str, Tensor]:
    return pickles.plain_tensors(pickles.load(path), str(path))


def _head_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / "head.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no head.safetensors; expected the classifier over the mean of all tokens")
    return _read_safetensors(path)


def assign(
    state: dict[str, Tensor],
    tensors: dict[str, Tensor],
    config: ModelConfig,
    model: TextClassifier,
    source: str,
    why_head_differs: str | None = None,
) -> list[str]:
    """Fill ``state`` (our names) from ``tensors`` (Hugging Face's names), as float32. Returns what a user should know.

    Every tensor of the encoder must be there in its shape. Of the head, the pooler may be missing, and so may the whole
    classifier; it is left out if there is a reason ``why_head_differs`` ("for other labels"). Known buffers and heads
    of other tasks are skipped.

    Raises:
        CheckpointError: a tensor is missing, extra, of another shape, or not of real numbers; by its name.
    """
    tensors = {_new_norm_name(name): tensor for name, tensor in tensors.items()}
    family, names = config.family, name_tables.NAMES[config.model_type]
    prefix = family.tensor_prefix
    body = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if len(body) != len(tensors):
        double = next(name for name in tensors if name.startswith(prefix) and name.removeprefix(prefix) in tensors)
        raise CheckpointError(f"{source}: tensor {double} is there twice, with and without {prefix!r}")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    notes: list[str] = []

    def take(ours: str, theirs: str) -> None:
        if theirs not in body:
            raise CheckpointError(f"{source}: tensor {theirs} is missing")
        tensor = body.pop(theirs)
        if tuple(tensor.shape) != shapes[ours]:
            raise CheckpointError(
                f"{source}: tensor {theirs} has shape {tuple(tensor.shape)}, expected {shapes[ours]} from config.json"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(f"{source}: tensor {theirs} holds {tensor.dtype}, expected real numbers")
        state[ours] = tensor.to(torch.float32)

    for ours, theirs in names.encoder(config.num_hidden_layers):
        if ours in shapes:  # else something that this model of the family lacks
            take(ours, theirs)
    lacks_pooler = False
    if model.pooler is None:
        there = [theirs for _, theirs in names.pooler if body.pop(theirs, None) is not None]
        lacks_pooler = bool(names.pooler) and not there
        if there:
            notes.append("the checkpoint's pooler is skipped: the classifier reads the mean of all tokens")
    else:
        for ours, theirs in names.pooler:
            if theirs in body:
                take(ours, theirs)
            elif theirs.endswith("weight"):
                notes.append("the checkpoint has no pooler: initialised at random")
    about_classifier = _assign_classifier(names, body, shapes, take, why_head_differs)
    if lacks_pooler and about_classifier:  # a classifier that comes along has learnt from the mean: nothing is amiss
        notes.append("the checkpoint has no pooler: the classifier reads the mean of all tokens")
    notes += about_classifier
    skipped = [name for name in names.skipped if body.pop(name, None) is not None]
    if skipped:
        notes.append(f"skipped {len(skipped)} tensors that a classifier does not need: {', '.join(skipped)}")
    if body:
        extra = sorted(body)
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{source}: tensor {extra[0]}{more} is not one of {family.title}'s; the model may be another kind"
        )
    return notes


def _assign_classifier(
    names: name_tables.NameTable,
    body: dict[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    take: Callable[[str, str], None],
    why_head_differs: str | None,
) -> list[str]:
    """Take the classifier out of ``body``, whole or not at all; returns what a user should know."""
    last = dict(names.classifier)[HEAD_WEIGHT]
    if last in body and why_head_differs is None:
        for ours, theirs in names.classifier:
            if ours in shapes:
                take(ours, theirs)
        return []
    found = last in body
    left_out = [theirs for _, theirs in names.classifier if body.pop(theirs, None) is not None]
    if found:
        return [f"the checkpoint's classifier is {why_head_differs}: initialised at random"]
    if left_out:
        return [f"the checkpoint's classifier lacks {last}: initialised at random"]
    return ["the checkpoint has no classifier: initialised at random"]


def _new_norm_name(name: str) -> str:
    for old, new in name_tables.OLD_NORM_NAMES:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def pooler_is_missing(name: str) -> bool:
    """Whether ``name`` is a folder, or the model that comes along, of a family with a pooler, whose weights lack it.

    Its first token has then learnt nothing of whole texts: it was pretrained by guessing words alone, or its classifier
    read the mean. Of other names, and of folders that cannot be read, it is False.
    """
    try:
        if name != TINY and not Path(name).is_dir():
            return False
        folder = find_folder(name)[0]
        values = _read_config(folder, None)
        names = name_tables.NAMES[ModelConfig.from_hugging_face(values, str(folder)).model_type]
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            has_pooler = any("pooler." in tensor for tensor in file.keys())  # noqa: SIM118 - not a dict
    except (CheckpointError, SafetensorError, OSError, ValueError, KeyError, RuntimeError):
        return False
    return bool(names.pooler) and not has_pooler


# --- building --------------------------------------------------------------------------------------------------------


def empty_model(config: ModelConfig, num_labels: int, pooling: Pooling) -> TextClassifier:
    """A classifier without memory for its weights; ``load_state_dict(..., assign=True)`` fills it."""
    with torch.device("meta"):
        return TextClassifier(config, num_labels, pooling)


def initial_state(
    model: TextClassifier, config: ModelConfig, seed: int, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Random weights, of ``names`` alone if given, by BERT's rule.

    Weights are normal with standard deviation ``initializer_range``, biases 0, norms 1: the rule of arXiv 1810.04805's
    released code (there truncated at two deviations; here not, as in Hugging Face's). Each tensor has its own stream of
    ``seed``, so that a head is the same whatever the encoder came from.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        if names is not None and name not in names:
            continue
        if name.endswith("norm.weight"):
            state[name] = torch.ones(tensor.shape)
        elif name.endswith("bias"):
            state[name] = torch.zeros(tensor.shape)
        else:
            state[name] = torch.empty(tensor.shape)
            generator = torch.Generator().manual_seed(purpose_seed(seed, "weights", name))
            state[name].normal_(0.0, config.initializer_range, generator=generator)
    return state


def _random_model(
    name: str, settings: ClassifierSettings, seed: int, tokenizer: str | None, dropouts: Mapping[str, float]
) -> Loaded:
    folder = _tokenizer_folder(tokenizer) if tokenizer is not None else find_folder(TINY)[0]
    loaded_tokenizer = load_tokenizer(folder)
    config = ModelConfig.of_size(name, loaded_tokenizer.vocab_size).model_copy(update=dropouts)
    _check_length(settings.max_length, config, name)
    model = empty_model(config, len(settings.labels), settings.pooling)
    model.load_state_dict(initial_state(model, config, seed), assign=True)
    warning = (
        f"{name} starts from RANDOM weights: it has never read a text. "
        "Expect far less than from a pretrained model of that size"
    )
    origin = "bert-base-uncased's vocabulary" if tokenizer is None else f"the vocabulary of {tokenizer}"
    description = f"{name}, random weights, {origin}"
    return Loaded(model, loaded_tokenizer, settings, description, [], [warning], head_is_new=True)


def _tokenizer_folder(name: str) -> Path:
    return find_folder(name)[0]


# --- saving ----------------------------------------------------------------------------------------------------------


def save_model(
    folder: Path,
    config: ModelConfig,
    state: dict[str, Tensor],
    tokenizer: Tokenizer,
    settings: ClassifierSettings,
) -> None:
    """Write a model folder in the family's Hugging Face layout: float32 safetensors, configuration, labels, tokenizer.

    ``state`` has our names. With ``pooling="mean"`` the classifier goes into head.safetensors and the folder is a plain
    BertModel (or RobertaModel ...): ``transformers`` has no such head, and would otherwise compute something else
    without a word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = settings.pooling == "first"
    family, names = config.family, name_tables.NAMES[config.model_type]
    prefix = family.tensor_prefix if first else ""
    encoder = [*names.encoder(config.num_hidden_layers), *names.pooler]
    tensors = {prefix + theirs: state[ours] for ours, theirs in encoder if ours in state}
    head = {theirs: state[ours] for ours, theirs in names.classifier if ours in state}
    if first:
        tensors |= head
    write_json(folder / "config.json", hugging_face_config(config, settings, with_head=first))
    write_json(folder / SETTINGS, settings.model_dump())
    save_tensors(tensors, folder / "model.safetensors")
    if not first:
        save_tensors(head, folder / "head.safetensors")
    tokenizer.save(folder)


def hugging_face_config(config: ModelConfig, settings: ClassifierSettings, with_head: bool) -> dict[str, Any]:
    """The config.json of a model: with a head that of a classifier, its labels among it, else of the encoder alone."""
    values: dict[str, Any] = {
        "architectures": [config.family.class_prefix + ("ForSequenceClassification" if with_head else "Model")],
        **config.to_hugging_face(),
        "position_embedding_type": "absolute",
    }
    if with_head:
        values["problem_type"] = _PROBLEM_TYPES[settings.kind]
        values["id2label"] = {str(i): label for i, label in enumerate(settings.labels)}
        values["label2id"] = {label: i for i, label in enumerate(settings.labels)}
    return values


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as float32 safetensors, beside ``path`` and renamed."""
    partial = path.with_name(path.name + ".partial")
    save_file(
        {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()},
        partial,
        metadata={"format": "pt"},
    )
    os.chmod(partial, 0o666 & ~_umask())  # the writer of safetensors lets nobody else read its files
    os.replace(partial, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
