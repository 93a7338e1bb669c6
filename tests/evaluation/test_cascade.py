"""A cascade scores as its small model where that is sure, as its large one elsewhere; it trusts no folder."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from tests.evaluation.made_cascades import PAIRS, TEXTS, made_cascade

import bertwright
from bertwright.cli import main
from bertwright.data.texts import Texts
from bertwright.errors import CheckpointError, UserError
from bertwright.evaluation.cascade import Cascade
from bertwright.evaluation.score_texts import score_in_portions
from bertwright.evaluation.scores import scores_of

FLOAT32 = {"device": "cpu", "dtype": "float32"}


def parts_say(cascade: Cascade, texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the small model says on the large one's scale, what the large one says, and how sure the small one is."""
    logits = cascade.small.logits(cascade.small.tokenize(texts)).astype(np.float64)
    manifest = cascade.manifest
    small = scores_of(logits * np.array(manifest.slopes) + np.array(manifest.biases), cascade.settings.kind)
    several = cascade.settings.kind == "multi-label"
    sure = np.maximum(small, 1 - small).min(axis=1) if several else small.max(axis=1)
    return small, cascade.large.score(texts), sure


def in_the_widest_gap(sure: np.ndarray) -> float:
    """Between two texts near the middle: no text so near that rounding decides, whose answer it gets."""
    middle = np.sort(sure)[10:30]
    i = np.diff(middle).argmax()
    return float(middle[i : i + 2].mean())


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        (TEXTS, {}),
        (TEXTS, {"labels": ("no", "yes")}),
        (TEXTS, {"kind": "multi-label", "temperature": 2.0}),
        (PAIRS, {"pairs": True, "large": "bert"}),
    ],
    ids=["classes", "two", "multi-label", "pairs"],
)
def test_the_small_model_answers_where_it_is_sure(tmp_path, texts, settings):
    cascade = bertwright.load(made_cascade(tmp_path / "both", **settings), **FLOAT32)
    small, large, sure = parts_say(cascade, texts)
    middle = in_the_widest_gap(sure)
    cascade.manifest = cascade.manifest.model_copy(update={"sureness": middle})
    expected = np.where((sure < middle)[:, None], large, small)
    assert np.abs(small - large).max() > 0.1, "nothing to tell apart"
    found = cascade.score(texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert (cascade.num_texts, cascade.num_deferred) == (len(texts), (sure < middle).sum())
    alone = np.concatenate([cascade.score([text]) for text in texts[:6]])
    np.testing.assert_allclose(alone, expected[:6], rtol=0, atol=1e-5)
    portions = score_in_portions(cascade, texts, cascade.tokenize(texts), lambda _: None)
    np.testing.assert_allclose(portions, expected, rtol=0, atol=1e-5)
    assert [p.scores for p in cascade.predict(texts)] == [dict(zip(cascade.labels, row, strict=True)) for row in found]


def test_texts_may_be_columns(tmp_path):
    cascade = bertwright.load(made_cascade(tmp_path / "both"), **FLOAT32)
    expected = cascade.score(TEXTS)
    for texts in (Texts.of(TEXTS), pa.array(TEXTS), pa.chunked_array([TEXTS[:10], TEXTS[10:]])):
        np.testing.assert_allclose(cascade.score(texts), expected, rtol=0, atol=1e-6)


def test_decisions_are_those_of_the_large_model(tmp_path):
    folder = made_cascade(tmp_path / "both", 1.0, labels=("no", "yes"), threshold=0.9)
    cascade = bertwright.load(folder, **FLOAT32)
    large = bertwright.load(folder / "large", **FLOAT32)
    assert [p.label for p in cascade.predict(TEXTS)] == [p.label for p in large.predict(TEXTS)]
    assert cascade.num_deferred == len(TEXTS)
    never = bertwright.load(made_cascade(tmp_path / "small", 0.0), **FLOAT32)
    never.score(TEXTS)
    assert never.num_deferred == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("a", "c", "b")}, "has the labels a, c, b, .*large a, b, c; expected the same"),
        ({"kind": "multi-label"}, "of kind multi-label, .* of kind classes"),
        ({"pairs": True, "long_texts": "head", "window_overlap": 0}, "small judges pairs of texts, .*large single"),
        ({"kind": "regression", "labels": ("a",)}, "small: found a regression"),
    ],
)
def test_models_that_cannot_answer_for_each_other(tmp_path, settings, message):
    folder = made_cascade(tmp_path / "both", small_settings=settings)
    with pytest.raises(UserError, match=message):
        bertwright.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format"),
        ({"sureness": 1.5}, "sureness"),
        ({"sureness": None}, "sureness"),
        ({"slopes": [-1]}, "slopes"),
        ({"slopes": [1e300]}, "slopes"),
        ({"slopes": [1, 1]}, "found 2 slopes, expected 1"),
        ({"biases": []}, "biases"),
        ({"biases": [0, 1]}, "found 2 biases, expected 3"),
        ({"biases": [0, 1e999, 0]}, "biases"),
        ({"biases": [0, -1e300, 0]}, "biases"),
        ({"model": "../elsewhere"}, "unknown setting 'model'"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("7", "expected an object"),
        ("\udcff", "cannot be read as JSON"),
        ("9" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_hostile_manifest_is_refused_in_one_line(tmp_path, change, message, capsys):
    folder = tmp_path / "both"
    folder.mkdir()
    path = folder / "cascade.json"
    if isinstance(change, dict):
        if "slopes" in change or "biases" in change:
            folder.rmdir()
            made_cascade(folder)
        good = {"format": 1, "sureness": 0.5, "slopes": [1], "biases": [0, 0, 0], "deferred_share": 0.5}
        path.write_text(json.dumps(good | change))
    else:
        path.write_text(change, errors="surrogateescape")
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(folder), "--text", "a"])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said


def test_a_cascade_in_a_cascade_is_refused(tmp_path):
    folder = made_cascade(tmp_path / "both")
    (folder / "large" / "cascade.json").write_text("{}")
    with pytest.raises(CheckpointError, match="large: a cascade, expected one classifier"):
        bertwright.load(folder)
    (folder / "large" / "cascade.json").unlink()
    (folder / "small" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="small"):
        bertwright.load(folder)


def write_texts(path, labels=("a", "b", "c")) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, labels[i % len(labels)]] for i, text in enumerate(TEXTS))
    return str(path)


def test_it_is_judged_as_one_classifier(tmp_path, capsys):
    folder = made_cascade(tmp_path / "both")
    data = write_texts(tmp_path / "texts.csv")
    result = bertwright.evaluate(folder, data, output="judged", quiet=True, **FLOAT32)
    cascade = bertwright.load(folder, **FLOAT32)
    decided = [p.label for p in cascade.predict(TEXTS)]
    right = np.mean([label == "abc"[i % 3] for i, label in enumerate(decided)])
    assert result["metrics"]["test"]["accuracy"] == pytest.approx(right)
    judgement = result["judgement"]["calibration"]["test"]
    assert judgement["before"]["log_loss"] == pytest.approx(result["metrics"]["test"]["log_loss"])
    assert judgement["after"]["log_loss"] == pytest.approx(judgement["before"]["log_loss"])
    assert bertwright.open_run("judged").finished
    with pytest.raises(UserError, match="keeps the threshold and the scale of its large model"):
        bertwright.evaluate(folder, data, calibrate=True, output="x", quiet=True)
    with pytest.raises(SystemExit):
        main(["predict", str(folder), data, "--device", "cpu", "--dtype", "float32", "--output", "scored.csv"])
    assert f"{cascade.num_deferred} of 40 texts" in capsys.readouterr().err
    with open("scored.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == decided
    assert main_prints(["predict", str(folder), "--text", TEXTS[0], "--json"], capsys)["predicted"] == decided[0]


def main_prints(arguments, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code
    return json.loads(capsys.readouterr().out.splitlines()[-1])
