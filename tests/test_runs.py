"""Run folders: written once, read back, damaged ones named."""

from __future__ import annotations

import errno
import json
import math

import pytest

from bertwright import runs
from bertwright.errors import RunError

RESULT = {
    "labels": ["a", "b"],
    "data": {},
    "seconds": {"read": 0.1, "tokenize": 0.1, "train": 1.0, "infer": 0.1, "total": 2.0},
    "rates": {},
    "memory": {"peak_process_bytes": 1, "peak_gpu_bytes": None},
    "cost": {"usd_per_hour": None, "usd": None},
    "metrics": {"test": {"accuracy": 0.5}},
    "extremes": {"highest": [], "lowest": []},
}


def finished(path, **result):
    writer = runs.RunWriter(path, "train", {"model": "m", "train": ["x.csv"]})
    writer.environment({"torch": "1"})
    for step in (1, 2):
        writer.history({"step": step, "epoch": step / 2, "train_loss": 0.7, "learning_rate": 0.1, "validation": {}})
    writer.result({**RESULT, **result})
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
@pytest.mark.parametrize("content", ["{", "\x00\x01", '"text', "[" * 100_000, "9" * 5000, "[]", "1"])
def test_damaged_files_are_named(tmp_path, name, content):
    finished(tmp_path / "r")
    (tmp_path / "r" / name).write_text(content)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        runs.open_run(tmp_path / "r")


@pytest.mark.parametrize("key", RESULT)
def test_a_result_without_what_is_read_from_it_is_damaged(tmp_path, key):
    finished(tmp_path / "r")
    (tmp_path / "r" / "result.json").write_text(json.dumps({name: RESULT[name] for name in RESULT if name != key}))
    with pytest.raises(RunError, match=rf"result\.json: holds no {key}"):
        runs.open_run(tmp_path / "r")


def test_a_missing_part_of_a_result_is_named(tmp_path):
    with pytest.raises(RunError, match=r"holds no seconds\.tokenize"):
        finished(tmp_path / "r", seconds={"read": 1.0})


def test_a_damaged_run_is_listed_as_such(tmp_path):
    finished(tmp_path / "good")
    finished(tmp_path / "bad")
    (tmp_path / "bad" / "history.jsonl").write_bytes(b"\xff\n")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "config.json").write_text('{"act": 1, "settings": 2}')
    found = {run.path.name: run for run in runs.list_runs(tmp_path)}
    assert found.keys() == {"good", "bad", "settings"}
    assert found["good"].damage is None
    assert "history.jsonl: cannot be read" in found["bad"].damage
    assert found["bad"].settings["model"] == "m"
    assert not found["bad"].finished
    assert "not the record of a run" in found["settings"].damage


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, '["act"]', '"act"'])
def test_a_folder_with_another_config_is_no_run(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert not runs.is_run(tmp_path)


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    runs.RunWriter(tmp_path / "r", "train", {})
    with pytest.raises(RunError, match="another run was started with the same --output"):
        runs.RunWriter(tmp_path / "r", "train", {})


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


def test_a_failed_write_leaves_nothing_and_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        runs.write_json(tmp_path / "a.json", {"new": 1})
    assert caught.value.filename == str(tmp_path / "a.json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]
    with pytest.raises(OSError, match="Is a directory"), runs.written_beside(tmp_path / "b") as partial:
        partial.write_text("half") and (tmp_path / "b").mkdir()
    (tmp_path / "b").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_only_a_training_is_said_to_go_on_with_resume(tmp_path):
    for act in ("train", "evaluate"):
        runs.RunWriter(tmp_path / act, act, {})
        with pytest.raises(RunError, match="has not finished") as caught:
            runs.prepare_output(tmp_path / act, overwrite=False)
        assert ("--resume" in str(caught.value)) == (act == "train")


def test_a_folder_that_fails_on_the_way_leaves_the_old_one(tmp_path):
    finished(tmp_path / "r")
    with pytest.raises(ValueError, match="JSON compliant"), runs.whole_folder(tmp_path / "r", True) as partial:
        runs.RunWriter(partial, "evaluate", {}).result({"accuracy": math.nan})
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert runs.open_run(tmp_path / "r").act == "train"
    with runs.whole_folder(tmp_path / "r", True) as partial:
        runs.RunWriter(partial, "evaluate", {})
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert runs.open_run(tmp_path / "r").act == "evaluate"
    with pytest.raises(RunError, match="another run was started"), runs.whole_folder(tmp_path / "r", False) as partial:
        partial.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"'])
def test_a_record_that_could_not_be_written_again_is_damaged(tmp_path, value):
    (tmp_path / "config.json").write_text(f'{{"act": "train", "settings": {{"a": {value}}}}}')
    with pytest.raises(RunError, match="cannot be read as JSON"):
        runs.open_run(tmp_path)
    (tmp_path / "config.json").write_text('{"act": "train", "settings": {"a": "\\ud83d\\ude00", "b": 1e300}}')
    assert runs.open_run(tmp_path).settings == {"a": "\U0001f600", "b": 1e300}
