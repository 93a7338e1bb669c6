"""Ragged arrays: the same ids however the texts come, and parts of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bertwright.data import ragged as ragged_module
from bertwright.data.ragged import Ragged, chunks_of, starts_of, tokenize_texts
from bertwright.model.tokenizer import Tokenizer, load_tokenizer
from bertwright.progress import Reporter

TEXTS = ["", "one", "two words", "three words here", "naïve café " * 30, "", "last"]
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def tokenizer(minilm_folder) -> Tokenizer:
    return load_tokenizer(minilm_folder)


@pytest.mark.parametrize("chunk_bytes", [1, 12, 1 << 20])
def test_chunks_are_all_texts_in_order(monkeypatch, chunk_bytes):
    monkeypatch.setattr(ragged_module, "_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(ragged_module, "_CHUNK_TEXTS", 2)
    array = pa.array(["x", *TEXTS], pa.string())[1:]
    for texts in (TEXTS, array, pa.chunked_array([array[:2], array[2:2], array[2:]])):
        parts = list(chunks_of(texts))
        assert [text for part in parts for text in getattr(part, "to_pylist", lambda part=part: part)()] == TEXTS
        assert all(len(part) for part in parts)
    assert list(chunks_of([])) == list(chunks_of(array[:0])) == []


def test_lists_and_arrow_arrays_give_the_same_ids_however_they_are_cut(tokenizer, monkeypatch):
    expected = tokenize_texts(tokenizer, TEXTS, 16, QUIET)
    assert expected.ids.dtype == np.uint16
    assert expected.num_truncated == 1
    assert expected.lengths.max() == 16
    for chunk_bytes in (1, 12, 1 << 20):
        monkeypatch.setattr(ragged_module, "_CHUNK_BYTES", chunk_bytes)
        found = tokenize_texts(tokenizer, pa.array(TEXTS), 16, QUIET)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.starts.tolist() == expected.starts.tolist()
        assert found.num_truncated == 1
    nothing = tokenize_texts(tokenizer, [], 16, QUIET)
    assert len(nothing) == 0
    assert nothing.ids.dtype == np.uint16


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_taking_texts_is_the_same_however_many_are_copied_at_once(monkeypatch, at_once):
    monkeypatch.setattr(ragged_module, "_COPIED_TOKENS", at_once)
    lengths = np.array([3, 2, 9, 4, 2])
    whole = Ragged(np.arange(20, dtype=np.uint16), starts_of(lengths), 2)
    rows = np.array([4, 0, 2, 2, 1])
    taken = whole.take(rows)
    assert taken.ids.tolist() == np.concatenate([np.split(whole.ids, whole.starts[1:-1])[row] for row in rows]).tolist()
    assert taken.lengths.tolist() == lengths[rows].tolist()
    assert taken.ids.dtype == np.uint16
    assert len(whole.take(np.array([], np.int64))) == 0
