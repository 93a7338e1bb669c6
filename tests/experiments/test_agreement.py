"""Runs of one seed: whether they agree to four decimals and, where not, the right cause."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import bertwright
from bertwright.data import batches
from bertwright.data.batches import training_batches
from bertwright.errors import RunError, UserError
from bertwright.experiments.agreement import agreement
from bertwright.experiments.agreement_record import Agreement
from bertwright.experiments.show_agreement import show_agreement
from bertwright.progress import Reporter
from bertwright.runs import open_run
from bertwright.steps import FILE, Trace, read_trace, write_trace

STEPS = 12
MIDDLE = int(next(rows for i, rows in enumerate(training_batches(724, 32, 0, STEPS), 1) if i == 5)[3])


def train(examples, output, data=None, **settings):
    values = {"model": "bert-tiny", "max_length": 32, "dtype": "float32", "learning_rate": 1e-3, "steps": STEPS}
    values |= {"test": examples / "comments_test.csv", "output": output, "quiet": True, **settings}
    return bertwright.train(data or examples / "comments_train.csv", **values).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def base(examples, folder):
    return train(examples, folder / "base")


def pair_of(base, other):
    found = agreement(base, other)
    shown(found)
    json.dumps(found.record(), allow_nan=False)
    assert found.verdict == found.pairs[0].verdict
    return found.pairs[0]


def shown(found: Agreement) -> list[str]:
    """What is printed, tables left out."""
    reporter = Reporter(quiet=True, results=True)
    lines: list[str] = []
    with reporter.results.capture() as captured:
        show_agreement(found, reporter)
    lines = captured.get().splitlines()
    # the console wraps the verdict: only its first words stand on the first line
    assert " ".join(lines)[:30] == found.verdict[:30]
    return lines


def rewritten(examples, path, change):
    """The training file with ``change`` applied to its rows."""
    with open(examples / "comments_train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows) or rows
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def step_of(row, num_texts=724):
    return next(i for i, rows in enumerate(training_batches(num_texts, 32, 0, 100), 1) if row in rows.tolist())


def test_two_runs_of_one_seed_agree(base, examples, folder):
    pair = pair_of(base, train(examples, folder / "again"))
    assert pair.agree
    assert pair.verdict.startswith("These runs agree to four decimals. Their losses are the same bit for bit")
    assert pair.steps.any_difference is None
    assert pair.kept_weights_equal
    assert pair.scores.largest == 0
    assert [pair.settings, pair.data, pair.weights, pair.results] == [[], [], [], []]


def test_what_changes_no_result_is_no_difference(base, examples, folder):
    """The same texts under another name, fewer extremes, a price, checkpoints at other times."""
    copied = folder / "copy of the comments.csv"
    shutil.copy(examples / "comments_train.csv", copied)
    other = train(examples, folder / "renamed", copied, num_extremes=2, usd_per_hour=1.0, checkpoint_minutes=1)
    pair = pair_of(base, other)
    assert pair.agree
    assert [pair.settings, pair.data] == [[], []]


def test_another_seed_is_told_by_the_setting_and_the_weights(base, examples, folder):
    pair = pair_of(base, train(examples, folder / "seed 1", seed=1))
    assert not pair.agree
    assert pair.verdict == (
        "They part before the first step: they start from other weights. Settings differ: seed (0 and 1)."
    )
    assert pair.steps.other_rows == pair.steps.other_texts == 1


def test_another_learning_rate_is_told(base, examples, folder):
    pair = pair_of(base, train(examples, folder / "rate", learning_rate=2e-3))
    assert not pair.agree
    assert pair.verdict == (
        "They part at step 1: it has another learning rate. Settings differ: learning_rate (0.001 and 0.002)."
    )
    assert pair.steps.other_rate == 1
    assert pair.steps.any_difference == 2  # the first loss comes before the first update
    assert [d.what.split()[0] for d in pair.results[:2]] == ["test", "test"]  # what matters most comes first
    assert not pair.weights


def test_a_schedule_that_parts_late_is_told_at_its_step(base, examples, folder):
    """With 12 steps and one of warm-up, the second step has the full rate in both; the third is the first to differ."""
    pair = pair_of(base, train(examples, folder / "schedule", schedule="constant"))
    assert pair.steps.other_rate == 3
    assert pair.verdict.startswith("They part at step 3: it has another learning rate. Settings differ: schedule")


def test_another_dtype_is_told_as_a_difference_of_machines(base, examples, folder):
    pair = pair_of(base, train(examples, folder / "dtype", dtype="bfloat16"))
    assert not pair.agree
    assert pair.verdict.startswith("They part at step 1: its loss is the first to differ by more than 1e-06 of itself.")
    assert "dtype (float32 and bfloat16)" in pair.verdict
    assert not pair.settings
    dtype = next(difference for difference in pair.machine if difference.what == "dtype")
    assert "bfloat16 8" in dtype.effect


def test_a_changed_text_is_told_at_the_first_step_that_learns_from_it(base, examples, folder):
    row = MIDDLE
    assert 1 < step_of(row) <= STEPS

    def change(rows):
        rows[row]["text"] = "entirely other words " + rows[row]["text"]

    pair = pair_of(base, train(examples, folder / "text", rewritten(examples, folder / "text.csv", change)))
    assert not pair.agree
    assert pair.steps.other_rows is None
    assert pair.steps.other_texts == pair.steps.any_difference == step_of(row)
    assert pair.verdict.startswith(
        f"They part at step {step_of(row)}: its batch is the first to hold a text with other"
    )
    assert "training texts' token ids" in pair.verdict
    assert not pair.weights


def test_a_changed_label_is_told(base, examples, folder):
    row = MIDDLE

    def change(rows):
        rows[row]["label"] = {"clean": "toxic", "toxic": "clean"}[rows[row]["label"]]

    pair = pair_of(base, train(examples, folder / "label", rewritten(examples, folder / "label.csv", change)))
    assert pair.steps.other_texts is None
    assert pair.steps.beyond_rounding == step_of(row)
    assert "training texts' labels" in pair.verdict
    assert "token ids" not in pair.verdict


def test_other_bytes_with_the_same_texts_are_no_cause(base, examples, folder):
    def change(rows):
        for item in rows:
            item["topic"] = "none"

    pair = pair_of(base, train(examples, folder / "bytes", rewritten(examples, folder / "bytes.csv", change)))
    assert pair.agree
    [difference] = pair.data
    assert difference.what.startswith("training files")
    assert "the same" in difference.effect


def test_texts_in_another_order_of_the_file_are_told(base, examples, folder):
    shuffled = rewritten(examples, folder / "shuffled.csv", lambda rows: rows[::-1])
    pair = pair_of(base, train(examples, folder / "shuffled", shuffled))
    assert pair.steps.other_rows is None
    assert pair.steps.other_texts == 1
    assert "The data differ" in pair.verdict


def test_another_order_of_the_same_texts_is_told(base, examples, folder, monkeypatch):
    """As a NumPy whose permutations are others would draw it."""
    drawn = batches.epoch_order
    monkeypatch.setattr(batches, "epoch_order", lambda *arguments: drawn(*arguments)[::-1].copy())
    pair = pair_of(base, train(examples, folder / "order"))
    assert [pair.settings, pair.data, pair.weights] == [[], [], []]
    assert pair.steps.other_rows == pair.steps.other_texts == 1
    assert pair.verdict.startswith("They part at step 1: its batch holds other texts of the data, or in another order.")


def test_one_other_weight_at_the_start_is_told(base, examples, folder):
    """One changed by a thousandth too, which moves no result by so much as its fourth decimal."""
    runs = []
    for change in (0.0, 1e-3, 1.0):
        model = folder / f"model {change}"
        shutil.copytree(base / "model", model)
        weights = load_file(model / "model.safetensors")
        name = next(name for name in weights if name.endswith("query.weight"))
        weights[name][0, 0] += change
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        runs.append(train(examples, folder / f"from {model.name}", model=str(model)))
    little, much = pair_of(runs[0], runs[1]), pair_of(runs[0], runs[2])
    for pair in (little, much):
        assert len(pair.weights) == 1
        assert [pair.settings, pair.data] == [[], []]
    assert little.verdict.startswith("These runs agree to four decimals, though they start from other weights.")
    assert not much.agree
    assert much.verdict == (
        "They part before the first step: they start from other weights. The settings and the texts are the same: "
        "compare the two models' files."
    )


def test_other_numbers_of_steps_are_told(base, examples, folder):
    pair = pair_of(base, train(examples, folder / "longer", steps=STEPS + 3, schedule="constant", warmup_ratio=0))
    assert pair.steps.num_steps == (STEPS, STEPS + 3)
    assert {difference.what for difference in pair.results} >= {"steps taken", "step kept"}


# --- changed records: what cannot be had from a training on one machine -----------------------------------------------


def copied(base, folder, name, losses=None, environment=None, result=None):
    """The run again, with other losses, environment or result."""
    path = folder / name
    shutil.copytree(base, path)
    if losses is not None:
        values = dict(read_trace(path / FILE).__dict__)
        write_trace(path / FILE, Trace(**{**values, "losses": losses(values["losses"].copy())}))
    for file, change in (("environment.json", environment), ("result.json", result)):
        if change is not None:
            record = json.loads((path / file).read_text())
            change(record)
            (path / file).write_text(json.dumps(record))
    return path


def test_the_first_bit_and_the_first_visible_difference_are_told_apart(base, tmp_path):
    def losses(values):
        values[2:] = np.nextafter(values[2:], np.float32(9))  # a bit from step 3 on
        values[5] *= 1 + 5e-6
        values[8] *= 1 + 3e-4
        return values

    def environment(record):
        record["num_threads"] += 1

    def result(record):
        record["metrics"]["test"]["roc_auc"] += 0.0002

    pair = pair_of(base, copied(base, tmp_path, "other", losses, environment, result))
    found = pair.steps
    assert (found.any_difference, found.beyond_rounding, found.visible) == (3, 6, 9)
    assert found.largest == pytest.approx(3e-4, rel=1e-2)
    assert pair.verdict.startswith("They part at step 6: its loss is the first to differ by more than 1e-06 of itself.")
    assert f"num_threads ({torch.get_num_threads()} and {torch.get_num_threads() + 1})" in pair.verdict
    assert [difference.what for difference in pair.results] == ["test roc_auc"]


@pytest.mark.parametrize(("change", "agrees"), [(0.00004, True), (-0.00004, True), (0.00006, False)])
def test_four_decimals_are_half_of_the_fourth(base, tmp_path, change, agrees):
    def result(record):
        record["metrics"]["train"]["log_loss"] += change

    assert pair_of(base, copied(base, tmp_path, "other", result=result)).agree == agrees


@pytest.mark.parametrize("what", ["best_step", "steps", "extremes", "num_texts", "null", "per class"])
def test_steps_extremes_and_counts_must_be_the_same(base, tmp_path, what):
    def result(record):
        if what in ("best_step", "steps"):
            record[what] -= 1
        elif what == "extremes":
            highest = record["extremes"]["highest"]
            highest[0], highest[1] = highest[1], highest[0]
        elif what == "num_texts":
            record["metrics"]["test"]["num_texts"] -= 1
        elif what == "null":
            record["metrics"]["test"]["roc_auc"] = None
        else:
            record["metrics"]["test"]["per_class"]["toxic"]["recall"] += 0.01

    pair = pair_of(base, copied(base, tmp_path, "other", result=result))
    assert not pair.agree
    assert len(pair.results) == 1
    assert pair.verdict.startswith("They part after the last step")


def test_runs_that_agree_though_rounding_differs_say_by_how_much(base, tmp_path):
    pair = pair_of(base, copied(base, tmp_path, "other", lambda values: values * np.float32(1 + 4e-7)))
    assert pair.agree
    assert "These runs agree to four decimals. Their losses differ from step 1 on, by at most " in pair.verdict


def test_single_scores_and_decisions_are_counted(base, tmp_path):
    path = copied(base, tmp_path, "other")
    table = pq.read_table(path / "predictions.parquet")
    scores = table.column("score_toxic").to_numpy().copy()
    scores[3] += 0.25
    scores[7] += 0.00001
    names = table.column("predicted").to_pylist()
    names[3] = {"clean": "toxic", "toxic": "clean"}[names[3]]
    table = table.set_column(table.column_names.index("score_toxic"), "score_toxic", pa.array(scores))
    table = table.set_column(table.column_names.index("predicted"), "predicted", pa.array(names))
    pq.write_table(table.take(np.arange(len(table))[::-1]), path / "predictions.parquet")  # in another order, too
    scores = pair_of(base, path).scores
    assert (scores.num_texts, scores.num_only_one, scores.num_apart, scores.num_decisions) == (244, 0, 1, 1)
    assert scores.largest == pytest.approx(0.25)
    pq.write_table(table.slice(4), path / "predictions.parquet")
    scores = pair_of(base, path).scores
    assert (scores.num_texts, scores.num_only_one, scores.num_apart) == (240, 4, 0)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_without_a_trace_the_history_tells_and_it_is_said(base, tmp_path, how):
    path = copied(base, tmp_path, "old")
    if how == "missing":
        (path / FILE).unlink()
    else:
        (path / FILE).write_bytes((path / FILE).read_bytes()[:100])
    pair = pair_of(base, path)
    assert pair.agree
    assert pair.verdict == "These runs agree to four decimals."
    assert pair.steps is None
    assert any(FILE in note and ("older" in note or "damaged" in note) for note in pair.notes)
    lines = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    lines[0]["train_loss"] += 0.01
    (path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = json.loads((path / "result.json").read_text())
    result["metrics"]["test"]["accuracy"] -= 0.1
    (path / "result.json").write_text(json.dumps(result))
    pair = pair_of(base, path)
    assert pair.verdict.startswith(f"They part between steps 1 and {STEPS}, by the mean losses of history.jsonl.")


@pytest.mark.parametrize("name", ["predictions.parquet", "model/model.safetensors"])
def test_other_files_that_are_damaged_or_missing_are_noted(base, tmp_path, name):
    path = copied(base, tmp_path, "other")
    (path / name).write_bytes(b"PAR1 nothing PAR1")
    pair = pair_of(base, path)
    assert pair.agree
    if "parquet" in name:
        assert pair.scores is None
        assert any(name in note for note in pair.notes)
    else:
        assert pair.kept_weights_equal is False
    (path / name).unlink()
    pair = pair_of(base, path)
    assert (pair.scores is None) == ("parquet" in name)
    assert (pair.kept_weights_equal is None) == ("model" in name)


def test_a_record_of_nonsense_does_not_crash(base, tmp_path):
    def result(record):
        record["metrics"]["test"]["roc_auc"] = "high"
        record["metrics"]["test"]["accuracy"] = -1e300
        record["metrics"]["train"]["per_class"] = 7
        record["extremes"] = {"highest": 3, "lowest": ["x", {"row": 1}]}
        record["data"] = {"train_texts": -0.5, "train_sha256": 5}
        record["steps"], record["best_step"] = "many", [1]

    pair = pair_of(base, copied(base, tmp_path, "other", result=result))
    assert not pair.agree


def test_a_record_that_holds_nan_is_refused_in_one_line(base, tmp_path):
    def result(record):
        record["metrics"]["test"]["accuracy"] = float("nan")

    other = copied(base, tmp_path, "other", result=result)
    with pytest.raises(RunError, match=r"result\.json: cannot be read as JSON \(found NaN, expected a finite number\)"):
        agreement(base, other)


def test_several_runs_are_each_held_against_the_first(base, tmp_path):
    def result(record):
        record["metrics"]["test"]["roc_auc"] -= 0.1

    same, other = copied(base, tmp_path, "same"), copied(base, tmp_path, "other", result=result)
    found = agreement(base, same, other)
    assert not found.agree
    assert [pair.agree for pair in found.pairs] == [True, False]
    assert found.verdict == f"1 of 2 runs do not agree with {base}: {other}."
    lines = shown(found)
    assert any("largest difference of a loss" in line for line in lines)
    assert agreement(base, same, copied(base, tmp_path, "third")).verdict == "These 3 runs agree to four decimals."


def test_evaluations_are_compared_by_their_results(base, examples, tmp_path):
    for name, dtype in (("a", "float32"), ("b", "float32"), ("c", "bfloat16")):
        bertwright.evaluate(base, examples / "comments_test.csv", output=tmp_path / name, dtype=dtype, quiet=True)
    pair = pair_of(tmp_path / "a", tmp_path / "b")
    assert pair.agree
    assert not pair.notes
    pair = pair_of(tmp_path / "a", tmp_path / "c")
    assert not pair.agree
    assert "dtype (float32 and bfloat16)" in pair.verdict


def test_what_cannot_be_compared_is_one_line(base, tmp_path):
    unfinished = copied(base, tmp_path, "unfinished")
    (unfinished / "result.json").unlink()
    for runs, message in (
        ((base,), "found 1 runs, expected at least two"),
        ((base, base), "is named twice"),
        ((base, unfinished), r"has no result\.json"),
        ((base, tmp_path / "nowhere"), "no such folder"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            agreement(*runs)
        assert "\n" not in str(caught.value)
    assert issubclass(RunError, UserError)
    assert not open_run(unfinished).finished
