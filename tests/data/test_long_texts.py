"""What is read of long texts: head, head and tail, or windows; and ids that are too many for memory."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data import ragged as ragged_module
from bertwright.data.batches import batch_of
from bertwright.data.ragged import Ragged, check_long_texts, cut_to, head_tokens, starts_of, tokenize_texts
from bertwright.data.resident import ResidentTexts, StaticShape
from bertwright.errors import DataError, UserError
from bertwright.model.tokenizer import Tokenizer, load_tokenizer
from bertwright.progress import Reporter

CPU = torch.device("cpu")
QUIET = Reporter(quiet=True)
CLS, SEP = 101, 102
LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def tokenizer(minilm_folder) -> Tokenizer:
    return load_tokenizer(minilm_folder)


def whole_texts(lengths) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """Texts of [CLS], numbers that occur once, [SEP]: as lists, and end to end."""
    texts = [[CLS, *range(1000 * (i + 1), 1000 * (i + 1) + n - 2), SEP] for i, n in enumerate(lengths)]
    return texts, np.array([token for text in texts for token in text], np.uint16), starts_of(np.array(lengths))


def sequences(ragged: Ragged) -> list[list[int]]:
    return [ragged.gather_sequences(np.array([i]))[0].tolist() for i in range(ragged.num_sequences)]


def windows_by_hand(text: list[int], max_length: int, overlap: int) -> list[list[int]]:
    content, width = text[1:-1], max_length - 2
    windows, first = [], 0
    while True:
        windows.append([CLS, *content[first : first + width], SEP])
        if first + width >= len(content):
            return windows
        first += width - overlap


@settings(max_examples=150)
@given(lengths=LENGTHS, max_length=st.integers(3, 20), at_once=st.sampled_from([1, 30, 1 << 20]))
def test_head_keeps_the_first_tokens(lengths, max_length, at_once):
    texts, ids, starts = whole_texts(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged_module, "_COPIED_TOKENS", at_once)
        found = cut_to(ids, starts, max_length)
    assert sequences(found) == [t if len(t) <= max_length else [*t[: max_length - 1], SEP] for t in texts]
    assert found.num_truncated == sum(len(text) > max_length for text in texts)
    assert found.ids.dtype == np.uint16
    assert found.window_starts is None


@settings(max_examples=150)
@given(lengths=LENGTHS, max_length=st.integers(4, 20), at_once=st.sampled_from([1, 30, 1 << 20]))
def test_head_and_tail_keep_the_ends_in_the_proportion_of_the_paper(lengths, max_length, at_once):
    texts, ids, starts = whole_texts(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged_module, "_COPIED_TOKENS", at_once)
        found = cut_to(ids, starts, max_length, "head+tail")
    head = min(max(1, round((max_length - 2) * 128 / 510)), max_length - 3)
    tail = max_length - 2 - head
    expected = [t if len(t) <= max_length else [*t[: 1 + head], *t[-1 - tail :]] for t in texts]
    assert sequences(found) == expected
    assert found.num_truncated == sum(len(text) > max_length for text in texts)


def test_of_512_tokens_head_and_tail_are_those_of_the_paper():
    assert head_tokens(510) == 128
    assert head_tokens(2) == 1
    assert head_tokens(218) == 55


@settings(max_examples=300)
@given(
    lengths=LENGTHS, max_length=st.integers(3, 20), share=st.floats(0, 0.75), at_once=st.sampled_from([1, 30, 1 << 20])
)
def test_windows_are_those_made_by_hand(lengths, max_length, share, at_once):
    overlap = int((max_length - 2) * share)
    texts, ids, starts = whole_texts(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged_module, "_COPIED_TOKENS", at_once)
        found = cut_to(ids, starts, max_length, "windows", overlap)
    expected = [windows_by_hand(text, max_length, overlap) for text in texts]
    assert sequences(found) == [window for windows in expected for window in windows]
    assert found.window_starts.tolist() == starts_of(np.array([len(windows) for windows in expected])).tolist()
    assert len(found) == len(lengths)
    assert found.lengths.tolist() == [sum(map(len, windows)) for windows in expected]
    assert (found.num_truncated, found.num_sequences) == (0, sum(map(len, expected)))
    assert found.num_in_windows == sum(len(windows) > 1 for windows in expected)


@settings(max_examples=150)
@given(data=st.data(), lengths=LENGTHS, most=st.sampled_from([0, 1 << 30]))
def test_taken_texts_keep_their_windows_and_a_view_is_the_same_as_a_copy(data, lengths, most):
    texts, ids, starts = whole_texts(lengths)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10)), np.int64)
    again = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)) if len(rows) else [], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged_module, "_COPIED_TOKENS", 7)
        whole = cut_to(ids, starts, 9, "windows", 2)
        patch.setattr(ragged_module, "MOST_IDS_IN_MEMORY_BYTES", most)
        taken = whole.take(rows)
        assert (taken.places is None) == (most > 0 or not len(rows))
        assert (taken.ids is whole.ids) == (taken.places is not None)
        for found, wanted in ((taken, rows), (taken.take(again), rows[again])):
            expected = [windows_by_hand(texts[row], 9, 2) for row in wanted]
            assert sequences(found) == [window for windows in expected for window in windows]
            assert np.diff(found.window_starts).tolist() == [len(windows) for windows in expected]
            assert found.lengths.tolist() == whole.lengths[wanted].tolist()
            assert int(found.starts[-1]) == sum(found.lengths)
            pieces = [np.zeros(0, np.uint16), *(piece for _, piece in found.pieces())]
            assert np.concatenate(pieces).tolist() == whole.gather(wanted)[0].tolist()
            if len(wanted):
                chosen = np.arange(len(wanted))
                assert_same_batch(ResidentTexts(found, CPU).batch(chosen), batch_of(whole, wanted))


def assert_same_batch(found, expected) -> None:
    for name in ("token_ids", "positions", "segment_ids", "seq_starts", "text_starts"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other)), name
    assert (found.max_len, found.num_tokens, found.num_texts) == (
        expected.max_len,
        expected.num_tokens,
        expected.num_texts,
    )


def test_a_batch_says_which_windows_are_one_text():
    _, ids, starts = whole_texts([5, 12, 30])
    ragged = cut_to(ids, starts, 12, "windows")
    batch = batch_of(ragged, np.array([2, 0]))
    assert batch.text_starts.tolist() == [0, 3, 4]
    assert batch.seq_starts.diff().tolist() == [12, 12, 10, 5]
    assert batch.positions.tolist() == [*range(12), *range(12), *range(10), *range(5)]
    assert (batch.num_texts, batch.num_sequences, batch.max_len) == (2, 4, 12)
    assert batch_of(ragged, np.array([1, 0])).text_starts is None  # a window each, as without windows
    static = ResidentTexts(ragged, CPU).batch(np.array([2, 0]), StaticShape(4, 256))
    assert_same_batch(static, batch)  # static shapes are left out
    assert static.num_fillers == 0


def test_texts_that_fit_are_not_copied():
    _, ids, starts = whole_texts([5, 12, 30])
    for policy in ("head", "head+tail", "windows"):
        found = cut_to(ids, starts, 30, policy)
        assert found.ids is ids
        assert sequences(found) == sequences(Ragged(ids, starts, 0))
        assert found.num_truncated == found.num_in_windows == 0


@pytest.mark.parametrize("policy", ["head", "head+tail", "windows"])
def test_views_are_cut_too(policy):
    _, ids, starts = whole_texts([5, 12, 30])
    rows = np.array([2, 0, 2])
    copy = Ragged(ids, starts, 0).take(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged_module, "MOST_IDS_IN_MEMORY_BYTES", 0)
        view = Ragged(ids, starts, 0).take(rows)
    for max_length in (10, 30):
        found = cut_to(view.ids, view.starts, max_length, policy, places=view.places)
        assert sequences(found) == sequences(cut_to(copy.ids, copy.starts, max_length, policy))


def test_a_view_without_its_places_is_refused():
    _, ids, _ = whole_texts([5, 12, 30])
    with pytest.raises(ValueError, match="a view needs its places"):
        Ragged(ids, starts_of(np.array([5, 12])), 0)


def test_as_many_windows_as_a_budget_holds_are_spread_over_the_text():
    texts, ids, starts = whole_texts([4, 42, 102, 11])
    whole = cut_to(ids, starts, 12, "windows")  # 1, 4, 10, 1 windows
    found, num_limited = whole.limited(36)
    assert num_limited == 2
    assert np.diff(found.window_starts).tolist() == [1, 3, 3, 1]
    by_hand = [windows_by_hand(text, 12, 0) for text in texts]
    chosen = [(0, 0), (1, 0), (1, 1), (1, 3), (2, 0), (2, 4), (2, 9), (3, 0)]
    assert sequences(found) == [by_hand[text][window] for text, window in chosen]
    assert found.ids is whole.ids
    assert whole.limited(120) == (whole, 0)
    assert np.diff(whole.limited(1)[0].window_starts).tolist() == [1, 1, 1, 1]
    head = cut_to(ids, starts, 12)
    assert head.limited(1) == (head, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, "windows", 8), r"--window-overlap: found 8 tokens, expected at most 7, three quarters of a window of 10"),
        ((3, "head+tail"), "--max-length of 4 or more, found 3"),
        ((12, "head", 2), "--window-overlap is for --long-texts windows, found --long-texts head"),
        ((12, "head+tail", 0, "max"), r"--window-pooling is for --long-texts windows, found --long-texts head\+tail"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        check_long_texts(*arguments)


def test_more_settings_that_do_not_go_together_are_refused(tokenizer):
    with pytest.raises(UserError, match="--window-pooling max needs the logits of every window"):
        check_long_texts(12, "windows", 0, "max", freeze_encoder=True)
    check_long_texts(12, "windows", 7, "max")
    check_long_texts(12, "windows", 0, "mean", freeze_encoder=True)
    for policy in ("windows", "head+tail"):
        with pytest.raises(UserError, match="for single texts, found pairs"):
            tokenize_texts(tokenizer, ["a"], 12, QUIET, pairs=["b"], long_texts=policy)


TEXTS = ["", "one", "two words", "three words here", "naïve café " * 30, "", "w " * 500, "last"]


@pytest.mark.parametrize("policy", ["head", "head+tail", "windows"])
@pytest.mark.parametrize("most", [0, 600, 1 << 28])
def test_texts_become_what_their_whole_ids_are_cut_to_in_memory_and_in_a_file(
    tokenizer, monkeypatch, tmp_path, policy, most
):
    ids, starts, _ = tokenizer.encode(TEXTS)
    expected = cut_to(ids, starts, 16, policy, 3 if policy == "windows" else 0)
    monkeypatch.setattr(ragged_module, "MOST_IDS_IN_MEMORY_BYTES", most)
    monkeypatch.setattr(ragged_module, "_CHUNK_TEXTS", 2)
    monkeypatch.setattr(ragged_module, "_CHUNK_BYTES", 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for texts in (TEXTS, pa.array(TEXTS)):
        found = tokenize_texts(tokenizer, texts, 16, QUIET, long_texts=policy, window_overlap=3 * (policy == "windows"))
        assert isinstance(getattr(found.ids.base, "obj", None), mmap.mmap) == (most < int(found.starts[-1]) * 2)
        assert sequences(found) == sequences(expected)
        assert found.num_truncated == expected.num_truncated
        assert (found.window_starts is None) == (policy != "windows")
        if policy == "windows":
            assert found.window_starts.tolist() == expected.window_starts.tolist()
    assert list(tmp_path.iterdir()) == []  # the file has no name
    empty = tokenize_texts(tokenizer, [], 16, QUIET, long_texts=policy)
    assert (len(empty), empty.num_sequences) == (0, 0)


def test_a_full_disk_is_one_clear_error(tokenizer, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ragged_module, "MOST_IDS_IN_MEMORY_BYTES", 10)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DataError, match=r"cannot hold the token ids \(no space left on device\).*TMPDIR"):
        tokenize_texts(tokenizer, TEXTS, 16, QUIET)


_BOUNDED = """
import resource
import numpy as np
from bertwright.data import ragged as ragged_module
from bertwright.data.ragged import tokenize_texts
from bertwright.model.sources import find_folder
from bertwright.model.tokenizer import load_tokenizer
from bertwright.progress import Reporter
tokenizer = load_tokenizer(find_folder("all-MiniLM-L6-v2")[0])
texts = ["word " * 200] * 2_000
tokenize_texts(tokenizer, texts, 256, Reporter(quiet=True))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
room = used + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
found = tokenize_texts(tokenizer, texts * 25, 1_000_000, Reporter(quiet=True))
assert len(found) == 50_000 and int(found.starts[-1]) == 50_000 * 202
ragged_module.MOST_IDS_IN_MEMORY_BYTES = 1 << 20
taken = found.take(np.tile(np.arange(50_000), 20))  # 404 MB
assert len(taken) == 1_000_000 and int(taken.starts[-1]) == 1_000_000 * 202
assert taken.gather(np.array([999_999]))[0].tolist() == found.gather(np.array([49_999]))[0].tolist()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_taken_for_the_ids_that_there_are_and_once():
    """Where the system promises no more than it has: 50,000 texts of up to a million tokens are no 100 GB."""
    done = subprocess.run([sys.executable, "-c", _BOUNDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
