"""Settings: validated when built, unknown ones refused with the nearest known."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from bertwright.config.base import build, read_config_file
from bertwright.config.evaluate import EvaluateConfig, PredictSettings
from bertwright.config.train import TrainConfig
from bertwright.errors import UserError
from bertwright.experiments.sweep_folder import Asked
from bertwright.experiments.sweep_plan import has_validation


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown setting 'learning_rat'; did you mean learning_rate\?"):
        build(TrainConfig, {"train": ("x",), "learning_rat": 1})
    with pytest.raises(UserError, match="the known ones are"):
        build(TrainConfig, {"train": ("x",), "zzzz": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", -1),
        ("hidden_dropout", 1.0),
        ("validation_share", 1.0),
        ("optimizer", "lion"),
        ("pooling", "max"),
        ("seed", -1),
        ("max_length", 2),
        ("epochs", "many"),
        ("epochs", math.inf),
        ("learning_rate", math.nan),
        ("label_threshold", math.inf),
        ("usd_per_hour", math.inf),
        ("steps", 100_000_001),
    ],
)
def test_values_out_of_range_are_one_line(name, value):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")) as caught:
        build(TrainConfig, {"train": ("x",), name: value})
    assert "\n" not in str(caught.value)
    assert repr(value) in str(caught.value)


def test_settings_are_frozen():
    config = build(TrainConfig, {"train": ("x",)})
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def test_files_are_read_or_refused(tmp_path):
    (tmp_path / "a.toml").write_text("epochs = 2\n")
    assert read_config_file(tmp_path / "a.toml") == {"epochs": 2}
    (tmp_path / "run.json").write_text('{"act": "train", "settings": {"seed": 1}}')
    assert read_config_file(tmp_path / "run.json") == {"seed": 1}
    for content in ("epochs = ", "\xff\xfe"):
        (tmp_path / "b.toml").write_bytes(content.encode("latin-1"))
        with pytest.raises(UserError, match=r"b\.toml: cannot be read"):
            read_config_file(tmp_path / "b.toml")
    for name, content in (
        ("huge.toml", "seed = " + "9" * 5000),
        ("huge.json", '{"seed": ' + "9" * 5000 + "}"),
        ("deep.json", "[" * 100_000),
        ("deep.toml", "seed = " + "[" * 100_000),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_config_file(tmp_path / name)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="found list"):
        read_config_file(tmp_path / "list.json")


EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.toml"))
TABLES = [path for path in EXAMPLES if path.stem.startswith("table-")]
TRAININGS = [path for path in EXAMPLES if path not in TABLES]


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_the_example_files_are_settings(path):
    config = build(TrainConfig, {"train": ("x.csv",), **read_config_file(path)}, str(path))
    assert config.model != TrainConfig.model_fields["model"].default


@pytest.mark.parametrize(("name", "number"), [("table-a", 4), ("table-b", 4), ("table-c", 18)])
def test_the_example_sweeps_are_plans(name, number, tmp_path, monkeypatch):
    (path,) = (path for path in TABLES if path.stem == name)
    monkeypatch.chdir(tmp_path)
    for file in re.findall(r'"([a-z0-9_]+/[a-z0-9_.-]+)"', path.read_text()):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    plan = Asked(read_config_file(path)).plan()
    assert len(plan.wanted) == number
    if name == "table-a":  # nothing is chosen by test texts
        assert plan.metric is None
        assert not has_validation(plan.trial_config(plan.wanted[0].settings))
    if name == "table-b":
        config = plan.trial_config(plan.wanted[0].settings)
        assert (config.test, config.validation_share) == (("imdb/test.parquet",), 0.2)
    if name == "table-c":
        configs = [plan.trial_config(wanted.settings) for wanted in plan.wanted]
        frozen = [config for config in configs if config.freeze_encoder]
        assert len(frozen) == 14
        assert not any(config.cache_features for config in frozen)
        assert {config.epochs for config in frozen} == {5, 10, 15}
        assert {config.batch_size for config in frozen} == {5, 8, 12, 20}


def test_the_examples_of_sentiment_are_those_of_the_report():
    by_name = {path.stem: build(TrainConfig, {"train": "x", **read_config_file(path)}) for path in TRAININGS}
    sizes, base = by_name["sentiment-sizes"], by_name["sentiment-base-adamax"]
    assert (sizes.optimizer, sizes.learning_rate, sizes.epsilon) == ("adam", 3e-5, 1e-8)
    assert (sizes.clip, sizes.max_grad_norm, sizes.batch_size, sizes.validation_share) == ("each", 1.0, 32, 0.2)
    assert (base.optimizer, base.learning_rate, base.batch_size, base.validation_share) == ("adamax", 5e-5, 16, 0.35)
    assert sizes.schedule == base.schedule == "constant"
    assert sizes.epochs == base.epochs == 1


def test_a_tilde_stands_for_the_home_wherever_a_path_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"train": "~/a.csv", "test": ["~/b.csv", "c.csv"], "output": Path("~/run"), "model": "~/m"}
    config = build(TrainConfig, given)
    home = str(tmp_path)
    assert (config.train, config.test) == ((f"{home}/a.csv",), (f"{home}/b.csv", "c.csv"))
    assert (config.output, config.model) == (f"{home}/run", f"{home}/m")
    config = build(EvaluateConfig, {"run": "~/run", "data": "hub:~/x", "output": "~"})
    assert (config.run, config.data, config.output) == (f"{home}/run", ("hub:~/x",), home)
    assert build(PredictSettings, {"output": "~zz.csv", "text_column": "~/t"}).model_dump(exclude_defaults=True) == {
        "output": "~zz.csv",
        "text_column": "~/t",
    }
    (tmp_path / "a.toml").write_text("epochs = 2\n")
    assert read_config_file("~/a.toml") == {"epochs": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freeze_encoder": True, "hidden_dropout": 0.5}, "--hidden-dropout 0.5 changes nothing in a frozen encoder"),
        ({"freeze_encoder": True, "attention_dropout": 0.1}, "--attention-dropout 0.1 changes nothing"),
        ({"max_grad_norm": 0, "clip": "each"}, "--max-grad-norm 0 turns off the clipping that --clip each asks for"),
    ],
)
def test_a_setting_that_another_turns_off_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        build(TrainConfig, {"train": "x", **values})


def test_a_recorded_setting_without_effect_is_taken():
    build(TrainConfig, {"train": "x", "freeze_encoder": True, "attention_dropout": 0.0, "hidden_dropout": None})
    build(TrainConfig, {"train": "x", "max_grad_norm": 0, "clip": "all"})


def test_class_weights_may_be_a_mapping(tmp_path):
    (tmp_path / "a.toml").write_text('train = "x"\n[class_weights]\nrude = 2.5\n"a b" = 1\n')
    assert build(TrainConfig, read_config_file(tmp_path / "a.toml")).class_weights == ("rude=2.5", "a b=1")
    assert build(TrainConfig, {"train": "x", "class_weights": {0: 1, 1: 3}}).class_weights == ("0=1", "1=3")
