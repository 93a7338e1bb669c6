"""Folders of token ids of pairs: what is computed from them is what the file gives, for their length and all below."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tests.data.test_token_cache import change_manifest, ipc, replace_file

import bertwright
from bertwright.config.evaluate import PredictSettings
from bertwright.config.parts import DataSettings
from bertwright.data import ragged as ragged_module
from bertwright.data import texts as texts_module
from bertwright.data.columns import read_labelled, read_unlabelled
from bertwright.data.ragged import Ragged, cut_pairs_to, starts_of, tokenize_texts
from bertwright.data.token_cache import open_token_cache
from bertwright.data.token_manifest import read_manifest
from bertwright.errors import DataError, UserError
from bertwright.evaluation.predict import run_prediction
from bertwright.model.tokenizer import Tokenizer, load_tokenizer, pair_up
from bertwright.progress import Reporter

QUIET = Reporter(quiet=True)
SMALL = {"model": "bert-tiny", "steps": 4, "batch_size": 8, "quiet": True}
FILES = ("token_ids.bin", "lengths.bin", "second_lengths.bin", "rows.bin", "texts.arrow", "pairs.arrow")
# tokens of both texts: equal, nearly so, one far longer, none that the tokenizer keeps
SIZES = [(1, 1), (9, 9), (9, 8), (8, 9), (30, 29), (29, 30), (30, 30), (40, 2), (2, 40), (1, 50), (50, 1), (12, 13)]
ROWS = [("a " * first, "b " * second, number % 2) for number, (first, second) in enumerate([*SIZES, *SIZES])]
ROWS += [("\u200b", "b " * 20, 0), ("a " * 20, "\u200b", 1), ("\u200b", "\u200b", 0)]


def write(path: Path, rows=ROWS, header=("text", "reply", "label")) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(minilm_folder) -> Tokenizer:
    return load_tokenizer(minilm_folder)


@pytest.fixture
def made(tmp_path):
    """Tokenise a file of those pairs quietly; gives the file and the folder."""

    def make(name="ids", rows=ROWS, **given_settings):
        path = write(tmp_path / f"{name}.csv", rows)
        given_settings = {"pair_column": "reply", "max_length": 24, **given_settings}
        bertwright.tokenize(path, tmp_path / name, quiet=True, **given_settings)
        return path, str(tmp_path / name)

    return make


def sequences(ragged: Ragged) -> list[list[int]]:
    return [ragged.gather(np.array([row]))[0].tolist() for row in range(len(ragged))]


def of_file(tokenizer, path, max_length) -> Ragged:
    texts = read_unlabelled(path, pair_column="reply")
    return tokenize_texts(tokenizer, texts.texts, max_length, QUIET, pairs=texts.pairs)


# --- cutting ----------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12),
    most=st.integers(3, 45),
    data=st.data(),
)
def test_a_pair_cut_twice_is_one_cut_once(sizes, most, data):
    less = data.draw(st.integers(3, most))
    lengths, second_lengths = (np.array(column) for column in zip(*sizes, strict=True))
    first, second = (
        (np.concatenate([[1, *range(begin, begin + size), 2] for size in column]), starts_of(column + 2))
        for column, begin in ((lengths, 100), (second_lengths, 200))
    )
    ids, starts, second_starts, num_cut = pair_up(first, second, most)
    assert num_cut == np.count_nonzero(lengths + second_lengths + 3 > most)
    again = cut_pairs_to(Ragged(ids, starts, num_cut, second_starts), lengths, second_lengths, less)
    expected_ids, expected_starts, expected_seconds, expected_cut = pair_up(first, second, less)
    assert again.ids.tolist() == expected_ids.tolist()
    assert again.starts.tolist() == expected_starts.tolist()
    assert again.second_starts.tolist() == expected_seconds.tolist()
    if less < most:
        assert again.num_truncated == expected_cut


@pytest.mark.parametrize("max_length", [3, 4, 7, 16, 23, 24])
@pytest.mark.parametrize("most", [0, 1 << 28])
def test_every_length_up_to_the_folders_gives_the_ids_of_the_file(tokenizer, made, monkeypatch, max_length, most):
    path, folder = made()
    monkeypatch.setattr(ragged_module, "MOST_IDS_IN_MEMORY_BYTES", most)
    monkeypatch.setattr(ragged_module, "_COPIED_TOKENS", 50)
    rows = np.array([26, 4, 4, 0, 11, 25, 5])
    tokens = read_unlabelled(folder).tokens
    for found, expected in (
        (tokens.ragged(tokenizer, max_length, "m"), of_file(tokenizer, path, max_length)),
        (tokens.take(rows).ragged(tokenizer, max_length, "m"), of_file(tokenizer, path, max_length).take(rows)),
    ):
        assert sequences(found) == sequences(expected)
        assert found.second_starts.tolist() == expected.second_starts.tolist()
        assert found.ids.dtype == expected.ids.dtype
    assert tokens.ragged(tokenizer, max_length, "m").num_truncated == of_file(tokenizer, path, max_length).num_truncated


def test_what_is_lost_is_refused(tokenizer, made, tmp_path):
    path, folder = made()
    tokens = read_unlabelled(folder).tokens
    with pytest.raises(DataError, match=r"found 16 pairs cut to 24 tokens.*--pair-column reply --max-length 25"):
        tokens.ragged(tokenizer, 25, "m")
    with pytest.raises(UserError, match="is for single texts, found pairs"):
        tokens.ragged(tokenizer, 24, "m", "windows")
    whole = tokens.take(np.flatnonzero(~tokens.truncated))
    expected = of_file(tokenizer, path, 1_000).take(np.flatnonzero(~tokens.truncated))
    assert sequences(whole.ragged(tokenizer, 1_000, "m")) == sequences(expected)


# --- whole acts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [24, 13])
def test_training_judging_and_scoring_give_the_bits_of_the_file(made, tmp_path, max_length):
    path, folder = made()
    scored = {}
    for name, data, given_settings in (("file", path, {"pair_column": "reply"}), ("folder", folder, {})):
        run = bertwright.train(
            data, output=tmp_path / name, max_length=max_length, validation_share=0.25, **SMALL, **given_settings
        )
        judged = bertwright.evaluate(run.path, data, quiet=True, output=tmp_path / f"{name}-judged", **given_settings)
        out = tmp_path / f"{name}.parquet"
        run_prediction(str(run.path), (), [data], PredictSettings(output=str(out), **given_settings), QUIET)
        scored[name] = (
            load_file(run.model_folder / "model.safetensors"),
            run.metrics,
            judged["metrics"],
            pq.read_table(tmp_path / name / "predictions.parquet"),
            pq.read_table(out),
        )
    (weights, *one), (others, *other) = scored["file"], scored["folder"]
    assert weights.keys() == others.keys()
    for tensor, values in weights.items():
        np.testing.assert_array_equal(others[tensor], values, err_msg=tensor)
    assert one == other


def test_texts_labels_and_groups_of_both_are_kept(made, tmp_path):
    rows = [(f"a{i}", f"b{i}" if i != 3 else "", i % 2) for i in range(8)]
    path, folder = made(rows=rows, on_bad_row="skip")
    found = read_labelled(folder, DataSettings())
    expected = read_labelled(path, DataSettings(pair_column="reply", on_bad_row="skip"))
    assert found.texts.to_pylist() == expected.texts.to_pylist()
    assert found.pairs.to_pylist() == expected.pairs.to_pylist() == [f"b{i}" for i in range(8) if i != 3]
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.label_ids.tolist() == expected.label_ids.tolist()
    assert "7 pairs of texts of" in found.notes[0]
    with pytest.raises(DataError, match='found the second texts of column "reply"'):
        read_labelled(folder, DataSettings(pair_column="label"))


def test_several_folders_are_pairs_or_none_is(made, tokenizer):
    path, one = made("one", ROWS[:5])
    _, two = made("two", ROWS[5:])
    _, single = made("single", pair_column=None)
    together = read_unlabelled([one, two])
    assert together.pairs.to_pylist() == [row[1] for row in ROWS]
    assert sequences(together.tokens.ragged(tokenizer, 9, "m")) == sequences(
        of_file(tokenizer, write(Path(path).with_name("all.csv")), 9)
    )
    for first, second, message in ((one, single, "found single texts"), (single, one, "found pairs of texts")):
        with pytest.raises(DataError, match=message):
            read_unlabelled([first, second])


@pytest.mark.parametrize("chunk_bytes", [1, 70, 1 << 20])
def test_large_texts_in_small_parts_give_the_same_folder(made, monkeypatch, chunk_bytes):
    _, one = made("one")
    monkeypatch.setattr(texts_module, "MOST_MEMORY_BYTES", 50)
    monkeypatch.setattr(ragged_module, "_CHUNK_BYTES", chunk_bytes)
    _, two = made("two")
    for name in FILES[:4]:
        assert (Path(one) / name).read_bytes() == (Path(two) / name).read_bytes()
    assert open_token_cache(one)[0].pairs.to_pylist() == open_token_cache(two)[0].pairs.to_pylist()


def test_what_is_said_and_the_format(made, tmp_path, capsys):
    path, folder = made()
    assert read_manifest(Path(folder)).format == 3
    assert {*FILES, "manifest.json", "label_codes.bin"} == {file.name for file in Path(folder).iterdir()}
    settings_given = {"max_length": 24, "pair_column": "reply"}
    assert bertwright.tokenize(path, tmp_path / "said", **settings_given)["pairs"]
    assert "16 pairs are longer than 24 tokens and lost their end" in capsys.readouterr().out
    assert not bertwright.tokenize(path, folder, **settings_given)["made"]
    assert "already holds the token ids of these 27 pairs" in " ".join(capsys.readouterr().out.split())
    assert bertwright.tokenize(path, folder, overwrite=True)["pairs"] is False
    assert read_manifest(Path(folder)).format == 1


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    path = write(folder / "p.csv")
    bertwright.tokenize(path, folder / "ids", max_length=24, pair_column="reply", quiet=True)
    return folder / "ids"


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def refusal(folder) -> str:
    with pytest.raises(DataError) as caught:
        read_unlabelled(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_whole(copy, name):
    content = (copy / name).read_bytes()
    for damaged in (b"", content[:-1], content + b"\0", bytes([content[9] ^ 1]).join([content[:9], content[10:]])):
        (copy / name).write_bytes(damaged)
        assert name in refusal(copy)
    (copy / name).unlink()
    assert name in refusal(copy)


@pytest.mark.parametrize(
    "values",
    [
        {"format": 1},
        {"format": 2},
        {"label_columns": None},
        {"num_texts": 26},
        {"num_truncated": 15},
        {"max_length": 23},
        {"sources": [{"name": "p.csv", "text_column": "text", "label_column": None, "label_columns": ["label"]}]},
        {"files": {}},
    ],
)
def test_manifests_that_tell_something_else(copy, values):
    change_manifest(copy, **values)
    refusal(copy)


def test_a_missing_entry_is_seen(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    for name in manifest:
        (copy / "manifest.json").write_text(json.dumps({key: manifest[key] for key in manifest if key != name}))
        refusal(copy)


@pytest.mark.parametrize(("place", "value"), [(0, -1), (0, 3), (3, 1 << 30), (26, 1)])
def test_second_lengths_out_of_bounds_are_seen_even_where_the_checksum_fits(copy, place, value):
    numbers = np.fromfile(copy / "second_lengths.bin", dtype="<i4")
    numbers[place] = value
    replace_file(copy, "second_lengths.bin", numbers.tobytes())
    message = refusal(copy)
    assert "second_lengths.bin" in message
    assert "a second text longer than its pair" in message


@pytest.mark.parametrize("content", [b"", b"ARROW1", ipc(pa.table({"text": pa.array(["x"] * 26, pa.large_string())}))])
def test_second_texts_that_are_none_are_seen(copy, content):
    replace_file(copy, "pairs.arrow", content)
    assert "pairs.arrow" in refusal(copy)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["second_lengths.bin", "pairs.arrow"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_files_never_crash(whole, tokenizer, tmp_path, name, changes):
    folder = tmp_path / "changed"
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    content = bytearray((folder / name).read_bytes())
    for place, value in changes:
        content[int(place * len(content))] = value
    replace_file(folder, name, bytes(content))
    with suppress(DataError):
        found = read_unlabelled(folder)
        assert len(found.pairs.to_pylist()) == 27
        ids = found.tokens.ragged(tokenizer, 10, "m")
        assert int(ids.starts[-1]) == len(ids.ids)
