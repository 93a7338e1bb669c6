"""Packing loses nothing, keeps to its budget, and depends on the seed alone."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertwright.data.batches import (
    batch_of,
    epoch_order,
    steps_per_epoch,
    training_batches,
)
from bertwright.data.packing import batches_by_length, padded_batches, split_by_budget
from bertwright.data.ragged import Ragged
from bertwright.model.batch import pack

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40).map(np.array)


def ragged_of(lengths: np.ndarray) -> Ragged:
    ids = np.random.default_rng(0).integers(0, 1000, lengths.sum()).astype(np.int32)
    return Ragged(ids, np.concatenate([[0], np.cumsum(lengths)]), 0)


@given(lengths=LENGTHS, budget=st.integers(1, 100))
def test_parts_hold_every_text_once_and_keep_to_the_budget(lengths, budget):
    parts = split_by_budget(lengths, budget)
    assert np.concatenate([np.arange(len(lengths))[part] for part in parts]).tolist() == list(range(len(lengths)))
    for part in parts:
        held = lengths[part]
        assert held.sum() <= budget or len(held) == 1
    for one, following in itertools.pairwise(parts):  # each is as long as can be
        assert lengths[one].sum() + lengths[following.start] > budget


@given(lengths=LENGTHS, budget=st.integers(1, 100))
def test_scoring_batches_are_longest_first(lengths, budget):
    batches = batches_by_length(lengths, budget)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()


@given(lengths=LENGTHS, seed=st.integers(0, 5))
def test_a_batch_of_rows_is_those_rows_packed(lengths, seed):
    ragged = ragged_of(lengths)
    rows = np.random.default_rng(seed).permutation(len(lengths))[: 1 + len(lengths) // 2]
    ours = batch_of(ragged, rows)
    expected = pack([ragged.ids[ragged.starts[row] : ragged.starts[row + 1]] for row in rows])
    assert torch.equal(ours.token_ids, expected.token_ids)
    assert torch.equal(ours.positions, expected.positions)
    assert torch.equal(ours.seq_starts, expected.seq_starts)
    assert (ours.max_len, ours.num_tokens) == (expected.max_len, expected.num_tokens)
    taken = ragged.take(rows)
    assert torch.equal(batch_of(taken, np.arange(len(rows))).token_ids, expected.token_ids)


def test_positions_count_from_the_start_of_each_text():
    batch = pack([np.array([5, 6, 7]), np.array([8]), np.array([9, 10])])
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.seq_starts.tolist() == [0, 3, 4, 6]
    assert batch.num_sequences == 3
    assert batch.max_len == 3
    assert batch.num_tokens == 6


def test_every_epoch_holds_every_text_once_in_another_order():
    steps = list(training_batches(10, 4, seed=3, num_steps=7))
    assert [len(rows) for rows in steps] == [4, 4, 2, 4, 4, 2, 4]
    first, second = np.concatenate(steps[:3]), np.concatenate(steps[3:6])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert first.tolist() == epoch_order(10, 3, 0).tolist()
    assert steps_per_epoch(10, 4) == 3


def test_the_order_follows_from_the_seed():
    assert epoch_order(50, 1, 0).tolist() == epoch_order(50, 1, 0).tolist()
    assert epoch_order(50, 1, 0).tolist() != epoch_order(50, 2, 0).tolist()


@given(lengths=LENGTHS, budget=st.integers(1, 100))
def test_padded_batches_keep_to_the_budget_and_hold_little_padding(lengths, budget):
    batches = padded_batches(lengths, budget)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()
    for rows in batches:
        longest = lengths[rows].max()
        assert len(rows) == 1 or len(rows) * longest <= budget
        assert len(rows) <= 4 or lengths[rows].min() >= 0.75 * longest
