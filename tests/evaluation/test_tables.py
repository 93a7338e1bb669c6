import io
import json

import numpy as np
import pytest
from rich.console import Console

from bertwright.evaluation.metrics import METRIC_NAMES, classification_metrics
from bertwright.evaluation.tables import confusion_table, metrics_table, per_class_table


def rows(table, width=120):
    """The cells of each printed line, split at white space."""
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return [line.split() for line in out.getvalue().splitlines() if line.split()]


def metrics_of(label_ids, of_positive, labels=("clean", "toxic")):
    of_positive = np.array(of_positive)
    return classification_metrics(np.array(label_ids), np.stack([1 - of_positive, of_positive], axis=1), labels)


TRAIN = metrics_of([0, 1] * 1000, [0.2, 0.8] * 1000)
TEST = metrics_of([1, 1], [0.25, 0.75])


def test_metrics_table_has_the_splits_present_in_order():
    table = rows(metrics_table({"test": TEST, "validation": {}, "other": TEST, "train": TRAIN}))
    assert table[0] == ["metric", "train", "test", "other"]
    assert [row[0] for row in table[2:]] == [*METRIC_NAMES, "texts"]
    cells = {row[0]: row[1:] for row in table}
    assert cells["accuracy"] == ["1.0000", "0.5000", "0.5000"]
    assert cells["roc_auc"] == ["1.0000", "-", "-"]
    assert cells["texts"] == ["2,000", "2", "2"]


def test_metrics_table_of_a_record_read_back_and_of_some_metrics():
    assert rows(metrics_table(json.loads(json.dumps({"train": TRAIN})))) == rows(metrics_table({"train": TRAIN}))
    table = rows(metrics_table({"test": {"accuracy": 0.5, "f1": None}, "train": None}, title="Held-out [b]"))
    assert table == [["Held-out", "[b]"], ["metric", "test"], table[2], ["accuracy", "0.5000"], ["f1", "-"]]


def test_nothing_to_show():
    assert rows(metrics_table({})) == [["metric"], rows(metrics_table({}))[1]]


def test_per_class_table():
    table = rows(per_class_table(TEST))
    assert table[0] == ["label", "precision", "recall", "f1", "texts"]
    assert table[2:] == [["clean", "0.0000", "0.0000", "0.0000", "0"], ["toxic", "1.0000", "0.5000", "0.6667", "2"]]
    assert [row[0] for row in rows(per_class_table(TEST, ["toxic"]))[2:]] == ["toxic"]
    with pytest.raises(KeyError):
        per_class_table(TEST, ["unknown"])


def test_per_class_table_without_texts():
    assert rows(per_class_table(metrics_of([], [])))[2] == ["clean", "-", "-", "-", "0"]


def test_confusion_table():
    table = rows(confusion_table(TEST))
    assert table[0] == ["true", "\\", "predicted", "clean", "toxic"]
    assert table[2:] == [["clean", "0", "0"], ["toxic", "1", "1"]]
    assert rows(confusion_table(TEST, ["no", "yes"]))[3] == ["yes", "1", "1"]
    with pytest.raises(ValueError):
        confusion_table(TEST, ["only one"])


def test_labels_are_neither_markup_nor_control_codes():
    nasty = metrics_of([0, 1], [0.1, 0.9], ["[red]x[/red]", "\x1b[2J\ny"])
    for table in (per_class_table(nasty, title="[b]t[/b]"), confusion_table(nasty, title="[b]t[/b]")):
        cells = {row[0]: row for row in rows(table)}
        assert "[red]x[/red]" in cells
        assert "[2J" in cells
        assert "[b]t[/b]" in cells
