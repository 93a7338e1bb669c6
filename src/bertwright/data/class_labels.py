"""Labels that are names of classes: which there are, in what order, and what is no class."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bertwright.data.choose import MOST_LABELS
from bertwright.data.label_cells import (
    MOST_DISTINCT,
    Codes,
    is_nan,
    marked_labels,
    show_labels,
    without_point,
)
from bertwright.data.label_rules import LabelRules, Settled
from bertwright.data.numbers import NUMBER
from bertwright.data.rows import MOST_BAD_ROWS, Part
from bertwright.data.table import BadRow, show
from bertwright.errors import DataError


class ClassLabels:
    """One label a text, whatever it is called. Implements :class:`LabelReader`."""

    def __init__(self, rules: LabelRules, path: str, column: str) -> None:
        self._rules, self._path, self._column = rules, path, column
        self._known = rules.labels
        self._ids = {name: number for number, name in enumerate(rules.labels or ())}
        self._codes = Codes()
        self._num_rows = 0
        self._only_numbers = True
        self._fraction: tuple[str, str, str] | None = None
        self._nan_rows: dict[int, list[BadRow]] = {}
        self._num_nan: Counter[int] = Counter()

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]:
        return names

    def add(self, part: Part, names: Sequence[str], file: int) -> None:
        (column,) = names
        found, codes = marked_labels(part, column)
        good = part.good
        used = np.flatnonzero(np.bincount(codes[good], minlength=len(found))).tolist()
        for code in used:
            self._look_at(str(found[code]), part.table.path, column)
        if self._known is not None:
            self._add_known(part, found, codes)
            return
        self._num_rows += int(np.count_nonzero(good))
        self._codes.add(found, codes[good])
        if len(self._codes.names) > MOST_DISTINCT:
            self._refuse(f"more than {MOST_DISTINCT:,}")
        self._remember_nan(part, [code for code in used if is_nan(str(found[code]))], codes, file)

    def _look_at(self, name: str, path: str, column: str) -> None:
        """Whether all labels so far are numbers, and the first fraction among them."""
        if self._known is None and is_nan(name):
            return
        if not NUMBER.fullmatch(name):
            self._only_numbers = False
        elif self._fraction is None and not float(name).is_integer() and name not in self._ids:
            self._fraction = (name, path, column)

    def _add_known(self, part: Part, names: Sequence[str | None], codes: np.ndarray) -> None:
        """Labels of a training: others are bad rows."""
        ids = [-1 if name is None else self._ids.get(name, self._ids.get(without_point(name), -1)) for name in names]
        of_row = np.array(ids, np.int64)[codes]
        expected = show_labels(list(self._ids))
        part.mark(of_row < 0, lambda row: f"label {show(names[codes[row]])} is none of {expected}")
        self._codes.add_places(of_row[part.good])

    def _remember_nan(self, part: Part, nan: Sequence[int], codes: np.ndarray, file: int) -> None:
        """Rows whose label is "nan": bad ones if all others turn out to be numbers."""
        if not nan:
            return
        rows = np.flatnonzero(np.isin(codes, nan) & part.good)
        some = rows[: MOST_BAD_ROWS - sum(map(len, self._nan_rows.values()))].tolist()
        kept = self._nan_rows.setdefault(file, [])
        kept += [part.table.bad_row(row, "there is no label (NaN)") for row in some]
        self._num_nan[file] += len(rows)

    def check(self) -> tuple[np.ndarray | None, dict[int, list[BadRow]], Counter[int]]:
        names = self._codes.names
        numbers = self._only_numbers and any(not is_nan(name) for name in names)
        nan = [code for name, code in names.items() if is_nan(name)] if numbers else []
        found = len({without_point(name) for name in names if not is_nan(name)} if numbers else names)
        if self._only_numbers and self._fraction is not None:
            self._refuse_fractions()
        rows = self._num_rows - (self._num_nan.total() if nan else 0)
        if self._known is None and (found > MOST_LABELS or (found > 20 and found * 2 > rows)):
            self._refuse(f"{found:,}", rows)
        if not nan:
            return None, {}, Counter()
        return np.isin(self._codes.all(), nan), self._nan_rows, self._num_nan

    def _refuse_fractions(self) -> None:
        assert self._fraction is not None
        name, path, column = self._fraction
        raise DataError(
            f"{path}: found fractional labels such as {name} in column {show(column)}, expected classes. Pass "
            "--label-threshold 0.5 to make two classes of them (1 at or above, else 0), --label-kind soft to learn "
            "shares between 0 and 1, or --label-kind regression to learn numbers"
        )

    def _refuse(self, found: str, rows: int | None = None) -> None:
        if self._only_numbers and self._fraction is not None:
            self._refuse_fractions()
        raise DataError(
            f"{self._path}: found {found} different labels on {self._num_rows if rows is None else rows:,} rows in "
            f"column {show(self._column)}, expected a few classes: is this the label column? Name it with "
            "--label-column"
        )

    def settle(self, dropped: np.ndarray | None, notes: list[str]) -> Settled:
        codes = self._codes.all()
        if dropped is not None:
            codes = codes[~dropped]
        if self._known is not None:
            labels = positive_last(self._known, self._rules.positive, fixed=True)
            return self._settled(labels, codes.astype(np.int64))
        names = list(self._codes.names)
        if self._only_numbers and any(not is_nan(name) for name in names):
            names = [without_point(name) for name in names]
        counts: Counter[str] = Counter()
        for name, count in zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True):
            if count:
                counts[name] += count
        labels = classes_of(counts, self._path, self._column, "Add texts of another class", notes)
        labels = positive_last(labels, self._rules.positive, fixed=False)
        ids = {name: number for number, name in enumerate(labels)}
        of_code = np.array([ids.get(name, -1) for name in names], np.int64)
        return self._settled(labels, of_code[codes])

    def _settled(self, labels: tuple[str, ...], label_ids: np.ndarray) -> Settled:
        if self._rules.wanted != "soft" or self._rules.kind == "classes" or self._rules.hard:
            return Settled("classes", labels, label_ids)
        return Settled("soft", labels, label_ids, np.eye(len(labels), dtype=np.float32)[label_ids])


def classes_of(counts: Counter[str], path: str, column: str, advice: str, notes: list[str]) -> tuple[str, ...]:
    """The classes of a training, in the order of their ids; what the user must be told goes to ``notes``.

    Raises:
        DataError: there is one class only.
    """
    if all(map(NUMBER.fullmatch, counts)):
        names = sorted(counts, key=lambda name: (float(name), name))
    else:
        names = sorted(counts)
    if len(names) < 2:
        found_one = f"found one class only ({show_labels(names)}) in column {show(column)}"
        raise DataError(f"{path}: {found_one}, expected at least two. {advice}")
    single = [name for name in names if counts[name] == 1]
    if single and counts.total() >= 100:
        notes.append(f"only one row each has the label {show_labels(single)}: a typing error?")
    return tuple(names)


def positive_last(labels: tuple[str, ...], positive: str | None, fixed: bool) -> tuple[str, ...]:
    """The labels with the positive one of two last, unless their order is ``fixed`` by a training.

    Raises:
        DataError: ``positive`` is none of the labels, or these are not two.
    """
    if positive is None:
        return labels
    if len(labels) != 2:
        raise DataError(
            f"--positive-label names one of two classes, found {len(labels):,} ({show_labels(labels)}): leave it out"
        )
    name = positive.strip()
    name = name if name in labels else without_point(name)
    if name not in labels:
        nearest = difflib.get_close_matches(name, labels, n=1)
        hint = f". Did you mean {nearest[0]}?" if nearest else ""
        raise DataError(f"--positive-label {show(positive)} is none of the labels {show_labels(labels)}{hint}")
    if fixed:
        return labels
    return (labels[0], labels[1]) if labels[1] == name else (labels[1], labels[0])
