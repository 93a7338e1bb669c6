"""The act of judging a finished run on other texts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright import hardware, runs
from bertwright.config.base import build
from bertwright.config.evaluate import EvaluateConfig
from bertwright.config.parts import DataSettings, ScoringMachineSettings
from bertwright.data.columns import LabelledTexts
from bertwright.data.ragged import Ragged
from bertwright.data.tokenize import token_folders, token_ids_of
from bertwright.errors import RunError, UserError
from bertwright.evaluation.cascade import Cascade, is_cascade
from bertwright.evaluation.graph_predictor import is_exported
from bertwright.evaluation.judge import TASKS, extremes_of, judge, prediction_tables, read_as_trained, write_predictions
from bertwright.evaluation.judgement import Settled, check_asked, judgement_record, settle
from bertwright.evaluation.load_scorer import load_scorer
from bertwright.evaluation.logit_scorer import ScorerByLogits
from bertwright.evaluation.score_texts import ids_of, score_in_portions, texts_or_pairs
from bertwright.evaluation.scores import logits_of, scores_of
from bertwright.evaluation.show import show_result
from bertwright.evaluation.threshold import Goal
from bertwright.model.sources import find_folder
from bertwright.progress import Reporter

if TYPE_CHECKING:
    from bertwright.model.checkpoint import Loaded


def evaluate(run: str | Path, data: str | Path | Sequence[str | Path], *, quiet: bool = False, **settings: Any) -> dict:
    """The result of scoring the labelled texts in ``data`` with a run's classifier, as result.json holds it.

    ``settings`` are those of ``bertwright evaluate``. With ``output`` the result becomes a run of its own, which
    names the run that it judges. With ``tune_threshold`` or ``calibrate`` that run has a classifier of its own, too.

    Raises:
        UserError: bad settings, a run without a classifier, data that cannot be read, or an output in the way.
    """
    config = build(EvaluateConfig, {**settings, "run": run, "data": data})
    return run_evaluation(config, Reporter(quiet=quiet, results=not quiet))


def run_evaluation(config: EvaluateConfig, reporter: Reporter) -> dict[str, Any]:
    """Score, judge, record and show; returns what result.json holds.

    Where a threshold or a temperature is asked for, it is found on these texts: they are then validation texts, and the
    run that is written has the judged classifier with them.
    """
    started = time.perf_counter()
    output = None if config.output is None else Path(config.output)
    settles = config.tune_threshold is not None or config.calibrate
    if settles and is_cascade(config.run):
        raise UserError(
            f"{config.run}: a cascade keeps the threshold and the scale of its large model. Give --tune-threshold and "
            "--calibrate to that one, and make the cascade of what comes out"
        )
    if settles and is_exported(config.run):
        raise UserError(
            f"{config.run}: an exported graph keeps its threshold and temperature. Give --tune-threshold and "
            "--calibrate to the run that it was exported from, and export that again"
        )
    if config.tune_threshold is not None:
        Goal.of(config.tune_threshold)  # before any work is done
    if output is not None:
        keep_apart(output, config.run)
        runs.prepare_output(output, config.overwrite)
    scored = score_labelled(config.run, config.data, config, config, reporter, keep_weights=settles)
    predictor, texts = scored.predictor, scored.texts
    settled = Settled(predictor.settings.threshold, predictor.settings.temperature, calibrated=True)
    split = "validation" if settles else "test"
    if settles:
        goal = check_asked(config, texts, "texts")
        settled = settle(config, goal, scored.logits, texts, split, settled, reporter)
        update = {"threshold": settled.threshold, "temperature": settled.temperature}
        predictor.settings = predictor.settings.model_copy(update=update)
        scored = dataclasses.replace(scored, scores=scores_of(scored.logits, texts.kind, settled.temperature))
    scores = scored.scores
    result = _result(config, scored, settled, scores, split, time.perf_counter() - started)
    if output is not None:
        with runs.whole_folder(output, config.overwrite) as partial:
            _write(partial, config, scored, scores, result)
        reporter.say(f"evaluation: {output}")
    show_result(result, reporter)
    return result


@dataclass(frozen=True)
class ScoredTexts:
    """Labelled texts with the scores (texts, labels) that a classifier gives them, and how long that took.

    Attributes:
        logits: (texts, labels) that the scores are made of, by the classifier's temperature; of a cascade, which has
            none, those that the scores would be made of.
        original: the classifier with its float32 weights, where it was asked for.
    """

    predictor: ScorerByLogits | Cascade
    original: Loaded | None
    texts: LabelledTexts
    ragged: Ragged
    scores: np.ndarray
    logits: np.ndarray
    read_s: float
    tokenize_s: float
    infer_s: float


def score_labelled(
    run: str,
    data: Sequence[str],
    how: DataSettings,
    machine: ScoringMachineSettings,
    reporter: Reporter,
    keep_weights: bool = False,
) -> ScoredTexts:
    """Score the labelled texts in the files ``data`` with the classifier of ``run``, reading them as it was trained.

    Args:
        keep_weights: read the classifier once more, as it is saved.

    Raises:
        UserError: a run without a classifier, or data that cannot be read.
    """
    predictor = load_scorer(run, machine)
    for note in predictor.notes:
        reporter.say(f"model: {note}")
    reporter.say(predictor.summary())
    started = time.perf_counter()
    trained = predictor.settings
    texts = read_as_trained(data, how, trained, reporter)
    read_s = time.perf_counter() - started
    started = time.perf_counter()
    if isinstance(predictor, ScorerByLogits):
        ragged = token_ids_of(texts, predictor.tokenizer, trained, run, reporter)
    else:
        ragged = ids_of(predictor, texts, run, reporter)
    tokenize_s = time.perf_counter() - started
    started = time.perf_counter()
    if isinstance(predictor, ScorerByLogits):
        logits = predictor.logits(ragged, reporter)
        scores = predictor.probabilities(logits)
    else:
        with reporter.progress("Scoring", len(texts)) as advance:
            scores = score_in_portions(predictor, texts_or_pairs(texts), ragged, advance)
        logits = logits_of(scores, trained.kind)
        reporter.say(predictor.deferred_in_words())
    infer_s = time.perf_counter() - started
    original = None
    if keep_weights:
        from bertwright.model.checkpoint import load_classifier  # it loads torch, which an exported graph does without

        original = load_classifier(run)
    return ScoredTexts(predictor, original, texts, ragged, scores, logits, read_s, tokenize_s, infer_s)


def _result(
    config: EvaluateConfig, scored: ScoredTexts, settled: Settled, scores: np.ndarray, split: str, total_s: float
) -> dict[str, Any]:
    """What result.json holds of ``scores`` (texts, labels), which are those of the ``split``."""
    texts, predictor, ragged = scored.texts, scored.predictor, scored.ragged
    labels = predictor.labels
    metrics: dict[str, Any] = {"train": {}, "validation": {}, "test": {}}
    metrics[split] = judge(texts, scores, settled.threshold)
    return {
        "task": TASKS[texts.kind],
        "labels": list(labels),
        "model": config.run,
        "data": {
            "train_texts": None,
            "validation_texts": len(texts) if split == "validation" else None,
            "test_texts": len(texts) if split == "test" else None,
            "train_sha256": None,
            "test_sha256": texts.sha256 if split == "test" else None,
            "shared_texts": None,
            "truncated_share": ragged.truncated_share,
            "bad_rows": len(texts.bad_rows),
        },
        "seconds": {
            "read": scored.read_s,
            "tokenize": scored.tokenize_s,
            "train": None,
            "infer": scored.infer_s,
            "total": total_s,
        },
        "rates": {
            "tokenize_texts_per_s": len(texts) / scored.tokenize_s if texts.tokens is None else None,
            "train_texts_per_s": None,
            "train_tokens_per_s": None,
            "train_batches_per_s": None,
            "infer_texts_per_s": len(texts) / scored.infer_s,
            "infer_tokens_per_s": int(ragged.starts[-1]) / scored.infer_s,
        },
        "memory": {
            "peak_process_bytes": hardware.peak_process_bytes(),
            "peak_gpu_bytes": hardware.peak_gpu_bytes(predictor.device),
        },
        "cost": hardware.cost(config.usd_per_hour, total_s),
        "metrics": metrics,
        "judgement": judgement_record(settled, labels, {split: (texts, scored.logits)}, split),
        "extremes": extremes_of(texts, scores, labels, config.num_extremes, config.texts),
        "steps": None,
        "best_step": None,
    }


def _write(
    folder: Path,
    config: EvaluateConfig,
    scored: ScoredTexts,
    scores: np.ndarray,
    result: dict[str, Any],
) -> None:
    """Write the evaluation's own run."""
    predictor, texts = scored.predictor, scored.texts
    settings = predictor.settings
    writer = runs.RunWriter(folder, "evaluate", config.model_dump(mode="json"))
    writer.environment(
        {
            **hardware.describe(predictor.device),
            **predictor.describe(),
            "token_ids_from": token_folders([texts]),
        }
    )
    if scored.original is not None:
        from bertwright.model.checkpoint import save_model

        model = scored.original.model
        save_model(folder / runs.MODEL, model.config, dict(model.state_dict()), scored.original.tokenizer, settings)
    tables = prediction_tables(texts, scores, predictor.labels, settings.threshold, config.texts)
    write_predictions(folder / runs.PREDICTIONS, tables)
    writer.result(result)


def keep_apart(output: Path, run: str, what: str = "judged") -> None:
    """Refuse an output that would replace the run, hold it or lie inside it, by whatever path they are named.

    ``what`` is done with the run, in the message.

    Raises:
        RunError: the output touches the run.
    """
    if not Path(run).expanduser().is_dir():
        return  # a hub name or an installed model: not a folder that an output could name
    model = find_folder(run)[0].resolve()
    judged = [model, Path(run).expanduser().resolve()]
    if runs.is_run(model.parent):
        judged.append(model.parent)
    place = output.resolve()
    for folder in judged:
        if place == folder or place in folder.parents or folder in place.parents:
            raise RunError(f"{output}: touches the {what} run, {folder}; pass another --output")
