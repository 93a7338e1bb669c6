"""Making a cascade: what is written is whole, needs nothing else, and goes where a classifier goes."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tests.evaluation.made_cascades import PAIRS, TEXTS, made_cascade
from tests.shipping.server.asking import Asking
from tests.shipping.server.asking import run as asked

import bertwright
from bertwright.cli import main
from bertwright.config.base import build
from bertwright.config.parts import ScoringMachineSettings
from bertwright.errors import DataError, RunError, UserError
from bertwright.shipping.aws_lambda import bundle
from bertwright.shipping.aws_lambda.cascade import load
from bertwright.shipping.export_onnx import certificate_lines, is_export
from bertwright.shipping.server.models import load_models
from bertwright.training.teacher import load_teacher

FLOAT32 = {"device": "cpu", "dtype": "float32"}
LABELS = ("no", "yes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cascades")


@pytest.fixture(scope="module")
def runs(folder, examples):
    """A small and a large model, as the words have it: both learn the demo comments, the small one for a moment."""
    made = {}
    for name, steps, max_length in (("small", 8, 16), ("large", 80, 48)):
        made[name] = bertwright.train(
            examples / "comments_train.csv",
            output=folder / name,
            model="bert-tiny",
            max_length=max_length,
            steps=steps,
            learning_rate=1e-3,
            quiet=True,
            dtype="float32",
        )
    return str(made["small"].path), str(made["large"].path)


@pytest.fixture(scope="module")
def made(folder, runs, examples):
    """The record and the folder of a cascade of them."""
    output = folder / "both"
    record = bertwright.cascade(
        *runs, examples / "comments_test.csv", output, max_loss=0.08, metric="accuracy", quiet=True, **FLOAT32
    )
    return record, output


def texts_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def test_what_was_chosen_holds_for_what_was_written(made, runs, examples):
    record, output = made
    assert json.loads((output / "tuning.json").read_text()) | {"output": str(output)} == record
    chosen = record["chosen"]
    assert 0 < chosen["deferred_texts"] < 1
    assert chosen["loss_at_most"] <= 0.08
    result = bertwright.evaluate(output, examples / "comments_test.csv", quiet=True, **FLOAT32)
    assert result["metrics"]["test"]["accuracy"] == pytest.approx(chosen["value"], abs=0.005)
    large = bertwright.evaluate(runs[1], examples / "comments_test.csv", quiet=True, **FLOAT32)
    assert large["metrics"]["test"]["accuracy"] == pytest.approx(record["large_value"])
    cascade = bertwright.load(output, **FLOAT32)
    texts = texts_of(examples / "comments_test.csv")
    scores = cascade.score(texts)
    assert cascade.num_deferred / len(texts) == pytest.approx(chosen["deferred_texts"], abs=0.01)
    of_large = bertwright.load(runs[1], **FLOAT32).score(texts)
    deferred = np.isclose(scores, of_large, atol=1e-6).all(axis=1)
    assert deferred.mean() == pytest.approx(chosen["deferred_texts"], abs=0.02)
    assert cascade.manifest.deferred_share == pytest.approx(chosen["deferred_tokens"])
    costs = record["seconds"]
    expected = (costs["small"] + costs["large"] * chosen["deferred_tokens"]) / costs["large"]
    assert chosen["cost"] == pytest.approx(expected)


def test_the_folder_needs_nothing_else(made, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(made[1], moved)
    assert bertwright.load(moved, **FLOAT32).predict(["You clown"]) == bertwright.load(made[1], **FLOAT32).predict(
        ["You clown"]
    )


def test_an_output_in_the_way(made, runs, examples, capsys):
    _, output = made
    data = str(examples / "comments_test.csv")
    with pytest.raises(RunError, match="both exists"):
        bertwright.cascade(*runs, data, output, quiet=True)
    with pytest.raises(RunError, match="is not a cascade"):
        bertwright.cascade(*runs, data, examples, overwrite=True, quiet=True)
    with pytest.raises(RunError, match="touches the copied run"):
        bertwright.cascade(*runs, data, f"{runs[0]}/both", quiet=True)
    before = {path: path.read_bytes() for path in output.rglob("*.json")}
    with pytest.raises(SystemExit) as stop:
        main(["cascade", *runs, "--validation", data, "--output", str(output), "--overwrite", "--target", "0.999"])
    assert stop.value.code == 2
    assert "error: --target 0.999: the large model alone reaches" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*.json")} == before
    assert not list(output.parent.glob(".*partial*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--validation is required"),
        (["--validation", "x.csv"], "--output is required"),
        (["--validation", "x.csv", "--output", "o", "--target", "1", "--max-loss", "0"], "exclude each other"),
        (["--validation", "x.csv", "--output", "o", "--metric", "bleu"], "bleu"),
        (["--validation", "x.csv", "--output", "o"], "x.csv"),
    ],
)
def test_mistakes_are_one_line(runs, flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["cascade", *runs, *flags])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said


def test_the_table(runs, examples, capsys):
    data = str(examples / "comments_test.csv")
    flags = ["--validation", data, "--output", "both", "--max-loss", "0.5", "--metric", "accuracy"]
    with pytest.raises(SystemExit) as stop:
        main(["cascade", *runs, *flags])
    assert not stop.value.code
    said = capsys.readouterr()
    assert "wanted: at most 0.5000 of accuracy lost" in said.out
    assert said.out.count("chosen") == 1
    assert "large alone" in said.out
    assert "large one" in said.err  # the small one alone loses less than that
    assert bertwright.load("both").manifest.sureness == 0


def test_cascades_are_not_cascaded(made, runs, examples):
    with pytest.raises(UserError, match=r"the teacher .*both: a cascade, .* Its large model is one: .*both/large"):
        load_teacher(str(made[1]))
    with pytest.raises(UserError, match="both: a cascade, expected one classifier"):
        bertwright.cascade(made[1], runs[1], examples / "comments_test.csv", "x", quiet=True)


def test_texts_that_tell_nothing(runs, tmp_path):
    (tmp_path / "one.csv").write_text("text,label\nfine,clean\ngood,clean\n")
    with pytest.raises(DataError, match="roc_auc has no answer on these 2 texts"):
        bertwright.cascade(*runs, tmp_path / "one.csv", "x", quiet=True)


def test_exported_it_scores_the_same_without_torch(made, examples):
    pytest.importorskip("onnxruntime")
    data = examples / "comments_test.csv"
    with pytest.raises(UserError, match="keeps no held-out texts to compare on"):
        bertwright.export_onnx(made[1], "graphs", quiet=True)
    record = bertwright.export_onnx(made[1], "graphs", data=data, quiet=True)
    texts = texts_of(data)
    exact, graph = bertwright.load(made[1], **FLOAT32), bertwright.load("graphs")
    np.testing.assert_allclose(graph.score(texts), exact.score(texts), atol=1e-4)
    assert graph.num_deferred == exact.num_deferred == record["deferred_texts"]
    assert record["label_flips"]["texts"] == 0
    largest = np.abs(graph.score(texts) - exact.score(texts)).max()
    assert record["scores"]["largest_difference"] == pytest.approx(largest, abs=1e-6)
    with pytest.raises(UserError, match="an exported graph already"):
        bertwright.export_onnx("graphs", "again", data=data)
    coarse = bertwright.export_onnx(made[1], "graphs", data=data, overwrite=True, dtype="int8", force=True, quiet=True)
    assert coarse["scores"]["largest_difference"] > 10 * largest
    assert any(line.startswith("scores ") and "difference from float32" in line for line in certificate_lines(coarse))
    assert is_export("graphs")
    script = (
        "import sys; sys.modules['torch'] = None; import bertwright; print(len(bertwright.load('graphs').score(['a'])))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize("settings", [{}, {"pairs": True}, {"kind": "multi-label"}], ids=["one", "pairs", "several"])
def test_in_a_lambda_function(tmp_path, settings):
    pytest.importorskip("onnxruntime")
    texts = PAIRS if settings.get("pairs") else TEXTS
    folder = made_cascade(tmp_path / "both", 0.75, "bert", labels=LABELS, **settings)
    data = tmp_path / "texts.jsonl"
    rows = [
        {"text": text, "no": int(i % 2), "yes": int(i % 3 == 0), "label": LABELS[i % 2]} for i, text in enumerate(TEXTS)
    ]
    for i, row in enumerate(rows):
        row |= {"pair": PAIRS[i][1]} if settings.get("pairs") else {}
        drop = ("label",) if settings.get("kind") else LABELS
        rows[i] = {name: value for name, value in row.items() if name not in drop}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"label_column": "no,yes"} if settings.get("kind") else {}
    columns |= {"pair_column": "pair"} if settings.get("pairs") else {}
    bertwright.export_onnx(folder, "graphs", data=data, force=True, quiet=True, **columns)
    bundle.write_model(tmp_path / "graphs", tmp_path / "layer")
    classifier = load(tmp_path / "layer" / "model")
    graph = bertwright.load("graphs")
    np.testing.assert_allclose(classifier.score(texts), graph.score(texts), atol=1e-5)
    assert classifier.predict(texts)[0].labels == graph.predict(texts)[0].labels


def test_the_function_has_all_that_it_imports(made, tmp_path, examples):
    pytest.importorskip("onnxruntime")
    bertwright.export_onnx(made[1], "graphs", data=examples / "comments_test.csv", quiet=True)
    bundle.write_model(tmp_path / "graphs", tmp_path / "layer")
    bundle.write_function(tmp_path / "task")
    script = f"""
import importlib.util, sys
sys.path.insert(0, {str(tmp_path / "task")!r})
for name in ("torch", "pyarrow", "pydantic", "nanotoken", "scipy"):
    sys.modules[name] = None
import bertwright, lambda_function
assert bertwright.__file__.startswith({str(tmp_path)!r})
print(lambda_function.handler({{"inputs": "You clown"}})[0]["score"])
"""
    environment = {"BERTWRIGHT_MODEL": str(tmp_path / "layer" / "model"), "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    score = float(done.stdout.splitlines()[-1])
    assert score == pytest.approx(bertwright.load("graphs").score(["You clown"]).max(), abs=1e-5)


def test_a_server_answers_with_it(made, examples):
    texts = texts_of(examples / "comments_test.csv")[:20]
    models = load_models([f"both={made[1]}"], build(ScoringMachineSettings, FLOAT32), None)
    scorer = models.first.scorer
    assert scorer.num_texts == 0, "warming up is no work"

    async def ask():
        async with Asking({"both": scorer}) as asking:
            return (
                await asking.post("/predict", {"inputs": [[text] for text in texts]}),
                await asking.get("/info"),
                await asking.post("/predict", {"inputs": "a", "parameters": {"function_to_apply": "none"}}),
                await asking.post("/explain", {"inputs": "You silly clown"}),
            )

    answer, info, raw, explained = asked(ask())
    expected = scorer.score(texts)
    for entries, row in zip(answer.json(), expected, strict=True):
        found = {entry["label"]: entry["score"] for entry in entries}
        assert found == pytest.approx(dict(zip(scorer.labels, row, strict=True)), abs=1e-4)
    assert "a cascade: small" in json.dumps(info.json())
    assert raw.status == 422, raw.body
    assert explained.status == 200, explained.body
