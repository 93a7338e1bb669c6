"""Labels that are numbers: shares, several labels a text, regression, and two classes at a threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from bertwright.data.class_labels import classes_of, positive_last
from bertwright.data.label_cells import (
    marked_numbers,
    other_columns,
    show_labels,
    where_of,
)
from bertwright.data.label_rules import LabelRules, Settled, Task
from bertwright.data.rows import Part
from bertwright.data.table import BadRow, show
from bertwright.errors import DataError

_MOST_FROM_ONE = 1e-3
_MOST_NUMBER = 1e36  # models compute in float32, which ends at 3.4e38
_LEAST_SPREAD = 1e-36


class NumberLabels:
    """Labels that are numbers, in one column or several. Implements :class:`LabelReader`.

    With one column: two classes at a threshold ("threshold"), the share of the class "1" ("soft"), or any number
    ("regression"). With several: a share for each class ("soft"), or whether and how much each label holds
    ("multi-label", which may have one column too).
    """

    def __init__(self, rules: LabelRules, task: Task, path: str, columns: tuple[str, ...]) -> None:
        self._rules, self._task, self._path = rules, task, path
        self._several = len(columns) > 1
        self._names = columns
        self._by_name = task == "multi-label" or self._several
        if self._by_name and rules.labels is not None:
            self._names = rules.labels
        self._threshold = 0.5 if rules.threshold is None else rules.threshold
        self._targets: list[np.ndarray] = []
        self._hard: list[np.ndarray] = []
        self._within = True
        self._fractions = False
        self._zero_one = True

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]:
        if not self._by_name and len(names) == 1:
            return names
        if sorted(names) != sorted(self._names):
            whose = f"those of {self._path}" if self._rules.labels is None else "those of the training"
            raise DataError(other_columns(path, names, f"{whose}, {show_labels(self._names)}"))
        return self._names

    def add(self, part: Part, names: Sequence[str], file: int) -> None:
        task = self._task
        wrong = {
            "threshold": "is not a number, which --label-threshold needs",
            "soft": "is not a share between 0 and 1",
            "multi-label": "is neither 0 nor 1 nor a share between them",
            "regression": "is not a number, which --label-kind regression needs",
            "classes": "",
        }[task]
        where = [where_of(name, names) for name in names]
        values = np.stack([marked_numbers(part, name, w, wrong) for name, w in zip(names, where, strict=True)], axis=1)
        if task in ("soft", "multi-label"):
            for column, place in enumerate(where):
                outside = (values[:, column] < 0) | (values[:, column] > 1)
                part.mark(outside, _outside(values[:, column], place, wrong))
        if task == "soft" and self._several:
            values = np.clip(values, -_MOST_NUMBER, _MOST_NUMBER)  # an infinite one is marked, but divides no other
            sums = values.sum(axis=1)
            part.mark(
                np.abs(sums - 1) > _MOST_FROM_ONE,
                lambda row: f"the shares sum to {sums[row]:g}, expected 1",
            )
            values = values / np.where(sums > 0, sums, 1)[:, None]
        if task == "regression":
            part.mark(
                np.abs(values[:, 0]) > _MOST_NUMBER,
                _outside(values[:, 0], where[0], f"is beyond {_MOST_NUMBER:g}, which models cannot give"),
            )
        hard = values >= self._threshold
        if task == "threshold" and self._rules.labels is not None:
            for value, name in ((True, "1"), (False, "0")):
                if name not in self._rules.labels:
                    expected = show_labels(self._rules.labels)
                    part.mark(hard[:, 0] == value, f"label {show(name)} is none of {expected}")
        good = part.good
        values, hard = values[good], hard[good]
        if task == "threshold":
            self._within &= bool(((values >= 0) & (values <= 1)).all())
            self._fractions |= bool((values != np.floor(values)).any())
        self._zero_one &= bool(((values == 0) | (values == 1)).all())
        if task != "regression":
            # Beyond 0 to 1 only the side of the threshold counts: float32 need not hold the number.
            values = np.clip(values, -_MOST_NUMBER, _MOST_NUMBER).astype(np.float32)
        self._targets.append(values)
        self._hard.append(hard)

    def check(self) -> tuple[np.ndarray | None, dict[int, list[BadRow]], Counter[int]]:
        return None, {}, Counter()

    def settle(self, dropped: np.ndarray | None, notes: list[str]) -> Settled:
        """See :class:`LabelReader`; nothing is ever ``dropped``."""
        targets, hard = np.concatenate(self._targets), np.concatenate(self._hard)
        self._targets, self._hard = [], []
        if not self._zero_one:
            notes += self._rules.notes
        if self._task == "regression":
            return self._settled_numbers(targets)
        if self._task == "multi-label":
            return self._settled_several(targets, hard, notes)
        if self._several:
            return self._settled_shares(targets, notes)
        return self._settled_two(targets[:, 0], hard[:, 0], notes)

    def _settled_numbers(self, targets: np.ndarray) -> Settled:
        if self._rules.labels is None and len(targets) and targets.max() - targets.min() < _LEAST_SPREAD:
            same = targets.min() == targets.max()
            found = f"one number only ({targets[0, 0]:.15g})" if same else f"numbers less than {_LEAST_SPREAD:g} apart"
            raise DataError(
                f"{self._path}: found {found} in column {show(self._names[0])}, expected different ones to learn from"
            )
        return Settled("regression", self._rules.labels or self._names, None, targets)

    def _settled_several(self, targets: np.ndarray, hard: np.ndarray, notes: list[str]) -> Settled:
        if self._rules.labels is None:
            same = targets.min(axis=0) == targets.max(axis=0)
            if same.all():
                raise DataError(
                    f"{self._path}: found the same labels on all rows ({show_labels(self._names)}), expected texts "
                    "with and without a label"
                )
            for name, value in zip(np.array(self._names)[same], targets[0, same], strict=True):
                notes.append(f"label {show(name)} is {value:g} on all rows: nothing can be learnt about it")
        if self._rules.hard:
            targets = hard.astype(np.float32)
        return Settled("multi-label", self._names, None, targets, hard)

    def _settled_shares(self, targets: np.ndarray, notes: list[str]) -> Settled:
        """Shares of several classes, which sum to 1."""
        labels = self._names
        if self._rules.labels is None:
            labels = positive_last(labels, self._rules.positive, fixed=False)
            targets = targets[:, [self._names.index(name) for name in labels]]
            if unused := [name for name, most in zip(labels, targets.max(axis=0), strict=True) if most == 0]:
                notes.append(f"no row has a share of the class {show_labels(unused)}: nothing can be learnt about it")
        label_ids = targets.argmax(axis=1).astype(np.int64)
        return self._soft(labels, label_ids, targets)

    def _settled_two(self, shares: np.ndarray, hard: np.ndarray, notes: list[str]) -> Settled:
        """The classes "0" and "1" of one column."""
        rules = self._rules
        if rules.kept and self._task == "threshold" and self._zero_one:
            hard = shares == 1  # the two classes themselves, whatever the threshold was
        if rules.labels is None:
            counts = Counter({name: int(n) for name, n in (("0", (~hard).sum()), ("1", hard.sum())) if n})
            labels = classes_of(counts, self._path, self._names[0], "Choose another --label-threshold", notes)
            labels = positive_last(labels, rules.positive, fixed=False)
        else:
            labels = positive_last(rules.labels, rules.positive, fixed=True)
        ids = [labels.index(name) if name in labels else -1 for name in ("0", "1")]
        label_ids = np.array(ids, np.int64)[hard.astype(np.int64)]
        are_shares = self._within and self._fractions and rules.wanted == "auto" and -1 not in ids
        if not (self._task == "soft" or are_shares):
            return Settled("classes", labels, label_ids)
        targets = np.empty((len(shares), 2), np.float32)
        targets[:, ids[1]], targets[:, ids[0]] = shares, 1 - shares
        return self._soft(labels, label_ids, targets)

    def _soft(self, labels: tuple[str, ...], label_ids: np.ndarray, targets: np.ndarray) -> Settled:
        if self._rules.hard or self._rules.kind == "classes":
            return Settled("classes", labels, label_ids)
        return Settled("soft", labels, label_ids, targets)


def _outside(numbers: np.ndarray, where: str, wrong: str) -> Callable[[int], str]:
    return lambda row: f"label {show(f'{numbers[row]:g}')}{where} {wrong}"
