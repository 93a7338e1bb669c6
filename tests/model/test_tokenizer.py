"""Ids equal tokenizers' for any text; cutting equals its truncation."""

from __future__ import annotations

import errno
import itertools
import json
import os
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.errors import CheckpointError, DataError, UserError
from bertwright.model import tokenizer as tokenizer_module
from bertwright.model.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_vocabulary

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.fixture(scope="module")
def ours(minilm_folder) -> Tokenizer:
    return load_tokenizer(minilm_folder)


@pytest.fixture(scope="module")
def theirs(minilm_folder) -> tokenizers.Tokenizer:
    loaded = tokenizers.Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    loaded.no_padding()
    loaded.no_truncation()
    return loaded


def rows(ids: np.ndarray, starts: np.ndarray) -> list[list[int]]:
    return [ids[a:b].tolist() for a, b in itertools.pairwise(starts)]


def test_the_fast_engine_is_used_and_says_why(ours):
    assert ours.engine == "nanotoken"
    assert "probes" in ours.reason


@settings(max_examples=300)
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_ids_equal_tokenizers_for_any_text(ours, theirs, texts):
    ids, starts, _ = ours.encode(texts)
    assert rows(ids, starts) == [encoding.ids for encoding in theirs.encode_batch(texts)]


@settings(max_examples=100)
@given(texts=st.lists(TEXT, min_size=1, max_size=5), max_length=st.integers(3, 12))
def test_cutting_equals_truncation(ours, minilm_folder, texts, max_length):
    reference = tokenizers.Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(max_length)
    ids, starts, num_cut = ours.encode(texts, max_length)
    assert rows(ids, starts) == [encoding.ids for encoding in reference.encode_batch(texts)]
    whole, whole_starts, _ = ours.encode(texts)
    assert num_cut == int((np.diff(whole_starts) > max_length).sum())
    assert ids.dtype == np.int32
    assert starts.dtype == np.int64
    assert len(whole) >= len(ids)


@settings(max_examples=300)
@given(parts=st.lists(st.lists(TEXT, max_size=4), min_size=1, max_size=3))
def test_ids_of_arrow_texts_equal_tokenizers_for_any_text(ours, theirs, parts):
    texts = pa.chunked_array([pa.array(part, pa.large_string()) for part in parts], pa.large_string())
    ids, starts, _ = ours.encode(texts)
    assert rows(ids, starts) == [encoding.ids for encoding in theirs.encode_batch(texts.to_pylist())]
    assert ids.dtype == np.int32
    assert starts.dtype == np.int64


AWKWARD = ["", "", "a", "\xff", "ÿ\u00ff end", "\x00", "\n", "a\nb\r\nc", "\ufffd", "\U0010ffff", "", "last", ""]


@pytest.mark.parametrize("engine", ["nanotoken", "tokenizers"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("in_memory", [True, False])
def test_empty_texts_and_what_might_separate_texts_shift_no_ids(ours, theirs, monkeypatch, engine, kind, in_memory):
    if engine == "tokenizers":
        monkeypatch.setattr(ours, "_fast", None)
    if not in_memory:
        monkeypatch.delattr(tokenizer_module.os, "memfd_create")
    expected = [encoding.ids for encoding in theirs.encode_batch(AWKWARD)]
    array = pa.array(["left out", *AWKWARD, "left out"], kind)[1:-1]
    assert rows(*ours.encode(array)[:2]) == expected
    assert rows(*ours.encode(pa.chunked_array([array[:4], array[4:4], array[4:]]))[:2]) == expected
    assert rows(*ours.encode(array[:1])[:2]) == expected[:1]
    assert ours.encode(array[:0])[1].tolist() == [0]


def test_no_file_stays_behind_where_there_are_no_files_in_memory(ours, monkeypatch, tmp_path):
    monkeypatch.delattr(tokenizer_module.os, "memfd_create")
    monkeypatch.setattr(tokenizer_module.tempfile, "tempdir", str(tmp_path))
    assert len(ours.encode(pa.array(["a text", "another"]))[1]) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["nanotoken", "tokenizers"])
def test_arrow_texts_that_are_none_are_one_clear_error(ours, monkeypatch, engine):
    if engine == "tokenizers":
        monkeypatch.setattr(ours, "_fast", None)
    with pytest.raises(UserError, match="text 3: found null"):
        ours.encode(pa.chunked_array([pa.array(["a", "b"]), pa.array([None, "c"])]))
    offsets, content = pa.array([0, 1, 3], pa.int64()).buffers()[1], pa.py_buffer(b"a\xff\xfe")
    broken = pa.LargeStringArray.from_buffers(2, offsets, content)
    with pytest.raises(UserError, match=r"text 2: not UTF-8 \(byte 0xff\)"):
        ours.encode(broken)


@settings(max_examples=200)
@given(lengths=st.lists(st.integers(2, 9), max_size=8), max_length=st.integers(3, 9))
def test_cutting_keeps_the_beginning_and_the_last_id(lengths, max_length):
    texts = [[101, *range(200 + 10 * i, 200 + 10 * i + length - 2), 102] for i, length in enumerate(lengths)]
    ids = np.array([i for text in texts for i in text], np.uint16)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    kept, new_starts, num_cut = tokenizer_module.cut(ids, starts, max_length, 102)
    assert rows(kept, new_starts) == [t if len(t) <= max_length else [*t[: max_length - 1], 102] for t in texts]
    assert kept.dtype == np.uint16
    assert num_cut == sum(length > max_length for length in lengths)


@settings(max_examples=300)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), max_length=st.integers(3, 24))
def test_pairs_are_joined_and_cut_as_by_tokenizers(ours, minilm_folder, pairs, max_length):
    reference = tokenizers.Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    reference.no_padding()
    reference.no_truncation()
    whole = reference.encode_batch(pairs)
    reference.enable_truncation(max_length, strategy="longest_first")
    expected = reference.encode_batch(pairs)
    first, second = (ours.encode([pair[i] for pair in pairs])[:2] for i in (0, 1))
    ids, starts, second_starts, num_cut = tokenizer_module.pair_up(first, second, max_length)
    assert rows(ids, starts) == [encoding.ids for encoding in expected]
    segments = [
        [int(i >= second_start) for i in range(length)]
        for second_start, length in zip(second_starts, np.diff(starts), strict=True)
    ]
    assert segments == [encoding.type_ids for encoding in expected]
    assert num_cut == sum(len(encoding.ids) > max_length for encoding in whole)
    assert (ids.dtype, starts.dtype, second_starts.dtype) == (np.int32, np.int64, np.int32)


@settings(max_examples=300)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6),
    max_length=st.integers(3, 20),
)
def test_pairs_of_any_two_lengths_are_cut_as_by_tokenizers(ours, minilm_folder, lengths, max_length):
    """Lengths close to each other and to the limit, which texts drawn at random seldom have."""
    reference = tokenizers.Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(max_length, strategy="longest_first")
    pairs = [("tree " * a, "house " * b) for a, b in lengths]
    first, second = (ours.encode([pair[i] for pair in pairs])[:2] for i in (0, 1))
    ids, starts, _, _ = tokenizer_module.pair_up(first, second, max_length)
    assert rows(ids, starts) == [encoding.ids for encoding in reference.encode_batch(pairs)]


def test_a_tokenizer_that_joins_pairs_otherwise_is_refused(ours):
    ours.check_pairs()
    values = json.loads(ours.json_text)
    values["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 0
    with pytest.raises(CheckpointError, match=r"segments \[0, 0, 0, 1, 0\] of a pair of texts, expected \[CLS\] a"):
        Tokenizer(json.dumps(values)).check_pairs()


def test_the_smallest_dtype_that_holds_every_id_is_chosen_and_is_little_endian(ours):
    assert ours.id_dtype.str == "<u2"
    words = "".join(f"w{i}\n" for i in range(65_532))
    assert tokenizer_from_vocabulary("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + words, {}, "v").id_dtype.str == "<i4"


def test_both_engines_cut_alike(ours, monkeypatch):
    texts = ["short", "a rather longer text, with punctuation!", "", "naïve café " * 20]
    fast = ours.encode(texts, 8)
    monkeypatch.setattr(ours, "_fast", None)
    slow = ours.encode(texts, 8)
    assert rows(*fast[:2]) == rows(*slow[:2])
    assert fast[2] == slow[2] == 2


def test_other_ids_on_a_probe_send_everything_to_tokenizers(ours, monkeypatch):
    class Wrong:
        @classmethod
        def from_json(cls, text):
            return cls()

        def encode_batch(self, texts):
            return [np.array([101, 102]) for _ in texts]

    monkeypatch.setattr(tokenizer_module.nanotoken, "Tokenizer", Wrong)
    fallen_back = Tokenizer(ours.json_text)
    assert fallen_back.engine == "tokenizers"
    assert "other ids" in fallen_back.reason
    ids, starts, _ = fallen_back.encode(["hello there"])
    assert rows(ids, starts) == [[101, 7592, 2045, 102]]


def test_a_refusal_of_the_fast_engine_sends_everything_to_tokenizers(ours, monkeypatch):
    class Refusing:
        @classmethod
        def from_json(cls, text):
            raise ValueError("not WordPiece")

    monkeypatch.setattr(tokenizer_module.nanotoken, "Tokenizer", Refusing)
    assert "not WordPiece" in Tokenizer(ours.json_text).reason


def test_a_vocabulary_alone_makes_the_same_tokenizer(ours, minilm_folder):
    built = tokenizer_from_vocabulary((minilm_folder / "vocab.txt").read_text(encoding="utf-8"), {}, "vocab.txt")
    texts = list(tokenizer_module.PROBES)
    assert rows(*built.encode(texts)[:2]) == rows(*ours.encode(texts)[:2])
    assert built.engine == "nanotoken"


def test_the_case_of_a_vocabulary_is_kept_where_its_config_says_so(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nHello\nhello\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load_tokenizer(tmp_path).encode(["Hello hello"])[0].tolist() == [2, 5, 6, 3]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert load_tokenizer(tmp_path).encode(["Hello hello"])[0].tolist() == [2, 6, 6, 3]


@pytest.mark.parametrize("engine", ["nanotoken", "tokenizers"])
def test_lone_surrogates_are_one_clear_error(ours, monkeypatch, engine):
    if engine == "tokenizers":
        monkeypatch.setattr(ours, "_fast", None)
    with pytest.raises(UserError, match="text 2: not valid Unicode"):
        ours.encode(["fine", "broken \ud800 text"])


def test_what_is_no_text_is_one_clear_error(ours):
    with pytest.raises(UserError, match="text 1: found int"):
        ours.encode([3])


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"model": {"type": "Nonsense"}}'])
def test_broken_tokenizer_files_are_one_clear_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_without_special_tokens_is_refused():
    with pytest.raises(CheckpointError, match=r"no \[CLS\], \[SEP\]"):
        tokenizer_from_vocabulary("[PAD]\n[UNK]\n[MASK]\na\n", {}, "vocab.txt")


def test_words_are_forgotten_after_many_texts(ours, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "_FORGOTTEN_AFTER", 5)
    forgotten = []
    monkeypatch.setattr(ours, "_fast", SimpleNamespace(clear_cache=lambda: forgotten.append(ours._num_read)))
    monkeypatch.setattr(ours, "_num_read", 0)
    for num_texts in (2, 2, 3, 4, 1, 0):
        ours.note_read(num_texts)
    assert forgotten == [7, 5]


def test_no_texts_are_no_ids(ours):
    ids, starts, num_cut = ours.encode([])
    assert len(ids) == 0
    assert starts.tolist() == [0]
    assert num_cut == 0


def test_line_separators_that_are_tokens_do_not_shift_the_ids():
    vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\u2028\nhello\n"
    assert tokenizer_from_vocabulary(vocabulary, {}, "vocab.txt").encode(["hello"])[0].tolist() == [2, 6, 3]
    windows = vocabulary.replace("\n", "\r\n")
    assert tokenizer_from_vocabulary(windows, {}, "vocab.txt").encode(["hello"])[0].tolist() == [2, 6, 3]


def test_accents_and_chinese_characters_follow_the_config():
    vocabulary = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "café", "中", "文", "中文"])

    def ids(text: str, **config: bool) -> list[int]:
        return tokenizer_from_vocabulary(vocabulary, config, "vocab.txt").encode([text])[0].tolist()[1:-1]

    assert ids("café") == [5]
    assert ids("café", strip_accents=False) == [6]
    assert ids("中文") == [7, 8]
    assert ids("中文", tokenize_chinese_chars=False) == [9]


@pytest.mark.parametrize(("in_memory", "words"), [(True, "^memory: .*ulimit -f"), (False, "^{folder}: .*TMPDIR")])
def test_no_room_for_texts_says_where(tmp_path, monkeypatch, in_memory, words):
    if not in_memory:
        monkeypatch.delattr(tokenizer_module.os, "memfd_create", raising=False)
        monkeypatch.setattr(tokenizer_module.tempfile, "tempdir", str(tmp_path))
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tokenizer_module.os, "pwrite", full)
    with pytest.raises(DataError, match=words.format(folder=tmp_path)), tokenizer_module._TextsFile() as file:
        file.fill([memoryview(b"text")])
    assert not list(tmp_path.iterdir())
