"""BERT in JAX equals PyTorch's, text by text and in padded batches."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from bertwright.data.ragged import Ragged
from bertwright.model.checkpoint import load_for_training, save_model

jax = pytest.importorskip("jax")
jax_bert = pytest.importorskip("bertwright.benchmarking.peers.jax_bert")
transformers = pytest.importorskip("transformers")


def ragged_texts(vocab_size, lengths=(1, 2, 31, 32, 33, 7)):
    """Padded ids and mask of random texts of ``lengths`` tokens."""
    generator = np.random.default_rng(0)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return generator.integers(1, vocab_size, mask.shape) * mask, mask


def of_transformers(folder, ids, mask):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()


def test_jax_equals_transformers_on_a_small_random_model(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40, initializer_range=0.3, num_labels=3,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    ids, mask = ragged_texts(97)
    weights, shape = jax_bert.load(tmp_path)
    compute = jax.jit(functools.partial(jax_bert.logits, shape=shape))
    found = np.asarray(compute(weights, ids, mask))
    expected = of_transformers(tmp_path, ids, mask)
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    alone = compute(weights, ids[5:6, :7], mask[5:6, :7])
    np.testing.assert_allclose(alone, expected[5:6], rtol=0, atol=1e-5)


def test_jax_equals_our_float32_on_the_real_minilm(tmp_path, minilm_folder):
    from bertwright.evaluation.load_scorer import load

    loaded = load_for_training(str(minilm_folder), ("a", "b", "c"), "first", 128, 0, None)
    save_model(tmp_path, loaded.model.config, loaded.model.state_dict(), loaded.tokenizer, loaded.settings)
    ids, mask = ragged_texts(30522, (1, 5, 77, 128))
    weights, shape = jax_bert.load(tmp_path)
    compute = jax.jit(functools.partial(jax_bert.logits, shape=shape))
    found = np.asarray(compute(weights, ids, mask))
    lengths = mask.sum(axis=1)
    ours = load(str(tmp_path), "cpu", "float32").logits(Ragged(ids[mask == 1], np.append(0, np.cumsum(lengths)), 0))
    assert ours.std(axis=0).max() > 1e-3
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found, of_transformers(tmp_path, ids, mask), rtol=0, atol=1e-4)


def test_other_families_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "electra"}')
    with pytest.raises(ValueError, match="model_type is electra, expected bert"):
        jax_bert.load(tmp_path)
