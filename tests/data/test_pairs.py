"""Pairs of texts on their way into batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from bertwright.data import ragged as ragged_module
from bertwright.data.batches import batch_of
from bertwright.data.ragged import tokenize_texts
from bertwright.data.resident import ResidentTexts, StaticShape
from bertwright.model.tokenizer import Tokenizer, load_tokenizer
from bertwright.progress import Reporter

CPU = torch.device("cpu")
QUIET = Reporter(quiet=True)
TEXTS = ["is it so?", "", "w " * 40, "who", "a b c d e f g h i j k", "same"]
SECOND = ["yes", "", "short", "w " * 30, "a b c d e f g h i j k", "same"]


@pytest.fixture(scope="module")
def tokenizer(minilm_folder) -> Tokenizer:
    return load_tokenizer(minilm_folder)


@pytest.fixture(scope="module")
def expected(tokenizer):
    theirs = type(tokenizer._exact).from_str(tokenizer.json_text)
    theirs.no_padding()
    theirs.enable_truncation(14)
    return theirs.encode_batch(list(zip(TEXTS, SECOND, strict=True)))


@pytest.mark.parametrize("chunk_bytes", [1, 30, 1 << 20])
@pytest.mark.parametrize("chunk_texts", [1, 2, 100])
def test_pairs_come_together_however_the_texts_are_cut(tokenizer, expected, monkeypatch, chunk_bytes, chunk_texts):
    monkeypatch.setattr(ragged_module, "_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(ragged_module, "_CHUNK_TEXTS", chunk_texts)
    cut_up = pa.chunked_array([pa.array(SECOND[:2]), pa.array(SECOND[2:])])
    for texts, pairs in ((TEXTS, SECOND), (pa.array(TEXTS), cut_up), (cut_up.take([0]), pa.array(SECOND[:1]))):
        found = tokenize_texts(tokenizer, texts, 14, QUIET, pairs=pairs)
        if len(found) == 1:
            assert found.second_starts.tolist() == [3]
            continue
        assert [found.gather(np.array([row]))[0].tolist() for row in range(6)] == [e.ids for e in expected]
        assert found.num_truncated == 3
        batch = batch_of(found, np.arange(6))
        assert batch.segment_ids.tolist() == [segment for e in expected for segment in e.type_ids]


def test_taken_and_resident_pairs_keep_their_segments(tokenizer, expected, monkeypatch):
    whole = tokenize_texts(tokenizer, TEXTS, 14, QUIET, pairs=SECOND)
    rows = np.array([4, 0, 4, 2])
    segments = [segment for row in rows for segment in expected[row].type_ids]
    for most in (0, 1 << 20):
        monkeypatch.setattr(ragged_module, "MOST_IDS_IN_MEMORY_BYTES", most)
        taken = whole.take(rows)
        assert (taken.places is not None) == (most == 0)
        for ragged, chosen in ((whole, rows), (taken, np.arange(4))):
            assert batch_of(ragged, chosen).segment_ids.tolist() == segments
            assert ResidentTexts(ragged, CPU).batch(chosen).segment_ids.tolist() == segments
            static = ResidentTexts(ragged, CPU).batch(chosen, StaticShape(5, 256))
            assert static.segment_ids.tolist() == segments + [0] * (256 - len(segments))


def test_lists_of_different_lengths_are_refused(tokenizer):
    with pytest.raises(ValueError, match="2 first texts, but 1 second ones"):
        tokenize_texts(tokenizer, ["a", "b"], 14, QUIET, pairs=["c"])


def test_no_pairs_are_no_sequences(tokenizer):
    empty = tokenize_texts(tokenizer, [], 14, QUIET, pairs=[])
    assert len(empty) == 0
    assert empty.second_starts.tolist() == []
