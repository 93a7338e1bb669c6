"""Every kind of labels from files to a run and back: trained, judged, saved, loaded, scored, trained on."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from tests.conftest import random_sequences
from transformers import AutoModelForSequenceClassification

import bertwright
from bertwright.errors import CheckpointError, DataError, UserError
from bertwright.evaluation.metrics import METRIC_NAMES_OF, multilabel_metrics, regression_metrics
from bertwright.evaluation.show import list_table, show_run, summary
from bertwright.model.batch import pack
from bertwright.progress import Reporter
from bertwright.runs import list_runs, open_run

WORDS = ("tram", "tomato", "harbour", "lantern", "violin", "gravel")
KINDS = ("multi-label", "soft", "regression")
COLUMNS = {
    "multi-label": ("rude", "long"),
    "soft": ("bad", "fair", "good"),
    "regression": ("stars",),
}


def write_texts(path, kind, num_texts, seed) -> None:
    """Texts whose words say what their labels are."""
    generator = np.random.default_rng(seed)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *COLUMNS[kind]])
        for _ in range(num_texts):
            rude, lengthy = (generator.random(2) < 0.5).tolist()
            shown = generator.choice(WORDS, 3).tolist() + ["idiot"] * rude + ["lengthy"] * lengthy
            if kind == "multi-label":
                values = [int(rude), int(lengthy)]
            elif kind == "soft":
                values = [0.75, 0.25, 0] if rude else [0, 0.25, 0.75] if lengthy else [0.25, 0.5, 0.25]
            else:
                values = [1000 + 50 * rude + 200 * lengthy]
            writer.writerow([" ".join(shown), *values])


def small(folder, kind, output, **settings):
    values = {
        "label_column": COLUMNS[kind],
        "label_kind": kind,
        "test": folder / f"{kind}_test.csv",
        "model": "bert-tiny",
        "max_length": 16,
        "dtype": "float32",
        "learning_rate": 1e-3,
        "steps": 80,
        "batch_size": 16,
        "quiet": True,
        **settings,
    }
    return bertwright.train(folder / f"{kind}_train.csv", output=output, **values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        write_texts(folder / f"{kind}_train.csv", kind, 160, 1)
        write_texts(folder / f"{kind}_test.csv", kind, 60, 2)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A run of every kind."""
    return {kind: small(folder, kind, folder / kind, validation_share=0.2, eval_every=40) for kind in KINDS}


def test_every_kind_learns(trained):
    assert trained["multi-label"].metrics["test"]["roc_auc"] > 0.95
    assert trained["multi-label"].metrics["test"]["micro_f1"] > 0.9
    assert trained["soft"].metrics["test"]["accuracy"] > 0.9
    # Near the least that it can be: the mean entropy of the shares.
    assert 0.56 < trained["soft"].metrics["test"]["soft_log_loss"] < 0.8
    assert trained["regression"].metrics["test"]["r2"] > 0.8
    assert trained["regression"].metrics["test"]["mean_absolute_error"] < 50


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_says_what_was_learnt(trained, kind):
    run = trained[kind]
    assert run.result["task"] == {"multi-label": "multi_label", "soft": "soft_label"}.get(kind, kind)
    assert run.result["labels"] == list(COLUMNS[kind])
    for split in ("train", "validation", "test"):
        present = set(METRIC_NAMES_OF[kind]) & set(run.metrics[split])
        assert present >= set(METRIC_NAMES_OF[kind]) - {"soft_log_loss"}
    expected = {"multi-label": "roc_auc", "soft": "accuracy", "regression": "mean_squared_error"}[kind]
    assert run.settings["best_metric"] == expected
    assert [line["step"] for line in run.history] == [40, 80]
    best = run.history[0 if run.result["best_step"] == 40 else 1]["validation"]
    # What was measured while it learnt, before the head was folded back, is what the saved model gives.
    assert run.metrics["validation"][expected] == pytest.approx(best[expected], rel=1e-4)
    again = open_run(run.path)
    assert again.result == run.result


def test_numbers_are_learnt_as_z_scores_and_saved_in_their_unit(trained):
    run = trained["regression"]
    assert run.history[0]["train_loss"] < 1.5  # a squared error in stars would start at a million
    predictor = bertwright.load(run.path, dtype="float32")
    (prediction,) = predictor.predict(["tram gravel idiot lengthy"])
    assert prediction.value == prediction.scores["stars"] == pytest.approx(1250, abs=70)
    assert (prediction.label, prediction.probability, prediction.labels) == (None, None, ())


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_gives_the_same_logits(trained, kind):
    theirs = AutoModelForSequenceClassification.from_pretrained(trained[kind].model_folder).eval()
    problem = {"multi-label": "multi_label_classification", "regression": "regression"}
    assert theirs.config.problem_type == problem.get(kind, "single_label_classification")
    assert list(theirs.config.id2label.values()) == list(COLUMNS[kind])
    predictor = bertwright.load(trained[kind].path, dtype="float32")
    sequences = random_sequences([5, 12, 16], 1000)
    with torch.no_grad():
        ours = predictor.model(pack(sequences))
        expected = torch.cat([theirs(input_ids=torch.from_numpy(ids)[None]).logits for ids in sequences])
    torch.testing.assert_close(ours, expected, atol=1e-3 if kind == "regression" else 1e-5, rtol=1e-5)


def test_the_predictions_of_any_number_of_labels(trained):
    run = trained["multi-label"]
    table = pq.read_table(run.path / "predictions.parquet")
    assert table.column_names == [
        "row",
        "text_sha256",
        "label_rude",
        "label_long",
        "predicted",
        "score_rude",
        "score_long",
        "text",
    ]
    rows = table.to_pylist()
    for row in rows:
        assert row["predicted"] == [name for name in ("rude", "long") if row[f"score_{name}"] >= 0.5]
        assert row["label_rude"] == ("idiot" in row["text"])
    assert any(row["predicted"] == [] for row in rows)
    assert any(row["predicted"] == ["rude", "long"] for row in rows)
    targets = np.array([[row["label_rude"], row["label_long"]] for row in rows])
    scores = np.array([[row["score_rude"], row["score_long"]] for row in rows])
    assert multilabel_metrics(targets, scores, ["rude", "long"]) == run.metrics["test"]
    highest = run.result["extremes"]["highest"][0]
    assert highest["score"] == scores.max()
    assert {entry["label"] for entry in run.result["extremes"]["lowest"]} == {""}
    predictions = bertwright.load(run.path, dtype="float32").predict([row["text"] for row in rows[:20]])
    assert [list(prediction.labels) for prediction in predictions] == [row["predicted"] for row in rows[:20]]
    assert all(prediction.label is None and prediction.value is None for prediction in predictions)


def test_the_predictions_of_shares(trained):
    rows = pq.read_table(trained["soft"].path / "predictions.parquet").to_pylist()
    names = ("bad", "fair", "good")
    assert list(rows[0]) == [
        "row",
        "text_sha256",
        "label",
        *(f"label_{name}" for name in names),
        "predicted",
        *(f"score_{name}" for name in names),
        "text",
    ]
    for row in rows:
        assert row["label"] == max(names, key=lambda name: row[f"label_{name}"])
        assert row["predicted"] == max(names, key=lambda name: row[f"score_{name}"])
        assert sum(row[f"score_{name}"] for name in names) == pytest.approx(1)


def test_the_predictions_of_numbers(trained):
    run = trained["regression"]
    rows = pq.read_table(run.path / "predictions.parquet").to_pylist()
    assert list(rows[0]) == ["row", "text_sha256", "label_stars", "predicted", "score_stars", "text"]
    assert all(row["predicted"] == row["score_stars"] for row in rows)
    found = regression_metrics(
        np.array([row["label_stars"] for row in rows]), np.array([row["predicted"] for row in rows])
    )
    assert found == run.metrics["test"]
    extremes = run.result["extremes"]
    assert extremes["highest"][0]["score"] == max(row["predicted"] for row in rows)
    assert extremes["lowest"][0]["label"] == "1000.0"


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_judges_as_the_training_did(trained, folder, kind):
    result = bertwright.evaluate(
        trained[kind].path,
        folder / f"{kind}_test.csv",
        label_column=COLUMNS[kind],
        dtype="float32",
        output="judged",
        quiet=True,
    )
    assert result["task"] == trained[kind].result["task"]
    assert result["metrics"]["test"] == trained[kind].metrics["test"]
    assert result["extremes"] == trained[kind].result["extremes"]
    judged = pq.read_table("judged/predictions.parquet")
    assert judged.equals(pq.read_table(trained[kind].path / "predictions.parquet"))


def test_runs_of_all_kinds_are_listed_and_shown(trained, folder):
    found = list_runs(folder)
    assert len(found) == 3
    out = io.StringIO()
    Console(file=out, width=200).print(list_table(found))
    header, *lines = [line.split() for line in out.getvalue().splitlines() if line.strip() and "─" not in line]
    assert header[-6:] == ["accuracy", "macro_f1", "roc_auc", "r2", "pearson", "train"]
    by_name = {line[0].rsplit("/", 1)[-1]: line for line in lines}
    assert by_name["regression"].count("-") == 3
    for kind in KINDS:
        line = summary(open_run(trained[kind].path))
        assert json.loads(json.dumps(line)) == line
        assert (line["accuracy"] is None) == (kind == "regression")
    assert summary(open_run(trained["regression"].path))["r2"] == trained["regression"].metrics["test"]["r2"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_every_kind_is_shown_whole(trained, kind, capsys):
    reporter = Reporter(quiet=False)
    show_run(open_run(trained[kind].path), reporter)
    shown = capsys.readouterr().out
    expected = {
        "multi-label": ["Labels, test texts", "micro_f1", "Highest probability of any label"],
        "soft": ["Classes, test texts", "Confusion, test texts", "soft_log_loss", "brier"],
        "regression": ["mean_absolute_error", "spearman", 'Highest predicted "stars"'],
    }[kind]
    for words in expected:
        assert words in shown, words
    if kind != "soft":
        assert "Confusion" not in shown


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_from_the_head_of_the_same_kind(trained, folder, kind, capsys):
    more = small(
        folder, kind, "more", model=trained[kind].model_folder, steps=1, learning_rate=1e-9, validation_share=0.0
    )
    name = {"multi-label": "log_loss", "soft": "soft_log_loss", "regression": "mean_squared_error"}[kind]
    # One tiny step from where the first training ended: its head was taken, in the unit that it learns in.
    assert more.metrics["test"][name] == pytest.approx(trained[kind].metrics["test"][name], rel=1e-3)
    assert any("goes on from it" in note for note in more.environment["model_notes"])
    if kind == "regression":
        assert more.history[0]["train_loss"] < 0.5


def test_another_kind_gets_a_head_of_its_own(trained, folder):
    run = small(folder, "regression", "r", model=trained["multi-label"].model_folder, steps=1)
    assert any("initialised at random" in note for note in run.environment["model_notes"])


@pytest.mark.parametrize(("kind", "frozen"), [("regression", True), ("multi-label", True)])
def test_frozen_encoders_and_means_learn_every_kind(folder, kind, frozen):
    run = small(folder, kind, "r", freeze_encoder=frozen, pooling="mean", learning_rate=1e-2, steps=60)
    name = {"regression": "pearson", "multi-label": "roc_auc"}[kind]
    assert run.metrics["test"][name] > 0.6
    rows = pq.read_table(run.path / "predictions.parquet").to_pylist()[:10]
    scores = bertwright.load(run.path, dtype="float32").score([row["text"] for row in rows])
    column = f"score_{COLUMNS[kind][0]}"
    np.testing.assert_allclose(scores[:, 0], [row[column] for row in rows], rtol=1e-4, atol=1e-5)


def test_class_weights_move_what_is_predicted(folder):
    first = small(folder, "multi-label", "a", steps=10)
    heavy = small(folder, "multi-label", "b", steps=10, class_weights=("rude=0", "long=5"))
    assert heavy.settings["class_weights"] == ["rude=0", "long=5"]
    assert heavy.history[0]["train_loss"] != first.history[0]["train_loss"]
    assert heavy.metrics["test"]["per_class"]["rude"]["roc_auc"] < 0.9


@pytest.mark.parametrize(
    ("kind", "settings", "error", "message"),
    [
        ("regression", {"class_weights": ("balanced",)}, UserError, "found a regression"),
        ("multi-label", {"class_weights": ("rud=2",)}, UserError, "Did you mean rude"),
        (
            "regression",
            {"best_metric": "roc_auc", "validation_share": 0.2},
            UserError,
            "a regression has no such metric",
        ),
        (
            "multi-label",
            {"best_metric": "f1", "validation_share": 0.2},
            UserError,
            "multi-label labels have no such metric",
        ),
        ("soft", {"best_metric": "r2", "validation_share": 0.2}, UserError, "soft labels have no such metric"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(folder, tmp_path, kind, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        small(folder, kind, tmp_path / "r", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_numbers_that_are_all_the_same_cannot_be_learnt(tmp_path):
    (tmp_path / "same.csv").write_text("text,stars\n" + "".join(f"text {i},3\n" for i in range(10)))
    with pytest.raises(DataError):
        bertwright.train("same.csv", label_kind="regression", model="bert-tiny", output="r", quiet=True)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_of_predictions(trained, folder, suffix):
    from bertwright.cli import main

    for kind in KINDS:
        output = f"{kind}{suffix}"
        source = str(folder / f"{kind}_test.csv")
        with pytest.raises(SystemExit) as done:
            main(["predict", str(trained[kind].path), source, "--output", output, "--dtype", "float32", "--quiet"])
        assert not done.value.code
        expected = pq.read_table(trained[kind].path / "predictions.parquet").to_pylist()
        if suffix == ".csv":
            with open(output, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        elif suffix == ".jsonl":
            with open(output, encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
        else:
            rows = pq.read_table(output).to_pylist()
        assert list(rows[0]) == [name for name in expected[0] if not name.startswith("label")]
        for row, other in zip(rows, expected, strict=True):
            predicted = other["predicted"]
            if suffix == ".csv":
                predicted = "|".join(predicted) if isinstance(predicted, list) else str(predicted)
            assert row["predicted"] == predicted


def test_predictions_in_the_shell(trained, capsys):
    from bertwright.cli import main

    shown = {}
    for kind in KINDS:
        texts = ["--text", "tram gravel violin idiot lengthy", "--text", "tram gravel violin"]
        with pytest.raises(SystemExit) as done:
            main(["predict", str(trained[kind].path), *texts, "--dtype", "float32", "--quiet"])
        assert not done.value.code
        shown[kind] = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in shown["multi-label"]] == ["rude|long", "-"]
    assert float(shown["multi-label"][0][1]) > 0.5 > float(shown["multi-label"][1][1])
    assert [line[0] for line in shown["soft"]] == ["bad", "fair"]
    assert float(shown["regression"][0][0]) == pytest.approx(1250, abs=70)
    assert [len(line) for line in shown["regression"]] == [2, 2]
    assert all(lines[1][-1] == "tram gravel violin" for lines in shown.values())


def test_shares_of_one_column_are_two_classes(tmp_path):
    lines = [f"text {i} {'idiot' if i % 2 else 'tram'},{0.7 if i % 2 else 0.1}" for i in range(40)]
    (tmp_path / "shares.csv").write_text("text,toxicity\n" + "\n".join(lines) + "\n")
    settings = {"label_threshold": 0.5, "model": "bert-tiny", "max_length": 8, "dtype": "float32", "quiet": True}
    run = bertwright.train("shares.csv", steps=1, output="a", **settings)
    assert (run.result["task"], run.result["labels"]) == ("soft_label", ["0", "1"])
    assert run.settings["best_metric"] == "roc_auc"
    settings |= {"steps": 90, "eval_every": 30, "learning_rate": 1e-3, "best_metric": "soft_log_loss"}
    run = bertwright.train("shares.csv", output="b", **settings)
    scores = [row["score_1"] for row in pq.read_table(run.path / "predictions.parquet").to_pylist()]
    assert max(scores) == pytest.approx(0.7, abs=0.15)  # it learns the share, not the class


def test_a_damaged_kind_is_one_clear_error(trained, tmp_path):
    import shutil

    shutil.copytree(trained["regression"].model_folder, tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "bertwright.json").read_text())
    (tmp_path / "m" / "bertwright.json").write_text(json.dumps({**settings, "kind": "ranking"}))
    with pytest.raises(CheckpointError, match="kind"):
        bertwright.load(tmp_path / "m")


def test_an_evaluation_reads_labels_as_the_training_did(tmp_path):
    lines = [f"text {i},{(0.1, 0.6, 0.9)[i % 3]}" for i in range(30)]
    (tmp_path / "shares.csv").write_text("text,share\n" + "\n".join(lines) + "\n")
    small = {"model": "bert-tiny", "max_length": 8, "steps": 1, "test": "shares.csv", "quiet": True}
    cases = (
        {"label_threshold": 0.7},
        {"label_threshold": 0.7, "hard_labels": True},
        {"label_kind": "soft", "hard_labels": True},
    )
    for number, settings in enumerate(cases):
        run = bertwright.train("shares.csv", output=f"r{number}", **settings, **small)
        saved = json.loads((run.model_folder / "bertwright.json").read_text())
        assert saved["label_threshold"] == settings.get("label_threshold")
        assert saved["hard_labels"] == settings.get("hard_labels", False)
        result = bertwright.evaluate(run.path, "shares.csv", quiet=True)
        assert result["task"] == run.result["task"]
        for metric, value in run.result["metrics"]["test"].items():
            assert result["metrics"]["test"][metric] == value


def test_a_training_of_several_shares_is_tested_on_the_right_classes(folder, tmp_path):
    lines = ["idiot tram,bad", "tomato,fair", "lengthy violin,good"] * 4
    (tmp_path / "classes.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    for number, hard in enumerate((False, True)):
        run = small(folder, "soft", f"r{number}", steps=1, test="classes.csv", hard_labels=hard)
        assert run.result["metrics"]["test"]["num_texts"] == 12
        result = bertwright.evaluate(run.path, "classes.csv", quiet=True)
        assert result["metrics"]["test"]["accuracy"] == run.result["metrics"]["test"]["accuracy"]
        shares = bertwright.evaluate(run.path, folder / "soft_test.csv", quiet=True)
        assert shares["task"] == run.result["task"]


def test_numbers_of_seconds_since_1970_are_learnt(tmp_path):
    lines = [f"{'late' if i % 2 else 'early'} text {i},{1_700_000_000 + i % 2}" for i in range(40)]
    (tmp_path / "times.csv").write_text("text,time\n" + "\n".join(lines) + "\n")
    settings = {"label_column": "time", "label_kind": "regression", "model": "bert-tiny", "max_length": 8}
    run = bertwright.train("times.csv", steps=2, output="r", quiet=True, **settings)
    labels = pq.read_table(run.path / "predictions.parquet")["label_time"].to_pylist()
    assert set(labels) == {1_700_000_000.0, 1_700_000_001.0}
