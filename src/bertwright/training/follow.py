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
from bertwright.config.base import build
from bertwright.config.parts import LabelKind
from bertwright.config.train import TrainConfig
from bertwright.data.batches import training_batches
from bertwright.data.ragged import Ragged
from bertwright.errors import UserError
from bertwright.model.checkpoint import empty_model
from bertwright.model.encoder import ModelConfig
from bertwright.model.heads import HEAD_BIAS, TextClassifier
from bertwright.progress import Reporter
from bertwright.training.distributed import (
    Group,
    ProcessLost,
    Together,
    in_shares,
    is_end_told,
    own_share,
    tell_launcher,
)
from bertwright.training.learners import HeadOnEncoder, HeadOnFeatures, WholeModel, compute_features, learner_logits
from bertwright.training.loop import fit, num_steps_of
from bertwright.training.loss import objective_of
from bertwright.training.prepare import Prepared
from bertwright.training.settings import rerunnable
from bertwright.training.stop import Stop, StopNow

# What the leading process says.
LESSON, FIT, FEATURES, WEIGHTS, SCORE, DONE = "lesson", "fit", "features", "weights", "score", "done"


@dataclass(frozen=True)
class _Labels:
    """Those of the training texts; as ``LabelledTexts`` has them."""

    kind: LabelKind
    labels: tuple[str, ...]
    label_ids: np.ndarray | None
    targets: np.ndarray | None


def lesson_of(prepared: Prepared) -> dict[str, Any]:
    """What a process needs to train along, but for the token ids, as it can be sent."""
    texts, model = prepared.splits["train"].texts, prepared.loaded.model
    return {
        "settings": rerunnable(prepared.config),
        "shape": model.config.model_dump(mode="json"),
        "pooling": model.pooling,
        "window_pooling": model.window_pooling,
        "weights": model.state_dict(),
        "dtype": prepared.machine.dtype_name,
        "token_budget": prepared.machine.token_budget,
        "kind": texts.kind,
        "labels": texts.labels,
        "label_ids": texts.label_ids,
        "targets": texts.targets,
    }


def texts_of(prepared: Prepared) -> dict[str, Ragged]:
    """All token ids that are computed with, by split."""
    return {name: split.ragged for name, split in prepared.splits.items()}


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


def features_in_shares(
    group: Together, model: TextClassifier, ragged: Ragged, device: torch.device, token_budget: int, reporter: Reporter
) -> np.ndarray:
    """(texts, hidden) float32: what the classifier reads of every text, of which each process computes its share."""

    def compute(rows: np.ndarray) -> np.ndarray:
        return compute_features(model, ragged.take(rows), device, token_budget, reporter).cpu().numpy()

    return in_shares(group, ragged.lengths, compute)


def follow(group: Together, device_name: str) -> int:
    """Do what the leading process says, until it is done; returns the exit code of this process.

    What all processes find, such as a loss that is no number, the leading one says; what this one alone finds, it says.
    """
    device = hardware.choose_device(device_name)
    with Stop() as stop:
        try:
            with stop.deferred():
                return _Follower(group, device, stop).run()
        except StopNow as signal:
            return signal.exit_code
        except ProcessLost:
            if is_end_told():  # by the lost one: torchrun is to start nothing again
                return 0
            return 128 + (stop.requested or 0)
        except UserError as error:
            said = f"process {group.rank + 1} of {group.size}: {error}"
            if tell_launcher({"error": said}):  # the leading process, where it finds the same, tells it after this
                return 0
            print(f"error: {said}", file=sys.stderr)
            return 2


class _Follower:
    def __init__(self, group: Together, device: torch.device, stop: Stop) -> None:
        self.group, self.device, self.stop = group, device, stop
        self.reporter = Reporter(quiet=True, results=False)
        self.texts: dict[str, Ragged] = {}

    def run(self) -> int:
        """Until the leading process says that it is done; returns the exit code that it ends with.

        That of a mistake is everybody's: torchrun starts again what failed, and on all hosts or on none.
        """
        acts: dict[str, Callable[..., None]] = {
            LESSON: self._lesson,
            FIT: self._fit,
            FEATURES: self._features,
            WEIGHTS: self._weights,
            SCORE: self._score,
        }
        while True:
            word, *rest = self.group.hear()
            if word == DONE:
                return int(rest[0])
            acts[word](*rest)

    def _lesson(self, lesson: dict[str, Any]) -> None:
        self.texts = self.group.share_texts(None)
        self.config = config = build(TrainConfig, lesson["settings"])
        self.token_budget = lesson["token_budget"]
        arrays = [None if lesson[name] is None else lesson[name].numpy() for name in ("label_ids", "targets")]
        labels = _Labels(lesson["kind"], tuple(lesson["labels"]), *arrays)
        self.objective = objective_of(labels, config, self.device)
        # As they are before they are rounded: where the updates go.
        self.originals = lesson["weights"]
        model = empty_model(build(ModelConfig, lesson["shape"]), len(self.originals[HEAD_BIAS]), lesson["pooling"])
        model.load_state_dict(self.originals, assign=True)
        model.window_pooling = lesson["window_pooling"]
        dtype, _ = hardware.choose_dtype(lesson["dtype"], self.device)
        self.model = model.to(self.device).compute_in(dtype, config.compile == "auto").train()

    def _fit(self) -> None:
        config, objective, model = self.config, self.objective, self.model
        if config.freeze_encoder:
            for parameter in model.encoder_parameters():
                parameter.requires_grad_(False)
        learnt, _ = self.texts["train"].limited(self.token_budget)
        learner = learner_of(config, model, learnt, self.device, self.token_budget)
        num_steps = num_steps_of(config, len(learnt))
        batches = training_batches(len(learnt), config.batch_size, config.seed, num_steps)
        learner.compile_for(own_share(self.group, learner.lengths, rows) for rows in batches)
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
        features_in_shares(self.group, self.model, self.texts[name], self.device, self.token_budget, self.reporter)

    def _weights(self, state: dict[str, Tensor]) -> None:
        """The weights that were kept, which texts are scored with."""
        self.model.load_state_dict(state)

    def _score(self, name: str, rows: Tensor | None) -> None:
        ragged = self.texts[name] if rows is None else self.texts[name].take(rows.numpy())
        scoring = WholeModel(self.model, ragged, self.device, self.token_budget)
        in_shares(self.group, ragged.lengths, lambda mine: learner_logits(scoring, mine, self.reporter, "Scoring"))
