"""From columns to texts and labels: which column is which, what the classes are, and which rows cannot be used."""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.config import DataSettings
from bertwright.data.labels import (
    MOST_LABELS,
    check_labels,
    classes_of,
    find_labels,
    name_labels,
    positive_last,
    refuse_other_labels,
)
from bertwright.data.names import LABEL_COLUMN_NAMES, TEXT_COLUMN_NAMES, fold_name
from bertwright.data.numbers import NUMBER
from bertwright.data.read import read_lines, read_table
from bertwright.data.rows import Part, bad_rows_of, part_of
from bertwright.data.table import BadRow, Table, show
from bertwright.errors import DataError

FilePath = str | os.PathLike[str]


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
    """The labelled texts of one or several files, one after the other; ``paths`` is one path or a list of them.

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
        part = part_of(table, text, notes)
        find_labels(part, label)
        parts.append(part)
    if labels is None or settings.label_threshold is not None:
        name_labels(parts, settings.label_threshold)
    check_labels(parts, labels)
    if labels is not None:
        refuse_other_labels(parts, labels)
    bad_rows = bad_rows_of(parts, settings.on_bad_row)
    notes = [note for part in parts for note in part.notes]
    names = labels if labels is not None else classes_of(parts, settings.label_threshold, notes)
    names = positive_last(names, settings.positive_label, fixed=labels is not None)
    ids = {name: number for number, name in enumerate(names)}
    label_ids = np.concatenate([part.label_ids(ids) for part in parts])
    return _assembled(parts, label_ids, names, bad_rows, notes, digest.hexdigest())


def read_unlabelled(
    paths: FilePath | IO[Any] | Iterable[FilePath | IO[Any]],
    text_column: str | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
) -> LabelledTexts:
    """The texts of one or several files or file objects, whether they have labels or not; ``label_ids`` is None.

    ``paths`` is one of them or a list. A file object, and "-" for standard input, holds one text a line. So does a .txt
    file, unless most of its lines are ``label ||| text``. In other files the text column is found as for labelled
    texts, or it is the only column.

    Raises:
        DataError: as :func:`read_labelled`, labels aside.
    """
    digest = hashlib.sha256()
    parts = []
    for source in _as_list(paths):
        table = _read_source(source, text_column, digest.update)
        text, notes = _text_only(table, text_column)
        parts.append(part_of(table, text, notes))
    bad_rows = bad_rows_of(parts, on_bad_row)
    notes = [note for part in parts for note in part.notes]
    return _assembled(parts, None, (), bad_rows, notes, digest.hexdigest())


def _read_source(source: FilePath | IO[Any], text_column: str | None, on_bytes: Callable[[bytes], object]) -> Table:
    if not isinstance(source, str | os.PathLike):
        name = getattr(source, "name", None)
        shown = "standard input" if name == "<stdin>" else name if isinstance(name, str) else "file object"
        return read_lines(source, shown, on_bytes)
    if os.fspath(source) == "-":
        return read_lines(sys.stdin.buffer, "standard input", on_bytes)
    return read_table(source, [] if text_column is None else [text_column], plain_text=True, on_bytes=on_bytes)


def _as_list(paths: Any) -> list[Any]:
    """One source or several, as a list of them."""
    sources = [paths] if isinstance(paths, str | os.PathLike) or hasattr(paths, "read") else list(paths)
    if not sources:
        raise DataError("no file given: name at least one file of texts")
    return sources


def _assembled(
    parts: Sequence[Part],
    label_ids: np.ndarray | None,
    labels: tuple[str, ...],
    bad_rows: list[BadRow],
    notes: list[str],
    sha256: str,
) -> LabelledTexts:
    """The usable rows of all parts, one after the other."""
    texts: list[pa.Array] = []
    rows: list[np.ndarray] = []
    before = 0
    for part in parts:
        good = part.good
        kept = part.texts if good.all() else part.texts.filter(pa.array(good))
        texts.extend(kept.chunks)
        rows.append(part.table.row_numbers[good] + before)
        before += part.table.num_source_rows
    return LabelledTexts(
        pa.chunked_array(texts, pa.large_string()), label_ids, labels, np.concatenate(rows), bad_rows, notes, sha256
    )


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
        if text is not None:
            label = _other(table, text)
        elif label is not None:
            text = _other(table, label)
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
        text = _by_content(table)[0] if label is None else _other(table, label)
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


def _other(table: Table, name: str) -> str:
    """The column beside ``name`` in a table of two."""
    return next(column for column in table.columns if column != name)


def _found_columns(table: Table) -> str:
    columns = list(table.columns)
    shown = ", ".join(show(name) for name in columns[:20]) + (" ..." if len(columns) > 20 else "")
    found = f"found {shown}" + ("" if table.has_header else " (the file has no header)")
    if len(columns) != 1:
        return found
    if table.format in ("csv", "tsv"):
        head = columns[0] if table.has_header else table.columns[columns[0]][0].as_py()
        others = {"csv": {";": "semicolons", "\t": "tabs"}, "tsv": {";": "semicolons", ",": "commas"}}[table.format]
        meant = next((name for character, name in others.items() if character in head), None)
        if meant is not None:
            found += f" (are its fields separated by {meant}? .csv takes commas, .tsv tabs)"
    if table.bad_rows:
        found += f"; line {table.bad_rows[0].line:,}: {table.bad_rows[0].reason}"
    return found


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
    few = len(values) <= min(MOST_LABELS, max(2, len(sample) // 2))
    return _Looks(True, number, len(values), mean, number or (few and longest <= 100))
