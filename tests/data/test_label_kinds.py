"""Every kind of label, pairs and groups: what is read, what is refused; and files that come in parts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertwright.config.parts import DataSettings
from bertwright.data import class_labels as class_labels_module
from bertwright.data import columns as columns_module
from bertwright.data import reading as reading_module
from bertwright.data import rows as rows_module
from bertwright.data import stored_labels as stored_labels_module
from bertwright.data import texts as texts_module
from bertwright.data.columns import read_labelled, read_unlabelled, read_unsettled
from bertwright.data.read import read_table
from bertwright.data.split import count_shared_texts, split_validation
from bertwright.data.table import Table
from bertwright.errors import DataError
from bertwright.evaluation.judge import prediction_tables


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
            path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def labelled(paths, labels=None, kind=None, **settings):
    return read_labelled(paths, DataSettings(**settings), labels, kind)


def refusal(paths, labels=None, kind=None, **settings):
    """The message with which files are refused, which must be one line."""
    with pytest.raises(DataError) as caught:
        labelled(paths, labels, kind, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def near(array, expected, dtype=np.float32):
    assert array.dtype == dtype
    assert array.shape == np.shape(expected)
    assert np.allclose(array, expected, atol=1e-7)
    return True


# --- multi-label ------------------------------------------------------------------------------------------------------

SEVERAL = "text,toxic,insult,threat\na,1,0,0.0\nb,0,1,true\nc,0.25,1.0,FALSE\nd, 1 ,0.5,0\n"


def test_several_columns_are_multi_label(file):
    path = file("a.csv", SEVERAL)
    for given in (
        ["toxic,insult,threat"],
        ["toxic", "insult,threat"],
        ["toxic", "insult", " threat"],
        ["toxic, insult ,threat"],
    ):
        given = [name.strip() if "," not in name else name for name in given]
        found = labelled(path, label_column=given)
        assert found.kind == "multi-label"
        assert found.labels == ("toxic", "insult", "threat")
        assert found.label_ids is None
        assert near(found.targets, [[1, 0, 0], [0, 1, 1], [0.25, 1, 0], [1, 0.5, 0]])
        assert found.hard_targets.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 0], [1, 1, 0]]
    assert labelled(path, label_column="threat,toxic").labels == ("threat", "toxic")
    assert labelled(path, label_column="toxic", label_kind="multi-label").targets.shape == (4, 1)
    assert labelled(path, label_column="insult,threat", label_kind="multi-label").kind == "multi-label"


def test_a_threshold_hardens_several_labels_for_metrics_and_with_hard_labels_for_training(file):
    path = file("a.csv", SEVERAL)
    found = labelled(path, label_column="toxic,insult", label_threshold=0.25)
    assert near(found.targets, [[1, 0], [0, 1], [0.25, 1], [1, 0.5]])
    assert found.hard_targets.tolist() == [[1, 0], [0, 1], [1, 1], [1, 1]]
    found = labelled(path, label_column="toxic,insult", label_threshold=0.6, hard_labels=True)
    assert near(found.targets, [[1, 0], [0, 1], [0, 1], [1, 0]])
    assert found.kind == "multi-label"
    assert "for shares expected above 0" in refusal(path, label_column="toxic,insult", label_threshold=2)


def test_bad_rows_of_several_labels_name_the_column(file):
    rows = "a,1,0\nb,,0\nc,1,maybe\nd,2,0\ne,nan,1\nf,0,-0.1\ng,0,1\nh,1e999,1\n"
    path = file("a.csv", "text,toxic,insult\n" + rows)
    found = labelled(path, label_column="toxic,insult", on_bad_row="skip")
    assert found.texts.to_pylist() == ["a", "g"]
    assert near(found.targets, [[1, 0], [0, 1]])
    assert [(bad.line, bad.reason) for bad in found.bad_rows] == [
        (3, 'there is no label in column "toxic"'),
        (4, 'label "maybe" in column "insult" is neither 0 nor 1 nor a share between them'),
        (5, 'label "2" in column "toxic" is neither 0 nor 1 nor a share between them'),
        (6, 'label "nan" in column "toxic" is neither 0 nor 1 nor a share between them'),
        (7, 'label "-0.1" in column "insult" is neither 0 nor 1 nor a share between them'),
        (9, 'the label in column "toxic" is not a finite number'),
    ]
    assert 'line 3: there is no label in column "toxic" (and 5 more rows)' in refusal(path, label_column="toxic,insult")


def test_several_labels_of_other_formats(file):
    path = file(
        "a.parquet", {"text": list("abcd"), "x": [True, False, None, False], "y": [0.5, float("nan"), 1.0, 0.0]}
    )
    found = labelled(path, label_column="x,y", on_bad_row="skip")
    assert near(found.targets, [[1, 0.5], [0, 0]])
    assert [bad.reason for bad in found.bad_rows] == [f'there is no label in column "{name}"' for name in "yx"]
    rows = [{"text": "a", "x": True, "y": 1}, {"text": "b", "x": 0}, {"text": "c", "x": [1], "y": 0}]
    found = labelled(file("b.jsonl", [*rows, {"text": "d", "x": "1", "y": 0.0}]), label_column="x,y", on_bad_row="skip")
    assert near(found.targets, [[1, 1], [1, 0]])
    assert [bad.reason for bad in found.bad_rows] == [
        'there is no label in column "y" (the key is missing)',
        'the label in column "x" is a list or an object, expected a string or a number',
    ]


def test_multi_label_is_never_guessed_but_told(file):
    path = file("a.csv", SEVERAL.replace("0.25", "0").replace("0.5", "0"))
    found = labelled(path)
    assert found.labels == ("0", "1")
    assert found.notes == [
        f'{path}: took column "toxic" alone for the labels; for several a text: --label-column toxic,insult,threat'
    ]
    other = file("b.csv", "text,rude,funny\na,1,0\nb,0,1\nc,0,0\n")
    assert "for several labels a text: --label-column rude,funny" in refusal(other)


def test_what_several_labels_cannot_be(file):
    path = file("a.csv", SEVERAL)
    assert "found 2 label columns" in refusal(path, label_column="toxic,insult", label_kind="classes")
    assert "expected one for regression labels" in refusal(path, label_column="toxic,insult", label_kind="regression")
    assert '--label-column names "toxic" twice' in refusal(path, label_column="toxic,toxic")
    assert "--text-column and --label-column are both" in refusal(path, text_column="text", label_column="toxic,text")
    assert 'no column "insul" (--label-column)' in refusal(path, label_column="toxic,insul")
    assert "--positive-label" in refusal(path, label_column="toxic,insult", positive_label="toxic")
    same = file("b.csv", "text,x,y\na,0,1\nb,0,1\n")
    assert "found the same labels on all rows (x, y)" in refusal(same, label_column="x,y")
    some = labelled(file("c.csv", "text,x,y\na,0,1\nb,0,0\n"), label_column="x,y")
    assert some.notes == ['label "x" is 0 on all rows: nothing can be learnt about it']
    assert "found one label a line" in refusal(file("d.txt", "1 ||| a\n"), label_column="x,y")


def test_a_column_whose_name_holds_a_comma(file):
    path = file("a.csv", 'text,"a,b",a,b\nx,1,0,1\ny,0,1,0\n')
    assert labelled(path, label_column="a,b").kind == "classes"
    assert labelled(path, label_column=["a", "b"]).labels == ("a", "b")
    assert labelled(path, label_column=["a,b", "a"]).labels == ("a,b", "a")


def test_several_labels_follow_those_of_a_training(file):
    labels = ("insult", "toxic")
    path = file("a.csv", SEVERAL)
    for settings in ({}, {"label_column": "toxic,insult"}):
        found = labelled(path, labels, "multi-label", **settings)
        assert found.labels == labels
        assert near(found.targets[:2], [[0, 1], [1, 0]])
    assert "expected those of the training, insult, toxic" in refusal(path, labels, "multi-label", label_column="toxic")
    other = file("b.csv", "text,toxic\na,1\n")
    assert 'no column "insult" (a label of the training)' in refusal(other, labels, "multi-label")
    one_of_a_kind = file("c.csv", "text,toxic,insult\na,0,0\n")
    assert near(labelled(one_of_a_kind, labels, "multi-label").targets, [[0, 0]])
    assert "the training's labels are of kind multi-label" in refusal(path, labels, "multi-label", label_kind="soft")


def test_files_of_other_label_columns_are_refused(file):
    first = file("a.csv", SEVERAL)
    second = file("b.csv", "text,toxic,insult\na,1,0\n")
    assert labelled([first, second], label_column="insult,toxic").targets.shape == (5, 2)
    assert 'no column "threat"' in refusal([first, second], label_column="toxic,insult,threat")


# --- soft labels ------------------------------------------------------------------------------------------------------


def test_fractions_with_a_threshold_are_soft_unless_hard_labels_are_wanted(file):
    path = file("a.csv", "text,toxicity\na,0.1666\nb,0.5\nc,1\nd,0\n")
    found = labelled(path, label_threshold=0.5)
    assert found.kind == "soft"
    assert found.labels == ("0", "1")
    assert found.label_ids.tolist() == [0, 1, 1, 0]
    assert near(found.targets, [[0.8334, 0.1666], [0.5, 0.5], [0, 1], [1, 0]])
    turned = labelled(path, label_threshold=0.5, positive_label="0")
    assert turned.labels == ("1", "0")
    assert turned.label_ids.tolist() == [1, 0, 0, 1]
    assert near(turned.targets[:, ::-1], found.targets)
    for settings in ({"hard_labels": True}, {"label_kind": "classes"}):
        hard = labelled(path, label_threshold=0.5, **settings)
        assert (hard.kind, hard.targets, hard.label_ids.tolist()) == ("classes", None, [0, 1, 1, 0])
    message = refusal(path)
    for way in ("--label-threshold 0.5", "--label-kind soft", "--label-kind regression"):
        assert way in message


@pytest.mark.parametrize(
    ("values", "threshold"), [("1,7,10,3", 5), ("0,1,0,1", 0.5), ("0.5,1,2,0", 0.6), ("-0.5,1,0.7,0", 0.6)]
)
def test_ratings_and_whole_numbers_with_a_threshold_are_hard_classes(values, threshold, file):
    rows = "".join(f"t{row},{value}\n" for row, value in enumerate(values.split(",")))
    found = labelled(file("a.csv", "text,rating\n" + rows), label_threshold=threshold)
    assert found.kind == "classes"
    assert found.targets is None
    assert found.label_ids.tolist() == [int(float(value) >= threshold) for value in values.split(",")]


def test_soft_is_one_share_or_several_that_sum_to_one(file):
    path = file("a.csv", "text,label\na,0.1\nb,0.5\nc,1\nd,1.5\ne,much\nf,-1\n")
    found = labelled(path, label_kind="soft", on_bad_row="skip")
    assert found.kind == "soft"
    assert found.label_ids.tolist() == [0, 1, 1]
    assert near(found.targets, [[0.9, 0.1], [0.5, 0.5], [0, 1]])
    assert [bad.reason for bad in found.bad_rows] == [
        f'label "{value}" is not a share between 0 and 1' for value in ("1.5", "much", "-1")
    ]
    other = labelled(path, label_kind="soft", label_threshold=0.6, on_bad_row="skip")
    assert other.label_ids.tolist() == [0, 0, 1]
    assert near(other.targets, found.targets)
    assert "Choose another --label-threshold" in refusal(
        path, label_kind="soft", label_threshold=0.1, on_bad_row="skip"
    )
    rows = "a,0.2,0.3,0.5\nb,1,0,0\nc,0.3,0.3,0.3\nd,0.4995,0.5,0.001\ne,0.5,0.6,-0.1\n"
    several = file("b.csv", "text,neg,neutral,pos\n" + rows)
    settings = {"label_kind": "soft", "label_column": "neg,neutral,pos", "on_bad_row": "skip"}
    found = labelled(several, **settings)
    assert found.labels == ("neg", "neutral", "pos")
    assert found.label_ids.tolist() == [2, 0, 1]
    assert np.allclose(found.targets.sum(axis=1), 1, atol=1e-6)
    assert [(bad.line, bad.reason) for bad in found.bad_rows] == [
        (4, "the shares sum to 0.9, expected 1"),
        (6, 'label "-0.1" in column "pos" is not a share between 0 and 1'),
    ]
    hard = labelled(several, hard_labels=True, **settings)
    assert (hard.kind, hard.targets, hard.label_ids.tolist()) == ("classes", None, [2, 0, 1])
    follows = labelled(several, ("pos", "neutral", "neg"), "soft", on_bad_row="skip")
    assert follows.label_ids.tolist() == [0, 2, 1]
    assert near(follows.targets[0], [0.5, 0.3, 0.2])


def test_soft_labels_follow_those_of_a_training(file):
    shares = file("a.csv", "text,label\na,0.2\nb,0\n")
    found = labelled(shares, ("1", "0"), "soft")
    assert found.kind == "soft"
    assert found.label_ids.tolist() == [1, 1]
    assert near(found.targets, [[0.2, 0.8], [0, 1]])
    one_class = file("b.csv", "text,label\na,pos\nb,neg\nc,bad\n")
    found = labelled(one_class, ("neg", "neutral", "pos"), "soft", on_bad_row="skip")
    assert found.label_ids.tolist() == [2, 0]
    assert near(found.targets, [[0, 0, 1], [1, 0, 0]])
    hard = labelled(shares, ("0", "1"), "classes", label_threshold=0.1)
    assert (hard.kind, hard.targets, hard.label_ids.tolist()) == ("classes", None, [1, 0])


# --- regression -------------------------------------------------------------------------------------------------------


def test_regression(file):
    path = file("a.csv", "text,stars\na,1.5\nb,-2\nc,1e3\nd,many\ne,\nf,1e999\n")
    found = labelled(path, label_kind="regression", on_bad_row="skip")
    assert found.kind == "regression"
    assert found.labels == ("stars",)
    assert found.label_ids is None
    assert near(found.targets, [[1.5], [-2], [1000]], np.float64)
    assert [bad.reason for bad in found.bad_rows] == [
        'label "many" is not a number, which --label-kind regression needs',
        "there is no label",
        "the label is not a finite number",
    ]
    assert near(
        labelled(path, label_kind="regression", on_bad_row="skip").take([2, 0]).targets, [[1000], [1.5]], np.float64
    )
    numbers = {"text": list("abc"), "x": [0.5, None, -1.0], "score": [1, 2, 3]}
    parquet = file("b.parquet", numbers)
    assert near(labelled(parquet, label_kind="regression").targets, [[1], [2], [3]], np.float64)
    found = labelled(parquet, label_kind="regression", label_column="x", on_bad_row="skip")
    assert near(found.targets, [[0.5], [-1]], np.float64)
    assert [str(bad) for bad in found.bad_rows] == [f"{parquet}, row 2: there is no label"]
    same = file("c.csv", "text,stars\na,3\nb,3\n")
    assert "found one number only (3)" in refusal(same, label_kind="regression")
    assert near(labelled(same, ("stars",), "regression").targets, [[3], [3]], np.float64)
    for flag in ({"label_threshold": 0.5}, {"hard_labels": True}):
        assert "regression learns numbers" in refusal(path, label_kind="regression", **flag)


def test_regression_follows_the_column_of_a_training(file):
    path = file("a.csv", "text,label,warmth\na,x,1\nb,y,2\n")
    assert near(labelled(path, ("warmth",), "regression").targets, [[1], [2]], np.float64)
    other = file("b.csv", "text,heat\na,1\n")
    assert labelled(other, ("warmth",), "regression", label_column="heat").labels == ("warmth",)
    assert near(labelled(other, ("warmth",), "regression").targets, [[1]], np.float64)


# --- pairs and groups -------------------------------------------------------------------------------------------------

PAIRS = "text,reply,label,country,age\na,x,1,se,30\nb, ,0,no,\nc,y,0,,41\n,z,1,se,2\nd,w,1,no,7\n"


def test_pairs(file):
    path = file("a.csv", PAIRS)
    found = labelled(path, pair_column="reply", on_bad_row="skip")
    assert found.texts.to_pylist() == ["a", "c", "d"]
    assert found.pairs.to_pylist() == ["x", "y", "w"]
    assert found.label_ids.tolist() == [1, 0, 1]
    assert [(bad.line, bad.reason) for bad in found.bad_rows] == [
        (3, "the second text is empty"),
        (5, "the text is empty"),
    ]
    taken = found.take([2, 0])
    assert list(zip(taken.texts, taken.pairs, strict=True)) == [("d", "w"), ("a", "x")]
    assert labelled(path, on_bad_row="skip").pairs is None
    assert read_unlabelled(path, pair_column="reply", on_bad_row="skip").pairs.to_pylist() == ["x", "y", "w"]
    assert 'no column "replay" (--pair-column)' in refusal(path, pair_column="replay")
    assert "--text-column and --pair-column are both" in refusal(path, text_column="text", pair_column="text")
    assert "--pair-column and --label-column are both" in refusal(path, pair_column="reply", label_column="reply")
    numbers = file("b.parquet", {"text": ["a"], "reply": [1], "label": [0]})
    assert 'the second text column "reply" holds int64' in refusal(numbers, pair_column="reply")
    rows = [{"text": "a", "reply": None, "label": 1}, {"text": "b", "label": 0}]
    assert "line 1: there is no second text (null)" in refusal(file("c.jsonl", rows), pair_column="reply")
    assert "(--pair-column)" in refusal(file("d.txt", "1 ||| a\n"), pair_column="reply")


def test_a_column_of_second_texts_is_not_taken_for_the_texts_or_labels(file):
    path = file("a.csv", "question,body,x\na,b,1\nc,d,0\n")
    found = labelled(path, pair_column="body")
    assert found.texts.to_pylist() == ["a", "c"]
    assert found.labels == ("0", "1")


def test_pairs_are_shared_where_both_texts_are(file):
    first = labelled(file("a.csv", "text,reply,label\na,x,1\nb,y,0\n"), pair_column="reply")
    second = labelled(file("b.csv", "text,reply,label\na, x,1\nb,x,0\nab,,1\n"), pair_column="reply", on_bad_row="skip")
    assert count_shared_texts(first, second) == 1


def test_groups_are_kept_as_they_stand(file):
    path = file("a.csv", PAIRS)
    for given in ("country,age", ["country", "age"]):
        found = labelled(path, group_columns=given, on_bad_row="skip")
        assert list(found.groups) == ["country", "age"]
        assert found.groups["country"].to_pylist() == ["se", "no", "", "no"]
        assert found.groups["age"].to_pylist() == ["30", "", "41", "7"]
    assert found.take([3, 0]).groups["country"].to_pylist() == ["no", "se"]
    numbers = file("b.parquet", {"text": ["a", "b"], "label": [0, 1], "age": [None, 5], "share": [0.5, None]})
    found = labelled(numbers, group_columns="age,share")
    assert found.groups["age"].to_pylist() == [None, 5]
    assert found.groups["share"].to_pylist() == [0.5, None]
    both = labelled([path, numbers], group_columns="age", on_bad_row="skip")
    assert both.groups["age"].to_pylist() == ["30", "", "41", "7", None, "5"]
    assert read_unlabelled(path, on_bad_row="skip", group_columns=["age"]).groups["age"][0].as_py() == "30"
    assert labelled(path, group_columns="label", on_bad_row="skip").groups["label"].to_pylist() == ["1", "0", "0", "1"]
    assert '--group-columns names "age" twice' in refusal(path, group_columns="age,age")
    assert "--text-column and --group-columns are both" in refusal(path, text_column="text", group_columns="text")
    assert "(--group-columns)" in refusal(file("c.txt", "1 ||| a\n"), group_columns="age")


def test_validation_of_labels_that_are_no_classes_is_drawn_at_random(file):
    rows = "".join(f"t{row},{row % 2},{row % 5 / 4}\n" for row in range(40))
    path = file("a.csv", "text,x,y\n" + rows)
    for settings in ({"label_column": "x,y"}, {"label_column": "y", "label_kind": "regression"}):
        found = labelled(path, **settings)
        train, validation = split_validation(found, 0.25, 3)
        assert len(validation) == 10
        assert sorted([*train, *validation]) == list(range(40))
    soft = labelled(path, label_column="y", label_kind="soft")
    _, validation = split_validation(soft, 0.25, 3)
    assert np.bincount(soft.label_ids[validation]).tolist() == [4, 6]


# --- files in parts ---------------------------------------------------------------------------------------------------


def in_parts(size):
    """``read_parts`` that gives tables of ``size`` rows each, bad ones included."""

    def read(path, names=(), plain_text=False, on_bytes=None):
        table = read_table(path, names, plain_text, on_bytes)
        lines = table.lines
        for first in range(0, table.num_source_rows, size):
            last = min(first + size, table.num_source_rows)
            rows = np.flatnonzero((table.row_numbers >= first) & (table.row_numbers < last))
            begin, end = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
            after = lines[end] if end < len(lines) else np.inf
            before = lines[begin] if len(rows) and begin else 0
            bad = [row for row in table.bad_rows if (not first or row.line >= before) and row.line < after]
            bad = [row for row in bad if id(row) not in given]
            given.update(map(id, bad))
            yield replace(
                table,
                columns={name: column[begin:end] for name, column in table.columns.items()},
                row_numbers=table.row_numbers[begin:end],
                num_source_rows=last - first,
                compute_lines=lambda begin=begin, end=end: lines[begin:end],
                bad_rows=bad,
                cell_kinds={name: kinds[begin:end] for name, kinds in table.cell_kinds.items()},
            )

    given: set[int] = set()
    return read


def mixed_csv(num_rows):
    lines = ["text,reply,label,x,y,share,number,group"]
    for row in range(num_rows):
        label = ["good", "bad", " good ", "nan"][row % 4] if row % 17 else ""
        text = "" if row % 11 == 10 else f'"a text, {row}\nof two lines"'
        lines.append(f"{text},reply {row},{label},{row % 2},{row % 3 / 2},{row % 7 / 6},{row / 4},g{row % 3}")
        if row % 23 == 5:
            lines.append("broken,row")
    return "\n".join(lines) + "\n"


CASES = {
    "classes": {},
    "numbers with nan": {"label_column": "number_or_nan"},
    "multi-label": {"label_column": "x,y", "pair_column": "reply", "group_columns": "group"},
    "threshold": {"label_column": "share", "label_threshold": 0.5},
    "hard": {"label_column": "share", "label_threshold": 0.5, "hard_labels": True},
    "regression": {"label_column": "number", "label_kind": "regression"},
}


def same(one, other):
    for name in ("labels", "kind", "notes", "sha256"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("label_ids", "targets", "hard_targets", "rows"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.dtype == b.dtype and np.array_equal(a, b)), name
    assert one.texts.to_pylist() == other.texts.to_pylist()
    assert (one.pairs is None) == (other.pairs is None)
    assert one.pairs is None or one.pairs.to_pylist() == other.pairs.to_pylist()
    assert {name: column.to_pylist() for name, column in one.groups.items()} == {
        name: column.to_pylist() for name, column in other.groups.items()
    }
    assert list(one.bad_rows) == list(other.bad_rows)
    assert len(one.bad_rows) == len(other.bad_rows)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spooled", [False, True])
def test_parts_of_every_size_give_the_same(case, spooled, file, monkeypatch):
    content = mixed_csv(120)
    if case == "numbers with nan":
        content = content.replace("number", "number_or_nan", 1).replace(",reply 9,", ",reply 9,", 1)
        content = (
            "\n".join(
                line.replace(f",{int(float(line.split(',')[-2]) * 4) / 4},g", ",nan,g") if line.endswith("g1") else line
                for line in content.split("\n")
            )
            .replace(".25,g", ".0,g")
            .replace(".5,g", ".0,g")
            .replace(".75,g", ".0,g")
        )
    paths = [file("a.csv", content), file("b.csv", mixed_csv(30) if case != "numbers with nan" else content)]
    settings = {"on_bad_row": "skip", **CASES[case]}
    whole = labelled(paths, **settings)
    assert len(whole.bad_rows) > 10
    if case == "numbers with nan":
        assert {"there is no label (NaN)", "the text is empty"} <= {bad.reason for bad in whole.bad_rows}
    if spooled:
        monkeypatch.setattr(texts_module, "MOST_MEMORY_BYTES", 100)
        monkeypatch.setattr(texts_module, "_LEAST_WRITTEN_BYTES", 1)
    for size in (1, 2, 7, 50, 1000):
        monkeypatch.setattr(columns_module, "read_parts", in_parts(size))
        found = labelled(paths, **settings)
        same(found, whole)
        assert bool(found.texts._files) == spooled
        with pytest.raises(DataError) as caught:
            labelled(paths, **(settings | {"on_bad_row": "error"}))
        assert str(caught.value).startswith(str(whole.bad_rows[0]))
        assert f"and {len(whole.bad_rows) - 1:,} more rows" in str(caught.value)


def test_unlabelled_and_unsettled_texts_in_parts(file, monkeypatch):
    path = file("a.csv", mixed_csv(60))
    unlabelled = read_unlabelled(path, on_bad_row="skip")
    unsettled = read_unsettled(path, label_column=["x,y", "label"], on_bad_row="skip", group_columns=["group"])
    monkeypatch.setattr(columns_module, "read_parts", in_parts(7))
    same(read_unlabelled(path, on_bad_row="skip"), unlabelled)
    found = read_unsettled(path, label_column=["x,y", "label"], on_bad_row="skip", group_columns=["group"])
    assert [column.name for column in found.labels] == ["x", "y", "label"]
    for one, other in zip(found.labels, unsettled.labels, strict=True):
        assert one.names == other.names
        assert one.codes.tolist() == other.codes.tolist()
    assert found.rows.tolist() == unsettled.rows.tolist()
    assert found.sha256 == unsettled.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_part_without_the_column_is_refused(file, monkeypatch):
    path = file("a.csv", "text,label\na,1\nb,0\nc,1\n")

    def read(path, names=(), plain_text=False, on_bytes=None):
        for number, part in enumerate(in_parts(2)(path)):
            yield part if not number else replace(part, columns={"text": part.columns["text"]})

    monkeypatch.setattr(columns_module, "read_parts", read)
    assert f'{path}: found no column "label" from line 4 on' in refusal(path)


def test_of_many_bad_rows_the_first_are_kept_and_all_are_counted(file, monkeypatch):
    monkeypatch.setattr(reading_module, "MOST_BAD_ROWS", 5)
    monkeypatch.setattr(class_labels_module, "MOST_BAD_ROWS", 5)
    monkeypatch.setattr(rows_module, "MOST_BAD_ROWS", 5)
    rows = "".join(f"{'' if row % 3 == 0 else 't'},{'nan' if row % 3 == 1 else row % 2}\n" for row in range(40))
    paths = [file(name, "text,label\n" + rows) for name in ("a.csv", "b.csv")]
    for size in (1, 9, 100):
        monkeypatch.setattr(columns_module, "read_parts", in_parts(size))
        found = labelled(paths, on_bad_row="skip")
        assert len(found.bad_rows) == 2 * 27
        assert [bad.line for bad in found.bad_rows] == [2, 3, 5, 6, 8]
        assert {bad.path for bad in found.bad_rows} == {paths[0]}
        assert len(found) == 2 * 13
    assert "and 53 more rows" in refusal(paths)


def test_columns_of_very_many_different_labels_stop_early(file, monkeypatch):
    monkeypatch.setattr(class_labels_module, "MOST_DISTINCT", 30)
    monkeypatch.setattr(stored_labels_module, "MOST_DISTINCT", 30)
    monkeypatch.setattr(columns_module, "read_parts", in_parts(10))
    ids = file("a.csv", "text,label\n" + "".join(f"t{row},id{row}\n" for row in range(200)))
    assert "found more than 30 different labels on 40 rows" in refusal(ids)
    with pytest.raises(DataError, match=r"more than 30 different labels.*--no-labels"):
        read_unsettled(ids)
    shares = file("b.csv", "text,label\n" + "".join(f"t{row},{row / 200}\n" for row in range(200)))
    assert "found fractional labels such as 0.005" in refusal(shares)
    (column,) = read_unsettled(shares).labels
    assert column.names is None
    assert column.numbers.tolist() == [row / 200 for row in range(200)]
    assert len(labelled(shares, label_threshold=0.5)) == 200
    assert len(labelled(shares, label_kind="regression").targets) == 200
    found = labelled(ids, ("id7", "id190"), on_bad_row="skip")
    assert found.label_ids.tolist() == [0, 1]


# --- real data --------------------------------------------------------------------------------------------------------


def test_real_multi_label_comments(real_data):
    path = real_data / "toxic_comments" / "multilabel_3000.csv"
    labels = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
    found = labelled(path, label_column=",".join(labels))
    assert found.labels == labels
    assert found.targets.shape == (3000, 6)
    assert not found.bad_rows
    assert np.array_equal(found.hard_targets, found.targets == 1)
    single = labelled(path)
    assert single.notes[0].endswith(f"for several a text: --label-column {','.join(labels)}")
    assert single.label_ids.tolist() == found.targets[:, 0].tolist()
    for number, name in enumerate(labels):
        alone = labelled(path, label_column=name)
        assert alone.label_ids.tolist() == found.targets[:, number].tolist()


def test_hub_names_are_read_as_their_files(file, monkeypatch):
    import sys
    from types import ModuleType

    path = file("a.csv", "text,label\na,1\nb,0\n")
    hub = ModuleType("bertwright.data.hub")
    hub.local_files = lambda name: {"hub:me/comments": [path, path]}[name]
    monkeypatch.setitem(sys.modules, "bertwright.data.hub", hub)
    assert len(labelled("hub:me/comments")) == 4
    assert len(read_unlabelled(["hub:me/comments", path])) == 6


@pytest.mark.slow
def test_a_table_lives_no_longer_than_its_part(file, monkeypatch):
    import gc
    import weakref

    alive: list[weakref.ref[Table]] = []
    most = 0

    def read(path, names=(), plain_text=False, on_bytes=None):
        nonlocal most
        for part in in_parts(5)(path, names, plain_text, on_bytes):
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))
            alive.append(weakref.ref(part))
            yield part

    monkeypatch.setattr(columns_module, "read_parts", read)
    labelled(file("a.csv", mixed_csv(60)), on_bad_row="skip", label_column="x,y", pair_column="reply")
    assert len(alive) > 10
    assert most <= 1


# --- settings that a training keeps, and numbers of any size ----------------------------------------------------------


def test_numbers_that_float32_cannot_tell_apart_are_learnt_as_they_stand(file):
    for name, values in (
        ("seconds", [1.7e9 + i for i in range(60)]),
        ("odd", [16777216.0 + i % 2 for i in range(60)]),
    ):
        path = file(f"{name}.parquet", {"text": [f"t{i}" for i in range(60)], "y": values})
        found = labelled(path, label_column="y", label_kind="regression")
        assert found.targets.dtype == np.float64
        assert found.targets[:, 0].tolist() == values
        (table,) = prediction_tables(found, found.targets, found.labels, 0.5, False)
        assert table["label_y"].to_pylist() == values
    constant = file("same.csv", "text,y\na,1700000001\nb,1700000001\n")
    assert "found one number only (1700000001)" in refusal(constant, label_kind="regression", label_column="y")


def test_numbers_that_no_model_can_give_are_bad_rows(file):
    path = file("huge.csv", "text,y\na,1e39\nb,1\nc,-2e39\nd,2\ne,1e36\n")
    found = labelled(path, label_kind="regression", label_column="y", on_bad_row="skip")
    assert found.targets[:, 0].tolist() == [1, 2, 1e36]
    assert [(bad.line, bad.reason) for bad in found.bad_rows] == [
        (2, 'label "1e+39" is beyond 1e+36, which models cannot give'),
        (4, 'label "-2e+39" is beyond 1e+36, which models cannot give'),
    ]
    tiny = file("tiny.csv", "text,y\na,1e-200\nb,2e-200\n")
    assert "found numbers less than 1e-36 apart" in refusal(tiny, label_kind="regression", label_column="y")


def test_an_infinite_number_is_called_so_in_every_format(file):
    settings = {"label_kind": "regression", "label_column": "y", "on_bad_row": "skip"}
    texts = file("a.csv", "text,y\na,1\nb,inf\nc,-Infinity\nd,2\ne,1e999\nf,info\n")
    reasons = [bad.reason for bad in labelled(texts, **settings).bad_rows]
    assert reasons[:3] == ["the label is not a finite number"] * 3
    assert reasons[3] == 'label "info" is not a number, which --label-kind regression needs'
    table = file("b.parquet", {"text": list("abc"), "y": [1.0, float("inf"), 2.0]})
    assert [bad.reason for bad in labelled(table, **settings).bad_rows] == reasons[:1]


def test_the_threshold_of_a_training_holds_unless_another_is_given(file):
    path = file("a.csv", "text,share\na,0.6\nb,0.8\nc,0\nd,1\n")

    def ids(labels=("0", "1"), kind="soft", **settings):
        found = read_labelled(path, DataSettings(**settings), labels, kind, threshold=0.7)
        return found.label_ids.tolist(), found.notes[-1:]

    assert ids() == ([0, 1, 0, 1], ["labels count as 1 from 0.7 on, as in the training (--label-threshold)"])
    assert ids(kind="classes")[0] == [0, 1, 0, 1]
    assert ids(label_threshold=0.5) == ([1, 1, 0, 1], ["labels count as 1 from 0.5 on, in the training from 0.7 on"])
    assert "labels count" not in ids(label_threshold=0.7)[1][0]
    several = file("b.csv", "text,x,y\na,0.8,0\nb,0.95,1\n")
    found = read_labelled(several, DataSettings(), ("x", "y"), "multi-label", threshold=0.9)
    assert found.hard_targets.tolist() == [[False, False], [True, True]]
    hard = read_labelled(several, DataSettings(), ("x", "y"), "multi-label", threshold=0.9, hard=True)
    assert hard.targets.tolist() == [[0, 0], [1, 1]]


def test_the_threshold_of_a_training_leaves_a_file_of_its_two_classes_alone(file):
    ratings = file("ratings.csv", "text,rating\na,3\nb,7\nc,10\n")
    made = file("made.csv", "text,label\na,0\nb,1\nc,1\n")
    for path, num_notes in ((ratings, 1), (made, 0)):
        found = read_labelled(path, DataSettings(on_bad_row="skip"), ("0", "1"), "classes", threshold=7)
        assert found.label_ids.tolist() == [0, 1, 1]
        assert sum("labels count" in note for note in found.notes) == num_notes
    asked = read_labelled(made, DataSettings(label_threshold=7), ("0", "1"), "classes", threshold=7)
    assert asked.label_ids.tolist() == [0, 0, 0]


def test_shares_are_made_hard_as_in_the_training(file):
    one = file("a.csv", "text,share\na,0.4\nb,0.8\n")
    found = read_labelled(one, DataSettings(label_column="share"), ("0", "1"), "classes", hard=True)
    assert (found.kind, found.label_ids.tolist()) == ("classes", [0, 1])
    several = file("b.csv", "text,neg,pos,so\na,0.2,0.7,0.1\nb,0.1,0.2,0.7\n")
    classes = file("c.csv", "text,label\na,pos\nb,so\n")
    for path in (several, classes):
        found = read_labelled(path, DataSettings(), ("neg", "pos", "so"), "classes", hard=True)
        assert (found.kind, found.label_ids.tolist()) == ("classes", [1, 2])


def test_a_test_file_of_a_training_of_shares_may_have_the_right_class_instead(file):
    path = file("a.csv", "text,label\na,pos\nb,so\n")
    settings = DataSettings(label_kind="soft", label_column="neg,pos,so")
    for kind in ("soft", "classes"):
        found = read_labelled(path, settings, ("neg", "pos", "so"), kind, as_in_training=True)
        assert found.label_ids.tolist() == [1, 2]
    shares = file("b.csv", "text,label,so,neg,pos\na,neg,0.1,0.2,0.7\n")
    assert read_labelled(shares, settings, ("neg", "pos", "so"), "soft", as_in_training=True).label_ids.tolist() == [1]
    assert 'no column "neg" (--label-column)' in refusal(
        path, ("neg", "pos", "so"), "soft", label_kind="soft", label_column="neg,pos,so"
    )
    neither = file("c.csv", "text,neg,pos\na,1,0\n")
    with pytest.raises(DataError, match="cannot tell the label column"):
        read_labelled(neither, settings, ("neg", "pos", "so"), "soft", as_in_training=True)


def test_settings_without_effect_are_refused(file):
    classes = file("a.csv", "text,label\na,good\nb,bad\n")
    assert "--hard-labels: found one label column" in refusal(classes, hard_labels=True)
    assert "--hard-labels: found one label column" in refusal(classes, hard_labels=True, label_kind="classes")
    shares = file("b.csv", "text,neg,pos,so\na,0.2,0.7,0.1\nb,0.1,0.2,0.7\n")
    settings = {"label_kind": "soft", "label_column": "neg,pos,so"}
    assert "the class with the largest share counts" in refusal(shares, label_threshold=0.5, **settings)
    assert "one of two classes, found 3 (neg, pos, so)" in refusal(shares, positive_label="neg", **settings)
