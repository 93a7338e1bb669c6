from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from bertwright.data.reading import LabelledTexts
from bertwright.data.texts import Texts
from bertwright.shipping.shards import shards_of


def piece(strings: list[str], first: int, pairs: bool = False) -> LabelledTexts:
    rows = np.arange(first, first + len(strings))
    groups = {"g": pa.chunked_array([pa.array(rows * 10)])}
    seconds = Texts.of([string[::-1] for string in strings]) if pairs else None
    return LabelledTexts(Texts.of(strings), None, (), rows, [], [], "", pairs=seconds, groups=groups)


def pieces_of(strings: list[str], size: int, pairs: bool = False) -> list[LabelledTexts]:
    return [piece(strings[start : start + size], start, pairs) for start in range(0, len(strings), size)]


def by_hand(strings: list[str], most_texts: int, most_bytes: int, factor: int = 1) -> list[list[str]]:
    found: list[list[str]] = []
    for string in strings:
        size = factor * len(string.encode())
        room = found and factor * sum(len(one.encode()) for one in found[-1]) + size <= most_bytes
        if not room or len(found[-1]) == most_texts:
            found.append([])
        found[-1].append(string)
    return found


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("most_texts", "most_bytes"), [(1, 100), (7, 10**9), (1000, 40), (5, 60), (3, 1)])
def test_shards_are_cut_by_texts_and_bytes_alone(most_texts, most_bytes, pairs):
    draw = random.Random(most_texts)
    strings = ["é" * draw.choice([0, 1, 3, 9, 40]) + str(i) for i in range(90)]
    expected = by_hand(strings, most_texts, most_bytes, 2 if pairs else 1)
    for size in (1, 4, 7, 90):
        shards = list(shards_of(pieces_of(strings, size, pairs), most_texts, most_bytes))
        assert [shard.texts.texts.to_pylist() for shard in shards] == expected
        assert [shard.number for shard in shards] == list(range(len(shards)))
        assert np.concatenate([shard.texts.rows for shard in shards]).tolist() == list(range(90))
        for shard in shards:
            assert shard.first == shard.texts.rows[0]
            assert shard.texts.groups["g"].to_pylist() == (shard.texts.rows * 10).tolist()
            if pairs:
                assert shard.texts.pairs.to_pylist() == [text[::-1] for text in shard.texts.texts]


def test_nothing_gives_no_shard():
    assert list(shards_of([], 5)) == []
    assert list(shards_of([piece([], 0)], 5)) == []


def test_the_byte_lengths_of_texts_do_not_depend_on_how_they_lie():
    strings = ["", "a", "éé", "日本"]
    assert Texts.of(strings).num_bytes().tolist() == [0, 1, 4, 6]
    assert Texts.of(strings)[1:3].num_bytes().tolist() == [1, 4]
    assert Texts.of(strings).take([3, 0, 3]).num_bytes().tolist() == [6, 0, 6]
    assert Texts.of([]).num_bytes().tolist() == []
