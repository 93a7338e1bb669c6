"""The act: what a sweep does with its trials. Trainings are stand-ins here; test_sweep_processes.py has real ones."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from tests.experiments.sweep_doubles import FakeProcesses

import bertwright
from bertwright.cli import main
from bertwright.errors import RunError, UserError
from bertwright.experiments import sweep as act
from bertwright.experiments import sweep_database, sweep_work
from bertwright.experiments.sweep_folder import Asked, read_record
from bertwright.experiments.sweep_plan import Wanted, is_minimized
from bertwright.experiments.sweep_store import Store
from bertwright.experiments.sweep_tokens import WHOLE


@pytest.fixture(autouse=True)
def processes(monkeypatch):
    """Stand-ins for trainings, and no waiting between looks."""
    kind = type("Processes", (FakeProcesses,), {})
    FakeProcesses.began.clear()
    monkeypatch.setattr(act, "Processes", kind)
    monkeypatch.setattr(sweep_work, "_TICK_S", 0.0)
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", _without_waiting_for_the_disk)
    yield kind
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", _without_waiting_for_the_disk)


def _without_waiting_for_the_disk(connection, _):
    connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def texts(tmp_path):
    """A file of 20 labelled texts."""
    return write_texts(tmp_path / "texts.csv")


def write_texts(path, num_texts=20):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"text number {i}", ["good", "bad"][i % 2]] for i in range(num_texts))
    return path


def swept(texts, **settings):
    return bertwright.sweep(texts, **{"quiet": True, "output": "swept", "model": "bert-tiny", "jobs": "2", **settings})


def test_a_grid_is_every_combination_once(texts):
    found = swept(texts, grid={"learning_rate": [1e-3, 1e-4], "seed": [0, 1, 2]})
    asked = [(trial.settings["learning_rate"], trial.settings["seed"]) for trial in found.trials]
    assert asked == [(rate, seed) for rate in (1e-3, 1e-4) for seed in (0, 1, 2)]
    assert {trial.state for trial in found.trials} == {"finished"}
    assert sorted(FakeProcesses.began) == list(range(6))
    group = found.groups[0]
    assert group.best.number == 0
    assert group.best.value == pytest.approx(0.9 - 0.0032)
    assert [seeds.settings for seeds in group.seeds] == [{"learning_rate": 1e-3}, {"learning_rate": 1e-4}]
    assert group.seeds[0].mean == pytest.approx(0.8868)
    assert group.seeds[0].sd == pytest.approx(0.01)


def test_a_trial_is_an_ordinary_run_of_shared_token_ids(texts, processes):
    processes.makes_tokens = True
    found = swept(texts, grid={"seed": [0, 1]})
    run = bertwright.open_run(found.trials[1].run)
    assert run.finished
    assert run.settings["seed"] == 1
    folders = {tuple(bertwright.open_run(trial.run).settings["train"]) for trial in found.trials}
    assert len(folders) == 1
    assert os.path.isfile(f"{next(iter(folders))[0]}/token_ids.bin")


@pytest.mark.parametrize(
    ("settings", "whole"),
    [
        ({}, False),
        ({"recipe": "best"}, True),  # reads long texts in windows
        ({"recipe": "best", "freeze_encoder": True}, False),
        ({"recipe": "best", "long_texts": "head"}, False),
        ({"long_texts": "head+tail"}, True),
    ],
)
def test_token_ids_are_shared_whole_where_more_than_heads_is_read(texts, processes, settings, whole):
    processes.makes_tokens = True
    found = swept(texts, grid={"seed": [0]}, max_length=9, **settings)
    folder = Path(bertwright.open_run(found.trials[0].run).settings["train"][0])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["max_length"] == (WHOLE if whole else 9)


def test_the_same_command_does_nothing_again(texts):
    first = swept(texts, grid={"seed": [0, 1]})
    FakeProcesses.began.clear()
    again = swept(texts, grid={"seed": [0, 1]})
    assert FakeProcesses.began == []
    assert again.record() == first.record()


def test_a_grid_may_grow(texts):
    swept(texts, grid={"seed": [0, 1]})
    FakeProcesses.began.clear()
    found = swept(texts, grid={"seed": [0, 1, 2, 3]})
    assert FakeProcesses.began == [2, 3]
    assert [trial.settings["seed"] for trial in found.trials] == [0, 1, 2, 3]


def test_other_shared_settings_are_refused(texts):
    swept(texts, grid={"seed": [0, 1]})
    with pytest.raises(UserError, match=r"--epochs: found 3, expected nothing as in swept/sweep\.json"):
        swept(texts, grid={"seed": [0, 1]}, epochs=3)


def test_a_sweep_goes_on_by_its_folder_alone(texts, processes):
    processes.num_polls = 2
    stop_after(processes, 2)
    with pytest.raises(SystemExit):
        swept(texts, grid={"seed": [0, 1, 2, 3]}, jobs="1")
    found = bertwright.sweep(output="swept", quiet=True)
    assert [trial.state for trial in found.trials] == ["finished"] * 4


def stop_after(processes, num_began):
    """Let SIGTERM come once so many trials have begun."""

    def at_poll(_):
        if len(FakeProcesses.began) == num_began:
            processes.at_poll = staticmethod(lambda _: None)
            os.kill(os.getpid(), signal.SIGTERM)

    processes.at_poll = staticmethod(at_poll)


def test_what_was_stopped_goes_on_and_what_has_finished_is_not_done_again(texts, processes):
    processes.num_polls = 3
    stop_after(processes, 3)
    with pytest.raises(SystemExit) as stopped:
        swept(texts, grid={"seed": [0, 1, 2, 3, 4]}, jobs="1")
    assert stopped.value.code == 143
    between = bertwright.open_sweep("swept")
    states = [trial.state for trial in between.trials]
    assert states == ["finished", "finished", "stopped", "waiting", "waiting"]
    FakeProcesses.began.clear()
    found = swept(texts, grid={"seed": [0, 1, 2, 3, 4]}, jobs="1")
    assert FakeProcesses.began == [2, 3, 4]
    assert [trial.state for trial in found.trials] == ["finished"] * 5


def test_a_result_that_nobody_noted_is_not_trained_again(texts, processes):
    """The worker was killed between its trial's last file and the note in the study."""
    stop_after(processes, 1)
    processes.num_polls = 2
    with pytest.raises(SystemExit):
        swept(texts, grid={"seed": [0, 1]}, jobs="1")
    config = json.loads(Path("swept/asked/0000.json").read_text())["settings"]
    double = FakeProcesses()
    double.start(0, ["train", "--config", "swept/asked/0000.json"], 1, None)
    double.ended(0.0)
    assert bertwright.open_run(config["output"]).finished
    FakeProcesses.began.clear()
    found = swept(texts, grid={"seed": [0, 1]}, jobs="1")
    assert FakeProcesses.began == [1]
    assert [trial.state for trial in found.trials] == ["finished"] * 2


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_search_draws_within_its_space(texts, search):
    found = swept(
        texts,
        space={"learning_rate": "log:1e-5..1e-1", "batch_size": "8..32:8", "optimizer": ["adamw", "sgd"]},
        search=search,
        num_trials=12,
    )
    assert len(found.trials) == 12
    for trial in found.trials:
        assert 1e-5 <= trial.settings["learning_rate"] <= 1e-1
        assert trial.settings["batch_size"] in (8, 16, 24, 32)
        assert isinstance(trial.settings["batch_size"], int)
        assert trial.settings["optimizer"] in ("adamw", "sgd")
        assert bertwright.open_run(trial.run).settings["learning_rate"] == trial.settings["learning_rate"]
    assert len({trial.settings["learning_rate"] for trial in found.trials}) == 12
    assert max(found.importances, key=found.importances.get) == "learning_rate"
    assert sum(found.importances.values()) == pytest.approx(1.0)


def test_tpe_finds_better_values_than_it_drew_at_first(texts):
    found = swept(texts, space={"learning_rate": "log:1e-6..1"}, num_trials=30, jobs="1")
    values = [trial.value for trial in found.trials]
    assert found.search == "tpe"
    assert sum(values[-10:]) / 10 > sum(values[:10]) / 10


def test_a_search_that_was_stopped_draws_what_it_would_have_drawn(texts, processes):
    space = {"learning_rate": "log:1e-5..1e-1"}
    whole = swept(texts, space=space, num_trials=14, jobs="1", output="whole")
    FakeProcesses.began.clear()
    stop_after(processes, 12)
    with pytest.raises(SystemExit):
        swept(texts, space=space, num_trials=14, jobs="1")
    found = swept(texts, space=space, num_trials=14, jobs="1")
    assert [trial.settings for trial in found.trials] == [trial.settings for trial in whole.trials]


def test_a_search_may_be_prolonged(texts):
    swept(texts, space={"learning_rate": "log:1e-5..1e-1"}, num_trials=3)
    found = swept(texts, space={"learning_rate": "log:1e-5..1e-1"}, num_trials=5)
    assert len(found.trials) == 5
    assert len(FakeProcesses.began) == 5


def test_a_list_of_trials_names_its_own_data_sets(texts, tmp_path):
    write_texts(tmp_path / "other.csv", 30)
    (tmp_path / "trials.toml").write_text(
        'trials = [{ name = "frozen", train = "texts.csv", freeze_encoder = true },'
        ' { name = "tuned", train = "texts.csv", learning_rate = 1e-3 },'
        ' { name = "tuned", train = "other.csv", validation = "texts.csv", test = "texts.csv" }]'
    )
    found = bertwright.sweep(trials="trials.toml", model="bert-tiny", output="swept", quiet=True)
    assert [group.name for group in found.groups] == ["texts.csv", "other.csv"]
    assert [[trial.number for trial in group.trials] for group in found.groups] == [[1, 0], [2]]
    assert [trial.name for trial in found.trials] == ["frozen", "tuned", "tuned"]
    assert found.groups[0].best.number == 1


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_lists_of_trials_in_json(texts, tmp_path, suffix):
    entries = [{"seed": 1}, {"seed": 2}]
    lines = json.dumps(entries) if suffix == ".json" else "\n".join(map(json.dumps, entries))
    (tmp_path / f"trials{suffix}").write_text(lines)
    found = swept(texts, trials=f"trials{suffix}", grid={"learning_rate": [1e-3, 1e-4]})
    assert [tuple(trial.settings.values()) for trial in found.trials] == [(1, 1e-3), (1, 1e-4), (2, 1e-3), (2, 1e-4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": {"learning_rate": [1e-3, "fast"]}}, "learning_rate=fast: --learning-rate: found 'fast'"),
        ({"grid": {"learning_rates": [1e-3]}}, "--grid: unknown setting 'learning_rates'; did you mean learning_rate?"),
        ({"grid": {"output": ["a"]}}, "--grid output: each trial has a folder of its own"),
        ({"grid": {"train": ["texts.csv", "gone.csv"]}}, "train=gone.csv: gone.csv: no such file"),
        ({"grid": {"seed": [0]}, "space": {"seed": "0..3"}}, "--grid and --space both name seed"),
        ({"grid": {"freeze_encoder": [True], "hidden_dropout": [0.1, 0.2]}}, "changes nothing in a frozen encoder"),
        ({"space": {"learning_rate": "1e-3..1e-5"}, "num_trials": 3}, "expected the lower number first"),
        ({"space": {"learning_rate": "log:0..1"}, "num_trials": 3}, "log: takes numbers above 0"),
        ({"space": {"learning_rate": "-1..1"}, "num_trials": 3}, "learning_rate=-1.0: --learning-rate: found -1.0"),
        ({"space": {"batch_size": "8.5..32"}, "num_trials": 3}, "batch_size takes whole numbers"),
        ({"space": {"optimizer": "1..2"}, "num_trials": 3}, "--optimizer: found 1.0"),
        ({"space": {"learning_rate": "1e-5..1e-3"}}, "--search tpe has no end"),
        ({"search": "random", "num_trials": 3}, "nothing to search in"),
        ({}, "nothing to vary"),
        ({"grid": {"seed": [0, 1]}, "num_trials": 3}, "--num-trials is for a search"),
        ({"grid": {"seed": [0, 1]}, "metric": "validation:acuracy"}, "--metric acuracy: unknown metric; did you mean"),
        ({"grid": {"seed": [0, 1]}, "metric": "train:accuracy"}, "expected validation:accuracy or test:accuracy"),
        ({"grid": {"seed": [0, 1]}, "metric": "test:accuracy"}, "there are no test texts"),
        ({"grid": {"seed": [0, 1]}, "validation_share": 0, "prune": True}, "--prune goes by validation texts"),
        ({"space": {"seed": "0..9"}, "num_trials": 3, "test": "texts.csv"}, "chooses by validation texts"),
        ({"grid": {"seed": [0, 1]}, "budget": "5usd"}, "pass --usd-per-hour too"),
        ({"grid": {"seed": [0, 1]}, "budget": "soon"}, "expected a time or an amount above 0"),
        ({"grid": {"seed": [0, 1]}, "jobs": "many"}, "--jobs: found 'many'"),
        ({"grid": {"seed": [0, 1]}, "storage": "mysql://a:secret@b/c"}, "found 'mysql://a@b/c', expected postgresql"),
        (
            {"grid": {"best_metric": ["accuracy", "log_loss"]}, "prune": True},
            "trials would be judged by different metrics (accuracy, log_loss)",
        ),
        (
            {"space": {"label_kind": ["regression", "classes"]}, "num_trials": 3},
            "trials would be judged by different metrics (mean_squared_error, the one of their texts)",
        ),
        ({"trials": []}, "found no list of trials"),
        ({"trials": [{"seed": 1, "epoch": 2}]}, "trial 1 of the list: unknown setting 'epoch'; did you mean epochs?"),
        ({"trials": [{"name": "a", "seed": 1}, {"name": "b", "seed": 1}]}, "the same settings as another trial"),
        ({"grid": {"seed": [0, 1]}, "study_name": "a"}, "unknown setting 'study_name'"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(texts, settings, message):
    with pytest.raises(UserError) as error:
        swept(texts, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not os.path.exists("swept")


def test_texts_that_cannot_be_used_leave_no_folder(tmp_path, processes):
    processes.makes_tokens = True
    (tmp_path / "texts.csv").write_text("text,label\n,good\n")
    with pytest.raises(UserError, match="the texts cannot be used"):
        swept("texts.csv", grid={"seed": [0, 1]})
    assert not os.path.exists("swept")


def test_a_training_that_fails_is_noted_and_the_others_go_on(texts, processes, capsys):
    processes.fails = staticmethod(lambda config: "out of memory: pass less" if config.batch_size == 64 else None)
    found = swept(texts, grid={"batch_size": [64, 32, 16]})
    assert [trial.state for trial in found.trials] == ["failed", "finished", "finished"]
    assert found.trials[0].error == "out of memory: pass less"
    assert "trial 0 failed: out of memory: pass less" in capsys.readouterr().err
    FakeProcesses.began.clear()
    swept(texts, grid={"batch_size": [64, 32, 16]})
    assert FakeProcesses.began == []
    processes.fails = staticmethod(lambda config: None)
    found = swept(texts, grid={"batch_size": [64, 32, 16]}, retry_failed=True)
    assert FakeProcesses.began == [0]
    assert [trial.state for trial in found.trials] == ["finished"] * 3


def test_first_trials_that_all_fail_alike_end_the_sweep(texts, processes):
    processes.fails = staticmethod(lambda config: "no such column")
    with pytest.raises(UserError, match="the first 3 trials failed alike: no such column"):
        swept(texts, grid={"seed": list(range(30))}, jobs="1")
    assert len(FakeProcesses.began) == 3


def test_all_failed_is_an_error(texts, processes):
    processes.fails = staticmethod(lambda config: f"seed {config.seed}")
    with pytest.raises(UserError, match="all 2 trials failed, the first: seed 0"):
        swept(texts, grid={"seed": [0, 1]})


def test_a_process_that_the_system_killed_is_a_failure_that_says_so(texts, processes):
    def at_poll(running):
        if 1 in running.running:
            running.signal(1, signal.SIGKILL)

    processes.at_poll = staticmethod(at_poll)
    found = swept(texts, grid={"seed": [0, 1, 2]})
    assert [trial.state for trial in found.trials] == ["finished", "failed", "finished"]
    assert "memory ran out" in found.trials[1].error


def test_pruning_ends_what_is_worse_than_others_were(texts, processes):
    processes.num_polls = 4
    rates = [6e-4, 7e-4, 8e-4, 9e-4, 1e-3, 1e-6, 1e-7, 1.1e-3]
    found = swept(texts, grid={"learning_rate": rates}, prune=True, jobs="1")
    states = [trial.state for trial in found.trials]
    assert states == ["finished"] * 5 + ["pruned", "pruned", "finished"]
    assert found.trials[5].pruned_at == 1
    assert not (found.trials[5].run / "checkpoints").exists()
    assert [trial.number for trial in found.groups[0].trials][-2:] == [5, 6]
    assert found.groups[0].best.number == 4


def judged_by_log_loss(monkeypatch, processes, seeds):
    """Let trainings of these seeds have validation texts of one class."""
    write, metrics = FakeProcesses._write, FakeProcesses._metrics

    def written(self, config, output, poll):
        write(self, config, output, poll)
        if config.seed in seeds:
            record = json.loads((output / "config.json").read_text())
            record["settings"]["best_metric"] = "log_loss"
            (output / "config.json").write_text(json.dumps(record))

    def judged(config):
        found = metrics(config)
        if config.seed in seeds:
            found["validation"] = {"log_loss": 0.2, "roc_auc": None, "num_texts": 40}
        return found

    monkeypatch.setattr(processes, "_write", written)
    monkeypatch.setattr(processes, "_metrics", staticmethod(judged))


@pytest.mark.parametrize("num_polls", [1, 3])
def test_a_search_never_looks_for_high_losses(texts, processes, monkeypatch, num_polls):
    """Validation texts of one class have no AUC: a training is judged by log_loss then."""
    processes.num_polls = num_polls
    judged_by_log_loss(monkeypatch, processes, [0])
    with pytest.raises(
        UserError, match=r"first 3 trials failed alike: it is judged by validation:log_loss, better when lower"
    ):
        swept(texts, space={"learning_rate": "log:1e-5..1e-1"}, num_trials=8, jobs="1")
    found = swept(
        texts, space={"learning_rate": "1e-5..1e-1"}, num_trials=2, metric="validation:log_loss", output="again"
    )
    assert [trial.value for trial in found.trials] == [0.2, 0.2]


def test_a_trial_that_is_judged_by_another_metric_is_not_put_beside_the_others(texts, processes, monkeypatch):
    judged_by_log_loss(monkeypatch, processes, [2])
    found = swept(texts, grid={"seed": [0, 1, 2, 3]}, prune=True, jobs="1")
    assert [trial.state for trial in found.trials] == ["finished", "finished", "failed", "finished"]
    assert "begin another sweep with --metric validation:log_loss" in found.trials[2].error


@pytest.mark.parametrize(
    ("settings", "minimizes"),
    [
        ({"grid": {"seed": [0, 1], "best_metric": ["log_loss"]}}, True),
        ({"grid": {"seed": [0, 1], "label_kind": ["regression"]}}, True),
        ({"trials": [{"best_metric": "brier", "seed": 1}, {"best_metric": "brier", "seed": 2}]}, True),
        ({"space": {"seed": "0..9", "label_kind": ["regression"]}, "num_trials": 2}, True),
        ({"space": {"seed": "0..9"}, "num_trials": 2, "label_kind": "regression", "best_metric": "r2"}, False),
        ({"space": {"seed": "0..9"}, "num_trials": 2, "best_metric": "log_loss", "metric": "f1"}, False),
    ],
)
def test_the_direction_is_that_of_the_metric_wherever_it_is_named(texts, settings, minimizes):
    asked = Asked({"train": texts, "model": "bert-tiny", "prune": True, **settings})
    assert is_minimized(asked.plan()) is minimizes


def test_hyperband_prunes_too(texts, processes):
    processes.num_polls = 9
    found = swept(
        texts, space={"learning_rate": "log:1e-7..1e-3"}, num_trials=24, pruner="hyperband", search="random", jobs="1"
    )
    assert found.count("pruned") > 0
    assert found.count("finished") > 0
    assert found.count("pruned") + found.count("finished") == 24


class Clock:
    """Time that passes only when somebody looks: so many seconds a poll."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch, processes):
    clock = Clock()
    monkeypatch.setattr(sweep_work.time, "monotonic", clock.monotonic)

    def at_poll(_):
        clock.now += 1.0

    processes.at_poll = staticmethod(at_poll)
    return clock


def test_no_trial_begins_that_would_overrun_the_budget(texts, processes, clock, capsys):
    processes.num_polls, processes.seconds = 10, 10.0
    found = swept(texts, grid={"seed": list(range(9))}, jobs="1", budget="35s", quiet=False)
    assert [trial.state for trial in found.trials] == ["finished"] * 3 + ["waiting"] * 6
    assert 28 <= found.seconds <= 35
    said = capsys.readouterr().err
    assert "the budget is spent, 6 trials are left" in said
    found = swept(texts, grid={"seed": list(range(9))}, jobs="1", budget="57s")
    assert found.count("finished") == 5


def test_at_the_bound_those_at_work_are_stopped(texts, processes, clock):
    processes.num_polls, processes.seconds = 10, 10.0
    found = swept(texts, grid={"seed": [0, 1]}, jobs="1", budget="6s")
    assert [trial.state for trial in found.trials] == ["stopped", "waiting"]
    assert 5 <= found.seconds <= 8
    found = swept(texts, grid={"seed": [0, 1]}, jobs="1")
    assert [trial.state for trial in found.trials] == ["finished"] * 2
    assert FakeProcesses.began == [0, 0, 1]


def test_a_budget_of_dollars(texts, processes, clock):
    processes.num_polls, processes.seconds = 10, 10.0
    found = swept(texts, grid={"seed": list(range(9))}, jobs="1", budget="0.01usd", usd_per_hour=1.0)
    assert found.count("finished") == 3
    assert 0.007 < found.usd <= 0.01


def test_dollars_of_trials_side_by_side_add_up_to_those_of_the_sweep(texts, processes, clock, capsys):
    processes.num_polls, processes.seconds, processes.usd_per_hour = 10, 10.0, 3.6
    found = swept(texts, grid={"seed": [0, 1, 2, 3]}, jobs="2", usd_per_hour=3.6, quiet=False)
    # a machine for 20 s, at 0.001 USD a second; a second each is for the token ids and the last look
    assert sum(trial.usd for trial in found.trials) == pytest.approx(0.020, abs=0.002)
    assert found.usd == pytest.approx(0.021, abs=0.003)
    assert [(round(trial.side_by_side), trial.threads) for trial in found.trials] == [(2, 1)] * 4
    run = bertwright.open_run(found.trials[0].run)
    assert run.result["cost"]["usd"] == found.trials[0].usd
    assert run.result["cost"]["usd_per_hour"] == pytest.approx(1.8, rel=0.1)
    said = " ".join(capsys.readouterr().out.split())
    assert "times are of 2 trials side by side, of 1 thread each: alone one may be faster; USD are each one's" in said
    alone = swept(texts, grid={"seed": [0, 1]}, jobs="1", usd_per_hour=3.6, output="alone", quiet=False)
    assert [trial.usd for trial in alone.trials] == pytest.approx([0.01, 0.01])
    assert "side by side" not in capsys.readouterr().out


def test_the_shared_tokenising_counts_as_spent(texts, processes, clock):
    processes.num_polls, processes.seconds = 10, 10.0
    processes.tokens_s = 20.0
    processes.passes = staticmethod(lambda seconds: setattr(clock, "now", clock.now + seconds))
    found = swept(texts, grid={"seed": list(range(9))}, jobs="1", budget="45s")
    assert found.count("finished") == 2
    assert 40 <= found.seconds <= 45


def test_a_search_without_a_number_ends_with_its_budget(texts, processes, clock):
    processes.num_polls, processes.seconds = 10, 10.0
    found = swept(texts, space={"learning_rate": "log:1e-5..1e-1"}, jobs="1", budget="45s")
    assert found.count("finished") == 4
    assert len(found.trials) == 4


def test_trials_without_validation_texts_are_shown_without_a_choice(texts, capsys):
    found = swept(texts, grid={"seed": [0, 1]}, test="texts.csv", quiet=False)
    assert found.groups[0].best is None
    said = capsys.readouterr().out
    assert "no trial was chosen: there are no validation texts to choose by" in " ".join(said.split())
    assert "0.6968" in said  # all are shown all the same
    assert "value" not in said
    main_of("sweep", "--show", "swept", "--metric", "test:accuracy")
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "best of 2 finished trials by test:accuracy: trial 0 (seed 0), 0.6968. It was chosen by the test texts" in said
    )


def test_a_metric_that_no_trial_has_is_said_by_name(texts, capsys):
    swept(texts, grid={"seed": [0, 1]}, test="texts.csv", validation_share=0.2)
    main_of("sweep", "--show", "swept", "--metric", "test:brier")
    said = " ".join(capsys.readouterr().out.split())
    assert "no trial was chosen: the trials have no test:brier; they have test:accuracy, test:roc_auc" in said
    assert "validation texts" not in said


def main_of(*arguments):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code


def test_the_table_has_the_accuracy_on_training_texts_too(texts, monkeypatch, processes, capsys):
    def judged(config):
        quality = {"accuracy": 0.75, "precision": 0.5, "recall": 0.8, "f1": 0.625, "macro_f1": 0.7, "roc_auc": 0.9}
        return {"train": {"accuracy": 0.8125}, "validation": quality, "test": quality}

    monkeypatch.setattr(processes, "_metrics", staticmethod(judged))
    swept(texts, grid={"seed": [0]}, test="texts.csv", validation_share=0.2, quiet=False, jobs="1")
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if "0.8125" in line)
    assert row == ["*", "0", "0.9000", "0.9000", "0.8125", "0.7500", "0.5000", "0.8000", "0.6250", "2.00", "s"]


def test_the_choice_is_by_validation_and_the_test_metrics_stand_beside_it(texts, capsys):
    swept(texts, grid={"seed": [0, 1]}, test="texts.csv", validation_share=0.2, quiet=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "best of 2 finished trials by validation:roc_auc: trial 0 (seed 0), 0.7968" in said
    assert "on the test texts, which had no part in it: roc_auc 0.7468, accuracy 0.6968 (50 texts)" in said


def test_the_command_line(texts, tmp_path, capsys):
    (tmp_path / "sweep.toml").write_text(
        'train = "texts.csv"\nmodel = "bert-tiny"\nepochs = 2\n[grid]\nseed = [0, 1]\nlearning_rate = [1e-3]\n'
    )
    arguments = ["sweep", "--config", "sweep.toml", "--grid", "seed=0,1,2", "--steps", "5", "--json", "--jobs", "1"]
    assert main_of(*arguments) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["sweep"] == "sweeps/texts"
    assert [trial["settings"] for trial in record["trials"]] == [
        {"learning_rate": 1e-3, "seed": seed} for seed in (0, 1, 2)
    ]
    assert record["groups"][0]["best"] == 0
    assert read_record(act.open_sweep("sweeps/texts").path)["plan"]["shared"]["steps"] == 5
    assert main_of("sweep", "texts.csv", "--grid", "seed=0,x") == 2
    assert capsys.readouterr().err.startswith("error: seed=x: --seed: found 'x'")


def test_a_folder_of_something_else_is_left_alone(texts, tmp_path):
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="exists and is not a sweep's folder"):
            swept(texts, grid={"seed": [0, 1]}, overwrite=overwrite)
    assert (tmp_path / "swept" / "mine.txt").read_text() == "mine"


def test_overwrite_begins_anew(texts):
    swept(texts, grid={"seed": [0, 1]})
    found = swept(texts, grid={"seed": [5]}, overwrite=True)
    assert [trial.settings for trial in found.trials] == [{"seed": 5}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": {"seeed": [0, 1]}}, "unknown setting 'seeed'"),
        ({"grid": {"seed": [0, "x"]}}, "--seed: found 'x'"),
        ({"grid": {"seed": [0, 1]}, "jobs": "many"}, "--jobs"),
        ({}, "nothing to vary"),
        ({"grid": {"seed": [0]}, "join": True}, "exclude each other"),
        ({"grid": {"seed": [5]}, "model": "bert-nosuch"}, "the texts cannot be used"),  # found out by the tokeniser
    ],
)
def test_overwrite_removes_nothing_before_the_new_sweep_is_known_to_be_good(texts, processes, settings, message):
    first = swept(texts, grid={"seed": [0, 1]})
    processes.makes_tokens = True
    with pytest.raises(UserError, match=message):
        swept(texts, overwrite=True, **settings)
    assert bertwright.open_sweep("swept").record() == first.record()
    assert not list(Path().glob(".swept*"))


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A URL in place of a server's: its studies lie in a file that is not the sweep's own."""
    monkeypatch.setattr(sweep_database, "storage_url", lambda _: f"sqlite:///{tmp_path / 'elsewhere.db'}")
    return "postgresql://me@host/studies"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": {"seed": [0, "x"]}}, "--seed: found 'x'"),
        ({"grid": {"seed": [5]}, "model": "bert-nosuch"}, "the texts cannot be used"),
    ],
)
def test_a_mistake_in_the_texts_costs_the_study_in_a_database(texts, database, processes, settings, message):
    first = swept(texts, grid={"seed": [0, 1]}, storage=database)
    processes.makes_tokens = True
    with pytest.raises(UserError, match=message):
        swept(texts, overwrite=True, storage=database, **settings)
    assert bertwright.open_sweep("swept", database).record() == first.record()
    processes.makes_tokens = False
    second = swept(texts, overwrite=True, storage=database, grid={"seed": [5]})
    assert [trial.settings for trial in second.trials] == [{"seed": 5}]
    assert not list(Path().glob(".swept*"))


def test_stopped_while_the_texts_are_read_overwrite_has_replaced_nothing(texts, database, processes, monkeypatch):
    first = swept(texts, grid={"seed": [0, 1]}, storage=database)

    def wait_for(self, number, check):
        os.kill(os.getpid(), signal.SIGTERM)
        check()

    monkeypatch.setattr(processes, "wait_for", wait_for)
    with pytest.raises(SystemExit):
        swept(texts, overwrite=True, storage=database, grid={"seed": [5]})
    assert bertwright.open_sweep("swept", database).record() == first.record()


def test_killed_while_the_texts_are_read_overwrite_mixes_no_studies(texts, database, processes, monkeypatch):
    swept(texts, grid={"seed": [0, 1]}, storage=database)
    with monkeypatch.context() as patched:
        patched.setattr(processes, "wait_for", lambda *_: 1 // 0)  # neither put back nor removed
        with pytest.raises(ZeroDivisionError):
            swept(texts, overwrite=True, storage=database, grid={"seed": [5]})
    with pytest.raises(UserError, match="is another one than that of swept"):
        swept(texts, storage=database, grid={"seed": [5]})
    found = swept(texts, overwrite=True, storage=database, grid={"seed": [5]})
    assert [trial.settings for trial in found.trials] == [{"seed": 5}]


def test_overwrite_leaves_a_study_alone_that_somebody_joins_while_the_texts_are_read(texts, database, processes):
    first = swept(texts, grid={"seed": [0, 1]}, storage=database)
    other = Store(Path("other"), database, "swept")
    other.find()
    claims = []

    def joined(_):
        other.put_in_line([Wanted("more", None, {"seed": 7}, {})])
        claims.append(other.claim())

    processes.at_poll = staticmethod(joined)
    with pytest.raises(RunError, match="take this sweep from a worker with --join"):
        swept(texts, overwrite=True, storage=database, grid={"seed": [5]})
    assert [trial.number for trial in bertwright.open_sweep("swept", database).trials] == [0, 1, 2]
    assert len(first.trials) == 2


def test_overwrite_leaves_the_study_of_that_name_in_another_database_alone(texts, tmp_path, monkeypatch):
    def url_of(given):
        return f"sqlite:///{tmp_path / given.rpartition('/')[2]}.db"

    monkeypatch.setattr(sweep_database, "storage_url", url_of)
    first, second = ("postgresql://me@host/first", "postgresql://me@host/second")
    theirs = swept(texts, grid={"seed": [0, 1]}, storage=second, study="swept", output="theirs")
    swept(texts, grid={"seed": [0, 1]}, storage=first)
    with pytest.raises(UserError, match="holds a sweep swept already"):
        swept(texts, grid={"seed": [5]}, storage=second, overwrite=True)
    assert bertwright.open_sweep("theirs", second).record() == theirs.record()
    assert len(bertwright.open_sweep("swept", first).trials) == 2


def test_texts_that_cannot_be_used_leave_no_study_in_a_database(tmp_path, texts, database, processes):
    processes.makes_tokens = True
    with pytest.raises(UserError, match="the texts cannot be used"):
        swept(texts, grid={"seed": [0, 1]}, storage=database, model="bert-nosuch")
    processes.makes_tokens = False
    assert len(swept(texts, grid={"seed": [0, 1]}, storage=database).trials) == 2


def test_overwrite_leaves_a_sweep_alone_that_others_work_on(texts, tmp_path):
    first = swept(texts, grid={"seed": [0, 1]})
    other = Store(tmp_path / "swept", None, "sweep")
    other.begin_work()
    try:
        with pytest.raises(RunError, match="take this sweep from a worker with --join"):
            swept(texts, grid={"seed": [5]}, overwrite=True)
    finally:
        other.end_work()
    assert bertwright.open_sweep("swept").record() == first.record()
    swept(texts, grid={"seed": [5]}, overwrite=True)


def test_overwrite_leaves_a_sweep_alone_that_others_give_signs_of_life_for(texts, tmp_path):
    """A worker at another folder: of its file nothing is seen here."""
    first = swept(texts, grid={"seed": [0, 1]})
    other = Store(tmp_path / "swept", None, "sweep")
    other.find()
    other.put_in_line([Wanted("more", None, {"seed": 7}, {})])
    claim = other.claim()
    with pytest.raises(RunError, match="take this sweep from a worker with --join"):
        swept(texts, grid={"seed": [5]}, overwrite=True)
    other.release(claim)
    assert len(bertwright.open_sweep("swept").trials) == len(first.trials) + 1
    swept(texts, grid={"seed": [5]}, overwrite=True)


@pytest.mark.parametrize("name", ["sweep.json", "study.db"])
def test_damaged_files_are_said_by_name(texts, tmp_path, name):
    swept(texts, grid={"seed": [0, 1]})
    (tmp_path / "swept" / name).write_bytes(b"\x00garbage{" * 100)
    with pytest.raises(RunError, match=name):
        bertwright.open_sweep("swept")


def test_a_sweep_of_a_damaged_study_may_be_replaced(texts, tmp_path):
    swept(texts, grid={"seed": [0, 1]})
    (tmp_path / "swept" / "study.db").write_bytes(b"\x00garbage{" * 100)
    assert len(swept(texts, grid={"seed": [5]}, overwrite=True).trials) == 1


def test_a_sweep_opens_where_torch_cannot_be_imported(texts):
    swept(texts, grid={"seed": [0, 1]})
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import bertwright\n"
        "found = bertwright.open_sweep('swept')\n"
        "assert found.groups[0].best.number == 0 and len(found.record()['trials']) == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
