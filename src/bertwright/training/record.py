"""What a training leaves when it is over: scores, predictions and the result."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertwright import hardware, runs
from bertwright.config.train import TrainConfig
from bertwright.data.columns import LabelledTexts
from bertwright.data.ragged import Ragged
from bertwright.data.split import count_shared_texts
from bertwright.evaluation.judge import TASKS, extremes_of, judge, prediction_tables, write_predictions
from bertwright.evaluation.judgement import Settled, judgement_record, settle
from bertwright.evaluation.predictor import Predictor
from bertwright.model.classifier_settings import SETTINGS
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed
from bertwright.steps import FILE as STEPS
from bertwright.steps import write_trace
from bertwright.training.distributed import ALONE, Alone, Together, in_shares
from bertwright.training.follow import SCORE
from bertwright.training.held_memory import held_bytes
from bertwright.training.phases import Phases, Trained
from bertwright.training.prepare import Prepared, Split
from bertwright.training.student import teacher_record, unlabelled_record
from bertwright.training.trace import trace_of

# More training texts than this are sampled for the metrics of the training texts.
MOST_TRAIN_METRIC_TEXTS = 50_000


@dataclass(frozen=True)
class Scored:
    """Texts with their logits and probabilities (texts, labels), and the seconds that scoring them took."""

    texts: LabelledTexts
    logits: np.ndarray
    probabilities: np.ndarray
    seconds: float


def write_steps(prepared: Prepared, losses: np.ndarray | None, phases: Phases, reporter: Reporter) -> None:
    """Write steps.parquet, unless it is there; ``losses`` (steps,) are None where they are no longer known."""
    path = phases.output / STEPS
    if path.exists():
        return
    if losses is None:
        reporter.warn(f"{path}: not written, since the losses of the steps were lost; the run goes on")
        return
    phases.doing = "writing the trace"
    split = prepared.splits["train"]
    taught_by = "" if prepared.teaching is None else prepared.teaching.teacher.weights_sha256
    initial = prepared.initial_weights_sha256
    trace = trace_of(prepared.config, split.texts, prepared.learnt, losses, initial, taught_by)
    write_trace(path, trace)


def score(
    prepared: Prepared, predictor: Predictor, phases: Phases, reporter: Reporter, group: Alone | Together = ALONE
) -> tuple[dict[str, Scored], Settled]:
    """Every split scored by the kept weights, in evaluation mode; of the training texts at most 50,000.

    The held-out texts come first, and their predictions go to disk as soon as they are known. Where a threshold or a
    temperature is asked for, the validation texts come before them: what is settled on them goes into the model, and
    all scores and decisions follow it.
    """
    config, held_out = prepared.config, prepared.held_out
    settles = prepared.goal is not None or config.calibrate
    settled = Settled(predictor.settings.threshold, predictor.settings.temperature)
    first = "validation" if settles else held_out
    scored: dict[str, Scored] = {}
    for name in sorted(prepared.splits, key=lambda name: (name != first, name != held_out)):
        split, rows = _sampled(name, prepared.splits[name], config, reporter)
        texts = split.texts
        phases.doing = f"scoring the {name} texts"
        shape = len(texts), predictor.model.classifier.linear.out_features
        logits, seconds = phases.scores(
            name, shape, functools.partial(_logits, predictor, split.ragged, name, rows, reporter, group)
        )
        if settles and name == "validation":
            settled = settle(config, prepared.goal, logits, texts, name, settled, reporter)
            _keep(settled, predictor, phases)
        scored[name] = one = Scored(texts, logits, predictor.probabilities(logits), seconds)
        if name != "train":
            file = runs.PREDICTIONS if name == held_out else runs.VALIDATION_PREDICTIONS
            settings = predictor.settings
            tables = prediction_tables(texts, one.probabilities, settings.labels, settings.threshold, config.texts)
            phases.predictions(functools.partial(write_predictions, tables=tables), file)
    return scored, settled


def _logits(
    predictor: Predictor,
    ragged: Ragged,
    name: str,
    rows: np.ndarray | None,
    reporter: Reporter,
    group: Alone | Together,
) -> np.ndarray:
    """(texts, labels) float32 of ``ragged``, the ``rows`` of the split ``name``, all of it without."""
    if not isinstance(group, Together):
        return predictor.logits(ragged, reporter)
    with group.doing(SCORE, name, rows):
        return in_shares(group, ragged.lengths, lambda mine: predictor.logits(ragged.take(mine), reporter))


def _keep(settled: Settled, predictor: Predictor, phases: Phases) -> None:
    """Let the classifier and its folder have the threshold and the temperature that were found."""
    update = {"threshold": settled.threshold, "temperature": settled.temperature}
    predictor.settings = settings = predictor.settings.model_copy(update=update)
    phases.settle(SETTINGS, lambda path: runs.write_json(path, settings.model_dump()))


def _sampled(name: str, split: Split, config: TrainConfig, reporter: Reporter) -> tuple[Split, np.ndarray | None]:
    """The split; of many training texts a sample, and its rows."""
    num_texts = len(split.texts)
    if name != "train" or num_texts <= MOST_TRAIN_METRIC_TEXTS:
        return split, None
    generator = np.random.default_rng(purpose_seed(config.seed, "train metrics"))
    rows = np.sort(generator.choice(num_texts, MOST_TRAIN_METRIC_TEXTS, replace=False))
    reporter.say(f"train metrics: a sample of {len(rows):,} of the {num_texts:,} training texts")
    return Split(split.texts.take(rows), split.ragged.take(rows)), rows


def result_of(
    prepared: Prepared,
    trained: Trained,
    scored: dict[str, Scored],
    settled: Settled,
    phases: Phases,
    reporter: Reporter,
) -> dict[str, Any]:
    """All that was measured, as result.json holds it."""
    config, sources, held_out = prepared.config, prepared.sources, prepared.held_out
    labels = prepared.loaded.settings.labels
    metrics = {name: judge(one.texts, one.probabilities, settled.threshold) for name, one in scored.items()}
    judged = {name: (one.texts, one.logits) for name, one in scored.items() if name != "train"}
    extremes: dict[str, Any] = {"highest": [], "lowest": []}
    shared_texts = 0
    if held_out is None:
        reporter.say("no held-out texts: nothing to judge on. Pass --test or --validation-share")
    else:
        one = scored[held_out]
        extremes = extremes_of(one.texts, one.probabilities, labels, config.num_extremes, config.texts)
        learnt_from = sources.train if sources.test is None else sources.given
        shared_texts = count_shared_texts(learnt_from, one.texts)
    if shared_texts:
        reporter.say(
            f"{shared_texts:,} of the held-out texts also stand among the training texts: "
            "the figures for them are too good"
        )
    total_s = phases.seconds("total")
    result: dict[str, Any] = {
        "task": TASKS[sources.train.kind],
        "labels": list(sources.train.labels),
        "model": prepared.loaded.description,
        "data": {**_data(prepared), "shared_texts": shared_texts, "bad_rows": _num_bad_rows(prepared)},
        "seconds": {
            "read": phases.seconds("read"),
            "tokenize": phases.seconds("tokenize"),
            "train": trained.train_s,
            "infer": None if held_out is None else scored[held_out].seconds,
            "total": total_s,
        },
        "rates": _rates(prepared, trained, scored),
        "memory": {
            "peak_process_bytes": hardware.peak_process_bytes(),
            "peak_gpu_bytes": hardware.peak_gpu_bytes(prepared.machine.device),
            "held_bytes": held_by_weights(prepared),
        },
        "cost": hardware.cost(config.usd_per_hour, total_s),
        "metrics": {"train": {}, "validation": {}, "test": {}} | metrics,
        "judgement": judgement_record(settled, labels, judged, held_out),
        "extremes": extremes,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "token_budget": trained.token_budget,
        "resumed": phases.num_resumed,
    }
    if prepared.teaching is not None:
        result["seconds"]["teacher"] = phases.seconds("teacher")
        result["teacher"] = teacher_record(prepared.teaching, prepared.loaded.model, sources.test)
        result["data"] |= unlabelled_record(prepared.teaching, sources.unlabelled)
    return result


def held_by_weights(prepared: Prepared) -> dict[str, int]:
    """Bytes that the training holds for weights, gradients and the optimizer."""
    config, model = prepared.config, prepared.loaded.model
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    num_learning = num_weights
    if config.freeze_encoder:
        num_learning = sum(parameter.numel() for parameter in model.classifier.parameters())
    return held_bytes(num_learning, num_weights - num_learning, prepared.machine.dtype.itemsize, config.optimizer)


def _data(prepared: Prepared) -> dict[str, Any]:
    """How many texts there are, from which files, and how much of them was read."""
    sources, splits = prepared.sources, prepared.splits.values()
    num_texts = sum(len(split.texts) for split in splits)
    return {
        "train_texts": len(sources.train),
        "validation_texts": 0 if sources.validation is None else len(sources.validation),
        "test_texts": 0 if sources.test is None else len(sources.test),
        "train_sha256": sources.train.sha256,
        "train_files_sha256": list(sources.train.files_sha256),
        "test_sha256": None if sources.test is None else sources.test.sha256,
        "truncated_share": sum(split.ragged.num_truncated for split in splits) / num_texts,
        "in_windows_share": sum(split.ragged.num_in_windows for split in splits) / num_texts,
        "windows": sum(split.ragged.num_sequences for split in splits),
    }


def _num_bad_rows(prepared: Prepared) -> int:
    sources = prepared.sources
    files = [sources.train, sources.test]
    if prepared.config.validation:  # drawn from the training texts, they share their bad rows
        files.append(sources.validation)
    return sum(len(texts.bad_rows) for texts in files if texts is not None)


def _rates(prepared: Prepared, trained: Trained, scored: dict[str, Scored]) -> dict[str, Any]:
    splits, held_out = prepared.splits, prepared.held_out
    num_tokenized = sum(len(split.texts) for split in splits.values() if split.texts.tokens is None)
    rates: dict[str, Any] = {
        "tokenize_texts_per_s": num_tokenized / prepared.tokenize_s if num_tokenized else None,
        "train_texts_per_s": trained.num_texts / trained.train_s,
        "train_tokens_per_s": trained.num_tokens / trained.train_s,
        "train_batches_per_s": trained.steps / trained.train_s,
        "infer_texts_per_s": None,
        "infer_tokens_per_s": None,
    }
    if held_out is not None:
        infer_s = scored[held_out].seconds
        rates["infer_texts_per_s"] = len(scored[held_out].texts) / infer_s
        rates["infer_tokens_per_s"] = int(splits[held_out].ragged.starts[-1]) / infer_s
    return rates
