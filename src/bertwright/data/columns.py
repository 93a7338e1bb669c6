"""From columns to texts and labels: which column is which, what the classes are, and which rows cannot be used."""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.config import DataSettings
from bertwright.data.read import (
    LABEL_COLUMN_NAMES,
    NUMBER,
    TEXT_COLUMN_NAMES,
    BadRow,
    CellKind,
    Table,
    fold_name,
    number_text,
    read_lines,
    read_table,
    show,
)
from bertwright.errors import DataError

FilePath = str | os.PathLike[str]

_MOST_LABELS = 1_000
_SKIP_HINT = "Pass --on-bad-row skip to drop such rows (they are counted)."
_NOT_TEXT = {
    CellKind.NUMBER: "the text is a number, expected a string",
    CellKind.BOOL: "the text is a boolean, expected a string",
    CellKind.MISSING: "there is no text (the key is missing)",
    CellKind.NULL: "there is no text (null)",
    CellKind.NESTED: "the text is a list or an object, expected a string",
    CellKind.BROKEN: "the text is not valid Unicode",
}
_NOT_LABEL = {
    CellKind.MISSING: "there is no label (the key is missing)",
    CellKind.NULL: "there is no label (null or not a number)",
    CellKind.NESTED: "the label is a list or an object, expected a string or a number",
    CellKind.BROKEN: "the label is not valid Unicode",
}


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their classes, in the order of their files.

    ``texts`` (rows,) large_string, as they stand in the file. ``label_ids`` (rows,) int64 index ``labels``, the names
    of the classes; texts without labels have None and (). ``rows`` (rows,) int64 is where each text stands in its
    source: from 0, counted over all files in the order given, so that skipped rows leave gaps. ``bad_rows`` are those
    skipped, ``notes`` what the user must be told, and ``sha256`` the hash of the files' bytes as they lie on disk, in
    that order.
    """

    texts: pa.ChunkedArray
    label_ids: np.ndarray | None
    labels: tuple[str, ...]
    rows: np.ndarray
    bad_rows: list[BadRow]
    notes: list[str]
    sha256: str

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: np.ndarray | Sequence[int]) -> LabelledTexts:
        """The texts at ``indices`` (any number of them, in any order), with the same labels, notes and hash."""
        chosen = np.asarray(indices, np.int64)
        return replace(
            self,
            texts=self.texts.take(pa.array(chosen)),
            label_ids=None if self.label_ids is None else self.label_ids[chosen],
            rows=self.rows[chosen],
        )


def read_labelled(
    paths: FilePath | Iterable[FilePath], settings: DataSettings, labels: tuple[str, ...] | None = None
) -> LabelledTexts:
    """The labelled texts of one or several files, one after the other.

    Without ``labels`` the files say what the classes are, over all of them: in numeric order if all are numbers, else
    sorted; of two, ``settings.positive_label`` goes last. With ``labels``, those of a training, the ids follow them and
    a row with any other label is a bad row. Labels are stripped; where all are numbers, whole ones lose their point, so
    that 1.0 is "1".

    Raises:
        DataError: a file cannot be read (:func:`bertwright.data.read.read_table`); a column is not found; a row cannot
            be used and ``settings.on_bad_row`` is "error", or none can be; the labels are fractions without
            ``settings.label_threshold``, too many to be classes or, for a training, of one class only;
            ``settings.positive_label`` is none of them.
    """
    digest = hashlib.sha256()
    given = [name for name in (settings.text_column, settings.label_column) if name is not None]
    parts = []
    for path in _as_list(paths):
        table = read_table(path, given, on_bytes=digest.update)
        text, label, notes = _text_and_label(table, settings.text_column, settings.label_column)
        part = _with_texts(table, text, notes)
        part.find_labels(label)
        parts.append(part)
    if labels is None or settings.label_threshold is not None:
        _name_labels(parts, settings.label_threshold)
    _check_labels(parts, labels)
    if labels is not None:
        _refuse_other_labels(parts, labels)
    _handle_bad_rows(parts, settings.on_bad_row)
    notes = [note for part in parts for note in part.notes]
    names = labels if labels is not None else _classes(parts, settings.label_threshold, notes)
    names = _positive_last(names, settings.positive_label, fixed=labels is not None)
    ids = {name: number for number, name in enumerate(names)}
    label_ids = np.concatenate([part.label_ids(ids) for part in parts])
    return _assembled(parts, label_ids, names, notes, digest.hexdigest())


def read_unlabelled(
    paths: FilePath | IO[Any] | Iterable[FilePath | IO[Any]],
    text_column: str | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
) -> LabelledTexts:
    """The texts of one or several files or file objects, whether they have labels or not; ``label_ids`` is None.

    A file object, and "-" for standard input, holds one text a line. So does a .txt file, unless most of its lines are
    ``label ||| text``. In other files the text column is found as for labelled texts, or it is the only column.

    Raises:
        DataError: as :func:`read_labelled`, labels aside.
    """
    digest = hashlib.sha256()
    parts = []
    for source in _as_list(paths):
        if isinstance(source, str | os.PathLike) and os.fspath(source) != "-":
            given = [] if text_column is None else [text_column]
            table = read_table(source, given, plain_text=True, on_bytes=digest.update)
        elif isinstance(source, str | os.PathLike):
            table = read_lines(sys.stdin.buffer, "standard input", digest.update)
        else:
            name = getattr(source, "name", None)
            shown = "standard input" if name == "<stdin>" else name if isinstance(name, str) else "file object"
            table = read_lines(source, shown, digest.update)
        text, notes = _text_only(table, text_column)
        parts.append(_with_texts(table, text, notes))
    _handle_bad_rows(parts, on_bad_row)
    return _assembled(parts, None, (), [note for part in parts for note in part.notes], digest.hexdigest())


def _as_list(paths: Any) -> list[Any]:
    """One source or several, as a list of them."""
    sources = [paths] if isinstance(paths, str | os.PathLike) or hasattr(paths, "read") else list(paths)
    if not sources:
        raise DataError("no file given: name at least one file of texts")
    return sources


# --- which column is which ----------------------------------------------------------------------------------


def _text_and_label(table: Table, text: str | None, label: str | None) -> tuple[str, str, list[str]]:
    """The names of the text and of the label column, and what to tell about the choice."""
    if table.format == "txt":
        return "text", "label", []
    notes: list[str] = []
    text = _named(table, text, "--text-column")
    label = _named(table, label, "--label-column")
    if text is not None and text == label:
        raise DataError(f"{table.path}: --text-column and --label-column are both {show(text)}, expected two columns")
    guess_label = label is None
    if text is None:
        text = _known(table, TEXT_COLUMN_NAMES, label)
    if label is None:
        label = _known(table, LABEL_COLUMN_NAMES, text)
    if len(table.columns) == 2 and (text is None or label is None):
        first, second = table.columns
        if text is not None:
            label = second if text == first else first
        elif label is not None:
            text = second if label == first else first
        else:
            text, label = _by_content(table)
        if text is not None:
            notes.append(f"took column {show(text)} for the texts and column {show(label)} for the labels")
    if text is None or label is None:
        missing = "text and label columns" if text == label else "text column" if text is None else "label column"
        raise DataError(f"{table.path}: {_not_found(table, missing)}. Name them with --text-column and --label-column")
    if guess_label and fold_name(label) not in LABEL_COLUMN_NAMES[:3]:
        others = [name for name in table.columns if fold_name(name) in LABEL_COLUMN_NAMES and name not in (label, text)]
        if others:
            shown = ", ".join(show(name) for name in others)
            notes.append(f"took column {show(label)} for the labels; --label-column can name another ({shown})")
    return text, label, notes


def _text_only(table: Table, text: str | None) -> tuple[str, list[str]]:
    """The name of the text column of a file that need not have labels, and what to tell about the choice."""
    if table.format == "txt":
        return "text", []
    text = _named(table, text, "--text-column") or _known(table, TEXT_COLUMN_NAMES, None)
    if text is not None:
        return text, []
    if len(table.columns) == 1:
        text = next(iter(table.columns))
    elif len(table.columns) == 2:
        label = _known(table, LABEL_COLUMN_NAMES, None)
        text = next(name for name in table.columns if name != label) if label is not None else _by_content(table)[0]
    if text is None:
        raise DataError(f"{table.path}: {_not_found(table, 'text column')}. Name it with --text-column")
    return text, [f"took column {show(text)} for the texts"]


def _named(table: Table, name: str | None, flag: str) -> str | None:
    if name is None or name in table.columns:
        return name
    if name in table.unusable:
        raise DataError(f"{table.path}: column {show(name)} holds {table.unusable[name]}, expected texts or numbers")
    nearest = difflib.get_close_matches(name.casefold(), [column.casefold() for column in table.columns], n=1)
    meant = [column for column in table.columns if nearest and column.casefold() == nearest[0]]
    hint = f". Did you mean {show(meant[0])}?" if meant else ""
    raise DataError(f"{table.path}: no column {show(name)} ({flag}), {_found_columns(table)}{hint}")


def _known(table: Table, names: Sequence[str], taken: str | None) -> str | None:
    """The first of ``names`` among the columns."""
    if not table.has_header:
        return None
    for known in names:
        for column in table.columns:
            if fold_name(column) == known and column != taken:
                return column
    return None


def _found_columns(table: Table) -> str:
    columns = list(table.columns)
    shown = ", ".join(show(name) for name in columns[:20]) + (" ..." if len(columns) > 20 else "")
    headless = "" if table.has_header else " (the file has no header)"
    if len(columns) == 1 and table.format in ("csv", "tsv"):
        head = columns[0] if table.has_header else table.columns[columns[0]][0].as_py()
        others = {"csv": {";": "semicolons", "\t": "tabs"}, "tsv": {";": "semicolons", ",": "commas"}}[table.format]
        for character, name in others.items():
            if character in head:
                headless += f" (are its fields separated by {name}? .csv takes commas, .tsv tabs)"
                break
    if len(columns) == 1 and table.bad_rows:
        headless += f"; line {table.bad_rows[0].line:,}: {table.bad_rows[0].reason}"
    return f"found {shown}{headless}"


def _not_found(table: Table, what: str) -> str:
    return f"cannot tell the {what}, {_found_columns(table)}"


def _by_content(table: Table) -> tuple[str | None, str | None]:
    """Of two columns, which looks like texts and which like labels; none if that cannot be told."""
    first, second = (_looks(column) for column in table.columns.values())
    names = list(table.columns)
    for text, label, order in ((first, second, names), (second, first, names[::-1])):
        if not text.is_text or not label.may_be_label:
            continue
        fewer = label.distinct < text.distinct and label.mean_length * 2 < text.mean_length
        if not text.may_be_label or (label.is_number and not text.is_number) or fewer:
            return order[0], order[1]
    return None, None


@dataclass(frozen=True)
class _Looks:
    is_text: bool
    is_number: bool
    distinct: int
    mean_length: float
    may_be_label: bool


def _looks(column: pa.ChunkedArray) -> _Looks:
    sample = column.slice(0, 100_000).drop_null()
    if not pa.types.is_large_string(column.type):
        return _Looks(False, True, len(pc.unique(sample)), 1.0, True)
    values = pc.unique(pc.utf8_trim_whitespace(sample)).to_pylist()
    lengths = pc.utf8_length(sample)
    mean, longest = pc.mean(lengths).as_py() or 0.0, pc.max(lengths).as_py() or 0
    number = bool(values) and all(NUMBER.fullmatch(value) for value in values if value)
    few = len(values) <= min(_MOST_LABELS, max(2, len(sample) // 2))
    return _Looks(True, number, len(values), mean, number or (few and longest <= 100))


# --- rows ---------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """One file on its way to texts and labels.

    ``problem`` (rows,) int32 indexes ``reasons``; 0 is none. ``codes`` (rows,) int64 indexes ``names``, the labels as
    texts, None where there is none.
    """

    table: Table
    texts: pa.ChunkedArray
    problem: np.ndarray
    notes: list[str]
    reasons: list[str] = field(default_factory=lambda: [""])
    label_column: str = ""
    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: list[str | None] = field(default_factory=list)

    @property
    def good(self) -> np.ndarray:
        """(rows,) bool: the rows that can be used."""
        return self.problem == 0

    @property
    def used(self) -> list[str]:
        """The labels that stand in usable rows."""
        return list(self.count_labels())

    def count_labels(self) -> dict[str, int]:
        """How many usable rows have each label."""
        found = np.bincount(self.codes[self.good], minlength=len(self.names))
        counts: dict[str, int] = {}
        for name, count in zip(self.names, found.tolist(), strict=True):
            if name is not None and count:
                counts[name] = counts.get(name, 0) + count
        return counts

    def label_ids(self, ids: Mapping[str, int]) -> np.ndarray:
        """(usable rows,) int64: the ids of their labels."""
        of_code = [-1 if name is None else ids.get(name, -1) for name in self.names]
        return np.array(of_code, np.int64)[self.codes[self.good]]

    def mark(self, mask: np.ndarray, reason: str) -> None:
        """Rows under ``mask`` (rows,) bool cannot be used; the first reason given for a row stays."""
        mask = mask & self.good
        if mask.any():
            self.problem[mask] = len(self.reasons)
            self.reasons.append(reason)

    def mark_labels(self, reasons: Mapping[int, str]) -> None:
        """Rows whose label's code is in ``reasons`` cannot be used."""
        if reasons:
            table = np.zeros(len(self.names), np.int32)
            for code, reason in reasons.items():
                table[code] = len(self.reasons)
                self.reasons.append(reason)
            self.problem = np.where(self.good, table[self.codes], self.problem)

    def find_labels(self, column: str) -> None:
        """Fill ``codes`` and ``names`` from a column of labels."""
        if column in self.table.unusable:
            _named(self.table, column, "--label-column")
        self.label_column = column
        kinds = self.table.cell_kinds.get(column)
        if kinds is not None:
            for kind, reason in _NOT_LABEL.items():
                self.mark(np.equal(kinds, kind), reason)
        encoded = self.table.columns[column].dictionary_encode().unify_dictionaries()
        values = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
        codes = [np.asarray(pc.fill_null(chunk.indices, len(values))).astype(np.int64) for chunk in encoded.chunks]
        self.codes = np.concatenate([*codes, np.empty(0, np.int64)])
        self.names = [_label_text(value) for value in [*values, None]]
        self.mark_labels({code: "there is no label" for code, name in enumerate(self.names) if name is None})

    def reason_of(self, row: int) -> str:
        """Why row ``row`` cannot be used."""
        return self.reasons[self.problem[row]]


def _with_texts(table: Table, column: str, notes: list[str]) -> _Part:
    """The texts of a file, with the rows marked that have none."""
    texts = table.columns[column]
    if not pa.types.is_large_string(texts.type):
        raise DataError(f"{table.path}: the text column {show(column)} holds {texts.type}, expected strings")
    notes = [f"{table.path}: {note}" for note in [*table.notes, *notes]]
    part = _Part(table, texts, np.zeros(len(table), np.int32), notes)
    kinds = table.cell_kinds.get(column)
    if kinds is not None:
        for kind, reason in _NOT_TEXT.items():
            part.mark(np.equal(kinds, kind), reason)
    if texts.null_count:
        part.mark(np.asarray(texts.is_null()).astype(bool), _NOT_TEXT[CellKind.NULL])
        texts = pc.fill_null(texts, "")
    # utf8_is_space: at least one character, and all of them white space
    blank = pc.or_(pc.utf8_is_space(texts), pc.equal(pc.binary_length(texts), 0))
    part.mark(np.asarray(blank).astype(bool), "the text is empty")
    return part


def _handle_bad_rows(parts: Sequence[_Part], on_bad_row: str) -> None:
    """Raise for the first bad row if that is asked for, or if there is no other row."""
    total = sum(len(part.table.bad_rows) + int((~part.good).sum()) for part in parts)
    left = sum(int(part.good.sum()) for part in parts)
    if total == 0 or (on_bad_row == "skip" and left):
        return
    first = next(bad for part in parts for bad in [_first_bad_row(part)] if bad is not None)
    if not left:
        raise DataError(f"{first}. No row can be used ({total:,} in all)")
    more = "" if total == 1 else f" (and {total - 1:,} more {'row' if total == 2 else 'rows'})"
    raise DataError(f"{first}{more}. {_SKIP_HINT}")


def _first_bad_row(part: _Part) -> BadRow | None:
    table = part.table
    first = table.bad_rows[0] if table.bad_rows else None
    if not part.good.all():
        row = int(np.argmin(part.good))
        line = table.line_of(row)
        if first is None or line < first.line:
            first = BadRow(table.path, line, part.reason_of(row), table.unit)
    return first


def _all_bad_rows(part: _Part) -> list[BadRow]:
    table = part.table
    if part.good.all():
        return table.bad_rows
    rows = np.flatnonzero(~part.good)
    marked = [BadRow(table.path, table.line_of(int(row)), part.reason_of(int(row)), table.unit) for row in rows]
    return sorted(table.bad_rows + marked, key=lambda bad: bad.line)


def _assembled(
    parts: Sequence[_Part], label_ids: np.ndarray | None, labels: tuple[str, ...], notes: list[str], sha256: str
) -> LabelledTexts:
    texts: list[pa.Array] = []
    rows: list[np.ndarray] = []
    bad_rows: list[BadRow] = []
    before = 0
    for part in parts:
        good = part.good
        kept = part.texts if good.all() else part.texts.filter(pa.array(good))
        texts.extend(kept.chunks)
        rows.append(part.table.row_numbers[good] + before)
        before += part.table.num_source_rows
        bad_rows.extend(_all_bad_rows(part))
    return LabelledTexts(
        pa.chunked_array(texts, pa.large_string()), label_ids, labels, np.concatenate(rows), bad_rows, notes, sha256
    )


# --- labels -------------------------------------------------------------------------------------------------


def _label_text(value: Any) -> str | None:
    """A label as it stands in a column, as a text; None if it is none."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    return str(value).strip() or None


def _number(label: str) -> float | None:
    return float(label) if NUMBER.fullmatch(label) else None


def _without_point(label: str) -> str:
    """ "1" for "1.0"; anything else as it stands."""
    whole, point, rest = label.partition(".")
    return whole if point and not rest.strip("0") and NUMBER.fullmatch(whole) else label


def _name_labels(parts: Sequence[_Part], threshold: float | None) -> None:
    """The names that the labels go by: two classes at a threshold, whole numbers without a point, others unchanged."""
    if threshold is not None:
        for part in parts:
            reasons = {}
            for code, name in enumerate(part.names):
                if name is None:
                    continue
                number = {"false": 0.0, "true": 1.0}.get(name, _number(name))
                part.names[code] = None if number is None else str(int(number >= threshold))
                if number is None:
                    reasons[code] = f"label {show(name)} is not a number, which --label-threshold needs"
            part.mark_labels(reasons)
        return
    used = {name for part in parts for name in part.used}
    words = {name for name in used if name.casefold() != "nan"}
    if not words or not all(map(NUMBER.fullmatch, words)):
        return
    for part in parts:
        nan = [code for code, name in enumerate(part.names) if name is not None and name.casefold() == "nan"]
        part.mark_labels(dict.fromkeys(nan, "there is no label (NaN)"))
        part.names = [None if name is None else _without_point(name) for name in part.names]


def _check_labels(parts: Sequence[_Part], labels: tuple[str, ...] | None) -> None:
    """Refuse labels that are scores, and columns that hold something else than labels."""
    used = list(dict.fromkeys(name for part in parts for name in part.used))
    numbers = [_number(name) for name in used]
    part = parts[0]
    fractional = [
        name
        for name, number in zip(used, numbers, strict=True)
        if number is not None and not number.is_integer() and name not in (labels or ())
    ]
    if fractional and all(number is not None for number in numbers):
        part = next(part for part in parts if fractional[0] in part.used)
        raise DataError(
            f"{part.table.path}: found fractional labels such as {fractional[0]} in column {show(part.label_column)}, "
            "expected classes. Pass --label-threshold 0.5 to make two classes of them (1 at or above, else 0)"
        )
    if labels is not None:
        return
    rows = sum(int(part.good.sum()) for part in parts)
    if len(used) > _MOST_LABELS or (len(used) > 20 and len(used) * 2 > rows):
        raise DataError(
            f"{part.table.path}: found {len(used):,} different labels on {rows:,} rows in column "
            f"{show(part.label_column)}, expected a few classes: is this the label column? Name it with --label-column"
        )


def _refuse_other_labels(parts: Sequence[_Part], labels: tuple[str, ...]) -> None:
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


def show_labels(labels: Sequence[str], most: int = 10) -> str:
    """The names of classes for a message: the first ``most`` of them."""
    shown = ", ".join(label if len(label) <= 60 and label.isprintable() else show(label) for label in labels[:most])
    return shown if len(labels) <= most else f"{shown} ... ({len(labels):,} in all)"


def _classes(parts: Sequence[_Part], threshold: float | None, notes: list[str]) -> tuple[str, ...]:
    """The classes of a training, in the order of their ids."""
    counts: dict[str, int] = {}
    for part in parts:
        for name, count in part.count_labels().items():
            counts[name] = counts.get(name, 0) + count
    numbers = {name: _number(name) for name in counts}
    if all(number is not None for number in numbers.values()):
        names = sorted(counts, key=lambda name: (numbers[name] or 0.0, name))
    else:
        names = sorted(counts)
    if len(names) < 2:
        first = parts[0]
        found_one = f"found one class only ({show_labels(names)}) in column {show(first.label_column)}"
        advice = "Choose another --label-threshold" if threshold is not None else "Add texts of another class"
        raise DataError(f"{first.table.path}: {found_one}, expected at least two. {advice}")
    single = [name for name in names if counts[name] == 1]
    if single and sum(counts.values()) >= 100:
        notes.append(f"only one row each has the label {show_labels(single)}: a typing error?")
    return tuple(names)


def _positive_last(labels: tuple[str, ...], positive: str | None, fixed: bool) -> tuple[str, ...]:
    """The labels with the positive one of two last, unless their order is ``fixed`` by a training."""
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
