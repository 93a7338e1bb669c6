"""The count of operations equals one by hand, and one of every product that torch makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bertwright.benchmarking.operations import forward_operations, training_operations
from bertwright.model.batch import pack
from bertwright.model.checkpoint import empty_model, initial_state
from bertwright.model.encoder import ModelConfig

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
)


def test_one_text_of_three_tokens_by_hand():
    # First layer, 3 tokens: q, k, v, o 4 x 2 x 3 x 8 x 8; feed-forward 2 x 2 x 3 x 8 x 16; attention 2 x 2 x 8 x 3 x 3.
    first = 1536 + 1536 + 288
    # Last layer: k, v 2 x 2 x 3 x 64; q, o 2 x 2 x 1 x 64; feed-forward 2 x 2 x 1 x 128; attention 2 x 2 x 8 x 3.
    last = 768 + 256 + 512 + 96
    head = 2 * 64 + 2 * 8 * 5
    assert forward_operations(CONFIG, np.array([3]), 5) == first + last + head
    assert training_operations(CONFIG, np.array([3]), 5) == 3 * (first + last + head)
    assert forward_operations(CONFIG, np.array([3]), 5, "mean") == 2 * first + 2 * 8 * 5


NARROW = CONFIG.model_copy(update={"model_type": "electra", "embedding_size": 4})


@pytest.mark.parametrize("config", [CONFIG, NARROW], ids=["bert", "electra"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_torch_counts_the_same_products(pooling, config):
    from bertwright.model.heads import TextClassifier

    model: TextClassifier = empty_model(config, 3, pooling)
    model.load_state_dict(initial_state(model, config, 0), assign=True)
    model.eval()
    for layer in model.encoder.layers:
        layer.attention.kernel = "plain"
    lengths = np.array([4, 7, 1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pack([np.full(length, 9) for length in lengths]))
    assert counter.get_total_flops() == forward_operations(config, lengths, 3, pooling)
