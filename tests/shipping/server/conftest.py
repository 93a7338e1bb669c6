"""A small model with random weights, and a server of it."""

from __future__ import annotations

import pytest
import torch
from tests.shipping.server.asking import LABELS, Server

from bertwright.model.checkpoint import load_for_training, save_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a classifier in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    folder.mkdir()
    loaded = load_for_training("bert-tiny", LABELS, "first", 64, 0)
    generator = torch.Generator().manual_seed(0)
    state = loaded.model.state_dict()
    for tensor in state.values():
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    save_model(folder, loaded.model.config, state, loaded.tokenizer, loaded.settings)
    return folder


@pytest.fixture(scope="module")
def server(tiny_model):
    made = Server(str(tiny_model), "--dtype", "float32", "--compile", "off")
    yield made
    assert made.stop() == 0
