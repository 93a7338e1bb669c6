"""Threshold, temperature and bias of a training, of every kind of labels; stopped and gone on with; tuned again."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import bertwright
from bertwright.errors import DataError, UserError
from bertwright.evaluation import judgement
from bertwright.evaluation.calibration import calibration_of
from bertwright.evaluation.threshold import Goal, tune_threshold
from bertwright.model.checkpoint import empty_model, initial_state, save_model
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.encoder import ModelConfig
from bertwright.model.sources import find_folder
from bertwright.model.tokenizer import load_tokenizer
from bertwright.runs import VALIDATION_PREDICTIONS, RunWriter
from bertwright.training import learn, phases, record

WORDS = {"good": ["fine", "nice", "lovely", "great"], "bad": ["awful", "nasty", "dreadful", "vile"]}


def write(path, kind, num_texts=90, seed=0):
    """Texts whose words mostly tell their labels; groups beside them."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(num_texts):
        bad, loud = generator.random(2) < 0.4
        words = WORDS["bad" if bad != (generator.random() < 0.1) else "good"]
        text = f"{generator.choice(words)} {generator.choice(words)} day {number} {'NOW!' if loud else 'then'}"
        shares = np.clip(0.8 * bad + 0.1 + 0.1 * generator.random(2), 0, 1)
        labels = {
            "classes": {"label": "bad" if bad else "good"},
            "three": {"label": f"{'bad' if bad else 'good'}{' loud' if bad and loud else ''}"},
            "multi-label": {"bad": int(bad), "loud": int(loud)},
            "soft": {"label": round(shares[0], 3)},
            "regression": {"label": round(3 * shares[0], 3)},
        }[kind]
        rows.append({"text": text, **labels, "g": int(number % 3 == 0)})
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A model that trains in a moment."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = load_tokenizer(find_folder("all-MiniLM-L6-v2")[0])
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    model = empty_model(shape, 2, "first")
    settings = ClassifierSettings(labels=("a", "b"), max_length=16)
    save_model(folder, shape, initial_state(model, shape, 0), tokenizer, settings)
    return folder


@pytest.fixture(autouse=True)
def _model_is_tiny(tiny, monkeypatch):
    monkeypatch.setitem(DEFAULTS, "model", tiny)


def flat(metrics):
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


DEFAULTS = {"max_length": 16, "dtype": "float32", "steps": 30, "learning_rate": 1e-2, "validation_share": 0.3}
KINDS = {
    "classes": {},
    "three": {},
    "multi-label": {"label_column": ("bad", "loud")},
    "soft": {"label_kind": "soft"},
    "regression": {"label_kind": "regression"},
}


def small(folder, kind, output="run", **settings):
    if not (folder / f"{kind}.csv").exists():
        write(folder / f"{kind}.csv", kind, 160)
        write(folder / f"{kind}-test.csv", kind, 60, seed=1)
    values = {**DEFAULTS, "test": folder / f"{kind}-test.csv", "output": folder / output, "quiet": True}
    values |= {**KINDS[kind], **settings}
    return bertwright.train(folder / f"{kind}.csv", **{k: v for k, v in values.items() if v is not None})


@pytest.mark.parametrize("kind", ["classes", "soft", "multi-label"])
def test_what_is_settled_is_used_by_everyone(tmp_path, kind):
    run = small(tmp_path, kind, tune_threshold="f1", calibrate=True)
    judgement = run.result["judgement"]
    saved = json.loads((run.model_folder / "bertwright.json").read_text())
    temperature = judgement["temperature"]
    assert saved["temperature"] == temperature != 1
    value = judgement["threshold"]["value"]
    labels = run.result["labels"]
    assert saved["threshold"] == ([value[label] for label in labels] if kind == "multi-label" else value)
    assert judgement["threshold"] | {"value": 0, "reached": 0} == {
        "value": 0,
        "metric": "f1",
        "reached": 0,
        "tuned_on": "validation",
    }
    assert set(judgement["calibration"]) == {"validation", "test"}
    validation = judgement["calibration"]["validation"]
    assert validation["after"]["log_loss"] <= validation["before"]["log_loss"]
    # the scores of the validation texts are those that the threshold is the best of
    table = pq.read_table(run.path / VALIDATION_PREDICTIONS)
    for label in labels if kind == "multi-label" else labels[-1:]:
        if kind == "multi-label":
            truth = np.asarray(table[f"label_{label}"]) >= 0.5
        else:
            truth = np.array(table["label"].to_pylist()) == label
        tuned = tune_threshold(truth, np.asarray(table[f"score_{label}"]), Goal("f1"))
        assert tuned.value == (value[label] if kind == "multi-label" else value)
        assert tuned.reached == judgement["threshold"]["reached"][label]
    assert run.metrics["validation"]["num_texts"] == 48
    # another process that loads the run decides and scores alike
    kept = (
        {"label_column": ("bad", "loud")} if kind == "multi-label" else {"label_kind": "soft"} if kind == "soft" else {}
    )
    again = bertwright.evaluate(run.path, tmp_path / f"{kind}-test.csv", dtype="float32", quiet=True, **kept)
    assert flat(again["metrics"]["test"]) == pytest.approx(flat(run.metrics["test"]))
    assert again["judgement"]["temperature"] == temperature
    predicted = pq.read_table(run.path / "predictions.parquet").to_pylist()
    found = bertwright.load(str(run.path), dtype="float32").predict([row["text"] for row in predicted[:20]])
    for row, prediction in zip(predicted[:20], found, strict=True):
        assert (list(prediction.labels) if kind == "multi-label" else prediction.label) == row["predicted"]


def test_more_classes_have_a_temperature_and_no_threshold(tmp_path):
    run = small(tmp_path, "three", calibrate=True)
    judgement = run.result["judgement"]
    assert judgement["temperature"] != 1
    assert judgement["threshold"] == {"value": 0.5, "metric": None, "reached": None, "tuned_on": None}
    after = judgement["calibration"]["test"]["after"]
    assert after["log_loss"] == pytest.approx(run.metrics["test"]["log_loss"])


def test_without_being_asked_nothing_is_settled(tmp_path):
    judgement = small(tmp_path, "classes").result["judgement"]
    assert judgement["temperature"] == 1
    assert judgement["threshold"]["value"] == 0.5
    assert judgement["calibration"]["test"]["after"] is None
    assert judgement["calibration"]["test"]["before"]["num_scores"] == 60
    assert judgement["bias"] is None
    numbers = small(tmp_path, "regression", output="numbers").result["judgement"]
    assert numbers["calibration"] == {}


def test_the_record_follows_from_the_predictions(tmp_path):
    run = small(tmp_path, "classes", group_columns="g", calibrate=True)
    table = pq.read_table(run.path / "predictions.parquet")
    scores = np.stack([np.asarray(table[f"score_{label}"]) for label in ("bad", "good")], axis=1)
    targets = np.array([[label == "bad", label == "good"] for label in table["label"].to_pylist()], float)
    after = run.result["judgement"]["calibration"]["test"]["after"]
    found = calibration_of(np.log(scores), targets, "classes")
    assert found["expected_calibration_error"] == pytest.approx(after["expected_calibration_error"])
    (group,) = run.result["judgement"]["bias"]["groups"]
    assert (group["group"], group["texts"]) == ("g", 20)
    (again,) = bertwright.bias(run.path, quiet=True)["groups"]
    assert again.keys() == group.keys()
    for name, value in group.items():
        assert again[name] == (value if isinstance(value, str) else pytest.approx(value)), name


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("three", {"tune_threshold": "f1"}, "--tune-threshold: found 3 classes"),
        ("regression", {"tune_threshold": "f1"}, "--tune-threshold: found numbers to predict"),
        ("regression", {"calibrate": True}, "--calibrate: found numbers to predict"),
        ("classes", {"tune_threshold": "f1", "validation_share": 0}, "--tune-threshold needs validation texts"),
        ("classes", {"calibrate": True, "validation_share": 0}, "--calibrate needs validation texts"),
        ("classes", {"tune_threshold": "auc"}, "--tune-threshold auc: unknown"),
    ],
)
def test_what_cannot_be_settled_is_refused_before_any_work(tmp_path, kind, settings, message):
    with pytest.raises(UserError, match=message):
        small(tmp_path, kind, **settings)
    assert not (tmp_path / "run").exists()


def test_validation_texts_of_one_class_are_refused(tmp_path):
    (tmp_path / "good.csv").write_text("text,label\n" + "a fine day,good\n" * 5)
    with pytest.raises(UserError, match="the validation texts are all of one class"):
        small(tmp_path, "classes", tune_threshold="f1", validation=tmp_path / "good.csv", validation_share=None)


# --- stopped and gone on with ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """In place of a kill -9."""


def killed(*_, **__):
    raise Killed


def left(run):
    """What two runs must have in common."""
    model = {path.name: path.read_bytes() for path in sorted(run.model_folder.iterdir())}
    tables = [pq.read_table(run.path / name).to_pydict() for name in ("predictions.parquet", VALIDATION_PREDICTIONS)]
    return model, tables, run.result["judgement"], run.result["metrics"]


ASKED = {"tune_threshold": "recall=0.8", "calibrate": True}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    DEFAULTS["model"] = tiny
    return left(small(tmp_path_factory.mktemp("whole"), "classes", **ASKED))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (learn, "save_model"),
        (record, "settle"),
        (phases, "Settled"),
        (phases.runs, "fsync_folder"),
        (record, "write_predictions"),
        (record, "judgement_record"),
        (RunWriter, "result"),
    ],
)
def test_killed_at_any_moment_it_goes_on_to_the_same_end(tmp_path, monkeypatch, whole, owner, name):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            small(tmp_path, "classes", **ASKED)
    if name != "save_model" and name != "fsync_folder":
        monkeypatch.setattr(learn, "fit", killed)  # nothing is learnt again
    run = bertwright.train(resume=True, output=tmp_path / "run", quiet=True)
    assert left(run) == whole


def test_killed_between_the_old_settings_and_the_new_the_model_is_whole(tmp_path, monkeypatch, whole):
    real = phases.os.replace

    def replace(source, target):
        if str(target).endswith("model/bertwright.json"):
            if not done:
                raise Killed
            real(source, target)
            raise Killed
        real(source, target)

    for done in (False, True):
        output = f"run-{done}"
        with monkeypatch.context() as patch:
            patch.setattr(phases.os, "replace", replace)
            with pytest.raises(Killed):
                small(tmp_path, "classes", output, **ASKED)
        with monkeypatch.context() as patch:
            patch.setattr(learn, "fit", killed)
            assert left(bertwright.train(resume=True, output=tmp_path / output, quiet=True)) == whole


# --- tuned again -----------------------------------------------------------------------------------------------------


def test_a_finished_run_is_tuned_again_in_a_run_of_its_own(tmp_path):
    run = small(tmp_path, "classes")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    result = bertwright.evaluate(
        run.path,
        tmp_path / "classes-test.csv",
        tune_threshold="precision=0.8",
        calibrate=True,
        output=tmp_path / "tuned",
        dtype="float32",
        quiet=True,
    )
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    tuned = bertwright.open_run(tmp_path / "tuned")
    assert tuned.act == "evaluate"
    assert not result["metrics"]["test"]  # they are no test texts any more
    assert result["judgement"]["threshold"]["tuned_on"] == "validation"
    assert (tuned.model_folder / "model.safetensors").read_bytes() == (
        run.model_folder / "model.safetensors"
    ).read_bytes()
    saved = json.loads((tuned.model_folder / "bertwright.json").read_text())
    assert saved["threshold"] == result["judgement"]["threshold"]["value"]
    again = bertwright.evaluate(tuned.path, tmp_path / "classes-test.csv", dtype="float32", quiet=True)
    assert flat(again["metrics"]["test"]) == pytest.approx(flat(result["metrics"]["validation"]))


def test_what_is_not_tuned_again_stays(tmp_path):
    run = small(tmp_path, "classes", tune_threshold="recall=0.9", calibrate=True)
    before = run.result["judgement"]
    given = {"dtype": "float32", "quiet": True}
    data = write(tmp_path / "other.csv", "classes", 80, seed=5)
    tuned = bertwright.evaluate(run.path, data, tune_threshold="f1", output=tmp_path / "t", **given)["judgement"]
    assert tuned["temperature"] == before["temperature"]
    was = bertwright.evaluate(run.path, data, **given)["metrics"]["test"]
    mended = bertwright.evaluate(run.path, data, calibrate=True, output=tmp_path / "c", **given)
    assert mended["judgement"]["temperature"] != before["temperature"]
    assert mended["judgement"]["threshold"]["value"] != before["threshold"]["value"]
    assert mended["metrics"]["validation"]["confusion"] == was["confusion"]


def test_tuning_again_needs_a_place_and_two_classes(tmp_path):
    run = small(tmp_path, "classes")
    with pytest.raises(UserError, match="--tune-threshold makes a new classifier: name the folder"):
        bertwright.evaluate(run.path, tmp_path / "classes-test.csv", tune_threshold="f1")
    (tmp_path / "good.csv").write_text("text,label\n" + "a fine day,good\n" * 5)
    with pytest.raises(UserError, match="all of one class"):
        bertwright.evaluate(run.path, tmp_path / "good.csv", tune_threshold="f1", output=tmp_path / "t", quiet=True)
    assert not (tmp_path / "t").exists()


def test_labels_of_other_names_are_read_by_a_label_map(tmp_path):
    run = small(tmp_path, "classes")
    text = (tmp_path / "classes-test.csv").read_text()
    (tmp_path / "theirs.csv").write_text(text.replace(",bad,", ",BAD,").replace(",good,", ",NOT_BAD,"))
    given = {"label_map": "BAD=bad,NOT_BAD=good", "quiet": True}
    expected = bertwright.evaluate(run.path, tmp_path / "classes-test.csv", quiet=True)["metrics"]["test"]
    assert bertwright.evaluate(run.path, tmp_path / "theirs.csv", **given)["metrics"]["test"] == expected
    record = bertwright.bias(run.path, tmp_path / "theirs.csv", group_columns="g", min_group_texts=1, **given)
    assert record["groups"][0]["texts"] == 20
    with pytest.raises(DataError, match="BAD"):
        bertwright.evaluate(run.path, tmp_path / "theirs.csv", quiet=True)
    for bad, message in (("BAD", "expected THEIRS=OURS"), ("A=b,A=c", "A is given twice")):
        with pytest.raises(UserError, match=message):
            bertwright.evaluate(run.path, tmp_path / "theirs.csv", label_map=bad, quiet=True)


def test_a_temperature_that_cannot_be_found_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judgement, "fit_temperature", lambda *_: None)
    run = small(tmp_path, "classes", calibrate=True)
    assert run.result["judgement"]["temperature"] == 1
    assert "it stays 1\n" in capsys.readouterr().err
