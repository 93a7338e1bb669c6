"""Runs side by side, in the library and in the shell."""

from __future__ import annotations

import hashlib
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from tests.test_cli import call

import bertwright
from bertwright import runs as write_runs
from bertwright.errors import UserError
from bertwright.evaluation.judge import write_predictions
from bertwright.experiments.agreement import _known
from bertwright.experiments.compare import compare
from bertwright.experiments.show_agreement import side_by_side
from bertwright.experiments.show_comparison import quality_tables, rich_table


@pytest.fixture(scope="module")
def runs(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    common = {"model": "bert-tiny", "max_length": 16, "quiet": True}
    data, test = examples / "comments_train.csv", examples / "comments_test.csv"
    first = bertwright.train(data, test=test, epochs=1, output=folder / "first", usd_per_hour=0.5, **common)
    second = bertwright.train(data, test=test, steps=3, seed=1, output=folder / "second", **common)
    held = bertwright.train(data, steps=2, output=folder / "held", **common)
    return first.path, second.path, held.path


def test_a_record_holds_what_the_run_does(runs):
    records = compare(*runs[:2]).records
    for path, record in zip(runs, records, strict=False):
        run = bertwright.open_run(path)
        assert record["run"] == str(path)
        assert record["model"] == "bert-tiny"
        assert record["seed"] == run.settings["seed"]
        assert record["metrics"]["roc_auc"] == run.metrics["test"]["roc_auc"]
        assert record["train_accuracy"] == run.metrics["train"]["accuracy"]
        assert record["seconds"]["train"] == run.result["seconds"]["train"]
    assert [record["epochs"] for record in records] == [1.0, None]
    assert records[0]["usd"] > 0
    assert records[1]["usd"] is None


def test_times_of_trials_side_by_side_are_said_to_be_such(runs, tmp_path):
    copies = []
    for path, trials in zip(runs[:2], (2.0, 1.0), strict=True):
        copies.append(tmp_path / path.name)
        shutil.copytree(path, copies[-1])
        result = json.loads((copies[-1] / "result.json").read_text())
        result["side_by_side"] = {"trials": trials, "threads": 1}
        (copies[-1] / "result.json").write_text(json.dumps(result))
    assert any(note.startswith("Times of 1 of 2 runs are of trials of a sweep") for note in compare(*copies).notes)
    assert not any("side by side" in note for note in compare(*runs[:2]).notes)


def test_runs_judged_on_other_texts_are_refused(runs):
    with pytest.raises(UserError, match=r"held was judged on other texts or labels \(145 validation texts\)") as caught:
        compare(runs[0], runs[2])
    assert "244 test texts" in str(caught.value)
    assert "bertwright evaluate" in str(caught.value)


def test_runs_without_predictions_are_matched_by_their_files(runs, tmp_path):
    copies = []
    for path in runs[:2]:
        copies.append(tmp_path / path.name)
        shutil.copytree(path, copies[-1])
        (copies[-1] / "predictions.parquet").unlink()
    found = compare(*copies)
    assert len(found.records) == 2
    assert found.records[0]["intervals"] == found.contenders[0]["intervals"] == {}
    assert [record["verdict"] for record in found.differences] == ["cannot tell"]
    assert found.differences[0]["p"] is None
    assert found.rankings == []
    assert sum("has no predictions.parquet" in note for note in found.notes) == 2
    mixed = compare(runs[0], copies[1])
    assert mixed.records[0]["intervals"]
    assert not mixed.records[1]["intervals"]
    assert mixed.differences[0]["p"] is None


def test_the_shell_shows_tables_where_torch_cannot_be_imported(runs):
    done = call("compare", *runs[:2], without_torch=True)
    assert done.returncode == 0, done.stderr
    accuracy = bertwright.open_run(runs[0]).metrics["test"]["accuracy"]
    for word in ("Quality, test texts", "Times and memory", "bert-tiny", "3 steps", f"{accuracy:.4f}", "USD"):
        assert word in done.stdout
    done = call("compare", *runs[:2], "--json", without_torch=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(compare(*runs[:2]).record(), allow_nan=False))
    assert "Quality" in done.stderr
    done = call("compare", runs[0], runs[2])
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_agreement_in_the_shell_has_the_exit_codes_of_diff(runs, tmp_path):
    """0: they agree; 1: they do not; 2: they cannot be compared."""
    shutil.copytree(runs[0], tmp_path / "copy")
    done = call("compare", runs[0], tmp_path / "copy", "--agreement", without_torch=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("These runs agree to four decimals.")
    done = call("compare", runs[0], runs[1], "--agreement", without_torch=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("They part before the first step: they start from other weights.")
    assert "seed (0 and 1)" in " ".join(done.stdout.split())
    done = call("compare", runs[0], runs[2], "--agreement", "--json", without_torch=True)
    assert done.returncode == 1
    record = json.loads(done.stdout)
    assert record["agree"] is False
    assert record["pairs"][0]["verdict"] == record["verdict"]
    assert record["pairs"][0]["steps"]["other_rows"] == 1
    done = call("compare", runs[0], tmp_path / "nowhere", "--agreement")
    assert done.returncode == 2
    assert call("compare", "--help", without_torch=True).returncode == 0
    done = call("compare", runs[0])
    assert done.returncode == 2
    assert "expected at least two" in done.stderr


def judged(folder, name, task, metrics, columns, labels=("a", "b")):
    writer = write_runs.RunWriter(folder / name, "evaluate", {"run": "m", "seed": 0})
    hashes = [hashlib.sha256(str(text).encode()).hexdigest() for text in range(len(next(iter(columns.values()))))]
    rows = np.array(columns.pop("order", range(len(hashes))))
    table = pa.table({"text_sha256": hashes, **columns}).take(rows)
    write_predictions(folder / name / "predictions.parquet", iter([table]))
    writer.result(
        {
            "task": task,
            "labels": list(labels),
            "data": {"test_texts": len(hashes)},
            "seconds": dict.fromkeys(("read", "tokenize", "train", "infer", "total"), 1.0),
            "rates": {},
            "memory": {"peak_process_bytes": 2**20, "peak_gpu_bytes": None},
            "cost": {"usd_per_hour": None, "usd": None},
            "metrics": {"train": {}, "validation": {}, "test": {**metrics, "num_texts": len(hashes)}},
            "extremes": {"highest": [], "lowest": []},
        }
    )
    return folder / name


@pytest.mark.parametrize(
    ("task", "columns", "others"),
    [
        ("single_label", {"label": ["a", "b", "b"]}, {"label": ["a", "b", "a"]}),
        ("regression", {"label_stars": [1.0, 2.5, 4.0]}, {"label_stars": [1.0, 4.0, 2.5]}),
        (
            "multi_label",
            {"label_a": [1.0, 0.0, 1.0], "label_b": [0.0, 0.0, 1.0]},
            {"label_a": [0.0, 1.0, 0.0], "label_b": [1.0, 1.0, 0.0]},
        ),
        (
            "multi_label",
            {"label_a": [1.0, 0.0], "label_b": [0.0, 0.0]},
            {"label_a": [1.0, None], "label_b": [0.0, 0.0]},
        ),
        (
            "multi_label",
            {"label_a": [1.0, 0.0], "label_b": [0.0, 1.0]},
            {"label_b": [1.0, 0.0], "label_a": [0.0, 1.0]},
        ),
    ],
)
def test_runs_judged_on_other_labels_of_the_same_texts_are_refused(tmp_path, task, columns, others):
    one = judged(tmp_path, "one", task, {"r2": 0.5}, dict(columns))
    reordered = {**columns, "order": list(reversed(range(len(next(iter(columns.values()))))))}
    assert len(compare(one, judged(tmp_path, "reordered", task, {"r2": 0.4}, reordered)).records) == 2
    with pytest.raises(UserError, match="other texts or labels"):
        compare(one, judged(tmp_path, "other", task, {"r2": 0.4}, dict(others)))


def test_a_hash_of_a_text_that_is_none_is_damage(tmp_path):
    paths = [judged(tmp_path, name, "regression", {}, {"label_a": [1.0, 2.0]}) for name in ("one", "two")]
    table = pa.table({"text_sha256": ["ab", None], "label_a": [1.0, 2.0]})
    write_predictions(paths[1] / "predictions.parquet", iter([table]))
    with pytest.raises(UserError, match="are no SHA-256; the file is damaged"):
        compare(*paths)


@pytest.mark.parametrize(
    ("task", "metrics", "headings"),
    [
        (
            "regression",
            {"mean_squared_error": 0.25, "root_mean_squared_error": 0.5, "r2": 0.7, "pearson": 0.8, "spearman": 0.9},
            ["RMSE", "r2", "pearson", "spearman"],
        ),
        (
            "multi_label",
            {"accuracy": 0.1, "micro_f1": 0.2, "macro_f1": 0.3, "hamming_loss": 0.4, "roc_auc": 0.5},
            ["accuracy", "micro\nf1", "macro\nf1", "roc\nauc"],
        ),
        (
            "soft_label",
            {"accuracy": 0.1, "f1": 0.2, "log_loss": 0.3, "soft_log_loss": 0.4, "brier": 0.5},
            ["accuracy", "f1", "log\nloss", "soft\nlog\nloss"],
        ),
    ],
)
def test_the_columns_of_a_comparison_are_those_of_the_labels(tmp_path, task, metrics, headings):
    paths = [judged(tmp_path, name, task, metrics, {"label_a": [1.0, 2.0]}) for name in ("one", "two")]
    (table,) = quality_tables(compare(*paths).records, 100)
    assert list(table.columns) == ["run", "model", "seed", "epochs", *headings]
    assert shown([table], 100).splitlines()[-2].replace("two", "one").split() == [
        "one",
        "m",
        "0",
        "-",
        *(f"{metrics[name]:.4f}" for name in metrics_of(headings)),
    ]
    sides = dict(side_by_side([_known(bertwright.open_run(path)) for path in paths], []))
    assert all(sides[f"test {name}"] == [f"{metrics[name]:.6f}"] * 2 for name in metrics_of(headings))


def metrics_of(headings):
    return ["root_mean_squared_error" if name == "RMSE" else name.replace("\n", "_") for name in headings]


def shown(tables, width):
    console = Console(width=width, file=io.StringIO())
    for table in tables:
        console.print(rich_table(table))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_comparison_of_many_metrics_is_not_squeezed(tmp_path, width):
    metrics = dict.fromkeys(("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"), 0.1234)
    paths = [judged(tmp_path, name, "single_label", metrics, {"label": ["a", "b"]}) for name in ("one", "two")]
    records = [{**record, "model": "m" * 30, "train_accuracy": 0.1234} for record in compare(*paths).records]
    assert shown(quality_tables(records, width), width).count("0.1234") == 14


def test_a_run_under_the_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("one", "two"):
        judged(tmp_path, name, "regression", {}, {"label_a": [1.0, 2.0]})
    assert len(compare("~/one", "~/two").records) == 2
