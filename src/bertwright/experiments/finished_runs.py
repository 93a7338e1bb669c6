"""Finished runs, opened and checked: are they judged on the same texts, and in which order? No torch here."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bertwright.config.base import expand_home
from bertwright.errors import RunError, UserError
from bertwright.evaluation.show import held_out_split
from bertwright.evaluation.stored import read_columns
from bertwright.runs import PREDICTIONS, Run, open_run


def open_finished(paths: Sequence[str | Path]) -> list[Run]:
    """The runs in the folders ``paths``.

    Raises:
        UserError: fewer than two, or one twice.
        RunError: one is missing, damaged or not finished.
    """
    if len(paths) < 2:
        raise UserError(f"found {len(paths)} runs, expected at least two to compare: name their folders")
    paths = [expand_home(os.fspath(path)) for path in paths]
    seen: dict[Path, str | Path] = {}
    for path in paths:
        if Path(path).resolve() in seen:
            raise UserError(f"{path} is named twice: name different runs")
        seen[Path(path).resolve()] = path
    found = [open_run(path) for path in paths]
    for run in found:
        if not run.finished:
            raise RunError(f"{run.path} has no result.json: it is still going, was stopped or failed; finish it first")
    return found


def refuse_other_texts(runs: Sequence[Run]) -> list[JudgedTexts]:
    """What ``runs`` were judged on, which is the same texts with the same labels.

    Raises:
        UserError: it is not. A run without predictions is held against those that have some by its files alone.
    """
    judged = [judged_texts(run) for run in runs]
    for run, texts in zip(runs[1:], judged[1:], strict=True):
        if not texts.same(judged[0]):
            one, other = (_judged_words(which) for which in (runs[0], run))
            raise UserError(
                f"{run.path} was judged on other texts or labels ({other}) than {runs[0].path} ({one}): their figures "
                "cannot stand side by side. Judge each on one file by bertwright evaluate RUN FILE --output FOLDER, "
                "and compare those"
            )
    return judged


@dataclass(frozen=True, eq=False)
class JudgedTexts:
    """What a run was judged on.

    Attributes:
        files: names the files, and how many texts.
        digest: names the texts and their labels, in whatever order; None without predictions.
        keys: a number for each text and its labels, (texts,) uint64, in the run's order; None without predictions.
    """

    files: str
    digest: str | None = None
    keys: np.ndarray | None = None

    def same(self, other: JudgedTexts) -> bool:
        """Whether they are the same, by what texts and labels say or, where a run has no predictions, by the files."""
        if self.digest is None or other.digest is None:
            return self.files == other.files
        return self.digest == other.digest


def judged_texts(run: Run) -> JudgedTexts:
    """The texts that ``run`` was judged on, by its predictions or else by its files.

    Raises:
        RunError: the predictions are damaged.
    """
    table = read_columns(run, lambda name: name in ("text_sha256", "label") or name.startswith("label_"))
    split = held_out_split(run.metrics)
    data = (run.result or {})["data"]
    files = repr((split, data.get("test_sha256") or data.get("train_sha256"), data.get(f"{split}_texts")))
    if table is None:
        return JudgedTexts(files)
    names = sorted(table.column_names)
    rows = np.column_stack([_words_of(run, name, table.column(name)) for name in names])
    key = np.zeros(len(rows), np.uint64)
    for words in rows.T:
        key = _mixed(key ^ words)
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass"))
    digest.update(rows[np.argsort(key)].data)
    return JudgedTexts(files, digest.hexdigest(), key)


def _words_of(run: Run, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(rows, 1 or 8) uint64 that stand for the values of ``column``, the same in every run."""
    if name == "text_sha256":
        try:
            hashes = column.cast(pa.binary()).cast(pa.binary(64)).combine_chunks()
        except pa.ArrowException:
            hashes = None
        if hashes is None or hashes.null_count:
            raise RunError(f"{run.path / PREDICTIONS}: its text_sha256 are no SHA-256; the file is damaged")
        if not len(hashes):
            return np.empty((0, 8), np.uint64)
        return np.frombuffer(hashes.buffers()[1], np.uint64, 8 * len(hashes), 64 * hashes.offset).reshape(-1, 8)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        numbers = column.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy()
        numbers = numbers + 0.0  # -0.0 and 0.0 are the same label
        return np.where(np.isnan(numbers), np.uint64(1), numbers.view(np.uint64))[:, None]
    try:
        encoded = column.combine_chunks().dictionary_encode()
    except pa.ArrowException:
        raise RunError(f"{run.path / PREDICTIONS}: {name} holds {column.type}; the file is damaged") from None
    words = [_word_of(value) for value in (*encoded.dictionary.to_pylist(), None)]
    places = encoded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
    return np.array(words, np.uint64)[places][:, None]


def _word_of(value: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).digest()[:8], "little")


def _mixed(words: np.ndarray) -> np.ndarray:
    """Each of ``words`` with its bits well mixed, as the last steps of SplitMix64 do it."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _judged_words(run: Run) -> str:
    split = held_out_split(run.metrics)
    return "none" if split is None else f"{run.metrics[split].get('num_texts', 0):,} {split} texts"


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number, and finite: a damaged record may hold anything."""
    return isinstance(value, int | float) and math.isfinite(value)
