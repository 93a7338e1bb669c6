"""Runs side by side: quality on the same texts, times, memory, cost. Torch is never imported here."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.config import expand_home
from bertwright.errors import RunError, UserError
from bertwright.evaluation.extremes import one_line
from bertwright.evaluation.show import held_out_split
from bertwright.progress import Reporter, duration
from bertwright.runs import PREDICTIONS, Run, open_run

if TYPE_CHECKING:
    from rich.table import Table

_OF_CLASSES = ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss")
# Shown of the held-out texts by the kind of labels (``task`` of result.json), in this order, where any run has them.
_SHOWN_METRICS = {
    "single_label": _OF_CLASSES,
    "soft_label": (*_OF_CLASSES, "soft_log_loss"),
    "multi_label": ("accuracy", "micro_f1", "macro_f1", "roc_auc", "average_precision", "log_loss"),
    "regression": ("root_mean_squared_error", "mean_absolute_error", "r2", "pearson", "spearman"),
}
# Widths of tables: a number, what is between columns, and what run, model, seed and epochs take at least.
_NUMBER, _BETWEEN, _WIDTH_OF_WORDS = 6, 3, 45
_HEADINGS = {
    "root_mean_squared_error": "RMSE",
    "mean_absolute_error": "MAE",
}



@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found. All of it is plain Python values that JSON can hold; torch is not needed to read it.

    Runs of one setting that differ in their seed alone are one *contender*. Its name is that of its run, or what its
    runs' names share; contenders are what is compared.

    Attributes:
        records: a dict for each run, in the order given: the keys of ``compare``'s docstring, and ``contender`` (name),
            ``intervals`` ({metric: (low, high)}, of this run's texts alone; a metric without one is absent).
        contenders: a dict for each contender: ``name``, ``runs`` (list of paths), ``seeds`` (list), ``model``,
            ``epochs``, ``metrics`` ({metric: mean over its runs}), ``intervals`` ({metric: (low, high)}, over texts and,
            where it has several runs, over seeds), ``train_s``, ``total_s``, ``infer_s_per_text``,
            ``peak_process_bytes``, ``peak_gpu_bytes``, ``usd`` (means over its runs; None where unknown).
        differences: a dict for each pair of contenders and metric: ``a``, ``b`` (names), ``metric``, ``difference``
            (value of a - value of b), ``low``, ``high``, ``p``, ``p_adjusted`` (Holm, over all of this list), ``test``
            (the test's name), ``verdict`` ("better": a is better than b; "worse"; "cannot tell"), ``texts_needed``
            (texts in all at which a difference of this size would be told with power 0.8; None where it is told
            already, or where no number of texts would do), ``more_texts`` (of these, those still missing), ``num_texts``,
            ``sentence``. Without predictions ``low``, ``high``, ``p``, ``p_adjusted`` are None.
        rankings: a dict for each pair: ``a``, ``b``, ``score`` (what ranks the texts, in words), ``spearman``,
            ``kendall``, ``k``, ``shared_highest``, ``shared_lowest`` (of the k texts at each end, how many are the
            same), ``highest``, ``lowest`` (lists of dicts ``rank``, and for ``a`` and ``b`` each a dict ``row``,
            ``score``, ``text`` (None where not kept), ``label``, ``rank_in_other``).
        worth: a dict for each pair that differs in epochs alone or in the model: ``a`` (less), ``b`` (more), ``what``
            ("epochs" or "model"), ``also`` (other settings that differ), ``metric``, ``gain`` (b's improvement, positive
            when better), ``low``, ``high``, ``verdict`` (of b against a), ``extra_minutes``, ``extra_usd``,
            ``gain_per_minute``, ``gain_per_usd``, ``sentence``.
        pareto: a dict for each contender: ``name``, ``quality``, ``metric``, ``infer_s_per_text``, ``memory_bytes``,
            ``usd``, ``train_s``, ``on_front`` (bool), ``dominated_by`` (list of names), ``compared_on`` (list of keys).
        metric: the metric that ``worth`` and ``pareto`` speak of, the first of those tested.
        alpha: the level of the tests; intervals are of 1 - alpha.
        notes: what is missing and why, one line each.
    """

    records: list[dict[str, Any]]
    contenders: list[dict[str, Any]] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)
    rankings: list[dict[str, Any]] = field(default_factory=list)
    worth: list[dict[str, Any]] = field(default_factory=list)
    pareto: list[dict[str, Any]] = field(default_factory=list)
    metric: str | None = None
    alpha: float = 0.05
    notes: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        return asdict(self)


def compare(*runs: str | Path) -> Comparison:
    """A record for each of ``runs``, folders of finished runs that were judged on the same texts.

    Keys: ``run``, ``act``, ``task`` (the kind of labels, as in result.json), ``model``, ``seed``, ``epochs``,
    ``steps``, ``judged_on``, ``metrics`` (of the held-out texts), ``train_accuracy``, ``device``, ``dtype``,
    ``seconds``, ``peak_process_bytes``, ``peak_gpu_bytes``, ``usd``.

    Raises:
        UserError: fewer than two runs; one is missing, damaged or not finished; they were judged on different texts.
    """
    found = open_finished(runs)
    _refuse_other_texts(found)
    return Comparison([{**_record(run), "intervals": {}} for run in found])


def open_finished(paths: Sequence[str | Path]) -> list[Run]:
    """The runs in the folders ``paths``.

    Raises:
        UserError: fewer than two, or one twice.
        RunError: one is missing, damaged or not finished.
    """
    if len(paths) < 2:
        raise UserError(f"found {len(paths)} runs, expected at least two to compare: name their folders")
    paths = [expand_home(os.fspath(path)) for path in paths]
    seen: dict[Path, str | Path] = {}
    for path in paths:
        if Path(path).resolve() in seen:
            raise UserError(f"{path} is named twice: name different runs")
        seen[Path(path).resolve()] = path
    found = [open_run(path) for path in paths]
    for run in found:
        if not run.finished:
            raise RunError(f"{run.path} has no result.json: it is still going, was stopped or failed; finish it first")
    return found


def read_predictions(run: Run, wanted: Callable[[str], bool] = lambda name: name != "text") -> pa.Table | None:
    """Of the run's predictions.parquet the columns whose names are ``wanted``; None where the run has none.

    Raises:
        RunError: the file is damaged.
    """
    path = run.path / PREDICTIONS
    if not path.is_file():
        return None
    try:
        file = pq.ParquetFile(path.absolute())  # pyarrow would take a "~" for the user's home
        table = file.read(columns=[name for name in file.schema_arrow.names if wanted(name)])
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[:1]
        raise RunError(f"{path}: cannot be read ({first[0] if first else error}); the file is damaged") from None
    if "text_sha256" not in table.column_names:
        raise RunError(f"{path}: holds no text_sha256; the file is damaged")
    return table


def _refuse_other_texts(runs: Sequence[Run]) -> None:
    first = _judged_texts(runs[0])
    for run in runs[1:]:
        if _judged_texts(run) != first:
            one, other = (_judged_words(which) for which in (runs[0], run))
            raise UserError(
                f"{run.path} was judged on other texts or labels ({other}) than {runs[0].path} ({one}): their figures "
                "cannot stand side by side. Judge each on one file by bertwright evaluate RUN FILE --output FOLDER, "
                "and compare those"
            )


def _judged_texts(run: Run) -> str:
    """What names the texts that a run was judged on, and their labels, in whatever order."""
    table = read_predictions(run, lambda name: name in ("text_sha256", "label") or name.startswith("label_"))
    if table is None:
        split = held_out_split(run.metrics)
        data = (run.result or {})["data"]
        return repr((split, data.get("test_sha256") or data.get("train_sha256"), data.get(f"{split}_texts")))
    names = sorted(table.column_names)
    rows = np.column_stack([_words_of(run, name, table.column(name)) for name in names])
    key = np.zeros(len(rows), np.uint64)
    for words in rows.T:
        key = _mixed(key ^ words)
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass"))
    digest.update(rows[np.argsort(key)].data)
    return digest.hexdigest()


def _words_of(run: Run, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(rows, 1 or 8) uint64 that stand for the values of ``column``, the same in every run."""
    if name == "text_sha256":
        try:
            hashes = column.cast(pa.binary()).cast(pa.binary(64)).combine_chunks()
        except pa.ArrowException:
            hashes = None
        if hashes is None or hashes.null_count:
            raise RunError(f"{run.path / PREDICTIONS}: its text_sha256 are no SHA-256; the file is damaged")
        if not len(hashes):
            return np.empty((0, 8), np.uint64)
        return np.frombuffer(hashes.buffers()[1], np.uint64, 8 * len(hashes), 64 * hashes.offset).reshape(-1, 8)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        numbers = column.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy()
        numbers = numbers + 0.0  # -0.0 and 0.0 are the same label
        return np.where(np.isnan(numbers), np.uint64(1), numbers.view(np.uint64))[:, None]
    try:
        encoded = column.combine_chunks().dictionary_encode()
    except pa.ArrowException:
        raise RunError(f"{run.path / PREDICTIONS}: {name} holds {column.type}; the file is damaged") from None
    words = [_word_of(value) for value in (*encoded.dictionary.to_pylist(), None)]
    places = encoded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
    return np.array(words, np.uint64)[places][:, None]


def _word_of(value: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).digest()[:8], "little")


def _mixed(words: np.ndarray) -> np.ndarray:
    """Each of ``words`` with its bits well mixed, as the last steps of SplitMix64 do it."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _judged_words(run: Run) -> str:
    split = held_out_split(run.metrics)
    return "none" if split is None else f"{run.metrics[split].get('num_texts', 0):,} {split} texts"


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
        "seconds": {name: _number(value) for name, value in run.result["seconds"].items()},
        "peak_process_bytes": _number(run.result["memory"]["peak_process_bytes"]),
        "peak_gpu_bytes": _number(run.result["memory"]["peak_gpu_bytes"]),
        "usd": _number(run.result["cost"]["usd"]),
    }


def show_comparison(comparison: Comparison, reporter: Reporter) -> None:
    """What ``compare`` returned, as tables: quality, then times."""
    records = comparison.records
    for table in _quality_tables(records, reporter.results.width):
        reporter.show(table)
    reporter.show(_resources_table(records))


def _quality_tables(records: Sequence[dict[str, Any]], width: int) -> list[Table]:
    """One table, or several where the metrics side by side are wider than ``width`` characters."""
    present = dict.fromkeys(name for record in records for name in record["metrics"] if name != "num_texts")
    wanted = dict.fromkeys(name for record in records for name in _SHOWN_METRICS.get(record["task"], _OF_CLASSES))
    shown = [name for name in wanted if name in present] or list(present)
    columns = {
        _HEADINGS.get(name, name.replace("_", " ")): [record["metrics"].get(name) for record in records]
        for name in shown
    }
    columns = {"train accuracy": [record["train_accuracy"] for record in records], **columns}
    parts: list[dict[str, list[float | None]]] = []
    left = 0
    for heading, values in columns.items():
        if all(value is None for value in values):
            continue
        needed = _BETWEEN + max(_NUMBER, *map(len, heading.split()))
        if not parts or needed > left:
            parts.append({})
            left = width - _WIDTH_OF_WORDS
        parts[-1][heading] = values
        left -= needed
    return [_quality_table(records, part) for part in parts or [{}]]


def _quality_table(records: Sequence[dict[str, Any]], columns: Mapping[str, Sequence[float | None]]) -> Table:
    names = _short_names(records)
    split = records[0]["judged_on"]
    table = empty_table(f"Quality, {split} texts" if split else "Quality")
    for name in ("run", "model"):
        table.add_column(name, overflow="fold")
    for name in ("seed", "epochs"):
        table.add_column(name, justify="right", no_wrap=True)
    for heading in columns:
        table.add_column("\n".join(heading.split()), justify="right", no_wrap=True)
    for i, record in enumerate(records):
        words = [names[record["run"]], str(record["model"]), _word(record["seed"]), _epochs(record)]
        add_row(table, *words, *(number(values[i]) for values in columns.values()))
    return table


def _resources_table(records: Sequence[dict[str, Any]]) -> Table:
    names = _short_names(records)
    phases = [
        p for p in ("tokenize", "train", "infer", "total") if any(r["seconds"].get(p) is not None for r in records)
    ]
    with_gpu, with_cost = (any(r[name] is not None for r in records) for name in ("peak_gpu_bytes", "usd"))
    table = empty_table("Times and memory")
    for name in ("run", "device"):
        table.add_column(name, overflow="fold")
    more = (["GPU MiB"] if with_gpu else []) + (["USD"] if with_cost else [])
    for name in ("dtype", *phases, "MiB", *more):
        table.add_column(name, justify="right")
    for record in records:
        seconds = [record["seconds"].get(phase) for phase in phases]
        cells = ["-" if value is None else duration(value) for value in seconds]
        cells.append(_mebibytes(record["peak_process_bytes"]))
        if with_gpu:
            cells.append(_mebibytes(record["peak_gpu_bytes"]))
        if with_cost:
            cells.append(number(record["usd"]))
        add_row(table, names[record["run"]], _word(record["device"]), _word(record["dtype"]), *cells)
    return table


def _short_names(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Runs by the folder's own name, where all lie in one folder; else by their paths."""
    paths = [record["run"] for record in records]
    if len({str(Path(path).absolute().parent) for path in paths}) > 1:
        return {path: path for path in paths}
    return {path: Path(path).name for path in paths}


def empty_table(title: str) -> Table:
    """A table of this project's looks."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(one_line(title)), title_justify="left", box=box.SIMPLE_HEAD)


def add_row(table: Table, *cells: str) -> None:
    """Add ``cells`` as they are: nothing in them is markup or a control code."""
    from rich.text import Text

    table.add_row(*(Text(one_line(cell)) for cell in cells))


def number(value: float | None) -> str:
    """Four decimals, or "-" where there is no number."""
    return "-" if value is None else f"{value:.4f}"


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number, and finite: a damaged record may hold anything."""
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> float | None:
    return value if is_number(value) else None


def _mebibytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f}"


def _word(value: Any) -> str:
    return "-" if value is None else str(value)


def _epochs(record: dict[str, Any]) -> str:
    if is_number(record["epochs"]):
        return f"{record['epochs']:g}"
    return f"{record['steps']:,} steps" if is_number(record["steps"]) else "-"
