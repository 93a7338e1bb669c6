"""The main act: from files of labelled texts to a trained, judged and saved classifier."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertwright import hardware, runs
from bertwright.config import TrainConfig, build
from bertwright.data.batches import training_batches
from bertwright.data.columns import LabelledTexts, read_labelled
from bertwright.data.ragged import Ragged
from bertwright.data.split import count_shared_texts, split_validation
from bertwright.data.tokenize import token_folders, token_ids_of
from bertwright.errors import DataError, UserError
from bertwright.evaluation.judge import (
    TASKS,
    extremes_of,
    judge,
    metric_to_choose_by,
    prediction_tables,
    say_notes,
    write_predictions,
)
from bertwright.evaluation.metrics import check_metric_name
from bertwright.evaluation.predictor import Predictor
from bertwright.evaluation.show import show_result
from bertwright.model.checkpoint import Loaded, load_for_training, save_model
from bertwright.model.encoder import ModelConfig
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed
from bertwright.steps import FILE as STEPS
from bertwright.steps import write_trace
from bertwright.training.loop import (
    HeadOnFeatures,
    Outcome,
    WholeModel,
    compute_features,
    fit,
    learner_logits,
    num_steps_of,
)
from bertwright.training.loss import Objective, objective_of
from bertwright.training.optimizer import weight_decay_of
from bertwright.training.trace import trace_of, weights_sha256

# More training texts than this are sampled for the metrics of the training texts.
_MOST_TRAIN_METRIC_TEXTS = 50_000
_DEFAULT_VALIDATION_SHARE = 0.2
_BASE_HIDDEN_SIZE = 768


def train(data: str | Path | Sequence[str | Path], *, quiet: bool = False, **settings: Any) -> runs.Run:
    """Train a classifier on the labelled texts in ``data`` (a file or several) and return its run.

    ``settings`` are those of ``bertwright train``, with underscores: ``train("comments.csv", model="all-MiniLM-L6-v2",
    epochs=2)``. Score texts with ``bertwright.load(run.path)``.

    Raises:
        UserError: bad settings, data or a model that cannot be used, an output in the way, or a loss that is no number.
    """
    config = build(TrainConfig, {**settings, "train": data})
    return run_training(config, Reporter(quiet=quiet, results=not quiet))


@dataclass(frozen=True)
class Split:
    """Texts of one purpose with their token ids."""

    texts: LabelledTexts
    ragged: Ragged


def run_training(config: TrainConfig, reporter: Reporter) -> runs.Run:
    """Read, tokenise, train, score, judge, save: a run folder, shown and returned."""
    started = time.perf_counter()
    config = _resolve_early(config)
    output = Path(config.output or "")
    runs.prepare_output(output, config.overwrite)
    device = hardware.choose_device(config.device)
    dtype, dtype_reason = hardware.choose_dtype(config.dtype, device)
    token_budget = hardware.token_budget(config.token_budget, device)

    given_texts, train_texts, validation_texts, test_texts = _read(config, reporter)
    read_s = time.perf_counter() - started

    labels, kind = train_texts.labels, train_texts.kind
    objective = objective_of(train_texts, config, device)
    loaded = load_for_training(
        config.model, labels, config.pooling, config.max_length, config.seed, config.tokenizer, _dropouts(config), kind
    )
    if not loaded.head_is_new:
        loaded.model.load_state_dict(objective.scale(loaded.model.state_dict()))
    config = _resolve_late(config, loaded.model.config, validation_texts, reporter)
    reporter.say(f"model: {loaded.description}")
    for note in loaded.notes:
        reporter.say(f"model: {note}")
    for warning in loaded.warnings:
        reporter.warn(warning)

    tokenize_started = time.perf_counter()
    num_bad_rows = len(train_texts.bad_rows) + (len(test_texts.bad_rows) if test_texts is not None else 0)
    if config.validation and validation_texts is not None:  # drawn from the training texts, it shares their bad rows
        num_bad_rows += len(validation_texts.bad_rows)
    tokenizer_name = config.tokenizer or config.model
    splits = {
        name: Split(texts, token_ids_of(texts, loaded.tokenizer, config.max_length, tokenizer_name, reporter))
        for name, texts in (("train", train_texts), ("validation", validation_texts), ("test", test_texts))
        if texts is not None
    }
    tokenize_s = time.perf_counter() - tokenize_started
    truncated = sum(split.ragged.num_truncated for split in splits.values())
    num_texts = sum(len(split.texts) for split in splits.values())
    num_tokenized = sum(len(split.texts) for split in splits.values() if split.texts.tokens is None)
    if truncated:
        reporter.say(
            f"{truncated:,} of {num_texts:,} texts ({truncated / num_texts:.1%}) are longer than --max-length "
            f"{config.max_length} tokens and lost their end"
        )

    originals = dict(loaded.model.state_dict())
    initial_weights = weights_sha256(originals)  # now: they are updated in place
    model = loaded.model.to(device).compute_in(dtype, config.compile == "auto").train()
    learner = None
    if not config.freeze_encoder:
        learner = WholeModel(model, splits["train"].ragged, device, token_budget)
        num_learnt = len(train_texts)
        num_steps = num_steps_of(config, num_learnt)
        learner.compile_for(training_batches(num_learnt, config.batch_size, config.seed, num_steps))
    chosen = model.describe()
    reporter.say(
        f"computing on {device} in {str(dtype).removeprefix('torch.')}: {dtype_reason}; "
        f"compiled: {chosen['compile']} ({chosen['compile_reason']}); attention: {chosen['attention_kernel']}; "
        f"{torch.get_num_threads()} threads"
    )
    if config.overwrite:
        runs.clear_output(output)
    writer = runs.RunWriter(output, "train", _rerunnable(config))
    writer.environment(
        {
            **hardware.describe(device),
            "dtype": str(dtype).removeprefix("torch."),
            "dtype_reason": dtype_reason,
            **chosen,
            "tokenizer": loaded.tokenizer.engine,
            "tokenizer_reason": loaded.tokenizer.reason,
            "token_ids_from": token_folders(split.texts for split in splits.values()),
            "token_budget": token_budget,
            "model": loaded.description,
            "model_notes": loaded.notes + loaded.warnings,
        }
    )

    outcome = _learn(config, learner, objective, splits, loaded, originals, device, token_budget, writer, reporter)
    del learner  # and the memory that its batches used
    trace = trace_of(config, train_texts, splits["train"].ragged, outcome.losses, initial_weights)
    write_trace(output / STEPS, trace)

    state = objective.unscale(originals | outcome.state)
    save_model(output / runs.MODEL, loaded.model.config, state, loaded.tokenizer, loaded.settings)
    loaded.model.load_state_dict(state)
    predictor = Predictor(loaded.model, loaded.tokenizer, loaded.settings, config)

    held_out = splits.get("test") or splits.get("validation")
    infer_started = time.perf_counter()
    probabilities = None if held_out is None else _score(predictor, held_out.ragged, reporter)
    infer_s = None if held_out is None else time.perf_counter() - infer_started
    metrics = _metrics(config, splits, predictor, held_out, probabilities, reporter)
    extremes: dict[str, Any] = {"highest": [], "lowest": []}
    if held_out is not None and probabilities is not None:
        threshold = loaded.settings.threshold
        tables = prediction_tables(held_out.texts, probabilities, labels, threshold, config.texts)
        write_predictions(output / runs.PREDICTIONS, tables)
        extremes = extremes_of(held_out.texts, probabilities, labels, config.num_extremes, config.texts)
    else:
        reporter.say("no held-out texts: nothing to judge on. Pass --test or --validation-share")

    total_s = time.perf_counter() - started
    train_s = outcome.train_s
    infer_rate = None if held_out is None or infer_s is None else len(held_out.ragged) / infer_s
    infer_token_rate = None if held_out is None or infer_s is None else int(held_out.ragged.starts[-1]) / infer_s
    shared_texts = (
        0
        if held_out is None
        else count_shared_texts(train_texts if test_texts is None else given_texts, held_out.texts)
    )
    result: dict[str, Any] = {
        "task": TASKS[kind],
        "labels": list(labels),
        "model": loaded.description,
        "data": {
            "train_texts": len(train_texts),
            "validation_texts": 0 if validation_texts is None else len(validation_texts),
            "test_texts": 0 if test_texts is None else len(test_texts),
            "train_sha256": train_texts.sha256,
            "test_sha256": None if test_texts is None else test_texts.sha256,
            "shared_texts": shared_texts,
            "truncated_share": truncated / num_texts,
            "bad_rows": num_bad_rows,
        },
        "seconds": {"read": read_s, "tokenize": tokenize_s, "train": train_s, "infer": infer_s, "total": total_s},
        "rates": {
            "tokenize_texts_per_s": num_tokenized / tokenize_s if num_tokenized else None,
            "train_texts_per_s": outcome.num_texts / train_s,
            "train_tokens_per_s": outcome.num_tokens / train_s,
            "train_batches_per_s": outcome.steps / train_s,
            "infer_texts_per_s": infer_rate,
            "infer_tokens_per_s": infer_token_rate,
        },
        "memory": {
            "peak_process_bytes": hardware.peak_process_bytes(),
            "peak_gpu_bytes": hardware.peak_gpu_bytes(device),
        },
        "cost": hardware.cost(config.usd_per_hour, total_s),
        "metrics": metrics,
        "extremes": extremes,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
    }
    if shared_texts:
        reporter.say(
            f"{shared_texts:,} of the held-out texts also stand among the training texts: "
            "the figures for them are too good"
        )
    writer.result(result)
    show_result(result, reporter)
    reporter.say(f"run: {output}")
    return runs.open_run(output)


def _learn(
    config: TrainConfig,
    learner: WholeModel | HeadOnFeatures | None,
    objective: Objective,
    splits: dict[str, Split],
    loaded: Loaded,
    originals: dict[str, Tensor],
    device: torch.device,
    token_budget: int,
    writer: runs.RunWriter,
    reporter: Reporter,
) -> Outcome:
    """Train the loaded model, whose float32 weights by name are ``originals``, in place.

    ``learner`` trains the whole of it; None: the encoder is frozen.
    """
    model = loaded.model
    train_split, validation = splits["train"], splits.get("validation")
    judged: WholeModel | HeadOnFeatures | None = None
    if learner is None:
        for parameter in model.encoder_parameters():
            parameter.requires_grad_(False)
        reporter.say("frozen encoder: features are computed once, then the classifier alone learns")

        def on_features(split: Split) -> HeadOnFeatures:
            features = compute_features(model, split.ragged, device, token_budget, reporter)
            return HeadOnFeatures(model, features, split.ragged.lengths, device)

        features_started = time.perf_counter()
        learner = on_features(train_split)
        features_s = time.perf_counter() - features_started
        judged = None if validation is None else on_features(validation)
    else:
        features_s = 0.0
        judged = None if validation is None else WholeModel(model, validation.ragged, device, token_budget)

    def judge_validation() -> dict[str, Any]:
        assert judged is not None
        assert validation is not None
        logits = learner_logits(judged, np.arange(len(validation.texts)), reporter, "Validation")
        return judge(validation.texts, objective.scores(logits), loaded.settings.threshold)

    num_steps = num_steps_of(config, objective.num_texts)
    reporter.say(
        f"training on {objective.num_texts:,} texts: {num_steps:,} steps of {config.batch_size} texts, "
        f"{config.optimizer}, learning rate {config.learning_rate:g}, "
        f"{config.schedule} after {config.warmup_ratio:.0%} warm-up"
    )
    outcome = fit(
        learner,
        objective,
        config,
        config.learning_rate or 0.0,
        originals,
        None if judged is None else judge_validation,
        config.best_metric or "",
        writer.history,
        reporter,
    )
    outcome.train_s += features_s
    if outcome.stopped_early:
        reporter.say(f"stopped early at step {outcome.steps:,}: no better {config.best_metric} for a while")
    if judged is not None:
        reporter.say(f"kept step {outcome.best_step:,} of {outcome.steps:,}: best validation {config.best_metric}")
    return outcome


def _read(
    config: TrainConfig, reporter: Reporter
) -> tuple[LabelledTexts, LabelledTexts, LabelledTexts | None, LabelledTexts | None]:
    """All texts of the training files, those to learn from, and validation and test texts where there are any."""
    given_texts = train_texts = read_labelled(config.train, config)
    labels, kind = train_texts.labels, train_texts.kind
    test_texts = read_labelled(config.test, config, labels, kind) if config.test else None
    validation_texts = read_labelled(config.validation, config, labels, kind) if config.validation else None
    for texts in (train_texts, validation_texts, test_texts):
        if texts is not None:
            say_notes(texts, reporter)
    if config.validation_share:
        learnt, held = split_validation(train_texts, config.validation_share, config.seed)
        if not len(held):
            raise DataError(
                f"--validation-share {config.validation_share} of {len(train_texts):,} texts leaves none to hold out; "
                "give more texts, a larger share, or --validation-share 0"
            )
        train_texts, validation_texts = train_texts.take(learnt), train_texts.take(held)
    return given_texts, train_texts, validation_texts, test_texts


def _resolve_early(config: TrainConfig) -> TrainConfig:
    """Settle what depends on other settings alone."""
    update: dict[str, Any] = {}
    if config.validation_share is None:
        held_out = bool(config.test or config.validation)
        update["validation_share"] = 0.0 if held_out else _DEFAULT_VALIDATION_SHARE
    if config.output is None:
        data = Path(config.train[0]).name.split(".")[0] or "data"
        model = Path(config.model).name or "model"
        frozen = "-frozen" if config.freeze_encoder else ""
        update["output"] = str(runs.free_name(Path("runs") / f"{data}-{model}{frozen}"))
    if config.best_metric is not None:
        check_metric_name(config.best_metric)
    share = update.get("validation_share", config.validation_share)
    if not config.validation and not share:
        for name in ("patience", "best_metric"):
            if getattr(config, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} needs validation texts: pass --validation FILE or --validation-share 0.1")
    return config.model_copy(update=update)


def _resolve_late(
    config: TrainConfig, model: ModelConfig, validation: LabelledTexts | None, reporter: Reporter
) -> TrainConfig:
    """Settle what depends on the model and the data."""
    update: dict[str, Any] = {"weight_decay": weight_decay_of(config)}
    if config.learning_rate is None:
        if config.freeze_encoder:
            update["learning_rate"] = 1e-2
        else:
            update["learning_rate"] = 1e-4 if model.hidden_size < _BASE_HIDDEN_SIZE else 2e-5
    if validation is not None:
        metric, note = metric_to_choose_by(validation, config.best_metric)
        if note is not None:
            reporter.say(note)
        update["best_metric"] = metric
    return config.model_copy(update=update)


def _dropouts(config: TrainConfig) -> dict[str, float]:
    """The model settings that the training's dropouts replace."""
    dropouts: dict[str, float] = {"attention_probs_dropout_prob": config.attention_dropout}
    if config.hidden_dropout is not None:
        dropouts["hidden_dropout_prob"] = config.hidden_dropout
    if config.classifier_dropout is not None:
        dropouts["classifier_dropout"] = config.classifier_dropout
    return dropouts


def _rerunnable(config: TrainConfig) -> dict[str, Any]:
    """The resolved settings as they can be given again."""
    values = config.model_dump(mode="json", exclude_none=True, exclude={"overwrite"})
    if config.steps is not None:
        del values["epochs"]
    if config.validation:
        del values["validation_share"]
    return values


def _score(predictor: Predictor, ragged: Ragged, reporter: Reporter) -> np.ndarray:
    return predictor.probabilities(predictor.logits(ragged, reporter))


def _metrics(
    config: TrainConfig,
    splits: dict[str, Split],
    predictor: Predictor,
    held_out: Split | None,
    probabilities: np.ndarray | None,
    reporter: Reporter,
) -> dict[str, dict[str, Any]]:
    """Metrics of every split by the kept weights, in evaluation mode; of the training texts at most 50,000."""
    metrics: dict[str, dict[str, Any]] = {"train": {}, "validation": {}, "test": {}}
    for name, split in splits.items():
        texts, ragged = split.texts, split.ragged
        if split is held_out and probabilities is not None:
            scored = probabilities
        else:
            if len(texts) > _MOST_TRAIN_METRIC_TEXTS and name == "train":
                generator = np.random.default_rng(purpose_seed(config.seed, "train metrics"))
                rows = np.sort(generator.choice(len(texts), _MOST_TRAIN_METRIC_TEXTS, replace=False))
                reporter.say(f"train metrics: a sample of {len(rows):,} of the {len(texts):,} training texts")
                texts, ragged = texts.take(rows), ragged.take(rows)
            scored = _score(predictor, ragged, reporter)
        metrics[name] = judge(texts, scored, predictor.settings.threshold)
    return metrics
