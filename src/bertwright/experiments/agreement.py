"""Whether runs of one seed agree to four decimals and, if not, where they part and what can explain it.

Two trainings with the same settings, texts, first weights and order do the same sums; on another machine they add in
another order, or round otherwise. So what is compared goes from cause to effect: what was asked, the texts, the weights
at the start, the order, the loss of each step, the scores. Torch is never imported here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bertwright import steps
from bertwright.config.train import TrainConfig
from bertwright.errors import RunError
from bertwright.evaluation.show import held_out_split
from bertwright.evaluation.stored import read_columns
from bertwright.evaluation.tables import SPLITS
from bertwright.experiments.finished_runs import is_number, open_finished
from bertwright.experiments.show_comparison import add_row, empty_table
from bertwright.progress import Reporter
from bertwright.runs import Run, reading_records
from bertwright.steps import Trace, read_trace

if TYPE_CHECKING:
    from rich.table import Table

DECIMALS = 4
# Two numbers agree where their difference is 0 in four decimals.
_CLOSE = 0.5 * 10**-DECIMALS
# Of float32's 24 bits, the last ones: sums in another order differ by this much of themselves.
_ROUNDING = 1e-6
_VISIBLE = 1e-4
_MOST_SHOWN_RESULTS = 12
# Shown of each kind of labels: the first one of the training texts too.
_SHOWN_METRICS = {
    "single_label": ("accuracy", "f1", "roc_auc", "log_loss"),
    "soft_label": ("accuracy", "f1", "roc_auc", "log_loss", "soft_log_loss"),
    "multi_label": ("accuracy", "micro_f1", "macro_f1", "roc_auc", "log_loss"),
    "regression": ("root_mean_squared_error", "r2", "pearson", "spearman"),
}

# Settings that change no result, or whose effect is compared itself: files and models by their content, and where and
# with what was computed by environment.json.
_OTHERWISE_COMPARED = {
    *("train", "test", "validation", "model", "tokenizer", "device", "dtype", "compile", "token_budget"),
    *("output", "overwrite", "usd_per_hour", "num_extremes", "texts"),
    *("resume", "checkpoint_minutes", "checkpoint_steps"),
    *("data", "run"),  # of an evaluation
    *("unlabelled", "teacher_scores"),  # of a distillation
}
# What was chosen or found on each machine, and what a difference in it can do.
_MACHINE = {
    "dtype": "float32 keeps 24 bits of a number, float16 11, bfloat16 8: losses differ from the first step on",
    "device": "another device adds in another order, and its dropout may draw other numbers",
    "gpu": "another GPU may add in another order",
    "compile": "other kernels add in another order, and their dropout draws other numbers",
    "attention_kernel": "another attention kernel adds in another order",
    "num_threads": "sums are cut into one part for each thread: they are added in another order",
    "token_budget": "larger batches are cut into parts: sums in another order, and dropout draws other numbers",
    "cpu": "another processor may have other instructions, which round and add otherwise",
    "torch": "another PyTorch may add in another order, and draw other random numbers",
    "cuda": "another CUDA may add in another order",
    "numpy": "another NumPy may draw another order of texts",
    "bertwright": "another version may compute otherwise",
    "commit": "another version may compute otherwise",
    "scikit-learn": "another version may define a metric otherwise",
    "tokenizer": "compare the hash of the token ids",
    "tokenizers": "compare the hash of the token ids",
    "nanotoken": "compare the hash of the token ids",
    "system": "another system has other mathematical libraries, which may round otherwise",
}


@dataclass(frozen=True)
class Difference:
    """One thing that differs: its value in the first run and in the other, and what that can do."""

    what: str
    first: Any
    other: Any
    effect: str = ""


@dataclass(frozen=True)
class StepsCompared:
    """Two traces side by side. Steps are counted from 1; None: at no step that both have.

    Attributes:
        num_steps: steps taken by each.
        other_rows: the first step whose batch holds other rows of the training texts, or these in another order.
        other_texts: the first step whose batch holds other texts, whatever their rows.
        other_rate: the first step with another learning rate.
        first_loss: of each.
        any_difference: the first step whose loss is not the same bit for bit.
        beyond_rounding, visible: the first step whose loss differs by more than 1e-6, or 1e-4, of itself.
        largest: the largest difference of two losses of a step, as a share of the larger.
    """

    num_steps: tuple[int, int]
    other_rows: int | None
    other_texts: int | None
    other_rate: int | None
    first_loss: tuple[float, float]
    any_difference: int | None
    beyond_rounding: int | None
    visible: int | None
    largest: float

    @property
    def parting(self) -> int | None:
        """The first step that is told apart: by its texts, its rate, or its loss beyond rounding; else by any bit."""
        told = (self.other_rows, self.other_texts, self.other_rate, self.beyond_rounding)
        found = [step for step in told if step is not None]
        return min(found) if found else self.any_difference


@dataclass(frozen=True)
class ScoresCompared:
    """The scores of the texts that both runs judged.

    Attributes:
        num_texts: texts that both judged; ``num_only_one`` more stand in one of the runs alone.
        largest: the largest difference of two scores of a text; ``num_apart`` texts have one that is not 0.0000.
        num_decisions: texts for which another label is predicted.
    """

    num_texts: int
    num_only_one: int
    largest: float
    num_apart: int
    num_decisions: int


@dataclass(frozen=True)
class Pair:
    """The run ``other`` against the run ``first``.

    Attributes:
        agree: every metric, the steps and the rows of the extremes; ``verdict`` says so, or where they part and why.
        results: those that do not agree.
        settings, data, weights, machine: differences that can be the cause.
        kept_weights_equal: whether the saved weights are the same byte by byte; None: a file is missing.
        steps: None where a run has no trace.
        scores: None where a run has no predictions.
        notes: what could not be compared, and why.
    """

    first: str
    other: str
    agree: bool
    verdict: str
    results: list[Difference]
    settings: list[Difference]
    data: list[Difference]
    weights: list[Difference]
    machine: list[Difference]
    kept_weights_equal: bool | None
    steps: StepsCompared | None
    scores: ScoresCompared | None
    notes: list[str]


@dataclass(frozen=True)
class Agreement:
    """Whether runs agree to four decimals: each against the first."""

    agree: bool
    verdict: str
    runs: list[str]
    pairs: list[Pair]
    _rows: list[tuple[str, list[str]]] = field(default_factory=list, repr=False)

    def record(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        values = asdict(self)
        del values["_rows"]
        return _finite(values)


def _finite(value: Any) -> Any:
    """``value`` without what JSON does not have: a loss that is NaN, or losses infinitely far apart."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class _Known:
    """All that is known of a run."""

    run: Run
    result: Mapping[str, Any]
    trace: Trace | None
    predictions: pa.Table | None
    notes: list[str]

    @property
    def name(self) -> str:
        return str(self.run.path)


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
    return Agreement(agree, verdict, [which.name for which in known], pairs, _side_by_side(known, pairs))


def _known(run: Run) -> _Known:
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
    return _Known(run, run.result, trace, predictions, notes)


def _pair(first: _Known, other: _Known) -> Pair:
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
    verdict = _agreeing(pair) if agree else f"{_where(pair, first.run, other.run)} {_why(pair, other.run)}"
    return Pair(**{**pair.__dict__, "verdict": verdict})


# --- what differs -----------------------------------------------------------------------------------------------


def _settings(first: _Known, other: _Known) -> list[Difference]:
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
        given = {name: _plain(value) for name, value in {**defaults, **run.settings}.items() if name not in left_out}
        if given.get("steps") is not None:
            given.pop("epochs", None)  # it takes their place
        values.append(given)
    names = [name for name in dict.fromkeys([*values[0], *values[1]])]
    one, two = values
    return [
        Difference(name, one.get(name), two.get(name)) for name in names if not _equal(one.get(name), two.get(name))
    ]


def _data(first: _Known, other: _Known) -> list[Difference]:
    found = []
    one, two = first.result["data"], other.result["data"]
    hashes = [{} if known.trace is None else known.trace.hashes for known in (first, other)]
    same_ids, same_labels = (
        hashes[0].get(name) is not None and hashes[0].get(name) == hashes[1].get(name)
        for name in ("token_ids_sha256", "labels_sha256")
    )
    if not _equal(first.result["labels"], other.result["labels"]):
        found.append(Difference("classes", first.result["labels"], other.result["labels"]))
    for name in ("train_texts", "validation_texts", "test_texts"):
        if not _equal(one.get(name), two.get(name)):
            found.append(Difference(name.replace("_", " "), one.get(name), two.get(name)))
    for name, words in (("train_sha256", "training files"), ("test_sha256", "test files")):
        if not _equal(one.get(name), two.get(name)):
            effect = ""
            if name == "train_sha256" and same_ids and same_labels:
                effect = "other bytes, but the training texts' token ids and labels are the same"
            found.append(Difference(f"{words} (SHA-256)", one.get(name), two.get(name), effect))
    for name, words in (("token_ids_sha256", "training texts' token ids"), ("labels_sha256", "training texts' labels")):
        if all(name in each for each in hashes) and hashes[0][name] != hashes[1][name]:
            found.append(Difference(f"{words} (SHA-256)", hashes[0][name], hashes[1][name]))
    return found


def _weights(first: _Known, other: _Known) -> list[Difference]:
    if first.trace is None or other.trace is None:
        return []
    name = "initial_weights_sha256"
    one, two = first.trace.hashes.get(name), other.trace.hashes.get(name)
    return [] if one == two or None in (one, two) else [Difference("weights at the start (SHA-256)", one, two)]


def _machine(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(name, first.get(name), other.get(name), effect)
        for name, effect in _MACHINE.items()
        if not _equal(first.get(name), other.get(name))
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
        beyond_rounding=_first(share > _ROUNDING),
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


def _results(first: _Known, other: _Known, scores: ScoresCompared | None) -> list[Difference]:
    """Metrics that are not the same to four decimals, other steps, other extremes."""
    found = []
    one, two = (_flat(known.run.metrics) for known in (first, other))
    for name in sorted(dict.fromkeys([*one, *two]), key=_importance):
        if not _close(one.get(name), two.get(name)):
            found.append(Difference(name, one.get(name), two.get(name)))
    for name in ("steps", "best_step"):
        if not _equal(first.result.get(name), other.result.get(name)):
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
    return _equal(one, two)


def _equal(one: Any, two: Any) -> bool:
    return _plain(one) == _plain(two)


def _plain(value: Any) -> Any:
    """JSON has lists alone; and older records hold one value, or none, where several may stand."""
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        return None if not items else items[0] if len(items) == 1 else items
    return value


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


# --- in plain words ---------------------------------------------------------------------------------------------


def _agreeing(pair: Pair) -> str:
    though = ["they start from other weights"] if pair.weights else []
    if pair.settings:
        though.append(f"settings differ: {_named(pair.settings)}")
    words = f"These runs agree to four decimals{', though ' + ', and '.join(though) if though else ''}."
    if pair.steps is not None:
        n = min(pair.steps.num_steps)
        if pair.steps.any_difference is None:
            words += f" Their losses are the same bit for bit at all {n:,} steps"
            words += ", and so are the kept weights." if pair.kept_weights_equal else "."
        else:
            words += f" Their losses differ from step {pair.steps.any_difference:,} on, by at most {_share(pair.steps)}"
            words += " of themselves."
    return words


def _share(found: StepsCompared) -> str:
    return f"{found.largest:.1e}" if found.largest else "0"


def _where(pair: Pair, first: Run, other: Run) -> str:
    """One sentence: from where on the runs are not the same."""
    if not first.is_training or not other.is_training:
        return "They do not agree to four decimals."
    if pair.weights:
        return "They part before the first step: they start from other weights."
    found = pair.steps
    if found is None:
        return _where_by_history(first, other)
    step = found.parting
    if step is None:
        fewer, more = sorted(found.num_steps)
        if fewer != more:
            return f"They part after step {fewer:,}: one run ended there, the other took {more:,} steps."
        if first.result and other.result and first.result.get("best_step") != other.result.get("best_step"):
            return "They part after the last step: all losses are the same bit for bit, but another step was kept."
        return "They part after the last step: all losses are the same bit for bit, but not what was judged."
    if step == found.other_rows:
        return f"They part at step {step:,}: its batch holds other texts of the data, or in another order."
    if step == found.other_texts:
        return f"They part at step {step:,}: its batch is the first to hold a text with other words."
    if step == found.beyond_rounding:
        return f"They part at step {step:,}: its loss is the first to differ by more than {_ROUNDING:g} of itself."
    if step == found.other_rate:
        return f"They part at step {step:,}: it has another learning rate."
    return (
        f"They part at step {step:,}: its loss is the first to differ in any bit; none differs by more than "
        f"{_ROUNDING:g} of itself."
    )


def _where_by_history(first: Run, other: Run) -> str:
    """Without a trace: by the mean losses between evaluations."""
    before = 0
    for one, two in zip(first.history, other.history, strict=False):
        if one["step"] != two["step"]:
            return f"They part after step {before:,}: one was judged next at step {one['step']:,}, the other was not."
        if not _relative(one["train_loss"], two["train_loss"]) <= _ROUNDING:
            return f"They part between steps {before + 1:,} and {one['step']:,}, by the mean losses of history.jsonl."
        before = one["step"]
    return "They do not agree to four decimals."


def _relative(one: Any, two: Any) -> float:
    if not isinstance(one, int | float) or not isinstance(two, int | float):
        return math.inf
    return abs(one - two) / max(abs(one), abs(two), 1e-300)


def _why(pair: Pair, run: Run) -> str:
    """One or two sentences: what differs that comes before, or else the machines."""
    words = []
    if pair.settings:
        words.append(f"Settings differ: {_named(pair.settings)}.")
    causes = [difference for difference in pair.data if not difference.effect]
    if causes:
        words.append(f"The data differ: {', '.join(difference.what for difference in causes)}.")
    if words:
        return " ".join(words)
    if pair.weights:
        return "The settings and the texts are the same: compare the two models' files."
    if pair.steps is None and run.is_training:
        start = "The settings and the files are the same"
    elif run.is_training:
        start = "Settings, texts, first weights and order are the same"
    else:
        start = "The settings and the files are the same"
    rounding = [difference for difference in pair.machine if difference.what not in ("commit", "system")]
    if rounding:
        return f"{start}; the machines differ: {_named(rounding)}."
    if "gpu" in run.environment:
        return f"{start}, and so are the machines: GPU kernels may add in another order each time."
    return f"{start}, and so is all that is known of the machines."


def _named(differences: Sequence[Difference]) -> str:
    return ", ".join(f"{d.what} ({_short(d.first)} and {_short(d.other)})" for d in differences)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_agreement(found: Agreement, reporter: Reporter) -> None:
    """The verdict, then what it rests on."""
    reporter.show(found.verdict)
    for pair in found.pairs:
        if len(found.pairs) > 1:
            reporter.show(f"{pair.other}: {pair.verdict}")
    table = empty_table("Side by side")
    table.add_column("")
    for name in found.runs:
        table.add_column(name, justify="right", overflow="fold")
    for name, cells in found._rows:
        add_row(table, name, *cells)
    reporter.show(table)
    reporter.show(_pairs_table(found))
    for pair in found.pairs:
        if pair.results:
            reporter.show(_differences_table(pair))
        causes = [d for d in (*pair.settings, *pair.data, *pair.weights, *pair.machine) if d.effect]
        if causes and (pair.steps is None or pair.steps.any_difference is not None or not pair.agree):
            reporter.show(f"What can explain differences of {pair.other}:")
            for difference in causes:
                reporter.show(f"  {difference.what}: {difference.effect}")
    for note in dict.fromkeys(note for pair in found.pairs for note in pair.notes):
        reporter.warn(note)


def _pairs_table(found: Agreement) -> Table:
    table = empty_table(f"Against {found.runs[0]}")
    table.add_column("")
    for pair in found.pairs:
        table.add_column(pair.other, justify="right", overflow="fold")

    def of_steps(name: str, read: Callable[[StepsCompared], int | None]) -> None:
        cells = []
        for pair in found.pairs:
            step = None if pair.steps is None else read(pair.steps)
            cells.append("-" if pair.steps is None else "none" if step is None else f"step {step:,}")
        add_row(table, name, *cells)

    def of_scores(name: str, read: Callable[[ScoresCompared], str]) -> None:
        add_row(table, name, *("-" if pair.scores is None else read(pair.scores) for pair in found.pairs))

    of_steps("first batch of other rows", lambda s: s.other_rows)
    of_steps("first batch of other texts", lambda s: s.other_texts)
    of_steps("first other learning rate", lambda s: s.other_rate)
    of_steps("first loss that differs in any bit", lambda s: s.any_difference)
    of_steps("first loss beyond 1e-6 of itself", lambda s: s.beyond_rounding)
    of_steps("first loss beyond 1e-4 of itself", lambda s: s.visible)
    add_row(
        table,
        "largest difference of a loss",
        *("-" if pair.steps is None else f"{_share(pair.steps)} of itself" for pair in found.pairs),
    )
    of_scores("largest difference of a score", lambda s: f"{s.largest:.6f}")
    of_scores("texts whose scores differ in 4 decimals", lambda s: f"{s.num_apart:,} of {s.num_texts:,}")
    of_scores("texts with another predicted label", lambda s: f"{s.num_decisions:,} of {s.num_texts:,}")
    words = {True: "yes", False: "no", None: "-"}
    add_row(table, "kept weights equal byte by byte", *(words[pair.kept_weights_equal] for pair in found.pairs))
    add_row(table, "agrees to four decimals", *(words[pair.agree] for pair in found.pairs))
    return table


def _differences_table(pair: Pair) -> Table:
    differences = pair.results
    table = empty_table("Results that do not agree")
    table.add_column("", overflow="fold")
    for name in (pair.first, pair.other, "difference"):
        table.add_column(name, justify="right", overflow="fold")
    for difference in differences[:_MOST_SHOWN_RESULTS]:
        one, two = difference.first, difference.other
        gap = f"{abs(one - two):.6f}" if float in (type(one), type(two)) and None not in (one, two) else ""
        add_row(table, difference.what, _cell(one), _cell(two), gap)
    if len(differences) > _MOST_SHOWN_RESULTS:
        add_row(table, f"and {len(differences) - _MOST_SHOWN_RESULTS} more", "", "", "")
    return table


def _side_by_side(known: Sequence[_Known], pairs: Sequence[Pair]) -> list[tuple[str, list[str]]]:
    """Rows of names and cells, a cell for each run: what was asked, the texts, the start, the machine, the results."""
    rows: list[tuple[str, list[str]]] = []

    def add(name: str, values: list[Any]) -> None:
        if any(value is not None for value in values):
            rows.append((name, [_cell(value) for value in values]))

    add("seed", [which.run.settings.get("seed") for which in known])
    for name in dict.fromkeys(d.what for pair in pairs for d in pair.settings if d.what != "seed"):
        add(name, [which.run.settings.get(name) for which in known])
    for name in ("train_texts", "validation_texts", "test_texts"):
        add(name.replace("_", " "), [which.result["data"].get(name) for which in known])
    for name, words in (("train_sha256", "training files"), ("test_sha256", "test files")):
        add(words, [_cut(which.result["data"].get(name)) for which in known])
    for name, words in (
        ("token_ids_sha256", "token ids"),
        ("labels_sha256", "labels"),
        ("initial_weights_sha256", "weights at the start"),
    ):
        add(words, [None if which.trace is None else _cut(which.trace.hashes.get(name)) for which in known])
    for name in _MACHINE:
        values = [which.run.environment.get(name) for which in known]
        if name in ("dtype", "num_threads") or any(not _equal(value, values[0]) for value in values):
            add(name, [_cut(value) if name == "commit" else value for value in values])
    for words, at in (("loss of the first step", 0), ("loss of the last step", -1)):
        losses = [None if which.trace is None or not len(which.trace) else which.trace.losses[at] for which in known]
        add(words, [None if loss is None else f"{float(loss):.9g}" for loss in losses])
    add("steps taken", [which.result.get("steps") for which in known])
    add("step kept", [which.result.get("best_step") for which in known])
    of_each = [_SHOWN_METRICS.get(str(which.result.get("task")), _SHOWN_METRICS["single_label"]) for which in known]
    shown = dict.fromkeys(name for names in of_each for name in names)
    shown_of_train = dict.fromkeys(names[0] for names in of_each)
    for split in SPLITS:
        if split == "train" or any(held_out_split(which.run.metrics) == split for which in known):
            for name in shown_of_train if split == "train" else shown:
                add(f"{split} {name}", [(which.run.metrics.get(split) or {}).get(name) for which in known])
    return rows


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _short(value)


def _cut(value: Any) -> Any:
    """A hash by its first twelve digits."""
    return value[:12] if isinstance(value, str) else value
