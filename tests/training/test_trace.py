"""The trace that a training leaves: told from the settings and the texts alone."""

from __future__ import annotations

import csv
import hashlib
import struct

import numpy as np
import pytest
import torch

import bertwright
from bertwright.data.batches import training_batches
from bertwright.data.ragged import Ragged
from bertwright.steps import FILE, read_trace
from bertwright.training import trace as module
from bertwright.training.trace import weights_sha256


@pytest.fixture(scope="module")
def run(examples, tmp_path_factory):
    return bertwright.train(
        examples / "comments_train.csv",
        test=examples / "comments_test.csv",
        model="bert-tiny",
        max_length=32,
        dtype="float32",
        batch_size=32,
        epochs=1.5,
        learning_rate=1e-3,
        warmup_ratio=0.1,
        output=tmp_path_factory.mktemp("runs") / "run",
        quiet=True,
    )


def test_it_holds_every_step(run, examples):
    """Worked by hand: 724 texts, batches of 32, 34.5 steps rounded up, warm-up over 4 of them."""
    trace = read_trace(run.path / FILE)
    assert len(trace) == run.result["steps"] == 35
    assert trace.num_texts.tolist() == [32] * 22 + [20] + [32] * 12
    rates = [(step + 1) / 4 for step in range(4)] + [1 - (step - 4) / 31 for step in range(4, 35)]
    np.testing.assert_allclose(trace.learning_rates, 1e-3 * np.array(rates), rtol=1e-12)
    losses = trace.losses.astype(np.float64)
    assert losses[:23].mean() == pytest.approx(run.history[0]["train_loss"], rel=1e-6)
    assert losses[23:].mean() == pytest.approx(run.history[1]["train_loss"], rel=1e-6)
    assert trace.losses.dtype == np.float32
    with open(examples / "comments_train.csv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    ids = bertwright.load(run.path).tokenize(texts)
    for step, rows in enumerate(training_batches(724, 32, 0, 35)):
        packed = struct.pack(f"<{len(rows)}q", *rows.tolist())
        expected = int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")
        assert int(trace.rows_hashes[step]) == expected
        assert trace.num_tokens[step] == sum(len(ids.ids[ids.starts[row] : ids.starts[row + 1]]) for row in rows)
    assert len(set(trace.texts_hashes.tolist())) == 35
    assert {len(value) for value in trace.hashes.values()} == {64}


def test_a_frozen_encoder_leaves_a_trace_too(examples, tmp_path):
    run = bertwright.train(
        examples / "comments_train.csv",
        model="bert-tiny",
        max_length=16,
        freeze_encoder=True,
        epochs=2,
        output=tmp_path / "run",
        quiet=True,
    )
    trace = read_trace(run.path / FILE)
    assert len(trace) == run.result["steps"]
    assert trace.num_texts.sum() == 2 * run.result["data"]["train_texts"]


def test_one_weight_changes_the_hash_of_the_weights_and_their_order_does_not():
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}
    found = weights_sha256(weights)
    assert found == weights_sha256({"b": weights["b"], "a": weights["a"].clone()})
    changed = weights["a"].clone()
    changed[1, 2] = float(np.nextafter(np.float32(5), np.float32(6)))
    assert found != weights_sha256({**weights, "a": changed})
    assert found != weights_sha256({**weights, "a": weights["a"].reshape(3, 2)})
    assert found != weights_sha256({"a": weights["a"], "c": weights["b"]})


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_the_hash_of_a_text_is_of_its_ids_alone(monkeypatch, at_once):
    """However the texts are cut into portions, and in whatever type the ids are kept."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, 20)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = generator.integers(0, 30_000, starts[-1])
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    found, whole = module._hashes_of_texts(Ragged(ids.astype(np.uint16), starts, 0))
    for i in range(20):
        part = ids[starts[i] : starts[i + 1]].astype("<i4").tobytes()
        assert int(found[i]) == int.from_bytes(hashlib.blake2b(part, digest_size=8).digest(), "little")
    again = module._hashes_of_texts(Ragged(ids.astype(np.int32), starts, 0))
    np.testing.assert_array_equal(found, again[0])
    expected = hashlib.sha256(lengths.astype("<i8").tobytes() + ids.astype("<i4").tobytes()).hexdigest()
    assert whole == again[1] == expected
