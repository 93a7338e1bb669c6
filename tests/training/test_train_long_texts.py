"""Long texts and pairs from files to runs and back: trained, saved, loaded, scored in the same way."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import bertwright
from bertwright.config.parts import DataSettings
from bertwright.data import ragged as ragged_module
from bertwright.data.columns import read_labelled
from bertwright.errors import UserError
from bertwright.model.checkpoint import load_classifier

WINDOWS = {"long_texts": "windows", "window_overlap": 4, "window_pooling": "max"}
SMALL = {"model": "bert-tiny", "max_length": 16, "quiet": True, "device": "cpu", "dtype": "float32"}


def write(path, rows, header=("text", "label")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def comments(tmp_path):
    rows = [(f"word{i} " + "filler " * (i % 40) + f"end{i}", "odd" if i % 2 else "even") for i in range(60)]
    return write(tmp_path / "comments.csv", rows)


@pytest.mark.parametrize("policy", [WINDOWS, {"long_texts": "head+tail"}, {"long_texts": "windows"}], ids=str)
def test_a_run_keeps_how_long_texts_are_read(comments, tmp_path, policy):
    run = bertwright.train(comments, output=tmp_path / "run", test=comments, **SMALL, **policy)
    saved = json.loads((tmp_path / "run" / "model" / "bertwright.json").read_text())
    assert {name: saved[name] for name in policy} == policy
    assert load_classifier(str(run.path)).model.window_pooling == policy.get("window_pooling", "mean")
    data = run.result["data"]
    windows = policy["long_texts"] == "windows"
    assert (data["truncated_share"] > 0.3) == (not windows)
    assert (data["in_windows_share"] > 0.3) == windows
    predictor = bertwright.load(run.path, dtype="float32")
    texts = read_labelled(comments, DataSettings())
    again = predictor.score(texts.texts.to_pylist())
    import pyarrow.parquet as pq

    stored = pq.read_table(tmp_path / "run" / "predictions.parquet").column("score_odd").to_numpy()
    np.testing.assert_allclose(again[:, 1], stored, atol=1e-5)
    np.testing.assert_allclose(
        bertwright.evaluate(run.path, comments, quiet=True, dtype="float32")["metrics"]["test"]["log_loss"],
        run.metrics["test"]["log_loss"],
        atol=1e-5,
    )


def test_a_frozen_encoder_reads_windows_too(comments, tmp_path):
    run = bertwright.train(comments, output=tmp_path / "run", freeze_encoder=True, **SMALL, long_texts="windows")
    assert run.finished
    with pytest.raises(UserError, match="--window-pooling max needs the logits"):
        bertwright.train(comments, output=tmp_path / "other", freeze_encoder=True, **SMALL, **WINDOWS)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("most", [0, 1 << 28])
def test_a_folder_of_whole_texts_gives_the_same_windows(comments, tmp_path, monkeypatch, most):
    bertwright.tokenize(comments, tmp_path / "tokens", quiet=True, max_length=1_000)
    bertwright.tokenize(comments, tmp_path / "cut", quiet=True, max_length=16)
    expected = bertwright.train(comments, output=tmp_path / "run", **SMALL, **WINDOWS)
    monkeypatch.setattr(ragged_module, "MOST_IDS_IN_MEMORY_BYTES", most)
    found = bertwright.train(tmp_path / "tokens", output=tmp_path / "other", **SMALL, **WINDOWS)
    assert found.metrics == expected.metrics
    with pytest.raises(UserError, match="cut to 16 tokens, expected whole ones for --long-texts windows"):
        bertwright.train(tmp_path / "cut", output=tmp_path / "third", **SMALL, **WINDOWS)


def test_pairs_from_files_to_scores(tmp_path):
    rows = [(f"a{i % 7}", f"b{i % 5}", "yes" if i % 2 else "no") for i in range(40)]
    path = write(tmp_path / "pairs.csv", rows, ("text", "second", "label"))
    run = bertwright.train(path, pair_column="second", output=tmp_path / "run", test=path, **SMALL)
    predictor = bertwright.load(run.path, dtype="float32")
    assert predictor.settings.pairs
    import pyarrow.parquet as pq

    stored = pq.read_table(tmp_path / "run" / "predictions.parquet").column("score_yes").to_numpy()
    np.testing.assert_allclose(predictor.score([row[:2] for row in rows])[:, 1], stored, atol=1e-5)
    with pytest.raises(UserError, match="found single texts, expected pairs"):
        bertwright.evaluate(run.path, path, quiet=True)
    with pytest.raises(UserError, match="is for single texts, found pairs"):
        bertwright.train(path, pair_column="second", output=tmp_path / "other", **SMALL, **WINDOWS)
