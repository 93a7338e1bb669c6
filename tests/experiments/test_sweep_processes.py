"""Sweeps of real trainings, in processes of their own: crashes, kill -9, memory, what is shared."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

import bertwright
from bertwright.experiments.sweep_processes import Processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork of Unix")


@pytest.fixture
def texts(examples, tmp_path):
    """The first 48 comments of the demo."""
    lines = (examples / "comments_train.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "texts.csv").write_text("".join(lines[:49]), encoding="utf-8")
    return tmp_path / "texts.csv"


def start(*arguments):
    """``bertwright sweep`` in a process of its own, and session: as if typed in another terminal."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-m", "bertwright", "sweep", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def grid(texts, num_trials, *more):
    seeds = ",".join(map(str, range(num_trials)))
    model = ["--model", "bert-tiny", "--steps", "3", "--max-length", "16"]
    return [str(texts), *model, "--grid", f"seed={seeds}", "--output", "swept", "--heartbeat-s", "2", *more]


def finished(folder):
    """The trials in ``folder`` that have finished, with what tells whether one was done again."""
    return {path.parent.name: path.stat().st_mtime_ns for path in Path(folder, "trials").glob("*/result.json")}


def wait_until(condition, process, most_s=240.0):
    until = time.monotonic() + most_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def killed_and_continued(texts, num_trials, kills, seed):
    """Kill a sweep with kill -9 so often, each time once some more trials have finished; its record at the end."""
    draws = random.Random(seed)
    done = {}
    for _ in range(kills):
        process = start(*grid(texts, num_trials))
        more = draws.randint(1, max(1, (num_trials - len(done)) // (kills + 1)))
        wait_until(lambda n=len(done) + more: len(finished("swept")) >= n, process)
        time.sleep(draws.uniform(0.0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        before, done = done, finished("swept")
        assert before.items() <= done.items(), "a finished trial was lost or done again"
    process = start(*grid(texts, num_trials, "--json"))
    out, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    now = finished("swept")
    assert done.items() <= now.items()
    assert len(now) == num_trials
    return json.loads(out.splitlines()[-1])


def check_whole(record, num_trials):
    assert [trial["state"] for trial in record["trials"]] == ["finished"] * num_trials
    assert sorted(trial["settings"]["seed"] for trial in record["trials"]) == list(range(num_trials))
    for trial in record["trials"]:
        run = bertwright.open_run(trial["run"])
        assert run.settings["seed"] == trial["settings"]["seed"]
        assert run.metrics["validation"]["roc_auc"] == trial["value"]


def test_a_sweep_killed_by_kill_9_goes_on_and_loses_no_finished_trial(texts):
    check_whole(killed_and_continued(texts, 4, 1, seed=0), 4)
    # as one that nobody disturbed
    alone = bertwright.train(texts, model="bert-tiny", steps=3, max_length=16, seed=2, output="alone", quiet=True)
    trial = bertwright.open_sweep("swept").trials[2]
    found, expected = bertwright.open_run(trial.run).result, alone.result
    assert found["metrics"] == expected["metrics"]
    assert found["data"] == expected["data"]


@pytest.mark.slow
def test_thirty_trials_killed_at_three_random_moments(texts):
    check_whole(killed_and_continued(texts, 30, 3, seed=1), 30)


def test_a_training_that_is_refused_is_a_failure_and_the_sweep_goes_on(texts):
    broken = Path("broken")
    shutil.copytree(trained_model(texts), broken)
    (broken / "config.json").write_text("{")
    found = bertwright.sweep(
        texts,
        trials=[
            {"name": "refused", "model": str(broken), "tokenizer": "all-MiniLM-L6-v2"},
            {"name": "good", "steps": 2},
        ],
        model="bert-tiny",
        max_length=16,
        output="swept",
        quiet=True,
    )
    assert [trial.state for trial in found.trials] == ["failed", "finished"]
    assert "broken/config.json" in found.trials[0].error
    assert found.groups[0].best.number == 1


def trained_model(texts):
    return bertwright.train(texts, model="bert-tiny", steps=1, max_length=16, output="first", quiet=True).model_folder


def test_processes_are_apart(tmp_path, monkeypatch):
    """One that crashes leaves the others alone; a signal comes to the one that it is for; threads are shared out."""
    (tmp_path / "acts.py").write_text(
        "import os, sys, time, signal\n"
        "def main(arguments):\n"
        "    if arguments[0] == 'crash':\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if arguments[0] == 'wait':\n"
        "        time.sleep(600)\n"
        "    import torch\n"
        "    print(torch.get_num_threads(), file=sys.stderr)\n"
        "    sys.exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with Processes() as processes:
        for number, act in enumerate(("crash", "wait", "threads")):
            processes.start(number, [act], 2, tmp_path / f"{act}.txt", "acts")
        assert dict(ended_of(processes, 2)) == {0: -signal.SIGSEGV, 2: 3}
        assert (tmp_path / "threads.txt").read_text() == "2\n"
        processes.signal(1, signal.SIGKILL)
        assert ended_of(processes, 1) == [(1, -signal.SIGKILL)]


def ended_of(processes, count):
    found = []
    until = time.monotonic() + 240
    while len(found) < count and time.monotonic() < until:
        found += processes.ended(1.0)
    return found
