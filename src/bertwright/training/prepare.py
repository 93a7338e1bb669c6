"""What a training needs before its first step: the machine, the texts with their token ids, the model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertwright import hardware
from bertwright.config.distill import DistillConfig
from bertwright.config.parts import MachineSettings
from bertwright.config.train import TrainConfig
from bertwright.data.columns import LabelledTexts, read_labelled
from bertwright.data.ragged import Ragged
from bertwright.data.split import split_validation
from bertwright.data.tokenize import how_read, token_ids_of
from bertwright.errors import DataError, UserError
from bertwright.evaluation.judge import say_notes
from bertwright.evaluation.judgement import check_asked
from bertwright.evaluation.predictor import check_pairs
from bertwright.evaluation.threshold import Goal
from bertwright.model.checkpoint import Loaded, load_for_training
from bertwright.progress import Reporter
from bertwright.training.loss import Objective, objective_of
from bertwright.training.phases import Inputs, Phases
from bertwright.training.resume import settings_that_count
from bertwright.training.settings import check_pairs_or_long_texts, dropouts_of, rerunnable, resolve_late
from bertwright.training.student import (
    Teaching,
    labelled_for,
    say_teacher,
    teaching_of,
    unlabelled_for,
)
from bertwright.training.teacher import Teacher, check_match_hidden, like_teacher, load_teacher
from bertwright.training.trace import weights_sha256


@dataclass(frozen=True)
class Machine:
    """Where and in what is computed."""

    device: torch.device
    dtype: torch.dtype
    dtype_reason: str
    token_budget: int

    @classmethod
    def of(cls, config: MachineSettings) -> Machine:
        device = hardware.choose_device(config.device)
        dtype, reason = hardware.choose_dtype(config.dtype, device)
        return cls(device, dtype, reason, hardware.token_budget(config.token_budget, device))

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Sources:
    """All texts of the training files, those of them to learn from, and validation and test texts if there are any.

    ``unlabelled`` are those that a student learns from by its teacher's scores alone.
    """

    given: LabelledTexts
    train: LabelledTexts
    validation: LabelledTexts | None
    test: LabelledTexts | None
    unlabelled: LabelledTexts | None = None

    def by_name(self) -> dict[str, LabelledTexts]:
        """The texts of each purpose that there are any for."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: texts for name, texts in named.items() if texts is not None}


@dataclass(frozen=True)
class Split:
    """Texts of one purpose with their token ids."""

    texts: LabelledTexts
    ragged: Ragged


@dataclass(frozen=True)
class Prepared:
    """All that a training begins with.

    Attributes:
        config: the settings, those resolved that depend on the model and the data.
        splits: texts with their token ids, by purpose: "train", "validation", "test".
        originals: the model's float32 weights by name, which training updates in place.
        initial_weights_sha256: their hash before that.
        tokenize_s: seconds that tokenising took, in this part of the run.
        goal: what the threshold is to be tuned for, if it is.
        teaching: of a student, its teacher and the texts that it is asked about.
    """

    config: TrainConfig
    machine: Machine
    sources: Sources
    splits: dict[str, Split]
    loaded: Loaded
    objective: Objective
    originals: dict[str, Tensor]
    initial_weights_sha256: str
    inputs: Inputs
    tokenize_s: float
    goal: Goal | None = None
    teaching: Teaching | None = None

    @property
    def learnt(self) -> Ragged:
        """The token ids of all texts that are learnt from."""
        return self.splits["train"].ragged if self.teaching is None else self.teaching.ragged

    @property
    def held_out(self) -> str | None:
        """The split that the model is judged on: test, else validation, else None."""
        return next((name for name in ("test", "validation") if name in self.splits), None)


def prepare(
    config: TrainConfig, machine: Machine, phases: Phases, reporter: Reporter, num_processes: int = 1
) -> Prepared:
    """Read the texts, load the model, tokenise, for a training by ``num_processes``. Nothing is written.

    Raises:
        UserError: texts or a model that cannot be used, or others than those that a run began with that goes on.
    """
    teacher: Teacher | None = None
    if isinstance(config, DistillConfig):
        teacher = load_teacher(config.teacher)
        config = like_teacher(config, teacher.settings)
        advice = "Train a teacher with --pooling mean or --long-texts head"
        check_match_hidden(config, f"the teacher {teacher.name}", teacher.loaded, teacher.settings.long_texts, advice)
    started = time.perf_counter()
    sources = _read(config, teacher, reporter)
    phases.spent("read", time.perf_counter() - started)
    goal = check_asked(config, sources.validation)
    objective = objective_of(sources.train, config, machine.device)
    loaded = _load(config, sources.train)
    if not loaded.head_is_new:
        loaded.model.load_state_dict(objective.scale(loaded.model.state_dict()))
    config = resolve_late(config, loaded.model.config, sources.validation, reporter)
    _say_model(loaded, reporter)
    originals = dict(loaded.model.state_dict())
    initial_weights = weights_sha256(originals)  # now: they are updated in place
    inputs = _inputs(config, loaded, sources, initial_weights, machine, teacher, num_processes)
    if phases.resumed:
        phases.check_inputs(inputs)
    phases.doing = "tokenising"
    started = time.perf_counter()
    splits = _tokenize(config, loaded, sources, reporter)
    teaching = None if teacher is None else _teaching(config, loaded, teacher, sources, splits, reporter)
    tokenize_s = time.perf_counter() - started
    phases.spent("tokenize", tokenize_s)
    read = {**{name: split.ragged for name, split in splits.items()}}
    if teaching is not None:
        read["train"] = teaching.ragged
    longer = how_read(list(read.values()), loaded.settings)
    if longer is not None:
        reporter.say(longer)
    return Prepared(
        config,
        machine,
        sources,
        splits,
        loaded,
        objective,
        originals,
        initial_weights,
        inputs,
        tokenize_s,
        goal,
        teaching,
    )


def _read(config: TrainConfig, teacher: Teacher | None, reporter: Reporter) -> Sources:
    given = train = read_labelled(config.train, config) if teacher is None else labelled_for(teacher, config)
    labels, kind = train.labels, train.kind
    test = read_labelled(config.test, config, labels, kind, as_in_training=True) if config.test else None
    validation = None
    if config.validation:
        validation = read_labelled(config.validation, config, labels, kind, as_in_training=True)
    for texts in (train, validation, test):
        if texts is not None:
            say_notes(texts, reporter)
    if config.validation_share:
        learnt, held = split_validation(train, config.validation_share, config.seed)
        if not len(held):
            raise DataError(
                f"--validation-share {config.validation_share} of {len(train):,} texts leaves none to hold out; "
                "give more texts, a larger share, or --validation-share 0"
            )
        train, validation = train.take(learnt), train.take(held)
    unlabelled = unlabelled_for(config) if isinstance(config, DistillConfig) else None
    if unlabelled is not None:
        say_notes(unlabelled, reporter)
    return Sources(given, train, validation, test, unlabelled)


def _load(config: TrainConfig, train: LabelledTexts) -> Loaded:
    loaded = load_for_training(
        config.model,
        train.labels,
        config.pooling,
        config.max_length,
        config.seed,
        config.tokenizer,
        dropouts_of(config),
        train.kind,
        pairs=train.pairs is not None,
        long_texts=config.long_texts,
        window_overlap=config.window_overlap,
        window_pooling=config.window_pooling,
        label_threshold=config.label_threshold,
        hard_labels=config.hard_labels,
    )
    if loaded.settings.pairs:
        check_pairs_or_long_texts(config, pairs=True)
        check_pairs(loaded.model, loaded.tokenizer)
    if config.freeze_encoder and config.long_texts == "windows" and not loaded.model.windows_have_features:
        title = loaded.model.config.family.title
        raise UserError(
            f"--long-texts windows with --freeze-encoder needs a linear classifier, but {title}'s has a layer of its "
            "own. Pass --pooling mean, or do not freeze the encoder"
        )
    check_match_hidden(config, "the student", loaded, config.long_texts, "Pass --pooling mean or --long-texts head")
    return loaded


def _say_model(loaded: Loaded, reporter: Reporter) -> None:
    reporter.say(f"model: {loaded.description}")
    for note in loaded.notes:
        reporter.say(f"model: {note}")
    for warning in loaded.warnings:
        reporter.warn(warning)


def _tokenize(config: TrainConfig, loaded: Loaded, sources: Sources, reporter: Reporter) -> dict[str, Split]:
    name_of_tokenizer = config.tokenizer or config.model
    return {
        name: Split(texts, token_ids_of(texts, loaded.tokenizer, loaded.settings, name_of_tokenizer, reporter))
        for name, texts in sources.by_name().items()
    }


def _teaching(
    config: TrainConfig,
    loaded: Loaded,
    teacher: Teacher,
    sources: Sources,
    splits: dict[str, Split],
    reporter: Reporter,
) -> Teaching:
    """The teacher with all texts that it is asked about, and the student's token ids of those that it learns from."""
    unlabelled = sources.unlabelled
    ragged = None
    if unlabelled is not None:
        ragged = token_ids_of(unlabelled, loaded.tokenizer, loaded.settings, config.tokenizer or config.model, reporter)
    held_out = [(splits[name].texts, splits[name].ragged) for name in ("validation", "test") if name in splits]
    say_teacher(teacher, loaded.model, sources.train, unlabelled, sources.validation, sources.test, reporter)
    return teaching_of(
        teacher, sources.given, sources.train, splits["train"].ragged, unlabelled, ragged, held_out, reporter
    )


def _inputs(
    config: TrainConfig,
    loaded: Loaded,
    sources: Sources,
    initial_weights_sha256: str,
    machine: Machine,
    teacher: Teacher | None,
    num_processes: int,
) -> Inputs:
    """What the run depends on; a run that goes on must find the same."""
    inputs: dict[str, Any] = {
        "model (its weights' SHA-256)": initial_weights_sha256,
        "tokenizer (its SHA-256)": loaded.tokenizer.sha256,
        "labels": list(sources.train.labels),
    }
    for name, value in settings_that_count(rerunnable(config)).items():
        inputs["--" + name.replace("_", "-")] = value
    named = {"training": sources.train, "validation": sources.validation, "test": sources.test}
    if teacher is not None:
        inputs["teacher (its weights' SHA-256)"] = teacher.weights_sha256
        named["unlabelled"] = sources.unlabelled
    for name, texts in named.items():
        inputs[f"{name} texts (their number)"] = None if texts is None else len(texts)
        inputs[f"{name} texts (their files' SHA-256)"] = None if texts is None else texts.sha256
    found = {
        "device": str(machine.device),
        "dtype": machine.dtype_name,
        "threads": torch.get_num_threads(),
        "version of torch": torch.__version__,
        "processes": num_processes,
    }
    return Inputs(inputs=inputs, machine=found)
