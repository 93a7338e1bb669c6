"""Columns to texts and labels: which column is which, the classes, the rows that cannot be used."""

import gzip
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertwright.config.parts import DataSettings
from bertwright.data.columns import read_labelled, read_unlabelled
from bertwright.data.label_cells import show_labels
from bertwright.errors import DataError


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, dict):
            pq.write_table(pa.table(content), path)
        elif isinstance(content, list):
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        else:
            path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return str(path)

    return write


def labelled(paths, labels=None, **settings):
    return read_labelled(paths, DataSettings(**settings), labels)


def names(found):
    return [found.labels[number] for number in found.label_ids]


def refusal(paths, labels=None, **settings):
    """The message with which files are refused, which must be one line."""
    with pytest.raises(DataError) as caught:
        labelled(paths, labels, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_labelled_texts(file):
    path = file("a.csv", "text,label\n a ,1\nb,0\nc,1\n")
    found = labelled(path)
    assert found.texts.to_pylist() == [" a ", "b", "c"]
    assert pa.types.is_large_string(found.texts.to_arrow().type)
    assert found.label_ids.tolist() == [1, 0, 1]
    assert found.label_ids.dtype == np.int64
    assert found.labels == ("0", "1")
    assert found.rows.tolist() == [0, 1, 2]
    assert found.rows.dtype == np.int64
    assert found.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert len(found) == 3
    assert not found.bad_rows
    assert not found.notes


def test_take(file):
    found = labelled(file("a.csv", "text,label\na,1\nb,0\nc,1\n"))
    taken = found.take(np.array([2, 0, 2]))
    assert taken.texts.to_pylist() == ["c", "a", "c"]
    assert taken.label_ids.tolist() == [1, 1, 1]
    assert taken.rows.tolist() == [2, 0, 2]
    assert taken.labels == found.labels
    assert taken.sha256 == found.sha256
    assert len(found.take([])) == 0


def test_several_files_each_with_its_own_names(file):
    first = file("a.tsv", "label\tsentence\npos\ta\nneg\tb\n")
    second = file("b.csv.gz", gzip.compress(b"content,mood,target\nc,,mid\n,x,pos\nd,,neg\n"))
    third = file("c.jsonl", [{"text": "e", "label": "pos"}])
    found = labelled([first, second, Path(third)], on_bad_row="skip")
    assert found.texts.to_pylist() == ["a", "b", "c", "d", "e"]
    assert names(found) == ["pos", "neg", "mid", "neg", "pos"]
    assert found.labels == ("mid", "neg", "pos")
    assert found.rows.tolist() == [0, 1, 2, 4, 5]
    assert [(bad.path, bad.line) for bad in found.bad_rows] == [(second, 3)]
    contents = [Path(path).read_bytes() for path in (first, second, third)]
    assert found.sha256 == hashlib.sha256(b"".join(contents)).hexdigest()
    assert found.files_sha256 == tuple(hashlib.sha256(content).hexdigest() for content in contents)
    assert labelled(first).files_sha256 == (labelled(first).sha256,) == found.take([0]).files_sha256[:1]


def test_no_file():
    assert "no file given" in refusal([])
    with pytest.raises(DataError, match="no file given"):
        read_unlabelled([])


# --- which column is which ---


@pytest.mark.parametrize(
    ("header", "text"),
    [("Text,Label", "a"), ("Comment Text,TOXIC", "a"), ("comment-text,Class", "a"), ("category,Review", "1")],
)
def test_columns_are_found_by_name(file, header, text):
    path = file("a.csv", f"{header}\na,1\nb,0\n")
    assert labelled(path).texts[0] == text
    assert read_unlabelled(path).texts[0] == text


def test_first_known_name_wins_and_others_are_told(file):
    path = file("a.csv", "title,text,rating,toxic\nx,a,9,1\ny,b,8,0\n")
    found = labelled(path)
    assert found.texts.to_pylist() == ["a", "b"]
    assert found.labels == ("0", "1")
    assert found.notes == [f'{path}: took column "toxic" for the labels; --label-column can name another ("rating")']


def test_named_columns(file):
    path = file("a.csv", "text,other,label,mood\na,x,1,good\nb,y,0,bad\n")
    found = labelled(path, text_column="other", label_column="mood")
    assert found.texts.to_pylist() == ["x", "y"]
    assert found.labels == ("bad", "good")
    message = refusal(path, text_column="othr")
    assert f'{path}: no column "othr" (--text-column), found "text", "other", "label", "mood"' in message
    assert 'Did you mean "other"?' in message
    assert "(--label-column)" in refusal(path, label_column="Mood")
    assert 'Did you mean "mood"?' in refusal(path, label_column="Mood")
    assert "are both" in refusal(path, text_column="text", label_column="text")


def test_names_given_by_the_user_are_a_header(file):
    path = file("a.csv", "said,mood,x\na,good,1\nb,bad,2\n")
    assert labelled(path, text_column="said", label_column="mood").texts.to_pylist() == ["a", "b"]


def test_of_two_columns_the_other_one(file):
    found = labelled(file("a.csv", "comment_text,x\na,1\nb,0\n"))
    assert found.labels == ("0", "1")
    assert 'column "x" for the labels' in found.notes[0]
    assert labelled(file("b.csv", "x,toxic\na,1\nb,0\n")).texts.to_pylist() == ["a", "b"]
    assert labelled(file("c.csv", "x,y\na,1\nb,0\n"), label_column="y").texts.to_pylist() == ["a", "b"]


def test_two_columns_by_their_content(file):
    rows = "".join(f"{('ham', 'spam')[number % 3 == 0]},a longer text number {number}\n" for number in range(20))
    found = labelled(file("a.csv", rows))
    assert found.texts[0] == "a longer text number 0"
    assert found.labels == ("ham", "spam")
    assert len(found) == 20
    assert any("no header found" in note for note in found.notes)
    found = labelled(file("b.jsonl", [{"x": n % 2, "y": f"text {n}"} for n in range(4)]))
    assert found.texts[1] == "text 1"
    found = labelled(file("c.parquet", {"x": [0, 1, 0], "y": ["some text", "more text", "text"]}))
    assert found.texts[1] == "more text"


def test_columns_not_found_are_listed_with_the_flags(file):
    message = refusal(file("a.csv", "id,said,mood\n1,a,x\n2,b,y\n"))
    assert "cannot tell the text and label columns" in message
    assert "--text-column and --label-column" in message
    message = refusal(file("b.csv", "id,text,x\n1,a,x\n2,b,y\n"))
    assert 'cannot tell the label column, found "id", "text", "x"' in message
    assert "cannot tell the text column" in refusal(file("c.csv", "id,label,x\n1,a,x\n2,b,y\n"))
    assert "cannot tell" in refusal(file("d.csv", "cat,dog\nsun,sea\n"))
    message = refusal(file("f.csv", "Export of May\ntext,label\na,1\nb,0\n"))
    assert "line 2: found 2 fields, expected 1 as on line 1" in message
    assert "separated by semicolons?" in refusal(file("e.csv", "text;label\na;1\nb;0\n"))


def test_columns_without_header_are_named_by_number(file):
    path = file("a.csv", "1,a,x\n0,b,y\n1,c,z\n")
    found = labelled(path, text_column="3", label_column="1")
    assert found.texts.to_pylist() == ["x", "y", "z"]
    assert "(the file has no header)" in refusal(path)
    assert 'no column "text"' in refusal(path, text_column="text")


def test_columns_of_other_types(file):
    path = file("a.parquet", {"text": [[1], [2]], "label": [0, 1], "number": [1, 2]})
    assert 'column "text" holds list' in refusal(path, text_column="text")
    assert 'the text column "number" holds int64, expected strings' in refusal(path, text_column="number")


# --- labels ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        ([" yes", "no ", "yes"], ("no", "yes")),
        (["1.0", "0.0", "2.0"], ("0", "1", "2")),
        (["1.0", "v", "2.0"], ("1.0", "2.0", "v")),
        (["True", "False", "True"], ("False", "True")),
    ],
)
def test_labels_of_text_files(file, values, expected):
    rows = "".join(f"text {number},{value}\n" for number, value in enumerate(values))
    found = labelled(file("a.csv", "text,label\n" + rows))
    assert found.labels == expected
    assert len(found) == len(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, 0, 10], pa.int32()), ("0", "1", "10")),
        (pa.array([1.0, -0.0, 10.0], pa.float32()), ("0", "1", "10")),
        (pa.array([True, False, True]), ("false", "true")),
        (pa.array(["b", "a ", "b"]).dictionary_encode(), ("a", "b")),
        (pa.array([1, 0, 1]).dictionary_encode(), ("0", "1")),
    ],
)
def test_labels_of_parquet_files(file, values, expected):
    assert labelled(file("a.parquet", {"text": ["x", "y", "z"], "label": values})).labels == expected


def test_labels_of_json_files_may_mix_types(file):
    rows = [{"text": "a", "label": value} for value in (1, "1", 1.0, 0, "0")]
    found = labelled(file("a.jsonl", rows))
    assert found.labels == ("0", "1")
    assert found.label_ids.tolist() == [1, 1, 1, 0, 0]
    assert labelled(file("b.jsonl", [{"text": "a", "label": v} for v in (True, False)])).labels == ("false", "true")


def test_labels_are_one_set_over_all_files(file):
    first = file("a.csv", "text,label\na,1.0\nb,0.0\n")
    second = file("b.parquet", {"text": ["c"], "label": [1]})
    assert names(labelled([first, second])) == ["1", "0", "1"]


def test_positive_label_goes_last_of_two(file):
    path = file("a.csv", "text,label\na,bad\nb,good\n")
    assert labelled(path).labels == ("bad", "good")
    found = labelled(path, positive_label="bad")
    assert found.labels == ("good", "bad")
    assert names(found) == ["bad", "good"]
    assert labelled(path, positive_label="good").labels == ("bad", "good")
    assert '--positive-label "baad" is none of the labels bad, good. Did you mean bad?' in refusal(
        path, positive_label="baad"
    )
    three = file("b.csv", "text,label\na,x\nb,y\nc,z\n")
    assert "one of two classes, found 3 (x, y, z): leave it out" in refusal(three, positive_label="x")
    assert labelled(path, ("bad", "good"), positive_label="bad").labels == ("bad", "good")
    numbers = file("c.parquet", {"text": ["a", "b"], "label": [1.0, 0.0]})
    assert labelled(numbers, positive_label="0").labels == ("1", "0")


def test_fractional_labels_need_a_threshold(file):
    path = file("a.csv", "text,toxicity\na,0.1666\nb,0.5\nc,1\nd,0\n")
    message = refusal(path)
    assert "0.1666" in message
    assert "--label-threshold 0.5" in message
    found = labelled(path, label_threshold=0.5)
    assert found.labels == ("0", "1")
    assert found.label_ids.tolist() == [0, 1, 1, 0]
    assert labelled(path, ("0", "1"), label_threshold=0.5).label_ids.tolist() == [0, 1, 1, 0]
    assert "--label-threshold" in refusal(path, ("0", "1"))
    assert "Choose another --label-threshold" in refusal(path, label_threshold=2)


def test_label_threshold_on_other_types(file):
    reals = file("a.parquet", {"text": ["a", "b", "c"], "label": [0.2, 0.7, float("nan")]})
    assert labelled(reals, label_threshold=0.5, on_bad_row="skip").label_ids.tolist() == [0, 1]
    flags = file("b.parquet", {"text": ["a", "b"], "label": [True, False]})
    assert labelled(flags, label_threshold=0.5).label_ids.tolist() == [1, 0]
    words = file("c.csv", "text,label\na,0.2\nb,much\nc,0.9\n")
    assert 'line 3: label "much" is not a number, which --label-threshold needs' in refusal(words, label_threshold=0.5)


def test_one_class_only(file):
    path = file("a.csv", "text,label\na,1\nb,1\n")
    assert "found one class only (1)" in refusal(path)
    assert labelled(path, ("0", "1")).label_ids.tolist() == [1, 1]


def test_too_many_labels(file):
    rows = "".join(f"text {number},label {number}\n" for number in range(21))
    message = refusal(file("a.csv", "text,label\n" + rows))
    assert "21 different labels on 21 rows" in message
    assert "is this the label column?" in message
    rows = "".join(f"text {number},label {number % 1001}\n" for number in range(5000))
    assert "1,001 different labels" in refusal(file("b.csv", "text,label\n" + rows))
    rows = "".join(f"text {number},label {number}\n" for number in range(20))
    assert len(labelled(file("c.csv", "text,label\n" + rows)).labels) == 20


def test_label_of_a_single_row_is_told(file):
    rows = "".join(f"text {number},{number % 2}\n" for number in range(120))
    found = labelled(file("a.csv", "text,label\n" + rows + "x,toxc\n"))
    assert "only one row each has the label toxc" in found.notes[0]


def test_label_outside_those_of_the_training(file):
    rows = "a,clean\n" * 3 + "a,toxc\n" + "a,toxic\n" * 2 + "a,toxyc\n"
    path = file("comments.csv", "text,label\n" + rows)
    assert refusal(path, ("clean", "toxic")) == (
        f'{path}, line 5: label "toxc" is none of clean, toxic (and 1 more row). '
        "Pass --on-bad-row skip to drop such rows (they are counted)."
    )
    found = labelled(path, ("clean", "toxic"), on_bad_row="skip")
    assert found.label_ids.tolist() == [0, 0, 0, 1, 1]
    assert [bad.line for bad in found.bad_rows] == [5, 8]
    assert found.rows.tolist() == [0, 1, 2, 4, 5]
    assert found.labels == ("clean", "toxic")


def test_numbers_with_a_point_match_the_labels_of_the_training(file):
    path = file("a.csv", "text,label\na,1.0\nb,0.0\nc,x\n")
    assert labelled(path, ("0", "1"), on_bad_row="skip").label_ids.tolist() == [1, 0]
    path = file("b.csv", "text,label\na,1.0\nb,2.0\n")
    assert labelled(path, ("1.0", "2.0", "v")).label_ids.tolist() == [0, 1]


def test_many_labels_in_a_message():
    assert show_labels([str(n) for n in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 ... (12 in all)"


# --- bad rows ---


def test_bad_rows_of_csv_named_by_their_first_line(file):
    content = 'text,label\n"a\nb",1\n"  \n ",0\nc\nd,\n"e\n",0\n,1\n'
    path = file("a.csv", content)
    assert refusal(path) == (
        f"{path}, line 4: the text is empty (and 3 more rows). "
        "Pass --on-bad-row skip to drop such rows (they are counted)."
    )
    found = labelled(path, on_bad_row="skip")
    assert found.texts.to_pylist() == ["a\nb", "e\n"]
    assert found.rows.tolist() == [0, 4]
    assert [(bad.line, bad.reason) for bad in found.bad_rows] == [
        (4, "the text is empty"),
        (6, "found 1 field, expected 2 as on line 1"),
        (7, "there is no label"),
        (10, "the text is empty"),
    ]


def test_first_bad_row_is_that_of_the_lowest_line(file):
    path = file("a.csv", "text,label\na,1\nb\n ,0\nc,0\n")
    assert "line 3: found 1 field" in refusal(path)
    assert "(and 1 more row)" in refusal(path)
    path = file("b.csv", "text,label\na,1\n\u3000,0\nb\nc,0\n")
    assert "line 3: the text is empty" in refusal(path)


def test_bad_rows_of_jsonl(file):
    rows = [
        {"text": "a", "label": 1},
        {"text": 5, "label": 1},
        {"text": "b"},
        {"label": 0},
        {"text": "c", "label": None},
        {"text": "d", "label": float("nan")},
        {"text": ["e"], "label": 0},
        {"text": "f", "label": {"x": 0}},
        {"text": "\ud800", "label": 0},
        {"text": "g", "label": "\ud800"},
        {"text": True, "label": 0},
        {"text": None, "label": 0},
        {"text": "h", "label": 0},
    ]
    path = file("a.jsonl", rows)
    found = labelled(path, on_bad_row="skip")
    assert found.texts.to_pylist() == ["a", "h"]
    assert [(bad.line, bad.reason) for bad in found.bad_rows] == [
        (2, "the text is a number, expected a string"),
        (3, "there is no label (the key is missing)"),
        (4, "there is no text (the key is missing)"),
        (5, "there is no label (null or not a number)"),
        (6, "there is no label (null or not a number)"),
        (7, "the text is a list or an object, expected a string"),
        (8, "the label is a list or an object, expected a string or a number"),
        (9, "the text is not valid Unicode"),
        (10, "the label is not valid Unicode"),
        (11, "the text is a boolean, expected a string"),
        (12, "there is no text (null)"),
    ]
    assert found.rows.tolist() == [0, 12]
    assert "(and 10 more rows)" in refusal(path)


def test_bad_rows_of_parquet_say_row(file):
    path = file("a.parquet", {"text": ["a", None, "c", ""], "label": [1.0, 0.0, float("nan"), 0.0]})
    assert f"{path}, row 2: there is no text" in refusal(path)
    path = file("b.parquet", {"text": ["a", "b", "c"], "label": [1.0, 0.0, float("nan")]})
    assert f"{path}, row 3: there is no label" in refusal(path)


def test_bad_rows_of_label_and_text_lines(file):
    path = file("a.txt", "1 ||| a\nno label here\n0 ||| b\n ||| c\n0 |||   \n")
    assert 'line 2: no " ||| " between label and text' in refusal(path)
    found = labelled(path, on_bad_row="skip")
    assert [bad.line for bad in found.bad_rows] == [2, 4, 5]
    assert found.rows.tolist() == [0, 2]


def test_nan_among_numbers_is_no_label_but_a_word_among_words(file):
    path = file("a.csv", "text,label\na,1\nb,nan\nc,0\n")
    assert "line 3: there is no label (NaN)" in refusal(path)
    assert labelled(file("b.csv", "text,label\na,zh\nb,nan\nc,zh\n")).labels == ("nan", "zh")


def test_no_row_left(file):
    path = file("a.csv", "text,label\n ,1\n,0\n")
    assert "line 2: the text is empty. No row can be used (2 in all)" in refusal(path, on_bad_row="skip")
    assert "No row can be used" in refusal(file("b.txt", "a\nb\n"), on_bad_row="skip")


def test_bad_row_in_the_second_file(file):
    first, second = file("a.csv", "text,label\na,1\nb,0\n"), file("b.csv", "text,label\n,1\n")
    assert refusal([first, second]).startswith(f"{second}, line 2: the text is empty. Pass")


def test_labels_of_dropped_rows_are_no_classes(file):
    path = file("a.csv", "text,label\na,1\nb,0\n ,2\n")
    assert labelled(path, on_bad_row="skip").labels == ("0", "1")


# --- without labels ---


def test_unlabelled_files(file):
    paths = [
        file("a.csv", "text,label\na,1\n"),
        file("b.csv", "Comment\nb\nc\n"),
        file("c.txt", "d\ne ||| e\nf\n"),
        file("d.txt", "1 ||| g\n"),
        file("e.jsonl", [{"text": "h"}]),
        file("f.parquet", {"words": ["i"]}),
        file("g.tsv", "first line\nj\n"),
    ]
    found = read_unlabelled(paths)
    assert found.texts.to_pylist() == ["a", "b", "c", "d", "e ||| e", "f", "g", "h", "i", "first line", "j"]
    assert found.label_ids is None
    assert found.labels == ()
    assert found.rows.tolist() == list(range(11))
    assert found.take([1]).label_ids is None
    assert any("no header found" in note for note in found.notes)


def test_unlabelled_column_choice(file):
    path = file("a.csv", "id,words,x\n1,a,b\n")
    assert read_unlabelled(path, "words").texts.to_pylist() == ["a"]
    with pytest.raises(DataError, match=r'no column "wrds" .*Did you mean "words"'):
        read_unlabelled(path, "wrds")
    with pytest.raises(DataError, match=r"cannot tell the text column.*--text-column"):
        read_unlabelled(path)
    assert read_unlabelled(file("b.csv", "words,label\na,1\n")).texts.to_pylist() == ["a"]
    assert read_unlabelled(file("c.txt", "a\n"), "words").texts.to_pylist() == ["a"]


def test_unlabelled_bad_rows(file):
    path = file("a.txt", "a\n\nb\n\n")
    with pytest.raises(DataError, match=r"line 2: the text is empty\. Pass --on-bad-row skip"):
        read_unlabelled(path)
    found = read_unlabelled(path, on_bad_row="skip")
    assert found.texts.to_pylist() == ["a", "b"]
    assert found.rows.tolist() == [0, 2]
    assert [bad.line for bad in found.bad_rows] == [2]


def test_standard_input_and_file_objects(file, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("a\n1 ||| é\n".encode())))
    found = read_unlabelled(["-", io.StringIO("b\n"), file("a.csv", "text\nc\n")])
    assert found.texts.to_pylist() == ["a", "1 ||| é", "b", "c"]
    assert found.rows.tolist() == [0, 1, 2, 3]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\n \nb\n")))
    with pytest.raises(DataError, match="standard input, line 2: the text is empty"):
        read_unlabelled("-")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    with pytest.raises(DataError, match="standard input: empty"):
        read_unlabelled("-")
    with open(file("b.anything", "x\n"), "rb") as handle:
        assert read_unlabelled(handle).texts.to_pylist() == ["x"]


# --- real files ---

needs_data = pytest.mark.skipif(
    "BERTWRIGHT_DATA" not in os.environ, reason="BERTWRIGHT_DATA does not name the folder of real data"
)


@needs_data
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("sst5/sst-train.txt", {"0": 1092, "1": 2218, "2": 1624, "3": 2322, "4": 1288}),
        ("sst5/sst-dev.txt", 1101),
        ("sst5/sst-test.txt", 2210),
        ("cfimdb/cfimdb-train.txt", 1707),
        ("cfimdb/cfimdb-dev.txt", 245),
        ("sst2/train.tsv", {"0": 29780, "1": 37569}),
        ("sst2/dev.tsv", {"0": 428, "1": 444}),
        ("sst2/test.tsv", 1821),
        ("toxic_comments/train_1.csv", {"0": 9029, "1": 971}),
        ("toxic_comments/train_2.csv", {"0": 9024, "1": 976}),
        ("toxic_comments/test_balanced.csv", {"0": 6090, "1": 6090}),
        ("toxic_comments/multilabel_3000.csv", 3000),
        ("bias_madlibs/bias_madlibs_77k.csv", {"BAD": 38282, "NOT_BAD": 38282}),
        ("imdb/test.parquet", {"0": 12500, "1": 12500}),
    ],
)
def test_real_files(name, counts):
    path = Path(os.environ["BERTWRIGHT_DATA"]) / name
    found = labelled(path)
    found_counts = dict(zip(found.labels, np.bincount(found.label_ids).tolist(), strict=True))
    assert found_counts == counts if isinstance(counts, dict) else len(found) == counts
    assert found.rows.tolist() == list(range(len(found)))
    assert not found.bad_rows
    assert read_unlabelled(path).texts.to_pylist() == found.texts.to_pylist()


@needs_data
def test_real_texts_of_one_class_only():
    path = Path(os.environ["BERTWRIGHT_DATA"]) / "cfimdb/cfimdb-test.txt"
    assert "one class only" in refusal(path)
    assert len(labelled(path, ("0", "1"))) == 488
