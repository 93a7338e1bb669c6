"""Folders of token ids that are damaged, changed or of something else: one clear line, never a crash."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bertwright
from bertwright.data.columns import read_unlabelled
from bertwright.data.token_cache import open_token_cache
from bertwright.errors import DataError

FILES = ("token_ids.bin", "lengths.bin", "rows.bin", "label_codes.bin", "texts.arrow")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    lines = "".join(f"text number {i} {'long ' * i},{i % 3}\n" for i in range(20))
    (folder / "c.csv").write_text("text,label\n" + lines + ",1\n")
    bertwright.tokenize(folder / "c.csv", folder / "ids", max_length=12, on_bad_row="skip", quiet=True)
    return folder / "ids"


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def refusal(folder) -> str:
    """The message with which a folder is refused, which must be one line."""
    with pytest.raises(DataError) as caught:
        read_unlabelled(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_manifest(folder: Path, **values) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | values))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Put other content into the folder, with the size and checksum that fit it."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_manifest(folder, files=files)


def test_a_carried_folder_is_as_good(whole, copy):
    content, tokens = open_token_cache(copy)
    expected, expected_tokens = open_token_cache(whole)
    assert content.texts.to_pylist() == expected.texts.to_pylist()
    assert tokens.ids.tolist() == expected_tokens.ids.tolist()
    assert tokens.truncated.sum() == tokens.manifest.num_truncated > 0
    assert [bad.reason for bad in content.bad_rows] == ["the text is empty"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "long", "folder"])
def test_files_that_are_not_whole(copy, name, damage):
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    if damage == "folder":
        (copy / name).mkdir()
    elif damage != "missing":
        (copy / name).write_bytes({"empty": b"", "short": content[:-1], "long": content + b"\0"}[damage])
    message = refusal(copy)
    assert name in message
    assert "bertwright tokenize" in message


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_seen(whole, tmp_path, name, place, bit):
    folder = tmp_path / "flipped"
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert name in message
    assert "sha256" in message


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"kind": 1}', b'{"name": "a web page"}', b"1" * 5_000],
)
def test_manifests_of_nothing(copy, content):
    (copy / "manifest.json").write_bytes(content)
    assert "manifest.json" in refusal(copy)


def test_other_formats_say_who_made_them(copy):
    change_manifest(copy, format=5, bertwright="9.1")
    assert 'found format "5" of bertwright "9.1", expected format 1 to 4' in refusal(copy)


@pytest.mark.parametrize(
    "values",
    [
        {"num_texts": 10**30},
        {"num_pair_marks": 4},
        {"num_pair_marks": 5, "format": 4},
        {"num_texts": 19},
        {"num_texts": -1},
        {"num_texts": "many"},
        {"num_tokens": 1 << 60},
        {"num_tokens": 4},
        {"num_truncated": 0},
        {"num_source_rows": 3},
        {"num_source_rows": 10**40},
        {"max_length": 10**30},
        {"max_length": 13},
        {"max_length": 11},
        {"id_dtype": "<i4"},
        {"id_dtype": "O"},
        {"label_names": None},
        {"label_names": ["0"]},
        {"label_names": [1, 2, 3]},
        {"label_names": ["\ud800"] * 3},
        {"sources": []},
        {"sources": "c.csv"},
        {"tokenizer": {"model": "m", "sha256": "0", "engine": "e", "vocab_size": 102}},
        {"tokenizer": None},
        {"files": {}},
        {"files": {name: {"bytes": 1 << 50, "sha256": "0"} for name in FILES}},
        {"files": {"../../secret": {"bytes": 1, "sha256": "0"}}},
        {"skipped_rows": [1]},
        {"unknown": True},
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


@pytest.mark.parametrize(
    ("name", "dtype", "place", "value", "found"),
    [
        ("token_ids.bin", "<u2", 3, 40_000, "not in the vocabulary"),
        ("lengths.bin", "<i4", 0, -5, "two tokens"),
        ("lengths.bin", "<i4", 0, 1_000_000, "tokens"),
        ("lengths.bin", "<i4", 19, 3, "tokens"),
        ("rows.bin", "<i8", 2, -1, "row"),
        ("rows.bin", "<i8", 2, 1 << 62, "row"),
        ("label_codes.bin", "<i4", 2, 3, "label"),
        ("label_codes.bin", "<i4", 2, -1, "label"),
    ],
)
def test_numbers_out_of_bounds_are_seen_even_where_the_checksum_fits(copy, name, dtype, place, value, found):
    numbers = np.fromfile(copy / name, dtype=dtype)
    numbers[place] = value
    replace_file(copy, name, numbers.tobytes())
    message = refusal(copy)
    assert name in message
    assert found in message


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def texts_table(texts: pa.Array, **field) -> pa.Table:
    return pa.table([texts], schema=pa.schema([pa.field("text", texts.type, nullable=False, **field)]))


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ARROW1\0\0",
        b"ARROW1\0\0" + b"\xff" * 100 + b"\xff\xff\xff\x7fARROW1",
        pickle.dumps(Boom()),
        ipc(texts_table(pa.array(["x"] * 19, pa.large_string()))),
        ipc(texts_table(pa.array(["x"] * 20, pa.string()))),
        ipc(pa.table({"text": pa.array(["x", None] * 10, pa.large_string())})),
        ipc(pa.table({"other": pa.array(["x"] * 20, pa.large_string())})),
        ipc(texts_table(pa.array([b"\xff"] * 20, pa.large_binary()).view(pa.large_string()))),
    ],
)
def test_texts_that_are_none_are_seen_even_where_the_checksum_fits(copy, content):
    replace_file(copy, "texts.arrow", content)
    assert "texts.arrow" in refusal(copy)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_arrow_files_never_crash(whole, tmp_path, changes):
    """Where the checksum was made to fit: refused, or texts that can be used."""
    folder = tmp_path / "changed"
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    content = bytearray((folder / "texts.arrow").read_bytes())
    for place, value in changes:
        content[int(place * len(content))] = value
    replace_file(folder, "texts.arrow", bytes(content))
    with suppress(DataError):
        assert len(read_unlabelled(folder).texts.to_pylist()) == 20
