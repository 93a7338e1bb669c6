"""An exported graph scores as the classifier that it was made of: every family, every way to read texts; no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.random_classifiers import LONG, random_classifier
from tests.model.families import CASES

import bertwright
from bertwright.config.parts import ScoringMachineSettings
from bertwright.errors import CheckpointError, UserError
from bertwright.evaluation import graph_session
from bertwright.evaluation.graph_predictor import GraphPredictor, is_exported
from bertwright.evaluation.graph_session import GraphSession, pooled_windows
from bertwright.evaluation.load_scorer import load_scorer
from bertwright.evaluation.predictor import Predictor
from bertwright.shipping.export_onnx import write_graph

pytest.importorskip("onnxruntime")

FLOAT32 = ScoringMachineSettings(device="cpu", dtype="float32")


def both(tmp_path: Path, name: str = "bert", **settings) -> tuple[Predictor, GraphPredictor]:
    loaded = random_classifier(tmp_path / "weights", name, **settings)
    write_graph(tmp_path / "graph", loaded, "float32")
    return Predictor.from_loaded(loaded, FLOAT32), GraphPredictor.from_folder(tmp_path / "graph")


def assert_equal(exact: Predictor, graph: GraphPredictor, texts) -> None:
    ragged = exact.tokenize(texts)
    expected, found = exact.logits(ragged), graph.logits(graph.tokenize(texts))
    assert found.dtype == np.float32
    assert expected.std() > 0.01, "nothing to tell apart"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(graph.score(texts), exact.score(texts), rtol=0, atol=1e-4)
    decided, theirs = graph.predict(texts), exact.predict(texts)
    assert [(p.label, p.labels) for p in decided] == [(p.label, p.labels) for p in theirs]


@pytest.mark.parametrize("name", CASES)
def test_single_texts_of_every_family(tmp_path, name):
    exact, graph = both(tmp_path, name)
    assert not graph.session.takes_segments
    assert_equal(exact, graph, LONG)


@pytest.mark.parametrize("name", CASES)
def test_pairs_of_every_family(tmp_path, name):
    exact, graph = both(tmp_path, name, pairs=True)
    assert graph.session.takes_segments == CASES[name].segments
    pairs = [(LONG[i], LONG[-1 - i]) for i in range(len(LONG))]
    assert_equal(exact, graph, pairs)
    if CASES[name].segments:  # which text is the second one is told apart
        swapped = graph.score([(b, a) for a, b in pairs])
        assert np.abs(swapped - graph.score(pairs)).max() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"long_texts": "head+tail"},
        {"long_texts": "windows", "window_overlap": 6},
        {"long_texts": "windows", "window_pooling": "max"},
        {"kind": "multi-label", "threshold": (0.2, 0.5, 0.7), "temperature": 2.5},
        {"kind": "soft", "temperature": 0.5},
        {"kind": "regression", "labels": ("stars",)},
        {"labels": ("clean", "toxic"), "threshold": 0.8},
    ],
)
def test_every_way_to_read_and_to_decide(tmp_path, settings):
    assert_equal(*both(tmp_path, **settings), LONG)


def test_a_mean_over_tokens(tmp_path, minilm_folder):
    from bertwright.model.checkpoint import load_for_training

    loaded = load_for_training(str(minilm_folder), ("a", "b"), "mean", 64, 0)
    write_graph(tmp_path / "graph", loaded, "float32")
    texts = [*LONG, "You are a clown.", "What a lovely garden."]
    found = GraphPredictor.from_folder(tmp_path / "graph").score(texts)
    np.testing.assert_allclose(found, Predictor.from_loaded(loaded, FLOAT32).score(texts), rtol=0, atol=1e-4)


def test_a_text_scores_the_same_alone_or_in_company_whatever_the_budget(tmp_path):
    _, graph = both(tmp_path, long_texts="windows")
    together = graph.score(LONG)
    for text, row in zip(LONG, together, strict=True):
        np.testing.assert_allclose(graph.score([text])[0], row, atol=1e-5)
    graph.token_budget = 1
    np.testing.assert_allclose(graph.score(LONG), together, atol=1e-5)
    assert graph.score([]).shape == (0, 3)


def test_in_8_bits_it_is_smaller_and_close(tmp_path):
    loaded = random_classifier(tmp_path / "weights")
    for dtype in ("float32", "int8"):
        write_graph(tmp_path / dtype, loaded, dtype)
    exact, coarse = (GraphPredictor.from_folder(tmp_path / dtype) for dtype in ("float32", "int8"))
    assert (exact.session.dtype, coarse.session.dtype) == ("float32", "int8")
    assert (tmp_path / "int8" / "model.onnx").stat().st_size < 0.5 * (
        tmp_path / "float32" / "model.onnx"
    ).stat().st_size
    assert sorted(path.name for path in (tmp_path / "int8").iterdir()) == sorted(
        path.name for path in (tmp_path / "float32").iterdir()
    )
    differences = np.abs(exact.score(LONG) - coarse.score(LONG))
    assert 0 < differences.max() < 0.2


def test_load_takes_the_folder(tmp_path):
    exact, _ = both(tmp_path)
    found = load_scorer(str(tmp_path / "graph"))
    assert isinstance(found, GraphPredictor)
    assert isinstance(bertwright.load(tmp_path / "graph", dtype="float32", token_budget=100), GraphPredictor)
    assert isinstance(load_scorer(str(tmp_path / "weights"), FLOAT32), Predictor)
    assert "ONNX Runtime" in found.summary()
    np.testing.assert_allclose(found.score(LONG), exact.score(LONG), rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="--dtype: found 'bfloat16', but this graph was exported in float32"):
        bertwright.load(tmp_path / "graph", dtype="bfloat16")
    with pytest.raises(UserError, match="--device: found 'cuda', expected cpu"):
        bertwright.load(tmp_path / "graph", device="cuda")
    with pytest.raises(UserError, match="this classifier judges single texts"):
        found.predict([("a", "b")])
    assert not is_exported(tmp_path / "weights")
    assert not is_exported("x" * 5000)


def test_damaged_folders_are_refused(tmp_path, monkeypatch):
    both(tmp_path)
    graph = tmp_path / "graph"
    settings = (graph / "bertwright.json").read_text()
    (graph / "bertwright.json").write_text(settings.replace('"b",', '"b", "d",'))
    with pytest.raises(CheckpointError, match=r"3 logits, bertwright\.json 4 labels"):
        bertwright.load(graph)
    (graph / "bertwright.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        bertwright.load(graph)
    (graph / "bertwright.json").write_text(settings)
    monkeypatch.setattr(graph_session, "_INPUTS", {"input_ids"})
    with pytest.raises(CheckpointError, match="found inputs attention_mask, input_ids"):
        bertwright.load(graph)
    (graph / "model.onnx").write_bytes((graph / "model.onnx").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a graph that ONNX Runtime can load"):
        bertwright.load(graph)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'bertwright\[onnx\]'"):
        GraphSession(graph / "model.onnx")


@pytest.mark.parametrize("what", ["longer texts", "more ids"])
def test_files_that_do_not_belong_to_the_graph_are_said_when_it_computes(tmp_path, what):
    both(tmp_path)
    name = "bertwright.json" if what == "longer texts" else "tokenizer.json"
    values = json.loads((tmp_path / "graph" / name).read_text())
    if what == "longer texts":
        values["max_length"] = 5_000
    else:
        values["model"]["vocab"]["the"] = 99_999
    (tmp_path / "graph" / name).write_text(json.dumps(values))
    graph = GraphPredictor.from_folder(tmp_path / "graph")
    with pytest.raises(CheckpointError, match="does not belong to the tokenizer and settings beside it") as caught:
        graph.score(["the dog " * 1_000])
    assert "\n" not in str(caught.value)


def test_windows_are_pooled_as_in_torch():
    import torch

    from bertwright.model import heads

    logits = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    starts = np.array([0, 1, 5, 7])
    for pooling in ("mean", "max"):
        expected = heads.pooled_windows(torch.from_numpy(logits), torch.from_numpy(starts), pooling).numpy()
        np.testing.assert_allclose(pooled_windows(logits, starts, pooling), expected, atol=1e-6)


def test_loading_scoring_and_judging_need_no_torch(tmp_path):
    loaded = random_classifier(tmp_path / "weights", labels=("clean", "toxic"))
    write_graph(tmp_path / "graph", loaded, "float32")
    (tmp_path / "texts.csv").write_text("text,label\n" + "a woman in a film,clean\nthe dog,toxic\n" * 20)
    lines = [
        "import sys",
        "class Refuse:",
        "    def find_spec(self, name, path=None, target=None):",
        "        if name.split('.')[0] in ('torch', 'transformers'): raise ImportError(name + ' is refused')",
        "sys.meta_path.insert(0, Refuse())",
        "import bertwright",
        "assert len(bertwright.load('graph').predict(['a film', 'the dog'])) == 2",
        "from bertwright.cli import main",
        "calls = [['predict', 'graph', '--text', 'a film'],",
        "         ['predict', 'graph', 'texts.csv', '--output', 'scored.csv'],",
        "         ['evaluate', 'graph', 'texts.csv', '--output', 'judged'], ['bias', 'graph', 'texts.csv']]",
        "for call in calls:",
        "    try: main(call)",
        "    except SystemExit as stop: assert not stop.code, (call, stop.code)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert (tmp_path / "judged" / "result.json").is_file()
    assert len((tmp_path / "scored.csv").read_text().splitlines()) == 41
    with pytest.raises(UserError, match="an exported graph keeps its threshold"):
        bertwright.evaluate("graph", "texts.csv", calibrate=True, output="tuned")
