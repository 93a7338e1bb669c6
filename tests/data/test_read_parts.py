"""Files in parts: the same as in one piece, wherever they are cut, and never much of them in memory."""

import csv
import gc
import io
import json
import tracemalloc
import weakref
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertwright.data import delimited, jsonl, lines, record_batches, text_stream
from bertwright.data.read import read_line_parts, read_lines, read_parts, read_table
from bertwright.data.table import joined
from bertwright.errors import DataError


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return str(path)

    return write


def cells(table):
    return {name: column.to_pylist() for name, column in table.columns.items()}


def outcome(read):
    """Everything that a table says, or why there is none."""
    try:
        table = read()
    except DataError as error:
        return str(error)
    return {
        "cells": cells(table),
        "lines": table.lines.tolist(),
        "rows": table.row_numbers.tolist(),
        "source rows": table.num_source_rows,
        "bad rows": table.bad_rows,
        "header": table.has_header,
        "kinds": {name: kinds.tolist() for name, kinds in table.cell_kinds.items()},
        "unusable": table.unusable,
    }


class _Blocks:
    """Within it, files are cut into blocks of ``size`` bytes."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = text_stream.BLOCK_BYTES, record_batches.STEP_ROWS
        text_stream.BLOCK_BYTES = self.size
        record_batches.STEP_ROWS = 2

    def __exit__(self, *error):
        text_stream.BLOCK_BYTES, record_batches.STEP_ROWS = self.before


def assert_parts_make_the_whole(path, size, **arguments):
    whole = outcome(lambda: read_table(path, **arguments))
    with _Blocks(size):
        assert outcome(lambda: read_table(path, **arguments)) == whole
        if isinstance(whole, dict):
            parts = list(read_parts(path, **arguments))
            assert all(part.columns.keys() == parts[0].columns.keys() for part in parts)
            assert sum(len(part) for part in parts) == len(whole["rows"])
            assert all(len(part.lines) == len(part) for part in parts)
            assert all(part.num_source_rows for part in parts)


# --- the same wherever a file is cut ---


TEXT = st.text(st.sampled_from(list('a ",\t\r\n|é')), max_size=12)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 90),
)
def test_csv_as_written(tmp_path_factory, rows, line_end, size):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=line_end).writerows([("text", "label"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(buffer.getvalue().encode())
    assert_parts_make_the_whole(str(path), size)


PIECES = ['"', ",", "\n", "\r", "\r\n", "a", " ", "é", '""', '"a"', "a,b\n", '"a\nb",c\n', 'd"e,f\n', "g,h,i\n"]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.integers(1, 60))
@example('a"b,c\nd,"e\nf"\n', 1)
@example('"a\n\n\nb",c\nd,e\n"unclosed,f\ng,h\n', 4)
@example("a,b\r" * 4, 5)
def test_csv_of_any_quotes(tmp_path_factory, content, size):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(("text,label\n" + content).encode())
    assert_parts_make_the_whole(str(path), size)


@settings(max_examples=150)
@given(
    st.sampled_from(["tsv", "txt", "jsonl"]),
    st.lists(
        st.sampled_from(
            [
                b"\t",
                b"\n",
                b"\r\n",
                b"\n\n",
                b" ||| ",
                b"a",
                b"\xff",
                b"1 ||| b\n",
                b"c\td\n",
                b'{"text": "a"}\n',
                b"\r",
            ]
        ),
        max_size=25,
    ).map(b"".join),
    st.booleans(),
    st.integers(1, 60),
)
@example("tsv", b'\t\r\t{"text": "a"}\n', True, 1)
@example("tsv", b'\t\r\t{"text": "a"}\n', False, 1)
@example("txt", b"\n" * 30 + b"a\n\n\n", True, 4)
def test_lines(tmp_path_factory, extension, content, either, size):
    first = {"tsv": b"text\tlabel\ne\tf\n", "txt": b"1 ||| g\n", "jsonl": b'{"text": "h", "label": 1}\n'}[extension]
    path = tmp_path_factory.mktemp("lines") / f"a.{extension}"
    path.write_bytes(first + content)
    if extension == "tsv":  # whether it is quoted is decided by the first block
        with mock.patch.object(delimited, "_is_quoted", return_value=(either, "")):
            assert_parts_make_the_whole(str(path), size)
    elif extension == "txt" and either:  # what most lines are is decided by the first block
        first = outcome(lambda: read_lines(io.BytesIO(first + content), "x"))
        with _Blocks(size), mock.patch.object(lines, "_MOST_BLANK", 3):
            assert outcome(lambda: joined(list(read_line_parts(io.BytesIO(path.read_bytes()), "x")))) == first
    else:
        assert_parts_make_the_whole(str(path), size)


@pytest.mark.parametrize("size", [1, 40, 100, 1000])
def test_other_formats(file, size, tmp_path):
    texts = [f"text {number}" for number in range(50)]
    table = pa.table({"text": texts, "label": pa.array([n % 3 for n in range(50)]), "list": [[1]] * 50})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=7)
    assert_parts_make_the_whole(file("a.parquet", buffer.getvalue()), size)
    for name, writer in (("a.arrow", pa.ipc.new_file), ("b.arrow", pa.ipc.new_stream)):
        buffer = io.BytesIO()
        with writer(buffer, table.schema) as sink:
            sink.write_table(table, max_chunksize=7)
        assert_parts_make_the_whole(file(name, buffer.getvalue()), size)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, text=np.array(texts), label=np.arange(50), other=np.zeros((50, 2)))
    assert_parts_make_the_whole(file("a.npz", buffer.getvalue()), size)
    with _Blocks(size):
        for name in ("a.parquet", "a.arrow", "b.arrow", "a.npz"):
            assert len(list(read_parts(tmp_path / name))) > 1 or size == 1000


def test_several_parts_are_several(file):
    path = file("a.csv", "text,label\n" + '"a\nb",1\n' * 20)
    with _Blocks(20):
        parts = list(read_parts(path))
    assert len(parts) > 5
    assert parts[0].has_header
    assert [line for part in parts for line in part.lines.tolist()] == list(range(2, 42, 2))
    assert [row for part in parts for row in part.row_numbers.tolist()] == list(range(20))


def test_bytes_are_handed_over_once_and_in_order(file):
    content = ("text,label\n" + 'a"b,1\n"c\nd",0\n' * 300).encode()
    seen = []
    with _Blocks(50):
        for _ in read_parts(file("a.csv", content), on_bytes=seen.append):
            pass
    assert b"".join(seen) == content


# --- the first part decides ---


def test_the_first_part_says_what_the_columns_are(file):
    rows = "".join(f"text {number},{'spam' if number % 3 else 'ham'}\n" for number in range(60))
    with _Blocks(300):
        parts = list(read_parts(file("a.csv", "utterances,mark\n" + rows)))
        assert all(list(part.columns) == ["utterances", "mark"] for part in parts)
        assert [bool(part.notes) for part in parts] == [True] + [False] * (len(parts) - 1)
        parts = list(read_parts(file("b.csv", rows)))
        assert all(list(part.columns) == ["1", "2"] for part in parts)
        parts = list(read_parts(file("c.csv", "text,label\n" + rows + "text,label\na,b,c\n")))
        assert [bad.reason for part in parts for bad in part.bad_rows] == [
            "repeats the header",
            "found 3 fields, expected 2 as on line 1",
        ]
        assert parts[-1].bad_rows[-1].line == 63


def test_header_with_its_rows_in_the_next_block(file):
    long = "x" * 500
    with _Blocks(20):
        (table,) = read_parts(file("a.csv", f"text,label\n{long},1\n"))
        assert cells(table) == {"text": [long], "label": ["1"]}
        with pytest.raises(DataError, match="but no rows below it"):
            list(read_parts(file("b.csv", "text,label\n" + "\n" * 100)))


def test_quotes_in_a_tsv_file_are_decided_once(file):
    quoted = 'label\ttext\n0\t"one\ntwo"\n' + "1\tb\n" * 50 + '1\tc"d\n'
    with _Blocks(60):
        parts = list(read_parts(file("a.tsv", quoted)))
    assert [len(part.notes) for part in parts] == [1] + [0] * (len(parts) - 1)
    assert [text for part in parts for text in cells(part)["text"]] == ["one\ntwo", *["b"] * 50, 'c"d']


def test_jsonl_keys_of_later_parts(file):
    rows = [{"text": "a", "label": 1}] * 5 + [{"text": "b", "other": 2}] * 5 + [{"more": 3}]
    path = file("a.jsonl", "\n".join(map(json.dumps, rows)))
    with _Blocks(60):
        parts = list(read_parts(path))
    assert len(parts) > 3
    assert all(list(part.columns) == ["text", "label"] for part in parts)
    kinds = np.concatenate([part.cell_kinds["label"] for part in parts])
    assert kinds.tolist() == [1] * 5 + [3] * 6


# --- slow rows ---


def test_only_the_rows_around_odd_quotes_are_read_row_by_row(file, monkeypatch):
    slow = []
    by_row = delimited._read_by_row

    def counted(stream, *arguments):
        table = by_row(stream, *arguments)
        slow.append(len(table))
        return table

    monkeypatch.setattr(delimited, "_read_by_row", counted)
    content = "text,label\n" + '"a, b",1\n' * 300 + 'odd "quotes" here,0\n' + '"a, b",1\n' * 300
    with _Blocks(400):
        table = joined(list(read_parts(file("a.csv", content))))
    assert len(table) == 601
    assert 0 < sum(slow) < 150
    assert table.lines.tolist() == list(range(2, 603))


def test_quote_never_closed_does_not_swallow_the_rest(file, monkeypatch):
    monkeypatch.setattr(delimited, "_MOST_FIELD", 1000)
    content = "text,label\na,1\n" + '"never closed,0\n' + "b,1\n" * 1000
    with (
        _Blocks(100),
        pytest.raises(DataError, match=r"line 3: a field here is longer than .* is a quote not closed") as e,
    ):
        list(read_parts(file("a.csv", content)))
    assert "\n" not in str(e.value)


def test_nul_far_into_a_file_names_its_line(file):
    content = b"text,label\n" + b"a,1\n" * 100_000 + b"b\0,1\n"
    with _Blocks(1000), pytest.raises(DataError, match="line 100,002: found a NUL byte"):
        list(read_parts(file("a.csv", content)))
    with _Blocks(1 << 30), pytest.raises(DataError, match="line 100,002: found a NUL byte"):
        list(read_parts(file("a.csv", content)))


# --- memory ---


def rows_of(count):
    return (f'text {number} "doubled"\nand more of it {"x" * (number % 200)}' for number in range(count))


def write(path, kind, count):
    with open(path, "w", newline="", encoding="utf-8") as out:
        if kind == "csv":
            csv.writer(out).writerows([("text", "label"), *((text, "1") for text in rows_of(count))])
        elif kind == "odd.csv":
            out.write("text,label\n" + "".join(f'{number} 5" pipe of some length,1\n' for number in range(count)))
        else:
            for text in rows_of(count):
                line = text.replace("\n", " ")
                out.write(
                    {"jsonl": json.dumps({"text": line, "label": 1}), "tsv": f"{line}\t1", "txt": f"1 ||| {line}"}[kind]
                )
                out.write("\n")


def peak(read):
    """The most memory in use at a time, of Python and of Arrow, over what there was before."""
    gc.collect()
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    arrow = 0
    tracemalloc.start()
    try:
        for part in read():
            arrow = max(arrow, pool.bytes_allocated() - before)
            part.lines  # noqa: B018
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return python + arrow


@pytest.mark.parametrize("kind", ["csv", "odd.csv", "tsv", "txt", "jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("bertwright.data.compression.PIECE_BYTES", 1 << 16)
    monkeypatch.setattr(text_stream, "_LINE_END_BYTES", 1 << 16)
    monkeypatch.setattr(jsonl, "_BATCH_ROWS", 100)
    peaks = []
    for count in (4_000, 24_000):
        path = tmp_path / f"{count}.{kind}"
        write(path, kind, count)
        with _Blocks(1 << 15):
            peaks.append(peak(lambda path=path: read_parts(path)))
    assert path.stat().st_size > 12 * (1 << 15)
    assert peaks[1] < peaks[0] * 1.25 + 20_000, peaks
    assert peak(lambda: [read_table(path)]) > 2 * peaks[1]  # so it would have been seen


def test_memory_of_binary_formats(tmp_path, monkeypatch):
    monkeypatch.setattr("bertwright.data.compression.PIECE_BYTES", 1 << 16)
    table = pa.table({"text": [f"text {number} {'x' * 200}" for number in range(40_000)], "label": [1] * 40_000})
    pq.write_table(table, tmp_path / "a.parquet")  # one row group
    with pa.OSFile(str(tmp_path / "a.arrow"), "w") as file, pa.ipc.new_file(file, table.schema) as sink:
        sink.write_table(table)  # one batch
    np.savez_compressed(tmp_path / "a.npz", text=np.array(table.column("text").to_pylist()), label=np.ones(40_000, int))
    size = table.nbytes
    del table
    for name in ("a.parquet", "a.arrow", "a.npz"):
        with _Blocks(1 << 18):
            record_batches.STEP_ROWS = 256
            found = peak(lambda name=name: read_parts(tmp_path / name))
        assert found < size / 2, (name, found, size)


def test_a_part_is_let_go_when_the_next_one_is_read(tmp_path):
    write(tmp_path / "a.csv", "csv", 20_000)
    alive, seen = [], []
    with _Blocks(1 << 16):
        for part in read_parts(tmp_path / "a.csv"):
            seen.append(weakref.ref(part))
            del part
            alive.append(sum(table() is not None for table in seen))
    assert len(alive) > 20
    assert max(alive) <= 2
