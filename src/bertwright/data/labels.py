"""Labels: what stands for one in a column, which classes there are and in what order, and what is refused."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from bertwright.data.numbers import NUMBER, number_text
from bertwright.data.rows import Part
from bertwright.data.table import CellKind, show
from bertwright.errors import DataError

MOST_LABELS = 1_000
"""A column with more distinct values than this is not one of labels."""

_NOT_LABEL = {
    CellKind.MISSING: "there is no label (the key is missing)",
    CellKind.NULL: "there is no label (null or not a number)",
    CellKind.NESTED: "the label is a list or an object, expected a string or a number",
    CellKind.BROKEN: "the label is not valid Unicode",
}


def find_labels(part: Part, column: str) -> None:
    """Fill ``codes`` and ``names`` of ``part`` from a column of labels, and mark the rows that have none."""
    part.label_column = column
    part.mark_kinds(column, _NOT_LABEL)
    encoded = part.table.columns[column].dictionary_encode().unify_dictionaries()
    values = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    codes = [np.asarray(pc.fill_null(chunk.indices, len(values))).astype(np.int64) for chunk in encoded.chunks]
    part.codes = np.concatenate([*codes, np.empty(0, np.int64)])
    part.names = [_label_text(value) for value in [*values, None]]
    part.mark_labels({code: "there is no label" for code, name in enumerate(part.names) if name is None})


def _label_text(value: Any) -> str | None:
    """A label as it stands in a column, as a text; None if it is none."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    return str(value).strip() or None


def _without_point(label: str) -> str:
    """ "1" for "1.0"; anything else as it stands."""
    whole, point, rest = label.partition(".")
    return whole if point and not rest.strip("0") and NUMBER.fullmatch(whole) else label


def name_labels(parts: Sequence[Part], threshold: float | None) -> None:
    """The names that the labels go by: two classes at a threshold, whole numbers without a point, others unchanged."""
    if threshold is not None:
        for part in parts:
            _apply_threshold(part, threshold)
        return
    words = {name for name in _count_labels(parts) if name.casefold() != "nan"}
    if not words or not all(map(NUMBER.fullmatch, words)):
        return
    for part in parts:
        nan = [code for code, name in enumerate(part.names) if name is not None and name.casefold() == "nan"]
        part.mark_labels(dict.fromkeys(nan, "there is no label (NaN)"))
        part.names = [None if name is None else _without_point(name) for name in part.names]


def _apply_threshold(part: Part, threshold: float) -> None:
    """Name the labels of ``part`` "1" at or above ``threshold``, else "0"; rows without a number cannot be used."""
    reasons = {}
    for code, name in enumerate(part.names):
        if name is None:
            continue
        if name in ("false", "true") or NUMBER.fullmatch(name):
            number = float({"false": "0", "true": "1"}.get(name, name))
            part.names[code] = "1" if number >= threshold else "0"
        else:
            part.names[code] = None
            reasons[code] = f"label {show(name)} is not a number, which --label-threshold needs"
    part.mark_labels(reasons)


def _count_labels(parts: Sequence[Part]) -> Counter[str]:
    return sum((part.count_labels() for part in parts), Counter[str]())


def check_labels(parts: Sequence[Part], labels: tuple[str, ...] | None) -> None:
    """Refuse labels that are scores, and columns that hold something else than labels.

    Raises:
        DataError: all labels are numbers and one that is not among ``labels``, those of a training, is a fraction; or,
            without ``labels``, there are too many of them.
    """
    used = list(_count_labels(parts))
    if all(map(NUMBER.fullmatch, used)):
        fractions = (name for name in used if not float(name).is_integer() and name not in (labels or ()))
        if (fraction := next(fractions, None)) is not None:
            part = next(part for part in parts if fraction in part.count_labels())
            raise DataError(
                f"{part.table.path}: found fractional labels such as {fraction} in column {show(part.label_column)}, "
                "expected classes. Pass --label-threshold 0.5 to make two classes of them (1 at or above, else 0)"
            )
    rows = sum(int(part.good.sum()) for part in parts)
    if labels is None and (len(used) > MOST_LABELS or (len(used) > 20 and len(used) * 2 > rows)):
        part = parts[0]
        raise DataError(
            f"{part.table.path}: found {len(used):,} different labels on {rows:,} rows in column "
            f"{show(part.label_column)}, expected a few classes: is this the label column? Name it with --label-column"
        )


def refuse_other_labels(parts: Sequence[Part], labels: tuple[str, ...]) -> None:
    """Mark the rows whose label is none of ``labels``, those of a training."""
    expected = show_labels(labels)
    for part in parts:
        reasons = {}
        for code, name in enumerate(part.names):
            if name is None or name in labels:
                continue
            if _without_point(name) in labels:
                part.names[code] = _without_point(name)
            else:
                reasons[code] = f"label {show(name)} is none of {expected}"
        part.mark_labels(reasons)


def classes_of(parts: Sequence[Part], threshold: float | None, notes: list[str]) -> tuple[str, ...]:
    """The classes of a training, in the order of their ids; what the user must be told goes to ``notes``.

    Raises:
        DataError: there is one class only.
    """
    counts = _count_labels(parts)
    if all(map(NUMBER.fullmatch, counts)):
        names = sorted(counts, key=lambda name: (float(name), name))
    else:
        names = sorted(counts)
    if len(names) < 2:
        first = parts[0]
        found_one = f"found one class only ({show_labels(names)}) in column {show(first.label_column)}"
        advice = "Choose another --label-threshold" if threshold is not None else "Add texts of another class"
        raise DataError(f"{first.table.path}: {found_one}, expected at least two. {advice}")
    single = [name for name in names if counts[name] == 1]
    if single and counts.total() >= 100:
        notes.append(f"only one row each has the label {show_labels(single)}: a typing error?")
    return tuple(names)


def positive_last(labels: tuple[str, ...], positive: str | None, fixed: bool) -> tuple[str, ...]:
    """The labels with the positive one of two last, unless their order is ``fixed`` by a training.

    Raises:
        DataError: ``positive`` is none of the labels.
    """
    if positive is None:
        return labels
    name = positive.strip()
    name = name if name in labels else _without_point(name)
    if name not in labels:
        nearest = difflib.get_close_matches(name, labels, n=1)
        hint = f". Did you mean {nearest[0]}?" if nearest else ""
        raise DataError(f"--positive-label {show(positive)} is none of the labels {show_labels(labels)}{hint}")
    if fixed or len(labels) != 2:
        return labels
    return (labels[0], labels[1]) if labels[1] == name else (labels[1], labels[0])


def show_labels(labels: Sequence[str], most: int = 10) -> str:
    """The names of classes for a message: the first ``most`` of them."""
    shown = ", ".join(label if len(label) <= 60 and label.isprintable() else show(label) for label in labels[:most])
    return shown if len(labels) <= most else f"{shown} ... ({len(labels):,} in all)"
