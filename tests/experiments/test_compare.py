"""Runs side by side, in the library and in the shell."""

from __future__ import annotations

import json
import shutil

import pytest
from tests.test_cli import call

import bertwright
from bertwright.errors import UserError
from bertwright.experiments.compare import compare


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
    records = compare(*runs[:2])
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
    assert len(compare(*copies)) == 2


def test_the_shell_shows_tables_where_torch_cannot_be_imported(runs):
    done = call("compare", *runs[:2], without_torch=True)
    assert done.returncode == 0, done.stderr
    accuracy = bertwright.open_run(runs[0]).metrics["test"]["accuracy"]
    for word in ("Quality, test texts", "Times and memory", "bert-tiny", "3 steps", f"{accuracy:.4f}", "USD"):
        assert word in done.stdout
    done = call("compare", *runs[:2], "--json", without_torch=True)
    assert json.loads(done.stdout) == compare(*runs[:2])
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
