"""Prints what a comparison of runs of one seed found: the verdict, and the tables that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bertwright.evaluation.show import held_out_split
from bertwright.evaluation.tables import SPLITS
from bertwright.experiments.agreement_record import (
    MACHINE,
    Agreement,
    KnownRun,
    Pair,
    ScoresCompared,
    StepsCompared,
    equal,
)
from bertwright.experiments.agreement_words import share, short
from bertwright.experiments.show_comparison import add_row, empty_table
from bertwright.progress import Reporter

if TYPE_CHECKING:
    from rich.table import Table

_MOST_SHOWN_RESULTS = 12
# Shown of each kind of labels: the first one of the training texts too.
_SHOWN_METRICS = {
    "single_label": ("accuracy", "f1", "roc_auc", "log_loss"),
    "soft_label": ("accuracy", "f1", "roc_auc", "log_loss", "soft_log_loss"),
    "multi_label": ("accuracy", "micro_f1", "macro_f1", "roc_auc", "log_loss"),
    "regression": ("root_mean_squared_error", "r2", "pearson", "spearman"),
}


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
        *("-" if pair.steps is None else f"{share(pair.steps)} of itself" for pair in found.pairs),
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


def side_by_side(known: Sequence[KnownRun], pairs: Sequence[Pair]) -> list[tuple[str, list[str]]]:
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
    for name in MACHINE:
        values = [which.run.environment.get(name) for which in known]
        if name in ("dtype", "num_threads") or any(not equal(value, values[0]) for value in values):
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
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else short(value)


def _cut(value: Any) -> Any:
    """A hash by its first twelve digits."""
    return value[:12] if isinstance(value, str) else value
