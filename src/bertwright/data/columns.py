"""From files to texts and labels: LabelledTexts, read part by part."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from bertwright.config.parts import DataSettings, LabelKind
from bertwright.data.choose import Asked, Columns, choose, choose_any_labels, choose_texts, named_columns
from bertwright.data.label_map import MappedLabels, label_map
from bertwright.data.labels import LabelReader, LabelRules, StoredLabels, label_reader
from bertwright.data.read import read_line_parts, read_parts
from bertwright.data.rows import (
    MOST_BAD_ROWS,
    BadRows,
    LabelColumn,
    Part,
    SourceColumns,
    UnsettledTexts,
    check_bad_rows,
)
from bertwright.data.table import BadRow, Table, show
from bertwright.data.texts import Texts, TextsWriter
from bertwright.data.token_cache import CachedTokens, is_token_cache, joined_tokens, open_token_cache
from bertwright.errors import DataError

FilePath = str | os.PathLike[str]

_HUB = "hub:"


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their labels, in the order of their files.

    ``texts`` (rows,), as they stand in the file. What a label is says ``kind``:

    - "classes": one of ``labels``, the names of the classes, which ``label_ids`` (rows,) int64 index.
    - "multi-label": any number of ``labels``. ``targets`` (rows, labels) float32 are 0, 1 or a share between them for
      each, and ``hard_targets`` (rows, labels) bool say which hold: those of at least ``--label-threshold``, or 0.5.
      With ``--hard-labels`` ``targets`` are the hard ones as well.
    - "soft": shares of the classes, ``targets`` (rows, labels) float32 that sum to 1. ``label_ids`` are the classes
      that metrics are of: of two in one column what the threshold says, else the one with the largest share.
    - "regression": a number, ``targets`` (rows, 1) float64; ``labels`` is the name of its column alone.

    ``label_ids`` is None for the second and the last, and for texts without labels, which have no ``labels`` either.

    ``pairs`` (rows,) are the second texts, where texts come in pairs; ``groups`` are columns, by name, (rows,) each, as
    they stand in the files, that are kept beside the scores. ``rows`` (rows,) int64 is where each text stands in its
    source: from 0, counted over all files in the order given, so that skipped rows leave gaps. ``bad_rows`` are those
    skipped, ``notes`` what the user must be told, and ``sha256`` the hash of the files' bytes as they lie on disk, in
    that order; ``files_sha256`` is that of each file. ``tokens`` are the texts' token ids where they come from a folder
    that ``bertwright tokenize`` made.
    """

    texts: Texts
    label_ids: np.ndarray | None
    labels: tuple[str, ...]
    rows: np.ndarray
    bad_rows: Sequence[BadRow]
    notes: list[str]
    sha256: str
    tokens: CachedTokens | None = None
    kind: LabelKind = "classes"
    targets: np.ndarray | None = None
    pairs: Texts | None = None
    groups: dict[str, pa.ChunkedArray] = field(default_factory=dict)
    hard_targets: np.ndarray | None = None
    files_sha256: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: np.ndarray | Sequence[int]) -> LabelledTexts:
        """The texts at ``indices`` (any number of them, in any order), with the same labels, notes and hash."""
        chosen = np.asarray(indices, np.int64)
        return replace(
            self,
            texts=self.texts.take(chosen),
            label_ids=_taken(self.label_ids, chosen),
            rows=self.rows[chosen],
            tokens=None if self.tokens is None else self.tokens.take(chosen),
            targets=_taken(self.targets, chosen),
            pairs=None if self.pairs is None else self.pairs.take(chosen),
            groups={name: column.take(pa.array(chosen)) for name, column in self.groups.items()},
            hard_targets=_taken(self.hard_targets, chosen),
        )


def _taken(array: np.ndarray | None, chosen: np.ndarray) -> np.ndarray | None:
    return None if array is None else array[chosen]


def read_labelled(
    paths: FilePath | Iterable[FilePath],
    settings: DataSettings,
    labels: tuple[str, ...] | None = None,
    kind: LabelKind | None = None,
    *,
    threshold: float | None = None,
    hard: bool = False,
    as_in_training: bool = False,
) -> LabelledTexts:
    """The labelled texts of one or several files, one after the other; ``paths`` is one path or a list of them.

    A path may also be a folder that ``bertwright tokenize`` made: its texts and labels are then treated as those of the
    files that it was made from, and bring their token ids. A path that starts with "hub:" is a data set of the hub.

    Files are read in parts, and texts too many for memory are spooled (:mod:`bertwright.data.texts`): what stays in
    memory is some bytes a row.

    Without ``labels`` the files say what the labels are, over all of them. Classes are in numeric order if all are
    numbers, else sorted; of two, ``settings.positive_label`` goes last; where all are numbers, whole ones lose their
    point, so that 1.0 is "1". With ``labels`` and their ``kind``, those of a training, the ids follow them, label
    columns are found by them, and a row with any other label is a bad row. ``threshold`` and ``hard`` are its
    ``label_threshold`` and ``hard_labels``, which hold where ``settings`` say nothing. ``as_in_training``: ``settings``
    are those of the training; where they name the columns of several classes' shares, these files may have one column
    with the right class instead.

    Raises:
        DataError: a file cannot be read (:func:`bertwright.data.read.read_parts`); a column is not found; a row cannot
            be used and ``settings.on_bad_row`` is "error", or none can be; the labels are fractions and the settings do
            not say what is meant, too many to be classes or, for a training, all the same; settings exclude each other.
    """
    rules = LabelRules.of(settings, labels, kind, threshold, hard)
    renamed = label_map(settings.label_map)
    asked = _asked(settings.text_column, settings.pair_column, settings.label_column, settings.group_columns)
    preferred, must = rules.preferred_columns()
    named = named_columns(preferred, asked.labels)
    if as_in_training and rules.wanted == "soft" and sorted(named) == sorted(preferred):
        asked = replace(asked, labels=())
    reader: LabelReader | None = None

    def reader_of(path: str, columns: tuple[str, ...]) -> LabelReader:
        nonlocal reader
        reader = label_reader(rules, path, columns)
        if renamed:
            reader = MappedLabels(reader, renamed)
        return reader

    reading = _Reading(lambda table: choose(table, asked, preferred, must), reader_of)
    for path in _files_or_folders(paths):
        if is_token_cache(path):
            reading.add_folder(path, asked, with_labels=True, preferred=preferred)
        else:
            reading.add_parts(read_parts(path, [*asked.names, *preferred], on_bytes=reading.digest.update))
    assert reader is not None
    dropped, late, num_late = reader.check()
    num_good = reading.num_good - num_late.total()
    bad_rows = reading.bad_rows(settings.on_bad_row, num_good, late, num_late)
    notes = reading.notes()
    settled = reader.settle(dropped, notes)
    together = reading.assembled(bad_rows, notes)
    if dropped is not None:
        together = together.take(np.flatnonzero(~dropped))
    return replace(
        together,
        label_ids=settled.label_ids,
        labels=settled.labels,
        kind=settled.kind,
        targets=settled.targets,
        hard_targets=settled.hard_targets,
    )


def read_unlabelled(
    paths: FilePath | IO[Any] | Iterable[FilePath | IO[Any]],
    text_column: str | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    pair_column: str | None = None,
    group_columns: Sequence[str] = (),
) -> LabelledTexts:
    """The texts of one or several files or file objects, whether they have labels or not; ``label_ids`` is None.

    ``paths`` is one of them or a list. A file object, and "-" for standard input, holds one text a line. So does a .txt
    file, unless most of its lines are ``label ||| text``. In other files the text column is found as for labelled
    texts, or it is the only column.

    Raises:
        DataError: as :func:`read_labelled`, labels aside.
    """
    asked = _asked(text_column, pair_column, (), group_columns)
    reading = _Reading(lambda table: choose_texts(table, asked))
    for source in _files_or_folders(paths):
        if is_token_cache(source):
            reading.add_folder(source, asked, with_labels=False)
        else:
            reading.add_parts(_parts_of(source, asked.names, reading.digest.update))
    bad_rows = reading.bad_rows(on_bad_row, reading.num_good)
    return reading.assembled(bad_rows, reading.notes())


def read_unsettled(
    paths: FilePath | IO[Any] | Iterable[FilePath | IO[Any]],
    text_column: str | None = None,
    label_column: Sequence[str] = (),
    with_labels: bool = True,
    on_bad_row: Literal["error", "skip"] = "error",
    pair_column: str | None = None,
    group_columns: Sequence[str] = (),
    parts_of: Callable[[Any, Callable[[bytes], object]], Iterator[Table] | None] | None = None,
) -> UnsettledTexts:
    """The texts of one or several files with the labels as they stand there, or without where none are found.

    Without ``with_labels`` labels are not looked for. ``parts_of`` gives the parts of a source that is read otherwise
    than usual, and is handed what takes its bytes; None for other sources.

    Raises:
        DataError: as :func:`read_unlabelled`; also where some of the files have labels and others not, and at a row
            without a label, if ``on_bad_row`` is "error".
    """
    asked = _asked(text_column, pair_column, label_column, group_columns)
    labels: StoredLabels | None = None

    def labels_of(path: str, columns: tuple[str, ...]) -> StoredLabels:
        nonlocal labels
        labels = StoredLabels(path, columns)
        return labels

    reading = _Reading(lambda table: (choose_any_labels if with_labels else choose_texts)(table, asked), labels_of)
    for source in _sources(paths):
        if is_token_cache(source):
            raise DataError(f"{os.fspath(source)}: found a folder of token ids, expected files of texts")
        parts = None if parts_of is None else parts_of(source, reading.digest.update)
        reading.add_parts(_parts_of(source, asked.names, reading.digest.update) if parts is None else parts)
    first = next((file for file in reading.files if file.columns.labels), None)
    other = next((file for file in reading.files if not file.columns.labels), None)
    if first is not None and other is not None:
        raise DataError(
            f"{other.path}: found no labels, but {first.path} has some (column {show(first.columns.labels[0])}), "
            "expected all or none. Name them with --label-column, or pass --no-labels"
        )
    bad_rows = reading.bad_rows(on_bad_row, reading.num_good)
    together = reading.assembled(bad_rows, reading.notes())
    return UnsettledTexts(
        together.texts,
        together.rows,
        reading.num_source_rows,
        () if labels is None else labels.finish(),
        tuple(
            SourceColumns(file.path, file.columns.text, file.columns.labels, file.columns.pair)
            for file in reading.files
        ),
        bad_rows,
        together.notes,
        together.sha256,
        together.pairs,
        together.groups,
    )


def source_files(paths: Any) -> list[str]:
    """The files and folders that ``paths`` stand for: of a data set of the hub its files here.

    Raises:
        DataError: there is none, or the data set cannot be had.
    """
    return [os.fspath(source) for source in _sources(paths)]


def _asked(text: str | None, pair: str | None, labels: Sequence[str], groups: Sequence[str]) -> Asked:
    return Asked(text, pair, tuple(labels), tuple(groups))


def _sources(paths: Any) -> list[Any]:
    """One source or several, as a list of them; the files of a data set of the hub in its place."""
    given = [paths] if isinstance(paths, str | os.PathLike) or hasattr(paths, "read") else list(paths)
    if not given:
        raise DataError("no file given: name at least one file of texts")
    sources: list[Any] = []
    for source in given:
        if isinstance(source, str) and source.startswith(_HUB):
            from bertwright.data.hub import local_files

            sources += local_files(source)
        else:
            sources.append(source)
    return sources


def _files_or_folders(paths: Any) -> list[Any]:
    """The sources that ``paths`` names: files, or folders of token ids.

    Raises:
        DataError: there is none, or there are both.
    """
    sources = _sources(paths)
    folders = [source for source in sources if is_token_cache(source)]
    if folders and len(folders) < len(sources):
        other = next(source for source in sources if not is_token_cache(source))
        raise DataError(
            f"{folders[0]}: a folder of token ids, found beside the file {other}; expected one or the other. "
            "Tokenise the file too, or name the file that the folder was made from"
        )
    return sources


def _parts_of(source: FilePath | IO[Any], names: Sequence[str], on_bytes: Callable[[bytes], object]) -> Iterator[Table]:
    """The parts of a file that need not have labels; ``names`` are columns that the user named, if any."""
    if not isinstance(source, str | os.PathLike):
        name = getattr(source, "name", None)
        shown = "standard input" if name == "<stdin>" else name if isinstance(name, str) else "file object"
        yield from read_line_parts(source, shown, on_bytes)
    elif os.fspath(source) == "-":
        yield from read_line_parts(sys.stdin.buffer, "standard input", on_bytes)
    else:
        yield from read_parts(source, names, plain_text=True, on_bytes=on_bytes)


# --- part after part --------------------------------------------------------------------------------------------------


class _Labels(Protocol):
    """What takes the labels of parts; see ``LabelReader``."""

    def columns(self, path: str, names: tuple[str, ...]) -> tuple[str, ...]: ...

    def add(self, part: Part, names: Sequence[str], file: int) -> None: ...


@dataclass
class _File:
    """A file that was read, and the rows of it that cannot be used: the first of them, and how many there are."""

    path: str
    columns: Columns
    notes: list[str]
    bad_rows: list[BadRow] = field(default_factory=list)
    num_bad_rows: int = 0


class _Digest:
    """The hash of the bytes of all files, one after the other, and of each of them."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._all = hashlib.sha256()
        self._file: Any = None

    def update(self, content: bytes) -> None:
        self._all.update(content)
        if self._file is not None:
            self._file.update(content)

    def begin_file(self) -> None:
        self._file = hashlib.sha256() if self.files else None  # the first one's is that of all

    def end_file(self) -> None:
        self.files.append((self._all if self._file is None else self._file).hexdigest())

    def add_folder(self, sha256: str) -> None:
        """A folder of token ids, by the hash of the files that it was made from."""
        self._all.update(sha256.encode())
        self.files.append(sha256)

    def hexdigest(self) -> str:
        return self._all.hexdigest()


class _Reading:
    """Texts on their way from the parts of files to ``LabelledTexts``; of a part only what is kept outlives it."""

    def __init__(
        self,
        choose_columns: Callable[[Table], tuple[Columns, list[str]]],
        labels_of: Callable[[str, tuple[str, ...]], _Labels] | None = None,
    ) -> None:
        """``labels_of`` makes what takes the labels, once the label columns of the first file are known."""
        self.files: list[_File] = []
        self.num_good = 0
        self.num_source_rows = 0
        self.digest = _Digest()
        self._choose, self._labels_of = choose_columns, labels_of
        self._labels: _Labels | None = None
        self._texts, self._pairs = TextsWriter(), TextsWriter()
        self._rows: list[np.ndarray] = []
        self._groups: dict[str, list[pa.ChunkedArray]] = {}
        self._folders: list[tuple[UnsettledTexts, CachedTokens, np.ndarray]] = []
        self._skipped: list[Sequence[BadRow]] = []

    def add_parts(self, tables: Iterator[Table]) -> None:
        """One file. Which column is which is decided by its first part."""
        self.digest.begin_file()
        before = self.num_source_rows
        file: _File | None = None
        names: tuple[str, ...] = ()
        for table in tables:
            if file is None:
                columns, notes = self._choose(table)
                file = _File(table.path, columns, [])
                self.files.append(file)
                names = self._label_columns(file)
            else:
                notes = []
            file.notes += [note for note in [*table.notes, *notes] if note not in file.notes]
            part = Part(table)
            texts = part.texts(file.columns.text)
            pairs = None if file.columns.pair is None else part.texts(file.columns.pair, "second text")
            self._add_part(part, file, names)
            good = part.good
            kept = None if good.all() else pa.array(good)
            self._texts.append(texts if kept is None else texts.filter(kept))
            if pairs is not None:
                self._pairs.append(pairs if kept is None else pairs.filter(kept))
            self._rows.append(table.row_numbers[good] + before)
            self.num_source_rows += table.num_source_rows
        self.digest.end_file()

    def add_folder(self, path: FilePath, asked: Asked, with_labels: bool, preferred: Sequence[str] = ()) -> None:
        """A folder of token ids, as if it were the file that it was made from.

        Raises:
            DataError: the folder cannot be used, or holds other columns, or no labels where there must be some.
        """
        texts, tokens = open_token_cache(path)
        shown = os.fspath(path)
        if not asked.labels and {*preferred} <= {column.name for column in texts.labels}:
            asked = replace(asked, labels=tuple(preferred))
        columns = _folder_columns(shown, texts, asked, with_labels)
        self.digest.add_folder(texts.sha256)
        names = ", ".join(source.name for source in texts.sources)
        made = tokens.manifest.tokenizer.model
        what = "texts" if texts.pairs is None else "pairs of texts"
        note = f"{len(texts.rows):,} {what} of {names} with their token ids, by the tokenizer of {made}"
        file = _File(shown, columns, [note])
        self.files.append(file)
        cells = {name: _cells(column) for name, column in zip(columns.labels, _chosen(texts, columns), strict=True)}
        rows = texts.rows
        table = Table(shown, "tokens", {**cells, **texts.groups}, True, rows, texts.num_source_rows, lambda: rows + 1)
        part = Part(table)
        self._add_part(part, file, self._label_columns(file) if with_labels else ())
        self._rows.append(rows[part.good] + self.num_source_rows)
        self._folders.append((texts, tokens, part.good))
        self._skipped.append(texts.bad_rows)
        self.num_source_rows += texts.num_source_rows

    def _label_columns(self, file: _File) -> tuple[str, ...]:
        """The label columns of a file, in the order in which they are read."""
        if self._labels_of is None or not file.columns.labels:
            return ()
        if self._labels is None:
            self._labels = self._labels_of(file.path, file.columns.labels)
        return self._labels.columns(file.path, file.columns.labels)

    def _add_part(self, part: Part, file: _File, labels: tuple[str, ...]) -> None:
        """Take the labels and groups of a part, and note its bad rows."""
        groups = {name: part.column(name) for name in file.columns.groups}
        if self._labels is not None and labels:
            self._labels.add(part, labels, len(self.files) - 1)
        good = part.good
        self.num_good += int(np.count_nonzero(good))
        for name, column in groups.items():
            self._groups.setdefault(name, []).append(column.filter(pa.array(good)))
        bad_rows = part.bad_rows(MOST_BAD_ROWS - sum(len(one.bad_rows) for one in self.files))
        file.bad_rows += bad_rows
        file.num_bad_rows += len(bad_rows)

    def notes(self) -> list[str]:
        """What the user must be told of the files, each with its name."""
        return [f"{file.path}: {note}" for file in self.files for note in file.notes]

    def bad_rows(
        self,
        on_bad_row: str,
        num_good: int,
        late: Mapping[int, Sequence[BadRow]] | None = None,
        num_late: Counter[int] | None = None,
    ) -> BadRows:
        """The rows that cannot be used, with those of which that was found ``late``, by their file.

        Raises:
            DataError: there is one and ``on_bad_row`` is not "skip", or there is no other row.
        """
        kept: list[BadRow] = []
        count = 0
        for number, file in enumerate(self.files):
            kept += sorted([*file.bad_rows, *(late or {}).get(number, ())], key=lambda bad: bad.line)
            count += file.num_bad_rows + (num_late or Counter())[number]
        bad_rows = BadRows(kept[:MOST_BAD_ROWS], count)
        check_bad_rows(bad_rows, num_good, on_bad_row)
        skipped = [bad for rows in self._skipped for bad in rows]
        together = [*skipped, *bad_rows][:MOST_BAD_ROWS]
        return BadRows(together, sum(map(len, self._skipped)) + count)

    def assembled(self, bad_rows: BadRows, notes: list[str]) -> LabelledTexts:
        """All usable rows, without labels."""
        pairs: Texts | None = None
        tokens: CachedTokens | None = None
        if self._folders:
            texts = Texts.joined([_usable(folder.texts, good) for folder, _, good in self._folders])
            seconds = [_usable(folder.pairs, good) for folder, _, good in self._folders if folder.pairs is not None]
            pairs = Texts.joined(seconds) if seconds else None
            tokens = joined_tokens(
                [ids if good.all() else ids.take(np.flatnonzero(good)) for _, ids, good in self._folders]
            )
        else:
            texts, seconds_written = self._texts.finish(), self._pairs.finish()
            pairs = seconds_written if any(file.columns.pair is not None for file in self.files) else None
        only = self._folders[0][1] if len(self._folders) == 1 else None
        return LabelledTexts(
            texts,
            None,
            (),
            np.concatenate(self._rows),
            bad_rows,
            notes,
            self.digest.hexdigest() if only is None else only.manifest.source_sha256,
            tokens,
            pairs=pairs,
            groups={name: _one_column(pieces) for name, pieces in self._groups.items()},
            files_sha256=tuple(self.digest.files),
        )


def _usable(texts: Texts, good: np.ndarray) -> Texts:
    return texts if good.all() else texts.take(np.flatnonzero(good))


def _one_column(pieces: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """A column of several files: as texts where one has texts and another numbers."""
    kinds = {piece.type for piece in pieces}
    if len(kinds) > 1:
        numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds)
        kind = pa.float64() if numbers else pa.large_string()
        pieces = [piece.cast(kind, safe=False) for piece in pieces]
    return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pieces[0].type)


# --- folders of token ids ---------------------------------------------------------------------------------------------


def _folder_columns(shown: str, texts: UnsettledTexts, asked: Asked, with_labels: bool) -> Columns:
    """The columns to take from a folder of token ids: those asked for, else all that it holds.

    Raises:
        DataError: it does not hold them.
    """

    def refuse(source: str, found: str, expected: str, flag: str, value: str) -> DataError:
        return DataError(
            f"{shown}: found {found} of {source}, expected {expected}. Make another: bertwright tokenize "
            f"{shlex.quote(source)} {flag} {shlex.quote(value)} --output OTHER"
        )

    stored = tuple(column.name for column in texts.labels)
    for source in texts.sources:
        if asked.text is not None and asked.text != source.text:
            found = f"the texts of column {show(source.text)}"
            raise refuse(source.name, found, show(asked.text), "--text-column", asked.text)
        if asked.pair is not None and asked.pair != source.pair:
            found = "no second texts" if source.pair is None else f"the second texts of column {show(source.pair)}"
            raise refuse(source.name, found, show(asked.pair), "--pair-column", asked.pair)
    labels: tuple[str, ...] = ()
    if with_labels:
        first = texts.sources[0].name
        wanted = named_columns(stored, asked.labels)
        if not stored:
            expected = ", ".join(map(show, wanted)) if wanted else "labels"
            raise refuse(first, "no labels", expected, "--label-column", ",".join(wanted) or "NAME")
        for source in texts.sources:
            for name in wanted:
                if name not in source.labels:
                    found = f"the labels of column {', '.join(map(show, source.labels))}"
                    raise refuse(source.name, found, show(name), "--label-column", ",".join(wanted))
        # files may call their one column differently: the first file's name stands for all
        labels = stored if len(stored) == 1 or not wanted else wanted
    groups = named_columns(texts.groups, asked.groups) or tuple(texts.groups)
    for name in groups:
        if name not in texts.groups:
            found = f"the groups {', '.join(map(show, texts.groups))}" if texts.groups else "no groups"
            raise refuse(texts.sources[0].name, found, show(name), "--group-columns", name)
    return Columns(texts.sources[0].text, texts.sources[0].pair, labels, groups)


def _chosen(texts: UnsettledTexts, columns: Columns) -> list[LabelColumn]:
    by_name = {column.name: column for column in texts.labels}
    return [by_name[name] for name in columns.labels]


def _cells(column: LabelColumn) -> pa.ChunkedArray:
    """A stored column of labels (rows,) as it stood in the files: as texts, or as many numbers."""
    if column.names is None:
        return pa.chunked_array([pa.array(column.numbers, pa.float64())])
    codes = pa.array(column.codes, pa.int32())
    return pa.chunked_array([pa.DictionaryArray.from_arrays(codes, pa.array(column.names, pa.large_string()))])
