"""Token ids in a folder: made once, carried anywhere, mapped into memory where they are used.

    manifest.json      what this is, of which texts, by which tokenizer; the size and sha256 of each other file
    token_ids.bin      (tokens,) uint16 where the vocabulary fits, else int32: text after text, each cut to max_length
    lengths.bin        (texts,) int32, tokens of each text before it was cut
    second_lengths.bin (texts,) int32, of pairs, tokens of each second text before it was cut, without marks
    rows.bin           (texts,) int64, where each text stands in its source, from 0
    label_codes.bin    (columns, texts) int32, places in the manifest's names of each label column; only with labels
    label_numbers.bin  (columns, texts) float64, of label columns with more different numbers than are named
    texts.arrow        the texts, one large_string column of an Arrow file
    pairs.arrow        of pairs, the second texts in the same way
    groups.arrow       the columns of groups as they stand in the source, only where there are some

Format 1 has one label column with names at most, and no groups; format 2 no pairs. A folder is written in the lowest
format that holds it. Where texts come in pairs, token_ids.bin holds the pairs as a model reads them, [CLS] a [SEP] b
[SEP] (in format 4 <s> a </s></s> b </s>), and lengths.bin theirs: a training of this max_length takes them as they lie,
and one of a smaller max_length cuts them further, which is exact because the lengths of both texts before the cut are
known.

All numbers are little-endian. Labels are kept as they stand in the source: what the classes are is decided by those who
read the folder, by the same rules as for the source itself. Nothing in it is ever executed, and it is checked before it
is used: sizes, checksums, and that every number is within its bounds.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shlex
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from bertwright import __version__
from bertwright.config.base import Settings, build
from bertwright.config.parts import LongTexts
from bertwright.data.ragged import (
    Ragged,
    check_long_texts,
    chunks_of,
    cut_pairs_to,
    cut_to,
    pairs_of_chunks,
    starts_of,
)
from bertwright.data.rows import BadRows, LabelColumn, SourceColumns, UnsettledTexts
from bertwright.data.spool import Appended
from bertwright.data.table import BadRow, one_line, show
from bertwright.data.texts import TEXTS_SCHEMA, MappedTexts, Texts
from bertwright.errors import DataError, UserError
from bertwright.model.tokenizer import Tokenizer, cut, kept_of_pairs, pair_up
from bertwright.progress import Reporter
from bertwright.runs import write_json

FORMAT = 4
"""The highest format that is read; see ``Manifest``."""

MANIFEST = "manifest.json"
_KIND = "bertwright token ids"
_IDS, _LENGTHS, _SECOND_LENGTHS, _ROWS, _LABELS, _NUMBERS, _TEXTS, _PAIRS, _GROUPS = _ALL_FILES = (
    "token_ids.bin",
    "lengths.bin",
    "second_lengths.bin",
    "rows.bin",
    "label_codes.bin",
    "label_numbers.bin",
    "texts.arrow",
    "pairs.arrow",
    "groups.arrow",
)
# Looked at once, so that a folder larger than memory can be checked.
_CHECKED_TOKENS = 1 << 24
_GROUPS_AT_ONCE = 1 << 18


class Source(Settings):
    """A file that texts came from, and its columns: ``label_columns`` from format 2 on, ``pair_column`` from 3 on."""

    name: str
    text_column: str
    label_column: str | None
    label_columns: tuple[str, ...] | None = None
    pair_column: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        if self.label_columns is not None:
            return self.label_columns
        return () if self.label_column is None else (self.label_column,)


class StoredLabels(Settings):
    """A column of labels: its different labels as texts, or None where it is stored as numbers."""

    column: str
    names: tuple[str, ...] | None


class StoredFile(Settings):
    """What must be found of a file of the folder."""

    bytes: int = Field(ge=0)
    sha256: str


class TokenizerRecord(Settings):
    """The tokenizer that the ids are of: ``sha256`` is its ``Tokenizer.sha256``, ``model`` the name it was found by."""

    model: str
    sha256: str
    engine: str
    vocab_size: int = Field(ge=1, le=1 << 31)


class SkippedRow(Settings):
    """A row of the source that could not be used."""

    path: str
    line: int
    reason: str
    unit: str


class Manifest(Settings):
    """manifest.json; ``key`` says what was asked for, of which content, by which tokenizer.

    In format 1 ``label_names`` are those of the one label column. From format 2 on it is None and all label columns are
    ``label_columns``; ``skipped_rows`` are then the first of ``num_skipped_rows``. From format 3 on all texts are
    pairs, of ``num_pair_marks`` marks each in format 4, of 3 before.
    """

    kind: Literal["bertwright token ids"]
    format: Literal[1, 2, 3, 4]
    bertwright: str
    key: str
    sources: tuple[Source, ...] = Field(min_length=1)
    source_sha256: str
    num_source_rows: int = Field(ge=1, le=1 << 53)
    tokenizer: TokenizerRecord
    max_length: int = Field(ge=3, le=1_000_000)
    num_texts: int = Field(ge=1)
    num_tokens: int = Field(ge=2)
    num_truncated: int = Field(ge=0)
    id_dtype: Literal["<u2", "<i4"]
    label_names: tuple[str, ...] | None
    skipped_rows: tuple[SkippedRow, ...]
    files: dict[str, StoredFile]
    label_columns: tuple[StoredLabels, ...] | None = None
    group_columns: tuple[str, ...] | None = None
    num_skipped_rows: int | None = Field(None, ge=0)
    num_pair_marks: Literal[4] | None = None

    @model_validator(mode="after")
    def _has_what_its_format_has(self) -> Self:
        later = [
            self.label_columns,
            self.group_columns,
            self.num_skipped_rows,
            *(s.label_columns for s in self.sources),
        ]
        if any((value is None) != (self.format == 1) for value in later):
            raise ValueError(f"entries that format {self.format} does not have, or lacks")
        if self.format > 1 and self.label_names is not None:
            raise ValueError(f"label_names in format {self.format}")
        if any((source.pair_column is None) == self.pairs for source in self.sources):
            raise ValueError(f"a pair_column in format {self.format}, or none from format 3 on")
        if (self.num_pair_marks is None) == (self.format == 4):
            raise ValueError(f"num_pair_marks in format {self.format}, or none in format 4")
        if self.num_skipped < len(self.skipped_rows) or self.num_skipped > self.num_source_rows - self.num_texts:
            raise ValueError("more skipped rows than there are")
        if self.num_skipped and not self.skipped_rows:
            raise ValueError("skipped rows of which not even the first is named")
        return self

    @property
    def pairs(self) -> bool:
        """Whether texts come in pairs."""
        return self.format >= 3

    @property
    def pair_marks(self) -> int:
        """Marks in each pair."""
        return self.num_pair_marks or 3

    @property
    def labels(self) -> tuple[StoredLabels, ...]:
        """The label columns, whatever the format."""
        if self.label_columns is not None:
            return self.label_columns
        if self.label_names is None:
            return ()
        return (StoredLabels(column=self.sources[0].label_column or "label", names=self.label_names),)

    @property
    def num_skipped(self) -> int:
        return len(self.skipped_rows) if self.num_skipped_rows is None else self.num_skipped_rows

    @property
    def truncated_share(self) -> float:
        return self.num_truncated / self.num_texts


@dataclass(frozen=True)
class CachedTokens:
    """The token ids that came with texts from a folder.

    Attributes:
        ids: (tokens,) uint16 or int32, text after text, mapped from the folder or taken from there.
        starts: (texts + 1,) int64, running sum of the texts' lengths.
        uncut: (texts,) int64, tokens of each text before it was cut.
        folder: where they are from, for messages.
        manifest: the folder's.
        places: (texts,) int64, where each text starts in ``ids``; None: they lie end to end.
        uncut_seconds: (texts,) int64, of pairs, tokens of each second text before it was cut, without marks; None: no
            pairs.
    """

    ids: np.ndarray
    starts: np.ndarray
    uncut: np.ndarray
    folder: str
    manifest: Manifest
    places: np.ndarray | None = None
    uncut_seconds: np.ndarray | None = None

    @property
    def truncated(self) -> np.ndarray:
        """(texts,) bool, which texts lost their end."""
        return self.uncut > self.manifest.max_length

    def whole(self) -> Ragged:
        """The ids as they are stored."""
        second_starts = None
        if self.uncut_seconds is not None:
            marks = self.manifest.pair_marks
            kept, _ = kept_of_pairs(self._uncut_firsts(), self.uncut_seconds, self.manifest.max_length, marks)
            second_starts = (kept + marks - 1).astype(np.int32)
        return Ragged(self.ids, self.starts, 0, second_starts, places=self.places)

    def _uncut_firsts(self) -> np.ndarray:
        """(texts,) int64, tokens of each first text of a pair before it was cut, without marks."""
        return self.uncut - self.uncut_seconds - self.manifest.pair_marks

    def take(self, rows: np.ndarray) -> CachedTokens:
        """Those of the texts at ``rows`` (any number of texts, in any order)."""
        taken = self.whole().take(rows)
        seconds = None if self.uncut_seconds is None else self.uncut_seconds[rows]
        return CachedTokens(
            taken.ids, taken.starts, self.uncut[rows], self.folder, self.manifest, taken.places, seconds
        )

    def ragged(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        model: str,
        long_texts: LongTexts = "head",
        window_overlap: int = 0,
    ) -> Ragged:
        """The ids for a model whose tokenizer is ``tokenizer``, of longer texts what :func:`cut_to` says.

        ``model`` is its name, for messages.

        Raises:
            DataError: they are of another tokenizer, texts are cut to less than ``max_length``, or what ``long_texts``
                asks for of them is lost.
            UserError: settings that do not go together.
        """
        pairs = self.uncut_seconds is not None
        check_long_texts(max_length, long_texts, window_overlap, pairs=pairs)
        made = self.manifest
        if made.tokenizer.sha256 != tokenizer.sha256:
            raise DataError(
                f"{self.folder}: found token ids by the tokenizer of {made.tokenizer.model}, expected those by the "
                f"tokenizer of {model}. Make others: {self._command(model, max_length)}"
            )
        num_truncated = int(np.count_nonzero(self.truncated))
        if num_truncated and (max_length > made.max_length or long_texts != "head"):
            what = ("pair" if pairs else "text") + "s" * (num_truncated != 1)
            cut_texts = f"{num_truncated:,} {what} cut to {made.max_length} tokens"
            if long_texts != "head":
                raise DataError(
                    f"{self.folder}: found {cut_texts}, expected whole ones for --long-texts {long_texts}. Make "
                    f"others: {self._command(model, 1_000_000)}"
                )
            raise DataError(
                f"{self.folder}: found {cut_texts}, expected up to {max_length}. Make others: "
                f"{self._command(model, max_length)} (or train with --max-length {made.max_length})"
            )
        if self.uncut_seconds is not None:
            found = cut_pairs_to(self.whole(), self._uncut_firsts(), self.uncut_seconds, max_length, made.pair_marks)
            if not tokenizer.check_pairs().segments:
                found = replace(found, second_starts=None)
        else:
            found = cut_to(self.ids, self.starts, max_length, long_texts, window_overlap, self.places)
        if max_length < made.max_length:  # then all that were cut there are cut here again, and counted
            return found
        return replace(found, num_truncated=num_truncated)

    def _command(self, model: str, max_length: int) -> str:
        names = " ".join(shlex.quote(source.name) for source in self.manifest.sources[:3])
        more = " ..." if len(self.manifest.sources) > 3 else ""
        pair = self.manifest.sources[0].pair_column
        pair_flag = "" if pair is None else f"--pair-column {shlex.quote(pair)} "
        return (
            f"bertwright tokenize {names}{more} --model {shlex.quote(model)} {pair_flag}--max-length {max_length} "
            f"--output {shlex.quote(self.folder + '-2')}"
        )


def joined_tokens(parts: Sequence[CachedTokens]) -> CachedTokens:
    """The ids of several folders, one after the other, in memory.

    Raises:
        DataError: they are of different tokenizers, cut to different lengths, or some are of pairs.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        if part.manifest.pairs != first.manifest.pairs:
            found, others = ("pairs of", "single") if part.manifest.pairs else ("single", "pairs of")
            raise DataError(
                f"{part.folder}: found {found} texts, expected {others} texts as in {first.folder}. "
                "Make both with the same bertwright tokenize settings"
            )
        for what, ours, theirs in (
            ("tokenizers", first.manifest.tokenizer.sha256, part.manifest.tokenizer.sha256),
            ("--max-length", first.manifest.max_length, part.manifest.max_length),
        ):
            if ours != theirs:
                raise DataError(
                    f"{part.folder}: found another of {what} than in {first.folder}, expected the same. "
                    "Make both with the same bertwright tokenize settings"
                )
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    ids = np.concatenate([piece for part in parts for _, piece in part.whole().pieces()])
    uncut = np.concatenate([part.uncut for part in parts])
    seconds = [part.uncut_seconds for part in parts if part.uncut_seconds is not None]
    uncut_seconds = np.concatenate(seconds) if seconds else None
    return CachedTokens(ids, starts_of(lengths), uncut, first.folder, first.manifest, None, uncut_seconds)


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A folder that was written: its manifest, and the seconds that tokenising and writing took."""

    manifest: Manifest
    tokenize_s: float
    write_s: float


def write_token_cache(
    folder: Path, texts: UnsettledTexts, tokenizer: Tokenizer, model: str, max_length: int, key: str, reporter: Reporter
) -> Written:
    """Tokenise ``texts`` into ``folder``, replacing the folder of token ids that may be there.

    Written beside and renamed; memory is held for some millions of tokens at once. ``model`` is the name that the
    tokenizer was found by, ``key`` what :func:`bertwright.data.tokenize.cache_key` gave.

    Raises:
        OSError: the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        written = _write_files(partial, texts, tokenizer, model, max_length, key, reporter)
        replaced = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
        if folder.exists():
            os.replace(folder, replaced)
        try:
            os.replace(partial, folder)
        except OSError:
            if replaced.exists():
                os.replace(replaced, folder)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _write_files(
    folder: Path, texts: UnsettledTexts, tokenizer: Tokenizer, model: str, max_length: int, key: str, reporter: Reporter
) -> Written:
    started = time.perf_counter()
    tokenize_s = 0.0
    pairs = texts.pairs
    all_lengths, all_second_lengths = [], []
    written = {name: _HashedFile(folder / name) for name in (_IDS, _TEXTS, *([] if pairs is None else [_PAIRS]))}
    waiting: deque[Any] = deque()  # what is being tokenised: the texts, or by turns first and second ones

    def parts() -> Iterator[Any]:
        given = (
            pairs_of_chunks(texts.texts, pairs) if pairs is not None else ((part,) for part in chunks_of(texts.texts))
        )
        for part in chain.from_iterable(given):
            waiting.append(part)
            yield part

    num_marks = 0 if pairs is None else tokenizer.check_pairs().num_marks
    with ExitStack() as stack, reporter.progress("Tokenising", len(texts.texts)) as advance:
        for file in written.values():
            stack.enter_context(file)
        tables = [
            stack.enter_context(pa.ipc.new_file(file, TEXTS_SCHEMA)) for name, file in written.items() if name != _IDS
        ]
        before = time.perf_counter()
        encoded = tokenizer.encode_each(parts())
        for ids, starts in encoded:
            if pairs is None:
                all_lengths.append(np.diff(starts))
                ids, _, _ = cut(ids, starts, max_length, tokenizer.sep_id)
            else:
                second = next(encoded)
                all_second_lengths.append(np.diff(second[1]) - 2)
                all_lengths.append(np.diff(starts) + all_second_lengths[-1] + num_marks - 2)
                ids, _, _, _ = pair_up((ids, starts), second, max_length, num_marks)
            ids = ids.astype(tokenizer.id_dtype)
            tokenize_s += time.perf_counter() - before
            written[_IDS].write(ids.data)
            for table in tables:
                table.write_batch(pa.record_batch([waiting.popleft()], schema=TEXTS_SCHEMA))
            advance(len(all_lengths[-1]))
            before = time.perf_counter()
    lengths = np.concatenate(all_lengths)
    arrays = {_LENGTHS: lengths.astype("<i4"), _ROWS: texts.rows.astype("<i8")}
    if pairs is not None:
        arrays[_SECOND_LENGTHS] = np.concatenate(all_second_lengths).astype("<i4")
    codes = [column.codes.astype("<i4") for column in texts.labels if column.codes is not None]
    if codes:
        arrays[_LABELS] = np.concatenate(codes)
    numbers = [column.numbers.astype("<f8") for column in texts.labels if column.numbers is not None]
    if numbers:
        arrays[_NUMBERS] = np.concatenate(numbers)
    files = {name: file.record() for name, file in written.items()}
    for name, array in arrays.items():
        with _HashedFile(folder / name) as file:
            file.write(array.data)
        files[name] = file.record()
    if texts.groups:
        files[_GROUPS] = _write_groups(folder / _GROUPS, texts.groups)
    skipped = tuple(
        SkippedRow(path=_storable(bad.path), line=bad.line, reason=bad.reason, unit=bad.unit) for bad in texts.bad_rows
    )
    first_format = len(texts.labels) < 2 and not numbers and not texts.groups and len(skipped) == len(texts.bad_rows)
    first_format = first_format and pairs is None
    later: dict[str, Any] = {}
    if not first_format:
        later = {
            "label_columns": tuple(StoredLabels(column=column.name, names=column.names) for column in texts.labels),
            "group_columns": tuple(texts.groups),
            "num_skipped_rows": len(texts.bad_rows),
        }
    if num_marks > 3:
        later["num_pair_marks"] = num_marks
    manifest = Manifest(
        kind=_KIND,
        format=1 if first_format else 2 if pairs is None else 3 if num_marks == 3 else 4,
        bertwright=__version__,
        key=key,
        sources=tuple(_source(source, first_format) for source in texts.sources),
        source_sha256=texts.sha256,
        num_source_rows=texts.num_source_rows,
        tokenizer=TokenizerRecord(
            model=model, sha256=tokenizer.sha256, engine=tokenizer.engine, vocab_size=tokenizer.vocab_size
        ),
        max_length=max_length,
        num_texts=len(lengths),
        num_tokens=int(np.minimum(lengths, max_length).sum()),
        num_truncated=int(np.count_nonzero(lengths > max_length)),
        id_dtype=tokenizer.id_dtype.str,
        label_names=texts.labels[0].names if texts.labels and first_format else None,
        skipped_rows=skipped,
        files=files,
        **later,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json", exclude_unset=True))
    return Written(manifest, tokenize_s, time.perf_counter() - started - tokenize_s)


def _source(source: SourceColumns, first_format: bool) -> Source:
    given: dict[str, Any] = {} if first_format else {"label_columns": source.labels}
    if source.pair is not None:
        given["pair_column"] = source.pair
    label = source.labels[0] if first_format and source.labels else None
    return Source(name=_storable(source.name), text_column=source.text, label_column=label, **given)


def _write_groups(path: Path, groups: dict[str, pa.ChunkedArray]) -> StoredFile:
    table = pa.table(groups)
    with _HashedFile(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, _GROUPS_AT_ONCE)
    return file.record()


def _storable(path: str) -> str:
    """A file's name as JSON can hold it: bytes that are not UTF-8 are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _HashedFile(Appended):
    """A new file whose bytes are hashed on their way."""

    def __init__(self, path: Path) -> None:
        super().__init__(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666))
        self._hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return super().write(data)

    def record(self) -> StoredFile:
        return StoredFile(bytes=self.num_bytes, sha256=self._hash.hexdigest())


# --- reading ----------------------------------------------------------------------------------------------------------


def is_token_cache(path: Any) -> bool:
    """Whether ``path`` is a folder that says of itself that it holds token ids, whole or not."""
    return isinstance(path, str | os.PathLike) and os.path.isfile(os.path.join(path, MANIFEST))


def may_be_replaced(folder: Path) -> bool:
    """Whether all that is in ``folder`` was written by ``write_token_cache``, or nothing is in it."""
    found = set(os.listdir(folder))
    if not found:
        return True
    try:
        return _read_values(folder / MANIFEST).get("kind") == _KIND and found <= {MANIFEST, *_ALL_FILES}
    except DataError:
        return False


def open_token_cache(path: str | os.PathLike[str]) -> tuple[UnsettledTexts, CachedTokens]:
    """The texts of a folder and their token ids, both mapped from it, after everything in it was checked.

    Raises:
        DataError: the folder is not one of token ids, of a format that is not known, not whole, or was changed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    _check_files(folder, manifest)
    num_texts = manifest.num_texts
    lengths = _numbers(folder, _LENGTHS, "<i4").astype(np.int64)
    rows = _numbers(folder, _ROWS, "<i8").astype(np.int64)
    starts = starts_of(np.minimum(lengths, manifest.max_length))
    ids = np.asarray(np.memmap(folder / _IDS, dtype=np.dtype(manifest.id_dtype), mode="r"))
    labels = _read_labels(folder, manifest)
    _check(folder / _LENGTHS, lengths.min() >= 2, "a text of less than two tokens")
    _check(folder / _LENGTHS, starts[-1] == len(ids), f"{starts[-1]:,} tokens, expected {len(ids):,}")
    found = int(np.count_nonzero(lengths > manifest.max_length))
    _check(folder / _LENGTHS, found == manifest.num_truncated, f"{found:,} cut texts")
    _check(folder / _ROWS, _within(rows, 0, manifest.num_source_rows), "a row that the source does not have")
    second_lengths = None
    if manifest.pairs:
        second_lengths = _numbers(folder, _SECOND_LENGTHS, "<i4").astype(np.int64)
        shortest = min(int(second_lengths.min()), int((lengths - manifest.pair_marks - second_lengths).min()))
        _check(folder / _SECOND_LENGTHS, shortest >= 0, "a second text longer than its pair, or of less than no tokens")
    for first in range(0, len(ids), _CHECKED_TOKENS):
        some = ids[first : first + _CHECKED_TOKENS]
        _check(folder / _IDS, _within(some, 0, manifest.tokenizer.vocab_size), "an id that is not in the vocabulary")
    unsettled = UnsettledTexts(
        _mapped_texts(folder / _TEXTS, num_texts),
        rows,
        manifest.num_source_rows,
        labels,
        tuple(
            SourceColumns(source.name, source.text_column, source.labels, source.pair_column)
            for source in manifest.sources
        ),
        BadRows(
            (BadRow(row.path, row.line, row.reason, row.unit) for row in manifest.skipped_rows), manifest.num_skipped
        ),
        [],
        manifest.source_sha256,
        _mapped_texts(folder / _PAIRS, num_texts) if manifest.pairs else None,
        _read_groups(folder / _GROUPS, manifest),
    )
    return unsettled, CachedTokens(ids, starts, lengths, os.fspath(path), manifest, uncut_seconds=second_lengths)


def _read_labels(folder: Path, manifest: Manifest) -> tuple[LabelColumn, ...]:
    stored = manifest.labels
    named = [column for column in stored if column.names is not None]
    codes = iter(_numbers(folder, _LABELS, "<i4").reshape(len(named), -1) if named else ())
    unnamed = len(stored) - len(named)
    numbers = iter(_numbers(folder, _NUMBERS, "<f8").reshape(unnamed, -1) if unnamed else ())
    columns = []
    for column in stored:
        if column.names is None:
            columns.append(LabelColumn(column.column, None, None, next(numbers)))
            continue
        places = next(codes)
        _check(folder / _LABELS, _within(places, 0, len(column.names)), "a label that has no name")
        columns.append(LabelColumn(column.column, column.names, places))
    return tuple(columns)


def _read_groups(path: Path, manifest: Manifest) -> dict[str, pa.ChunkedArray]:
    if not manifest.group_columns:
        return {}
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)
            names = tuple(table.column_names)  # may be no UTF-8
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or changed: {one_line(error)}. {_AGAIN}") from None
    _check(path, names == manifest.group_columns, f"other columns ({', '.join(names)[:100]})")
    _check(path, len(table) == manifest.num_texts, f"{len(table):,} rows, expected {manifest.num_texts:,}")
    types = pa.types
    for field in table.schema:
        known = types.is_large_string(field.type) or types.is_boolean(field.type)
        known = known or types.is_integer(field.type) or types.is_floating(field.type)
        _check(path, known, f"a column of {field.type}")
    return {name: table.column(name) for name in names}


def read_manifest(folder: Path) -> Manifest:
    """What a folder says of itself; its other files are not looked at.

    Raises:
        DataError: there is no manifest, it is damaged, or of something else or another format.
    """
    path = folder / MANIFEST
    values = _read_values(path)
    if values.get("kind") != _KIND:
        raise DataError(f"{path}: not the manifest of a folder that bertwright tokenize made. {_AGAIN}")
    if values.get("format") not in range(1, FORMAT + 1):
        raise DataError(
            f"{path}: found format {show(values.get('format'))} of bertwright {show(values.get('bertwright'))}, "
            f"expected format 1 to {FORMAT} of bertwright {__version__}. {_AGAIN}"
        )
    try:
        manifest = build(Manifest, values, str(path))
    except UserError as error:
        raise DataError(f"{one_line(error)}. It is damaged. {_AGAIN}") from None
    kinds = {_LABELS if column.names is not None else _NUMBERS for column in manifest.labels}
    expected = {_IDS, _LENGTHS, _ROWS, _TEXTS} | kinds | ({_GROUPS} if manifest.group_columns else set())
    expected |= {_SECOND_LENGTHS, _PAIRS} if manifest.pairs else set()
    _check(path, set(manifest.files) == expected, f"the files {', '.join(sorted(manifest.files))[:100]}")
    return manifest


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(values, ensure_ascii=False).encode("utf-8")  # escaped lone surrogates are no text
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({one_line(error)}). {_AGAIN}") from None
    return values if isinstance(values, dict) else {}


_AGAIN = "Make it again with bertwright tokenize, or copy it again"


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Raise unless every file has the size that its count asks for, and the checksum that the manifest tells."""
    num_named = sum(column.names is not None for column in manifest.labels)
    item_bytes = {
        _IDS: np.dtype(manifest.id_dtype).itemsize,
        _LENGTHS: 4,
        _SECOND_LENGTHS: 4,
        _ROWS: 8,
        _LABELS: 4 * num_named,
        _NUMBERS: 8 * (len(manifest.labels) - num_named),
    }
    for name, stored in manifest.files.items():
        path = folder / name
        count = manifest.num_tokens if name == _IDS else manifest.num_texts
        expected = item_bytes[name] * count if name in item_bytes else stored.bytes
        _check(folder / MANIFEST, expected == stored.bytes, f"{stored.bytes:,} bytes of {name} for {count:,} numbers")
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno()).st_size
                _check(path, found == expected, f"{found:,} bytes, expected {expected:,}")
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}). {_AGAIN}") from None
        _check(path, digest == stored.sha256, f"sha256 {digest[:12]}..., expected {stored.sha256[:12]}...")


def _check(path: Path, good: Any, found: str) -> None:
    if not good:
        raise DataError(f"{path}: damaged or changed: found {found}. {_AGAIN}")


def _within(numbers: np.ndarray, least: int, end: int) -> bool:
    return bool(numbers.min() >= least and numbers.max() < end)


def _numbers(folder: Path, name: str, dtype: str) -> np.ndarray:
    return np.fromfile(folder / name, dtype=np.dtype(dtype))


def _mapped_texts(path: Path, num_texts: int) -> Texts:
    try:
        with open(path, "rb") as file:
            texts = MappedTexts(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).checked()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or changed: {one_line(error)}. {_AGAIN}") from None
    _check(path, len(texts) == num_texts, f"{len(texts):,} texts, expected {num_texts:,}")
    return texts
