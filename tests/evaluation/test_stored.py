"""The one reader of predictions.parquet: what it reads of each kind of labels, and what it refuses."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.reporting.made_runs import make_run

from bertwright.errors import RunError
from bertwright.evaluation.resampling import point_metrics
from bertwright.evaluation.stored import predictions_in, read_columns, read_predictions, stored_scores


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("classes", ("clean", "toxic")),
        ("classes", ("a", "b", "c")),
        ("soft", ("a", "b", "c")),
        ("multi-label", ("x", "y")),
        ("regression", ("number",)),
    ],
)
def test_what_is_stored_has_the_metrics_on_record_in_any_order(tmp_path, kind, labels):
    run = make_run(tmp_path / "run", kind, labels, num=80)
    found = read_predictions(run)
    assert (found.kind, found.labels, len(found)) == (kind, labels, 80)
    assert found.lengths[3] == len(found.texts[3].as_py())
    names = [name for name in found.judged.metric_names if isinstance(run.metrics["test"].get(name), float)]
    assert len(names) > 4
    other = found.scores_in_order(np.random.default_rng(0).permutation(80))
    assert other.texts is None
    for one in (found, other):
        for name, values in point_metrics(one.judged, names).items():
            assert values[0, 0] == pytest.approx(run.metrics["test"][name], abs=1e-12), name
    if kind != "regression":
        assert stored_scores(run).has_labels.sum(axis=1).max() <= len(labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["score_toxic"]), "holds no scores of clean, toxic"),
        (lambda table: table.drop_columns(["text_sha256"]), "holds no text_sha256"),
        (lambda table: set_column(table, "label", ["rude"] * 30), "label holds what is none of clean, toxic"),
        (lambda table: set_column(table, "score_clean", [None] * 30), "holds what is no number"),
        (lambda table: set_column(table, "row", ["first"] * 30), "damaged"),
        (lambda table: table.drop_columns(["label"]), "holds no labels of the texts"),
        (lambda table: table.slice(0, 0), "holds no texts"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, change, message):
    run = make_run(tmp_path / "run", num=30)
    path = run.path / "predictions.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(RunError, match=message) as error:
        stored_scores(run)
    assert str(error.value).startswith(str(path))


def test_without_decisions_there_are_scores_and_labels_but_nothing_is_judged(tmp_path):
    run = make_run(tmp_path / "run", "multi-label", ("x", "y"), num=30)
    table = read_columns(run, lambda name: name != "predicted")
    found = predictions_in(table, run)
    assert found.decided is None
    assert found.judged is None
    assert found.has_label.shape == found.scores.shape == (30, 2)


def set_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))
