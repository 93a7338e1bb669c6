"""Run folders: written once, read back, damaged ones named."""

from __future__ import annotations

import json
import math

import pytest

from bertwright import runs
from bertwright.errors import RunError


def finished(path, **result):
    writer = runs.RunWriter(path, "train", {"model": "m", "train": ["x.csv"]})
    writer.environment({"torch": "1"})
    writer.history({"step": 1, "validation": {}})
    writer.history({"step": 2, "validation": {}})
    writer.result({"metrics": {"test": {"accuracy": 0.5}}, **result})
    return runs.open_run(path)


def test_what_is_written_is_read(tmp_path):
    run = finished(tmp_path / "r")
    assert (run.act, run.finished, run.settings["model"]) == ("train", True, "m")
    assert [line["step"] for line in run.history] == [1, 2]
    assert run.metrics["test"]["accuracy"] == 0.5
    assert run.environment == {"torch": "1"}
    assert run.started.endswith("+00:00")


def test_a_run_is_unfinished_until_its_result_is_there(tmp_path):
    runs.RunWriter(tmp_path / "r", "train", {})
    run = runs.open_run(tmp_path / "r")
    assert not run.finished
    assert run.metrics == {}


def test_nothing_but_runs_is_listed(tmp_path):
    finished(tmp_path / "b")
    finished(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("{}")
    (tmp_path / "file.txt").write_text("x")
    assert [run.path.name for run in runs.list_runs(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("name", ["config.json", "environment.json", "result.json", "history.jsonl"])
@pytest.mark.parametrize("content", ["{", "\x00\x01", '"text'])
def test_damaged_files_are_named(tmp_path, name, content):
    finished(tmp_path / "r")
    (tmp_path / "r" / name).write_text(content)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        runs.open_run(tmp_path / "r")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        runs.open_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"no config\.json"):
        runs.open_run(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RunError, match="not a model's"):
        runs.open_run(tmp_path)


def test_numbers_that_json_does_not_have_are_never_written(tmp_path):
    writer = runs.RunWriter(tmp_path / "r", "train", {})
    with pytest.raises(ValueError, match="JSON"):
        writer.result({"metrics": {"accuracy": math.nan}})
    assert not (tmp_path / "r" / "result.json").exists()


def test_a_name_that_is_free(tmp_path):
    assert runs.free_name(tmp_path / "r") == tmp_path / "r"
    (tmp_path / "r").mkdir()
    (tmp_path / "r-2").mkdir()
    assert runs.free_name(tmp_path / "r") == tmp_path / "r-3"


def test_text_in_records_stays_readable(tmp_path):
    finished(tmp_path / "r", labels=["größer"])
    assert "größer" in (tmp_path / "r" / "result.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "r" / "result.json").read_text(encoding="utf-8"))["labels"] == ["größer"]
