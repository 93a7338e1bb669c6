"""Token ids in a folder: made once, carried anywhere, mapped into memory where they are used.

    manifest.json     what this is, of which texts, by which tokenizer; the size and sha256 of each other file
    token_ids.bin     (tokens,) uint16 where the vocabulary fits, else int32: text after text, each cut to max_length
    lengths.bin       (texts,) int32, tokens of each text before it was cut
    rows.bin          (texts,) int64, where each text stands in its source, from 0
    label_codes.bin   (texts,) int32, places in the manifest's label_names; only where there are labels
    texts.arrow       the texts, one large_string column of an Arrow file

All numbers are little-endian. Labels are kept as they stand in the source: what the classes are is decided by those who
read the folder, by the same rules as for the source itself. Nothing in it is ever executed, and it is checked before it
is used: sizes, checksums, and that every number is within its bounds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from bertwright import __version__
from bertwright.config import Settings, build
from bertwright.data.ragged import Ragged, chunks_of, starts_of
from bertwright.data.rows import UnsettledTexts
from bertwright.data.table import BadRow, one_line, show
from bertwright.errors import DataError, UserError
from bertwright.model.tokenizer import Tokenizer, cut
from bertwright.progress import Reporter
from bertwright.runs import write_json

FORMAT = 1
MANIFEST = "manifest.json"
_KIND = "bertwright token ids"
_IDS, _LENGTHS, _ROWS, _LABELS, _TEXTS = (
    "token_ids.bin",
    "lengths.bin",
    "rows.bin",
    "label_codes.bin",
    "texts.arrow",
)
_TEXTS_SCHEMA = pa.schema([pa.field("text", pa.large_string(), nullable=False)])
# Looked at once, so that a folder larger than memory can be checked.
_CHECKED_TOKENS = 1 << 24


class Source(Settings):
    """A file that texts came from, and the columns that were taken."""

    name: str
    text_column: str
    label_column: str | None


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
    """manifest.json; ``key`` says what was asked for, of which content, by which tokenizer."""

    kind: Literal["bertwright token ids"]
    format: Literal[1]
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

    @property
    def truncated_share(self) -> float:
        return self.num_truncated / self.num_texts


@dataclass(frozen=True)
class CachedTokens:
    """The token ids that came with texts from a folder.

    Attributes:
        ids: (tokens,) uint16 or int32, text after text, mapped from the folder or taken from there.
        starts: (texts + 1,) int64.
        truncated: (texts,) bool, which texts lost their end.
        folder: where they are from, for messages.
        manifest: the folder's.
    """

    ids: np.ndarray
    starts: np.ndarray
    truncated: np.ndarray
    folder: str
    manifest: Manifest

    def take(self, rows: np.ndarray) -> CachedTokens:
        """Those of the texts at ``rows`` (any number of texts, in any order)."""
        taken = Ragged(self.ids, self.starts, 0).take(rows)
        return CachedTokens(taken.ids, taken.starts, self.truncated[rows], self.folder, self.manifest)

    def ragged(self, tokenizer: Tokenizer, max_length: int, model: str) -> Ragged:
        """The ids, cut to ``max_length`` where they are longer, for a model whose tokenizer is ``tokenizer``.

        ``model`` is its name, for messages.

        Raises:
            DataError: they are of another tokenizer, or texts are cut to less than ``max_length``.
        """
        made = self.manifest
        if made.tokenizer.sha256 != tokenizer.sha256:
            raise DataError(
                f"{self.folder}: found token ids by the tokenizer of {made.tokenizer.model}, expected those by the "
                f"tokenizer of {model}. Make others: {self._command(model, max_length)}"
            )
        num_truncated = int(np.count_nonzero(self.truncated))
        if max_length > made.max_length and num_truncated:
            cut_texts = f"{num_truncated:,} {'text' if num_truncated == 1 else 'texts'} cut to {made.max_length} tokens"
            raise DataError(
                f"{self.folder}: found {cut_texts}, expected up to {max_length}. Make others: "
                f"{self._command(model, max_length)} (or train with --max-length {made.max_length})"
            )
        if max_length >= made.max_length:
            return Ragged(self.ids, self.starts, num_truncated)
        return Ragged(*cut(self.ids, self.starts, max_length, tokenizer.sep_id))

    def _command(self, model: str, max_length: int) -> str:
        names = " ".join(shlex.quote(source.name) for source in self.manifest.sources[:3])
        more = " ..." if len(self.manifest.sources) > 3 else ""
        return (
            f"bertwright tokenize {names}{more} --model {shlex.quote(model)} --max-length {max_length} "
            f"--output {shlex.quote(self.folder + '-2')}"
        )


def joined_tokens(parts: Sequence[CachedTokens]) -> CachedTokens:
    """The ids of several folders, one after the other, in memory.

    Raises:
        DataError: they are of different tokenizers or cut to different lengths.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
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
    ids = np.concatenate([part.ids for part in parts])
    truncated = np.concatenate([part.truncated for part in parts])
    return CachedTokens(ids, starts_of(lengths), truncated, first.folder, first.manifest)


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
    all_lengths = []
    ids_file, texts_file = _HashedFile(folder / _IDS), _HashedFile(folder / _TEXTS)
    with (
        ids_file,
        texts_file,
        pa.ipc.new_file(texts_file, _TEXTS_SCHEMA) as table,
        reporter.progress("Tokenising", len(texts.texts)) as advance,
    ):
        parts = list(chunks_of(texts.texts))
        before = time.perf_counter()
        for part, (ids, starts) in zip(parts, tokenizer.encode_each(parts), strict=True):
            all_lengths.append(np.diff(starts))
            ids, _, _ = cut(ids, starts, max_length, tokenizer.sep_id)
            ids = ids.astype(tokenizer.id_dtype)
            tokenize_s += time.perf_counter() - before
            ids_file.write(ids.data)
            table.write_batch(pa.record_batch([part], schema=_TEXTS_SCHEMA))
            advance(len(part))
            before = time.perf_counter()
    lengths = np.concatenate(all_lengths)
    arrays = {_LENGTHS: lengths.astype("<i4"), _ROWS: texts.rows.astype("<i8")}
    if texts.label_codes is not None:
        arrays[_LABELS] = texts.label_codes.astype("<i4")
    files = {_IDS: ids_file.record(), _TEXTS: texts_file.record()}
    for name, array in arrays.items():
        with _HashedFile(folder / name) as file:
            file.write(array.data)
        files[name] = file.record()
    manifest = Manifest(
        kind=_KIND,
        format=FORMAT,
        bertwright=__version__,
        key=key,
        sources=tuple(Source(name=_storable(n), text_column=t, label_column=c) for n, t, c in texts.sources),
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
        label_names=texts.label_names,
        skipped_rows=tuple(
            SkippedRow(path=_storable(bad.path), line=bad.line, reason=bad.reason, unit=bad.unit)
            for bad in texts.bad_rows
        ),
        files=files,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return Written(manifest, tokenize_s, time.perf_counter() - started - tokenize_s)


def _storable(path: str) -> str:
    """A file's name as JSON can hold it: bytes that are not UTF-8 are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _HashedFile(io.RawIOBase):
    """A new file whose bytes are hashed on their way."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        self._hash = hashlib.sha256()
        self._num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        rest = view
        while len(rest):
            rest = rest[self._file.write(rest) :]
        self._num_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self._num_bytes

    def close(self) -> None:
        self._file.close()
        super().close()

    def record(self) -> StoredFile:
        return StoredFile(bytes=self._num_bytes, sha256=self._hash.hexdigest())


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
        return _read_values(folder / MANIFEST).get("kind") == _KIND and found <= {
            MANIFEST,
            _IDS,
            _LENGTHS,
            _ROWS,
            _LABELS,
            _TEXTS,
        }
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
    truncated = lengths > manifest.max_length
    ids = np.asarray(np.memmap(folder / _IDS, dtype=np.dtype(manifest.id_dtype), mode="r"))
    codes = None
    if manifest.label_names is not None:
        codes = _numbers(folder, _LABELS, "<i4").astype(np.int64)
        _check(folder / _LABELS, _within(codes, 0, len(manifest.label_names)), "a label that has no name")
    _check(folder / _LENGTHS, lengths.min() >= 2, "a text of less than two tokens")
    _check(folder / _LENGTHS, starts[-1] == len(ids), f"{starts[-1]:,} tokens, expected {len(ids):,}")
    found = int(np.count_nonzero(truncated))
    _check(folder / _LENGTHS, found == manifest.num_truncated, f"{found:,} cut texts")
    _check(folder / _ROWS, _within(rows, 0, manifest.num_source_rows), "a row that the source does not have")
    for first in range(0, len(ids), _CHECKED_TOKENS):
        some = ids[first : first + _CHECKED_TOKENS]
        _check(folder / _IDS, _within(some, 0, manifest.tokenizer.vocab_size), "an id that is not in the vocabulary")
    texts = _mapped_texts(folder / _TEXTS, num_texts)
    unsettled = UnsettledTexts(
        texts,
        rows,
        manifest.num_source_rows,
        codes,
        manifest.label_names,
        [(source.name, source.text_column, source.label_column) for source in manifest.sources],
        [BadRow(row.path, row.line, row.reason, row.unit) for row in manifest.skipped_rows],
        [],
        manifest.source_sha256,
    )
    return unsettled, CachedTokens(ids, starts, truncated, os.fspath(path), manifest)


def read_manifest(folder: Path) -> Manifest:
    """What a folder says of itself; its other files are not looked at.

    Raises:
        DataError: there is no manifest, it is damaged, or of something else or another format.
    """
    path = folder / MANIFEST
    values = _read_values(path)
    if values.get("kind") != _KIND:
        raise DataError(f"{path}: not the manifest of a folder that bertwright tokenize made. {_AGAIN}")
    if values.get("format") != FORMAT:
        raise DataError(
            f"{path}: found format {show(values.get('format'))} of bertwright {show(values.get('bertwright'))}, "
            f"expected format {FORMAT} of bertwright {__version__}. {_AGAIN}"
        )
    try:
        manifest = build(Manifest, values, str(path))
    except UserError as error:
        raise DataError(f"{one_line(error)}. It is damaged. {_AGAIN}") from None
    expected = {_IDS, _LENGTHS, _ROWS, _TEXTS} | (set() if manifest.label_names is None else {_LABELS})
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
    item_bytes = {_IDS: np.dtype(manifest.id_dtype).itemsize, _LENGTHS: 4, _ROWS: 8, _LABELS: 4}
    for name, stored in manifest.files.items():
        path = folder / name
        count = manifest.num_tokens if name == _IDS else manifest.num_texts
        expected = stored.bytes if name == _TEXTS else item_bytes[name] * count
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


def _mapped_texts(path: Path, num_texts: int) -> pa.ChunkedArray:
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            if reader.schema.equals(_TEXTS_SCHEMA):
                texts = reader.read_all().column("text")
                texts.validate(full=True)
            else:
                texts = None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged or changed: {one_line(error)}. {_AGAIN}") from None
    _check(path, texts is not None, "other columns than text")
    assert texts is not None
    _check(path, len(texts) == num_texts and not texts.null_count, f"{len(texts):,} texts, expected {num_texts:,}")
    return texts
