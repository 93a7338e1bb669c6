"""Compressed files, .npz, Arrow files, folders of classes: what is read of them, and every kind of damage."""

import gzip
import io
import json
import lzma
import os
import pickle
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.config.parts import DataSettings
from bertwright.data import class_folders, npz, text_stream
from bertwright.data.columns import read_labelled
from bertwright.data.read import read_parts, read_table
from bertwright.data.table import CellKind
from bertwright.errors import DataError


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return str(path)

    return write


def cells(table):
    return {name: column.to_pylist() for name, column in table.columns.items()}


def refusal(path, **arguments):
    """The message with which a file is refused, which must be one line."""
    with pytest.raises(DataError) as caught:
        read_table(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


# --- compressed ---


def zstd_bytes(data):
    return pa.compress(data, "zstd", asbytes=True)


PACKED = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd_bytes}


@pytest.mark.parametrize("extension", PACKED)
def test_compressed_text(file, extension):
    pack = PACKED[extension]
    first, second = b"text,label\na,1\n", b"b,0\n"
    packed = pack(first + second)
    seen = []
    table = read_table(file("a.csv" + extension, packed), on_bytes=seen.append)
    assert cells(table) == {"text": ["a", "b"], "label": ["1", "0"]}
    assert b"".join(seen) == packed
    several = pack(first) + pack(second)
    assert cells(read_table(file("b.csv" + extension, several)))["text"] == ["a", "b"]
    for name, content in {
        "c.jsonl": b'{"text": "a"}\n',
        "d.txt": b"1 ||| a\n",
        "e.tsv": b"text\tlabel\na\t1\n",
    }.items():
        assert cells(read_table(file(name + extension, pack(content))))["text"] == ["a"]


@pytest.mark.parametrize("extension", PACKED)
def test_compressed_and_damaged(file, extension):
    pack = PACKED[extension]
    packed = pack(b"text,label\n" + b"".join(b"%s,1\n" % os.urandom(20).hex().encode() for _ in range(4000)))
    name = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}[extension]
    assert f"damaged {name}" in refusal(file("a.csv" + extension, packed[: len(packed) // 2]))
    assert f"damaged {name}" in refusal(file("t.csv" + extension, packed[:-1]))
    at = 5 if extension == ".zst" else len(packed) // 2  # without a checksum, zstd sees damage to its own marks only
    broken = packed[:at] + b"\xff" * 40 + packed[at + 40 :]
    assert f"damaged {name}" in refusal(file("b.csv" + extension, broken))
    assert f"not a {name} file (it starts with 74 65)" in refusal(file("c.csv" + extension, b"text,label\na,1\n"))
    assert "empty once decompressed" in refusal(file("d.csv" + extension, pack(b"")))
    assert "the file is empty" in refusal(file("e.csv" + extension, b""))
    assert f"Add {extension} to its name" in refusal(file("f.csv", packed))
    assert "damaged" in refusal(file("g.csv" + extension, pack(b"text,label\na,1\n") + b"garbage"))


@pytest.mark.parametrize("extension", PACKED)
def test_what_swells_is_refused_before_it_fills_the_memory(file, extension, monkeypatch):
    monkeypatch.setattr(text_stream, "_MOST_ROW_BYTES", 1 << 20)
    packed = PACKED[extension](b"a" * (40 << 20))
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.txt"):
        assert "found no end of the row within" in refusal(file(name + extension, packed))


@pytest.mark.parametrize("extension", PACKED)
def test_what_becomes_far_larger_than_texts_do_is_refused(file, extension, monkeypatch):
    monkeypatch.setattr("bertwright.data.compression._ANYTHING_BYTES", 1 << 20)
    rows = b"a,1\nb,0\n"
    assert read_table(file("small.csv" + extension, PACKED[extension](rows * 1_000))).num_source_rows == 2_000
    packed = PACKED[extension](rows * (8 << 17))
    for name in ("a.csv", "a.npz"):
        assert "more than 250 times as large" in refusal(file(name + extension, packed))


@pytest.mark.parametrize("extension", PACKED)
def test_compressed_files_that_are_not_read_in_order(file, extension):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"], "label": ["1"]}), buffer)
    packed = PACKED[extension](buffer.getvalue())
    seen = []
    assert cells(read_table(file("a.parquet" + extension, packed), on_bytes=seen.append))["text"] == ["a"]
    assert b"".join(seen) == packed
    assert "damaged" in refusal(file("b.parquet" + extension, packed[:-9]))


# --- Arrow ---


def arrow(table, stream=False, **options):
    buffer = io.BytesIO()
    table = table if isinstance(table, pa.Table) else pa.table(table)
    writer = pa.ipc.new_stream if stream else pa.ipc.new_file
    with writer(buffer, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as sink:
        sink.write_table(table)
    return buffer.getvalue()


COLUMNS = {
    "text": pa.array(["a", None, "é"]),
    "large": pa.array(["a", "b", "c"], pa.large_string()),
    "view": pa.array(["a", "a view that is too long to lie in place", None], pa.string_view()),
    "dictionary": pa.array(["x", "y", "x"]).dictionary_encode(),
    "numbers": pa.array([1, 0, None], pa.int8()).dictionary_encode(),
    "whole": pa.array([1, 0, None], pa.uint16()),
    "real": pa.array([1.5, float("nan"), 2], pa.float32()),
    "flag": [True, False, None],
    "nothing": pa.nulls(3),
    "list": [[1], [2], [3]],
}


@pytest.mark.parametrize("name", ["a.arrow", "a.feather", "a.ipc"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_arrow_types(file, name, stream, compression):
    content = arrow(COLUMNS, stream, compression=compression)
    seen = []
    table = read_table(file(name, content), on_bytes=seen.append)
    assert b"".join(seen) == content
    expected = {key: pa.array(value).to_pylist() for key, value in COLUMNS.items() if key != "list"}
    got = cells(table)
    assert np.isnan(got["real"][1])
    assert {**got, "real": 0} == {**expected, "real": 0}
    for key in ("text", "large", "view", "dictionary", "nothing"):
        assert pa.types.is_large_string(table.columns[key].type)
    assert table.unusable.keys() == {"list"}
    assert table.unit == "row"
    assert table.lines.tolist() == [1, 2, 3]


def test_feather(file, tmp_path):
    path = str(tmp_path / "a.feather")
    pyarrow.feather.write_feather(pa.table({"text": ["a"], "label": [1]}), path)
    assert cells(read_table(path)) == {"text": ["a"], "label": [1]}
    assert "feather of version 1, expected version 2" in refusal(file("b.feather", b"FEA1" + b"\0" * 100))


def test_arrow_text_that_is_not_utf8(file):
    broken = pa.array([b"a", b"\xff", None], pa.binary()).view(pa.string())
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1]), pa.array([b"ok", b"\xfe"]).view(pa.string()))
    table = read_table(file("a.arrow", arrow({"text": broken, "label": coded})))
    assert cells(table) == {"text": ["a", None, None], "label": ["ok", None, None]}
    assert table.cell_kinds["text"].tolist() == [CellKind.TEXT, CellKind.BROKEN, CellKind.TEXT]
    assert table.cell_kinds["label"].tolist() == [CellKind.TEXT, CellKind.BROKEN, CellKind.BROKEN]


def test_arrow_damaged_or_of_no_use(file):
    whole = arrow({"text": ["a" * 50] * 1000})
    assert "damaged or not an Arrow file" in refusal(file("a.arrow", whole[: len(whole) // 2]))
    assert "damaged or not an Arrow file" in refusal(file("b.arrow", b"text,label\na,1\n"))
    for start in (b"", b"\xff\xff\xff\xff"):  # Arrow would take as much memory
        said = refusal(file("c.arrow", start + b"\x00\x00\x00\x7f" + b"\0" * 100))
        assert "its schema has 2,130,706,432 bytes, expected at most 16,777,216" in said
    assert "the file is empty" in refusal(file("c.arrow", b""))
    for stream in (False, True):
        assert 'found columns ("text") but no rows' in refusal(
            file("d.arrow", arrow({"text": pa.array([], pa.string())}, stream))
        )
    assert "found no column of texts or numbers" in refusal(file("e.arrow", arrow({"text": [[1]]})))
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    assert 'two columns named "text"' in refusal(file("f.arrow", arrow(twice)))
    assert "Name it .arrow" in refusal(file("g.csv", whole))


def test_arrow_column_named_by_bytes_that_are_not_utf8(file):
    content = arrow({"words": ["a"]})
    assert "damaged or not an Arrow file" in refusal(file("a.arrow", content.replace(b"words", b"wor\xffs")))


def test_arrow_whose_texts_point_outside_is_refused(file):
    texts = pa.array(["abc", "defg", "hi"])
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[:4].tobytes()
    whole = arrow({"text": texts})
    assert whole.count(offsets) == 1
    wrong = whole.replace(offsets, struct.pack("<4i", 0, 3, 1_000_000_000, 2_000_000_000))
    assert "damaged or not an Arrow file" in refusal(file("a.arrow", wrong))
    coded = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 0, 1, 77], pa.int32()), pa.array([f"t{i}" for i in range(78)])
    )
    whole = arrow({"text": coded})
    indices = struct.pack("<5i", 0, 1, 0, 1, 77)
    assert whole.count(indices) == 1
    wrong = whole.replace(indices, struct.pack("<5i", 0, 1, 0, 1, 2_000_000_000))
    assert "damaged or not an Arrow file" in refusal(file("b.arrow", wrong))


@settings(max_examples=150)
@given(st.data())
def test_arrow_with_any_bytes_changed_is_read_or_refused(tmp_path_factory, data):
    stream = data.draw(st.booleans())
    columns = {name: COLUMNS[name] for name in ("text", "view", "dictionary", "whole")}
    content = bytearray(arrow(columns, stream, compression=data.draw(st.sampled_from([None, "lz4"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from([0, 1, 4, 127, 128, 255]))
    path = tmp_path_factory.mktemp("any") / "a.arrow"
    path.write_bytes(content)
    try:
        table = read_table(path)
    except DataError:
        refusal(path)
        return
    for column in table.columns.values():
        column.validate(full=True)
        assert len(column) == len(table)


# --- names of classes, as the library datasets writes them ---


def with_features(table, features):
    return pa.table(table).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def both_formats(file, table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return read_table(file("a.parquet", buffer.getvalue())), read_table(file("a.arrow", arrow(table)))


def test_classes_are_named_as_the_file_says(file):
    features = {
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    made = with_features({"text": list("abcde"), "label": pa.array([1, 0, -1, None, 2])}, features)
    for table in both_formats(file, made):
        assert cells(table)["label"] == ["pos", "neg", None, None, None]
        assert pa.types.is_large_string(table.columns["label"].type)
        assert '0 is "neg", 1 is "pos"' in table.notes[0]


@pytest.mark.parametrize(
    "features",
    [
        {"label": {"names": ["a", "a"], "_type": "ClassLabel"}},
        {"label": {"names": ["a", 1], "_type": "ClassLabel"}},
        {"label": {"names": [], "_type": "ClassLabel"}},
        {"label": {"names": "ab", "_type": "ClassLabel"}},
        {"label": {"names": ["a", "\ud800"], "_type": "ClassLabel"}},
        {"label": {"names": ["a", "b"], "_type": "Value"}},
        {"label": ["a", "b"]},
        ["label"],
        None,
    ],
)
def test_names_of_classes_that_make_no_sense_are_left_alone(file, features):
    for table in both_formats(file, with_features({"text": ["a"], "label": [1]}, features)):
        assert cells(table)["label"] == [1]
        assert not table.notes
    broken = pa.table({"text": ["a"], "label": [1]}).replace_schema_metadata({"huggingface": b"\xff{" + b"[" * 10_000})
    for table in both_formats(file, broken):
        assert cells(table)["label"] == [1]


# --- .npz ---


def archive(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def archive_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return buffer.getvalue()


def npy(array, **changed):
    """The bytes of an .npy file, with another header where asked for."""
    buffer = io.BytesIO()
    header = {**np.lib.format.header_data_from_array_1_0(array), **changed}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["<", ">"])
def test_npz_types(file, save, order):
    buffer = io.BytesIO()
    save(
        buffer,
        text=np.array(["a", "é\nlong", "\U0001f600"], f"{order}U9"),
        raw=np.array(["a", "é", ""]).astype("U1").astype(object).astype("U1"),
        encoded=np.array([b"a", "é".encode(), b"c"]),
        label=np.array([1, 0, 2], f"{order}i8"),
        small=np.array([1, 0, 2], np.uint8),
        half=np.array([1, 0.5, 2], f"{order}f2"),
        flag=np.array([True, False, True]),
        vectors=np.zeros((3, 4), np.float32),
        one=np.array("single"),
        when=np.array(["2020-01-01"] * 3, "M8[D]"),
        few=np.array(["neg", "pos"]),
    )
    seen = []
    table = read_table(file("a.npz", buffer.getvalue()), on_bytes=seen.append)
    assert b"".join(seen) == buffer.getvalue()
    got = cells(table)
    assert got == {
        "text": ["a", "é\nlong", "\U0001f600"],
        "raw": ["a", "é", ""],
        "encoded": ["a", "é", "c"],
        "label": [1, 0, 2],
        "small": [1, 0, 2],
        "half": [1.0, 0.5, 2.0],
        "flag": [True, False, True],
    }
    assert pa.types.is_large_string(table.columns["encoded"].type)
    assert "(3, 4)" in table.unusable["vectors"]
    assert table.unusable["few"] == "2 values beside 3 rows"
    assert table.unusable.keys() == {"vectors", "one", "when", "few"}
    assert table.unit == "row"
    assert table.lines.tolist() == [1, 2, 3]


def test_npz_text_that_is_broken(file):
    lone = np.array(["a", "b", "c"])
    points = lone.view("u4")
    points[1], points[2] = 0xD800, 0x7FFFFFFF
    table = read_table(file("a.npz", archive(text=lone, label=np.array([b"x", b"\xff", b"y"]))))
    assert cells(table) == {"text": ["a", None, None], "label": ["x", None, "y"]}
    assert table.cell_kinds["text"].tolist() == [CellKind.TEXT, CellKind.BROKEN, CellKind.BROKEN]
    assert table.cell_kinds["label"].tolist() == [CellKind.TEXT, CellKind.BROKEN, CellKind.TEXT]


def test_npz_usual_names(file):
    content = archive(x=np.array(["a", "b"]), y=np.array([1, 0]))
    table = read_table(file("a.npz", content))
    assert cells(table) == {"text": ["a", "b"], "label": [1, 0]}
    assert table.notes == ['took array "x" for column "text"', 'took array "y" for column "label"']
    assert list(read_table(file("a.npz", content), names=["x"]).columns) == ["x", "label"]
    known = archive(text=np.array(["a", "b"]), x=np.array(["c", "d"]), y=np.array([1, 0]), target=np.array([2, 3]))
    assert list(read_table(file("b.npz", known)).columns) == ["text", "x", "y", "target"]


def test_npz_of_python_objects_is_refused_with_what_converts_it(file, tmp_path):
    path = file("a.npz", archive(x=np.array(["a", None, "é" * 5000], object), y=np.array([1, 0, 1])))
    message = refusal(path)
    assert "runs whatever code is in it" in message
    lines = message.split("convert it in Python: ")[1]
    exec(lines)
    assert cells(read_table(str(tmp_path / "a.parquet"))) == {"x": ["a", None, "é" * 5000], "y": [1, 0, 1]}
    others = archive(text=np.array(["a"]), meta=np.array([{"a": 1}], object))
    table = read_table(file("b.npz", others))
    assert list(table.columns) == ["text"]
    assert table.unusable == {"meta": "Python objects (a pickle)"}
    assert "holds Python objects" in refusal(file("b.npz", others), names=["meta"])


class _Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil-was-here",))


def test_npz_never_unpickles(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = np.array([_Evil()], object)
    for name, content in {
        "a.npz": archive(text=evil),
        "b.npz": pickle.dumps(_Evil()),
        "c.npz": archive_of({"data.pkl": pickle.dumps(_Evil())}),
        "d.npz": archive_of({"text.npy": pickle.dumps(_Evil())}),
    }.items():
        refusal(file(name, content))
    assert not os.path.exists("evil-was-here")


def test_npz_that_is_none(file):
    assert "found a pickle" in refusal(file("a.npz", pickle.dumps(["a"], 4)))
    assert "found one array (.npy)" in refusal(file("b.npz", npy(np.array(["a"]))))
    assert "not a .npz file (it starts with 74 65 78 74)" in refusal(file("c.npz", b"text,label\n"))
    assert "the file is empty" in refusal(file("d.npz", b""))
    assert "found no array" in refusal(file("e.npz", archive_of({})))
    assert '"data.pkl" in it, which is no array' in refusal(file("f.npz", archive_of({"data.pkl": b"x"})))
    assert "which is no array" in refusal(file("g.npz", archive_of({"text.npy": b"garbage, long enough"})))
    assert "different lengths" in refusal(file("h.npz", archive(text=np.array(["a"]), label=np.array([1, 2]))))
    assert "but no rows" in refusal(file("i.npz", archive(text=np.array([], "U1"), label=np.array([], int))))
    assert "no array of texts or numbers" in refusal(file("j.npz", archive(x=np.zeros((2, 3)))))


def test_npz_damaged(file):
    texts = np.array([os.urandom(20).hex() for _ in range(2000)])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, text=texts, label=np.arange(2000))
    whole = buffer.getvalue()
    assert "damaged .npz file" in refusal(file("a.npz", whole[: len(whole) // 2]))
    assert "damaged .npz file" in refusal(file("b.npz", whole[:20_000] + b"\xff" * 9 + whole[20_009:]))
    encrypted = bytearray(archive(text=np.array(["a"])))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    encrypted[6] |= 1
    assert "is encrypted" in refusal(file("c.npz", bytes(encrypted)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shape": (10**12,)}, "it holds 3 values, expected 1,000,000,000,000"),
        ({"shape": (2,)}, "there is more data than its header says"),
        ({"shape": (-3,)}, "its shape is (-3,)"),
        ({"descr": "<U20000000"}, "more than 64"),
        ({"descr": "<U16000000"}, "it holds 0 values"),
        ({"descr": "|O"}, "holds Python objects"),
        ({"descr": "nonsense"}, "header that cannot be read"),
        ({"shape": "x"}, "header that cannot be read"),
    ],
)
def test_npz_headers_that_lie(file, changed, words):
    content = archive_of({"text.npy": npy(np.array(["a", "b", "c"]), **changed)})
    assert words in refusal(file("a.npz", content))


def test_npz_header_that_is_too_long(file):
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 100
    assert "header that cannot be read" in refusal(file("a.npz", archive_of({"text.npy": content})))
    nested = b"[" * 5000
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(nested)) + nested
    assert "header that cannot be read" in refusal(file("b.npz", archive_of({"text.npy": content})))


def test_npz_of_many_arrays_is_refused(file, monkeypatch):
    monkeypatch.setattr(npz, "_MOST_ARRAYS", 3)
    assert "found 4 arrays" in refusal(file("a.npz", archive(**{name: np.array(["a"]) for name in "abcd"})))


@settings(max_examples=100)
@given(st.data())
def test_npz_with_any_bytes_changed_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(archive(text=np.array(["a", "bc"]), label=np.array([1, 0])))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("any") / "a.npz"
    path.write_bytes(content)
    try:
        table = read_table(path)
    except DataError:
        refusal(path)
        return
    assert {len(column) for column in table.columns.values()} == {len(table)}


# --- a folder for each class ---


@pytest.fixture
def folder(file, tmp_path):
    file("reviews/pos/10.txt", "ten\n")
    file("reviews/pos/2.txt", "\ufefftwo\r\nlines\r\n")
    file("reviews/neg/1.txt", "é\n\n")
    return tmp_path / "reviews"


def test_folder_of_classes(folder):
    table = read_table(str(folder))
    assert cells(table) == {"text": ["é\n", "two\r\nlines", "ten"], "label": ["neg", "pos", "pos"]}
    assert table.format == "folder"
    assert table.unit == "file"
    assert not table.notes
    assert table.row_numbers.tolist() == [0, 1, 2]
    bad = table.bad_row(1, "no")
    assert str(bad) == f"{folder}/pos/2.txt: no"
    assert bad.line == 2


def test_folder_of_classes_with_bad_files(folder, file, monkeypatch):
    file("reviews/neg/0.txt", b"\xff")
    file("reviews/pos/3.txt", b"a\0b")
    file("reviews/pos/4.txt", "long" * 100)
    monkeypatch.setattr(class_folders, "_MOST_TEXT_BYTES", 200)
    table = read_table(str(folder))
    assert [str(bad) for bad in table.bad_rows] == [
        f"{folder}/neg/0.txt: not UTF-8 (byte 0xff)",
        f"{folder}/pos/3.txt: found a NUL byte (binary content?), expected UTF-8 text",
        f"{folder}/pos/4.txt: longer than 64 MiB".replace("64", "0"),
    ]
    assert [bad.line for bad in table.bad_rows] == [1, 4, 5]
    assert table.row_numbers.tolist() == [1, 2, 5]
    assert table.num_source_rows == 6
    assert str(table.bad_row(2, "no")) == f"{folder}/pos/10.txt: no"


def test_folder_of_classes_leaves_out_and_says_so(folder, file, tmp_path):
    file("reviews/.git/x", "x")
    file("reviews/pos/.hidden", "x")
    file("reviews/README", "x")
    (folder / "empty").mkdir()
    file("secret/1.txt", "secret")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "pos" / "7.txt").symlink_to(tmp_path / "secret" / "1.txt")
    (folder / "pos" / "8.txt").symlink_to(tmp_path / "nowhere.txt")
    (folder / "pos" / "9.txt").symlink_to(folder / "pos" / "10.txt")
    table = read_table(str(folder))
    assert cells(table)["text"] == ["é\n", "two\r\nlines", "ten", "ten"]
    assert table.notes == [
        "left out: 2 hidden, 3 links that lead out of the folder, 1 file beside the folders, 1 empty folder"
    ]


def test_folder_of_classes_with_other_things_is_refused(folder, file, tmp_path):
    path = file("reviews/pos/a.csv", "x")
    with pytest.raises(DataError, match=r"a\.csv: found a file in a folder of a class"):
        read_table(str(folder))
    os.remove(path)
    (folder / "pos" / "deeper").mkdir()
    with pytest.raises(DataError, match="deeper: found a folder in a folder of a class"):
        read_table(str(folder))
    (folder / "pos" / "deeper").rmdir()
    os.mkfifo(folder / "pos" / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt: found a file in a folder of a class"):
        read_table(str(folder))
    file("only_files/a.txt", "x")
    assert "folder without folders of .txt files" in refusal(str(tmp_path / "only_files"))
    os.mkdir(os.fsencode(tmp_path) + b"/only_files/\xff")
    with open(os.fsencode(tmp_path) + b"/only_files/\xff/1.txt", "w") as made:
        made.write("x")
    assert "expected a name that can be a label" in refusal(str(tmp_path / "only_files"))


def test_folder_of_classes_is_handed_over_with_its_names(folder):
    def bytes_of():
        seen = []
        read_table(str(folder), on_bytes=seen.append)
        return b"".join(seen)

    before = bytes_of()
    assert before.startswith(b"neg/1.txt\0" + b"4\0" + "é\n\n".encode() + b"pos/2.txt\0")
    os.rename(folder / "neg", folder / "bad")
    assert bytes_of() != before


def test_folder_of_classes_in_parts(folder, monkeypatch):
    for number in range(50):
        (folder / "neg" / f"n{number}.txt").write_text(f"text {number}")
    whole = read_table(str(folder))
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", 64)
    parts = list(read_parts(str(folder)))
    assert len(parts) > 3
    assert sum(part.num_source_rows for part in parts) == 53
    assert [text for part in parts for text in cells(part)["text"]] == cells(whole)["text"]
    assert [line for part in parts for line in part.lines.tolist()] == list(range(1, 54))
    assert cells(whole)["text"][1:4] == ["text 0", "text 1", "text 2"]


def natural(name):
    """The order of names, as pieces: numbers by value and before words."""
    pieces = re.split(r"([0-9]+)", name)
    return [(0, int(piece), piece) if piece[:1].isdecimal() else (1, 0, piece) for piece in pieces if piece]


@given(st.lists(st.text("0129a.é\ud7ff\udc80\U0001f600_", min_size=1, max_size=12), unique=True))
def test_names_of_texts_are_in_natural_order(names):
    assert sorted(names, key=class_folders._natural) == sorted(names, key=natural)


@pytest.mark.slow
def test_a_class_of_many_texts_needs_few_bytes_a_name(tmp_path, monkeypatch):
    (tmp_path / "neg").mkdir()
    names = [f"{i}_{i % 10}.txt" for i in range(200_000)]
    monkeypatch.setattr(class_folders, "_files", lambda folder, root, skipped: (name for name in reversed(names)))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    found = class_folders._sorted_files(str(tmp_path / "neg"), str(tmp_path))
    assert [os.path.basename(next(found)) for _ in range(3)] == names[:3]
    peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert peak < 100 * len(names)
    assert [os.path.basename(path) for path in found] == names[3:]


def test_a_large_class_comes_in_parts_however_short_its_texts(folder, monkeypatch):
    monkeypatch.setattr(class_folders, "_MOST_TEXTS", 2)
    assert [part.row_numbers.tolist() for part in read_parts(folder)] == [[0, 1], [2]]


# --- what is not there, or cannot be used ---


def test_a_missing_file_of_any_name_is_called_missing(file, tmp_path):
    file("comments.csv", "text,label\na,1\n")
    for name in ("nosuch", "nosuch.xlsx", "nosuch.csv.bz2"):
        assert refusal(str(tmp_path / name)).endswith("no such file")
    for name in ("comments", "comments.cvs"):
        assert refusal(str(tmp_path / name)).endswith(f"no such file; did you mean {tmp_path / 'comments.csv'}?")
    assert "found the extension .xlsx" in refusal(file("there.xlsx", "x"))


def test_a_one_hot_label_is_named_where_no_label_is_found(file):
    path = file("a.npz", archive(text=np.array(["a", "b"]), y=np.eye(2)))
    with pytest.raises(DataError) as caught:
        read_labelled(path, DataSettings())
    assert '(of no use: "y", which holds an array of shape (2, 2) and type float64)' in str(caught.value)
