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
import mmap
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bertwright.config.parts import LongTexts
from bertwright.data.ragged import (
    Ragged,
    check_long_texts,
    cut_pairs_to,
    cut_to,
    starts_of,
)
from bertwright.data.rows import BadRows, LabelColumn, SourceColumns, UnsettledTexts
from bertwright.data.table import BadRow, one_line
from bertwright.data.texts import MappedTexts, Texts
from bertwright.data.token_manifest import (
    AGAIN,
    GROUPS,
    IDS,
    LABELS,
    LENGTHS,
    MANIFEST,
    NUMBERS,
    PAIRS,
    ROWS,
    SECOND_LENGTHS,
    TEXTS,
    Manifest,
    check,
    read_manifest,
)
from bertwright.errors import DataError
from bertwright.model.tokenizer import Tokenizer, kept_of_pairs

# Looked at once, so that a folder larger than memory can be checked.
_CHECKED_TOKENS = 1 << 24


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


def open_token_cache(path: str | os.PathLike[str]) -> tuple[UnsettledTexts, CachedTokens]:
    """The texts of a folder and their token ids, both mapped from it, after everything in it was checked.

    Raises:
        DataError: the folder is not one of token ids, of a format that is not known, not whole, or was changed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    _check_files(folder, manifest)
    num_texts = manifest.num_texts
    lengths = _numbers(folder, LENGTHS, "<i4").astype(np.int64)
    rows = _numbers(folder, ROWS, "<i8").astype(np.int64)
    starts = starts_of(np.minimum(lengths, manifest.max_length))
    ids = np.asarray(np.memmap(folder / IDS, dtype=np.dtype(manifest.id_dtype), mode="r"))
    labels = _read_labels(folder, manifest)
    check(folder / LENGTHS, lengths.min() >= 2, "a text of less than two tokens")
    check(folder / LENGTHS, starts[-1] == len(ids), f"{starts[-1]:,} tokens, expected {len(ids):,}")
    found = int(np.count_nonzero(lengths > manifest.max_length))
    check(folder / LENGTHS, found == manifest.num_truncated, f"{found:,} cut texts")
    check(folder / ROWS, _within(rows, 0, manifest.num_source_rows), "a row that the source does not have")
    second_lengths = None
    if manifest.pairs:
        second_lengths = _numbers(folder, SECOND_LENGTHS, "<i4").astype(np.int64)
        shortest = min(int(second_lengths.min()), int((lengths - manifest.pair_marks - second_lengths).min()))
        check(folder / SECOND_LENGTHS, shortest >= 0, "a second text longer than its pair, or of less than no tokens")
    for first in range(0, len(ids), _CHECKED_TOKENS):
        some = ids[first : first + _CHECKED_TOKENS]
        check(folder / IDS, _within(some, 0, manifest.tokenizer.vocab_size), "an id that is not in the vocabulary")
    unsettled = UnsettledTexts(
        _mapped_texts(folder / TEXTS, num_texts),
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
        _mapped_texts(folder / PAIRS, num_texts) if manifest.pairs else None,
        _read_groups(folder / GROUPS, manifest),
    )
    return unsettled, CachedTokens(ids, starts, lengths, os.fspath(path), manifest, uncut_seconds=second_lengths)


def _read_labels(folder: Path, manifest: Manifest) -> tuple[LabelColumn, ...]:
    stored = manifest.labels
    named = [column for column in stored if column.names is not None]
    codes = iter(_numbers(folder, LABELS, "<i4").reshape(len(named), -1) if named else ())
    unnamed = len(stored) - len(named)
    numbers = iter(_numbers(folder, NUMBERS, "<f8").reshape(unnamed, -1) if unnamed else ())
    columns = []
    for column in stored:
        if column.names is None:
            columns.append(LabelColumn(column.column, None, None, next(numbers)))
            continue
        places = next(codes)
        check(folder / LABELS, _within(places, 0, len(column.names)), "a label that has no name")
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
        raise DataError(f"{path}: damaged or changed: {one_line(error)}. {AGAIN}") from None
    check(path, names == manifest.group_columns, f"other columns ({', '.join(names)[:100]})")
    check(path, len(table) == manifest.num_texts, f"{len(table):,} rows, expected {manifest.num_texts:,}")
    types = pa.types
    for field in table.schema:
        known = types.is_large_string(field.type) or types.is_boolean(field.type)
        known = known or types.is_integer(field.type) or types.is_floating(field.type)
        check(path, known, f"a column of {field.type}")
    return {name: table.column(name) for name in names}


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Raise unless every file has the size that its count asks for, and the checksum that the manifest tells."""
    num_named = sum(column.names is not None for column in manifest.labels)
    item_bytes = {
        IDS: np.dtype(manifest.id_dtype).itemsize,
        LENGTHS: 4,
        SECOND_LENGTHS: 4,
        ROWS: 8,
        LABELS: 4 * num_named,
        NUMBERS: 8 * (len(manifest.labels) - num_named),
    }
    for name, stored in manifest.files.items():
        path = folder / name
        count = manifest.num_tokens if name == IDS else manifest.num_texts
        expected = item_bytes[name] * count if name in item_bytes else stored.bytes
        check(folder / MANIFEST, expected == stored.bytes, f"{stored.bytes:,} bytes of {name} for {count:,} numbers")
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno()).st_size
                check(path, found == expected, f"{found:,} bytes, expected {expected:,}")
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}). {AGAIN}") from None
        check(path, digest == stored.sha256, f"sha256 {digest[:12]}..., expected {stored.sha256[:12]}...")


def _within(numbers: np.ndarray, least: int, end: int) -> bool:
    return bool(numbers.min() >= least and numbers.max() < end)


def _numbers(folder: Path, name: str, dtype: str) -> np.ndarray:
    return np.fromfile(folder / name, dtype=np.dtype(dtype))


def _mapped_texts(path: Path, num_texts: int) -> Texts:
    try:
        with open(path, "rb") as file:
            texts = MappedTexts(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).checked()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or changed: {one_line(error)}. {AGAIN}") from None
    check(path, len(texts) == num_texts, f"{len(texts):,} texts, expected {num_texts:,}")
    return texts
