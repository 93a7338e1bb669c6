"""Batches cut out on the device are those that the CPU makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data.batches import batch_of
from bertwright.data.ragged import Ragged
from bertwright.data.resident import HostTexts, ResidentTexts, StaticShape, texts_on

CPU = torch.device("cpu")


def ragged_of(lengths, dtype=np.int32) -> Ragged:
    ids = np.arange(1, sum(lengths) + 1).astype(dtype)
    return Ragged(ids, np.concatenate([[0], np.cumsum(lengths)]), 0)


@settings(max_examples=60)
@given(data=st.data(), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_it_makes_the_same_batch(data, lengths):
    ragged = ragged_of(lengths)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=20)))
    found, expected = ResidentTexts(ragged, CPU).batch(rows), batch_of(ragged, rows)
    for name in ("token_ids", "positions", "seq_starts"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        assert torch.equal(one, other), name
    assert (found.max_len, found.num_tokens, found.num_fillers) == (expected.max_len, expected.num_tokens, 0)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), missing=st.integers(0, 5), spare=st.integers(0, 20)
)
def test_fillers_take_the_place_of_missing_rows_and_tokens(lengths, missing, spare):
    ragged, rows = ragged_of(lengths), np.arange(len(lengths))
    spare += missing + 8
    capacity = sum(lengths) + spare
    static = StaticShape(len(lengths) + missing, capacity)
    found, expected = ResidentTexts(ragged, CPU).batch(rows, static), batch_of(ragged, rows)
    assert found.token_ids.shape == found.positions.shape == (capacity,)
    assert torch.equal(found.token_ids[:-spare], expected.token_ids)
    assert torch.equal(found.positions[:-spare], expected.positions)
    assert not found.token_ids[-spare:].any()
    assert not found.positions[-spare:].any()
    assert found.seq_starts.dtype == expected.seq_starts.dtype
    assert found.seq_starts.shape == (static.num_rows + 9,)
    assert found.seq_starts[: len(lengths) + 1].tolist() == expected.seq_starts.tolist()
    assert int(found.seq_starts[-1]) == capacity
    fillers = found.seq_starts.diff()[len(lengths) :]
    assert int(fillers.min()) > 0
    assert int(fillers.max() - fillers.min()) <= 1
    assert (found.num_texts, found.num_fillers, found.num_tokens) == (len(lengths), missing + 8, sum(lengths))


@pytest.mark.parametrize("static", [StaticShape(2, 12), StaticShape(3, 13), StaticShape(1, 40)])
def test_a_static_shape_without_room_for_fillers_is_refused(static):
    with pytest.raises(ValueError, match="do not fit"):
        ResidentTexts(ragged_of([3, 2]), CPU).batch(np.arange(2), static)


def test_the_static_shape_of_a_training_takes_all_its_batches():
    ragged = ragged_of([3, 2, 9, 4, 1])
    batches = [np.array([0, 1]), np.array([2, 3]), np.array([4])]
    static = StaticShape.of(2, [(len(rows), int(ragged.lengths[rows].sum())) for rows in batches])
    found = [ResidentTexts(ragged, CPU).batch(rows, static) for rows in batches]
    assert len({(batch.token_ids.shape, batch.seq_starts.shape, batch.max_len) for batch in found}) == 1


def test_small_ids_are_taken_too():
    rows = np.array([2, 0])
    assert torch.equal(
        ResidentTexts(ragged_of([3, 2, 4], np.uint16), CPU).batch(rows).token_ids,
        batch_of(ragged_of([3, 2, 4]), rows).token_ids,
    )


def test_a_cpu_takes_texts_from_its_own_memory():
    texts = texts_on(ragged_of([3, 2]), CPU)
    assert isinstance(texts, HostTexts)
    assert texts.batch(np.array([1])).num_tokens == 2
    with pytest.raises(ValueError, match="no static shapes on a CPU"):
        texts.batch(np.array([1]), StaticShape(1, 10))
