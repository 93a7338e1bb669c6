"""The benchmarks from end to end, small, with real peers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bertwright import train
from bertwright.benchmarking.bench import check_output
from bertwright.benchmarking.cases import length_grouped_sample, load_run, prepare_infer, sample, write_graphs
from bertwright.cli import main
from bertwright.config.base import build
from bertwright.config.bench import BenchInferConfig
from bertwright.errors import UserError
from bertwright.model.checkpoint import empty_model, initial_state, save_model
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.encoder import ModelConfig
from bertwright.model.tokenizer import load_tokenizer
from bertwright.progress import Reporter


def bench(capfd, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *map(str, arguments)])
    out, err = capfd.readouterr()
    assert stop.value.code == 0, err
    result = json.loads(out.splitlines()[-1])
    return {one["name"]: one for one in result["contenders"]}, result, out, err


def test_infer_with_peers(capfd, tmp_path, examples, tiny_model):
    pytest.importorskip("onnxruntime")
    names = ["transformers-float32", "onnxruntime-float32", "onnxruntime-int8", "bertwright-float32"]
    found, result, out, _ = bench(
        capfd,
        "infer",
        examples / "comments_test.csv",
        f"--model={tiny_model}",
        "--max-length=64",
        "--num-texts=40",
        "--batch-size=16",
        "--rounds=1",
        f"--contenders={','.join(names)}",
        "--usd-per-hour=1",
        f"--output={tmp_path / 'results' / 'infer.jsonl'}",
    )
    assert set(found) == {"bertwright", *names}
    assert not any(one["not_run"] for one in found.values())
    for name in ("transformers-float32", "onnxruntime-float32"):
        assert found[name]["largest_score_difference"] < 1e-5
    assert 0 < found["onnxruntime-int8"]["largest_score_difference"] < 0.01
    for one in found.values():
        rates = one["texts_per_s"]
        assert rates["min"] <= rates["median"] <= rates["max"]
        assert one["tokens_per_s"]["median"] == pytest.approx(rates["median"] * result["num_tokens"] / 40)
        expected = rates["median"] * result["useful_operations"] / 40 / result["peak_operations_per_s"]["median"]
        assert one["share_of_peak"] == pytest.approx(expected)
        assert one["peak_bytes"] > 1e7
        assert one["usd_per_million_texts"] == pytest.approx(1e6 / 3600 / rates["median"])
    assert found["bertwright"]["ours_is_times_as_fast"] == 1.0
    assert result["text_tokens"]["max"] <= 64
    assert "of peak" in out
    assert json.loads((tmp_path / "results" / "infer.jsonl").read_text()) == result


def test_graph_runtimes_score_several_batches_at_once(tmp_path, examples, tiny_model):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    from bertwright.benchmarking.peers import onnx_runtime, openvino

    settings = {"data": str(examples / "comments_test.csv"), "model": str(tiny_model), "device": "cpu"}
    config = build(BenchInferConfig, {**settings, "max_length": 64, "num_texts": 50, "batch_size": 8})
    case = replace(prepare_infer(config, tmp_path, Reporter(quiet=True)).case, num_threads=2)
    write_graphs(case, ["first", "all", "first-int8"])
    contenders = [
        onnx_runtime.Inference(case, batches_at_once=1),
        onnx_runtime.Inference(case, batches_at_once=2, graph="all"),
        onnx_runtime.Inference(case),
        openvino.Inference(case, hint="THROUGHPUT"),
        openvino.Inference(case),
        openvino.Inference(case, precision="int8", graph="first-int8"),
    ]
    for contender in contenders:
        assert contender.run().texts == 50
    logits = [contender.outcome()["logits"] for contender in contenders]
    for other in logits[1:5]:
        np.testing.assert_allclose(other, logits[0], rtol=0, atol=1e-5)
    assert 0 < np.abs(logits[5] - logits[0]).max() < 0.01


@pytest.mark.slow
def test_train_with_trainer(capfd, examples, tiny_model):
    pytest.importorskip("accelerate")
    found, result, _, err = bench(
        capfd,
        "train",
        examples / "comments_train.csv",
        f"--model={tiny_model}",
        "--max-length=64",
        "--num-texts=32",
        "--batch-size=16",
        "--rounds=1",
        "--contenders=trainer-best",
        "--json",
    )
    assert not any(one["not_run"] for one in found.values()), err
    assert result["num_texts"] == 32
    assert result["useful_operations"] > 0
    assert found["trainer-best"]["chosen"]["precision"] == "bfloat16_autocast"
    assert found["trainer-best"]["texts_per_s"]["median"] > 0
    assert "of peak" in err  # with --json the table goes to standard error


def test_tokenize_with_tokenizers_gives_identical_ids(capfd, examples):
    found, _, _, _ = bench(capfd, "tokenize", examples / "comments_test.csv", "--num-texts=50", "--rounds=1", "--peers")
    assert set(found) == {"bertwright", "bertwright-file", "tokenizers"}
    assert not any(one["not_run"] for one in found.values())
    assert all(one["identical_ids"] for one in found.values())
    assert found["tokenizers"]["bytes_per_s"]["median"] > 0


def test_unknown_contender_is_one_line_and_exit_code_2(capfd, examples):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "infer", str(examples / "comments_test.csv"), "--contenders=onnxruntime-int9"])
    assert stop.value.code == 2
    assert "did you mean onnxruntime-int8?" in capfd.readouterr().err


@pytest.mark.parametrize("output", ["file.txt/results.jsonl", "file.txt/"])
def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(capfd, tmp_path, examples, output):
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["bench", "infer", str(examples / "comments_test.csv"), f"--output={tmp_path}/{output}"])
    assert stop.value.code == 2
    said = capfd.readouterr().err
    assert "file.txt is a file" in said
    assert "preparing" not in said
    assert (tmp_path / "file.txt").read_text() == "mine"


def test_a_file_that_no_line_may_be_added_to_is_refused_too(tmp_path, monkeypatch):
    (tmp_path / "lines.jsonl").write_text("")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "lines.jsonl")  # the tests may run as root
    with pytest.raises(UserError, match=r"lines\.jsonl: no permission to add a line to it; name another file"):
        check_output(str(tmp_path / "lines.jsonl"))
    check_output(str(tmp_path / "others.jsonl"))


def test_length_grouped_sample_looks_like_the_whole():
    generator = np.random.default_rng(0)
    lengths = np.minimum(generator.geometric(1 / 76, 20_000) + 2, 220)
    rows = length_grouped_sample(lengths, 640, 32, 0)
    assert len(set(rows.tolist())) == 640
    assert abs(lengths[rows].mean() / lengths.mean() - 1) < 0.05
    batches = lengths[rows].reshape(20, 32)
    assert batches[0].max() == lengths[rows].max()
    padded_share = 1 - batches.sum() / (32 * batches.max(axis=1).sum())
    assert padded_share < 0.05
    assert len(length_grouped_sample(lengths[:10], 640, 32, 0)) == 10
    assert len(length_grouped_sample(lengths[:100], 640, 32, 0)) == 96


def test_sample_is_in_order_without_repeats():
    rows = sample(100, 10, 0)
    assert len(rows) == 10
    assert (np.diff(rows) > 0).all()
    assert sample(5, 10, 0).tolist() == [0, 1, 2, 3, 4]
    assert pc.sum(pc.binary_length(pa.chunked_array([["ä", "b"]]))).as_py() == 3


def test_labels_other_than_classes_are_refused(tmp_path, examples, minilm_folder):
    config = ModelConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    state = initial_state(empty_model(config, 1, "first"), config, 0)
    settings = ClassifierSettings(labels=("stars",), kind="regression", max_length=64)
    save_model(tmp_path / "m", config, state, load_tokenizer(minilm_folder), settings)
    values = {"data": str(examples / "comments_test.csv"), "run": str(tmp_path / "m")}
    with pytest.raises(UserError, match="found regression labels, expected classes"):
        prepare_infer(build(BenchInferConfig, values), tmp_path, Reporter(quiet=True))


def test_a_run_is_called_by_what_became_it(examples, tiny_model):
    run = train(examples / "comments_train.csv", model=str(tiny_model), max_length=64, steps=1, output="r", quiet=True)
    assert load_run(str(run.path)).description == f"{tiny_model}, trained on comments_train.csv"
    assert load_run(str(run.path / "model")).description.startswith("folder ")
