"""Files on their way to texts and labels, part after part: what is kept of them, and how it is put together."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from bertwright.config.parts import LabelKind
from bertwright.data.choose import Asked, Columns, named_columns
from bertwright.data.rows import (
    MOST_BAD_ROWS,
    BadRows,
    LabelColumn,
    Part,
    UnsettledTexts,
    check_bad_rows,
)
from bertwright.data.table import BadRow, Table, show
from bertwright.data.texts import Texts, TextsWriter
from bertwright.data.token_cache import (
    CachedTokens,
    joined_tokens,
    open_token_cache,
)
from bertwright.errors import DataError

FilePath = str | os.PathLike[str]


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


class Reading:
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
        for usable in self.usable_parts(tables):
            self._texts.append(usable.texts.to_arrow())
            if usable.pairs is not None:
                self._pairs.append(usable.pairs.to_arrow())
            self._rows.append(usable.rows)
            self._add_groups(usable.groups)
        self.digest.end_file()

    def usable_parts(self, tables: Iterator[Table]) -> Iterator[LabelledTexts]:
        """The usable rows of each part of one file, without labels and hashes: what ``add_parts`` keeps of it.

        Labels are taken on the way, and rows that cannot be used are noted.
        """
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
            groups = self._add_part(part, file, names)
            good = part.good
            if not good.all():
                kept = pa.array(good)
                texts, pairs = texts.filter(kept), None if pairs is None else pairs.filter(kept)
            self.num_source_rows += table.num_source_rows
            yield LabelledTexts(
                Texts.of(texts),
                None,
                (),
                table.row_numbers[good] + before,
                [],
                [],
                "",
                pairs=None if pairs is None else Texts.of(pairs),
                groups=groups,
            )

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
        self._add_groups(self._add_part(part, file, self._label_columns(file) if with_labels else ()))
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

    def _add_part(self, part: Part, file: _File, labels: tuple[str, ...]) -> dict[str, pa.ChunkedArray]:
        """Take the labels of a part, note its bad rows, and give the groups of the others."""
        groups = {name: part.column(name) for name in file.columns.groups}
        if self._labels is not None and labels:
            self._labels.add(part, labels, len(self.files) - 1)
        good = part.good
        self.num_good += int(np.count_nonzero(good))
        bad_rows = part.bad_rows(MOST_BAD_ROWS - sum(len(one.bad_rows) for one in self.files))
        file.bad_rows += bad_rows
        file.num_bad_rows += len(bad_rows)
        return {name: column.filter(pa.array(good)) for name, column in groups.items()}

    def _add_groups(self, groups: Mapping[str, pa.ChunkedArray]) -> None:
        for name, column in groups.items():
            self._groups.setdefault(name, []).append(column)

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
