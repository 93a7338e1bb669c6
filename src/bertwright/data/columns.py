"""From columns to texts and labels: which column is which, what the classes are, and which rows cannot be used."""

from __future__ import annotations

import difflib
import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertwright.config import DataSettings, LabelKind
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
from bertwright.data.rows import Part, UnsettledTexts, bad_rows_of, part_of
from bertwright.data.table import BadRow, Table, show
from bertwright.data.token_cache import CachedTokens, is_token_cache, joined_tokens, open_token_cache
from bertwright.errors import DataError

FilePath = str | os.PathLike[str]


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their classes, in the order of their files.

    ``texts`` (rows,) large_string, as they stand in the file. ``label_ids`` (rows,) int64 index ``labels``, the names
    of the classes; texts without labels have None and (). Where a label is more than one class, ``kind`` says what it
    is, and ``targets`` (rows, labels) float32 holds it: 0, 1 or a share for each label ("multi-label"), shares that sum
    to 1 ("soft"; ``label_ids`` are then the classes that metrics are of), or a number ("regression", one column).
    ``hard_targets`` (rows, labels) bool are the labels that metrics are of, of "multi-label".
    ``pairs`` (rows,) large_string are the second texts, where texts come in pairs; ``groups`` are columns, by name,
    (rows,) each, that are kept beside the scores. ``rows`` (rows,) int64 is where each text stands in its source: from
    0, counted over all files in the order given, so that skipped rows leave gaps. ``bad_rows`` are those skipped,
    ``notes`` what the user must be told, and ``sha256`` the hash of the files' bytes as they lie on disk, in that
    order. ``tokens`` are the texts' token ids where they come from a folder that ``bertwright tokenize`` made.
    """

    texts: pa.ChunkedArray
    label_ids: np.ndarray | None
    labels: tuple[str, ...]
    rows: np.ndarray
    bad_rows: list[BadRow]
    notes: list[str]
    sha256: str
    tokens: CachedTokens | None = None
    kind: LabelKind = "classes"
    targets: np.ndarray | None = None
    hard_targets: np.ndarray | None = None
    pairs: pa.ChunkedArray | None = None
    groups: dict[str, pa.ChunkedArray] = field(default_factory=dict)

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
            tokens=None if self.tokens is None else self.tokens.take(chosen),
            targets=None if self.targets is None else self.targets[chosen],
            hard_targets=None if self.hard_targets is None else self.hard_targets[chosen],
            pairs=None if self.pairs is None else self.pairs.take(pa.array(chosen)),
            groups={name: column.take(pa.array(chosen)) for name, column in self.groups.items()},
        )


def read_labelled(
    paths: FilePath | Iterable[FilePath],
    settings: DataSettings,
    labels: tuple[str, ...] | None = None,
    kind: LabelKind | None = None,
) -> LabelledTexts:
    """The labelled texts of one or several files, one after the other; ``paths`` is one path or a list of them.

    A path may also be a folder that ``bertwright tokenize`` made: its texts and labels are then treated as those of the
    files that it was made from, and bring their token ids.

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
    wanted = kind or ("multi-label" if len(settings.label_column) > 1 else "classes")
    wanted = settings.label_kind if settings.label_kind != "auto" else wanted
    if wanted != "classes" or (settings.label_threshold is not None and not settings.hard_labels):
        found = _read_numbers(paths, settings, labels, wanted)
        if found is not None:
            return found
    digest = hashlib.sha256()
    label_column = settings.label_column[0] if settings.label_column else None
    given = [name for name in (settings.text_column, label_column) if name is not None]
    parts = []
    for path in _files_or_folders(paths):
        if is_token_cache(path):
            parts.append(_tokenised_part(path, digest, settings.text_column, label_column, with_labels=True))
            continue
        table = read_table(path, given, on_bytes=digest.update)
        text, label, notes = _text_and_label(table, settings.text_column, label_column)
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
    return _assembled(parts, label_ids, names, bad_rows, notes, _sha256(parts, digest))


def _read_numbers(paths: Any, settings: DataSettings, labels: tuple[str, ...] | None, kind: Any) -> Any:
    """Labels that are numbers, as the next reader of columns will read them; None: read them as classes."""
    digest = hashlib.sha256()
    by_column = labels if labels is not None and labels != ("0", "1") else None
    parts, numbers = [], []
    for path in _files_or_folders(paths):
        names = list(settings.label_column or by_column or ())
        table = read_table(path, [name for name in [settings.text_column, *names] if name], on_bytes=digest.update)
        text = settings.text_column or _known(table, TEXT_COLUMN_NAMES, None) or "text"
        names = names or [_known(table, LABEL_COLUMN_NAMES, text) or "label"]
        parts.append(part_of(table, text, []))
        numbers.append(np.stack([np.asarray(table.columns[name].cast(pa.float64())) for name in names], axis=1))
    targets = np.concatenate(numbers).astype(np.float32)
    if kind == "classes":
        if not ((targets > 0) & (targets < 1)).any():
            return None
        kind = "soft"
    chosen, ids = labels or tuple(names), None
    if kind == "soft":
        if targets.shape[1] == 1:
            chosen = labels or ("0", "1")
            ids = (targets[:, 0] >= (settings.label_threshold or 0.5)).astype(np.int64)
            targets = np.concatenate([1 - targets, targets], axis=1)
        else:
            ids = targets.argmax(axis=1)
    together = _assembled(parts, ids, chosen, [], [], _sha256(parts, digest))
    hard = targets >= (settings.label_threshold or 0.5) if kind == "multi-label" else None
    return replace(together, kind=kind, targets=targets, hard_targets=hard)


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
    for source in _files_or_folders(paths):
        if is_token_cache(source):
            parts.append(_tokenised_part(source, digest, text_column, None, with_labels=False))
            continue
        table = _read_source(source, [text_column], digest.update)
        text, notes = _text_only(table, text_column)
        parts.append(part_of(table, text, notes))
    bad_rows = bad_rows_of(parts, on_bad_row)
    notes = [note for part in parts for note in part.notes]
    return _assembled(parts, None, (), bad_rows, notes, _sha256(parts, digest))


def read_unsettled(
    paths: FilePath | IO[Any] | Iterable[FilePath | IO[Any]],
    text_column: str | None = None,
    label_column: str | None = None,
    with_labels: bool = True,
    on_bad_row: Literal["error", "skip"] = "error",
) -> UnsettledTexts:
    """The texts of one or several files with the labels as they stand there, or without where none are found.

    Without ``with_labels`` labels are not looked for.

    Raises:
        DataError: as :func:`read_unlabelled`; also where some of the files have labels and others not, and at a row
            without a label, if ``on_bad_row`` is "error".
    """
    digest = hashlib.sha256()
    parts = []
    for source in _as_list(paths):
        if is_token_cache(source):
            raise DataError(f"{os.fspath(source)}: found a folder of token ids, expected files of texts")
        table = _read_source(source, [text_column, label_column], digest.update)
        if not with_labels:
            text, notes = _text_only(table, text_column)
            label = None
        else:
            text, label, notes = _text_and_any_label(table, text_column, label_column)
        part = part_of(table, text, notes)
        part.text_column = text
        if label is not None:
            find_labels(part, label)
        parts.append(part)
    with_label = [bool(part.label_column) for part in parts]
    if any(with_label) and not all(with_label):
        first, other = parts[with_label.index(True)], parts[with_label.index(False)]
        raise DataError(
            f"{other.table.path}: found no labels, but {first.table.path} has some (column "
            f"{show(first.label_column)}), expected all or none. Name them with --label-column, or pass --no-labels"
        )
    bad_rows = bad_rows_of(parts, on_bad_row)
    notes = [note for part in parts for note in part.notes]
    together = _assembled(parts, None, (), bad_rows, notes, digest.hexdigest())
    label_names: dict[str, int] = {}
    for part in parts:
        for name in part.count_labels() if part.label_column else ():
            label_names.setdefault(name, len(label_names))
    return UnsettledTexts(
        together.texts,
        together.rows,
        sum(part.table.num_source_rows for part in parts),
        np.concatenate([part.label_ids(label_names) for part in parts]) if all(with_label) else None,
        tuple(label_names) if all(with_label) else None,
        [(part.table.path, part.text_column, part.label_column or None) for part in parts],
        bad_rows,
        notes,
        together.sha256,
    )


def _files_or_folders(paths: Any) -> list[Any]:
    """The sources that ``paths`` names: files, or folders of token ids.

    Raises:
        DataError: there is none, or there are both.
    """
    sources = _as_list(paths)
    folders = [source for source in sources if is_token_cache(source)]
    if folders and len(folders) < len(sources):
        other = next(source for source in sources if not is_token_cache(source))
        raise DataError(
            f"{folders[0]}: a folder of token ids, found beside the file {other}; expected one or the other. "
            "Tokenise the file too, or name the file that the folder was made from"
        )
    return sources


def _tokenised_part(path: FilePath, digest: Any, text: str | None, label: str | None, with_labels: bool) -> Part:
    """A folder of token ids as if it were the file that it was made from; ``text`` and ``label`` are columns asked for.

    Raises:
        DataError: the folder cannot be used, or holds other columns, or no labels where there must be some.
    """
    unsettled, tokens = open_token_cache(path)
    shown = os.fspath(path)
    for name, text_column, label_column in unsettled.sources:
        if text is not None and text != text_column:
            raise DataError(
                f"{shown}: found the texts of column {show(text_column)} of {name}, expected {show(text)}. "
                f"Make another: bertwright tokenize {shlex.quote(name)} --text-column {shlex.quote(text)} "
                "--output OTHER"
            )
        if with_labels and (label_column is None or label not in (None, label_column)):
            found = "no labels" if label_column is None else f"the labels of column {show(label_column)}"
            raise DataError(
                f"{shown}: found {found} of {name}, expected {'labels' if label is None else show(label)}. "
                f"Make another: bertwright tokenize {shlex.quote(name)} --label-column {shlex.quote(label or 'NAME')} "
                "--output OTHER"
            )
    digest.update(unsettled.sha256.encode())
    rows = unsettled.rows
    table = Table(shown, "tokens", {}, True, rows, unsettled.num_source_rows, lambda: rows + 1)
    made = tokens.manifest
    names = ", ".join(name for name, _, _ in unsettled.sources)
    note = f"{shown}: {len(rows):,} texts of {names} with their token ids, by the tokenizer of {made.tokenizer.model}"
    part = Part(table, unsettled.texts, [note], np.zeros(len(rows), np.int32), skipped=unsettled.bad_rows)
    part.tokens = tokens
    if with_labels:
        assert unsettled.label_codes is not None
        part.label_column = unsettled.sources[0][2] or ""
        part.codes, part.names = unsettled.label_codes, list(unsettled.label_names or ())
    return part


def _sha256(parts: Sequence[Part], digest: Any) -> str:
    """The hash of the sources: for one folder of token ids that of the files it was made from."""
    if len(parts) == 1 and parts[0].tokens is not None:
        return parts[0].tokens.manifest.source_sha256
    return digest.hexdigest()


def _read_source(
    source: FilePath | IO[Any], columns: Sequence[str | None], on_bytes: Callable[[bytes], object]
) -> Table:
    """``columns`` are names that the user gave, if any."""
    if not isinstance(source, str | os.PathLike):
        name = getattr(source, "name", None)
        shown = "standard input" if name == "<stdin>" else name if isinstance(name, str) else "file object"
        return read_lines(source, shown, on_bytes)
    if os.fspath(source) == "-":
        return read_lines(sys.stdin.buffer, "standard input", on_bytes)
    given = [name for name in columns if name is not None]
    return read_table(source, given, plain_text=True, on_bytes=on_bytes)


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
    together = pa.chunked_array(texts, pa.large_string())
    return LabelledTexts(together, label_ids, labels, np.concatenate(rows), bad_rows, notes, sha256, _tokens_of(parts))


def _tokens_of(parts: Sequence[Part]) -> CachedTokens | None:
    """The token ids of the usable rows, where they came with the texts."""
    tokens = [
        part.tokens if part.good.all() else part.tokens.take(np.flatnonzero(part.good))
        for part in parts
        if part.tokens is not None
    ]
    return joined_tokens(tokens) if tokens else None


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


def _text_and_any_label(table: Table, text: str | None, label: str | None) -> tuple[str, str | None, list[str]]:
    """The name of the text column and, if it was named or can be found, of the label column; what to tell of both."""
    why = "found no labels"
    if table.format != "txt" or "label" in table.columns:
        try:
            found, found_label, notes = _text_and_label(table, text, label)
        except DataError:
            if label is not None:
                raise
        else:
            if label is not None or table.format == "txt" or fold_name(found_label) in LABEL_COLUMN_NAMES:
                return found, found_label, notes
            distinct = pc.count_distinct(table.columns[found_label]).as_py()
            if distinct <= MOST_LABELS:
                return found, found_label, notes
            why = f"column {show(found_label)} holds {distinct:,} different values, too many to be labels unless named"
    elif label is not None:
        raise DataError(f"{table.path}: found lines of texts without labels; --label-column can name none")
    found, notes = _text_only(table, text)
    return found, None, [*notes, f"{why}: the texts are tokenised without labels"]


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
