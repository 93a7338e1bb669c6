"""The loss curve of a tiny training, which the tests compare with. Run this file to write it anew, and say why.

A change of it means that the same seed no longer gives the same training: that belongs into the changelog.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import torch

from bertwright.config.train import TrainConfig
from bertwright.data.ragged import Ragged
from bertwright.model.checkpoint import empty_model, initial_state
from bertwright.model.encoder import ModelConfig
from bertwright.progress import Reporter
from bertwright.training.learners import WholeModel
from bertwright.training.loop import fit
from bertwright.training.loss import CrossEntropy

GOLDEN = Path(__file__).parent / "loss_curve.json"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "comments_train.csv"
SHAPE = ModelConfig(
    vocab_size=257,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=128,
    hidden_dropout_prob=0.0,  # random numbers may differ between builds of torch
    attention_probs_dropout_prob=0.0,
)


def losses() -> list[float]:
    """The losses of 40 steps in float32 on the first 64 demo comments, whose bytes serve as tokens."""
    with open(EXAMPLES, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:64]
    encoded = [np.frombuffer(row["text"].encode(), np.uint8)[:100].astype(np.int32) + 1 for row in rows]
    ragged = Ragged(np.concatenate(encoded), np.concatenate([[0], np.cumsum([len(e) for e in encoded])]), 0)
    label_ids = np.array([row["label"] == "toxic" for row in rows], dtype=np.int64)
    model = empty_model(SHAPE, 2, "first")
    model.load_state_dict(initial_state(model, SHAPE, seed=0), assign=True)
    config = TrainConfig(train=(str(EXAMPLES),), batch_size=16, steps=40, warmup_ratio=0.1)
    learner = WholeModel(model, ragged, torch.device("cpu"), token_budget=300)
    quiet = Reporter(quiet=True)
    outcome = fit(
        learner, CrossEntropy(label_ids), config, 3e-3, dict(model.state_dict()), None, "", lambda line: None, quiet
    )
    return outcome.losses.tolist()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps([round(loss, 7) for loss in losses()], indent=1) + "\n")
    print(GOLDEN.read_text())
