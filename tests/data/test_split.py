"""Splits: disjoint, complete, stratified, repeatable; and texts in two sets."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.config.parts import DataSettings
from bertwright.data.columns import LabelledTexts, read_labelled
from bertwright.data.ragged import Ragged, starts_of
from bertwright.data.split import alike_texts, count_shared_texts, same_token_ids, split_validation
from bertwright.data.texts import Texts
from bertwright.errors import DataError


def labelled(label_ids, texts=None):
    texts = [f"text {row}" for row in range(len(label_ids))] if texts is None else texts
    ids = None if label_ids is None else np.array(label_ids, np.int64)
    return LabelledTexts(Texts.of(texts), ids, ("a", "b", "c"), np.arange(len(texts)), [], [], "")


def unlabelled(texts):
    return labelled(None, texts)


@settings(max_examples=150)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0, 0.99), st.integers(0, 2**40))
def test_split_is_complete_disjoint_stratified_and_repeatable(ids, share, seed):
    data = labelled(ids)
    try:
        train, validation = split_validation(data, share, seed)
    except DataError:
        assert all(min(ids.count(number) * share + 0.5, ids.count(number)) < 1 + 1e-9 for number in set(ids))
        return
    assert sorted([*train, *validation]) == list(range(len(ids)))
    assert train.tolist() == sorted(train)
    assert validation.tolist() == sorted(validation)
    for number in set(ids):
        held_out = int((data.label_ids[validation] == number).sum())
        count = ids.count(number)
        assert held_out < count
        assert abs(held_out - count * share) <= 0.5 + 1e-9 or held_out == count - 1
    again = split_validation(data, share, seed)
    assert np.array_equal(train, again[0])
    assert np.array_equal(validation, again[1])


def test_seed_changes_the_split_and_texts_do_not():
    ids = [0, 1] * 100
    first, other = split_validation(labelled(ids), 0.2, 0)[1], split_validation(labelled(ids), 0.2, 1)[1]
    assert len(first) == len(other) == 40
    assert not np.array_equal(first, other)
    assert np.array_equal(first, split_validation(labelled(ids, ["x"] * 200), 0.2, 0)[1])
    assert first.dtype == np.int64


def test_split_of_a_seed_stays_the_same_over_versions():
    assert split_validation(labelled([0, 1] * 10), 0.2, 0)[1].tolist() == [5, 6, 13, 14]


def test_share_of_nothing_and_of_too_little():
    train, validation = split_validation(labelled([0, 1]), 0.0, 0)
    assert train.tolist() == [0, 1]
    assert len(validation) == 0
    with pytest.raises(DataError, match=r"--validation-share 0\.2 of 4 texts in 2 classes holds out none"):
        split_validation(labelled([0, 0, 1, 1]), 0.2, 0)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(DataError, match="--validation-share: found"):
            split_validation(labelled([0, 1]), share, 0)


def test_texts_without_labels_are_one_class():
    train, validation = split_validation(unlabelled(["x"] * 10), 0.3, 0)
    assert (len(train), len(validation)) == (7, 3)


def test_shared_texts():
    first = unlabelled(["a", " b\n", "c", "c", "É"])
    second = unlabelled(["b", "A", "c ", "d", "c", "", "É"])
    assert count_shared_texts(first, second) == 4
    assert count_shared_texts(second, first) == 4
    assert count_shared_texts(first, unlabelled([])) == 0
    assert count_shared_texts(unlabelled([]), first) == 0


needs_data = pytest.mark.skipif(
    "BERTWRIGHT_DATA" not in os.environ, reason="BERTWRIGHT_DATA does not name the folder of real data"
)


@needs_data
def test_real_test_set_is_disjoint_from_its_training_set():
    folder = Path(os.environ["BERTWRIGHT_DATA"]) / "toxic_comments"
    train = read_labelled([folder / "train_1.csv", folder / "train_2.csv"], DataSettings())
    test = read_labelled(folder / "test_balanced.csv", DataSettings(), train.labels)
    assert count_shared_texts(train, test) == 0
    assert count_shared_texts(train, train) == len(train)


def test_texts_that_differ_in_case_accents_and_what_is_not_seen_are_alike():
    text = "The café, said  Ana, is\u00a0fine"
    same = [
        text.upper(),
        " the cafe, said Ana, is fine\n",
        "The cafe\u0301, said\tAna,\u2028is fine",
        "The ca\u200bfé, \ufeffsaid Ana, is fi\u00adne\x00",
        "The café, said Ana, is \ufb01ne",
    ]
    others = ["The café said Ana is fine", "The café, said Ana, is fine.", "Thecafé, said Ana, is fine", "", "fine"]
    second = unlabelled([*others, *same, text])
    assert alike_texts(unlabelled(["x", text]), second).tolist() == [False] * len(others) + [True] * (len(same) + 1)
    assert alike_texts(second, unlabelled([text])).tolist() == [True]
    assert alike_texts(unlabelled([]), second).tolist() == [False] * len(second)
    pairs = [replace(unlabelled(["a", "b"]), pairs=Texts.of(second)) for second in (["C", "d"], ["c", "x"])]
    assert alike_texts(*pairs).tolist() == [True, False]


def test_texts_of_the_same_token_ids_are_found_whatever_holds_them():
    def ragged(rows: list[list[int]], dtype: str = "<u2", **more) -> Ragged:
        ids = np.array([i for row in rows for i in row], dtype)
        return Ragged(ids, starts_of(np.array([len(row) for row in rows])), 0, **more)

    first = ragged([[1, 5, 2], [1, 2], [1, 5, 6, 2]])
    second = ragged([[1, 6, 2], [1, 5, 6, 2], [1, 5, 2], [1, 5, 2, 2]], "<i4")
    assert same_token_ids(first, second).tolist() == [False, True, True, False]
    assert same_token_ids(first.take(np.array([2, 1])), second).tolist() == [False, True, False, False]
    windows = ragged([[1, 5, 2], [1, 6, 2], [1, 5, 2]], window_starts=np.array([0, 2, 3]))
    other = ragged([[1, 5, 2], [1, 5, 2], [1, 6, 2]], window_starts=np.array([0, 1, 3]))
    assert same_token_ids(windows, other).tolist() == [True, True]
    view = Ragged(first.ids, starts_of(np.array([4])), 0, places=np.array([5]))
    assert same_token_ids(view, second).tolist() == [False, True, False, False]
    assert same_token_ids(ragged([]), second).tolist() == [False] * 4
