"""From files to texts and labels: LabelledTexts, read part by part (:mod:`bertwright.data.reading`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import IO, Any, Literal

import numpy as np

from bertwright.config.parts import DataSettings, LabelKind
from bertwright.data.choose import Asked, choose, choose_any_labels, choose_texts, named_columns
from bertwright.data.label_map import MappedLabels, label_map
from bertwright.data.label_rules import LabelReader, LabelRules
from bertwright.data.labels import label_reader
from bertwright.data.read import read_line_parts, read_parts
from bertwright.data.reading import FilePath, LabelledTexts, Reading
from bertwright.data.rows import SourceColumns, UnsettledTexts
from bertwright.data.stored_labels import StoredLabels
from bertwright.data.table import Table, show
from bertwright.data.token_manifest import is_token_cache
from bertwright.errors import DataError

_HUB = "hub:"


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

    reading = Reading(lambda table: choose(table, asked, preferred, must), reader_of)
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
    reading = Reading(lambda table: choose_texts(table, asked))
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

    reading = Reading(lambda table: (choose_any_labels if with_labels else choose_texts)(table, asked), labels_of)
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
