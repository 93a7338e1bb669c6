"""Folders of token ids with several label columns, numbers and groups: equal to the file, and checked like the rest."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.test_label_kinds import same
from tests.data.test_token_cache import change_manifest, ipc, replace_file

import bertwright
from bertwright.config.parts import DataSettings
from bertwright.data import class_labels as class_labels_module
from bertwright.data import rows as rows_module
from bertwright.data import stored_labels as stored_labels_module
from bertwright.data import texts as texts_module
from bertwright.data.columns import read_labelled, read_unlabelled
from bertwright.data.token_cache import open_token_cache
from bertwright.data.token_manifest import read_manifest
from bertwright.errors import DataError

COLUMNS = "x,y,share,number"


def content(num_rows=40):
    lines = ["text,x,y,share,number,group,age"]
    for row in range(num_rows):
        label = row % 2 if row % 9 else ""
        lines.append(
            f"text {row} {'long ' * (row % 30)},{label},{row % 3 / 2},{row % 5 / 4},{row / 8},g{row % 3},{row}"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture
def made(tmp_path):
    """Tokenise a file of that content quietly; gives the file and the folder."""

    def make(name="ids", text=None, **given_settings):
        path = tmp_path / f"{name}.csv"
        path.write_text(text or content())
        given_settings = {"label_column": COLUMNS, "group_columns": "group,age", "on_bad_row": "skip", **given_settings}
        bertwright.tokenize(path, tmp_path / name, quiet=True, **given_settings)
        return str(path), str(tmp_path / name)

    return make


KINDS = {
    "multi-label": {"label_column": "x,y"},
    "all columns": {"label_column": "x,y,share"},
    "other order": {"label_column": "y,x"},
    "classes": {"label_column": "x"},
    "threshold": {"label_column": "share", "label_threshold": 0.5},
    "soft": {"label_column": "share", "label_kind": "soft"},
    "hard": {"label_column": "share", "label_threshold": 0.3, "hard_labels": True},
    "regression": {"label_column": "number", "label_kind": "regression"},
    "groups": {"label_column": "x", "group_columns": "age"},
}


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("as_numbers", [False, True])
def test_every_kind_from_the_folder_is_that_of_the_file(case, as_numbers, made, monkeypatch):
    if as_numbers:
        monkeypatch.setattr(stored_labels_module, "MOST_DISTINCT", 2)
    path, folder = made()
    monkeypatch.undo()
    data = DataSettings(**{"on_bad_row": "skip", "group_columns": "group,age", **KINDS[case]})
    one = read_labelled(path, data)
    # the folder skipped all rows that lack one of its labels: here that is "x"
    one = one.take([at for at, row in enumerate(one.rows) if row % 9])
    other = read_labelled(folder, data)
    for texts in (one, other):
        texts.notes.clear()
        object.__setattr__(texts, "bad_rows", [])
    same(one, other)
    assert len(other.tokens.starts) == len(other) + 1


def test_all_that_a_folder_holds_is_taken_if_nothing_is_named(made):
    _, folder = made(label_column="x,y")
    found = read_labelled(folder, DataSettings())
    assert found.kind == "multi-label"
    assert found.labels == ("x", "y")
    assert list(found.groups) == ["group", "age"]
    assert len(found.bad_rows) == 5
    assert list(read_unlabelled(folder).groups) == ["group", "age"]
    for settings_given, message in (
        ({"label_column": "x,z"}, "--label-column x,z --output OTHER"),
        ({"group_columns": "z"}, "found the groups"),
        ({"pair_column": "z"}, "found no second texts of"),
    ):
        with pytest.raises(DataError) as caught:
            read_labelled(folder, DataSettings(**settings_given))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    one = read_labelled(folder, DataSettings(label_kind="classes", label_column="x"))
    assert one.labels == ("0", "1")


def test_the_first_format_is_kept_where_it_is_enough(made):
    plain = read_manifest(Path(made("plain", label_column="x", group_columns=())[1]))
    assert plain.format == 1
    assert plain.label_names == ("1", "0")
    without = read_manifest(Path(made("without", label_column=(), group_columns=(), labels=False)[1]))
    assert without.format == 1
    for name, settings_given in (("several", {"group_columns": ()}), ("groups", {"label_column": "x"})):
        assert read_manifest(Path(made(name, **settings_given)[1])).format == 2


def test_what_is_said_of_labels(made, tmp_path, capsys):
    path, _ = made()
    for number, (given_columns, found, said) in enumerate(
        [("x,y", None, "with 2 columns of labels"), ("y", 3, "with 3 different labels"), ((), None, "with no labels")]
    ):
        result = bertwright.tokenize(
            path, tmp_path / f"said{number}", label_column=given_columns, labels=bool(given_columns), on_bad_row="skip"
        )
        assert result["labels"] == found
        assert said in capsys.readouterr().out


def test_of_many_skipped_rows_all_are_counted(made, monkeypatch):
    from bertwright.data import reading as reading_module

    for module in (reading_module, rows_module, class_labels_module):
        monkeypatch.setattr(module, "MOST_BAD_ROWS", 2)
    _, folder = made(label_column="x", group_columns=())
    manifest = read_manifest(Path(folder))
    assert (manifest.format, manifest.num_skipped, len(manifest.skipped_rows)) == (2, 5, 2)
    assert len(read_labelled(folder, DataSettings()).bad_rows) == 5


def test_texts_too_many_for_memory_give_the_same_folder(made, monkeypatch, tmp_path):
    _, one = made("one")
    monkeypatch.setattr(texts_module, "MOST_MEMORY_BYTES", 50)
    bertwright.tokenize(
        tmp_path / "one.csv",
        tmp_path / "two",
        quiet=True,
        label_column=COLUMNS,
        group_columns="group,age",
        on_bad_row="skip",
    )
    for path in Path(one).iterdir():
        other = (tmp_path / "two" / path.name).read_bytes()
        if path.name == "texts.arrow":
            assert open_token_cache(one)[0].texts.to_pylist() == open_token_cache(tmp_path / "two")[0].texts.to_pylist()
        elif path.name != "manifest.json":
            assert path.read_bytes() == other


def test_the_same_columns_are_not_tokenised_twice(made, tmp_path):
    path, folder = made()
    given_settings = {"quiet": True, "on_bad_row": "skip", "label_column": COLUMNS}
    assert not bertwright.tokenize(path, folder, group_columns="group,age", **given_settings)["made"]
    for other in (
        {"group_columns": "group"},
        {"group_columns": "group,age", "label_column": "x,y"},
        {"pair_column": "group", "group_columns": "age"},
    ):
        with pytest.raises(DataError, match="--overwrite"):
            bertwright.tokenize(path, folder, **given_settings | other)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(made, monkeypatch) -> Path:
    monkeypatch.setattr(stored_labels_module, "MOST_DISTINCT", 6)
    _, folder = made()
    assert {"label_numbers.bin", "label_codes.bin", "groups.arrow"} <= {path.name for path in Path(folder).iterdir()}
    return Path(folder)


def refusal(folder) -> str:
    with pytest.raises(DataError) as caught:
        read_labelled(folder, DataSettings(label_column="x,y"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["label_numbers.bin", "label_codes.bin", "groups.arrow"])
def test_later_files_that_are_not_whole(copy, name):
    whole = (copy / name).read_bytes()
    for damaged in (b"", whole[:-1], whole + b"\0", bytes([whole[9] ^ 1]).join([whole[:9], whole[10:]])):
        (copy / name).write_bytes(damaged)
        assert name in refusal(copy)
    (copy / name).unlink()
    assert name in refusal(copy)


@pytest.mark.parametrize(
    "values",
    [
        {"format": 1},
        {"format": 3},
        {"label_columns": None},
        {"label_columns": []},
        {"label_columns": [{"column": "x", "names": ["1", "0"]}]},
        {"label_columns": [{"column": "x", "names": None}] * 4},
        {"label_names": ["1", "0"]},
        {"group_columns": None},
        {"group_columns": []},
        {"group_columns": ["age", "group"]},
        {"group_columns": ["group"]},
        {"num_skipped_rows": None},
        {"num_skipped_rows": 2},
        {"num_skipped_rows": 2**31 - 1},
        {"skipped_rows": []},
        {"num_texts": 34},
    ],
)
def test_manifests_of_the_second_format_that_tell_something_else(copy, values):
    change_manifest(copy, **values)
    refusal(copy)


def test_a_missing_entry_of_the_second_format_is_seen(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    for name in manifest:
        (copy / "manifest.json").write_text(json.dumps({key: manifest[key] for key in manifest if key != name}))
        refusal(copy)


def test_codes_of_no_label_are_seen(copy):
    codes = np.fromfile(copy / "label_codes.bin", "<i4")
    for place, value in ((0, -1), (len(codes) - 1, 99)):
        changed = codes.copy()
        changed[place] = value
        replace_file(copy, "label_codes.bin", changed.tobytes())
        assert "a label that has no name" in refusal(copy)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"group": ["x"] * 35}),
        pa.table({"group": ["x"] * 34, "age": ["1"] * 34}),
        pa.table({"group": pa.array([["x"]] * 35), "age": ["1"] * 35}),
    ],
)
def test_groups_that_are_none_are_seen(copy, table):
    table = table.cast(
        pa.schema([f.with_type(pa.large_string()) if f.type == pa.string() else f for f in table.schema])
    )
    replace_file(copy, "groups.arrow", ipc(table))
    assert "groups.arrow" in refusal(copy)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_groups_never_crash(copy, changes):
    folder = copy.with_name("changed")
    shutil.copytree(copy, folder, dirs_exist_ok=True)
    whole = bytearray((folder / "groups.arrow").read_bytes())
    for place, value in changes:
        whole[int(place * len(whole))] = value
    replace_file(folder, "groups.arrow", bytes(whole))
    with suppress(DataError):
        found = read_labelled(folder, DataSettings(label_column="x,y"))
        assert all(len(column.to_pylist()) == 35 for column in found.groups.values())
