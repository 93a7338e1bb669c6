"""What a folder of token ids says of itself: manifest.json, and the names of its other files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bertwright import __version__
from bertwright.config.base import Settings, build
from bertwright.data.table import one_line, show
from bertwright.errors import DataError, UserError

FORMAT = 4
"""The highest format that is read; see ``Manifest``."""

MANIFEST = "manifest.json"
KIND = "bertwright token ids"
IDS, LENGTHS, SECOND_LENGTHS, ROWS, LABELS, NUMBERS, TEXTS, PAIRS, GROUPS = ALL_FILES = (
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
AGAIN = "Make it again with bertwright tokenize, or copy it again"
"""What to do about a folder that is not as it was written."""


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


def is_token_cache(path: Any) -> bool:
    """Whether ``path`` is a folder that says of itself that it holds token ids, whole or not."""
    return isinstance(path, str | os.PathLike) and os.path.isfile(os.path.join(path, MANIFEST))


def may_be_replaced(folder: Path) -> bool:
    """Whether all that is in ``folder`` was written by ``write_token_cache``, or nothing is in it."""
    found = set(os.listdir(folder))
    if not found:
        return True
    try:
        return _read_values(folder / MANIFEST).get("kind") == KIND and found <= {MANIFEST, *ALL_FILES}
    except DataError:
        return False


def read_manifest(folder: Path) -> Manifest:
    """What a folder says of itself; its other files are not looked at.

    Raises:
        DataError: there is no manifest, it is damaged, or of something else or another format.
    """
    path = folder / MANIFEST
    values = _read_values(path)
    if values.get("kind") != KIND:
        raise DataError(f"{path}: not the manifest of a folder that bertwright tokenize made. {AGAIN}")
    if values.get("format") not in range(1, FORMAT + 1):
        raise DataError(
            f"{path}: found format {show(values.get('format'))} of bertwright {show(values.get('bertwright'))}, "
            f"expected format 1 to {FORMAT} of bertwright {__version__}. {AGAIN}"
        )
    try:
        manifest = build(Manifest, values, str(path))
    except UserError as error:
        raise DataError(f"{one_line(error)}. It is damaged. {AGAIN}") from None
    kinds = {LABELS if column.names is not None else NUMBERS for column in manifest.labels}
    expected = {IDS, LENGTHS, ROWS, TEXTS} | kinds | ({GROUPS} if manifest.group_columns else set())
    expected |= {SECOND_LENGTHS, PAIRS} if manifest.pairs else set()
    check(path, set(manifest.files) == expected, f"the files {', '.join(sorted(manifest.files))[:100]}")
    return manifest


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(values, ensure_ascii=False).encode("utf-8")  # escaped lone surrogates are no text
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({one_line(error)}). {AGAIN}") from None
    return values if isinstance(values, dict) else {}


AGAIN = "Make it again with bertwright tokenize, or copy it again"


def check(path: Path, good: Any, found: str) -> None:
    if not good:
        raise DataError(f"{path}: damaged or changed: found {found}. {AGAIN}")
