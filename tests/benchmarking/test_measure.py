"""Workers, turns, medians: with contenders that do nothing."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bertwright import hardware
from bertwright.benchmarking import bench
from bertwright.benchmarking.cases import Case, Prepared
from bertwright.benchmarking.entries import ENTRIES, Entry, choose_entries
from bertwright.benchmarking.measure import measure, ratio_of_medians, spread
from bertwright.benchmarking.processes import Worker, WorkerFailed
from bertwright.benchmarking.show import result_table
from bertwright.errors import UserError
from bertwright.progress import Reporter


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A case without texts, and the fake contenders where workers find them."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))
    case = Case("infer", str(tmp_path), 2, 10, "cpu", "auto", 1, 1e-4, "first", 2, 8, 0)
    case.write()
    return tmp_path


def fake(name, kind="Steady", **options) -> Entry:
    return Entry(name, f"fake_contenders:{kind}", "fake", options)


quiet = functools.partial(Reporter, quiet=True, results=False)


def test_the_worker_answers_line_by_line_and_keeps_standard_output_clean(folder):
    requests = [
        {"act": "prepare", "target": "fake_contenders:Steady", "options": {"colour": "red"}, "case": str(folder)},
        {"act": "run"},
        {"act": "run"},
        {"act": "finish"},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bertwright.benchmarking.worker"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
    )
    prepared, first, second, finished = map(json.loads, done.stdout.splitlines())
    assert prepared["prepared"] == {"num_texts": 8, "colour": "red"}
    assert prepared["seconds"] > 0
    assert (first["seconds"], first["texts"]) == (0.5, 8)
    assert first["tokens"] == 80
    assert second["idle_cpu_s"] < 0.1
    assert 1e6 < finished["peak_bytes"] < 1e9
    assert np.load(finished["outcome"])["logits"].shape == (8, 2)
    assert "a library prints" in done.stderr


def test_a_worker_that_dies_leaves_its_last_words(folder):
    with Worker("dying", folder / "log") as worker:
        worker.ask(act="prepare", target="fake_contenders:Dying", options={}, case=str(folder))
        worker.ask(act="run")
        with pytest.raises(WorkerFailed, match="ended with code 7: something terrible"):
            worker.ask(act="run")


def test_who_goes_wrong_while_the_clock_runs_loses_its_times_also_where_the_reference_has_died(folder):
    asked = []

    def gate(found):
        asked.append([one.entry.name for one in found if one.reason is None])
        assert "logits" in found[0].outcome  # what it had computed before it died
        return {one.entry.name: "off" for one in found[1:] if "logits" in one.outcome and one.outcome["logits"].any()}

    reference, turning = measure(
        [fake("reference", "Dying"), fake("turning", "Turning")], folder, 2, 1, quiet(), gate=gate
    )
    assert asked == [["reference", "turning"], ["turning"]]
    assert "code 7" in reference.reason
    assert (turning.reason, turning.turns, turning.ran) == ("off", [], False)


def test_a_text_that_is_passed_over_keeps_no_earlier_answer(folder):
    from bertwright.benchmarking.peers.padded import PaddedInference

    np.save(folder / "ids.npy", np.zeros(8, dtype=np.int32))
    np.save(folder / "starts.npy", np.arange(9))
    padded = PaddedInference(Case.read(folder))

    class Forgetful:
        dropped = 0

        def score(self, batches):
            for rows in batches[self.dropped :]:
                padded.logits[rows] = 1.0

    padded.scorer = Forgetful()
    padded.run()
    assert (padded.outcome()["logits"] == 1).all()
    padded.scorer.dropped = 1
    padded.run()
    assert np.isnan(padded.outcome()["logits"]).any()


def test_a_silent_worker_is_given_up(folder):
    with Worker("slow", folder / "log", patience_s=0.0) as worker, pytest.raises(WorkerFailed, match="no answer"):
        worker.ask(act="prepare", target="fake_contenders:Steady", options={}, case=str(folder))


def test_who_cannot_run_is_reported_and_the_others_go_on(folder):
    entries = [
        fake("bertwright", seconds=0.25),
        fake("slower", seconds=0.5),
        fake("dying", "Dying"),
        fake("raising", "Raising"),
        fake("not-here", "NotHere"),
        fake("lacking", "Lacking"),
        fake("misspelt", "Nobody"),
    ]
    found = measure(entries, folder, 3, 1, quiet())
    reasons = {one.entry.name: one.reason for one in found}
    assert reasons["bertwright"] is None
    assert reasons["slower"] is None
    assert "code 7" in reasons["dying"]
    assert reasons["raising"] == "RuntimeError: out of ideas"
    assert reasons["not-here"] == "wants another machine"
    assert reasons["lacking"] == "a_package_that_nobody_has is not installed: pip install 'bertwright[bench]'"
    assert "Nobody" in reasons["misspelt"]
    assert [len(one.turns) for one in found] == [3, 3, 0, 0, 0, 0, 0]

    case = Case.read(folder)
    prepared = Prepared(case, {"model": "none", "num_texts": 8, "text_tokens": None}, None)
    result = bench.record("infer", prepared, found, 3, 1, 0.0, usd_per_hour=3.6, machine="aws g6.xlarge")
    assert result["machine"] == "aws g6.xlarge"
    ours, slower, dying, *_ = result["contenders"]
    assert ours["texts_per_s"] == {"median": 32.0, "min": 32.0, "max": 32.0}
    assert slower["ours_is_times_as_fast"] == 2.0
    assert slower["usd_per_million_texts"] == pytest.approx(0.001 / 16 * 1e6)
    assert slower["largest_score_difference"] == pytest.approx(0.25)
    assert dying["texts_per_s"] is None
    json.dumps(result, allow_nan=False)
    from rich.console import Console

    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(result_table(result))
    shown = console.export_text()
    assert "not-here: not run: wants another machine" in shown
    assert "2.00 x" in shown


def test_cpu_burnt_while_waiting_is_told(folder):
    found = measure([fake("bertwright"), fake("greedy", "Greedy"), fake("third")], folder, 3, 0, quiet())
    assert found[1].idle_cpu_s > 0 or os.cpu_count() == 1
    assert found[0].idle_cpu_s < 0.2


def test_turns_are_interleaved_and_who_begins_changes(folder):
    said: list[str] = []

    class Fake:
        def __init__(self, name, log):
            self.name = name

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, act, **_):
            if act == "run":
                said.append(self.name)
            return {
                "prepare": {"prepared": {}, "seconds": 1.0, "energy_source": None},
                "run": {"seconds": 1.0, "texts": 1, "tokens": 1, "idle_cpu_s": 0.0},
                "finish": {"peak_bytes": 1, "peak_gpu_bytes": None, "outcome": None},
            }[act]

    found = measure([fake("a"), fake("b"), fake("c")], folder, 2, 1, quiet(), start=Fake)
    assert "".join(said) == "abc" + "bca" + "cab"
    assert [len(one.turns) for one in found] == [2, 2, 2]


def test_medians_spreads_and_ratios():
    assert spread([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "min": 1.0, "max": 10.0}
    assert spread([]) is None
    assert ratio_of_medians([4.0, 100.0, 6.0], [2.0, 3.0, 1.0]) == 3.0  # of medians, not the median of ratios
    assert ratio_of_medians([], [1.0]) is None


def test_a_folder_is_given_a_file_named_by_what_was_measured(tmp_path):
    result = {
        "case": "train",
        "measured": "2026-02-03T04:05:06+00:00",
        "dtype": "bfloat16",
        "environment": {"cpu": "AMD EPYC 9004 (R)", "torch": "2.11.0+cpu"},
    }
    named = bench.result_file(str(tmp_path), result)
    assert named == tmp_path / "train-amd-epyc-9004-r-bfloat16-torch2.11.0-202602.jsonl"
    assert bench.result_file(str(tmp_path / "mine.jsonl"), result) == tmp_path / "mine.jsonl"


def test_entries_are_chosen_by_name_and_ours_is_always_first():
    for case in ENTRIES:
        names = [entry.name for entry in ENTRIES[case]]
        assert len(set(names)) == len(names)
        assert not any(entry.peer for entry in choose_entries(case, False, ()))
        assert any(entry.peer for entry in choose_entries(case, True, ()))
    assert [e.name for e in choose_entries("infer", False, ["openvino-bf16"])] == ["bertwright", "openvino-bf16"]
    with pytest.raises(UserError, match="did you mean openvino-bf16"):
        choose_entries("infer", False, ["openvino-bf15"])


@pytest.mark.parametrize("case", ["train", "pretrain", "infer", "engines"])
def test_where_bfloat16_is_slow_peers_that_multiply_it_are_left_out_and_said(case, monkeypatch, capsys):
    entries = choose_entries(case, True, ())
    config = SimpleNamespace(device="cpu")
    monkeypatch.setattr(hardware, "cpu_bfloat16_feature", lambda: "amx_bf16")
    assert bench._without_slow_bf16(entries, config, Reporter()) == entries
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(hardware, "cpu_bfloat16_feature", lambda: None)
    left = [entry.name for entry in bench._without_slow_bf16(entries, config, Reporter())]
    assert [name for name in left if "bf16" in name] == []
    assert {"bertwright"} < set(left)
    for entry in ENTRIES[case]:
        trainer_in_bf16 = "Trainer" in entry.target or "trainer" in entry.target
        trainer_in_bf16 = trainer_in_bf16 and entry.options.get("precision") != "float32"
        assert entry.bf16 == (entry.peer and ("bf16" in entry.name or trainer_in_bf16)), entry.name
    assert any(entry.peer for entry in entries if entry.name in left)
    said = capsys.readouterr().err
    assert all(entry.name in said for entry in entries if entry.name not in left)
    assert "this CPU does not multiply bfloat16" in said
