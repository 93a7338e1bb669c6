"""The act of making a cascade: bertwright cascade."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertwright import __version__, runs
from bertwright.config.base import build
from bertwright.config.cascade import CascadeConfig
from bertwright.cpus import num_usable_cpus
from bertwright.data.columns import LabelledTexts
from bertwright.data.tokenize import token_ids_of
from bertwright.errors import DataError, RunError
from bertwright.evaluation.cascade import (
    LARGE,
    SMALL,
    CascadeManifest,
    cascade_settings,
    check_alike,
    is_cascade,
    write_manifest,
)
from bertwright.evaluation.deferral import align, align_logits
from bertwright.evaluation.evaluate import keep_apart
from bertwright.evaluation.graph_predictor import is_exported
from bertwright.evaluation.judge import read_as_trained
from bertwright.evaluation.load_scorer import load_classifier_scorer
from bertwright.evaluation.logit_scorer import ScorerByLogits
from bertwright.evaluation.metrics import check_metric_name, default_metric
from bertwright.evaluation.scores import scores_of
from bertwright.evaluation.significance import Interval
from bertwright.evaluation.tune_cascade import Candidate, Goal, TunedCascade, tune_cascade
from bertwright.progress import Reporter

if TYPE_CHECKING:
    from rich.table import Table

TUNING = "tuning.json"
# Scored before anything is timed, so that what is compiled or laid out anew is there.
_WARM_UP_TEXTS = 64
_SHOWN_SHARES = (0, 0.02, 0.06, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1)


def cascade(
    small: str | Path, large: str | Path, validation: Any, output: str | Path, *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """Make a cascade of two classifiers in the new folder ``output``; returns what tuning.json says of it.

    ``settings`` are those of ``bertwright cascade``. ``bertwright.load``, ``predict``, ``evaluate``, ``export_onnx``
    and ``bertwright serve`` take the folder where they take a run.

    Raises:
        UserError: bad settings, models that do not fit together, texts that cannot be read, an output in the way, or
            no threshold that keeps the quality asked for; then nothing is written.
    """
    given = {**settings, "small": small, "large": large, "validation": validation, "output": output}
    return run_cascade(build(CascadeConfig, given), Reporter(quiet=quiet, results=not quiet))


def run_cascade(config: CascadeConfig, reporter: Reporter) -> dict[str, Any]:
    """Score the validation texts by both, tune, show, and write the folder; returns what tuning.json says."""
    assert config.output is not None
    output = Path(config.output)
    _check_output(output, config)
    small, large = (load_classifier_scorer(run, config) for run in (config.small, config.large))
    check_alike(small.settings, large.settings, config.small, config.large)
    for name, scorer in ((SMALL, small), (LARGE, large)):
        for note in scorer.notes:
            reporter.say(f"{name}: {note}")
        reporter.say(f"{name}: {scorer.summary()}")
    settings = large.settings
    metric = _metric(config, settings.kind, large.labels)
    texts = read_as_trained(config.validation, config, settings, reporter)
    if not len(texts):
        raise DataError(f"{', '.join(config.validation)}: found no texts, expected some to tune on")
    # Token ids that came with the texts are of one length and one tokenizer: they fit one of the models at most.
    texts = dataclasses.replace(texts, tokens=None)
    from_small, from_large = (
        _score(scorer, texts, run, reporter) for scorer, run in ((small, config.small), (large, config.large))
    )
    large_scores = large.probabilities(from_large.logits)
    slopes, biases = align(from_small.logits, large_scores, settings.kind)
    small_scores = scores_of(align_logits(from_small.logits, slopes, biases), settings.kind)
    joint = cascade_settings(small.settings, settings)
    goal = Goal(config.max_loss, config.target)
    tuned = tune_cascade(texts, joint, small_scores, large_scores, from_large.lengths, metric, goal)
    manifest = CascadeManifest(
        bertwright=__version__,
        small=config.small,
        large=config.large,
        sureness=min(tuned.chosen.sureness, 1.0),
        slopes=slopes,
        biases=biases,
        deferred_share=tuned.chosen.deferred_tokens,
    )
    record = _record(config, texts, tuned, from_small.seconds, from_large.seconds)
    with runs.whole_folder(output, config.overwrite, is_cascade) as partial:
        partial.mkdir(parents=True)
        for name, run in ((SMALL, config.small), (LARGE, config.large)):
            copy_classifier(run, partial / name)
        write_manifest(partial, manifest)
        runs.write_json(partial / TUNING, record)
    _show(tuned, record, reporter)
    reporter.say(f"cascade: {output}")
    return {"output": str(output), **record}


def _check_output(output: Path, config: CascadeConfig) -> None:
    """Refuse, before any work, an output in the way.

    Raises:
        UserError: so it is.
    """
    for run in (config.small, config.large):
        if not is_cascade(run):  # which is refused in its own words
            keep_apart(output, run, "copied")
    if output.exists():
        if not config.overwrite:
            raise RunError(f"{output} exists; pass another --output, or --overwrite to replace it")
        if not is_cascade(output):
            raise RunError(f"{output} exists and is not a cascade; --overwrite replaces cascades only")
    runs.check_can_be_made(output)


def _metric(config: CascadeConfig, kind: Any, labels: Sequence[str]) -> str:
    if config.metric is not None:
        check_metric_name(config.metric, kind)
        return config.metric
    run = Path(config.large).expanduser()
    asked = runs.open_run(run).settings.get("best_metric") if runs.is_run(run) else None
    return asked or default_metric(kind, len(labels))


@dataclasses.dataclass(frozen=True)
class _Scored:
    """What one model says of the validation texts: logits (texts, labels), tokens (texts,), and how long it took."""

    logits: np.ndarray
    lengths: np.ndarray
    seconds: float


def _score(scorer: ScorerByLogits, texts: LabelledTexts, name: str, reporter: Reporter) -> _Scored:
    first = texts.take(np.arange(min(_WARM_UP_TEXTS, len(texts))))
    scorer.logits(token_ids_of(first, scorer.tokenizer, scorer.settings, name, Reporter(quiet=True)))
    started = time.perf_counter()
    ragged = token_ids_of(texts, scorer.tokenizer, scorer.settings, name, reporter)
    logits = scorer.logits(ragged, reporter)
    return _Scored(logits, ragged.lengths, time.perf_counter() - started)


def copy_classifier(run: str, folder: Path) -> None:
    """Write the classifier that ``run`` names into the new ``folder``, which then needs nothing else.

    Raises:
        UserError: there is none.
    """
    if is_exported(run):
        shutil.copytree(Path(run).expanduser(), folder)
        return
    from bertwright.model.checkpoint import load_classifier, save_model  # which load torch: a graph does without

    loaded = load_classifier(run)
    save_model(folder, loaded.model.config, dict(loaded.model.state_dict()), loaded.tokenizer, loaded.settings)


def _record(
    config: CascadeConfig, texts: LabelledTexts, tuned: TunedCascade, small_s: float, large_s: float
) -> dict[str, Any]:
    def line(one: Candidate) -> dict[str, Any]:
        values = dataclasses.asdict(one) | {"sureness": min(one.sureness, 1.0), "interval": _pair(one.interval)}
        return values | {"cost": (small_s + large_s * one.deferred_tokens) / large_s}

    return {
        "format": 1,
        "bertwright": __version__,
        "small": config.small,
        "large": config.large,
        "validation": list(config.validation),
        "validation_sha256": texts.sha256,
        "texts": len(texts),
        "metric": tuned.metric,
        "confidence": 0.95,
        "large_value": tuned.large_value,
        "large_interval": _pair(tuned.large_interval),
        "max_loss": tuned.allowed,
        "target": config.target,
        "seconds": {"small": small_s, "large": large_s, "num_cpus": num_usable_cpus()},
        "chosen": line(tuned.chosen),
        "candidates": [line(one) for one in tuned.candidates],
    }


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _show(tuned: TunedCascade, record: dict[str, Any], reporter: Reporter) -> None:
    reporter.show(cascade_table(tuned, record))
    chosen = record["chosen"]
    if chosen["cost"] >= 1:
        reporter.warn(
            f"this cascade takes {chosen['cost']:.2f} times the time of the large model here: the large model alone is "
            "better and quicker. Allow more loss, or take a smaller or better small model"
        )
    elif not chosen["deferred_texts"]:
        reporter.warn("the small model alone is good enough: the cascade never asks the large one")


def cascade_table(tuned: TunedCascade, record: dict[str, Any]) -> Table:
    """What was tried, from deferring nothing to deferring all; the chosen one has a mark."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    allowed = (
        f"{tuned.metric} of at least {record['target']:g}"
        if tuned.allowed is None
        else f"at most {tuned.allowed:.4f} of {tuned.metric} lost"
    )
    table = Table(
        title=Text(f"Validation: {record['texts']:,} texts; wanted: {allowed}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("sureness", "to large", tuned.metric, "95 % interval", "loss at most", "time", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = {_nearest(record["candidates"], share)["sureness"] for share in _SHOWN_SHARES}
    for line in record["candidates"]:
        chosen = line == record["chosen"]
        if not chosen and line["sureness"] not in shown:
            continue
        row = (
            f"{line['sureness']:.4f}",
            f"{line['deferred_texts']:.1%}",
            f"{line['value']:.4f}",
            _interval(line["interval"]),
            f"{max(line['loss_at_most'], 0.0):.4f}",
            f"{line['cost']:.2f}",
            "chosen" if chosen else "",
        )
        table.add_row(*map(Text, row))
    alone = ("large alone", "", f"{tuned.large_value:.4f}", _interval(tuned.large_interval), "", "1.00", "")
    table.add_row(*map(Text, alone))
    return table


def _nearest(candidates: Sequence[dict[str, Any]], share: float) -> dict[str, Any]:
    return min(candidates, key=lambda one: abs(one["deferred_texts"] - share))


def _interval(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f}–{interval[1]:.4f}"
