"""The ONNX graph computes what the torch model computes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from bertwright.errors import UserError
from bertwright.model import onnx as graphs
from bertwright.model.batch import flat_batch, pack
from bertwright.model.checkpoint import empty_model, initial_state
from bertwright.model.encoder import ModelConfig
from bertwright.model.heads import TextClassifier

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CONFIG = ModelConfig(
    vocab_size=97,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=56,
    max_position_embeddings=40,
    initializer_range=0.3,  # so that attention is not nearly uniform
)
LENGTHS = [1, 9, 3, 40, 9, 2, 17]


def random_model(pooling, num_labels=3, config=CONFIG, seed=1) -> TextClassifier:
    model = empty_model(config, num_labels, pooling)
    state = initial_state(model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():  # biases and norms that differ from 0 and 1
        if tensor.dim() == 1:
            state[name] = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
    model.load_state_dict(state, assign=True)
    return model.eval()


def numpy_state(model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def padded(sequences) -> dict[str, np.ndarray]:
    longest = max(map(len, sequences))
    ids = np.array([[*s, *[0] * (longest - len(s))] for s in sequences], dtype=np.int64)
    mask = np.array([[1] * len(s) + [0] * (longest - len(s)) for s in sequences], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def sequences_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(1, CONFIG.vocab_size, length) for length in lengths]


def our_logits(model, sequences) -> np.ndarray:
    with torch.inference_mode():
        return model(pack(sequences)).numpy()


def run(path, sequences, optimized=True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, padded(sequences))[0]


@pytest.mark.parametrize("only_first", [True, False])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_logits_equal_torch_for_padded_batches_of_mixed_lengths(tmp_path, pooling, only_first):
    model = random_model(pooling)
    graphs.save_graph(tmp_path / "graph.onnx", CONFIG, numpy_state(model), pooling, only_first)
    for lengths in (LENGTHS, [5], [40, 1], [7, 7, 7]):
        sequences = sequences_of(lengths)
        found = run(tmp_path / "graph.onnx", sequences)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, our_logits(model, sequences), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_models_of_few_layers(tmp_path, num_layers):
    config = CONFIG.model_copy(update={"num_hidden_layers": num_layers, "layer_norm_eps": 1e-5})
    model = random_model("first", 2, config)
    graphs.save_graph(tmp_path / "graph.onnx", config, numpy_state(model), "first")
    sequences = sequences_of(LENGTHS)
    np.testing.assert_allclose(run(tmp_path / "graph.onnx", sequences), our_logits(model, sequences), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_models_of_one_label(tmp_path, pooling):
    model = random_model(pooling, 1)
    graphs.save_graph(tmp_path / "graph.onnx", CONFIG, numpy_state(model), pooling)
    sequences = sequences_of(LENGTHS)
    found = run(tmp_path / "graph.onnx", sequences)
    assert found.shape == (len(LENGTHS), 1)
    np.testing.assert_allclose(found, our_logits(model, sequences), rtol=0, atol=1e-5)


def test_openvino_computes_the_same(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = random_model("first")
    graphs.save_graph(tmp_path / "graph.onnx", CONFIG, numpy_state(model), "first")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(tmp_path / "graph.onnx"), "CPU", settings)
    sequences = sequences_of(LENGTHS)
    np.testing.assert_allclose(compiled(padded(sequences))[0], our_logits(model, sequences), rtol=0, atol=1e-5)


def test_weights_in_8_bits_are_the_rounded_ones(tmp_path):
    model = random_model("first")
    state = numpy_state(model)
    graphs.save_graph(tmp_path / "graph.onnx", CONFIG, state, "first", int8_weights=True)
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "graph.onnx").graph.initializer}
    assert kinds["encoder.layers.0.attention.query.weight.T.int8"] == onnx.TensorProto.INT8
    assert kinds["classifier.linear.weight.T"] == onnx.TensorProto.FLOAT
    rounded = {}
    for name, value in state.items():
        if value.ndim == 2 and "embeddings" not in name and not name.startswith("classifier"):
            step = np.abs(value).max(axis=1, keepdims=True) / 127  # (outputs, 1)
            assert np.abs(value - np.round(value / step) * step).max() <= step.max() / 2 + 1e-7
            value = np.round(value / step) * step
        rounded[name] = torch.from_numpy(value)
    model.load_state_dict(rounded)
    sequences = sequences_of(LENGTHS)
    # Optimised, ONNX Runtime would round the activations to 8 bits too.
    found = run(tmp_path / "graph.onnx", sequences, optimized=False)
    np.testing.assert_allclose(found, our_logits(model, sequences), rtol=0, atol=1e-5)


def test_the_graph_passes_the_checker_and_says_its_shapes():
    graph = graphs.classifier_graph(CONFIG, numpy_state(random_model("first", 5)), "first").graph
    onnx.checker.check_model(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", graphs.OPSET)]))
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert shapes == {
        "input_ids": ["sequences", "tokens"],
        "attention_mask": ["sequences", "tokens"],
        "logits": ["sequences", 5],
    }


def test_large_weights_go_into_a_file_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST_BYTES", 1_000)
    model = random_model("mean")
    for _ in range(2):  # written anew, not behind what is there
        graphs.save_graph(tmp_path / "graph.onnx", CONFIG, numpy_state(model), "mean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.onnx", "graph.onnx.data"]
    assert (tmp_path / "graph.onnx.data").stat().st_size < 1.5 * sum(a.nbytes for a in numpy_state(model).values())
    sequences = sequences_of(LENGTHS)
    np.testing.assert_allclose(run(tmp_path / "graph.onnx", sequences), our_logits(model, sequences), rtol=0, atol=1e-5)


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'bertwright\[onnx\]'"):
        graphs.save_graph(tmp_path / "graph.onnx", CONFIG, numpy_state(random_model("first")), "first")
    assert not list(tmp_path.iterdir())


def test_segments_are_an_input_where_asked_for(tmp_path):
    model = random_model("first")
    graphs.save_graph(tmp_path / "graph.onnx", CONFIG, numpy_state(model), "first", segments=True)
    sequences, second_starts = sequences_of([9, 4, 12]), np.array([3, 2, 11])
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    given = padded(sequences)
    places = np.arange(12)
    given["token_type_ids"] = (places >= second_starts[:, None]).astype(np.int64) * given["attention_mask"]
    ids = np.concatenate(sequences)
    with torch.inference_mode():
        batch = flat_batch(ids, np.array([9, 4, 12]), second_starts=second_starts)
        expected = model(batch).numpy()
    np.testing.assert_allclose(session.run(None, given)[0], expected, rtol=0, atol=1e-5)
    given["token_type_ids"][:] = 0
    assert np.abs(session.run(None, given)[0] - expected).max() > 1e-3


def test_token_vectors_in_8_bits_are_the_rounded_ones(tmp_path):
    model = random_model("mean")
    state = numpy_state(model)
    graphs.save_graph(tmp_path / "graph.onnx", CONFIG, state, "mean", int8_tokens=True)
    name = "encoder.embeddings.token.weight"
    step = np.abs(state[name]).max(axis=1, keepdims=True) / 127  # (tokens of the vocabulary, 1)
    model.load_state_dict({**model.state_dict(), name: torch.from_numpy(np.round(state[name] / step) * step)})
    sequences = sequences_of(LENGTHS)
    np.testing.assert_allclose(run(tmp_path / "graph.onnx", sequences), our_logits(model, sequences), rtol=0, atol=1e-5)
    held = {tensor.name: tensor for tensor in onnx.load(tmp_path / "graph.onnx").graph.initializer}
    assert name not in held
    assert len(held[f"{name}.int8"].raw_data) == state[name].size
