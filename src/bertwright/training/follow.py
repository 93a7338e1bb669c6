"""What the other processes of a group do while the leading one trains: as they are told.

They read no files and write none. The leading process sends the model, what is to be made small, and the token ids;
after that each learns from its share of every batch, and scores its share of the texts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertwright import hardware
from bertwright.config.train import TrainConfig
from bertwright.data.batches import training_batches
from bertwright.data.ragged import Ragged
from bertwright.errors import UserError
from bertwright.model.heads import TextClassifier
from bertwright.progress import Reporter
from bertwright.training.distributed import Group, ProcessLost, Together, in_shares, is_launched
from bertwright.training.loop import (
    HeadOnEncoder,
    HeadOnFeatures,
    WholeModel,
    compute_features,
    fit,
    learner_logits,
    num_steps_of,
)
from bertwright.training.loss import Objective
from bertwright.training.prepare import Machine, Prepared
from bertwright.training.stop import Stop, StopNow

# What the leading process says.
LESSON, FIT, FEATURES, WEIGHTS, SCORE, DONE = "lesson", "fit", "features", "weights", "score", "done"
# The texts that are learnt from, beside the splits by name.
LEARNT = "learnt"


@dataclass(frozen=True)
class Lesson:
    """What a process needs to train along, but for the token ids."""

    config: TrainConfig
    model: TextClassifier
    objective: Objective
    dtype: torch.dtype

    @classmethod
    def of(cls, prepared: Prepared) -> Lesson:
        return cls(prepared.config, prepared.loaded.model, prepared.objective, prepared.machine.dtype)


def texts_of(prepared: Prepared) -> dict[str, Ragged]:
    """All token ids that are computed with, by name."""
    return {LEARNT: prepared.learnt, **{name: split.ragged for name, split in prepared.splits.items()}}


def learner_of(
    config: TrainConfig, model: TextClassifier, learnt: Ragged, device: torch.device, token_budget: int
) -> WholeModel:
    """What learns from the texts, with or without the encoder."""
    kind = HeadOnEncoder if config.freeze_encoder else WholeModel
    return kind(model, learnt, device, token_budget)


def validation_logits(judged: WholeModel | HeadOnFeatures, reporter: Reporter, group: Group) -> np.ndarray:
    """(texts, classes) float32 of all validation texts, of which each process computes its share."""

    def compute(rows: np.ndarray) -> np.ndarray:
        return learner_logits(judged, rows, reporter, "Validation")

    return in_shares(group, judged.lengths, compute)


def follow(group: Together, device_name: str) -> int:
    """Do what the leading process says, until it is done; returns the exit code of this process.

    What all processes find, such as a loss that is no number, the leading one says; what this one alone finds, it says.
    """
    device = hardware.choose_device(device_name)
    with Stop() as stop:
        try:
            with stop.deferred():
                _Follower(group, device, stop).run()
        except StopNow as signal:
            return signal.exit_code
        except ProcessLost:
            return 128 + (stop.requested or 0)
        except UserError as error:
            print(f"process {group.rank + 1} of {group.size}: {error}", file=sys.stderr)
            return 0 if is_launched() else 2
    return 0


class _Follower:
    def __init__(self, group: Together, device: torch.device, stop: Stop) -> None:
        self.group, self.device, self.stop = group, device, stop
        self.reporter = Reporter(quiet=True, results=False)
        self.lesson: Lesson
        self.texts: dict[str, Ragged]
        self.token_budget = 0

    def run(self) -> None:
        acts: dict[str, Callable[..., None]] = {
            LESSON: self._lesson,
            FIT: self._fit,
            FEATURES: self._features,
            WEIGHTS: self._weights,
            SCORE: self._score,
        }
        while True:
            word, *rest = self.group.hear(self.device)
            if word == DONE:
                return
            acts[word](*rest)

    def _lesson(self, lesson: Lesson) -> None:
        self.lesson, self.texts = lesson, self.group.share_texts(None)
        self.token_budget = Machine.of(lesson.config.model_copy(update={"device": str(self.device)})).token_budget
        # As they are before they are rounded: where the updates go.
        self.originals = dict(lesson.model.state_dict())
        self.model = lesson.model.to(self.device).compute_in(lesson.dtype, lesson.config.compile == "auto").train()

    def _fit(self) -> None:
        config, objective, model = self.lesson.config, self.lesson.objective, self.model
        if config.freeze_encoder:
            for parameter in model.encoder_parameters():
                parameter.requires_grad_(False)
        learnt, _ = self.texts[LEARNT].limited(self.token_budget)
        learner = learner_of(config, model, learnt, self.device, self.token_budget)
        num_steps = num_steps_of(config, len(learnt))
        learner.compile_for(training_batches(len(learnt), config.batch_size, config.seed, num_steps))
        evaluate: Callable[[], dict[str, Any]] | None = None
        if "validation" in self.texts:
            judged = WholeModel(model, self.texts["validation"], self.device, self.token_budget)

            def score() -> dict[str, Any]:
                validation_logits(judged, self.reporter, self.group)
                return {}

            evaluate = score

        fit(
            learner,
            objective,
            config,
            config.learning_rate or 0.0,
            self.originals,
            evaluate,
            config.best_metric or "",
            lambda line: None,
            self.reporter,
            None,
            self.stop,
            self.group,
        )

    def _features(self, name: str) -> None:
        ragged = self.texts[name]

        def compute(rows: np.ndarray) -> np.ndarray:
            part = ragged.take(rows)
            return compute_features(self.model, part, self.device, self.token_budget, self.reporter).cpu().numpy()

        in_shares(self.group, ragged.lengths, compute)

    def _weights(self, state: dict[str, Tensor]) -> None:
        """The weights that were kept, which texts are scored with."""
        self.model.load_state_dict(state)

    def _score(self, name: str, rows: np.ndarray | None) -> None:
        ragged = self.texts[name] if rows is None else self.texts[name].take(rows)
        scoring = WholeModel(self.model, ragged, self.device, self.token_budget)
        in_shares(self.group, ragged.lengths, lambda mine: learner_logits(scoring, mine, self.reporter, "Scoring"))
