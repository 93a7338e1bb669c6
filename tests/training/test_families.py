"""All that a user does works with each family of models: trained, frozen, resumed, scored; pairs, windows, folders."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from tests.model.families import CASES, TEXTS, save_tokenizer

import bertwright
from bertwright.data.tokenize import tokenize
from bertwright.errors import DataError, UserError
from bertwright.model.checkpoint import load_for_training
from bertwright.training import loop

OTHERS = pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "ernie", "distilbert", "electra-narrow"])
SMALL = {"max_length": 24, "quiet": True, "device": "cpu", "dtype": "float32", "batch_size": 8}
WORDS = sorted({word for text in TEXTS for word in text.lower().split()})


def write(path: Path, rows: list[tuple], header=("text", "label")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def sentence(generator: np.random.Generator, kind: int) -> str:
    half = len(WORDS) // 2
    return " ".join(generator.choice(WORDS[half * kind : half * (kind + 1)], int(generator.integers(2, 9))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models of all families as somebody pretrained them, and texts: ``kind`` is which half of the words they use."""
    path = tmp_path_factory.mktemp("families")
    for name, case in CASES.items():
        (path / name).mkdir()
        vocab_size = save_tokenizer(case, path / name)
        torch.manual_seed(0)
        getattr(transformers, case.class_prefix + "Model")(case.config(vocab_size)).save_pretrained(path / name)
    generator = np.random.default_rng(0)
    kinds = [int(kind) for kind in generator.integers(0, 2, 96)]
    write(path / "texts.csv", [(sentence(generator, kind), "ab"[kind]) for kind in kinds])
    pairs = [(sentence(generator, 0), sentence(generator, kind), "ab"[kind]) for kind in kinds]
    write(path / "pairs.csv", pairs, ("text", "other", "label"))
    return path


def train(folder: Path, name: str, output: Path, data: str | Path = "texts.csv", **settings):
    values = {**SMALL, "test": folder / data, "model": folder / name, "output": output, **settings}
    return bertwright.train(folder / data, **values)


def their_scores(run, texts, pairs=None) -> np.ndarray:
    """The probability of the last class by transformers, from the run's folder alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model_folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run.model_folder).eval()
    given = tokenizer(texts, pairs, truncation=True, max_length=24, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**given).logits.softmax(-1)[:, 1].numpy()


@OTHERS
def test_a_trained_model_has_learnt_and_is_transformers_too(name, folder, tmp_path):
    run = train(folder, name, tmp_path / "run", epochs=6, learning_rate=3e-3)
    assert run.metrics["test"]["accuracy"] > 0.9
    table = pq.read_table(run.path / "predictions.parquet")
    texts = table.column("text").to_pylist()
    scores = table.column("score_b").to_numpy()
    assert np.abs(scores - their_scores(run, texts)).max() < 1e-5
    again = bertwright.load(run.path, device="cpu", dtype="float32")
    assert np.abs(again.score(texts)[:, 1] - scores).max() < 1e-5
    judged = bertwright.evaluate(run.path, folder / "texts.csv", quiet=True, dtype="float32")
    assert judged["metrics"]["test"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert bertwright.predict(run.path, texts[:3])[0].label in "ab"


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("roberta", "first"), ("distilbert", "mean"), ("ernie", "first"), ("electra-narrow", "first")],
)
def test_a_frozen_encoder_stays_as_it_is_and_the_head_learns(name, pooling, folder, tmp_path):
    run = train(folder, name, tmp_path / "run", epochs=12, freeze_encoder=True, learning_rate=0.03, pooling=pooling)
    if pooling == "mean":  # the first token of an encoder that has never read a text knows nothing
        assert run.metrics["test"]["accuracy"] > 0.8
    initial = load_for_training(str(folder / name), ("a", "b"), pooling, 24, 0).model
    learnt = bertwright.load(run.path, device="cpu", dtype="float32").model
    before = transformers.AutoModel.from_pretrained(folder / name).state_dict()
    for our_name, their_name in (
        ("encoder.embeddings.token.weight", "embeddings.word_embeddings.weight"),
        ("encoder.embeddings.norm.weight", "embeddings.LayerNorm.weight"),
    ):
        assert torch.equal(learnt.state_dict()[our_name], before[their_name])
    for ours, drawn in zip(learnt.classifier.parameters(), initial.classifier.parameters(), strict=True):
        assert float((ours - drawn).abs().max()) > 1e-3
    assert (learnt.classifier.dense is None) == (name == "ernie" or pooling == "mean")


@pytest.mark.parametrize(
    "name", ["electra-narrow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "distilbert"))]
)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(name, folder, tmp_path, monkeypatch):
    whole = train(folder, name, tmp_path / "whole", steps=6, validation_share=0.2)

    class Killed(BaseException):
        pass

    real = loop._Training._step

    def step(self, rows):
        if self.progress.steps == 4:
            raise Killed
        return real(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_step", step)
        with pytest.raises(Killed):
            train(folder, name, tmp_path / "run", steps=6, validation_share=0.2, checkpoint_steps=2)
    resumed = train(folder, name, tmp_path / "run", steps=6, validation_share=0.2, checkpoint_steps=2, resume=True)
    files = [run.model_folder / "model.safetensors" for run in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "name",
    ["roberta", "distilbert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("xlm-roberta", "ernie"))],
)
def test_pairs_and_their_folders_are_read_as_transformers_reads_them(name, folder, tmp_path):
    settings = {"epochs": 1, "pair_column": "other"}
    run = train(folder, name, tmp_path / "run", "pairs.csv", **settings)
    table = pq.read_table(run.path / "predictions.parquet")
    with open(folder / "pairs.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first, second = [row["text"] for row in rows], [row["other"] for row in rows]
    scores = table.sort_by("row").column("score_b").to_numpy()
    assert np.abs(scores - their_scores(run, first, second)).max() < 1e-5
    tokens = {"model": str(folder / name), "pair_column": "other", "max_length": 40, "quiet": True}
    tokenize(folder / "pairs.csv", tmp_path / "tokens", **tokens)
    cached = train(folder, name, tmp_path / "cached", tmp_path / "tokens", epochs=1)
    files = [found.model_folder / "model.safetensors" for found in (run, cached)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", ["roberta", pytest.param("distilbert", marks=pytest.mark.slow)])
def test_folders_of_token_ids_and_windows(name, folder, tmp_path):
    tokens = {"model": str(folder / name), "max_length": 512, "quiet": True}
    tokenize(folder / "texts.csv", tmp_path / "tokens", **tokens)
    windows = {"long_texts": "windows", "max_length": 10, "window_overlap": 2, "epochs": 1}
    direct, cached = (
        train(folder, name, tmp_path / output, data, **windows)
        for output, data in (("direct", "texts.csv"), ("cached", tmp_path / "tokens"))
    )
    assert direct.result["data"]["in_windows_share"] > 0.3
    files = [found.model_folder / "model.safetensors" for found in (direct, cached)]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(DataError, match="found token ids by the tokenizer of"):
        train(folder, "ernie" if name == "roberta" else "roberta", tmp_path / "other", tmp_path / "tokens")


def test_windows_of_a_frozen_encoder_need_a_linear_classifier(folder, tmp_path):
    frozen = {"freeze_encoder": True, "long_texts": "windows", "max_length": 10, "epochs": 1}
    with pytest.raises(UserError, match="needs a linear classifier, but DistilBERT's has a layer of its own"):
        train(folder, "distilbert", tmp_path / "run", **frozen)
    assert train(folder, "distilbert", tmp_path / "mean", pooling="mean", **frozen).finished
    assert train(folder, "ernie", tmp_path / "ernie", **frozen).finished


def test_training_goes_on_from_a_run_of_the_family(folder, tmp_path):
    first = train(folder, "roberta", tmp_path / "first", epochs=1)
    second = train(folder, first.path, tmp_path / "second", epochs=1)
    saved = (second.model_folder / "config.json").read_text()
    assert '"model_type": "roberta"' in saved
    assert (second.model_folder / "merges.txt").is_file()
