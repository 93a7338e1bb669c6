"""Pairs score as in transformers and learn as by the plain encoder; windows are pooled by their mean or maximum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from bertwright.model.batch import Batch, flat_batch
from bertwright.model.checkpoint import empty_model, initial_state
from bertwright.model.compiled import load_kernels
from bertwright.model.cpu_encoder import CpuEncoder
from bertwright.model.encoder import ModelConfig
from bertwright.model.heads import TextClassifier, pooled_windows
from bertwright.model.name_tables import BERT_CLASSIFIER, BERT_POOLER, NAMES

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    vocab_size=100,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=128,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
LENGTHS = np.array([9, 3, 64, 33, 20, 50])
SECOND_STARTS = np.array([4, 2, 40, 32, 2, 49])


def model_of(pooling="first", num_labels=3, kernels=True) -> TextClassifier:
    """Weights larger than BERT's, so that no mistake can hide."""
    model = empty_model(CONFIG, num_labels, pooling)
    generator = torch.Generator().manual_seed(0)
    state = initial_state(model, CONFIG, 0)
    state = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    model.compute_in(torch.float32, accelerate=kernels)
    if kernels and load_kernels().kernels is not None:
        assert isinstance(model.encoder.fast, CpuEncoder)
    return model.eval()


def batch_of(**more) -> Batch:
    ids = np.random.default_rng(0).integers(1, 100, LENGTHS.sum())
    return flat_batch(ids, LENGTHS, **more)


@pytest.mark.parametrize("kernels", [True, False])
def test_pairs_score_as_in_transformers(kernels):
    model = model_of(kernels=kernels)
    theirs = BertForSequenceClassification(
        BertConfig(**CONFIG.model_dump(exclude={"classifier_dropout"}), num_labels=3, attn_implementation="eager")
    )
    state = model.state_dict()
    prefix = "bert."
    renamed = {prefix + name: state[ours] for ours, name in NAMES["bert"].encoder(CONFIG.num_hidden_layers)}
    renamed |= {prefix + name: state[ours] for ours, name in BERT_POOLER}
    renamed |= {name: state[ours] for ours, name in BERT_CLASSIFIER}
    missing, extra = theirs.load_state_dict(renamed, strict=False)
    assert not extra
    assert not [name for name in missing if "position_ids" not in name and "token_type_ids" not in name]
    batch = batch_of(second_starts=SECOND_STARTS)
    padded = {name: torch.zeros(len(LENGTHS), 64, dtype=torch.long) for name in ("input_ids", "token_type_ids", "mask")}
    for i, (begin, length) in enumerate(zip(batch.seq_starts.tolist(), LENGTHS.tolist(), strict=False)):
        padded["input_ids"][i, :length] = batch.token_ids[begin : begin + length]
        padded["token_type_ids"][i, SECOND_STARTS[i] : length] = 1
        padded["mask"][i, :length] = 1
    with torch.no_grad():
        expected = theirs.eval()(
            input_ids=padded["input_ids"], token_type_ids=padded["token_type_ids"], attention_mask=padded["mask"]
        ).logits
        found = model(batch)
        single = model(batch_of())
    assert float((found - expected).abs().max()) < 1e-5
    assert float((found - single).abs().max()) > 0.01  # segments do count


@pytest.mark.skipif(load_kernels().kernels is None, reason="no C kernels here")
def test_the_segments_learn_as_by_the_plain_encoder():
    plain, ours = model_of(kernels=False), model_of()
    batch = batch_of(second_starts=SECOND_STARTS)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    for model in (plain, ours):
        torch.nn.functional.cross_entropy(model(batch), targets).backward()
    found = ours.cpu_encoder.gradients()
    for name in ("segment", "position", "norm"):
        expected = getattr(plain.encoder.embeddings, name).weight.grad
        assert float((found[f"embeddings.{name}.weight"] - expected).abs().max()) < 1e-5
    gradient = found["embeddings.segment.weight"]
    assert float(gradient[0].abs().max()) > 1e-3
    assert float(gradient[1].abs().max()) > 1e-3
    # Without pairs all of it is segment 0's.
    ours(batch_of()).sum().backward()
    assert not ours.cpu_encoder.gradients()["embeddings.segment.weight"][1].any()


TEXT_STARTS = np.array([0, 1, 4, 6])


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("window_pooling", ["mean", "max"])
@pytest.mark.parametrize("kernels", [True, False])
def test_windows_become_the_mean_or_maximum_of_their_logits(pooling, window_pooling, kernels):
    model = model_of(pooling, kernels=kernels)
    model.window_pooling = window_pooling
    with torch.no_grad():
        each = model(batch_of())
        found = model(batch_of(text_starts=TEXT_STARTS))
    assert found.shape == (3, 3)
    pool = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0)}[window_pooling]
    expected = torch.stack([pool(each[a:b]) for a, b in itertools.pairwise(TEXT_STARTS)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled_windows(each, torch.from_numpy(TEXT_STARTS), window_pooling), expected)
    assert torch.equal(found[0], each[0])  # one window is the text


def test_the_gradient_goes_to_the_windows_that_count():
    x = torch.tensor([[1.0, 5.0], [3.0, 2.0], [2.0, -7.0]], requires_grad=True)
    starts = torch.tensor([0, 2, 3])
    pooled_windows(x, starts, "max").sum().backward()
    assert x.grad.tolist() == [[0, 1], [1, 0], [1, 1]]
    x.grad = None
    pooled_windows(x, starts, "mean").sum().backward()
    assert x.grad.tolist() == [[0.5, 0.5], [0.5, 0.5], [1, 1]]
    negative = torch.tensor([[-3.0], [-2.0]])
    assert pooled_windows(negative, torch.tensor([0, 2]), "max").tolist() == [[-2.0]]


def test_there_are_no_features_for_the_maximum():
    model = model_of()
    model.window_pooling = "max"
    assert model.features(batch_of()).shape == (6, 64)
    with pytest.raises(ValueError, match="no features with window_pooling 'max'"):
        model.features(batch_of(text_starts=TEXT_STARTS))
