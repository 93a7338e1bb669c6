"""Writes token ids into a folder, in the layout that token_cache.py tells of."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bertwright import __version__
from bertwright.data.ragged import (
    chunks_of,
    pairs_of_chunks,
)
from bertwright.data.rows import SourceColumns, UnsettledTexts
from bertwright.data.spool import Appended
from bertwright.data.texts import TEXTS_SCHEMA
from bertwright.data.token_manifest import (
    GROUPS,
    IDS,
    KIND,
    LABELS,
    LENGTHS,
    MANIFEST,
    NUMBERS,
    PAIRS,
    ROWS,
    SECOND_LENGTHS,
    TEXTS,
    Manifest,
    SkippedRow,
    Source,
    StoredFile,
    StoredLabels,
    TokenizerRecord,
)
from bertwright.model.tokenizer import Tokenizer, cut, pair_up
from bertwright.progress import Reporter
from bertwright.runs import write_json

_GROUPS_AT_ONCE = 1 << 18


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
    written = {name: _HashedFile(folder / name) for name in (IDS, TEXTS, *([] if pairs is None else [PAIRS]))}
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
            stack.enter_context(pa.ipc.new_file(file, TEXTS_SCHEMA)) for name, file in written.items() if name != IDS
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
            written[IDS].write(ids.data)
            for table in tables:
                table.write_batch(pa.record_batch([waiting.popleft()], schema=TEXTS_SCHEMA))
            advance(len(all_lengths[-1]))
            before = time.perf_counter()
    lengths = np.concatenate(all_lengths)
    arrays = {LENGTHS: lengths.astype("<i4"), ROWS: texts.rows.astype("<i8")}
    if pairs is not None:
        arrays[SECOND_LENGTHS] = np.concatenate(all_second_lengths).astype("<i4")
    codes = [column.codes.astype("<i4") for column in texts.labels if column.codes is not None]
    if codes:
        arrays[LABELS] = np.concatenate(codes)
    numbers = [column.numbers.astype("<f8") for column in texts.labels if column.numbers is not None]
    if numbers:
        arrays[NUMBERS] = np.concatenate(numbers)
    files = {name: file.record() for name, file in written.items()}
    for name, array in arrays.items():
        with _HashedFile(folder / name) as file:
            file.write(array.data)
        files[name] = file.record()
    if texts.groups:
        files[GROUPS] = _write_groups(folder / GROUPS, texts.groups)
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
        kind=KIND,
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
