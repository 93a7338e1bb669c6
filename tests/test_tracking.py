"""Trackers get what a run records, and never cost a training."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path

import pytest

import bertwright
from bertwright import tracking
from bertwright.errors import UserError
from bertwright.progress import Reporter

LINE = {
    "step": 4,
    "epoch": 0.5,
    "train_loss": 0.25,
    "learning_rate": 1e-4,
    "validation": {"accuracy": 0.75, "f1": None},
}
RESULT = {
    "task": "single_label",
    "metrics": {"test": {"accuracy": 0.8, "num_texts": 10}},
    "seconds": {"train": 2.0},
    "rates": {},
    "memory": {"peak_process_bytes": 100, "peak_gpu_bytes": None},
    "cost": {"usd": None},
    "data": {"train_texts": 5},
}
LOGGED = {"epoch": 0.5, "train_loss": 0.25, "learning_rate": 1e-4, "validation/accuracy": 0.75}
FIGURES = {
    "metrics/test/accuracy": 0.8,
    "metrics/test/num_texts": 10.0,
    "seconds/train": 2.0,
    "memory/peak_process_bytes": 100.0,
}


class Recorder(types.ModuleType):
    """A library whose functions note how they were called."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.calls = []
        self.summary = types.SimpleNamespace(update=lambda values: self.calls.append(("summary", (values,), {})))

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*values, **named):
            self.calls.append((name, values, named))
            return self

        return call


@pytest.fixture
def library(monkeypatch):
    def install(name):
        module = Recorder(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


def track(name, output=Path("runs/comments")):
    with tracking.Tracking((name,), Reporter(quiet=True)) as followed:
        followed.begin(output, {"model": "bert-tiny", "seed": 3})
        followed.line(LINE)
        followed.result(RESULT)
        followed.line(LINE)  # after the end: nobody listens


def test_mlflow_gets_settings_lines_and_figures(library, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    mlflow = library("mlflow")
    track("mlflow")
    assert mlflow.calls == [
        ("set_experiment", ("bertwright",), {}),
        ("start_run", (), {"run_name": "comments"}),
        ("log_params", ({"model": "bert-tiny", "seed": "3"},), {}),
        ("log_metrics", (LOGGED,), {"step": 4}),
        ("log_metrics", ({"result/" + name: value for name, value in FIGURES.items()},), {}),
        ("end_run", (), {}),
    ]


def test_wandb_gets_settings_lines_and_figures(library, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    wandb = library("wandb")
    track("wandb")
    settings = {"model": "bert-tiny", "seed": 3}
    assert wandb.calls == [
        ("login", (), {"prompt": False}),
        ("init", (), {"project": "mine", "name": "comments", "dir": "runs/comments", "config": settings}),
        ("log", (LOGGED,), {"step": 4}),
        ("summary", ({"result/" + name: value for name, value in FIGURES.items()},), {}),
        ("finish", (), {}),
    ]


def test_trackio_gets_settings_lines_and_figures(library, monkeypatch):
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    trackio = library("trackio")
    track("trackio")
    settings = {"model": "bert-tiny", "seed": 3}
    assert trackio.calls == [
        ("init", (), {"project": "bertwright", "name": "comments", "config": settings, "embed": False}),
        ("log", (LOGGED,), {"step": 4}),
        ("log", ({"result/" + name: value for name, value in FIGURES.items()},), {}),
        ("finish", (), {}),
    ]


def test_tensorboard_writes_event_files(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track("tensorboard", tmp_path / "run")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {name for name in found.Tags()["scalars"] if not name.startswith("result/")} == set(LOGGED)
    (event,) = found.Scalars("validation/accuracy")
    assert (event.step, event.value) == (4, 0.75)
    assert found.Scalars("result/metrics/test/accuracy")[0].value == pytest.approx(0.8)
    assert "bert-tiny" in str(found.Tensors("settings/text_summary"))


def test_a_tracker_that_fails_is_said_once_and_left_out(monkeypatch, capsys):
    class Broken(Recorder):
        def init(self, **settings):
            return self

        def log(self, values, step):
            raise ConnectionError("no route to host\nmore")

    monkeypatch.setitem(sys.modules, "wandb", Broken("wandb"))
    reporter = Reporter(quiet=False)
    followed = tracking.Tracking(("wandb",), reporter)
    followed.begin(Path("runs/x"), {})
    followed.line(LINE)
    followed.line(LINE)
    followed.result(RESULT)
    said = capsys.readouterr().err
    assert said.count("--track wandb failed") == 1
    assert "no route to host" in said


def test_a_run_that_is_stopped_ends_for_its_trackers_too(library):
    mlflow = library("mlflow")

    def stopped():
        with tracking.Tracking(("mlflow",), Reporter(quiet=True)) as followed:
            followed.begin(Path("runs/x"), {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert mlflow.calls[-1] == ("end_run", (), {"status": "KILLED"})


def test_wandb_without_an_account_does_not_ask(library, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb = library("wandb")
    monkeypatch.setattr(wandb, "login", lambda prompt: False, raising=False)
    with tracking.Tracking(("wandb",), Reporter()) as followed:
        followed.begin(Path("runs/x"), {})
    assert wandb.calls == []
    assert "no account is known" in capsys.readouterr().err


def test_unknown_and_missing_trackers_are_refused(monkeypatch):
    with pytest.raises(UserError, match="found sacred, expected one of tensorboard, mlflow, wandb, trackio"):
        tracking.tracker_names(("sacred",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mlflow"):
        tracking.tracker_names(("mlflow",))
    assert tracking.tracker_names(()) == ()


def test_several_may_be_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert tracking.tracker_names(("wandb, mlflow", "wandb")) == ("wandb", "mlflow")


def test_a_training_is_followed_and_a_resumed_one_too(library, tmp_path, examples):
    mlflow = library("mlflow")
    run = bertwright.train(
        examples / "comments_train.csv",
        model="bert-tiny",
        steps=4,
        eval_every=2,
        output=tmp_path / "run",
        track="mlflow",
        quiet=True,
    )
    steps = [named["step"] for name, _, named in mlflow.calls if name == "log_metrics" and named]
    assert steps == [2, 4]
    assert mlflow.calls[-1][0] == "end_run"
    (settings,) = next(values for name, values, _ in mlflow.calls if name == "log_params")
    assert settings["steps"] == "4"
    (figures,) = mlflow.calls[-2][1]
    assert figures["result/metrics/validation/accuracy"] == run.metrics["validation"]["accuracy"]
    mlflow.calls.clear()
    (tmp_path / "run" / "result.json").unlink()
    bertwright.train(resume=True, output=tmp_path / "run", quiet=True)
    steps = [named["step"] for name, _, named in mlflow.calls if name == "log_metrics" and named]
    assert steps == [2, 4]
