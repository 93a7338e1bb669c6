"""From scores and labels of every kind to metrics, extremes and tables of predictions."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertwright.data.columns import LabelledTexts
from bertwright.errors import DataError, UserError
from bertwright.evaluation.judge import (
    extremes_of,
    judge,
    metric_to_choose_by,
    prediction_tables,
    write_predictions,
)
from bertwright.evaluation.metrics import METRIC_NAMES_OF, multilabel_metrics
from bertwright.evaluation.predict import write_tables
from bertwright.steps import Trace, read_trace, write_trace


def column(values, kind=pa.large_string()) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values[:1], kind), pa.array(values[1:], kind)])


def texts(kind, labels, label_ids=None, targets=None, **more) -> LabelledTexts:
    num_texts = len(label_ids if targets is None else targets)
    return LabelledTexts(
        column([f"text {i}" for i in range(num_texts)]),
        None if label_ids is None else np.array(label_ids),
        labels,
        np.arange(num_texts) * 10,
        [],
        [],
        "",
        kind=kind,
        targets=None if targets is None else np.array(targets, np.float32),
        **more,
    )


MANY = texts("multi-label", ("rude", "long"), targets=[[1, 0], [0, 0], [1, 1]])
SHARES = texts("soft", ("a", "b"), [0, 1, 1], [[0.75, 0.25], [0.5, 0.5], [0, 1]])
NUMBERS = texts("regression", ("stars",), targets=[[1], [2.5], [4]])
SCORES = np.array([[0.9, 0.2], [0.1, 0.6], [0.8, 0.7]])


def rows_of(given, scores, threshold=0.5, with_texts=True, **more):
    (table,) = prediction_tables(given, scores, given.labels, threshold, with_texts, **more)
    return table.to_pylist()


@pytest.mark.parametrize(
    ("given", "scores"),
    [
        (texts("classes", ("a", "b"), [0, 1, 1]), SCORES / SCORES.sum(1, keepdims=True)),
        (MANY, SCORES),
        (SHARES, SCORES / SCORES.sum(1, keepdims=True)),
        (NUMBERS, np.array([[1.0], [2.0], [5.0]])),
    ],
)
def test_every_kind_is_judged_by_its_metrics(given, scores):
    found = judge(given, scores, 0.5)
    assert set(METRIC_NAMES_OF[given.kind]) - set(found) <= {"soft_log_loss"}
    assert found["num_texts"] == 3


def test_labels_are_those_decided_by_the_reader():
    shares = np.array([[0.6, 0.2], [0.4, 0.0], [0.9, 1.0]])
    given = texts("multi-label", ("rude", "long"), targets=shares, hard_targets=shares >= 0.7)
    targets = shares.astype(np.float32)
    expected = multilabel_metrics(targets, SCORES, ("rude", "long"), hard_targets=shares >= 0.7)
    assert judge(given, SCORES, 0.5) == expected
    assert expected["per_class"]["rude"]["support"] == 1
    extremes = extremes_of(given, SCORES, given.labels, 3, True)
    assert {entry["row"]: entry["label"] for entry in extremes["highest"]} == {0: "", 10: "", 20: "rude|long"}


def test_any_number_of_labels_is_a_list():
    rows = rows_of(MANY, SCORES)
    assert [row["predicted"] for row in rows] == [["rude"], ["long"], ["rude", "long"]]
    assert [row["label_rude"] for row in rows] == [1, 0, 1]
    assert "label" not in rows[0]
    assert [row["predicted"] for row in rows_of(MANY, SCORES, threshold=0.95)] == [[], [], []]
    assert [row["predicted"] for row in rows_of(MANY, SCORES, threshold=0.8)] == [["rude"], [], ["rude"]]


def test_numbers_are_predicted_as_they_are():
    rows = rows_of(NUMBERS, np.array([[1.5], [-2.0], [1e9]]))
    assert [row["predicted"] for row in rows] == [1.5, -2.0, 1e9]
    assert [row["label_stars"] for row in rows] == [1, 2.5, 4]


def test_texts_without_labels_follow_the_kind_of_the_classifier():
    unlabelled = LabelledTexts(column(["x", "y"]), None, (), np.arange(2), [], [], "")
    (table,) = prediction_tables(unlabelled, np.array([[0.9, 0.8], [0.1, 0.2]]), ("a", "b"), 0.5, True, "multi-label")
    assert table.column_names == ["row", "text_sha256", "predicted", "score_a", "score_b", "text"]
    assert table["predicted"].to_pylist() == [["a", "b"], []]
    (table,) = prediction_tables(unlabelled, np.array([[0.9], [7.0]]), ("stars",), 0.5, True, "regression")
    assert table["predicted"].to_pylist() == [0.9, 7]


@pytest.mark.parametrize("kind", ["classes", "multi-label", "regression"])
def test_no_texts_are_a_table_without_rows(kind, tmp_path):
    empty = LabelledTexts(pa.chunked_array([], pa.large_string()), None, (), np.zeros(0, int), [], [], "")
    labels = ("stars",) if kind == "regression" else ("a", "b")
    write_predictions(
        tmp_path / "p.parquet", prediction_tables(empty, np.zeros((0, len(labels))), labels, 0.5, True, kind)
    )
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 0


def test_groups_and_pairs_stand_beside_the_scores():
    given = texts(
        "classes",
        ("a", "b"),
        [0, 1, 1],
        pairs=column(["first", "second", "third"]),
        groups={"female": column([1.0, None, 0.3], pa.float64()), "country": column(["at", "ch", None])},
    )
    scores = SCORES / SCORES.sum(1, keepdims=True)
    rows = rows_of(given, scores)
    assert list(rows[0])[-4:] == ["group_female", "group_country", "text", "pair"]
    assert [row["group_female"] for row in rows] == [1.0, None, 0.3]
    assert [row["group_country"] for row in rows] == ["at", "ch", None]
    assert rows[1]["pair"] == "second"
    assert rows[1]["text_sha256"] == hashlib.sha256(b"text 1\0second").hexdigest()
    alone = rows_of(texts("classes", ("a", "b"), [0, 1, 1]), scores)
    assert alone[1]["text_sha256"] == hashlib.sha256(b"text 1").hexdigest()
    hidden = rows_of(given, scores, with_texts=False)
    assert "text" not in hidden[0]
    assert "pair" not in hidden[0]
    assert hidden[1]["text_sha256"] == rows[1]["text_sha256"]
    extremes = extremes_of(given, scores, given.labels, 1, True)
    assert extremes["lowest"][0]["pair"] == "first"
    hidden = extremes_of(given, scores, given.labels, 1, False)["lowest"][0]
    assert (hidden["text"], hidden["pair"]) == (None, None)


def test_many_rows_come_in_groups_and_in_one_schema(tmp_path):
    num_texts = 70_000
    generator = np.random.default_rng(0)
    targets = (generator.random((num_texts, 2)) < 0.5).astype(np.float32)
    given = LabelledTexts(
        pa.chunked_array([pa.array(["x"] * num_texts, pa.large_string())]),
        None,
        ("a", "b"),
        np.arange(num_texts),
        [],
        [],
        "",
        kind="multi-label",
        targets=targets,
    )
    scores = generator.random((num_texts, 2))
    write_predictions(tmp_path / "p.parquet", prediction_tables(given, scores, given.labels, 0.5, True))
    table = pq.read_table(tmp_path / "p.parquet")
    assert table["row"].to_pylist() == list(range(num_texts))
    expected = [[name for name, score in zip("ab", row, strict=True) if score >= 0.5] for row in scores[-10:]]
    assert table["predicted"].to_pylist()[-10:] == expected
    assert table["label_b"].to_numpy().tolist() == targets[:, 1].tolist()


def test_extremes_of_any_number_of_labels_and_of_numbers():
    found = extremes_of(MANY, SCORES, MANY.labels, 1, True)
    assert found["highest"] == [{"row": 0, "score": 0.9, "text": "text 0", "label": "rude"}]
    assert found["lowest"] == [{"row": 10, "score": 0.6, "text": "text 1", "label": ""}]
    found = extremes_of(NUMBERS, np.array([[1.0], [9.0], [4.0]]), NUMBERS.labels, 1, False)
    assert found["highest"] == [{"row": 10, "score": 9.0, "text": None, "label": "2.5"}]


def test_the_metric_to_choose_by_is_that_of_the_kind():
    assert metric_to_choose_by(MANY, None) == ("roc_auc", None)
    assert metric_to_choose_by(MANY, "micro_f1") == ("micro_f1", None)
    assert metric_to_choose_by(SHARES, None) == ("roc_auc", None)
    assert metric_to_choose_by(SHARES, "soft_log_loss") == ("soft_log_loss", None)
    assert metric_to_choose_by(NUMBERS, None) == ("mean_squared_error", None)
    assert metric_to_choose_by(NUMBERS, "spearman") == ("spearman", None)
    with pytest.raises(UserError, match="a regression has no such metric"):
        metric_to_choose_by(NUMBERS, "accuracy")


def test_a_metric_that_has_no_answer_is_replaced_or_refused():
    same = texts("multi-label", ("rude", "long"), targets=[[1, 0], [1, 0]])
    metric, note = metric_to_choose_by(same, None)
    assert metric == "log_loss"
    assert note is not None
    assert "have no label that some but not all of them have" in note
    with pytest.raises(DataError, match=r"--best-metric average_precision needs .* found none"):
        metric_to_choose_by(same, "average_precision")
    one = texts("regression", ("stars",), targets=[[3], [3]])
    assert metric_to_choose_by(one, None) == ("mean_squared_error", None)
    with pytest.raises(DataError, match=r"--best-metric r2 needs validation texts of different numbers"):
        metric_to_choose_by(one, "r2")
    alike = texts("soft", ("a", "b"), [1, 1], [[0.2, 0.8], [0.4, 0.6]])
    assert metric_to_choose_by(alike, None)[0] == "log_loss"


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet"])
def test_predictions_that_cannot_be_written_leave_nothing_and_name_their_file(tmp_path, name):
    def tables():
        yield from prediction_tables(NUMBERS, SCORES[:, :1], NUMBERS.labels, 0.5, True)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        write_tables(tmp_path / name, tables())
    assert caught.value.filename == str(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_relative_folder_named_like_a_home_is_no_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("~").mkdir()
    for path in (Path("~/p.parquet"), Path("~/steps.parquet")):
        if path.name == "p.parquet":
            write_predictions(path, prediction_tables(NUMBERS, SCORES[:, :1], NUMBERS.labels, 0.5, True))
        else:
            empty = np.empty(0, np.float64)
            write_trace(path, Trace(empty, empty, empty, empty, empty, empty))
            assert len(read_trace(path)) == 0
    assert sorted(path.name for path in (tmp_path / "~").iterdir()) == ["p.parquet", "steps.parquet"]
