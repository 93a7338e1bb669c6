"""Compiled layers: what can be tested without a GPU is, with PyTorch's own tracing of forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from bertwright.data.ragged import Ragged
from bertwright.data.resident import ResidentTexts, StaticShape
from bertwright.model import encoder as encoder_module
from bertwright.model.batch import pack
from bertwright.model.encoder import Encoder, ModelConfig
from bertwright.model.gpu_encoder import GpuEncoder, Work, is_small, why_not_compile
from bertwright.model.heads import TextClassifier

CPU = torch.device("cpu")


def shape(**changes) -> ModelConfig:
    return ModelConfig(
        **{
            "vocab_size": 100,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 512,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **changes,
        }
    )


def dense_attend(q, k, v, query_starts, key_starts, max_query, max_key, dropout, kernel):
    """Attention within texts as one masked product: for the varlen kernel, which only a GPU has."""
    assert kernel == "varlen"
    assert dropout == 0.0
    text_of_query = torch.searchsorted(query_starts[1:], torch.arange(q.shape[0]), right=True)
    text_of_key = torch.searchsorted(key_starts[1:], torch.arange(k.shape[0]), right=True)
    mask = text_of_query[:, None] == text_of_key[None, :]
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(encoder_module, "attend", dense_attend)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def texts(seed=0, lengths=(5, 9, 3, 20)):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 100, length) for length in lengths]


def encoders(graphs: bool, backend="aot_eager") -> tuple[Encoder, Encoder]:
    torch.manual_seed(0)
    plain = Encoder(shape())
    ours = Encoder(shape())
    ours.load_state_dict(plain.state_dict())
    ours.fast = GpuEncoder(ours, "varlen", graphs, backend, strict=True)
    return plain, ours


@pytest.mark.parametrize("only_first", [False, True])
def test_compiled_layers_equal_plain_ones_forward_and_backward(only_first):
    plain, ours = encoders(graphs=False)
    for layer in plain.layers:
        layer.attention.kernel = "varlen"
    batch = pack(texts())
    expected, found = plain(batch, only_first), ours(batch, only_first)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    grad = torch.randn(expected.shape)
    expected.backward(grad)
    found.backward(grad)
    for (name, one), (_, other) in zip(plain.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_a_new_number_of_tokens_or_texts_compiles_nothing_new():
    counter = CompileCounterWithBackend("aot_eager")
    _, ours = encoders(graphs=False, backend=counter)
    ours(pack(texts()), True).sum().backward()
    ours(pack(texts(1, (4, 8, 15, 16, 23))), True).sum().backward()
    after_two = counter.frame_count
    for seed in range(2, 6):
        lengths = np.random.default_rng(seed).integers(2, 40, 3 + seed)
        ours(pack(texts(seed, lengths)), True).sum().backward()
    assert counter.frame_count == after_two
    # The embeddings, a layer, and the last layer, which computes first tokens only: not one for each of four layers.
    assert after_two <= 5


def test_static_batches_compile_once_and_fillers_change_nothing():
    counter = CompileCounterWithBackend("aot_eager")
    plain, ours = encoders(graphs=True, backend=counter)
    for layer in plain.layers:
        layer.attention.kernel = "varlen"
    for seed in range(4):
        rows = texts(seed, np.random.default_rng(seed).integers(2, 20, 4))
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        resident = ResidentTexts(Ragged(np.concatenate(rows).astype(np.int32), starts, 0), CPU)
        found = ours(resident.batch(np.arange(4), StaticShape(4, 96)), True)
        torch.testing.assert_close(found[:4], plain(pack(rows), True), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
    # Batches of any shape, as in scoring, go layer by layer.
    torch.testing.assert_close(ours(pack(rows), True), plain(pack(rows), True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_classifier_leaves_fillers_out(pooling):
    model = TextClassifier(shape(), 3, pooling).eval()
    for layer in model.encoder.layers:
        layer.attention.kernel = "varlen"
    rows = texts()
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    resident = ResidentTexts(Ragged(np.concatenate(rows).astype(np.int32), starts, 0), CPU)
    expected = model(resident.batch(np.arange(4)))
    torch.testing.assert_close(model(resident.batch(np.arange(4), StaticShape(6, 64))), expected, atol=1e-5, rtol=1e-5)


def test_whether_compiling_pays_is_told_with_the_reason():
    tiny, base = Encoder(shape()), None
    assert "too little work" in why_not_compile(tiny, "varlen", Work(1_000_000, 400), training=True)
    assert "blocks" in why_not_compile(tiny, "blocks", Work(10**18, 1), training=True)
    assert "blocks" in why_not_compile(tiny, "blocks", None, training=True)
    assert why_not_compile(tiny, "varlen", Work(10**18, 1), training=True) is None
    assert why_not_compile(tiny, "varlen", Work(1_000_000, 31_250), training=True) is None
    assert why_not_compile(tiny, "varlen", None, training=True) is None
    assert is_small(tiny)
    with torch.device("meta"):
        base = Encoder(ModelConfig.of_size("bert-base", 30522))
    assert not is_small(base)
    # A million comments of 76 tokens; ten thousand.
    assert why_not_compile(base, "varlen", Work(76_000_000, 1_000), training=True) is None
    assert "too little work" in why_not_compile(base, "varlen", Work(760_000, 313), training=True)
