"""Corpora: what a document is, the cache, held-out documents, sequences without padding; vocabularies."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from bertwright.data.corpus import corpus_of, read_documents
from bertwright.data.texts import Texts
from bertwright.data.tokenize import tokenize
from bertwright.data.vocabulary import learn_vocabulary, vocabulary_of
from bertwright.errors import DataError
from bertwright.model.tokenizer import load_tokenizer, tokenizer_from_vocabulary
from bertwright.progress import Reporter

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "one", "two", "three"]
TOKENIZER = tokenizer_from_vocabulary("\n".join(WORDS) + "\n", {}, "test")
QUIET = Reporter(quiet=True)


def documents(path, how="auto"):
    return read_documents([str(path)], None, how, "skip").texts.to_pylist()


def test_a_line_is_a_document_and_blocks_where_blank_lines_stand(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo a\nthree\n")
    assert documents(path) == ["one", "two a", "three"]
    blocks = tmp_path / "blocks.txt"
    blocks.write_text("one\ntwo\n\n \n\nthree\r\na\r\n\r\nb\n")
    assert documents(blocks) == ["one\ntwo", "three\na", "b"]
    assert documents(blocks, "lines") == ["one", "two", "three", "a", "b"]
    stray = tmp_path / "stray.txt"
    stray.write_text("one\n" * 500 + "\n" + "two\n" * 500)
    assert len(documents(stray)) == 1000


def test_blocks_are_the_same_however_the_file_is_cut_into_parts(tmp_path, monkeypatch):
    path = tmp_path / "blocks.txt"
    path.write_text("\n\n".join(f"a b {'c ' * (i % 7)}\nd{i}" for i in range(300)))
    expected = documents(path)
    monkeypatch.setattr("bertwright.data.text_stream.BLOCK_BYTES", 64)
    assert documents(path) == expected
    assert len(expected) == 300


def test_all_formats_are_read_and_rows_without_a_text_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("one", "", "two")))
    pa.parquet.write_table(pa.table({"body": ["three", None, "a"], "id": [1, 2, 3]}), tmp_path / "b.parquet")
    read = read_documents([str(tmp_path / "a.jsonl")], None, "auto", "skip")
    assert read.texts.to_pylist() == ["one", "two"]
    assert len(read.bad_rows) == 1
    assert read_documents([str(tmp_path / "b.parquet")], "body", "auto", "skip").texts.to_pylist() == ["three", "a"]
    with pytest.raises(DataError, match="line 2: the text is empty"):
        read_documents([str(tmp_path / "a.jsonl")], None, "auto", "error")


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntw\xff\nthree\n")
    assert documents(tmp_path / "a.txt") == ["one", "three"]
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_documents([str(tmp_path / "a.txt")], None, "auto", "error")


def test_a_corpus_is_tokenised_once(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one two\nthree a b\n")
    first = corpus_of([str(tmp_path / "a.txt")], TOKENIZER, "test", tmp_path / "cache", QUIET)
    assert (first.num_documents, first.num_tokens) == (2, 9)
    monkeypatch.setattr("bertwright.data.corpus.write_token_cache", None)
    again = corpus_of([str(tmp_path / "a.txt")], TOKENIZER, "test", tmp_path / "cache", QUIET)
    assert np.array_equal(again.tokens.ids, first.tokens.ids)
    assert any("earlier run" in note for note in again.notes)
    (tmp_path / "a.txt").write_text("one two\nthree a c\n")
    with pytest.raises(TypeError):  # another corpus would be tokenised
        corpus_of([str(tmp_path / "a.txt")], TOKENIZER, "test", tmp_path / "cache", QUIET)


def test_sequences_never_cross_documents_and_lose_nothing(tmp_path):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("abcdefgh"), generator.integers(1, 60))) for _ in range(40)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    corpus = corpus_of([str(tmp_path / "a.txt")], TOKENIZER, "test", tmp_path / "cache", QUIET)
    cut = corpus.sequences(np.arange(40), TOKENIZER, 16, "test")
    assert cut.lengths.max() <= 16
    rebuilt: list[list[int]] = []
    whole = [corpus.tokens.ids[a + 1 : b - 1].tolist() for a, b in zip(corpus.tokens.starts, corpus.tokens.starts[1:])]  # noqa: B905
    for row in range(len(cut)):
        ids, _ = cut.gather(np.array([row]))
        assert (ids[0], ids[-1]) == (2, 3)
        rebuilt.append(ids[1:-1].tolist())
    assert list(itertools.chain(*rebuilt)) == list(itertools.chain(*whole))


def test_held_out_documents_are_a_share_and_the_same_each_time(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"one two {'a' * 1}" for _ in range(200)))
    corpus = corpus_of([str(tmp_path / "a.txt")], TOKENIZER, "test", tmp_path / "cache", QUIET)
    learnt, held = corpus.split(0.1, 10**9, seed=3)
    assert len(held) == 20
    assert sorted([*learnt.tolist(), *held.tolist()]) == list(range(200))
    assert np.array_equal(corpus.split(0.1, 10**9, seed=3)[1], held)
    assert len(corpus.split(0.1, 50, seed=3)[1]) == 10  # of 5 tokens each
    assert len(corpus.split(0.0, 50, seed=3)[1]) == 0
    (tmp_path / "b.txt").write_text("one\n")
    single = corpus_of([str(tmp_path / "b.txt")], TOKENIZER, "test", tmp_path / "cache", QUIET)
    with pytest.raises(DataError, match="found 1 documents, expected at least 2"):
        single.split(0.1, 50, seed=3)


def test_a_folder_of_token_ids_is_taken_in_place_of_files(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    TOKENIZER.save(model)
    (model / "config.json").write_text("{}")
    (tmp_path / "a.txt").write_text("one two\nthree a b c d e f g h\n")
    tokenize(tmp_path / "a.txt", tmp_path / "ids", model=str(model), max_length=1_000, quiet=True)
    corpus = corpus_of([str(tmp_path / "ids")], TOKENIZER, "test", tmp_path / "cache", QUIET)
    assert corpus.num_documents == 2
    tokenize(tmp_path / "a.txt", tmp_path / "short", model=str(model), max_length=6, quiet=True)
    cut = corpus_of([str(tmp_path / "short")], TOKENIZER, "test", tmp_path / "cache", QUIET)
    with pytest.raises(DataError, match="expected whole ones"):
        cut.sequences(np.arange(2), TOKENIZER, 16, "test")


def test_a_vocabulary_is_learnt_and_used(tmp_path):
    words = ["playing", "played", "plays", "walking", "walked", "walks"] * 30
    tokens = learn_vocabulary(Texts.of(words), 60, False, QUIET)
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(tokens) <= 60
    assert any(token.startswith("##") for token in tokens)
    (tmp_path / "a.txt").write_text("\n".join(words))
    folder = vocabulary_of([str(tmp_path / "a.txt")], 110, False, tmp_path / "cache", QUIET)
    assert folder == vocabulary_of([str(tmp_path / "a.txt")], 110, False, tmp_path / "cache", QUIET)
    loaded = load_tokenizer(folder)
    ids, _, _ = loaded.encode(["Playing walks"])
    assert 1 not in ids.tolist()  # no unknown word
