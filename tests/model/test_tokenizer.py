"""Ids equal tokenizers' for any text; cutting equals its truncation."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.errors import CheckpointError, UserError
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


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_ids_equal_tokenizers_for_any_text(ours, theirs, texts):
    ids, starts, _ = ours.encode(texts)
    assert rows(ids, starts) == [encoding.ids for encoding in theirs.encode_batch(texts)]


@settings(max_examples=100, deadline=None)
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
