"""Whether runs of one seed agree to four decimals and, if not, where they part and what can explain it.

Two trainings with the same settings, texts, first weights and order do the same sums; on another machine they add in
another order, or round otherwise. So what is compared goes from cause to effect: what was asked, the texts, the weights
at the start, the order, the loss of each step, the scores. Torch is never imported here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bertwright import steps
from bertwright.config.train import TrainConfig
from bertwright.errors import RunError
from bertwright.evaluation.stored import read_columns
from bertwright.evaluation.tables import SPLITS
from bertwright.experiments.agreement_record import (
    MACHINE,
    ROUNDING,
    Agreement,
    Difference,
    KnownRun,
    Pair,
    ScoresCompared,
    StepsCompared,
    equal,
    plain,
)
from bertwright.experiments.agreement_words import agreeing, where_they_part, why_they_part
from bertwright.experiments.finished_runs import is_number, open_finished
from bertwright.experiments.show_agreement import side_by_side
from bertwright.runs import Run, reading_records
from bertwright.steps import Trace, read_trace

_DECIMALS = 4
# Two numbers agree where their difference is 0 in four decimals.
_CLOSE = 0.5 * 10**-_DECIMALS
_VISIBLE = 1e-4

# Settings that change no result, or whose effect is compared itself: files and models by their content, and where and
# with what was computed by environment.json.
_OTHERWISE_COMPARED = {
    *("train", "test", "validation", "model", "tokenizer", "device", "dtype", "compile", "token_budget"),
    *("output", "overwrite", "usd_per_hour", "num_extremes", "texts"),
    *("resume", "checkpoint_minutes", "checkpoint_steps"),
    *("data", "run"),  # of an evaluation
    *("unlabelled", "teacher_scores"),  # of a distillation
}


def agreement(*runs: str | Path) -> Agreement:
    """Whether ``runs``, folders of finished runs, agree to four decimals, and where they part.

    Raises:
        UserError: fewer than two runs, or one twice.
        RunError: one is missing, damaged or not finished. A trace or predictions that are damaged are noted instead.
    """
    with reading_records(*runs):
        return _agreement(runs)


def _agreement(runs: Sequence[str | Path]) -> Agreement:
    known = [_known(run) for run in open_finished(runs)]
    pairs = [_pair(known[0], other) for other in known[1:]]
    agree = all(pair.agree for pair in pairs)
    if len(pairs) == 1:
        verdict = pairs[0].verdict
    elif agree:
        verdict = f"These {len(known)} runs agree to four decimals."
    else:
        apart = [pair.other for pair in pairs if not pair.agree]
        verdict = f"{len(apart)} of {len(pairs)} runs do not agree with {known[0].name}: {', '.join(apart)}."
    return Agreement(agree, verdict, [which.name for which in known], pairs, side_by_side(known, pairs))


def _known(run: Run) -> KnownRun:
    assert run.result is not None
    notes: list[str] = []
    trace, predictions = None, None
    if run.is_training:
        if (run.path / steps.FILE).is_file():
            try:
                trace = read_trace(run.path / steps.FILE)
            except RunError as error:
                notes.append(str(error))
        else:
            notes.append(f"{run.path} has no {steps.FILE}, the trace of its steps: it is from an older bertwright")
    try:
        predictions = read_columns(run, lambda name: name != "text")
        if predictions is None:
            notes.append(f"{run.path} has no predictions: single scores are not compared")
    except RunError as error:
        notes.append(str(error))
    return KnownRun(run, run.result, trace, predictions, notes)


def _pair(first: KnownRun, other: KnownRun) -> Pair:
    notes = first.notes + other.notes
    found_steps = None
    if first.trace is not None and other.trace is not None:
        found_steps = _compare_steps(first.trace, other.trace)
    scores = None
    if first.predictions is not None and other.predictions is not None:
        scores = _compare_scores(first.predictions, other.predictions, notes)
    results = _results(first, other, scores)
    settings, data, weights = _settings(first, other), _data(first, other), _weights(first, other)
    machine = _machine(first.run.environment, other.run.environment)
    agree = not results
    pair = Pair(
        first.name,
        other.name,
        agree,
        "",
        results,
        settings,
        data,
        weights,
        machine,
        _same_files(first.run, other.run),
        found_steps,
        scores,
        notes,
    )
    verdict = (
        agreeing(pair) if agree else f"{where_they_part(pair, first.run, other.run)} {why_they_part(pair, other.run)}"
    )
    return Pair(**{**pair.__dict__, "verdict": verdict})


def _settings(first: KnownRun, other: KnownRun) -> list[Difference]:
    """Settings that can change a result. One that an older run does not have has its default."""
    defaults = {
        name: item.get_default(call_default_factory=True)
        for name, item in TrainConfig.model_fields.items()
        if not item.is_required()
    }
    # Where models or tokenizers are known by their hashes, their names say nothing more.
    hashed = first.trace is not None and other.trace is not None
    left_out = _OTHERWISE_COMPARED if hashed else _OTHERWISE_COMPARED - {"model", "tokenizer"}
    values = []
    for run in (first.run, other.run):
        given = {name: plain(value) for name, value in {**defaults, **run.settings}.items() if name not in left_out}
        if given.get("steps") is not None:
            given.pop("epochs", None)  # it takes their place
        values.append(given)
    names = [name for name in dict.fromkeys([*values[0], *values[1]])]
    one, two = values
    return [Difference(name, one.get(name), two.get(name)) for name in names if not equal(one.get(name), two.get(name))]


def _data(first: KnownRun, other: KnownRun) -> list[Difference]:
    found = []
    one, two = first.result["data"], other.result["data"]
    hashes = [{} if known.trace is None else known.trace.hashes for known in (first, other)]
    same_ids, same_labels = (
        hashes[0].get(name) is not None and hashes[0].get(name) == hashes[1].get(name)
        for name in ("token_ids_sha256", "labels_sha256")
    )
    if not equal(first.result["labels"], other.result["labels"]):
        found.append(Difference("classes", first.result["labels"], other.result["labels"]))
    for name in ("train_texts", "validation_texts", "test_texts"):
        if not equal(one.get(name), two.get(name)):
            found.append(Difference(name.replace("_", " "), one.get(name), two.get(name)))
    for name, words in (("train_sha256", "training files"), ("test_sha256", "test files")):
        if not equal(one.get(name), two.get(name)):
            effect = ""
            if name == "train_sha256" and same_ids and same_labels:
                effect = "other bytes, but the training texts' token ids and labels are the same"
            found.append(Difference(f"{words} (SHA-256)", one.get(name), two.get(name), effect))
    for name, words in (("token_ids_sha256", "training texts' token ids"), ("labels_sha256", "training texts' labels")):
        if all(name in each for each in hashes) and hashes[0][name] != hashes[1][name]:
            found.append(Difference(f"{words} (SHA-256)", hashes[0][name], hashes[1][name]))
    return found


def _weights(first: KnownRun, other: KnownRun) -> list[Difference]:
    if first.trace is None or other.trace is None:
        return []
    name = "initial_weights_sha256"
    one, two = first.trace.hashes.get(name), other.trace.hashes.get(name)
    return [] if one == two or None in (one, two) else [Difference("weights at the start (SHA-256)", one, two)]


def _machine(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(name, first.get(name), other.get(name), effect)
        for name, effect in MACHINE.items()
        if not equal(first.get(name), other.get(name))
    ]


def _compare_steps(first: Trace, other: Trace) -> StepsCompared:
    n = min(len(first), len(other))
    one, two = first.losses[:n].astype(np.float64), other.losses[:n].astype(np.float64)
    larger = np.maximum(np.abs(one), np.abs(two))
    share = np.abs(one - two) / np.where(larger > 0, larger, 1.0)
    share = np.where(np.isnan(share), np.inf, share)
    bits = first.losses[:n].view(np.uint32) != other.losses[:n].view(np.uint32)
    rates = ~np.isclose(first.learning_rates[:n], other.learning_rates[:n], rtol=1e-9, atol=0)
    largest = float(share.max()) if n else 0.0
    return StepsCompared(
        num_steps=(len(first), len(other)),
        other_rows=_first(first.rows_hashes[:n] != other.rows_hashes[:n]),
        other_texts=_first(first.texts_hashes[:n] != other.texts_hashes[:n]),
        other_rate=_first(rates),
        first_loss=(float(one[0]), float(two[0])) if n else (0.0, 0.0),
        any_difference=_first(bits),
        beyond_rounding=_first(share > ROUNDING),
        visible=_first(share > _VISIBLE),
        largest=largest if math.isfinite(largest) else 1.0,
    )


def _first(where: np.ndarray) -> int | None:
    """The first step, from 1, at which ``where`` (steps,) is true."""
    return int(np.argmax(where)) + 1 if where.any() else None


def _compare_scores(first: pa.Table, other: pa.Table, notes: list[str]) -> ScoresCompared | None:
    """Texts are matched by their place in the files and by what they say."""
    keys = [name for name in ("row", "text_sha256") if name in first.column_names and name in other.column_names]
    scores = [name for name in first.column_names if name.startswith("score") and name in other.column_names]
    wanted = [*keys, *scores, *(name for name in ("predicted",) if name in first.column_names)]
    try:
        one, two = (table.select(wanted) for table in (first, other))
        if not one.select(keys).equals(two.select(keys)):
            one, two = _matched(one, two, keys)
        largest, apart = 0.0, np.zeros(len(one), bool)
        for name in scores:
            differences = np.abs(one.column(name).to_numpy() - two.column(name).to_numpy())
            differences = np.where(np.isnan(differences), 1.0, differences)
            largest = max(largest, float(differences.max(initial=0.0)))
            apart |= differences >= _CLOSE
        decisions = 0
        if "predicted" in wanted:
            pairs = zip(one.column("predicted").to_pylist(), two.column("predicted").to_pylist(), strict=True)
            decisions = sum(a != b for a, b in pairs)
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        notes.append(f"single scores cannot be compared: {str(error).splitlines()[0] if str(error) else error!r}")
        return None
    return ScoresCompared(len(one), len(first) + len(other) - 2 * len(one), largest, int(apart.sum()), decisions)


def _matched(first: pa.Table, other: pa.Table, keys: list[str]) -> tuple[pa.Table, pa.Table]:
    """The rows of both whose ``keys`` are in both, in the same order."""
    places: list[dict[tuple[Any, ...], int]] = []
    for table in (first, other):
        rows = zip(*(table.column(key).to_pylist() for key in keys), strict=True)
        places.append({row: i for i, row in enumerate(rows)})
    shared = [row for row in places[0] if row in places[1]]
    taken = [pa.array([place[row] for row in shared], pa.int64()) for place in places]
    return first.take(taken[0]), other.take(taken[1])


def _results(first: KnownRun, other: KnownRun, scores: ScoresCompared | None) -> list[Difference]:
    """Metrics that are not the same to four decimals, other steps, other extremes."""
    found = []
    one, two = (_flat(known.run.metrics) for known in (first, other))
    for name in sorted(dict.fromkeys([*one, *two]), key=_importance):
        if not _close(one.get(name), two.get(name)):
            found.append(Difference(name, one.get(name), two.get(name)))
    for name in ("steps", "best_step"):
        if not equal(first.result.get(name), other.result.get(name)):
            words = {"steps": "steps taken", "best_step": "step kept"}[name]
            found.append(Difference(words, first.result.get(name), other.result.get(name)))
    for end in ("highest", "lowest"):
        entries = [_entries(known.result["extremes"][end]) for known in (first, other)]
        n = min(map(len, entries))
        rows = [[entry.get("row") for entry in those] for those in entries]
        if rows[0][:n] != rows[1][:n]:
            close = all(_close(a.get("score"), b.get("score")) for a, b in zip(*entries, strict=False))
            effect = "their scores are the same to four decimals: rounding decides which comes first" if close else ""
            found.append(Difference(f"rows scored {end}", rows[0][:n], rows[1][:n], effect))
    if scores is not None and scores.num_only_one:
        found.append(Difference("texts judged in one run alone", scores.num_only_one, scores.num_only_one))
    return found


def _importance(name: str) -> tuple[bool, int]:
    """What held-out texts say comes first, and what is of all classes before what is of one."""
    split, *rest = name.split(" ")
    return len(rest) > 1, ("test", "validation", "train").index(split) if split in SPLITS else len(SPLITS)


def _entries(values: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in values if isinstance(entry, Mapping)] if isinstance(values, list) else []


def _flat(metrics: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Numbers by their names with spaces between; counts of a confusion are single decisions, compared as such."""
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{path}{name} ")
        elif name != "confusion" and (value is None or is_number(value)):
            flat[path + name] = value
    return flat


def _close(one: Any, two: Any) -> bool:
    """Whether two numbers are the same to four decimals; whole numbers and nothing must be the same."""
    if isinstance(one, float | int) and isinstance(two, float | int) and float in (type(one), type(two)):
        return one == two or abs(one - two) < _CLOSE
    return equal(one, two)


def _same_files(first: Run, other: Run) -> bool | None:
    """Whether the kept weights are the same byte by byte."""
    names = sorted({path.name for run in (first, other) for path in run.model_folder.glob("*.safetensors")})
    if not names:
        return None
    same = True
    for name in names:
        paths = [run.model_folder / name for run in (first, other)]
        if not all(path.is_file() for path in paths):
            return None
        same = same and paths[0].stat().st_size == paths[1].stat().st_size and _digest(paths[0]) == _digest(paths[1])
    return same


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
