"""Near-duplicates: what counts as one, signatures against exact similarity, and what is found against all pairs."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.errors import UserError
from bertwright.evaluation.near_duplicates import (
    NUM_HASHES,
    cleaned_text,
    find_near_duplicates,
    jaccard,
    pieces,
    signatures_of,
)

WORDS = ("the", "a", "big", "small", "red", "green", "house", "dog", "cat", "runs", "sits", "eats", "sleeps", "tree")


def sentences(count, seed=0, length=25):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, length)) for _ in range(count)]


def test_case_and_white_space_do_not_count():
    texts = ["Hello  World, again", "something else here", "hello\nworld, AGAIN ", "x"]
    found = find_near_duplicates(texts)
    assert found.groups.tolist() == [0, -1, 0, -1]
    assert found.similarities[[0, 2]].tolist() == [1, 1]
    assert np.isnan(found.similarities[1])


def test_a_changed_word_is_near_and_another_text_is_not():
    text = sentences(1)[0]
    texts = [text, sentences(1, seed=1)[0], text + " indeed", text.replace("the", "that", 1)]
    found = find_near_duplicates(texts)
    assert found.groups.tolist()[:3] == [0, -1, 0]
    assert found.similarities[2] >= 0.8
    assert found.members()[0].tolist()[:2] == [0, 2]


def test_the_similarity_by_hand():
    assert pieces("abcdef") == {"abcde", "bcdef"}
    assert pieces("abc") == {"abc"}
    assert jaccard("abcdefg", "abcdefx") == pytest.approx(2 / 4)
    assert cleaned_text("  A  b\tC ") == "a b c"
    assert len(cleaned_text("ab " * 4_000)) <= 5_000


def test_signatures_estimate_the_similarity():
    generator = np.random.default_rng(0)
    texts = sentences(60, length=40)
    for text in texts[:40]:
        words = text.split()
        for place in generator.integers(0, len(words), 4):
            words[place] = "otherwise"
        texts.append(" ".join(words))
    signatures = signatures_of(texts)
    assert signatures.shape == (100, NUM_HASHES)
    estimated, exact = [], []
    for one, other in itertools.combinations(range(100), 2):
        estimated.append((signatures[one] == signatures[other]).mean())
        exact.append(jaccard(texts[one], texts[other]))
    errors = np.array(estimated) - np.array(exact)
    assert abs(errors.mean()) < 0.03
    assert errors.std() < 0.06  # sqrt(s (1 - s) / 128) is at most 0.044


@given(st.lists(st.text(max_size=30), max_size=8))
@settings(max_examples=100)
def test_any_text_has_a_signature_that_follows_from_it_alone(texts):
    cleaned = [cleaned_text(text) for text in texts]
    together = signatures_of(cleaned)
    assert together.shape == (len(texts), NUM_HASHES)
    for row, text in enumerate(cleaned):
        assert (signatures_of([text])[0] == together[row]).all()
    assert find_near_duplicates(texts).groups.shape == (len(texts),)


def test_nearly_all_pairs_are_found_and_no_other():
    generator = np.random.default_rng(5)
    texts = sentences(150, length=21)
    for text in list(texts):
        words = text.split()
        words[generator.integers(len(words))] = "changed"
        texts.append(" ".join(words))
    found = find_near_duplicates(texts)
    cleaned = [cleaned_text(text) for text in texts]
    near = [jaccard(cleaned[row], cleaned[row + 150]) >= 0.8 for row in range(150)]
    hits = [found.groups[row] == found.groups[row + 150] >= 0 for row in range(150)]
    assert 50 < sum(near) < 150
    assert not any(hit and not is_near for hit, is_near in zip(hits, near, strict=True))
    assert sum(hits) >= 0.9 * sum(near)


@pytest.mark.parametrize("similarity", [0.01, 0.3, 0.95, 1.0])
def test_any_similarity_can_be_asked_for(similarity):
    text = sentences(1)[0]
    found = find_near_duplicates([text, text.upper(), text + " m"], similarity)
    assert found.groups.tolist() == [0, 0, 0 if similarity < 1 else -1]


def test_a_chain_is_one_group():
    first = sentences(1, length=40)[0]
    second = first + " one more ending here"
    third = second + " and one more again"
    cleaned = [cleaned_text(text) for text in (first, second, third)]
    assert jaccard(cleaned[0], cleaned[2]) < 0.85 <= min(jaccard(*cleaned[:2]), jaccard(*cleaned[1:]))
    assert find_near_duplicates([first, second, third], 0.85).groups.tolist() == [0, 0, 0]


def test_lone_surrogates_and_no_texts_are_no_harm():
    assert find_near_duplicates(["\ud800 abcdef", "\ud800 abcdef"]).groups.tolist() == [0, 0]
    assert find_near_duplicates([]).members() == []


def test_without_datasketch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(UserError, match=r"pip install 'bertwright\[judgement\]'"):
        find_near_duplicates(["a", "b"])
    with pytest.raises(ValueError, match="similarity"):
        find_near_duplicates(["a"], 0)
