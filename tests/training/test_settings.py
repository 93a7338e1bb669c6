"""Settings that follow from others."""

from __future__ import annotations

import pytest

from bertwright.config.train import TrainConfig
from bertwright.model.encoder import ModelConfig
from bertwright.progress import Reporter
from bertwright.training.settings import resolve_early, resolve_late


def test_a_recipe_chooses_what_is_not_given():
    def resolved(**settings):
        return resolve_early(TrainConfig(train=("a.csv",), test=("b.csv",), output="x", **settings))

    fast, best = resolved(), resolved(recipe="best")
    assert (fast.epochs, fast.average_weights, fast.long_texts) == (1, 0, "head")
    assert (best.epochs, best.average_weights, best.long_texts) == (3, 0.5, "windows")
    given = resolved(recipe="best", epochs=1, average_weights=0, long_texts="head")
    assert (given.epochs, given.average_weights, given.long_texts) == (1, 0, "head")
    assert resolved(recipe="best", steps=7).steps == 7
    assert resolved(recipe="best", steps=7).epochs == 1
    assert resolved(recipe="best", pair_column="second").long_texts == "head"
    frozen = resolved(recipe="best", freeze_encoder=True)
    assert (frozen.epochs, frozen.pooling, frozen.average_weights) == (10, "mean", 0)


def test_the_mean_is_read_where_the_model_has_no_pooler_and_nothing_else_is_asked_for():
    def pooling(model, **settings):
        return resolve_early(TrainConfig(train=("a.csv",), output="x", model=model, **settings)).pooling

    assert pooling("bertwright-tiny") == "mean"
    assert pooling("bertwright-tiny", pooling="first") == "first"
    assert pooling("all-MiniLM-L6-v2") == pooling("bert-tiny") == pooling("some/hub-name") == "first"


@pytest.mark.parametrize(
    ("settings", "hidden_size", "rate"),
    [
        ({}, 384, 1e-4),
        ({"recipe": "best"}, 384, 1e-4),
        ({"recipe": "best"}, 768, 2e-5),
        ({"recipe": "best", "freeze_encoder": True}, 384, 3e-2),
        ({"recipe": "best", "learning_rate": 3e-5}, 384, 3e-5),
    ],
)
def test_the_learning_rate_follows_recipe_and_width(settings, hidden_size, rate):
    config = resolve_early(TrainConfig(train=("a.csv",), test=("b.csv",), output="x", **settings))
    model = ModelConfig(hidden_size=hidden_size, num_attention_heads=12)
    assert resolve_late(config, model, None, Reporter(quiet=True)).learning_rate == rate
