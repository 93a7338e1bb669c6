"""Labels: what stands for one in a column, of what kind they are, which classes there are, and what is refused."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.config.parts import DataSettings, LabelKind
from bertwright.data.choose import MOST_LABELS
from bertwright.data.numbers import NUMBER, number_text
from bertwright.data.rows import MOST_BAD_ROWS, LabelColumn, Part
from bertwright.data.table import BadRow, CellKind, show
from bertwright.errors import DataError

MOST_DISTINCT = 100_000
"""Of no column are more different labels than these kept."""

_MOST_FROM_ONE = 1e-3
_MOST_NUMBER = 1e36  # models compute in float32, which ends at 3.4e38
_LEAST_SPREAD = 1e-36
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_BOOLEANS = {"false": 0.0, "true": 1.0}

Task = Literal["classes", "threshold", "soft", "multi-label", "regression"]
"""How labels are read; "threshold": one column whose kind its numbers decide."""


@dataclass(frozen=True)
class LabelRules:
    """What is asked of the labels of some files; ``labels`` and ``kind`` are those of a training that they follow.

    Attributes:
        asked: the kind that the user named, or "auto".
        threshold: from which number on a label is 1.
        hard: learn from what the threshold says, not from shares.
        positive: of two classes, the one that goes last.
        kept: the threshold is that of the training, nobody asked for it.
        notes: what the user must be told of them.
    """

    asked: Literal["auto", LabelKind] = "auto"
    threshold: float | None = None
    hard: bool = False
    positive: str | None = None
    labels: tuple[str, ...] | None = None
    kind: LabelKind | None = None
    kept: bool = False
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(
        settings: DataSettings,
        labels: tuple[str, ...] | None,
        kind: LabelKind | None,
        kept_threshold: float | None = None,
        kept_hard: bool = False,
    ) -> LabelRules:
        """Those of ``settings``; a training's own threshold and ``--hard-labels`` hold where these say nothing.

        Raises:
            DataError: they exclude each other, or another kind than that of the training was asked for.
        """
        asked, threshold = settings.label_kind, settings.label_threshold
        notes: list[str] = []
        kept = threshold is None and kept_threshold is not None
        if kept:
            threshold = kept_threshold
            notes.append(f"labels count as 1 from {threshold:g} on, as in the training (--label-threshold)")
        elif kept_threshold is not None and threshold != kept_threshold:
            notes.append(f"labels count as 1 from {threshold:g} on, in the training from {kept_threshold:g} on")
        if kept_hard and kind == "classes" and asked == "auto" and threshold is None:
            asked = "soft"  # shares, of which the training made classes
        rules = LabelRules(
            asked,
            threshold,
            settings.hard_labels or kept_hard,
            settings.positive_label,
            labels,
            kind,
            kept,
            tuple(notes),
        )
        rules._check()
        return rules

    def _check(self) -> None:
        asked = self.asked
        if self.kind is not None and asked not in ("auto", self.kind) and (asked, self.kind) != ("soft", "classes"):
            raise DataError(f"--label-kind {asked}: the training's labels are of kind {self.kind}, expected the same")
        self._check_kind(self.wanted)

    def _check_kind(self, kind: str) -> None:
        """Refuse settings that labels of this kind do not have."""
        if kind == "regression" and (self.threshold is not None or self.hard):
            flag = "--hard-labels" if self.threshold is None else "--label-threshold"
            raise DataError(f"{flag} makes classes and regression learns numbers: give one of them")
        if kind in ("multi-label", "regression") and self.positive is not None:
            raise DataError(f"--positive-label names one of two classes, found {kind} labels: leave it out")
        if kind in ("soft", "multi-label") and self.threshold is not None and not 0 < self.threshold <= 1:
            raise DataError(f"--label-threshold: found {self.threshold:g}, for shares expected above 0 and at most 1")

    @property
    def wanted(self) -> Literal["auto", LabelKind]:
        """The kind that is known before the columns are."""
        return self.asked if self.asked != "auto" else self.kind or "auto"

    def preferred_columns(self) -> tuple[tuple[str, ...], bool]:
        """Label columns to take if none were asked for, and whether they must be there."""
        if self.labels is None or self.wanted not in ("multi-label", "soft", "regression"):
            return (), False
        return self.labels, self.wanted == "multi-label"

    def task(self, path: str, columns: Sequence[str]) -> Task:
        """How the labels in ``columns`` of the file ``path`` are read.

        Raises:
            DataError: labels of the kind that is wanted cannot be in so many columns, or do not have a setting given.
        """
        wanted, several = self.wanted, len(columns) > 1
        if wanted == "auto":
            wanted = "multi-label" if several else "classes"
            if not several and self.threshold is not None:
                return "threshold"
        if several and wanted in ("classes", "regression"):
            raise DataError(
                f"{path}: found {len(columns)} label columns ({', '.join(map(show, columns[:10]))}), expected one for "
                f"{wanted} labels. Name one with --label-column"
            )
        self._check_kind(wanted)
        if wanted == "classes" and self.threshold is not None:
            return "threshold"
        if wanted == "classes" and self.hard:
            raise DataError(
                f"--hard-labels: found one label column, {show(columns[0])}, whose classes are hard already. Leave it "
                "out, or say of which numbers to make classes with --label-threshold or --label-kind soft"
            )
        one_class = not several and self.labels is not None and set(self.labels) != {"0", "1"}
        if wanted == "soft" and (several or one_class) and self.threshold is not None:
            raise DataError(
                "--label-threshold: found shares of several classes, of which the class with the largest share "
                "counts. Leave it out"
            )
        if wanted == "soft" and one_class:
            return "classes"  # the one right class of each text, for a training of shares of several classes
        return wanted


@dataclass(frozen=True)
class Settled:
    """Labels of all rows, as ``LabelledTexts`` holds them."""

    kind: LabelKind
    labels: tuple[str, ...]
    label_ids: np.ndarray | None
    targets: np.ndarray | None = None
    hard_targets: np.ndarray | None = None


class LabelReader(Protocol):
    """Takes the labels of one part of a file after the other."""

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """``names``, the label columns of the file ``path``, in the order in which they are read.

        Raises:
            DataError: they are others than in the first file, or than those of the training.
        """
        ...

    def add(self, part: Part, names: Sequence[str], file: int) -> None:
        """Mark the rows of ``part`` whose label is none, and keep the labels of the usable ones."""
        ...

    def check(self) -> tuple[np.ndarray | None, dict[int, list[BadRow]], Counter[int]]:
        """Once all is added: refuse labels that are none, and say which of the kept rows cannot be used after all.

        Returns (kept rows,) bool or None for none of them, by file the first of these rows, and how many there are.
        """
        ...

    def settle(self, dropped: np.ndarray | None, notes: list[str]) -> Settled:
        """The labels of the rows that are not ``dropped``; what the user must be told goes to ``notes``.

        Raises:
            DataError: there is one class only, or another thing that a training cannot learn from.
        """
        ...


def label_reader(rules: LabelRules, path: str, columns: Sequence[str]) -> LabelReader:
    """What reads the labels in ``columns``, those of the first file.

    Raises:
        DataError: as ``LabelRules.task``.
    """
    task = rules.task(path, columns)
    if task == "classes":
        return ClassLabels(rules, path, columns[0])
    return NumberLabels(rules, task, path, tuple(columns))


# --- what stands in a column ------------------------------------------------------------------------------------------


def _where(column: str, columns: Sequence[str]) -> str:
    """Where a label stands, if messages must say that."""
    return f" in column {show(column)}" if len(columns) > 1 else ""


def _other_columns(path: str, found: Sequence[str], expected: str) -> str:
    return f"{path}: found the label columns {show_labels(found)}, expected {expected}. Name them with --label-column"


def _not_label(where: str) -> dict[CellKind, str]:
    """Why a cell is no label; ``where`` it stands, if that must be said."""
    return {
        CellKind.MISSING: f"there is no label{where} (the key is missing)",
        CellKind.NULL: f"there is no label{where} (null or not a number)",
        CellKind.NESTED: f"the label{where} is a list or an object, expected a string or a number",
        CellKind.BROKEN: f"the label{where} is not valid Unicode",
    }


def _encoded(column: pa.ChunkedArray) -> tuple[list[str | None], np.ndarray]:
    """The different labels of a column as texts, the last one None, and (rows,) which of them each row has."""
    encoded = column.dictionary_encode().unify_dictionaries()
    values = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    codes = [np.asarray(pc.fill_null(chunk.indices, len(values))).astype(np.int64) for chunk in encoded.chunks]
    return [_label_text(value) for value in [*values, None]], np.concatenate([*codes, np.empty(0, np.int64)])


def _label_text(value: Any) -> str | None:
    """A label as it stands in a column, as a text; None if it is none."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    return str(value).strip() or None


def _marked_labels(part: Part, column: str, where: str = "") -> tuple[list[str | None], np.ndarray]:
    """The labels of a column as ``_encoded`` gives them; the rows that have none are marked."""
    cells = part.column(column)
    part.mark_kinds(column, _not_label(where))
    names, codes = _encoded(cells)
    part.mark(np.array([name is None for name in names])[codes], f"there is no label{where}")
    return names, codes


def _marked_numbers(part: Part, column: str, where: str, wrong: str) -> np.ndarray:
    """(rows,) float64: the numbers in a column; the rows that have none are marked, as ``wrong`` those with words."""
    if pa.types.is_floating(part.column(column).type) or pa.types.is_integer(part.column(column).type):
        cells = part.column(column)
        part.mark_kinds(column, _not_label(where))
        numbers = np.asarray(pc.fill_null(cells.cast(pa.float64(), safe=False), np.nan))
        part.mark(np.isnan(numbers), f"there is no label{where}")
    else:
        names, codes = _marked_labels(part, column, where)
        of_name = np.array([np.nan if name is None else _number(name) for name in names])
        numbers = of_name[codes]
        part.mark(np.isnan(numbers), lambda row: f"label {show(names[codes[row]])}{where} {wrong}")
    part.mark(np.isinf(numbers), f"the label{where} is not a finite number")
    return numbers


def _outside(numbers: np.ndarray, where: str, wrong: str) -> Callable[[int], str]:
    return lambda row: f"label {show(f'{numbers[row]:g}')}{where} {wrong}"


def _number(label: str) -> float:
    """The number that a label stands for; NaN for a word."""
    if NUMBER.fullmatch(label) or _INFINITE.fullmatch(label):
        return float(label)
    return _BOOLEANS.get(label.casefold(), np.nan)


def _without_point(label: str) -> str:
    """ "1" for "1.0"; anything else as it stands."""
    whole, point, rest = label.partition(".")
    return whole if point and not rest.strip("0") and NUMBER.fullmatch(whole) else label


def _is_nan(label: str) -> bool:
    return label.casefold() == "nan"


class _Codes:
    """The labels of one column as places among their different names, in the order in which these are first met."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self._pieces: list[np.ndarray] = []

    def add(self, names: Sequence[str | None], codes: np.ndarray) -> None:
        """Rows whose labels are ``names[code]``, none of them None."""
        first = np.full(len(names), len(codes))
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        table = np.zeros(len(names), np.int32)
        for code in np.argsort(first, kind="stable").tolist():
            if first[code] == len(codes):
                break
            table[code] = self.names.setdefault(str(names[code]), len(self.names))
        self.add_places(table[codes])

    def add_places(self, places: np.ndarray) -> None:
        """Rows whose labels have these places."""
        self._pieces.append(places.astype(np.int32, copy=False))

    def all(self) -> np.ndarray:
        """(rows,) int32."""
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate([*self._pieces, np.empty(0, np.int32)])]
        return self._pieces[0]


class StoredLabels:
    """Labels as they stand in files, for a folder of token ids: in one column or several."""

    def __init__(self, path: str, columns: tuple[str, ...]) -> None:
        self._path, self._names = path, columns
        self._columns = [_StoredColumn(path, name) for name in columns]

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """As that of :class:`LabelReader`."""
        if len(names) == len(self._names) == 1:
            return names
        if sorted(names) != sorted(self._names):
            raise DataError(_other_columns(path, names, f"those of {self._path}, {show_labels(self._names)}"))
        return self._names

    def add(self, part: Part, names: Sequence[str], file: int) -> None:
        """Mark the rows of ``part`` that lack a label, and keep those of the others.

        Raises:
            DataError: a column holds more different labels than there can be, and not all are numbers.
        """
        found = [_marked_labels(part, name, _where(name, names)) for name in names]
        for column, (labels, codes) in zip(self._columns, found, strict=True):
            column.keep(labels, codes[part.good])

    def finish(self) -> tuple[LabelColumn, ...]:
        """The labels of all rows, a column each."""
        return tuple(column.finish() for column in self._columns)


class _StoredColumn:
    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._codes: _Codes | None = _Codes()
        self._numbers: list[np.ndarray] = []

    def keep(self, names: Sequence[str | None], codes: np.ndarray) -> None:
        if self._codes is not None:
            self._codes.add(names, codes)
            if len(self._codes.names) <= MOST_DISTINCT:
                return
            self._numbers = [_numbers_of(list(self._codes.names), self._codes.all())]
            self._codes = None
        else:
            self._numbers.append(_numbers_of(names, codes))
        if np.isinf(self._numbers[-1]).any():
            raise DataError(
                f"{self._path}: found more than {MOST_DISTINCT:,} different labels in column {show(self._name)}, not "
                "all of them numbers: is this the label column? Name it with --label-column, or pass --no-labels"
            )

    def finish(self) -> LabelColumn:
        if self._codes is None:
            return LabelColumn(self._name, None, None, np.concatenate(self._numbers))
        return LabelColumn(self._name, tuple(self._codes.names), self._codes.all())


def _numbers_of(names: Sequence[str | None], codes: np.ndarray) -> np.ndarray:
    """(rows,) float64: the labels as numbers; infinite for a word."""
    words = (name for name in names if name is not None)
    of_name = {name: float(name) if NUMBER.fullmatch(name) or _is_nan(name) else np.inf for name in words}
    return np.array([np.inf if name is None else of_name[name] for name in names])[codes]


# --- classes ----------------------------------------------------------------------------------------------------------


class ClassLabels:
    """One label a text, whatever it is called. Implements :class:`LabelReader`."""

    def __init__(self, rules: LabelRules, path: str, column: str) -> None:
        self._rules, self._path, self._column = rules, path, column
        self._known = rules.labels
        self._ids = {name: number for number, name in enumerate(rules.labels or ())}
        self._codes = _Codes()
        self._num_rows = 0
        self._only_numbers = True
        self._fraction: tuple[str, str, str] | None = None
        self._nan_rows: dict[int, list[BadRow]] = {}
        self._num_nan: Counter[int] = Counter()

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]:
        return names

    def add(self, part: Part, names: Sequence[str], file: int) -> None:
        (column,) = names
        found, codes = _marked_labels(part, column)
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
        self._remember_nan(part, [code for code in used if _is_nan(str(found[code]))], codes, file)

    def _look_at(self, name: str, path: str, column: str) -> None:
        """Whether all labels so far are numbers, and the first fraction among them."""
        if self._known is None and _is_nan(name):
            return
        if not NUMBER.fullmatch(name):
            self._only_numbers = False
        elif self._fraction is None and not float(name).is_integer() and name not in self._ids:
            self._fraction = (name, path, column)

    def _add_known(self, part: Part, names: Sequence[str | None], codes: np.ndarray) -> None:
        """Labels of a training: others are bad rows."""
        ids = [-1 if name is None else self._ids.get(name, self._ids.get(_without_point(name), -1)) for name in names]
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
        numbers = self._only_numbers and any(not _is_nan(name) for name in names)
        nan = [code for name, code in names.items() if _is_nan(name)] if numbers else []
        found = len({_without_point(name) for name in names if not _is_nan(name)} if numbers else names)
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
        if self._only_numbers and any(not _is_nan(name) for name in names):
            names = [_without_point(name) for name in names]
        counts: Counter[str] = Counter()
        for name, count in zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True):
            if count:
                counts[name] += count
        labels = _classes(counts, self._path, self._column, "Add texts of another class", notes)
        labels = positive_last(labels, self._rules.positive, fixed=False)
        ids = {name: number for number, name in enumerate(labels)}
        of_code = np.array([ids.get(name, -1) for name in names], np.int64)
        return self._settled(labels, of_code[codes])

    def _settled(self, labels: tuple[str, ...], label_ids: np.ndarray) -> Settled:
        if self._rules.wanted != "soft" or self._rules.kind == "classes" or self._rules.hard:
            return Settled("classes", labels, label_ids)
        return Settled("soft", labels, label_ids, np.eye(len(labels), dtype=np.float32)[label_ids])


def _classes(counts: Counter[str], path: str, column: str, advice: str, notes: list[str]) -> tuple[str, ...]:
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
    name = name if name in labels else _without_point(name)
    if name not in labels:
        nearest = difflib.get_close_matches(name, labels, n=1)
        hint = f". Did you mean {nearest[0]}?" if nearest else ""
        raise DataError(f"--positive-label {show(positive)} is none of the labels {show_labels(labels)}{hint}")
    if fixed:
        return labels
    return (labels[0], labels[1]) if labels[1] == name else (labels[1], labels[0])


def show_labels(labels: Sequence[str], most: int = 10) -> str:
    """The names of classes for a message: the first ``most`` of them."""
    shown = ", ".join(label if len(label) <= 60 and label.isprintable() else show(label) for label in labels[:most])
    return shown if len(labels) <= most else f"{shown} ... ({len(labels):,} in all)"


# --- numbers: shares, several labels, regression ----------------------------------------------------------------------


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
            raise DataError(_other_columns(path, names, f"{whose}, {show_labels(self._names)}"))
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
        where = [_where(name, names) for name in names]
        values = np.stack([_marked_numbers(part, name, w, wrong) for name, w in zip(names, where, strict=True)], axis=1)
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
            labels = _classes(counts, self._path, self._names[0], "Choose another --label-threshold", notes)
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
