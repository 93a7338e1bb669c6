"""Files to columns: every format, where rows start, what is refused and how."""

import csv
import gzip
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.data import delimited, jsonl
from bertwright.data.read import read_lines, read_table
from bertwright.data.table import BadRow, CellKind, show
from bertwright.data.text_stream import TextStream
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


def reasons(table):
    return [(bad.line, bad.reason) for bad in table.bad_rows]


def refusal(path, **arguments):
    """The message with which a file is refused, which must be one line."""
    with pytest.raises(DataError) as caught:
        read_table(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def stream_of(data, path="a.csv"):
    return TextStream(path, iter([data]))


def read_at_once(data, block_bytes=1 << 20):
    """The table of a .csv file by the fast way, without a header, or None; and why."""
    stream = stream_of(data)
    data = stream.peek(size=len(data))
    columns, why = delimited._read_at_once(data, ",", 0, block_bytes)
    return columns and delimited._table_at_once(stream, data, columns, delimited._Before("csv")), why


def read_by_row(data):
    return delimited._read_by_row(stream_of(data), delimited._Before("csv"), "")


# --- .csv ---


def test_csv_with_quotes_line_breaks_and_doubled_quotes(file):
    table = read_table(file("a.csv", 'text,label\r\n"one\r\ntwo, ""three""",0\r\n\r\nplain,1\r\n'))
    assert cells(table) == {"text": ['one\r\ntwo, "three"', "plain"], "label": ["0", "1"]}
    assert [table.line_of(row) for row in range(2)] == [2, 5]
    assert table.has_header
    assert not table.bad_rows
    assert table.row_numbers.tolist() == [0, 1]


def test_csv_keeps_empty_and_null_words_as_texts(file):
    table = read_table(file("a.csv", 'text,label\nNA,0\nnull,1\n"",1\nNaN,0\n,1\n#N/A,0\n'))
    assert cells(table)["text"] == ["NA", "null", "", "NaN", "", "#N/A"]
    assert all(column.null_count == 0 for column in table.columns.values())


def test_csv_byte_order_mark_is_no_part_of_the_first_name(file):
    assert list(read_table(file("a.csv", "\ufefftext,label\na,1\n")).columns) == ["text", "label"]


def test_csv_last_line_needs_no_line_end(file):
    assert cells(read_table(file("a.csv", 'text,label\na,1\n"b",0')))["text"] == ["a", "b"]


def test_csv_with_carriage_returns_only(file):
    table = read_table(file("a.csv", "text,label\ra,1\rb,0\r"))
    assert cells(table)["label"] == ["1", "0"]
    assert table.lines.tolist() == [2, 3]


def test_csv_field_longer_than_any_block_or_limit(file):
    long = "x" * 300_000
    at_once, _ = read_at_once(f'text,label\n"{long}",1\nb,0\n'.encode(), 1000)
    assert at_once.columns["1"].to_pylist() == ["text", long, "b"]
    before = csv.field_size_limit()
    table = read_table(file("b.csv", f'text,label\n"{long}",1\nb"c"d,0\n'))
    assert cells(table)["text"] == [long, 'b"c"d']
    assert csv.field_size_limit() == before


def test_csv_wrong_number_of_fields_is_a_bad_row_on_its_line(file):
    table = read_table(file("a.csv", 'text,label\n"a\nb",1\nc,0,9\n\n"d\n",0\ne\nf,1\n'))
    assert reasons(table) == [
        (4, "found 3 fields, expected 2 as on line 1"),
        (8, "found 1 field, expected 2 as on line 1"),
    ]
    assert cells(table)["text"] == ["a\nb", "d\n", "f"]
    assert table.lines.tolist() == [2, 6, 9]
    assert table.row_numbers.tolist() == [0, 2, 4]
    assert table.num_source_rows == 5


def test_csv_quote_that_is_not_doubled_is_a_bad_row(file):
    table = read_table(file("a.csv", 'text,label\n"He said "hi" to me",1\nb,0\n'))
    assert reasons(table) == [(2, "a quote inside a quoted field is not doubled")]
    assert cells(table)["text"] == ["b"]
    table = read_table(file("b.csv", 'text,label\n"a\nb\nc"d,1\nb,0\n'))
    assert reasons(table) == [(2, "a quote inside a quoted field is not doubled (the field runs on to line 4)")]


def test_csv_quote_in_an_unquoted_field_is_text(file):
    assert cells(read_table(file("a.csv", 'text,label\n5" pipe,1\nsay "b",0\n')))["text"] == ['5" pipe', 'say "b"']


def test_csv_quote_never_closed_is_refused(file):
    path = file("a.csv", 'text,label\na,1\n"b,0\nc,1\n')
    assert "line 3: a quote opens a field here and is not closed" in refusal(path)


def test_csv_bytes_that_are_not_utf8_are_a_bad_row(file):
    table = read_table(file("a.csv", b"text,label\na,1\ncaf\xe9,0\n\xc3\xa9,1\n"))
    assert reasons(table) == [(3, "not UTF-8 (byte 0xe9)")]
    assert cells(table)["text"] == ["a", "é"]
    assert "line 1: not UTF-8 (byte 0xff)" in refusal(file("b.csv", b"te\xffxt,label\na,1\n"))


def test_csv_large_and_odd_is_said_to_be_slow(file, monkeypatch):
    monkeypatch.setattr(delimited, "_SLOW_BYTES", 10)
    assert "row by row, which is slower" in read_table(file("a.csv", 'text,label\n5" pipe,1\n')).notes[0]


# every text that UTF-8 can hold; NUL is refused as binary content
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ODD = st.text(st.sampled_from(list('a ",\t\r\n|é\u2028\ufeff')), max_size=8)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(TEXTS | ODD, TEXTS | ODD), min_size=1, max_size=6),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_csv_gives_back_what_was_written(tmp_path_factory, rows, quoting):
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=quoting)
    writer.writerow(["text", "label"])
    starts = []
    for row in rows:
        starts.append(buffer.getvalue().count("\n") + 1)
        writer.writerow(row)
    data = buffer.getvalue().encode()
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(data)
    table = read_table(path)
    expected = [(row, start) for row, start in zip(rows, starts, strict=True) if row != ("text", "label")]
    assert list(zip(*cells(table).values(), strict=True)) == [row for row, _ in expected]
    assert table.lines.tolist() == [start for _, start in expected]
    at_once, why = read_at_once(data)
    by_row = read_by_row(data)
    if at_once is None:  # a quote inside an unquoted field, which writers do not write
        assert "quote" in why or "Empty CSV" in why
    else:
        assert_same(at_once, by_row)


def assert_same(at_once, by_row):
    assert cells(at_once) == cells(by_row)
    assert at_once.lines.tolist() == by_row.lines.tolist()
    assert at_once.row_numbers.tolist() == by_row.row_numbers.tolist()
    assert not by_row.bad_rows


@settings(max_examples=400)
@given(
    st.lists(
        st.sampled_from(
            ['"', ",", "\n", "\r", "\r\n", "a", " ", "é", '""', '"a"', "a,b\n", "\n" * 8, "\r\n" * 8, "\r" * 9]
        ),
        max_size=14,
    ).map("".join),
    st.sampled_from([1 << 20, 6, 9]),
)
def test_both_csv_paths_agree_wherever_the_fast_one_is_taken(content, block_bytes):
    data = ("x,y\n" + content).encode()
    at_once, _ = read_at_once(data, block_bytes)
    if at_once is not None:
        assert_same(at_once, read_by_row(data))


def test_line_feed_at_the_start_of_a_block_is_kept():
    data = b'x,y\n"\r\n","a"'
    at_once, _ = read_at_once(data, 6)
    assert cells(at_once) == {"1": ["x", "\r\n"], "2": ["y", "a"]}


def test_the_fast_path_is_the_usual_one():
    data = b'text,label\n"one\n""two""",0\nplain,1\n'
    assert read_at_once(data)[0] is not None


# --- is there a header? ---


def test_no_header_where_the_label_occurs_again(file):
    table = read_table(file("a.csv", "good film,1\nbad film,0\nfine,1\nawful,0\npoor,0\nnice,1\nso so,0\n"))
    assert not table.has_header
    assert list(table.columns) == ["1", "2"]
    assert len(table) == 7
    assert table.line_of(0) == 1
    assert "no header found" in table.notes[0]
    assert '"1", "2"' in table.notes[0]


def test_no_header_where_a_known_name_is_a_label_that_occurs_again(file):
    table = read_table(file("a.tsv", "toxic\tyou fool\nclean\thello\ntoxic\tgo away\n"))
    assert not table.has_header
    assert cells(table)["1"] == ["toxic", "clean", "toxic"]


def test_no_header_where_text_is_the_first_text(file):
    table = read_table(file("a.csv", "text,0\nmore,1\nless,0\n"))
    assert not table.has_header


def test_header_with_only_one_known_name(file):
    assert read_table(file("a.csv", "comment_text,x\na,1\nb,0\n")).has_header
    assert read_table(file("b.csv", "id,Sentence,x\n1,a,1\n2,b,0\n")).has_header


def test_header_of_unknown_names_is_seen_by_what_stands_below_it(file):
    table = read_table(file("a.csv", "utterances,mark\na,1\nb,0\nc,1\n"))
    assert table.has_header
    assert "no name in it is known" in table.notes[0]
    rows = "".join(f"text {number},{'spam' if number % 3 else 'ham'}\n" for number in range(12))
    assert read_table(file("b.csv", "utterances,mark\n" + rows)).has_header
    assert not read_table(file("c.csv", rows)).has_header


def test_names_that_the_user_gave_make_a_header(file):
    path = file("a.csv", "said,mood\na,x\nb,y\n")
    assert not read_table(path).has_header
    assert read_table(path, names=["said"]).has_header
    assert not read_table(file("b.csv", "1,x\n0,y\n1,z\n"), names=["1", "2"]).has_header


def test_header_written_again_in_joined_files_is_a_bad_row(file):
    table = read_table(file("a.csv", "text,label\na,1\ntext,label\nb,0\n"))
    assert table.has_header
    assert reasons(table) == [(3, "repeats the header")]
    assert cells(table) == {"text": ["a", "b"], "label": ["1", "0"]}
    assert table.lines.tolist() == [2, 4]
    assert table.row_numbers.tolist() == [0, 2]


def test_column_without_a_name_is_called_by_its_number(file):
    assert list(read_table(file("a.csv", ",text,label\n0,a,1\n1,b,0\n")).columns) == ["1", "text", "label"]


def test_two_columns_of_one_name_are_refused(file):
    assert 'two columns named "text"' in refusal(file("a.csv", "text,text,label\na,b,1\n"))
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert 'two columns named "text"' in refusal(file("a.parquet", buffer.getvalue()))


def test_header_without_rows_is_refused(file):
    assert 'found a header ("text", "label") but no rows' in refusal(file("a.csv", "text,label\n"))
    assert "no rows" in refusal(file("a.tsv", "text\tlabel\n\n"))


def test_one_row_without_header_is_a_row(file):
    table = read_table(file("a.csv", "nice film,1"))
    assert cells(table) == {"1": ["nice film"], "2": ["1"]}


# --- .tsv ---


def test_tsv_takes_stray_quotes_as_text(file):
    table = read_table(file("a.tsv", 'label\tsentence\n0\t"quoted" he said\n1\tan "open quote\n0\t"\n'))
    assert cells(table)["sentence"] == ['"quoted" he said', 'an "open quote', '"']
    assert not table.notes
    assert table.lines.tolist() == [2, 3, 4]


def test_tsv_with_crlf_and_blank_lines(file):
    table = read_table(file("a.tsv", "label\tsentence\r\n0\ta \r\n\r\n1\tb\rc"))
    assert cells(table) == {"label": ["0", "1"], "sentence": ["a ", "b\rc"]}
    assert table.lines.tolist() == [2, 4]


def test_tsv_with_quoted_line_breaks_is_read_with_quotes(file):
    table = read_table(file("a.tsv", 'label\ttext\n0\t"one\ntwo"\n1\tb\n'))
    assert cells(table)["text"] == ["one\ntwo", "b"]
    assert "read with quotes" in table.notes[0]
    assert table.lines.tolist() == [2, 4]


def test_tsv_of_regular_lines_is_quoted_only_where_that_shows(file):
    table = read_table(file("a.tsv", '"label"\t"text"\n"0"\t"a"\n'))
    assert cells(table) == {"label": ["0"], "text": ["a"]}
    table = read_table(file("b.tsv", 'label\ttext\n0\t"say ""a"""\n'))
    assert cells(table)["text"] == ['say "a"']
    table = read_table(file("c.tsv", 'label\ttext\n0\t"a"\n'))
    assert cells(table)["text"] == ['"a"']


def test_tsv_with_a_tab_too_many_is_a_bad_row(file):
    table = read_table(file("a.tsv", 'label\ttext\n0\t"a\n1\tb\tc\n1\td"e"\n\n0\n'))
    assert reasons(table) == [
        (3, "found 3 fields, expected 2 as on line 1"),
        (6, "found 1 field, expected 2 as on line 1"),
    ]
    assert cells(table)["text"] == ['"a', 'd"e"']
    assert table.row_numbers.tolist() == [0, 2]
    assert table.num_source_rows == 4
    assert "without quotes" in table.notes[0]


def test_tsv_bytes_that_are_not_utf8_are_a_bad_row(file):
    table = read_table(file("a.tsv", b"label\ttext\n0\ta\n1\t\xff\xfe\n1\t\xc3\xa9\n"))
    assert reasons(table) == [(3, "not UTF-8 (byte 0xff)")]
    assert cells(table)["text"] == ["a", "é"]
    assert table.row_numbers.tolist() == [0, 2]


@settings(max_examples=100)
@given(st.lists(TEXTS.filter(lambda text: not set(text) & set('\t\n\r"')), min_size=1, max_size=6))
def test_tsv_gives_back_what_was_written(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    path.write_bytes("".join(f"{text}\t{number}\n" for number, text in enumerate(["text", *texts])).encode())
    table = read_table(path, names=["text"])
    assert next(iter(table.columns.values())).to_pylist() == texts
    assert table.lines.tolist() == list(range(2, len(texts) + 2))


# --- .txt ---


def test_label_and_text_lines(file):
    table = read_table(file("a.txt", "3 ||| a film .\r\n\n0 ||| bad ||| é very\n1 |||| odd\n"))
    assert cells(table) == {"label": ["3", "0"], "text": ["a film .", "bad ||| é very"]}
    assert table.lines.tolist() == [1, 3]
    assert [bad.line for bad in table.bad_rows] == [4]
    assert "label ||| text" in table.bad_rows[0].reason
    assert table.row_numbers.tolist() == [0, 1]


def test_label_and_text_lines_with_bytes_that_are_not_utf8(file):
    table = read_table(file("a.txt", b"3 ||| a\nno label\n2 ||| \xff\n1 ||| b\n"))
    assert [bad.line for bad in table.bad_rows] == [2, 3]
    assert table.bad_rows[1].reason == "not UTF-8 (byte 0xff)"
    assert cells(table)["text"] == ["a", "b"]
    assert table.row_numbers.tolist() == [0, 3]


def test_plain_lines_only_where_asked_for(file):
    path = file("a.txt", "one text\n\nanother ||| text\nthird \n\n\n")
    table = read_table(path, plain_text=True)
    assert cells(table) == {"text": ["one text", "", "another ||| text", "third"]}
    assert table.lines.tolist() == [1, 2, 3, 4]
    assert len(read_table(path).bad_rows) == 2
    labelled = read_table(file("b.txt", "1 ||| a\n0 ||| b\n"), plain_text=True)
    assert cells(labelled)["text"] == ["a", "b"]


def test_lines_of_file_objects():
    assert cells(read_lines(io.BytesIO(b"a\r\nb\n"), "x")) == {"text": ["a", "b"]}
    assert cells(read_lines(io.StringIO("a\né"), "x")) == {"text": ["a", "é"]}
    with pytest.raises(DataError, match="x: empty"):
        read_lines(io.BytesIO(b""), "x")
    broken = io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8")
    with pytest.raises(DataError, match="x: not UTF-8"):
        read_lines(broken, "x")
    assert read_lines(io.BytesIO(b"a\n\xff\n"), "x").bad_rows == [BadRow("x", 2, "not UTF-8 (byte 0xff)")]


# --- .jsonl ---


def test_jsonl_values_and_their_kinds(file):
    rows = [
        {"text": "a", "label": 1},
        {"label": 2.0, "text": "b", "extra": None},
        {"text": 5, "label": 0.5},
        {"text": ["c"], "label": True},
        {"label": float("nan"), "text": "\ud800"},
        {"text": "e", "label": "1"},
    ]
    table = read_table(file("a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"))
    assert cells(table)["label"] == ["1", "2", "0.5", "true", None, "1"]
    assert cells(table)["text"] == ["a", "b", "5", None, None, "e"]
    kind = CellKind
    assert table.cell_kinds["text"].tolist() == [kind.TEXT, kind.TEXT, kind.NUMBER, kind.NESTED, kind.BROKEN, kind.TEXT]
    assert table.cell_kinds["label"].tolist() == [
        kind.NUMBER,
        kind.NUMBER,
        kind.NUMBER,
        kind.BOOL,
        kind.NULL,
        kind.TEXT,
    ]
    assert table.cell_kinds["extra"].tolist() == [kind.MISSING, kind.NULL, *[kind.MISSING] * 4]


def test_jsonl_lines_that_are_no_object(file):
    digits = "9" * 5000
    deep = "[" * 100_000
    table = read_table(
        file("a.ndjson", f'{{"text": "a"}}\n\n[1]\n{{"text": \n"b"\nnull\n7\n{digits}\n{deep}\n{{"text": "c"}}\n')
    )
    assert [bad.line for bad in table.bad_rows] == [3, 4, 5, 6, 7, 8, 9]
    found = [bad.reason for bad in table.bad_rows]
    assert found[0] == "found a list, expected one JSON object a line"
    assert "not JSON" in found[1]
    assert "found a string" in found[2]
    assert "found null" in found[3]
    assert "found a number" in found[4]
    assert "not JSON" in found[5]
    assert "not JSON" in found[6]
    assert table.lines.tolist() == [1, 10]
    assert table.row_numbers.tolist() == [0, 8]


def test_jsonl_bytes_and_keys_that_are_no_text(file):
    table = read_table(file("a.jsonl", b'\xef\xbb\xbf{"text": "a", "\\ud800": 1}\n{"text": "\xff"}\n'))
    assert list(table.columns) == ["text"]
    assert reasons(table) == [(2, "not UTF-8 (byte 0xff)")]


def test_jsonl_without_any_column_is_refused(file):
    message = refusal(file("a.jsonl", '[{"text": "a"},\n{"text": "b"}]\n'))
    assert "line 1: not JSON" in message
    assert "one JSON object a line" in message
    assert "found objects without keys" in refusal(file("b.jsonl", "{}\n{}\n"))


def test_jsonl_over_several_batches(file, monkeypatch):
    monkeypatch.setattr(jsonl, "_BATCH_ROWS", 2)
    rows = [{"text": str(number), **({"label": number} if number > 2 else {})} for number in range(7)]
    table = read_table(file("a.jsonl", "\n".join(map(json.dumps, rows))))
    assert cells(table)["label"] == [None, None, None, "3", "4", "5", "6"]
    assert table.cell_kinds["label"].tolist()[:4] == [CellKind.MISSING] * 3 + [CellKind.NUMBER]


def test_jsonl_with_a_key_a_row_is_refused(file):
    lines = "".join(json.dumps({f"key {number}": 1}) + "\n" for number in range(1100))
    assert "more than 1,000 different keys" in refusal(file("a.jsonl", lines))


# --- .parquet ---


def parquet(table, **options):
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, **options)
    return buffer.getvalue()


def test_parquet_types(file):
    path = file(
        "a.parquet",
        parquet(
            {
                "text": pa.array(["a", None, "c"]).dictionary_encode(),
                "large": pa.array(["a", "b", "c"], pa.large_string()),
                "whole": pa.array([1, 0, None], pa.int8()),
                "real": pa.array([1.0, float("nan"), 0.5], pa.float32()),
                "flag": [True, False, None],
                "list": [[1], [2], [3]],
                "nothing": pa.nulls(3),
            }
        ),
    )
    table = read_table(path)
    assert pa.types.is_large_string(table.columns["text"].type)
    assert cells(table)["text"] == ["a", None, "c"]
    assert cells(table)["whole"] == [1, 0, None]
    assert cells(table)["flag"] == [True, False, None]
    assert table.unusable.keys() == {"list"}
    assert table.line_of(2) == 3
    assert table.unit == "row"


def test_parquet_text_that_is_not_utf8(file):
    broken = pa.array([b"a", b"\xff", None], pa.binary()).view(pa.string())
    table = read_table(file("a.parquet", parquet({"text": broken})))
    assert cells(table)["text"] == ["a", None, None]
    assert table.cell_kinds["text"].tolist() == [CellKind.TEXT, CellKind.BROKEN, CellKind.TEXT]


def test_parquet_damaged_or_empty(file):
    whole = parquet({"text": ["a"] * 1000})
    assert "damaged or not a parquet file" in refusal(file("a.parquet", whole[: len(whole) // 2]))
    assert "damaged or not a parquet file" in refusal(file("b.parquet", b"PAR1" + b"garbage" * 40 + b"PAR1"))
    assert 'found columns ("text") but no rows' in refusal(
        file("c.parquet", parquet({"text": pa.array([], pa.string())}))
    )


# --- any file ---


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\na,1\nb,0\n"),
        ("a.tsv", b"text\tlabel\na\t1\nb\t0\n"),
        ("a.txt", b"1 ||| a\n0 ||| b\n"),
        ("a.jsonl", b'{"text": "a", "label": "1"}\n{"text": "b", "label": "0"}\n'),
        ("a.ndjson", b'{"text": "a", "label": "1"}\n{"text": "b", "label": "0"}\n'),
        ("a.parquet", parquet({"text": ["a", "b"], "label": ["1", "0"]})),
        ("A.CSV", b"text,label\na,1\nb,0\n"),
        ("my.data.v2.csv", b"text,label\na,1\nb,0\n"),
    ],
)
def test_every_format_plain_and_compressed(file, name, content):
    expected = {"text": ["a", "b"], "label": ["1", "0"]}
    plain, packed = read_table(file(name, content)), read_table(file(name + ".gz", gzip.compress(content)))
    for table in (plain, packed):
        got = cells(table)
        assert {name: got[name] for name in expected} == expected
        assert all(pa.types.is_large_string(column.type) for column in table.columns.values())
    assert plain.lines.tolist() == packed.lines.tolist()


def test_gzip_of_several_members(file):
    packed = gzip.compress(b"text,label\na,1\n") + gzip.compress(b"b,0\n")
    assert cells(read_table(file("a.csv.gz", packed)))["text"] == ["a", "b"]


def test_gzip_damaged(file):
    packed = gzip.compress(os.urandom(5000).hex().encode())
    assert "damaged gzip" in refusal(file("a.csv.gz", packed[:2000]))
    assert "damaged gzip" in refusal(file("b.csv.gz", packed[:500] + b"????" + packed[504:]))
    assert "not a gzip file" in refusal(file("c.csv.gz", b"text,label\na,1\n"))
    assert "empty once decompressed" in refusal(file("d.csv.gz", gzip.compress(b"")))


def test_bytes_are_handed_over_as_they_lie_on_disk(file):
    packed = gzip.compress(b"text,label\na,1\n")
    seen = []
    read_table(file("a.csv.gz", packed), on_bytes=seen.append)
    assert b"".join(seen) == packed


def test_missing_file_names_the_nearest(file, tmp_path):
    near = file("comments.csv", "text,label\na,1\n")
    message = refusal(str(tmp_path / "coments.csv"))
    assert "no such file" in message
    assert near in message


def test_folder_extension_and_permission(file, tmp_path, monkeypatch):
    assert "found a folder" in refusal(str(tmp_path))
    message = refusal(file("a.xlsx", "x"))
    for extension in (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt", ".gz", "found the extension .xlsx"):
        assert extension in message
    assert "found no extension" in refusal(file("data", "x"))

    def forbidden(self, *arguments, **more):
        raise PermissionError(13, "Permission denied")

    path = file("b.csv", "x")
    monkeypatch.setattr(Path, "open", forbidden)
    assert "cannot be read (permission denied)" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\n \r\n", "empty but for blank lines"),
        (b"\xef\xbb\xbf", "empty but for blank lines"),
        ("text,label\na,1\n".encode("utf-16"), "UTF-16 text (byte order mark ff fe)"),
        ("text,label\na,1\n".encode("utf-16-le"), "UTF-16 without a byte order mark?"),
        (b"text,label\na,1\nb\0c,0\n", "line 3: found a NUL byte (binary content?)"),
        (gzip.compress(b"text,label\na,1\n", mtime=0), "found gzip data"),
        (b"PK\x03\x04rest", "found a zip archive"),
        (parquet({"text": ["a"]}), "found parquet data"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl"])
def test_content_that_is_no_text_is_refused(file, name, content, words):
    message = refusal(file(name, content))
    assert words in message
    assert "expected" in message


def test_values_in_messages_stay_on_one_line():
    assert show('a\nb\x1b[31m"') == '"a\\nb\\x1b[31m""'
    assert show("x" * 100) == '"' + "x" * 60 + '..."'


def test_bad_row_says_where():
    assert str(BadRow("a.csv", 48213, "no")) == "a.csv, line 48,213: no"
    assert BadRow("a.parquet", 2, "no", "row").where == "a.parquet, row 2"


@settings(max_examples=300)
@given(
    st.sampled_from(["csv", "tsv", "txt", "jsonl", "csv.gz", "parquet"]),
    st.binary(max_size=40)
    | st.lists(
        st.sampled_from([b'"', b",", b"\t", b"\n", b"\r", b" ||| ", b"text", b"label", b"\xff", b"1", b'{"a":1}'])
    ).map(b"".join),
    st.booleans(),
)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory, extension, data, plain_text):
    path = tmp_path_factory.mktemp("any") / f"a.{extension}"
    path.write_bytes(data)
    try:
        table = read_table(path, plain_text=plain_text)
    except DataError:
        refusal(path, plain_text=plain_text)
        return
    assert {len(column) for column in table.columns.values()} <= {len(table)}
    assert len(table.lines) == len(table)
    assert len(table) + len(table.bad_rows) == table.num_source_rows
    lines = [*table.lines.tolist(), *(bad.line for bad in table.bad_rows)]
    assert all(1 <= line <= data.count(b"\n") + data.count(b"\r") + 1 for line in lines)
    for column in table.columns.values():
        column.validate(full=True)


# --- real files ---

needs_data = pytest.mark.skipif(
    "BERTWRIGHT_DATA" not in os.environ, reason="BERTWRIGHT_DATA does not name the folder of real data"
)


@needs_data
def test_real_quoted_comments_agree_on_both_paths():
    data = (Path(os.environ["BERTWRIGHT_DATA"]) / "toxic_comments" / "train_1.csv").read_bytes()
    at_once, _ = read_at_once(data)
    assert at_once is not None
    assert_same(at_once, read_by_row(data))
    physical, starts = data.decode().split("\n"), at_once.lines
    for row in np.linspace(1, 10_000, 50, dtype=int):
        doubled = at_once.columns["1"][row].as_py().replace('"', '""')
        assert physical[starts[row] - 1].lstrip('"').startswith(doubled.lstrip('"').split("\n")[0])
