"""Exporting: the certificate says what is true, and a graph that loses too much is not written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import bertwright
from bertwright.cli import main
from bertwright.errors import DataError, RunError, UserError
from bertwright.evaluation.evaluate import evaluate
from bertwright.shipping import export_onnx as act
from bertwright.shipping import parity

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


def trained(folder, name, examples, **settings):
    values = {"test": examples / "comments_test.csv", "model": "bert-tiny", "max_length": 32, "steps": 60}
    values |= {"learning_rate": 1e-3, "dtype": "float32", "quiet": True, **settings}
    return bertwright.train(examples / "comments_train.csv", output=folder / name, **values)


@pytest.fixture(scope="module")
def run(folder, examples):
    return trained(folder, "run", examples)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_certificate_is_what_scoring_both_gives(run, examples, dtype):
    record = bertwright.export_onnx(run.path, "graph", dtype=dtype, quiet=True)
    kept = json.loads(Path("graph/parity.json").read_text())
    assert {"output": "graph", **kept} == record
    with open(examples / "comments_test.csv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    exact, graph = bertwright.load(run.path, dtype="float32"), bertwright.load("graph")
    ours, theirs = (scorer.logits(scorer.tokenize(texts)) for scorer in (exact, graph))
    assert record["texts"] == record["texts_available"] == len(texts)
    assert record["logits"]["largest_difference"] == pytest.approx(np.abs(ours - theirs).max(), abs=1e-6)
    assert record["logits"]["largest_difference"] < (1e-4 if dtype == "float32" else 1)
    decided = [[p.label for p in scorer.predict(texts)] for scorer in (exact, graph)]
    assert record["label_flips"]["texts"] == sum(a != b for a, b in zip(*decided, strict=True))
    metric = record["metric"]
    assert metric["name"] == "roc_auc"
    judged = evaluate("graph", examples / "comments_test.csv", quiet=True)["metrics"]["test"]
    assert metric["exported"] == pytest.approx(judged["roc_auc"], abs=1e-9)
    assert metric["float32"] == pytest.approx(run.metrics["test"]["roc_auc"], abs=1e-4)
    assert metric["change"] == pytest.approx(metric["exported"] - metric["float32"], abs=1e-12)
    low, high = metric["interval"]
    assert low <= metric["change"] <= high
    assert record["within_max_loss"]
    assert not record["forced"]
    assert record["graph_bytes"] < (20e6 if dtype == "float32" else 5e6)
    if dtype == "float32":
        assert metric["interval"] == [0.0, 0.0]
        assert record["alone"]["largest_difference"] < 1e-5


def spoil(monkeypatch):
    """Let the graph say the opposite of what the classifier says."""
    save = act.save_graph

    def spoilt(path, config, state, *rest, **more):
        save(path, config, {**state, "classifier.linear.weight": -state["classifier.linear.weight"]}, *rest, **more)

    monkeypatch.setattr(act, "save_graph", spoilt)


def test_a_graph_that_loses_too_much_is_written_by_force_alone(run, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        main(["export", "onnx", str(run.path), "graph"])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: the graph in float32 loses 0.")
    assert "expected at most --max-loss 0.01: nothing is written" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["export", "onnx", str(run.path), "graph", "--force", "--json"])
    assert not stop.value.code
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["forced"]
    assert not record["within_max_loss"]
    assert record["metric"]["loss"] > 0.1
    assert "WARNING: the graph loses 0." in err
    assert bertwright.export_onnx(run.path, "more", max_loss=1, quiet=True)["within_max_loss"]


def test_few_texts_do_not_certify_much(run, tmp_path, capsys):
    (tmp_path / "few.csv").write_text("text,label\n" + "what a lovely day,clean\nyou are an idiot,toxic\n" * 4)
    main_ok("export", "onnx", str(run.path), "graph", "--data", "few.csv", "--metric", "accuracy")
    out, err = capsys.readouterr()
    assert "texts" in out
    assert "few.csv" in out
    assert "WARNING: these 8 texts do not rule out a loss of more than --max-loss 0.01" in err
    with pytest.raises(UserError, match="roc_auk"):
        bertwright.export_onnx(run.path, "other", metric="roc_auk", quiet=True)


def test_texts_of_one_class_are_judged_by_log_loss(run, tmp_path):
    (tmp_path / "clean.csv").write_text("text,label\n" + "what a lovely day,clean\n" * 5)
    record = bertwright.export_onnx(run.path, "graph", data="clean.csv", quiet=True)
    assert record["metric"]["name"] == "log_loss"


def test_a_sample_is_said(run):
    record = bertwright.export_onnx(run.path, "graph", num_texts=50, quiet=True)
    assert (record["texts"], record["texts_available"]) == (50, 244)
    assert any(
        "50   held-out texts" in line and "of 244, drawn by chance" in line for line in act.certificate_lines(record)
    )


def main_ok(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert not stop.value.code


def test_outputs_in_the_way(run, tmp_path):
    bertwright.export_onnx(run.path, "graph", quiet=True)
    with pytest.raises(RunError, match="graph exists; pass another folder, or --overwrite"):
        bertwright.export_onnx(run.path, "graph", quiet=True)
    bertwright.export_onnx(run.path, "graph", overwrite=True, dtype="int8", quiet=True)
    assert bertwright.load("graph").session.dtype == "int8"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "novel.txt").write_text("Once")
    with pytest.raises(RunError, match="is not an exported graph"):
        bertwright.export_onnx(run.path, "mine", overwrite=True, quiet=True)
    with pytest.raises(RunError, match="touches the exported run"):
        bertwright.export_onnx(run.path, run.path / "graph", quiet=True)
    with pytest.raises(UserError, match="an exported graph already"):
        bertwright.export_onnx("graph", "again", quiet=True)
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_run_without_texts_and_a_model_that_is_no_run(folder, examples, minilm_folder):
    bare = trained(folder, "bare", examples, texts=False, steps=1)
    with pytest.raises(RunError, match=r"holds no texts \(--no-texts\).*name a file with --data|--no-texts"):
        bertwright.export_onnx(bare.path, "graph", quiet=True)
    with pytest.raises(UserError, match="not a run"):
        bertwright.export_onnx(bare.path / "model", "graph", quiet=True)
    record = bertwright.export_onnx(bare.path / "model", "graph", data=examples / "comments_test.csv", quiet=True)
    assert record["texts"] == 244


def test_a_regression_is_judged_by_its_error(tmp_path):
    rows = [f"{'good ' * (i % 5)}film,{100 * (i % 5)}" for i in range(60)]
    (tmp_path / "stars.csv").write_text("text,stars\n" + "\n".join(rows))
    how = {"label_column": "stars", "label_kind": "regression", "test": "stars.csv", "model": "bert-tiny"}
    run = bertwright.train("stars.csv", output="stars", max_length=16, steps=30, learning_rate=1e-3, quiet=True, **how)
    record = bertwright.export_onnx(run.path, "graph", quiet=True)
    assert record["label_flips"] is None
    metric = record["metric"]
    assert metric["name"] == "mean_squared_error"
    assert metric["loss"] == pytest.approx(max(metric["change"] / metric["float32"], 0), abs=1e-12)


def test_a_metric_without_an_answer(run, monkeypatch):
    monkeypatch.setattr(parity, "point_metrics", lambda judged, names: {})
    with pytest.raises(DataError, match="has no answer on these 244 texts"):
        bertwright.export_onnx(run.path, "graph", quiet=True)
