"""What is measured: the texts and the model of a benchmark, written into a folder that every worker reads."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import csv

from bertwright.config.parts import LabelKind
from bertwright.config.train import Pooling
from bertwright.cpus import num_usable_cpus
from bertwright.data.ragged import Ragged
from bertwright.errors import DataError, UserError
from bertwright.hardware import choose_device
from bertwright.randomness import purpose_seed
from bertwright.runs import open_run

if TYPE_CHECKING:
    from bertwright.config.bench import (
        BenchEnginesConfig,
        BenchInferConfig,
        BenchPretrainConfig,
        BenchTokenizeConfig,
        BenchTrainConfig,
    )
    from bertwright.model.checkpoint import Loaded
    from bertwright.progress import Reporter

CaseName = Literal["tokenize", "train", "infer", "pretrain", "engines"]
# "first": the last layer for the first token alone; "all": for all tokens; "first-int8": with weights in 8 bits.
GraphKind = Literal["first", "all", "first-int8"]

# Length-grouped training, as transformers does it, sorts this many random batches at a time by length.
_BATCHES_SORTED_TOGETHER = 50
# What an engine that pads tries where no batch size is asked for.
_TRIED_BATCH_SIZES = (8, 32, 128)
_CASE, _IDS, _STARTS, _LABELS, _TEXTS, _MODEL = (
    "case.json",
    "ids.npy",
    "starts.npy",
    "labels.npy",
    "texts.arrow",
    "model",
)


@dataclass(frozen=True)
class Case:
    """One benchmark, as its workers are told of it.

    Attributes:
        folder: holds the texts, their ids and the model in Hugging Face's layout.
        device: "cpu", "cuda" or "cuda:N".
        batch_size: texts of a batch, where batches are padded; 0: whatever is the fastest.
        num_threads: CPU threads that a library is told to use, where it must be told.
        holds_threads: whether each worker is held to so many CPUs, so that nobody uses more.
        files: hold the same texts as a user would have them; for tokenising alone.
        seed: of what is random: dropout, order.
    """

    name: CaseName
    folder: str
    batch_size: int
    max_length: int
    device: str
    dtype: str
    num_threads: int
    learning_rate: float
    pooling: Pooling
    num_labels: int
    num_texts: int
    seed: int
    files: tuple[str, ...] = ()
    holds_threads: bool = False

    @classmethod
    def read(cls, folder: Path) -> Case:
        values = json.loads((folder / _CASE).read_text(encoding="utf-8"))
        return cls(**{**values, "files": tuple(values["files"])})

    def write(self) -> None:
        (Path(self.folder) / _CASE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def model_folder(self) -> Path:
        return Path(self.folder) / _MODEL

    @property
    def texts_file(self) -> Path:
        """The texts as an Arrow file with one column, ``text``."""
        return Path(self.folder) / _TEXTS

    def graph_file(self, kind: GraphKind) -> Path:
        """Where the model is as an ONNX graph, if it was written."""
        return Path(self.folder) / f"graph-{kind}.onnx"

    @cached_property
    def texts(self) -> pa.ChunkedArray:
        """(texts,) large_string, mapped from disk."""
        with pa.memory_map(str(self.texts_file)) as source:
            return pa.ipc.open_file(source).read_all().column("text")

    @cached_property
    def ragged(self) -> Ragged:
        """The texts' token ids."""
        return Ragged(np.load(Path(self.folder) / _IDS), np.load(Path(self.folder) / _STARTS), 0)

    @cached_property
    def label_ids(self) -> np.ndarray:
        """(texts,) int64."""
        return np.load(Path(self.folder) / _LABELS)

    @property
    def num_tokens(self) -> int:
        return int(self.ragged.starts[-1])

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """What an engine that pads may choose from."""
        return (self.batch_size,) if self.batch_size else _TRIED_BATCH_SIZES

    def sorted_batches(self, batch_size: int | None = None, num_texts: int | None = None) -> list[np.ndarray]:
        """The rows of batches of texts of like length, longest first: what suits a library best.

        Args:
            batch_size: None: the case's.
            num_texts: of about so many of the texts, evenly drawn from short and long; None: of all.
        """
        size = self.batch_size if batch_size is None else batch_size
        order = np.argsort(-self.ragged.lengths, kind="stable")
        order = order[:: max(1, len(order) // num_texts)] if num_texts else order
        return [order[start : start + size] for start in range(0, len(order), size)]

    def padded(self, rows: np.ndarray, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids and attention mask of ``rows``, (rows, width) int64 each, padded with 0; as wide as the longest of them
        where no ``width`` is given."""
        ids, lengths = self.ragged.gather(rows)
        mask = np.arange(int(lengths.max()) if width is None else width) < lengths[:, None]
        padded = np.zeros(mask.shape, dtype=np.int64)
        padded[mask] = ids
        return padded, mask.astype(np.int64)


def sample(num_texts: int, wanted: int, seed: int) -> np.ndarray:
    """(wanted,) rows drawn at random, in the order of the file; all of them where ``wanted`` is not smaller."""
    if wanted >= num_texts:
        return np.arange(num_texts)
    generator = np.random.default_rng(purpose_seed(seed, "benchmark texts"))
    return np.sort(generator.choice(num_texts, wanted, replace=False))


def length_grouped_sample(lengths: np.ndarray, wanted: int, batch_size: int, seed: int) -> np.ndarray:
    """(about wanted,) rows of batches as length-grouped training on all texts makes them, batch after batch.

    ``transformers`` sorts 50 random batches together by length (fewer where the data is small, which costs it padding).
    From such a group every so many-th batch is taken: few steps then pad as little, and are as long on average, as
    those of a whole epoch would be. The longest batch stands first, as it does there.
    """
    num_batches = max(1, round(wanted / batch_size))
    drawn = sample(len(lengths), max(_BATCHES_SORTED_TOGETHER, num_batches) * batch_size, seed)
    generator = np.random.default_rng(purpose_seed(seed, "benchmark batches"))
    drawn = generator.permutation(drawn)
    drawn = drawn[: max(len(drawn) // batch_size, 1) * batch_size]
    group = _BATCHES_SORTED_TOGETHER * batch_size
    batches: list[np.ndarray] = []
    for start in range(0, len(drawn), group):
        together = drawn[start : start + group]
        together = together[np.argsort(-lengths[together], kind="stable")]
        batches += [together[i : i + batch_size] for i in range(0, len(together), batch_size)]
    num_batches = min(num_batches, len(batches))
    taken = (np.arange(num_batches) + 0.5) * len(batches) / num_batches
    chosen = [batches[int(place)] for place in taken]
    order = generator.permutation(np.arange(1, len(chosen)))
    return np.concatenate([chosen[0], *(chosen[i] for i in order)])


@dataclass(frozen=True)
class Prepared:
    """A case and what is said about it in the record."""

    case: Case
    description: dict[str, Any]
    operations: int | None


def prepare_engines(config: BenchEnginesConfig, folder: Path, reporter: Reporter) -> Prepared:
    """Write the case of ``prepare_infer`` for engines that are held to a number of threads.

    Raises:
        UserError: as there, or more threads than this process may use.
    """
    usable = num_usable_cpus()
    if config.threads is not None and config.threads > usable:
        raise UserError(f"--threads: found {config.threads}, but this process may use {usable} CPUs")
    prepared = prepare_infer(config, folder, reporter)
    case = replace(prepared.case, name="engines", num_threads=config.threads or usable, holds_threads=True)
    case.write()
    return replace(prepared, case=case)


def prepare_infer(config: BenchInferConfig | BenchEnginesConfig, folder: Path, reporter: Reporter) -> Prepared:
    """Write the case of scoring the texts of ``config.data``."""
    from bertwright.benchmarking.operations import forward_operations
    from bertwright.data.columns import read_unlabelled
    from bertwright.model.checkpoint import load_for_training

    found = read_unlabelled(config.data, config.text_column, config.on_bad_row)
    if config.run is not None:
        loaded = load_run(config.run)
    else:
        loaded = load_for_training(
            config.model, ("0", "1"), config.pooling, config.max_length, config.seed, config.tokenizer
        )
    texts = found.texts.take(pa.array(sample(len(found), config.num_texts, config.seed)))
    max_length = min(config.max_length, loaded.settings.max_length)
    case = _case("infer", config, folder, loaded, len(texts), max_length)
    lengths = _write(case, loaded, texts, None, reporter)
    operations = forward_operations(loaded.model.config, lengths, case.num_labels, case.pooling)
    return Prepared(case, describe_texts(config.data, found.sha256, loaded, lengths), operations)


def prepare_train(config: BenchTrainConfig, folder: Path, reporter: Reporter) -> Prepared:
    """Write the case of learning once from the texts of ``config.data``."""
    from bertwright.benchmarking.operations import training_operations
    from bertwright.data.columns import read_labelled
    from bertwright.data.ragged import tokenize_texts
    from bertwright.model.checkpoint import load_for_training

    found = read_labelled(config.data, config)
    check_kind(config.data[0], found.kind)
    # The library has attention dropout by default; the fast kernels of both sides have none. Without it for all.
    loaded = load_for_training(
        config.model,
        found.labels,
        config.pooling,
        config.max_length,
        config.seed,
        config.tokenizer,
        {"attention_probs_dropout_prob": 0.0},
    )
    pool = sample(len(found), max(_BATCHES_SORTED_TOGETHER * config.batch_size, config.num_texts), config.seed)
    pooled = found.take(pool)
    ragged = tokenize_texts(loaded.tokenizer, pooled.texts, config.max_length, reporter)
    rows = length_grouped_sample(ragged.lengths, config.num_texts, config.batch_size, config.seed)
    chosen = pooled.take(rows)
    case = _case("train", config, folder, loaded, len(chosen), config.max_length)
    lengths = _write(case, loaded, chosen.texts, chosen.label_ids, reporter)
    operations = training_operations(loaded.model.config, lengths, case.num_labels, case.pooling)
    return Prepared(case, describe_texts(config.data, found.sha256, loaded, lengths), operations)


def load_run(run: str) -> Loaded:
    """The classifier of a run, described by what became it: its folder's name tells nothing on another machine.

    Raises:
        UserError: there is none, or its labels are not classes.
    """
    from bertwright.model.checkpoint import load_classifier

    loaded = load_classifier(run)
    check_kind(run, loaded.settings.kind)
    try:
        settings = open_run(run).settings
    except UserError:  # a classifier that is no run of ours
        return loaded
    model, files = settings.get("model"), settings.get("train")
    if isinstance(model, str) and isinstance(files, list):
        loaded.description = f"{model}, trained on {', '.join(Path(str(file)).name for file in files)}"
    return loaded


def check_kind(source: str, kind: LabelKind) -> None:
    """Raise unless there are classes: results of contenders are compared as softmax over them.

    Raises:
        UserError: another kind of labels.
    """
    if kind not in ("classes", "soft"):
        raise UserError(f"{source}: found {kind} labels, expected classes, which all contenders are measured with")


def prepare_tokenize(config: BenchTokenizeConfig, folder: Path, reporter: Reporter) -> Prepared:
    """Write the case of tokenising the texts of ``config.data``."""
    from bertwright.data.columns import read_unlabelled
    from bertwright.model.sources import find_folder
    from bertwright.model.tokenizer import load_tokenizer

    found = read_unlabelled(config.data, config.text_column, config.on_bad_row)
    wanted = len(found) if config.num_texts is None else config.num_texts
    texts = found.texts if wanted >= len(found) else found.texts.take(pa.array(sample(len(found), wanted, config.seed)))
    model_folder, description = find_folder(config.model)
    case = Case(
        name="tokenize",
        folder=str(folder),
        batch_size=0,
        max_length=config.max_length,
        device="cpu",
        dtype="auto",
        num_threads=num_usable_cpus(),
        learning_rate=0.0,
        pooling="first",
        num_labels=0,
        num_texts=len(texts),
        seed=config.seed,
        files=tuple(str(Path(file).absolute()) for file in config.data),
    )
    case.model_folder.mkdir(parents=True)
    load_tokenizer(model_folder).save(case.model_folder)
    _write_texts(case, texts)
    if texts is not found.texts or found.bad_rows:  # not what the given files hold
        case = replace(case, files=(str(folder / "texts.csv"),))
        csv.write_csv(pa.table({"text": texts}), case.files[0])
    case.write()
    described = {
        "data": [Path(file).name for file in config.data],
        "data_sha256": found.sha256,
        "model": description,
        "num_texts": len(texts),
    }
    return Prepared(case, described, None)


def prepare_pretrain(config: BenchPretrainConfig, folder: Path, reporter: Reporter) -> Prepared:
    """Write the case of learning once from sequences of the documents of ``config.data``, by guessing masked tokens."""
    from bertwright.benchmarking.operations import pretraining_operations
    from bertwright.data.columns import read_unlabelled
    from bertwright.data.ragged import tokenize_texts
    from bertwright.model.masked_checkpoint import load_masked, save_masked

    found = read_unlabelled(config.data, config.text_column, config.on_bad_row)
    # Dropout is off on both sides: ours has none by default while it pretrains.
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    loaded = load_masked(config.model, config.max_length, config.seed, config.tokenizer, no_dropout)
    batch_size = max(1, config.batch_tokens // config.max_length)
    wanted = config.num_steps * config.batch_tokens
    # A document has some tokens: more than enough of them, then as many sequences as are wanted.
    texts = found.texts.take(sample(len(found), wanted // 16, config.seed))
    cut = tokenize_texts(loaded.tokenizer, texts, config.max_length, reporter, long_texts="windows").as_sequences()
    order = np.random.default_rng(purpose_seed(config.seed, "benchmark sequences")).permutation(len(cut))
    order = order[: int(np.searchsorted(np.cumsum(cut.lengths[order]), wanted, side="right"))]
    if not len(order):
        raise DataError(f"{config.data[0]}: too few tokens to measure with: lower --batch-tokens")
    ids, lengths = cut.gather(order)
    case = Case(
        name="pretrain",
        folder=str(folder),
        batch_size=batch_size,
        max_length=config.max_length,
        device=str(choose_device(config.device)),
        dtype=config.dtype,
        num_threads=num_usable_cpus(),
        learning_rate=1e-4,
        pooling="first",
        num_labels=0,
        num_texts=len(order),
        seed=config.seed,
    )
    save_masked(case.model_folder, loaded.model.config, loaded.model.state_dict(), loaded.tokenizer)
    np.save(folder / _IDS, ids)
    np.save(folder / _STARTS, np.append(0, np.cumsum(lengths)))
    case.write()
    p50, p90 = np.percentile(lengths, [50, 90])
    description = {
        "data": [Path(file).name for file in config.data],
        "data_sha256": found.sha256,
        "model": loaded.description,
        "num_layers": loaded.model.config.num_hidden_layers,
        "hidden_size": loaded.model.config.hidden_size,
        "num_texts": len(lengths),
        "num_tokens": int(lengths.sum()),
        "batch_tokens": config.batch_tokens,
        "text_tokens": {
            "mean": float(lengths.mean()),
            "p50": float(p50),
            "p90": float(p90),
            "max": int(lengths.max()),
        },
    }
    return Prepared(case, description, pretraining_operations(loaded.model.config, lengths, 0.15))


def write_graphs(case: Case, kinds: Collection[GraphKind]) -> None:
    """Write the case's classifier as ONNX graphs.

    Raises:
        UserError: the package ``onnx`` is not installed.
    """
    from bertwright.model.checkpoint import load_classifier
    from bertwright.model.onnx import save_graph

    model = load_classifier(str(case.model_folder)).model
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for kind in kinds:
        path = case.graph_file(kind)
        save_graph(path, model.config, state, case.pooling, only_first=kind != "all", int8_weights=kind == "first-int8")


def _case(
    name: CaseName,
    config: BenchInferConfig | BenchEnginesConfig | BenchTrainConfig,
    folder: Path,
    loaded: Loaded,
    num_texts: int,
    max_length: int,
) -> Case:
    if num_texts == 0:
        raise DataError(f"{config.data[0]}: no text to measure with")
    narrow = loaded.model.config.hidden_size < 768
    return Case(
        name=name,
        folder=str(folder),
        batch_size=config.batch_size,
        max_length=max_length,
        device=str(choose_device(config.device)),
        dtype=config.dtype,
        num_threads=num_usable_cpus(),
        learning_rate=1e-4 if narrow else 2e-5,
        pooling=loaded.settings.pooling,
        num_labels=len(loaded.settings.labels),
        num_texts=num_texts,
        seed=config.seed,
    )


def _write(
    case: Case, loaded: Loaded, texts: pa.ChunkedArray, labels: np.ndarray | None, reporter: Reporter
) -> np.ndarray:
    """Write all that the workers read; gives the texts' lengths, (texts,) tokens."""
    from bertwright.data.ragged import tokenize_texts
    from bertwright.model.checkpoint import save_model

    folder = Path(case.folder)
    state = loaded.model.state_dict()
    save_model(case.model_folder, loaded.model.config, state, loaded.tokenizer, loaded.settings)
    ragged = tokenize_texts(loaded.tokenizer, texts, case.max_length, reporter)
    np.save(folder / _IDS, ragged.ids)
    np.save(folder / _STARTS, ragged.starts)
    if labels is not None:
        np.save(folder / _LABELS, labels)
    _write_texts(case, texts)
    case.write()
    return ragged.lengths


def _write_texts(case: Case, texts: pa.ChunkedArray) -> None:
    table = pa.table({"text": texts})
    with pa.OSFile(str(case.texts_file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def describe_texts(data: tuple[str, ...], sha256: str, loaded: Loaded, lengths: np.ndarray) -> dict[str, Any]:
    """What a record says of the texts, of ``lengths`` (texts,) tokens, and of the model."""
    p50, p90 = np.percentile(lengths, [50, 90])
    return {
        "data": [Path(file).name for file in data],
        "data_sha256": sha256,
        "model": loaded.description,
        "num_layers": loaded.model.config.num_hidden_layers,
        "hidden_size": loaded.model.config.hidden_size,
        "pooling": loaded.settings.pooling,
        "num_texts": len(lengths),
        "num_tokens": int(lengths.sum()),
        "text_tokens": {
            "mean": float(lengths.mean()),
            "p50": float(p50),
            "p90": float(p90),
            "max": int(lengths.max()),
        },
    }
