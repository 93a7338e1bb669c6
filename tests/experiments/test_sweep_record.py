"""Which trial is the best, mean and spread over seeds, groups by data set; claims, shares of a machine, flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertwright.errors import UserError
from bertwright.experiments.sweep_entries import entries_of
from bertwright.experiments.sweep_flags import axis_of, dimension_of
from bertwright.experiments.sweep_folder import with_flags
from bertwright.experiments.sweep_jobs import Side, budget_of
from bertwright.experiments.sweep_record import Sweep, Trial, shown_metrics
from bertwright.experiments.sweep_show import differing, sentence
from bertwright.experiments.sweep_url import storage_url, without_password


def trial(number, value, metric="validation:roc_auc", state="finished", data=None, **settings):
    return Trial(
        number=number,
        name=None,
        settings=settings,
        state=state,
        metric=metric,
        value=value,
        seconds=1.0,
        usd=None,
        run=Path(f"trials/{number:04d}"),
        data=data or {},
        metrics={"test": {"accuracy": (value or 0.0) / 2}} if state == "finished" else {},
    )


def sweep(*trials):
    return Sweep(Path("swept"), "sweep", {}, trials, "grid", 3.0, None)


def test_high_is_best_or_low_as_the_metric_has_it():
    trials = [
        trial(0, 0.2, seed=0),
        trial(1, 0.9, seed=1),
        trial(2, None, seed=2, state="failed"),
        trial(3, 0.5, seed=3),
    ]
    group = sweep(*trials).groups[0]
    assert [one.number for one in group.trials] == [1, 3, 0, 2]
    assert group.best.number == 1
    lossy = [trial(one.number, one.value, "validation:log_loss", one.state, **one.settings) for one in trials]
    assert sweep(*lossy).groups[0].best.number == 0


def test_mean_and_sample_standard_deviation_over_seeds():
    values = {0: 0.80, 1: 0.84, 2: 0.82}
    trials = [trial(seed, value, seed=seed, epochs=1) for seed, value in values.items()]
    trials += [trial(3, 0.95, seed=0, epochs=2), trial(4, 0.60, seed=1, epochs=2), trial(5, 0.99, seed=0, epochs=3)]
    first, second = sweep(*trials).groups[0].seeds
    assert (first.settings, first.mean) == ({"epochs": 1}, pytest.approx(0.82))
    assert first.sd == pytest.approx(0.02)
    assert second.mean == pytest.approx(0.775)
    assert second.sd == pytest.approx(0.2474874)
    assert first.test == {"accuracy": (pytest.approx(0.41), pytest.approx(0.01))}


def test_data_sets_are_ranked_apart():
    one, other = {"train": ["a.csv"]}, {"train": ["b.csv"]}
    trials = [trial(0, 0.9, data=one, seed=0), trial(1, 0.8, data=other, seed=0), trial(2, 0.7, data=one, seed=1)]
    groups = sweep(*trials).groups
    assert [(group.name, group.best.number) for group in groups] == [("a.csv", 0), ("b.csv", 1)]
    assert [seeds.mean for seeds in groups[0].seeds] == [pytest.approx(0.8)]
    assert groups[1].seeds == ()


def test_trials_judged_by_different_metrics_are_not_ranked():
    group = sweep(trial(0, 0.9, seed=0), trial(1, 0.8, "validation:accuracy", seed=1)).groups[0]
    assert group.best is None
    assert "judged by different metrics" in sentence(group)


def test_a_choice_without_test_texts_says_so():
    one = trial(0, 0.9, seed=0)
    one.metrics.clear()
    assert "there are no test texts to tell how good it is" in sentence(sweep(one).groups[0])


def test_a_record_is_json():
    record = json.loads(json.dumps(sweep(trial(0, 0.9, seed=0), trial(1, None, state="waiting", seed=1)).record()))
    assert record["trials"][0]["run"] == "trials/0000"
    assert record["groups"][0]["best"] == 0


def test_differing_settings():
    assert differing([trial(0, 0.1, seed=0, epochs=1), trial(1, 0.1, seed=1, epochs=1)]) == ["seed"]


# --- the study's trials -----------------------------------------------------------------------------------------------


class InStudy:
    def __init__(self, number, state, key="a", attempt=0, **attributes):
        from optuna.trial import TrialState

        self.number, self.state = number, getattr(TrialState, state)
        self.user_attrs = {"key": key, "number": ord(key) - ord("a"), "attempt": attempt, **attributes}


@pytest.mark.parametrize(
    ("trials", "state", "claimable", "must_wait"),
    [
        ([("WAITING", {})], "waiting", 0, False),
        ([("RUNNING", {})], "running", None, False),
        ([("FAIL", {})], "stopped", None, True),  # lost
        ([("FAIL", {}), ("WAITING", {})], "stopped", 1, False),
        ([("WAITING", {}), ("WAITING", {})], "waiting", 0, False),  # put in line twice: the first counts
        ([("RUNNING", {}), ("WAITING", {})], "running", None, False),
        ([("WAITING", {}), ("RUNNING", {})], "running", None, False),
        ([("COMPLETE", {}), ("WAITING", {})], "finished", None, False),
        ([("FAIL", {}), ("COMPLETE", {}), ("FAIL", {})], "finished", None, False),
        ([("PRUNED", {})], "pruned", None, False),
        ([("FAIL", {"error": "x"})], "failed", None, False),
        ([("FAIL", {"error": "x"}), ("WAITING", {})], "failed", None, False),  # in line from before it failed
        ([("FAIL", {"error": "x"}), ("WAITING", {"attempt": 1})], "waiting", 1, False),  # to be done again
        ([("FAIL", {"error": "x"}), ("FAIL", {"attempt": 1})], "stopped", None, True),
    ],
)
def test_what_a_trial_is_follows_from_all_times_that_it_was_taken_up(trials, state, claimable, must_wait):
    entry = entries_of([InStudy(number, kind, **more) for number, (kind, more) in enumerate(trials)])[0]
    assert (entry.state, entry.must_wait) == (state, must_wait)
    assert (None if entry.waiting is None else entry.waiting.number) == claimable


# --- flags, budgets, the machine --------------------------------------------------------------------------------------


def test_values_of_a_grid():
    assert axis_of("learning-rate=1e-3, 1e-4") == ("learning_rate", ["1e-3", "1e-4"])
    assert axis_of("hidden_dropout=default,0.2") == ("hidden_dropout", [None, "0.2"])
    assert axis_of('class_weights=[["balanced"], ["a=1", "b=2"]]') == ("class_weights", [["balanced"], ["a=1", "b=2"]])
    for wrong in ("seed", "seed=", "seed=1,,2", "=1", "seed=[1", "seed=[]"):
        with pytest.raises(UserError):
            axis_of(wrong)


def test_flags_replace_axes_of_the_file_by_name():
    values = {"grid": {"seed": [0, 1], "epochs": [1, 2]}, "steps": 3}
    found = with_flags(values, {"grid": ("seed=5",), "epochs": 4.0})
    assert found == {"grid": ("seed=5", "epochs=[1, 2]"), "epochs": 4.0}


@pytest.mark.parametrize("text", ["a=1..", "a=..2", "a=log:1..", "a=1..2:3", "a=1..2:0", "a=x", "a=1e999..2"])
def test_spaces_that_are_none(text):
    with pytest.raises(UserError):
        dimension_of(text)


def test_budgets():
    assert budget_of("90s", None).seconds == 90
    assert budget_of("1.5h", None).seconds == 5400
    assert budget_of("2usd", 4.0).left_s(0.0, 1.0, 4.0) == pytest.approx(900)
    assert budget_of(None, None).left_s(1e9, 0.0, None) == float("inf")
    for wrong in ("0m", "-1h", "5", "5 dollars", "nan m", "9" * 400 + "h"):
        with pytest.raises(UserError, match="--budget"):
            budget_of(wrong, 1.0)


def test_processors_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [Side(None, False, 8).threads(waiting) for waiting in (100, 8, 3, 1, 0)] == [1, 1, 2, 8, 8]
    assert Side(2, False, 8).threads() == 4
    assert Side(None, True, 8).most == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert Side(1, False, 8).threads() == 2


def test_as_many_trials_as_memory_holds():
    gib = 1 << 30
    side = Side(None, False, 4, trial_bytes=2 * gib)
    assert side.may_begin(0, 0, 0)  # one always
    assert side.may_begin(1, 0, 3 * gib)
    assert not side.may_begin(1, 1, 3 * gib)  # the other has not taken its memory yet
    assert not side.may_begin(1, 0, 2 * gib)
    assert not side.may_begin(4, 0, 100 * gib)
    assert Side(4, False, 4, trial_bytes=2 * gib).may_begin(3, 3, 0)  # as asked for


def test_urls_of_databases():
    assert storage_url("postgresql://me:pw@host:5432/db") == "postgresql+psycopg://me:pw@host:5432/db"
    assert storage_url("postgres://host/db") == "postgresql+psycopg://host/db"
    assert without_password("postgresql://me:p%40w@host/db?x=1") == "postgresql://me@host/db?x=1"
    with pytest.raises(UserError, match="expected postgresql"):
        storage_url("sqlite:///x.db")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://host/db?user=u&password=secret", "postgresql://host/db?user=u"),
        ("postgresql://host/db?password=secret", "postgresql://host/db"),
        ("postgresql://host/db?Ssl%50assword=secret&sslmode=require", "postgresql://host/db?sslmode=require"),
        ("postgresql://u:sec@ret@host/db", "postgresql://u@host/db"),
        ("postgresql://u:sec/ret@host/db", "postgresql://u@host/db"),
        ("postgresql://u:sec?ret@host/db", "postgresql://u@host/db"),
        ("postgresql://u:sec:ret@host:5432/db", "postgresql://u@host:5432/db"),
        ("postgresql://u@corp:secret@host/db", "postgresql://u@corp@host/db"),
        ("postgresql://u@host:5432/db?password=sec@ret", "postgresql://u@host:5432/db"),
        ("postgresql://u:secret@host/db?sslpassword=sec@ret", "postgresql://u@host/db"),
        ("postgresql://u:secret?password=secret@host/db", "postgresql://u"),
        ("postgresql://u:secret", "postgresql://u"),
        ("u:secret@host", "u@host"),
        ("host=h password='sec ret' user=u", "host=h user=u"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql://a:1,b:2/db?host=c", "postgresql://a:1,b:2/db?host=c"),
        ("sqlite:////tmp/study.db", "sqlite:////tmp/study.db"),
    ],
)
def test_no_password_is_shown(given, shown):
    assert without_password(given) == shown
    assert without_password(shown) == shown


def test_a_password_that_would_be_taken_for_the_host_is_refused_unseen():
    with pytest.raises(UserError, match="more than one @") as error:
        storage_url("postgresql://u:sec@ret@host/db")
    assert "ret" not in str(error.value)


# --- columns ----------------------------------------------------------------------------------------------------------


def quality(accuracy, f1=0.6, macro_f1=0.7):
    return {"accuracy": accuracy, "precision": 0.5, "recall": 0.8, "f1": f1, "macro_f1": macro_f1, "roc_auc": 0.9}


def test_train_accuracy_stands_beside_that_of_the_held_out_texts():
    metrics = [{"train": quality(0.9), "validation": quality(0.7), "test": quality(0.8)}]
    names = ["accuracy", "precision", "recall", "f1"]
    test = [("test", name) for name in names]
    assert shown_metrics(metrics, "validation:roc_auc") == [("test", "roc_auc"), ("train", "accuracy"), *test]
    assert shown_metrics(metrics, None) == [("train", "accuracy"), *test]
    metrics[0]["test"] = {}
    validation = [("validation", name) for name in names[1:]]
    assert shown_metrics(metrics, "validation:accuracy") == [("train", "accuracy"), *validation]


def test_columns_of_more_classes_and_of_numbers_are_few():
    metrics = [{"train": {}, "test": quality(0.8, 0.7, 0.7)}]
    assert shown_metrics(metrics, None) == [("test", "accuracy"), ("test", "macro_f1"), ("test", "roc_auc")]
    metrics = [{"train": {"r2": 0.1}, "test": {"r2": 0.2, "mean_squared_error": 1.0}}]
    assert shown_metrics(metrics, "validation:mean_squared_error") == [("test", "mean_squared_error"), ("test", "r2")]
    assert shown_metrics([{}, {"test": None}], None) == []
