"""What only the end of a text tells is learnt from windows, and from head and tail, not from the head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertwright.config.train import TrainConfig
from bertwright.data.ragged import Ragged, cut_to, starts_of
from bertwright.model.checkpoint import empty_model, initial_state
from bertwright.model.encoder import ModelConfig
from bertwright.progress import Reporter
from bertwright.training.learners import WholeModel, learner_logits
from bertwright.training.loop import fit
from bertwright.training.loss import CrossEntropy

CPU = torch.device("cpu")
QUIET = Reporter(quiet=True)
SHAPE = ModelConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
CLS, SEP, MARK = 1, 2, 7


def texts(num_texts=60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, starts and labels: a text is of class 1 if the mark stands near its end, behind all that one window holds.

    The marks of class 0 stand there too, but another one.
    """
    generator = np.random.default_rng(0)
    lengths = generator.integers(24, 60, num_texts)
    starts = starts_of(lengths)
    ids = generator.integers(10, 50, starts[-1])
    label_ids = generator.integers(0, 2, num_texts)
    ids[starts[:-1]], ids[starts[1:] - 1] = CLS, SEP
    ids[starts[1:] - 3] = MARK + label_ids
    return ids.astype(np.int32), starts, label_ids


def trained(ragged: Ragged, label_ids: np.ndarray, token_budget: int = 4_096, pooling="mean", epochs=20):
    model = empty_model(SHAPE, 2, "first")
    model.load_state_dict(initial_state(model, SHAPE, 0), assign=True)
    originals = dict(model.state_dict())
    model.window_pooling = pooling
    learner = WholeModel(model.compute_in(torch.float32), ragged, CPU, token_budget)
    config = TrainConfig(train=("texts.csv",), batch_size=10, epochs=epochs)
    outcome = fit(learner, CrossEntropy(label_ids), config, 3e-3, originals, None, "accuracy", lambda _: None, QUIET)
    logits = learner_logits(learner, np.arange(len(label_ids)), QUIET, "Scoring")
    return outcome, float((logits.argmax(axis=1) == label_ids).mean())


@pytest.mark.parametrize(
    ("policy", "overlap", "pooling"),
    [("windows", 0, "mean"), ("windows", 5, "max"), ("head+tail", 0, "mean")],
)
def test_the_end_of_texts_is_learnt_from(policy, overlap, pooling):
    ids, starts, label_ids = texts()
    outcome, accuracy = trained(cut_to(ids, starts, 16, policy, overlap), label_ids, pooling=pooling, epochs=30)
    assert outcome.losses[-5:].mean() < 0.3 < 0.6 < outcome.losses[:5].mean()
    assert accuracy > 0.9


def test_the_head_cannot_tell():
    """It does not hold the mark: with texts enough that none is learnt by heart, the loss stays that of guessing."""
    ids, starts, label_ids = texts(400)
    seen = cut_to(ids, starts, 16)
    assert not np.isin(seen.ids, [MARK, MARK + 1]).any()
    outcome, _ = trained(seen, label_ids, epochs=1)
    assert outcome.losses[-5:].mean() > 0.6


def test_how_a_batch_is_cut_changes_nothing():
    ids, starts, label_ids = texts()
    ragged = cut_to(ids, starts, 16, "windows", 5)
    whole, _ = trained(ragged, label_ids, epochs=2)
    parts, _ = trained(ragged, label_ids, token_budget=100, epochs=2)
    np.testing.assert_allclose(parts.losses, whole.losses, atol=1e-5)
    assert whole.num_tokens == parts.num_tokens == 2 * int(ragged.starts[-1])


def test_of_a_very_long_text_only_as_much_as_fits_is_learnt_from():
    ids, starts, label_ids = texts()
    ragged, num_limited = cut_to(ids, starts, 16, "windows").limited(48)
    assert num_limited > 0
    assert ragged.lengths.max() <= 48
    _, accuracy = trained(ragged, label_ids, token_budget=48, epochs=30)
    assert accuracy > 0.9  # the last window is among those that stay
