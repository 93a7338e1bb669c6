"""The main act: from files of labelled texts to a trained, judged and saved classifier."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from bertwright import hardware, runs
from bertwright.config import TrainConfig
from bertwright.data.batches import training_batches
from bertwright.data.columns import LabelledTexts, read_labelled
from bertwright.data.ragged import Ragged
from bertwright.data.split import count_shared_texts, split_validation
from bertwright.data.tokenize import files_sha256, how_read, token_folders, token_ids_of
from bertwright.errors import DataError, Interrupted, RunError
from bertwright.evaluation.judge import (
    TASKS,
    extremes_of,
    judge,
    prediction_tables,
    say_notes,
    write_predictions,
)
from bertwright.evaluation.predictor import Predictor, check_pairs
from bertwright.evaluation.show import show_result
from bertwright.model.checkpoint import Loaded, load_classifier, load_for_training, save_model
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
from bertwright.training.phases import Inputs, Phases, Trained, remove_leftovers
from bertwright.training.resume import command, settings_that_count, train_config
from bertwright.training.settings import check_pairs_or_long_texts, dropouts_of, rerunnable, resolve_early, resolve_late
from bertwright.training.state import Checkpoints
from bertwright.training.stop import Stop, StopNow
from bertwright.training.trace import trace_of, weights_sha256

# More training texts than this are sampled for the metrics of the training texts.
_MOST_TRAIN_METRIC_TEXTS = 50_000


def train(data: str | Path | Sequence[str | Path] | None = None, *, quiet: bool = False, **settings: Any) -> runs.Run:
    """Train a classifier on the labelled texts in ``data`` (a file or several) and return its run.

    ``settings`` are those of ``bertwright train``, with underscores: ``train("comments.csv", model="all-MiniLM-L6-v2",
    epochs=2)``. Score texts with ``bertwright.load(run.path)``. ``train(resume=True, output="runs/comments")`` goes on
    with a run that was stopped.

    In the main thread, Ctrl-C and SIGTERM save the state first; then ``KeyboardInterrupt`` or ``SystemExit`` is raised.

    Raises:
        UserError: bad settings, data or a model that cannot be used, an output in the way, or a loss that is no number.
    """
    files = () if data is None else data
    config = train_config({**settings, "train": files} if files or not settings.get("resume") else settings)
    return run_training(config, Reporter(quiet=quiet, results=not quiet))


@dataclass(frozen=True)
class Split:
    """Texts of one purpose with their token ids."""

    texts: LabelledTexts
    ragged: Ragged


def run_training(config: TrainConfig, reporter: Reporter) -> runs.Run:
    """Read, tokenise, train, score, judge, save: a run folder, shown and returned.

    With ``config.resume`` what is on disk already is used again, and a finished run is only shown.
    """
    config = resolve_early(config)
    output = Path(config.output or "")
    if config.resume and runs.is_unborn(output):
        shutil.rmtree(output)
    resumed = config.resume and output.exists()
    if resumed and (output / runs.RESULT).is_file():
        return _show_finished(config, output, reporter)
    if not resumed:
        runs.prepare_output(output, config.overwrite)
    phases = Phases(output, reporter, resumed)
    try:
        with Stop() as stop, phases:
            result = _run_phases(config, phases, stop, reporter)
    except StopNow as signal:
        _leave(signal, phases, reporter)
    except OSError as error:
        if not phases.begun or isinstance(error, BrokenPipeError) or hardware.is_out_of_memory(error):
            raise
        raise RunError(
            f"{error.filename or output}: {error.strerror or error}. {phases.kept().capitalize()}; when there is room, "
            f"go on with: {command(output)}"
        ) from error
    show_result(result, reporter)
    reporter.say(f"run: {output}")
    return runs.open_run(output)


def _leave(signal: StopNow, phases: Phases, reporter: Reporter) -> NoReturn:
    """End the process as the signal asks, with a line that says what is kept."""
    line = f"stopped by {signal.name} while {phases.doing}: "
    if phases.begun:
        line += f"{phases.kept()}. Go on with: {command(phases.output)}"
    else:
        line += "nothing was written. Start it again with the same command"
    reporter.errors.print(line, markup=False)
    if signal.exit_code == Interrupted.exit_code:
        raise Interrupted(line) from None
    raise SystemExit(signal.exit_code) from None


def _show_finished(config: TrainConfig, output: Path, reporter: Reporter) -> runs.Run:
    """Show the finished run in ``output``.

    Raises:
        RunError: it is of other files than those that ``config`` names.
    """
    run = runs.open_run(output)
    assert run.result is not None
    for name, flag in (("train", "the training files"), ("test", "--test"), ("validation", "--validation")):
        found, expected = list(getattr(config, name)), list(run.settings.get(name, ()))
        recorded = run.result["data"].get(f"{name}_sha256")
        if found != expected and (recorded is None or files_sha256(found) != recorded):
            raise RunError(
                f"{output} has finished: {flag}: found {', '.join(found) or 'none'}, expected "
                f"{', '.join(expected) or 'none'} as it began with. Pass another --output for another run"
            )
    remove_leftovers(output)  # of one that was killed behind its last file
    reporter.say(f"{output} has finished: nothing to go on with")
    show_result(run.result, reporter)
    return run


def _run_phases(config: TrainConfig, phases: Phases, stop: Stop, reporter: Reporter) -> dict[str, Any]:
    """Everything between the settings and the result, which is written and returned."""
    started = time.perf_counter()
    device = hardware.choose_device(config.device)
    dtype, dtype_reason = hardware.choose_dtype(config.dtype, device)
    token_budget = hardware.token_budget(config.token_budget, device)

    given_texts, train_texts, validation_texts, test_texts = _read(config, reporter)
    phases.spent("read", time.perf_counter() - started)

    labels, kind = train_texts.labels, train_texts.kind
    objective = objective_of(train_texts, config, device)
    loaded = load_for_training(
        config.model,
        labels,
        config.pooling,
        config.max_length,
        config.seed,
        config.tokenizer,
        dropouts_of(config),
        kind,
        pairs=train_texts.pairs is not None,
        long_texts=config.long_texts,
        window_overlap=config.window_overlap,
        window_pooling=config.window_pooling,
        label_threshold=config.label_threshold,
        hard_labels=config.hard_labels,
    )
    if loaded.settings.pairs:
        check_pairs_or_long_texts(config, pairs=True)
        check_pairs(loaded.model, loaded.tokenizer)
    if not loaded.head_is_new:
        loaded.model.load_state_dict(objective.scale(loaded.model.state_dict()))
    config = resolve_late(config, loaded.model.config, validation_texts, reporter)
    reporter.say(f"model: {loaded.description}")
    for note in loaded.notes:
        reporter.say(f"model: {note}")
    for warning in loaded.warnings:
        reporter.warn(warning)
    originals = dict(loaded.model.state_dict())
    initial_weights = weights_sha256(originals)  # now: they are updated in place
    inputs = _inputs(config, loaded, train_texts, validation_texts, test_texts, initial_weights, device, dtype)
    if phases.resumed:
        phases.check_inputs(inputs)

    phases.doing = "tokenising"
    tokenize_started = time.perf_counter()
    num_bad_rows = len(train_texts.bad_rows) + (len(test_texts.bad_rows) if test_texts is not None else 0)
    if config.validation and validation_texts is not None:  # drawn from the training texts, it shares their bad rows
        num_bad_rows += len(validation_texts.bad_rows)
    tokenizer_name = config.tokenizer or config.model
    splits = {
        name: Split(texts, token_ids_of(texts, loaded.tokenizer, loaded.settings, tokenizer_name, reporter))
        for name, texts in (("train", train_texts), ("validation", validation_texts), ("test", test_texts))
        if texts is not None
    }
    tokenize_s = time.perf_counter() - tokenize_started
    phases.spent("tokenize", tokenize_s)
    truncated = sum(split.ragged.num_truncated for split in splits.values())
    num_texts = sum(len(split.texts) for split in splits.values())
    num_tokenized = sum(len(split.texts) for split in splits.values() if split.texts.tokens is None)
    longer = how_read([split.ragged for split in splits.values()], loaded.settings)
    if longer is not None:
        reporter.say(longer)

    trained = phases.trained() if phases.resumed else None
    model = loaded.model.to(device).compute_in(dtype, config.compile == "auto").train()
    learner = None
    if trained is None and not config.freeze_encoder:
        learnt, num_limited = splits["train"].ragged.limited(token_budget)
        if num_limited:
            reporter.say(
                f"{num_limited:,} training texts have more windows than --token-budget {token_budget} tokens hold: "
                "of each, as many as fit are learnt from, spread evenly over the text"
            )
        learner = WholeModel(model, learnt, device, token_budget)
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
        with stop.uninterrupted():
            runs.clear_output(phases.output)
        stop.check()
    writer = runs.RunWriter(phases.output, "train", rerunnable(config), phases.resumed, not phases.inputs_known)
    phases.begun = True
    if not phases.resumed:
        phases.lock()
        phases.check_inputs(inputs)
    if trained is None:
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
        # A signal between the last step and the saved model waits: what was learnt is not lost.
        with stop.deferred():
            phases.doing = "training"
            outcome = _learn(
                config,
                learner,
                objective,
                splits,
                loaded,
                originals,
                device,
                token_budget,
                inputs,
                phases,
                writer,
                stop,
                reporter,
            )
            del learner  # and the memory that its batches used
            phases.doing = "saving the model"
            state = objective.unscale(originals | outcome.state)
            trained = _trained(outcome)
            phases.save_model(
                trained,
                outcome.losses,
                lambda folder: save_model(folder, loaded.model.config, state, loaded.tokenizer, loaded.settings),
            )
        losses: np.ndarray | None = outcome.losses
    else:
        reporter.say(f"the training is over: {trained.steps:,} steps, going on with {phases.output / runs.MODEL}")
        state = load_classifier(str(phases.output / runs.MODEL)).model.state_dict()
        writer.history_from(trained.history)
        losses = phases.losses(trained)
    _write_trace(config, splits["train"], losses, initial_weights, phases, reporter)
    if not writer.history_is_whole:
        writer.history_from(trained.history)
    loaded.model.load_state_dict(state)
    predictor = Predictor(loaded.model, loaded.tokenizer, loaded.settings, config)

    held_out = next((name for name in ("test", "validation") if name in splits), None)
    scored = _score(config, splits, held_out, predictor, phases, reporter)
    phases.doing = "writing the result"
    metrics = {name: judge(one.texts, one.probabilities, loaded.settings.threshold) for name, one in scored.items()}
    extremes: dict[str, Any] = {"highest": [], "lowest": []}
    infer_s = infer_rate = infer_token_rate = None
    shared_texts = 0
    if held_out is not None:
        texts, probabilities, infer_s = scored[held_out].texts, scored[held_out].probabilities, scored[held_out].seconds
        infer_rate = len(texts) / infer_s
        infer_token_rate = int(splits[held_out].ragged.starts[-1]) / infer_s
        extremes = extremes_of(texts, probabilities, labels, config.num_extremes, config.texts)
        shared_texts = count_shared_texts(train_texts if test_texts is None else given_texts, texts)
    else:
        reporter.say("no held-out texts: nothing to judge on. Pass --test or --validation-share")

    total_s, train_s = phases.seconds("total"), trained.train_s
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
            "in_windows_share": sum(split.ragged.num_in_windows for split in splits.values()) / num_texts,
            "windows": sum(split.ragged.num_sequences for split in splits.values()),
            "bad_rows": num_bad_rows,
        },
        "seconds": {
            "read": phases.seconds("read"),
            "tokenize": phases.seconds("tokenize"),
            "train": train_s,
            "infer": infer_s,
            "total": total_s,
        },
        "rates": {
            "tokenize_texts_per_s": num_tokenized / tokenize_s if num_tokenized else None,
            "train_texts_per_s": trained.num_texts / train_s,
            "train_tokens_per_s": trained.num_tokens / train_s,
            "train_batches_per_s": trained.steps / train_s,
            "infer_texts_per_s": infer_rate,
            "infer_tokens_per_s": infer_token_rate,
        },
        "memory": {
            "peak_process_bytes": hardware.peak_process_bytes(),
            "peak_gpu_bytes": hardware.peak_gpu_bytes(device),
        },
        "cost": hardware.cost(config.usd_per_hour, total_s),
        "metrics": {"train": {}, "validation": {}, "test": {}} | metrics,
        "extremes": extremes,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "token_budget": trained.token_budget,
        "resumed": phases.num_resumed,
    }
    if shared_texts:
        reporter.say(
            f"{shared_texts:,} of the held-out texts also stand among the training texts: "
            "the figures for them are too good"
        )
    writer.result(result)
    phases.finish()
    return result


def _write_trace(
    config: TrainConfig,
    split: Split,
    losses: np.ndarray | None,
    initial_weights_sha256: str,
    phases: Phases,
    reporter: Reporter,
) -> None:
    """Write steps.parquet, unless it is there; ``losses`` (steps,) are None where they are no longer known."""
    path = phases.output / STEPS
    if path.exists():
        return
    if losses is None:
        reporter.warn(f"{path}: not written, since the losses of the steps were lost; the run goes on")
        return
    phases.doing = "writing the trace"
    write_trace(path, trace_of(config, split.texts, split.ragged, losses, initial_weights_sha256))


def _inputs(
    config: TrainConfig,
    loaded: Loaded,
    train: LabelledTexts,
    validation: LabelledTexts | None,
    test: LabelledTexts | None,
    initial_weights_sha256: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Inputs:
    """What the run depends on; a run that goes on must find the same."""
    inputs: dict[str, Any] = {
        "model (its weights' SHA-256)": initial_weights_sha256,
        "tokenizer (its SHA-256)": loaded.tokenizer.sha256,
        "labels": list(train.labels),
    }
    for name, value in settings_that_count(rerunnable(config)).items():
        inputs["--" + name.replace("_", "-")] = value
    for name, texts in (("training", train), ("validation", validation), ("test", test)):
        inputs[f"{name} texts (their number)"] = None if texts is None else len(texts)
        inputs[f"{name} texts (their files' SHA-256)"] = None if texts is None else texts.sha256
    machine = {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "version of torch": torch.__version__,
    }
    return Inputs(inputs=inputs, machine=machine)


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


def _learn(
    config: TrainConfig,
    learner: WholeModel | HeadOnFeatures | None,
    objective: Objective,
    splits: dict[str, Split],
    loaded: Loaded,
    originals: dict[str, Tensor],
    device: torch.device,
    token_budget: int,
    inputs: Inputs,
    phases: Phases,
    writer: runs.RunWriter,
    stop: Stop,
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

        phases.doing = "computing features"
        features_started = time.perf_counter()
        with stop.immediate():
            learner = on_features(train_split)
            phases.spent("features", time.perf_counter() - features_started)
            judged = None if validation is None else on_features(validation)
        phases.doing = "training"
    else:
        judged = None if validation is None else WholeModel(model, validation.ragged, device, token_budget)

    def judge_validation() -> dict[str, Any]:
        assert judged is not None
        assert validation is not None
        logits = learner_logits(judged, np.arange(len(validation.texts)), reporter, "Validation")
        return judge(validation.texts, objective.scores(logits), loaded.settings.threshold)

    def record(line: dict[str, Any]) -> None:
        if not writer.history(line):
            reporter.warn(f"{phases.output / runs.HISTORY}: a line could not be written; it will be with a later one")

    writer.history_from(())
    checkpoints = Checkpoints(
        phases.output,
        reporter,
        config.checkpoint_minutes,
        config.checkpoint_steps,
        inputs.inputs,
        on_saved=phases.note_time,
    )
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
        record,
        reporter,
        checkpoints,
        stop,
    )
    outcome.train_s += phases.seconds("features")
    if config.freeze_encoder:
        outcome.token_budget = token_budget
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
    test_texts = read_labelled(config.test, config, labels, kind, as_in_training=True) if config.test else None
    validation_texts = None
    if config.validation:
        validation_texts = read_labelled(config.validation, config, labels, kind, as_in_training=True)
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


@dataclass(frozen=True)
class Scored:
    """Texts with their probabilities (texts, labels), and the seconds that scoring them took."""

    texts: LabelledTexts
    probabilities: np.ndarray
    seconds: float


def _score(
    config: TrainConfig,
    splits: dict[str, Split],
    held_out: str | None,
    predictor: Predictor,
    phases: Phases,
    reporter: Reporter,
) -> dict[str, Scored]:
    """Every split scored by the kept weights, in evaluation mode; of the training texts at most 50,000.

    The held-out texts come first, and their predictions go to disk as soon as they are known.
    """
    scored: dict[str, Scored] = {}
    for name in sorted(splits, key=lambda name: name != held_out):
        texts, ragged = splits[name].texts, splits[name].ragged
        if name == "train" and len(texts) > _MOST_TRAIN_METRIC_TEXTS:
            generator = np.random.default_rng(purpose_seed(config.seed, "train metrics"))
            rows = np.sort(generator.choice(len(texts), _MOST_TRAIN_METRIC_TEXTS, replace=False))
            reporter.say(f"train metrics: a sample of {len(rows):,} of the {len(texts):,} training texts")
            texts, ragged = texts.take(rows), ragged.take(rows)
        phases.doing = f"scoring the {name} texts"
        shape = len(texts), predictor.model.classifier.linear.out_features
        logits, seconds = phases.scores(name, shape, functools.partial(predictor.logits, ragged, reporter))
        scored[name] = one = Scored(texts, predictor.probabilities(logits), seconds)
        if name == held_out:
            settings = predictor.settings
            tables = prediction_tables(texts, one.probabilities, settings.labels, settings.threshold, config.texts)
            phases.predictions(functools.partial(write_predictions, tables=tables))
    return scored
