"""What ``--recipe best`` says of settings that were not given. Torch is never imported here."""

from __future__ import annotations

from typing import Any, cast

from bertwright.config.distill import DistillConfig
from bertwright.config.parts import LongTexts
from bertwright.config.train import TrainConfig

# First values, from a few trainings judged on validation texts (docs/LOG.md).
_BEST: dict[str, Any] = {"epochs": 3.0, "average_weights": 0.5, "long_texts": "windows"}
_BEST_FROZEN: dict[str, Any] = {"epochs": 10.0, "pooling": "mean"}


def of_recipe(config: TrainConfig) -> dict[str, Any]:
    """What the recipe chooses; the learning rate follows from the model (``settings.resolve_late``)."""
    if config.recipe != "best":
        return {}
    chosen = _BEST_FROZEN if config.freeze_encoder else _BEST
    given = set(config.model_fields_set)
    if config.steps is not None or isinstance(config, DistillConfig):  # a student learns for many epochs anyway
        given.add("epochs")
    if config.pair_column is not None:
        given.add("long_texts")
    return {name: value for name, value in chosen.items() if name not in given}


def long_texts_of(config: TrainConfig) -> LongTexts:
    """How long texts are read, whether that was asked for or the recipe says so."""
    return cast(LongTexts, of_recipe(config).get("long_texts", config.long_texts))
