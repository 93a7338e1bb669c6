"""The documents of a corpus as token ids: read once, part by part, and kept on disk for the next time.

A document is a row of a file with columns. In a .txt file it is a line or, where blank lines stand between blocks of
lines, a block. The token ids lie in a folder as ``bertwright tokenize`` makes it, whole, so that sequences of any
length can be cut from them; such a folder may also be given in place of files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from bertwright.data.columns import read_unsettled, source_files
from bertwright.data.compression import decompressed_pieces
from bertwright.data.ragged import Ragged
from bertwright.data.read import is_text_file
from bertwright.data.rows import UnsettledTexts
from bertwright.data.table import BadRow, Table
from bertwright.data.text_stream import TextStream
from bertwright.data.token_cache import (
    CachedTokens,
    joined_tokens,
    open_token_cache,
)
from bertwright.data.token_cache_writer import write_token_cache
from bertwright.data.token_manifest import is_token_cache
from bertwright.data.tokenize import files_sha256
from bertwright.errors import DataError
from bertwright.model.tokenizer import Tokenizer
from bertwright.progress import Reporter
from bertwright.randomness import purpose_seed

Documents = Literal["auto", "lines", "blocks"]

# No document is cut: a length that none has.
_WHOLE = 1_000_000
_BLANK = re.compile(rb"\n[ \t\r]*\n")
# From this share of a .txt file's lines on, blank ones separate documents; fewer are strays.
_LEAST_BLANK_SHARE = 0.005
# Two marks and one token: nothing shorter can be learnt from.
_LEAST_TOKENS = 3


@dataclass(frozen=True)
class Corpus:
    """Token ids of a corpus.

    Attributes:
        tokens: of whole documents, [CLS] ... [SEP] each, mapped from the folder where they lie.
        sha256: of the files' bytes, or what a folder says of it.
        notes: what a user should know of how it was read.
        read_s, tokenize_s: seconds that was spent now; 0 where it was on disk.
    """

    tokens: CachedTokens
    sha256: str
    notes: tuple[str, ...]
    read_s: float = 0.0
    tokenize_s: float = 0.0

    @property
    def num_documents(self) -> int:
        return len(self.tokens.starts) - 1

    @property
    def num_tokens(self) -> int:
        return int(self.tokens.starts[-1])

    def sequences(self, rows: np.ndarray, tokenizer: Tokenizer, max_length: int, model: str) -> Ragged:
        """The documents ``rows`` as sequences of up to ``max_length`` tokens, each of one document.

        Long documents become several sequences, marks included; documents of no tokens are left out.

        Raises:
            DataError: the ids are of another tokenizer, or documents were cut when they were made.
        """
        cut = self.tokens.take(rows).ragged(tokenizer, max_length, model, "windows", 0).as_sequences()
        lengths = np.diff(cut.starts)
        return cut if lengths.min(initial=_LEAST_TOKENS) >= _LEAST_TOKENS else cut.take(lengths >= _LEAST_TOKENS)

    def split(self, share: float, most_tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents to learn from, and those held out: ``share`` of them, at random, of up to ``most_tokens`` tokens.

        Raises:
            DataError: nothing is left to learn from, or nothing is held out.
        """
        count = self.num_documents
        if not share:
            return np.arange(count), np.empty(0, np.int64)
        order = np.random.default_rng(purpose_seed(seed, "held-out documents")).permutation(count)
        lengths = np.diff(self.tokens.starts)[order]
        within = int(np.searchsorted(np.cumsum(lengths), most_tokens, side="right"))
        held = min(max(1, round(share * count)), max(1, within))
        if held >= count:
            raise DataError(
                f"found {count:,} documents, expected at least 2: one to learn from and one held out. Give more, or "
                "pass --validation-share 0"
            )
        return np.sort(order[held:]), np.sort(order[:held])


def corpus_of(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    model: str,
    cache: Path,
    reporter: Reporter,
    text_column: str | None = None,
    documents: Documents = "auto",
    on_bad_row: Literal["error", "skip"] = "skip",
) -> Corpus:
    """The documents in files, or in folders of token ids, by ``tokenizer``, which ``model`` names.

    Those of files are kept in a folder of ``cache``, and taken from there the next time.

    Raises:
        DataError: files that cannot be read, or folders of another tokenizer or of pairs.
        OSError: the cache cannot be written.
    """
    sources = source_files(paths)
    folders = [path for path in sources if is_token_cache(path)]
    if folders:
        return _given_folders(sources, folders)
    if "-" in sources:
        raise DataError("standard input: found a stream, expected files, which are read again when a run goes on")
    started = time.perf_counter()
    sha256 = files_sha256(sources)
    folder = cache / _key(sources, sha256, tokenizer, text_column, documents, on_bad_row)
    read_s = tokenize_s = 0.0
    notes: list[str] = []
    if not is_token_cache(folder):
        texts = read_documents(sources, text_column, documents, on_bad_row)
        read_s = time.perf_counter() - started
        notes += texts.notes
        folder.parent.mkdir(parents=True, exist_ok=True)
        tokenize_s = write_token_cache(folder, texts, tokenizer, model, _WHOLE, folder.name, reporter).tokenize_s
    else:
        notes.append(f"token ids from an earlier run: {folder}")
    read, tokens = open_token_cache(folder)
    if len(read.bad_rows):
        notes.append(f"{len(read.bad_rows):,} rows hold no document and are left out, the first: {read.bad_rows[0]}")
    return Corpus(tokens, read.sha256, tuple(notes), read_s, tokenize_s)


def read_documents(
    paths: Sequence[str], text_column: str | None, documents: Documents, on_bad_row: Literal["error", "skip"]
) -> UnsettledTexts:
    """The documents in files; as :func:`bertwright.data.columns.read_unsettled`, but for .txt files."""

    def parts_of(path: Any, on_bytes: Any) -> Iterator[Table] | None:
        return text_parts(os.fspath(path), documents, on_bytes) if is_text_file(path) else None

    return read_unsettled(paths, text_column, with_labels=False, on_bad_row=on_bad_row, parts_of=parts_of)


def text_parts(path: str, documents: Documents, on_bytes: Any) -> Iterator[Table]:
    """The documents of a .txt file, in column "text", in parts.

    Raises:
        DataError: as :func:`bertwright.data.read.read_parts`.
    """
    compression = "" if path.lower().endswith(".txt") else Path(path.lower()).suffix
    stream = TextStream(path, decompressed_pieces(path, compression, on_bytes))
    blocks, rows = documents == "blocks", 0
    if documents == "auto":
        head = stream.peek() or b""
        blocks = len(_BLANK.findall(head.strip())) >= max(1.0, _LEAST_BLANK_SHARE * head.count(b"\n"))
    notes = ["a document is " + ("a block of lines between blank ones" if blocks else "a line")]
    while not stream.done:
        data = stream.peek(_after_last_blank) if blocks else stream.peek()
        assert data is not None
        lines = data.replace(b"\r\n", b"\n") if stream.line_end == b"\n" else data.replace(b"\r", b"\n")
        pieces = (_BLANK.split(lines)) if blocks else lines.split(b"\n")
        kept, numbers, bad = [], [], []
        line = stream.lines + 1
        for piece in pieces:
            if piece.strip():
                try:
                    kept.append(piece.decode("utf-8").strip())
                    numbers.append(line)
                except UnicodeDecodeError as error:
                    bad.append(BadRow(path, line, f"not UTF-8 (byte 0x{piece[error.start]:02x})"))
            line += piece.count(b"\n") + (2 if blocks else 1)
        count, first_lines = len(kept) + len(bad), np.asarray(numbers, np.int64)
        if count:
            column = pa.chunked_array([pa.array(kept, pa.large_string())])
            places = np.arange(rows, rows + len(kept))
            lines_of = first_lines.copy
            yield Table(path, "txt", {"text": column}, False, places, count, lines_of, bad, notes)
        rows, notes = rows + count, []
        stream.take(data)


def _after_last_blank(data: bytes, start: int, stop: int, line_end: bytes) -> int:
    """After the last blank line; 0 if there is none."""
    at = data.rfind(line_end * 2, start, stop)
    windows = data.rfind(b"\n\r\n", start, stop)
    return max(at + 2 if at >= 0 else 0, windows + 3 if windows >= 0 else 0)


def _given_folders(sources: Sequence[str], folders: Sequence[str]) -> Corpus:
    if len(folders) < len(sources):
        other = next(path for path in sources if path not in folders)
        raise DataError(
            f"{folders[0]}: a folder of token ids, found beside the file {other}; expected one or the other"
        )
    opened = [open_token_cache(folder) for folder in folders]
    for folder, (texts, _) in zip(folders, opened, strict=True):
        if texts.pairs is not None:
            raise DataError(f"{folder}: found pairs of texts, expected single ones")
    digest = hashlib.sha256("".join(texts.sha256 for texts, _ in opened).encode()).hexdigest()
    return Corpus(joined_tokens([tokens for _, tokens in opened]), digest, ())


def _key(
    sources: Sequence[str],
    sha256: str,
    tokenizer: Tokenizer,
    text_column: str | None,
    documents: Documents,
    on_bad_row: str,
) -> str:
    """The name of the folder in the cache: what the ids depend on, as a hash."""
    formats = ["".join(Path(name.lower()).suffixes[-2:]) for name in sources]
    parts = [1, sha256, formats, tokenizer.sha256, text_column, documents, on_bad_row]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
