"""Metrics as tables for rich to print: four decimals, "-" where there is no number.

Labels come from the user's data, so everything is a ``Text``: a plain string would be read as rich's markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertwright.evaluation.extremes import one_line
from bertwright.evaluation.metrics import ALL_METRIC_NAMES

if TYPE_CHECKING:
    from rich.table import Table

SPLITS = ("train", "validation", "test")
"""The splits of a run, in the order in which they are shown."""


def metrics_table(metrics: Mapping[str, Mapping[str, Any] | None], title: str | None = None) -> Table:
    """One column per split and one row per metric, the last row being the number of texts.

    Columns are ordered as in ``SPLITS``, then others as given. A split without metrics (empty or ``None``) has no
    column, and a metric that is in none of them has no row.

    Args:
        metrics: by the name of the split what ``metrics.classification_metrics``, or its like for another kind of
            labels, returned (``result.json``'s ``metrics``).
        title: stands above the table.
    """
    present = {split: values for split, values in metrics.items() if values}
    splits = sorted(present, key=lambda split: SPLITS.index(split) if split in SPLITS else len(SPLITS))
    table = _table(title, "metric", splits)
    for name in (*ALL_METRIC_NAMES, "num_texts"):
        if any(name in present[split] for split in splits):
            _add_row(table, "texts" if name == "num_texts" else name, [present[split].get(name) for split in splits])
    return table


def per_class_table(metrics: Mapping[str, Any], labels: Sequence[str] | None = None, title: str | None = None) -> Table:
    """One row per label: its precision, recall, F1 and number of texts, and what else is known of each.

    Args:
        metrics: what ``metrics.classification_metrics`` or ``metrics.multilabel_metrics`` returned.
        labels: which labels, in which order; all in their own order if not given.
        title: stands above the table.

    Raises:
        KeyError: a label that the metrics do not have.
    """
    per_class = metrics["per_class"]
    ranking = [name for name in ("roc_auc", "average_precision") if any(name in row for row in per_class.values())]
    names = ("precision", "recall", "f1", *ranking)
    table = _table(title, "label", [*names, "texts"])
    for label in per_class if labels is None else labels:
        values = per_class[label]
        _add_row(table, label, [values[name] for name in (*names, "support")])
    return table


def confusion_table(metrics: Mapping[str, Any], labels: Sequence[str] | None = None, title: str | None = None) -> Table:
    """Numbers of texts: one row per true label, one column per predicted label.

    Args:
        metrics: what ``metrics.classification_metrics`` returned.
        labels: names for the rows and columns, in the order of the classes; the labels of the metrics if not given.
        title: stands above the table.

    Raises:
        ValueError: the labels are not as many as the classes.
    """
    names = list(metrics["per_class"] if labels is None else labels)
    table = _table(title, "true \\ predicted", names)
    for label, counts in zip(names, metrics["confusion"], strict=True):
        _add_row(table, label, counts)
    return table


def _table(title: str | None, corner: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    above = None if title is None else Text(one_line(title))
    table = Table(title=above, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(Text(corner), overflow="ellipsis", no_wrap=True)
    for column in columns:
        table.add_column(Text(one_line(column)), justify="right", overflow="ellipsis", no_wrap=True)
    return table


def _add_row(table: Table, name: str, values: Sequence[float | int | None]) -> None:
    from rich.text import Text

    table.add_row(Text(one_line(name)), *(Text(_number(value)) for value in values))


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
