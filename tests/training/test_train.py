"""The main act from files to a run, on the demo data with small random models."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import bertwright
from bertwright.errors import CheckpointError, DataError, RunError, UserError
from bertwright.runs import open_run


def small(examples, output, **settings):
    """A run of a second or two: the smallest size, float32, few texts at once."""
    values = {"model": "bert-tiny", "max_length": 32, "dtype": "float32", "output": output, "quiet": True}
    values |= {"test": examples / "comments_test.csv", **settings}
    return bertwright.train(examples / "comments_train.csv", **{k: v for k, v in values.items() if v is not None})


@pytest.fixture(scope="module")
def run(examples, tmp_path_factory):
    return small(examples, tmp_path_factory.mktemp("runs") / "demo", epochs=6, validation_share=0.1, learning_rate=1e-3)


def test_the_folder_is_as_designed(run):
    assert {path.name for path in run.path.iterdir()} == {
        "config.json",
        "environment.json",
        "history.jsonl",
        "steps.parquet",
        "memory.parquet",
        "result.json",
        "predictions.parquet",
        "predictions_validation.parquet",
        "model",
    }
    assert {path.name for path in run.model_folder.iterdir()} >= {
        "config.json",
        "bertwright.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }


def test_the_result_holds_what_is_promised(run):
    result = json.loads((run.path / "result.json").read_text())
    assert list(result) == [
        "task",
        "labels",
        "model",
        "data",
        "seconds",
        "rates",
        "memory",
        "cost",
        "metrics",
        "judgement",
        "extremes",
        "steps",
        "best_step",
        "token_budget",
        "resumed",
        "energy",
    ]
    data = result["data"]
    assert (data["train_texts"], data["validation_texts"], data["test_texts"]) == (652, 72, 244)
    assert data["shared_texts"] == 0
    assert 0 < data["truncated_share"] < 0.5
    assert len(data["train_sha256"]) == len(data["test_sha256"]) == 64
    assert set(result["seconds"]) == {"read", "tokenize", "train", "infer", "total"}
    assert sum(result["seconds"][name] for name in ("read", "tokenize", "train", "infer")) < result["seconds"]["total"]
    assert set(result["rates"]) == {
        "tokenize_texts_per_s",
        "train_texts_per_s",
        "train_tokens_per_s",
        "train_batches_per_s",
        "infer_texts_per_s",
        "infer_tokens_per_s",
    }
    seconds, rates = result["seconds"], result["rates"]
    assert rates["train_texts_per_s"] == pytest.approx(6 * 652 / seconds["train"])
    assert rates["train_batches_per_s"] == pytest.approx(result["steps"] / seconds["train"])
    assert rates["infer_texts_per_s"] == pytest.approx(244 / seconds["infer"])
    assert result["memory"]["peak_process_bytes"] > 2**27
    for split in ("train", "validation", "test"):
        assert {"accuracy", "precision", "recall", "f1", "macro_f1", "roc_auc", "average_precision"} <= set(
            result["metrics"][split]
        )
    assert result["steps"] == 6 * 21
    assert result["best_step"] in range(21, 127, 21)
    assert result["token_budget"] == run.environment["token_budget"]
    assert result["resumed"] == 0


def test_it_has_learnt(run):
    assert run.metrics["train"]["accuracy"] > 0.9
    assert run.metrics["test"]["roc_auc"] > 0.75


def test_the_kept_state_is_the_best_of_the_history(run):
    best = max(run.history, key=lambda line: (line["validation"]["roc_auc"], -line["step"]))
    assert run.result["best_step"] == best["step"]
    assert run.metrics["validation"]["roc_auc"] == pytest.approx(best["validation"]["roc_auc"], abs=1e-6)


def test_the_extremes_are_those_of_the_predictions(run):
    table = pq.read_table(run.path / "predictions.parquet").to_pylist()
    assert list(table[0]) == ["row", "text_sha256", "label", "predicted", "score_clean", "score_toxic", "text"]
    by_score = sorted(table, key=lambda row: (-row["score_toxic"], row["row"]))
    highest = run.result["extremes"]["highest"]
    assert [entry["row"] for entry in highest] == [row["row"] for row in by_score[:5]]
    assert highest[0]["text"] == by_score[0]["text"]
    assert all(row["score_clean"] + row["score_toxic"] == pytest.approx(1) for row in table)


def test_the_rows_are_those_of_the_file(run, examples):
    with open(examples / "comments_test.csv", encoding="utf-8", newline="") as file:
        source = list(csv.DictReader(file))
    for row in pq.read_table(run.path / "predictions.parquet").to_pylist():
        assert source[row["row"]]["text"] == row["text"]
        assert source[row["row"]]["label"] == row["label"]


def test_the_environment_says_what_was_chosen_and_why(run):
    for name in ("dtype", "attention_kernel", "tokenizer", "compile"):
        assert run.environment[name]
        assert run.environment[name + "_reason"]
    assert run.environment["num_threads"] == torch.get_num_threads()


def test_transformers_opens_the_run_and_gives_the_same_logits(run, examples):
    theirs = AutoModelForSequenceClassification.from_pretrained(run.model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.model_folder)
    with open(examples / "comments_test.csv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:64]
    predictor = bertwright.load(run.path, dtype="float32")
    ours = predictor.logits(predictor.tokenize(texts))
    encoded = tokenizer(texts, truncation=True, max_length=32, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**encoded).logits.numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert theirs.config.id2label == {0: "clean", 1: "toxic"}


def test_a_fresh_process_loads_and_predicts(run):
    program = (
        f"import bertwright; predictor = bertwright.load({str(run.path)!r}, dtype='float32'); "
        "p = predictor.predict(['You are a clown.', 'What a lovely day.']); "
        "print([(x.label, round(x.scores['toxic'], 5)) for x in p])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    here = bertwright.load(run.path, dtype="float32").predict(["You are a clown.", "What a lovely day."])
    assert eval_pairs(done.stdout) == [(x.label, round(x.scores["toxic"], 5)) for x in here]


def eval_pairs(printed: str) -> list[tuple[str, float]]:
    import ast

    return ast.literal_eval(printed.strip())


def test_the_same_seed_gives_the_same_bits_and_the_config_runs_again(examples, tmp_path):
    first = small(examples, tmp_path / "first", steps=12, seed=5)
    program = [sys.executable, "-m", "bertwright", "train", "--config", str(first.path / "config.json")]
    done = subprocess.run([*program, "--output", "again", "--quiet"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = (first.model_folder / "model.safetensors").read_bytes()
    assert ours == (tmp_path / "again" / "model" / "model.safetensors").read_bytes()
    again = open_run(tmp_path / "again")
    assert again.metrics == first.metrics
    other = small(examples, tmp_path / "other", steps=12, seed=6)
    assert ours != (other.model_folder / "model.safetensors").read_bytes()


def test_a_frozen_encoder_is_saved_as_it_came(examples, tmp_path):
    first = small(examples, tmp_path / "a", freeze_encoder=True, epochs=2)
    assert first.settings["learning_rate"] > 1e-4
    from safetensors.torch import load_file

    from bertwright.model.checkpoint import load_for_training

    fresh = load_for_training("bert-tiny", ("clean", "toxic"), "first", 32, 0)
    saved = load_file(first.model_folder / "model.safetensors")
    expected = fresh.model.encoder.layers[1].feed_forward.expand.weight
    assert torch.equal(saved["bert.encoder.layer.1.intermediate.dense.weight"], expected)
    assert not torch.equal(saved["classifier.weight"], fresh.model.classifier.linear.weight)


def test_mean_pooling_trains_saves_and_loads(examples, tmp_path):
    run = small(examples, tmp_path / "mean", pooling="mean", epochs=1)
    table = pq.read_table(run.path / "predictions.parquet").to_pylist()
    predictor = bertwright.load(run.path, dtype="float32")
    found = predictor.score([row["text"] for row in table[:20]])[:, 1]
    np.testing.assert_allclose(found, [row["score_toxic"] for row in table[:20]], atol=1e-5)


def test_without_test_and_validation_files_a_fifth_is_held_out(examples, tmp_path):
    run = small(examples, tmp_path / "r", test=None, steps=2)
    assert run.result["data"]["validation_texts"] == 145
    assert run.metrics["test"] == {}
    assert run.metrics["validation"]["num_texts"] == 145
    assert pq.read_table(run.path / "predictions.parquet").num_rows == 145


def test_nothing_held_out_is_possible_and_said(examples, tmp_path, capsys):
    run = bertwright.train(
        examples / "comments_train.csv",
        model="bert-tiny",
        validation_share=0.0,
        steps=1,
        max_length=16,
        output=tmp_path / "r",
    )
    assert run.metrics["validation"] == run.metrics["test"] == {}
    assert not (run.path / "predictions.parquet").exists()
    assert "nothing to judge" in capsys.readouterr().err


def test_shared_texts_are_counted_and_said(examples, tmp_path, capsys):
    run = small(examples, tmp_path / "r", test=examples / "comments_train.csv", steps=1, quiet=False)
    assert run.result["data"]["shared_texts"] == 724
    assert "too good" in capsys.readouterr().err


def test_five_classes_are_scored_by_their_expected_value(tmp_path):
    lines = [f"{i % 5} ||| text number {i} of class {'abcde'[i % 5]}" for i in range(60)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    run = bertwright.train("train.txt", model="bert-tiny", steps=3, max_length=16, output="r", quiet=True)
    assert run.result["labels"] == ["0", "1", "2", "3", "4"]
    assert len(run.metrics["validation"]["confusion"]) == 5
    scores = [entry["score"] for entry in run.result["extremes"]["highest"]]
    assert all(0 <= score <= 4 for score in scores)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": -1}, UserError, "--epochs"),
        ({"epoch": 1}, UserError, "did you mean epochs"),
        ({"model": "no/such/model"}, CheckpointError, "no such folder"),
        ({"max_length": 1000}, CheckpointError, "512 positions"),
        ({"best_metric": "acuracy"}, UserError, "accuracy"),
        ({"patience": 2}, UserError, "--patience needs validation texts"),
        ({"best_metric": "f1"}, UserError, "--best-metric needs validation texts"),
        ({"test": "missing.csv"}, DataError, "missing.csv"),
        ({"device": "cuda:99"}, UserError, "cuda:99"),
        ({"device": "abacus"}, UserError, "abacus"),
        ({"steps": 3, "epochs": 2}, UserError, "exclude"),
        ({"text_column": "comment"}, DataError, "comment"),
        ({"validation_share": 0.00001}, DataError, "validation-share"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(examples, tmp_path, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        small(examples, tmp_path / "r", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_an_output_that_exists_is_not_touched(examples, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for settings in ({}, {"overwrite": True}):
        with pytest.raises(RunError, match="exists"):
            small(examples, tmp_path / "mine", **settings)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    first = small(examples, tmp_path / "run", steps=1)
    with pytest.raises(RunError, match="--overwrite"):
        small(examples, tmp_path / "run", steps=2)
    assert open_run(tmp_path / "run").result == first.result
    small(examples, tmp_path / "run", steps=2, overwrite=True)
    assert open_run(tmp_path / "run").result["steps"] == 2


def test_an_output_below_a_file_is_refused(examples, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        small(examples, tmp_path / "file" / "run")


def test_a_training_that_breaks_leaves_an_unfinished_run(examples, tmp_path):
    from bertwright.errors import TrainingError

    with pytest.raises(TrainingError, match="No model was saved"):
        small(examples, tmp_path / "r", optimizer="sgd", learning_rate=1e38, max_grad_norm=0.0, warmup_ratio=0.0)
    run = open_run(tmp_path / "r")
    assert not run.finished
    assert not run.model_folder.exists()


def test_paths_may_be_given_as_such_and_alone(examples, tmp_path):
    run = bertwright.train(
        examples / "comments_train.csv",
        test=[examples / "comments_test.csv"],
        model="bert-tiny",
        tokenizer="all-MiniLM-L6-v2",
        steps=1,
        max_length=8,
        output=tmp_path / "a",
        quiet=True,
    )
    assert run.settings["test"] == [str(examples / "comments_test.csv")]
    again = bertwright.train(
        [examples / "comments_train.csv"], model=run.model_folder, steps=1, max_length=8, output="b", quiet=True
    )
    assert again.environment["model"] == f"folder {run.model_folder}"
    result = bertwright.evaluate(run.path, examples / "comments_test.csv", quiet=True)
    assert result["metrics"]["test"] == run.metrics["test"]
    assert bertwright.predict(run.path, ["one", "two"])[0].label in ("clean", "toxic")


def test_bad_rows_of_all_files_are_counted_and_said(examples, tmp_path, capsys):
    rows = ["text,label"] + [f"text {i},{'toxic' if i % 2 else 'clean'}" for i in range(40)]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join([*rows, ",clean"]) + "\n")
    run = bertwright.train(
        "train.csv",
        validation="validation.csv",
        test="test.csv",
        model="bert-tiny",
        steps=1,
        max_length=8,
        on_bad_row="skip",
        output="r",
    )
    assert run.result["data"]["bad_rows"] == 3
    assert "bad rows skipped: 1, the first: test.csv, line 42: " in capsys.readouterr().err
    with pytest.raises(DataError, match=r"train\.csv, line 42"):
        bertwright.train("train.csv", model="bert-tiny", steps=1, output="s", quiet=True)


def test_texts_are_kept_nowhere_if_not_wanted(examples, tmp_path):
    run = small(examples, tmp_path / "r", steps=1, texts=False)
    assert "text" not in pq.read_table(run.path / "predictions.parquet").column_names
    assert {entry["text"] for entry in run.result["extremes"]["highest"]} == {None}
    kept = (run.path / "result.json").read_text() + (run.path / "config.json").read_text()
    with open(examples / "comments_test.csv", encoding="utf-8", newline="") as file:
        assert not any(row["text"] in kept for row in csv.DictReader(file))


def test_weights_broken_by_the_last_step_are_not_saved(examples, tmp_path):
    """The loss of a step is computed before its update: the last update's harm shows in the weights alone."""
    from bertwright.errors import TrainingError

    broken = {"optimizer": "sgd", "learning_rate": 1e38, "max_grad_norm": 0.0, "warmup_ratio": 0.0}
    with pytest.raises(TrainingError, match=r"after step 1 the largest weight is .*--learning-rate"):
        small(examples, tmp_path / "r", steps=1, **broken)
    assert not (tmp_path / "r" / "model").exists()


def test_texts_chosen_by_count_as_shared_too(examples, tmp_path):
    run = small(examples, tmp_path / "r", test=examples / "comments_train.csv", validation_share=0.2, steps=1)
    assert run.result["data"]["shared_texts"] == 724


def test_validation_texts_of_one_class_are_chosen_by_loss(examples, tmp_path, capsys):
    (tmp_path / "v.csv").write_text("text,label\nfine,clean\ngood,clean\n")
    run = small(examples, tmp_path / "r", validation="v.csv", steps=2, quiet=False)
    assert run.settings["best_metric"] == "log_loss"
    assert "one class only" in capsys.readouterr().err
    with pytest.raises(DataError, match="two classes"):
        small(examples, tmp_path / "s", validation="v.csv", steps=2, best_metric="roc_auc")


def test_a_validation_share_of_35_percent_by_adamax(examples, tmp_path):
    """As the report's largest model was trained: every class gives 35 % of its texts."""
    run = small(
        examples,
        tmp_path / "run",
        test=None,
        validation_share=0.35,
        optimizer="adamax",
        learning_rate=2e-3,
        batch_size=16,
        clip="each",
        schedule="constant",
        warmup_ratio=0,
        epochs=3,
    )
    with open(examples / "comments_train.csv", encoding="utf-8", newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    data = run.result["data"]
    assert data["validation_texts"] == pytest.approx(0.35 * len(labels), abs=1)
    assert data["train_texts"] + data["validation_texts"] == len(labels)
    held = {name: row["support"] for name, row in run.metrics["validation"]["per_class"].items()}
    assert held == {name: pytest.approx(0.35 * labels.count(name), abs=1) for name in ("clean", "toxic")}
    assert run.result["steps"] == 3 * -(-data["train_texts"] // 16)
    assert {line["learning_rate"] for line in run.history} == {2e-3}
    assert run.metrics["train"]["accuracy"] > 0.7
    assert run.settings["clip"] == "each"
