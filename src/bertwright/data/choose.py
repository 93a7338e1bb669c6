"""Which column of a file is which: by the names that the user gave, by known names, by what stands in them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from bertwright.data.names import LABEL_COLUMN_NAMES, TEXT_COLUMN_NAMES, fold_name
from bertwright.data.numbers import NUMBER
from bertwright.data.table import Table, show
from bertwright.errors import DataError

MOST_LABELS = 1_000
"""A column with more distinct values than this is not one of labels."""

_SAMPLED_ROWS = 100_000
_PLAIN_LABELS = LABEL_COLUMN_NAMES[:3]


@dataclass(frozen=True)
class Asked:
    """The columns that the user named; names of labels and groups may stand in one string with commas between."""

    text: str | None = None
    pair: str | None = None
    labels: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All names, and all pieces between commas: what may stand in a header."""
        lists = [name for given in (*self.labels, *self.groups) for name in (given, *_pieces(given))]
        return [name for name in (self.text, self.pair, *lists) if name is not None]


@dataclass(frozen=True)
class Columns:
    """The columns of one file that are taken."""

    text: str
    pair: str | None
    labels: tuple[str, ...]
    groups: tuple[str, ...]


def _pieces(given: str) -> list[str]:
    return [piece.strip() for piece in given.split(",")]


def choose(
    table: Table, asked: Asked, preferred: Sequence[str] = (), only_preferred: bool = False
) -> tuple[Columns, list[str]]:
    """The text column, the columns of labels and those asked for, and what to tell about the choice.

    ``preferred`` are label columns that a training had: taken if they are there and none were asked for, and with
    ``only_preferred`` expected to be there.

    Raises:
        DataError: a column is not found, or is named twice.
    """
    columns = _asked_for(table, asked)
    if table.format == "txt":
        return Columns("text", None, ("label",), ()), []
    labels = columns.labels
    if not labels and (only_preferred or all(name in table.columns for name in preferred)):
        labels = tuple(preferred)
        for name in labels:
            _named(table, name, "a label of the training")
    if len(labels) < 2:
        return _text_and_label(table, columns, labels[0] if labels else None)
    taken = {*labels, columns.pair, *columns.groups}
    text = columns.text or _known(table, TEXT_COLUMN_NAMES, taken)
    notes = []
    if text is None:
        rest = [name for name in table.columns if name not in taken]
        if len(rest) != 1:
            raise DataError(f"{table.path}: {_not_found(table, 'text column')}. Name it with --text-column")
        text = rest[0]
        notes.append(f"took column {show(text)} for the texts")
    return Columns(text, columns.pair, labels, columns.groups), notes


def choose_texts(table: Table, asked: Asked) -> tuple[Columns, list[str]]:
    """The text column of a file that need not have labels and the columns asked for; what to tell about the choice.

    Raises:
        DataError: a column is not found, or is named twice.
    """
    columns = _asked_for(table, asked)
    if table.format == "txt":
        return Columns("text", None, (), ()), []
    taken = {columns.pair, *columns.groups}
    free = [name for name in table.columns if name not in taken]
    text = columns.text or _known(table, TEXT_COLUMN_NAMES, taken)
    if text is not None:
        return Columns(text, columns.pair, (), columns.groups), []
    if len(free) == 1:
        text = free[0]
    elif len(free) == 2:
        label = _known(table, LABEL_COLUMN_NAMES, taken)
        text = _by_content(table, free)[0] if label is None else _other(free, label)
    if text is None:
        raise DataError(f"{table.path}: {_not_found(table, 'text column')}. Name it with --text-column")
    return Columns(text, columns.pair, (), columns.groups), [f"took column {show(text)} for the texts"]


def choose_any_labels(table: Table, asked: Asked) -> tuple[Columns, list[str]]:
    """The text column, the columns asked for and, if it was named or can be found, that of the labels.

    Raises:
        DataError: a column is not found, or is named twice.
    """
    why = "found no labels"
    if table.format != "txt" or "label" in table.columns:
        try:
            found, notes = choose(table, asked)
        except DataError:
            if asked.labels:
                raise
        else:
            label = found.labels[0]
            if asked.labels or table.format == "txt" or fold_name(label) in LABEL_COLUMN_NAMES:
                return found, notes
            distinct = pc.count_distinct(table.columns[label]).as_py()
            if distinct <= MOST_LABELS:
                return found, notes
            why = f"column {show(label)} holds {distinct:,} different values, too many to be labels unless named"
    elif asked.labels:
        raise DataError(f"{table.path}: found lines of texts without labels; --label-column can name none")
    found, notes = choose_texts(table, asked)
    return found, [*notes, f"{why}: the texts are tokenised without labels"]


def named_columns(columns: Collection[str], given: Sequence[str]) -> tuple[str, ...]:
    """The names in ``given``: each is that of one of ``columns``, or several with commas between."""
    names: list[str] = []
    for name in given:
        pieces = _pieces(name)
        whole = name in columns or len(pieces) < 2
        names += [name] if whole else pieces
    return tuple(names)


def _asked_for(table: Table, asked: Asked) -> Columns:
    """The columns that the user named; "" for a text that was not.

    Raises:
        DataError: one of them is not there or is named twice, or a file of lines cannot have it.
    """
    if table.format == "txt":
        several = len(named_columns((), asked.labels)) > 1
        for flag, given in (("--pair-column", asked.pair), ("--group-columns", asked.groups)):
            if given:
                raise DataError(f"{table.path}: found lines of texts, expected columns ({flag}). {_USE_COLUMNS}")
        if several:
            raise DataError(f"{table.path}: found one label a line, expected several (--label-column). {_USE_COLUMNS}")
        return Columns("", None, (), ())
    text = _named(table, asked.text, "--text-column")
    pair = _named(table, asked.pair, "--pair-column")
    labels = _named_each(table, asked.labels, "--label-column")
    groups = _named_each(table, asked.groups, "--group-columns")
    flags: dict[str, str] = {}
    for flag, names in (("--text-column", [text]), ("--pair-column", [pair]), ("--label-column", labels)):
        for name in names:
            if name is not None and name in flags:
                raise DataError(
                    f"{table.path}: {flags[name]} and {flag} are both {show(name)}, expected two columns"
                    if flag != flags[name]
                    else f"{table.path}: {flag} names {show(name)} twice, expected each column once"
                )
            flags[name or ""] = flag
    twice = [name for number, name in enumerate(groups) if name in groups[:number]]
    if twice:
        raise DataError(f"{table.path}: --group-columns names {show(twice[0])} twice, expected each column once")
    if wrong := [name for name in groups if name in (text, pair)]:
        raise DataError(
            f"{table.path}: {flags[wrong[0]]} and --group-columns are both {show(wrong[0])}, expected two columns"
        )
    return Columns(text or "", pair, labels, groups)


_USE_COLUMNS = "Write the data as .csv, .tsv, .jsonl or .parquet"


def _text_and_label(table: Table, columns: Columns, label: str | None) -> tuple[Columns, list[str]]:
    """The columns with a text and one label."""
    notes: list[str] = []
    taken = {columns.pair, *columns.groups}
    free = [name for name in table.columns if name not in taken]
    text = columns.text or None
    guess_label = label is None
    if text is None:
        text = _known(table, TEXT_COLUMN_NAMES, {label, *taken})
    if label is None:
        label = _known(table, LABEL_COLUMN_NAMES, {text, columns.pair})
    if len(free) == 2 and (text is None or label is None):
        if text is not None:
            label = _other(free, text)
        elif label is not None:
            text = _other(free, label)
        else:
            text, label = _by_content(table, free)
        if text is not None:
            notes.append(f"took column {show(text)} for the texts and column {show(label)} for the labels")
    if text is None or label is None:
        missing = "text and label columns" if text == label else "text column" if text is None else "label column"
        several = _zero_one(table, {text, *taken})
        hint = f"; for several labels a text: {_label_flag(several)}" if label is None and len(several) > 1 else ""
        raise DataError(
            f"{table.path}: {_not_found(table, missing)}. Name them with --text-column and --label-column{hint}"
        )
    if guess_label and fold_name(label) not in _PLAIN_LABELS:
        others = [name for name in free if fold_name(name) in LABEL_COLUMN_NAMES and name not in (label, text)]
        several = _zero_one(table, {text, *taken} - {label})
        if label in several and len(several) > 1:
            notes.append(f"took column {show(label)} alone for the labels; for several a text: {_label_flag(several)}")
        elif others:
            shown = ", ".join(show(name) for name in others)
            notes.append(f"took column {show(label)} for the labels; --label-column can name another ({shown})")
    return Columns(text, columns.pair, (label,), columns.groups), notes


def _label_flag(names: Sequence[str]) -> str:
    shown = ",".join(names)
    return f"--label-column {shown if shown.isprintable() and ' ' not in shown else show(shown, 200)}"


def _zero_one(table: Table, taken: Collection[str | None]) -> list[str]:
    """The columns, besides ``taken``, that hold nothing but 0, 1, true and false."""
    found = []
    for name, column in table.columns.items():
        if name in taken:
            continue
        sample = column.slice(0, _SAMPLED_ROWS)
        values = pc.unique(sample)
        if 0 < len(values) <= 6 and {str(value).strip().casefold() for value in values.to_pylist()} <= _ZERO_ONE:
            found.append(name)
    return found


_ZERO_ONE = {"0", "1", "0.0", "1.0", "false", "true"}


def _named(table: Table, name: str | None, flag: str) -> str | None:
    if name is None or name in table.columns:
        return name
    if name in table.unusable:
        raise DataError(f"{table.path}: column {show(name)} holds {table.unusable[name]}, expected texts or numbers")
    nearest = difflib.get_close_matches(name.casefold(), [column.casefold() for column in table.columns], n=1)
    meant = [column for column in table.columns if nearest and column.casefold() == nearest[0]]
    hint = f". Did you mean {show(meant[0])}?" if meant else ""
    raise DataError(f"{table.path}: no column {show(name)} ({flag}), {_found_columns(table)}{hint}")


def _named_each(table: Table, given: Sequence[str], flag: str) -> tuple[str, ...]:
    names = named_columns(table.columns, given)
    for name in names:
        _named(table, name, flag)
    return names


def _known(table: Table, names: Sequence[str], taken: Collection[str | None]) -> str | None:
    """The first of ``names`` among the columns that are not ``taken``."""
    if not table.has_header:
        return None
    for known in names:
        for column in table.columns:
            if fold_name(column) == known and column not in taken:
                return column
    return None


def _other(free: Sequence[str], name: str) -> str:
    """Of two columns the one that is not ``name``."""
    return next(column for column in free if column != name)


def _found_columns(table: Table) -> str:
    columns = list(table.columns)
    shown = ", ".join(show(name) for name in columns[:20]) + (" ..." if len(columns) > 20 else "")
    found = f"found {shown}" + ("" if table.has_header else " (the file has no header)")
    if table.unusable:
        useless = [f"{show(name)}, which holds {what}" for name, what in list(table.unusable.items())[:5]]
        found += f" (of no use: {'; '.join(useless)}{' ...' if len(table.unusable) > 5 else ''})"
    if len(columns) != 1:
        return found
    if table.format in ("csv", "tsv"):
        head = columns[0] if table.has_header else table.columns[columns[0]][0].as_py()
        others = {"csv": {";": "semicolons", "\t": "tabs"}, "tsv": {";": "semicolons", ",": "commas"}}[table.format]
        meant = next((name for character, name in others.items() if character in head), None)
        if meant is not None:
            found += f" (are its fields separated by {meant}? .csv takes commas, .tsv tabs)"
    if table.bad_rows:
        found += f"; {table.bad_rows[0]}"
    return found


def _not_found(table: Table, what: str) -> str:
    return f"cannot tell the {what}, {_found_columns(table)}"


def _by_content(table: Table, free: Sequence[str]) -> tuple[str | None, str | None]:
    """Of two columns, which looks like texts and which like labels; none if that cannot be told."""
    first, second = (_looks(table.columns[name]) for name in free)
    for text, label, order in ((first, second, free), (second, first, free[::-1])):
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
    sample = column.slice(0, _SAMPLED_ROWS).drop_null()
    if not pa.types.is_large_string(column.type):
        return _Looks(False, True, len(pc.unique(sample)), 1.0, True)
    values = pc.unique(pc.utf8_trim_whitespace(sample)).to_pylist()
    lengths = pc.utf8_length(sample)
    mean, longest = pc.mean(lengths).as_py() or 0.0, pc.max(lengths).as_py() or 0
    number = bool(values) and all(NUMBER.fullmatch(value) for value in values if value)
    few = len(values) <= min(MOST_LABELS, max(2, len(sample) // 2))
    return _Looks(True, number, len(values), mean, number or (few and longest <= 100))
