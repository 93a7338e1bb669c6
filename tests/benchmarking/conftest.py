"""Small models that several files of tests measure."""

from __future__ import annotations

import pytest

from bertwright.model.checkpoint import empty_model, initial_state, save_model
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.model.encoder import ModelConfig
from bertwright.model.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, minilm_folder):
    """A classifier of two narrow layers with a real vocabulary."""
    folder = tmp_path_factory.mktemp("tiny")
    config = ModelConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64
    )
    state = initial_state(empty_model(config, 2, "first"), config, 0)
    settings = ClassifierSettings(labels=("clean", "toxic"), max_length=64)
    save_model(folder, config, state, load_tokenizer(minilm_folder), settings)
    return folder
