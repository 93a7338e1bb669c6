"""The training itself: from a prepared model to a trained and saved one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertwright import hardware, runs
from bertwright.config.distill import DistillConfig
from bertwright.data.batches import training_batches
from bertwright.data.columns import LabelledTexts
from bertwright.data.ragged import Ragged
from bertwright.data.tokenize import token_folders
from bertwright.evaluation.judge import judge
from bertwright.model.checkpoint import load_classifier, save_model
from bertwright.progress import Reporter
from bertwright.tracking import Tracking
from bertwright.training.distributed import ALONE, Alone, Group, Together, own_share
from bertwright.training.follow import (
    FEATURES,
    FIT,
    LESSON,
    features_in_shares,
    learner_of,
    lesson_of,
    texts_of,
    validation_logits,
)
from bertwright.training.learners import HeadOnFeatures, WholeModel, compute_features
from bertwright.training.loop import Outcome, fit, num_steps_of
from bertwright.training.loss import Objective
from bertwright.training.phases import Phases, Trained
from bertwright.training.prepare import Prepared
from bertwright.training.settings import rerunnable
from bertwright.training.state import Checkpoints
from bertwright.training.stop import Stop
from bertwright.training.student import Student
from bertwright.training.teacher import TeacherScores

Learner = WholeModel | HeadOnFeatures


@dataclass(frozen=True)
class Learnt:
    """A training that is over.

    Attributes:
        state: the kept weights by name, as model/ has them.
        losses: (steps,) float32, the loss of each step; None where they are lost.
        writer: of the run's folder, which is there now.
    """

    trained: Trained
    state: dict[str, Tensor]
    losses: np.ndarray | None
    writer: runs.RunWriter


def learn(
    prepared: Prepared,
    phases: Phases,
    stop: Stop,
    tracking: Tracking,
    reporter: Reporter,
    group: Alone | Together = ALONE,
) -> Learnt:
    """Begin the run's folder, train the model and save it; or take what is there, of a training that is over.

    The other processes of a ``group`` follow (:mod:`bertwright.training.follow`).
    """
    config, machine, loaded = prepared.config, prepared.machine, prepared.loaded
    trained = phases.trained() if phases.resumed else None
    if isinstance(group, Together):
        reporter.say(f"{group.size} processes: each learns from a share of every batch")
        with group.doing(LESSON, lesson_of(prepared)):
            group.share_texts(texts_of(prepared))
    model = loaded.model.to(machine.device).compute_in(machine.dtype, config.compile == "auto").train()
    learner = None
    if trained is None and not (config.freeze_encoder and config.cache_features):
        learner = whole_model(prepared, reporter, group)
    chosen = model.describe()
    reporter.say(
        f"computing on {machine.device} in {machine.dtype_name}: {machine.dtype_reason}; "
        f"compiled: {chosen['compile']} ({chosen['compile_reason']}); attention: {chosen['attention_kernel']}; "
        f"{torch.get_num_threads()} threads"
    )
    writer = _begin(prepared, phases, stop, group)
    tracking.begin(phases.output, rerunnable(config))
    if trained is not None:
        reporter.say(f"the training is over: {trained.steps:,} steps, going on with {phases.output / runs.MODEL}")
        state = load_classifier(str(phases.output / runs.MODEL)).model.state_dict()
        writer.history_from(trained.history)
        for line in trained.history:
            tracking.line(line)
        return Learnt(trained, state, phases.losses(trained), writer)
    writer.environment(_environment(prepared, chosen, group))
    if prepared.teaching is not None:
        prepared = replace(prepared, objective=_taught(prepared, phases, reporter))
    # A signal between the last step and the saved model waits: what was learnt is not lost.
    with stop.deferred():
        phases.doing = "training"
        outcome = _fit(prepared, learner, phases, writer, tracking, stop, reporter, group)
        del learner  # and the memory that its batches used
        phases.doing = "saving the model"
        state = prepared.objective.unscale(prepared.originals | outcome.state)
        trained = _trained(outcome)
        phases.save_model(
            trained,
            outcome.losses,
            lambda folder: save_model(folder, loaded.model.config, state, loaded.tokenizer, loaded.settings),
        )
    return Learnt(trained, state, outcome.losses, writer)


def _taught(prepared: Prepared, phases: Phases, reporter: Reporter) -> Objective:
    """The objective of a student, whose teacher is asked now, as far as its answers are not on disk."""
    teaching, config = prepared.teaching, prepared.config
    assert teaching is not None
    assert isinstance(config, DistillConfig)
    phases.doing = "asking the teacher"
    folder = Path(config.teacher_scores or phases.output / runs.TEACHER_SCORES)
    scores = TeacherScores(teaching.teacher, folder, config, prepared.machine.dtype_name, reporter)
    lessons = scores.lessons(teaching.sources, teaching.rows, config.match_hidden)
    phases.spent("teacher", scores.seconds)
    phases.note_time()
    return teaching.objective(prepared.objective, lessons, config, prepared.machine.device)


def _begin(prepared: Prepared, phases: Phases, stop: Stop, group: Alone | Together) -> runs.RunWriter:
    """The run's folder, made or gone on with, and locked."""
    config = prepared.config
    if config.overwrite:
        with stop.uninterrupted():
            runs.clear_output(phases.output)
        stop.check()
    group.note_begun()  # an old run is gone, so that a restart cannot take it for ours
    writer = runs.RunWriter(phases.output, config.act, rerunnable(config), phases.resumed, not phases.inputs_known)
    phases.begun = True
    if not phases.resumed:
        phases.lock()
        phases.check_inputs(prepared.inputs)
    return writer


def _environment(prepared: Prepared, chosen: dict[str, str], group: Alone | Together) -> dict[str, Any]:
    machine, loaded = prepared.machine, prepared.loaded
    return {
        **hardware.describe(machine.device),
        "num_processes": group.size,
        "num_hosts": group.num_hosts,
        "dtype": machine.dtype_name,
        "dtype_reason": machine.dtype_reason,
        **chosen,
        "tokenizer": loaded.tokenizer.engine,
        "tokenizer_reason": loaded.tokenizer.reason,
        "token_ids_from": token_folders(_all_texts(prepared)),
        "token_budget": machine.token_budget,
        "model": loaded.description,
        "model_notes": loaded.notes + loaded.warnings,
        **({} if prepared.teaching is None else prepared.teaching.teacher.describe()),
    }


def _all_texts(prepared: Prepared) -> list[LabelledTexts]:
    more = [] if prepared.sources.unlabelled is None else [prepared.sources.unlabelled]
    return [*(split.texts for split in prepared.splits.values()), *more]


def whole_model(prepared: Prepared, reporter: Reporter, group: Group = ALONE) -> WholeModel:
    """What trains the whole model on the training texts, or its classifier on what a frozen encoder gives of them."""
    config, machine = prepared.config, prepared.machine
    learnt, num_limited = prepared.learnt.limited(machine.token_budget)
    if num_limited:
        reporter.say(
            f"{num_limited:,} training texts have more windows than --token-budget {machine.token_budget} tokens hold: "
            "of each, as many as fit are learnt from, spread evenly over the text"
        )
    model = prepared.loaded.model
    learner: WholeModel
    if prepared.teaching is not None and getattr(config, "match_hidden", False):
        hidden_size = prepared.teaching.teacher.hidden_size
        learner = Student(model, learnt, machine.device, machine.token_budget, hidden_size, config.seed)
    else:
        learner = learner_of(config, model, learnt, machine.device, machine.token_budget)
    num_learnt = len(learnt)
    num_steps = num_steps_of(config, num_learnt)
    batches = training_batches(num_learnt, config.batch_size, config.seed, num_steps)
    learner.compile_for(own_share(group, learner.lengths, rows) for rows in batches)
    return learner


def _trained(outcome: Outcome) -> Trained:
    return Trained(
        steps=outcome.steps,
        best_step=outcome.best_step,
        train_s=outcome.train_s,
        num_texts=outcome.num_texts,
        num_tokens=outcome.num_tokens,
        token_budget=outcome.token_budget,
        history=outcome.history,
    )


def _fit(
    prepared: Prepared,
    learner: WholeModel | None,
    phases: Phases,
    writer: runs.RunWriter,
    tracking: Tracking,
    stop: Stop,
    reporter: Reporter,
    group: Alone | Together,
) -> Outcome:
    """Train the loaded model, whose float32 weights are ``prepared.originals``, in place.

    ``learner`` computes the whole of it; None: the encoder is frozen, and its features are computed once.
    """
    config, objective = prepared.config, prepared.objective
    learning, judged = _learners(prepared, learner, phases, stop, reporter, group)
    del learner
    # Features are so small that a single process is done with them before it has told the others of them.
    together = ALONE if isinstance(learning, HeadOnFeatures) else group

    def record(line: dict[str, Any]) -> None:
        if not writer.history(line):
            reporter.warn(f"{phases.output / runs.HISTORY}: a line could not be written; it will be with a later one")
        tracking.line(line)

    writer.history_from(())
    checkpoints = Checkpoints(
        phases.output,
        reporter,
        config.checkpoint_minutes,
        config.checkpoint_steps,
        prepared.inputs.inputs,
        on_saved=phases.note_time,
    )
    num_steps = num_steps_of(config, objective.num_texts)
    reporter.say(
        f"training on {objective.num_texts:,} texts: {num_steps:,} steps of {config.batch_size} texts, "
        f"{config.optimizer}, learning rate {config.learning_rate:g}, "
        f"{config.schedule} after {config.warmup_ratio:.0%} warm-up"
    )
    with together.doing(FIT) if isinstance(together, Together) else contextlib.nullcontext():
        outcome = fit(
            learning,
            objective,
            config,
            config.learning_rate or 0.0,
            prepared.originals,
            None if judged is None else _validation_judge(prepared, judged, reporter, together),
            config.best_metric or "",
            record,
            reporter,
            checkpoints,
            stop,
            together,
        )
    outcome.train_s += phases.seconds("features")
    if isinstance(learning, HeadOnFeatures):
        outcome.token_budget = prepared.machine.token_budget
    if outcome.stopped_early:
        reporter.say(f"stopped early at step {outcome.steps:,}: no better {config.best_metric} for a while")
    if judged is not None:
        reporter.say(f"kept step {outcome.best_step:,} of {outcome.steps:,}: best validation {config.best_metric}")
    return outcome


def _learners(
    prepared: Prepared,
    learner: WholeModel | None,
    phases: Phases,
    stop: Stop,
    reporter: Reporter,
    group: Alone | Together,
) -> tuple[Learner, Learner | None]:
    """What learns from the training texts, and what scores the validation texts, if there are any."""
    model, machine = prepared.loaded.model, prepared.machine
    validation = prepared.splits.get("validation")
    if prepared.config.freeze_encoder:
        for parameter in model.encoder_parameters():
            parameter.requires_grad_(False)
    if learner is not None:
        if prepared.config.freeze_encoder:
            reporter.say("frozen encoder: the classifier alone learns, on features computed anew with dropout")
        if validation is None:
            return learner, None
        return learner, WholeModel(model, validation.ragged, machine.device, machine.token_budget)
    reporter.say("frozen encoder: features are computed once, then the classifier alone learns")

    def on_features(name: str, ragged: Ragged) -> HeadOnFeatures:
        if isinstance(group, Together):
            with group.doing(FEATURES, name):
                computed = features_in_shares(group, model, ragged, machine.device, machine.token_budget, reporter)
            features = torch.from_numpy(computed).to(machine.device)
        else:
            features = compute_features(model, ragged, machine.device, machine.token_budget, reporter)
        return HeadOnFeatures(model, features, ragged.lengths, machine.device)

    phases.doing = "computing features"
    started = time.perf_counter()
    with stop.immediate():
        on_training_texts = on_features("train", prepared.learnt)
        phases.spent("features", time.perf_counter() - started)
        on_validation_texts = None if validation is None else on_features("validation", validation.ragged)
    phases.doing = "training"
    return on_training_texts, on_validation_texts


def _validation_judge(
    prepared: Prepared, judged: Learner, reporter: Reporter, group: Group
) -> Callable[[], dict[str, Any]]:
    texts, threshold = prepared.splits["validation"].texts, prepared.loaded.settings.threshold

    def judge_validation() -> dict[str, Any]:
        logits = validation_logits(judged, reporter, group)
        return judge(texts, prepared.objective.scores(logits), threshold)

    return judge_validation
