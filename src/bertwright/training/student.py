"""A student's side: the texts that it learns from, what it makes small, and what learns beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.config.distill import DistillConfig
from bertwright.config.train import TrainConfig
from bertwright.data.columns import LabelledTexts, read_labelled, read_unlabelled
from bertwright.data.ragged import Ragged, joined_ragged
from bertwright.data.split import alike_texts, same_token_ids
from bertwright.errors import DataError
from bertwright.model.heads import TextClassifier
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed
from bertwright.training.learners import WholeModel
from bertwright.training.loss import Objective
from bertwright.training.soft_targets import PROJECTION, Distillation, HiddenTargets, Lessons, soft_targets_of
from bertwright.training.teacher import (
    Teacher,
    check_labels,
    known_test_metrics,
    learnt_from_sha256,
    num_parameters,
    other_labels,
)


@dataclass(frozen=True)
class Teaching:
    """A teacher, the texts that it is asked about, and those of them that the student learns from.

    Attributes:
        sources: all labelled texts, also those held out for validation, and the unlabelled ones: so that another seed,
            with another split, finds the teacher's scores again.
        ragged: the student's token ids of the texts that it learns from, the labelled ones first.
        rows: (texts of ``ragged``,) int64, where each of these stands among all of ``sources``.
        num_left_out: unlabelled texts that are held-out texts too, and are not learnt from.
    """

    teacher: Teacher
    sources: list[LabelledTexts]
    ragged: Ragged
    rows: np.ndarray
    num_left_out: int = 0

    def objective(
        self, hard: Objective, lessons: Lessons, config: DistillConfig, device: torch.device | str
    ) -> Distillation:
        """What the student makes small: ``hard``, of its labelled texts, and what its teacher says."""
        return Distillation(
            hard,
            soft_targets_of(self.teacher.settings.kind, lessons.logits, config.temperature, hard, device),
            len(self.ragged),
            lessons.logits.shape[1],
            config.soft_weight,
            None if lessons.hidden is None else HiddenTargets(lessons.hidden, device),
            config.hidden_weight,
        )


def labelled_for(teacher: Teacher, config: TrainConfig) -> LabelledTexts:
    """The labelled texts to learn from, with the teacher's labels in its order.

    Raises:
        DataError: they cannot be read, or have other labels than the teacher.
    """
    settings = teacher.settings
    try:
        texts = read_labelled(config.train, config, settings.labels, settings.kind, as_in_training=True)
    except DataError as error:
        raise other_labels(error, teacher) from None
    check_labels(texts, teacher)
    return texts


def unlabelled_for(config: DistillConfig) -> LabelledTexts | None:
    """The texts to learn from without labels, if any are given.

    Raises:
        DataError: they cannot be read, or have no column of texts that can be told.
    """
    if not config.unlabelled:
        return None
    column = config.unlabelled_text_column or config.text_column
    try:
        return read_unlabelled(config.unlabelled, column, config.on_bad_row, config.pair_column)
    except DataError as error:
        named = "--unlabelled-text-column" in str(error) or "text" not in str(error)
        advice = "" if named else "; --unlabelled-text-column names that of unlabelled files alone"
        raise DataError(f"{str(error).rstrip('.')}{advice}") from None


def teaching_of(
    teacher: Teacher,
    given: LabelledTexts,
    train: LabelledTexts,
    train_ids: Ragged,
    unlabelled: LabelledTexts | None,
    unlabelled_ids: Ragged | None,
    held_out: Sequence[tuple[LabelledTexts, Ragged]],
    reporter: Reporter,
) -> Teaching:
    """What a student learns from: ``train``, some of ``given``, and ``unlabelled`` texts with their token ids.

    Unlabelled texts that are held-out ones are left out, and that is said: the student would learn what its teacher
    says of texts that it is judged on. Those are texts that look the same (``alike_texts``) and those that the student
    reads as the same: by its token ids, so that neither case nor unknown characters, nor an end that is cut off, hide
    them. ``held_out`` are texts with the student's token ids.
    """
    places = np.searchsorted(given.rows, train.rows)
    if unlabelled is None or unlabelled_ids is None:
        return Teaching(teacher, [given], train_ids, places)
    shared = np.zeros(len(unlabelled), bool)
    for texts, ids in held_out:
        shared |= alike_texts(texts, unlabelled) | same_token_ids(ids, unlabelled_ids)
    kept = np.flatnonzero(~shared)
    num_left_out = len(unlabelled) - len(kept)
    if num_left_out:
        reporter.say(f"unlabelled texts: {num_left_out:,} are left out, which are held-out texts too")
        unlabelled_ids = unlabelled_ids.take(kept)
    reporter.say(f"learning from {len(train):,} labelled and {len(kept):,} unlabelled texts")
    rows = np.concatenate([places, len(given) + kept])
    sources = [given, unlabelled]
    ragged = joined_ragged([train_ids, unlabelled_ids]) if len(kept) else train_ids
    return Teaching(teacher, sources, ragged, rows, num_left_out)


def say_teacher(
    teacher: Teacher,
    student: TextClassifier,
    train: LabelledTexts,
    unlabelled: LabelledTexts | None,
    validation: LabelledTexts | None,
    test: LabelledTexts | None,
    reporter: Reporter,
) -> None:
    """Who teaches, and what the user should know before they wait."""
    theirs, ours = teacher.num_parameters, num_parameters(student)
    reporter.say(f"teacher: {teacher.name}, {theirs:,} weights; the student has {ours:,}")
    if ours > theirs:
        reporter.say("the student is larger than its teacher: fine-tuning it alone may do as well")
    learnt = learnt_from_sha256(teacher.name)
    if unlabelled is None and (train.sha256 in learnt or learnt.issuperset(train.files_sha256)):
        reporter.say(
            "the teacher learnt from these texts, and says little more of them than their labels do: texts that it "
            "does not know (--unlabelled FILE) teach more"
        )
    if test is not None and not learnt.isdisjoint((test.sha256, *test.files_sha256)):
        reporter.warn(
            f"the teacher {teacher.name} learnt from the test files, or some of them: what is measured on them is too "
            "good. Pass others with --test"
        )
    if test is None and validation is not None and not learnt.isdisjoint((validation.sha256, *validation.files_sha256)):
        reporter.say(
            "the teacher learnt from the files that the validation texts are of: what it says of them, and so what is "
            "measured on them, may be too good. Pass texts that it does not know with --test"
        )


def teacher_record(teaching: Teaching, student: nn.Module, test: LabelledTexts | None) -> dict[str, Any]:
    """``teacher`` of result.json."""
    teacher = teaching.teacher
    return {
        "run": teacher.name,
        "model": teacher.loaded.description,
        "weights_sha256": teacher.weights_sha256,
        "num_weights": teacher.num_parameters,
        "student_num_weights": num_parameters(student),
        "metrics": {"test": known_test_metrics(teacher.name, None if test is None else test.sha256)},
    }


def unlabelled_record(teaching: Teaching, unlabelled: LabelledTexts | None) -> dict[str, Any]:
    """What ``data`` of result.json holds of unlabelled texts."""
    return {
        "unlabelled_texts": 0 if unlabelled is None else len(unlabelled) - teaching.num_left_out,
        "unlabelled_left_out": teaching.num_left_out,
        "unlabelled_sha256": None if unlabelled is None else unlabelled.sha256,
        "unlabelled_files_sha256": [] if unlabelled is None else list(unlabelled.files_sha256),
    }


class Student(WholeModel):
    """The whole model, and a projection of what its classifier reads to the teacher's width: both learn.

    The outputs are logits with the projected vectors behind them, (rows, labels + teacher's hidden) float32.
    """

    def __init__(
        self,
        model: TextClassifier,
        ragged: Ragged,
        device: torch.device,
        token_budget: int,
        teacher_hidden_size: int,
        seed: int,
    ) -> None:
        super().__init__(model, ragged, device, token_budget)
        width = model.config.hidden_size
        weight = torch.empty(teacher_hidden_size, width)
        generator = torch.Generator().manual_seed(purpose_seed(seed, "weights", PROJECTION))
        self._projection = nn.Parameter(weight.normal_(0.0, width**-0.5, generator=generator).to(device))

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [*super().named_parameters(), (PROJECTION, self._projection)]

    def logits(self, rows: np.ndarray) -> Tensor:
        features = self.model.features(self._texts.batch(rows, self._static))
        projected = nn.functional.linear(features.float(), self._projection)
        return torch.cat([self.model.classifier(features), projected], dim=1)
