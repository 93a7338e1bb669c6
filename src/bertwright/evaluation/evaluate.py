"""The act of judging a finished run on other texts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertwright import hardware, runs
from bertwright.config import EvaluateConfig, build
from bertwright.data.columns import read_labelled
from bertwright.data.tokenize import token_folders, token_ids_of
from bertwright.errors import RunError
from bertwright.evaluation.judge import TASKS, extremes_of, judge, prediction_tables, say_notes, write_predictions
from bertwright.evaluation.predictor import Predictor
from bertwright.evaluation.show import show_result
from bertwright.model.checkpoint import load_classifier
from bertwright.model.sources import find_folder
from bertwright.progress import Reporter


def evaluate(run: str | Path, data: str | Path | Sequence[str | Path], *, quiet: bool = False, **settings: Any) -> dict:
    """The result of scoring the labelled texts in ``data`` with a run's classifier, as result.json holds it.

    ``settings`` are those of ``bertwright evaluate``. With ``output`` the result becomes a run of its own, which
    names the run that it judges.

    Raises:
        UserError: bad settings, a run without a classifier, data that cannot be read, or an output in the way.
    """
    config = build(EvaluateConfig, {**settings, "run": run, "data": data})
    return run_evaluation(config, Reporter(quiet=quiet, results=not quiet))


def run_evaluation(config: EvaluateConfig, reporter: Reporter) -> dict[str, Any]:
    """Score, judge, record and show; returns what result.json holds."""
    started = time.perf_counter()
    output = None if config.output is None else Path(config.output)
    if output is not None:
        _keep_judged_run(output, config.run)
        runs.prepare_output(output, config.overwrite)
    predictor = Predictor.from_loaded(load_classifier(config.run), config)
    for note in predictor.notes:
        reporter.say(f"model: {note}")
    reporter.say(predictor.summary())
    read_started = time.perf_counter()
    trained = predictor.settings
    texts = read_labelled(
        config.data,
        config,
        predictor.labels,
        kind=trained.kind,
        threshold=trained.label_threshold,
        hard=trained.hard_labels,
    )
    say_notes(texts, reporter)
    read_s = time.perf_counter() - read_started
    tokenize_started = time.perf_counter()
    ragged = token_ids_of(texts, predictor.tokenizer, predictor.settings, config.run, reporter)
    tokenize_s = time.perf_counter() - tokenize_started
    infer_started = time.perf_counter()
    scores = predictor.probabilities(predictor.logits(ragged, reporter))
    infer_s = time.perf_counter() - infer_started
    threshold = predictor.settings.threshold
    metrics = judge(texts, scores, threshold)
    total_s = time.perf_counter() - started
    num_tokens = int(ragged.starts[-1])
    result = {
        "task": TASKS[texts.kind],
        "labels": list(predictor.labels),
        "model": config.run,
        "data": {
            "train_texts": None,
            "validation_texts": None,
            "test_texts": len(texts),
            "train_sha256": None,
            "test_sha256": texts.sha256,
            "shared_texts": None,
            "truncated_share": ragged.truncated_share,
            "bad_rows": len(texts.bad_rows),
        },
        "seconds": {"read": read_s, "tokenize": tokenize_s, "train": None, "infer": infer_s, "total": total_s},
        "rates": {
            "tokenize_texts_per_s": len(texts) / tokenize_s if texts.tokens is None else None,
            "train_texts_per_s": None,
            "train_tokens_per_s": None,
            "train_batches_per_s": None,
            "infer_texts_per_s": len(texts) / infer_s,
            "infer_tokens_per_s": num_tokens / infer_s,
        },
        "memory": {
            "peak_process_bytes": hardware.peak_process_bytes(),
            "peak_gpu_bytes": hardware.peak_gpu_bytes(predictor.device),
        },
        "cost": hardware.cost(config.usd_per_hour, total_s),
        "metrics": {"train": {}, "validation": {}, "test": metrics},
        "extremes": extremes_of(texts, scores, predictor.labels, config.num_extremes, config.texts),
        "steps": None,
        "best_step": None,
    }
    if output is not None:
        with runs.whole_folder(output, config.overwrite) as partial:
            writer = runs.RunWriter(partial, "evaluate", config.model_dump(mode="json"))
            writer.environment(
                {
                    **hardware.describe(predictor.device),
                    **predictor.describe(),
                    "token_ids_from": token_folders([texts]),
                }
            )
            tables = prediction_tables(texts, scores, predictor.labels, threshold, config.texts)
            write_predictions(partial / runs.PREDICTIONS, tables)
            writer.result(result)
        reporter.say(f"evaluation: {output}")
    show_result(result, reporter)
    return result


def _keep_judged_run(output: Path, run: str) -> None:
    """Refuse an output that would replace the judged run, hold it or lie inside it, by whatever path they are named.

    Raises:
        RunError: the output touches the judged run.
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
            raise RunError(f"{output}: touches the judged run, {folder}; pass another --output")
