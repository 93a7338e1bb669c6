"""Runs side by side: quality with intervals, tests of differences, what more effort bought. No torch here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.errors import UserError
from bertwright.evaluation.few_texts import notes_of_few
from bertwright.evaluation.judge import KINDS
from bertwright.evaluation.metrics import METRIC_NAMES_OF, default_metric
from bertwright.evaluation.show import held_out_split
from bertwright.evaluation.uncertainty import Measured, mean_interval, measure, num_samples_for
from bertwright.experiments.contenders import Contender, Scores, contenders_of, read_scores
from bertwright.experiments.differences import PAIRS, Pairs, differences_of, pairs_of
from bertwright.experiments.finished_runs import is_number, open_finished, refuse_other_texts
from bertwright.experiments.pareto import pareto_of
from bertwright.experiments.ranking import rankings_of
from bertwright.experiments.sweep_record import SIDE_BY_SIDE
from bertwright.experiments.worth import worth_of
from bertwright.runs import Run, reading_records

# A metric on record and the same from the predictions may differ by the rounding of float32 scores.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found. All of it is plain Python values that JSON can hold; torch is not needed to read it.

    Runs of one setting that differ in their seed alone are one *contender*. Its name is that of its run, or what its
    runs' names share; contenders are what is compared.

    Attributes:
        records: a dict for each run, in the order given: the keys of ``compare``'s docstring, and ``contender`` (name),
            ``intervals`` ({metric: (low, high)}, of this run's texts alone; a metric without one is absent).
        contenders: a dict for each contender: ``name``, ``runs`` (list of paths), ``seeds`` (list), ``model``,
            ``epochs``, ``steps``, ``metrics`` ({metric: mean over its runs}), ``intervals`` ({metric: (low, high)},
            over texts and, where it has several runs, over seeds), ``train_s``, ``total_s``, ``infer_s_per_text``,
            ``peak_process_bytes``, ``peak_gpu_bytes``, ``usd`` (means over its runs; None where unknown).
        differences: a dict for each pair of contenders and metric: ``a``, ``b`` (names), ``metric``, ``difference``
            (value of a - value of b), ``low``, ``high``, ``p``, ``p_adjusted`` (Holm, over all of this list), ``test``
            (the test's name), ``verdict`` ("better": a is better than b; "worse"; "cannot tell"), ``texts_needed``
            (texts in all at which a difference of this size would be told with power 0.8; None where it is told
            already, or where no number of texts would do), ``more_texts`` (of these, those still missing),
            ``seeds_hide_it`` (seeds differ so much that no number of texts would do), ``num_texts``, ``seeds`` (runs of
            a and of b), ``value_a``, ``value_b``, ``why_untested`` (None where there is a test), ``sentence``.
            Without a test ``low``, ``high``, ``p``, ``p_adjusted`` are None.
        rankings: a dict for each pair: ``a``, ``b``, ``score`` (what ranks the texts, in words), ``spearman``,
            ``kendall``, ``k``, ``shared_highest``, ``shared_lowest`` (of the k texts at each end, how many are the
            same), ``highest``, ``lowest`` (lists of dicts ``rank``, and for ``a`` and ``b`` each a dict ``row``,
            ``score``, ``text`` (None where not kept), ``label``, ``rank_in_other``).
        worth: a dict for each pair that differs in epochs alone or in the model: ``a`` (less), ``b`` (more), ``what``
            ("epochs" or "model"), ``also`` (other settings that differ), ``metric``, ``gain`` (b's improvement,
            positive when better), ``low``, ``high``, ``p``, ``p_adjusted`` (None where the pair is not among
            ``differences``: then ``p``, unadjusted, makes the verdict), ``verdict`` (of b against a),
            ``extra_minutes``, ``extra_usd``, ``gain_per_minute``, ``gain_per_usd``, ``sentence``.
        pareto: a dict for each contender: ``name``, ``quality``, ``metric``, ``infer_s_per_text``, ``memory_bytes``,
            ``usd``, ``train_s``, ``on_front`` (bool), ``dominated_by`` (list of names), ``compared_on`` (list of keys).
        metric: the metric that ``worth`` and ``pareto`` speak of, the first of those tested.
        alpha: the level of the tests; intervals are of 1 - alpha.
        notes: what is missing and why, one line each.
    """

    records: list[dict[str, Any]] = field(repr=False)
    contenders: list[dict[str, Any]] = field(default_factory=list, repr=False)
    differences: list[dict[str, Any]] = field(default_factory=list, repr=False)
    rankings: list[dict[str, Any]] = field(default_factory=list, repr=False)
    worth: list[dict[str, Any]] = field(default_factory=list, repr=False)
    pareto: list[dict[str, Any]] = field(default_factory=list, repr=False)
    metric: str | None = None
    alpha: float = 0.05
    notes: list[str] = field(default_factory=list, repr=False)

    def _repr_html_(self) -> str:
        """What Jupyter shows: verdicts, table and pictures. They are drawn when it asks for them."""
        return str(importlib.import_module("bertwright.reporting.notebook").comparison_html(self))

    def record(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        return asdict(self)


def compare(
    *runs: str | Path,
    metrics: Sequence[str] = (),
    pairs: Pairs = "all",
    alpha: float = 0.05,
    bootstrap_samples: int | None = None,
    top: int = 5,
) -> Comparison:
    """``runs``, folders of finished runs that were judged on the same texts, side by side.

    A record of a run has the keys ``run``, ``act``, ``task`` (the kind of labels, as in result.json), ``model``,
    ``seed``, ``epochs``, ``steps``, ``judged_on``, ``metrics`` (of the held-out texts), ``train_accuracy``, ``device``,
    ``dtype``, ``seconds``, ``peak_process_bytes``, ``peak_gpu_bytes``, ``usd``, ``contender``, ``intervals``.

    Args:
        metrics: those whose differences are tested; all of these tests count in Holm's method. If not given, the one
            by which a training of this kind of labels keeps its best state. Choose before you look.
        pairs: which contenders are tested against each other: "all", "neighbours" (each and the one before) or "first"
            (each and the first).
        alpha: the level of the tests; intervals are of 1 - alpha.
        bootstrap_samples: resamples; 2,000, or fewer for very many texts, if not given.
        top: how many highest and lowest scored texts are set side by side.

    Raises:
        UserError: fewer than two runs; one is missing, damaged or not finished; they were judged on different texts;
            an argument that is none.
    """
    _check(metrics, pairs, alpha, bootstrap_samples)
    if top < 0:
        raise UserError(f"--top {top}: expected a number from 0 on")
    with reading_records(*runs):
        return _compare(runs, metrics, pairs, alpha, bootstrap_samples, top)


def _compare(
    runs: Sequence[str | Path],
    metrics: Sequence[str],
    pairs: Pairs,
    alpha: float,
    bootstrap_samples: int | None,
    top: int,
) -> Comparison:
    found = open_finished(runs)
    texts = refuse_other_texts(found)
    contenders = contenders_of(found)
    scores = read_scores(found, texts)
    notes = list(scores.notes)
    measured = {} if scores.judged is None else measure(scores.judged, None, bootstrap_samples)
    records = [_record(run) for run in found]
    measured = _as_on_record(measured, records, scores, notes)
    tested = _tested_metrics(found, records, metrics)
    models = [[m for place in c.members if (m := scores.places[place]) is not None] for c in contenders]
    models = [own if len(own) == len(c.members) else [] for own, c in zip(models, contenders, strict=True)]
    for place, record in enumerate(records):
        model = scores.places[place]
        own = [] if model is None else [model]
        record["contender"] = next(c.name for c in contenders if place in c.members)
        record["intervals"] = _intervals(scores, measured, own, record["metrics"], alpha)
    parties = [
        _contender_record(contender, [records[place] for place in contender.members]) for contender in contenders
    ]
    for party, own in zip(parties, models, strict=True):
        party["intervals"] = _intervals(scores, measured, own, party["metrics"], alpha)
    differences = differences_of(parties, models, scores.judged, measured, tested, pairs, alpha)
    metric = tested[0] if tested else None
    worth = []
    if metric is not None:
        worth = worth_of(contenders, parties, models, scores.judged, measured, metric, alpha, differences)
    names = [contender.name for contender in contenders]
    rankings = rankings_of(names, models, pairs_of(len(names), pairs), found, scores, top)
    pareto = pareto_of(parties, metric)
    if scores.judged is not None:
        notes += notes_of_few(scores.judged, dict.fromkeys([*tested, *(n for r in records for n in r["metrics"])]))
    notes += [*_notes(contenders, scores, bootstrap_samples), *_times_notes(found)]
    return Comparison(records, parties, differences, rankings, worth, pareto, metric, alpha, notes)


def _check(metrics: Sequence[str], pairs: str, alpha: float, bootstrap_samples: int | None) -> None:
    if isinstance(metrics, str):
        raise UserError(f"metrics is {metrics!r}, expected a list of names")
    if pairs not in PAIRS:
        raise UserError(f"--pairs {pairs}: expected one of {', '.join(PAIRS)}")
    if not 0 < alpha <= 0.5:
        raise UserError(f"--alpha {alpha}: expected a number above 0 and at most 0.5, such as 0.05")
    if bootstrap_samples is not None and not 100 <= bootstrap_samples <= 1_000_000:
        raise UserError(f"--bootstrap-samples {bootstrap_samples}: expected a number from 100 to 1,000,000")


def _tested_metrics(runs: Sequence[Run], records: Sequence[Mapping[str, Any]], asked: Sequence[str]) -> list[str]:
    """The metrics whose differences are tested: those ``asked`` for, or the main one of the kind of labels.

    Raises:
        UserError: a metric that no run has.
    """
    kind = KINDS.get(records[0]["task"], "classes")
    known = [name for name in METRIC_NAMES_OF[kind] if any(is_number(r["metrics"].get(name)) for r in records)]
    for name in asked:
        if name not in known:
            expected = ", ".join(known) or "none, for there are no held-out texts"
            raise UserError(f"--metric {name}: the runs have no such metric; expected one of {expected}")
    if asked:
        return list(dict.fromkeys(asked))
    main = default_metric(kind, len((runs[0].result or {}).get("labels") or ()))
    shared = [name for name in known if all(is_number(r["metrics"].get(name)) for r in records)]
    return [main] if main in shared else shared[:1]


def _as_on_record(
    measured: dict[str, Measured], records: Sequence[Mapping[str, Any]], scores: Scores, notes: list[str]
) -> dict[str, Measured]:
    """Without metrics whose values from the predictions are not those on record: their intervals would mislead."""
    kept = {}
    for name, found in measured.items():
        for record, model in zip(records, scores.places, strict=True):
            value = record["metrics"].get(name)
            if model is None or not is_number(value):
                continue
            if abs(float(found.values[model]) - value) > _ROUNDING * max(1.0, abs(value)):
                notes.append(
                    f"{record['run']}: {name} is {value:.6g} on record and {found.values[model]:.6g} by its "
                    f"predictions: no intervals and tests of {name}"
                )
                break
        else:
            kept[name] = found
    return kept


def _intervals(
    scores: Scores,
    measured: Mapping[str, Measured],
    models: Sequence[int],
    metrics: Mapping[str, Any],
    alpha: float,
) -> dict[str, tuple[float, float]]:
    if scores.judged is None or not models:
        return {}
    found = {}
    for name, values in measured.items():
        if is_number(metrics.get(name)) and (one := mean_interval(scores.judged, values, models, alpha)) is not None:
            found[name] = (float(one[0]), float(one[1]))
    return found


def _times_notes(runs: Sequence[Run]) -> list[str]:
    """What must be known of the times of runs that were trials of a sweep, and shared a machine."""
    found = []
    for run in runs:
        beside = (run.result or {}).get("side_by_side")
        trials = beside.get("trials") if isinstance(beside, Mapping) else None
        if isinstance(trials, int | float) and trials >= SIDE_BY_SIDE:
            found.append(run.path.name)
    if not found:
        return []
    which = "all runs" if len(found) == len(runs) else f"{len(found):,} of {len(runs):,} runs"
    return [
        f"Times of {which} are of trials of a sweep that went side by side, and dollars are their shares: a run that "
        "has the machine to itself may be faster. For times to compare, sweep with --jobs 1"
    ]


def _notes(contenders: Sequence[Contender], scores: Scores, asked: int | None) -> list[str]:
    notes = []
    seeds = [len(contender.members) for contender in contenders]
    if scores.judged is not None and max(seeds) == 1:
        notes.append(
            "Each setting was trained once: intervals and tests tell what other test texts would change, not what "
            "another seed would. Train with further seeds and compare all: runs of one setting are put together"
        )
    elif scores.judged is not None and min(seeds) < 3:
        notes.append(
            "Some settings have fewer than three seeds: what a seed does is hardly known from them, and intervals are "
            "wide or, for one seed beside several, borrow it from the others"
        )
    if scores.judged is not None and asked is None and (used := num_samples_for(scores.judged)) < 2_000:
        notes.append(f"The bootstrap drew {used:,} resamples, not 2,000, since there are many texts and labels")
    return notes


def _record(run: Run) -> dict[str, Any]:
    assert run.result is not None
    split = held_out_split(run.metrics)
    metrics = run.metrics[split] if split else {}
    return {
        "run": str(run.path),
        "act": run.act,
        "task": str(run.result.get("task")),
        "model": run.settings.get("model") or run.settings.get("run"),
        "seed": run.settings.get("seed"),
        "epochs": run.settings.get("epochs"),
        "steps": run.result.get("steps"),
        "judged_on": split,
        "metrics": {name: value for name, value in metrics.items() if value is None or is_number(value)},
        "train_accuracy": _number((run.metrics.get("train") or {}).get("accuracy")),
        "device": run.environment.get("gpu") or run.environment.get("cpu"),
        "dtype": run.environment.get("dtype"),
        "rates": {name: _number(value) for name, value in run.result["rates"].items()},
        "seconds": {name: _number(value) for name, value in run.result["seconds"].items()},
        "peak_process_bytes": _number(run.result["memory"]["peak_process_bytes"]),
        "peak_gpu_bytes": _number(run.result["memory"]["peak_gpu_bytes"]),
        "usd": _number(run.result["cost"]["usd"]),
    }


def _contender_record(contender: Contender, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``contenders`` of ``Comparison``: means over its runs, those of the training from the run that trained."""
    first = contender.trainings[0]
    shared = [name for name in records[0]["metrics"] if all(is_number(r["metrics"].get(name)) for r in records)]
    rates = [(record["rates"] or {}).get("infer_texts_per_s") for record in records]
    return {
        "name": contender.name,
        "runs": [record["run"] for record in records],
        "seeds": [training.settings.get("seed") for training in contender.trainings],
        "model": first.settings.get("model") or first.settings.get("run"),
        "epochs": first.settings.get("epochs"),
        "steps": _number((first.result or {}).get("steps")),
        "metrics": {name: float(np.mean([record["metrics"][name] for record in records])) for name in shared},
        "train_s": _mean([(training.result or {})["seconds"].get("train") for training in contender.trainings]),
        "total_s": _mean([(training.result or {})["seconds"].get("total") for training in contender.trainings]),
        "infer_s_per_text": _mean([1 / rate if rate is not None and rate > 0 else None for rate in rates]),
        "peak_process_bytes": _mean([record["peak_process_bytes"] for record in records]),
        "peak_gpu_bytes": _mean([record["peak_gpu_bytes"] for record in records]),
        "usd": _mean([(training.result or {})["cost"].get("usd") for training in contender.trainings]),
    }


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if all(map(is_number, values)) else None


def _number(value: Any) -> float | None:
    return value if is_number(value) else None
