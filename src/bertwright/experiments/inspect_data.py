"""The act of looking for what is wrong with texts and labels: bertwright inspect."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertwright.config.base import build
from bertwright.config.inspect import InspectConfig
from bertwright.config.parts import DataSettings
from bertwright.data.columns import read_unlabelled, read_unsettled
from bertwright.data.rows import LabelColumn
from bertwright.data.token_manifest import is_token_cache
from bertwright.errors import RunError, UserError
from bertwright.evaluation.label_errors import find_label_errors
from bertwright.evaluation.near_duplicates import NearDuplicates, cleaned_text, find_near_duplicates
from bertwright.evaluation.scores import has_labels
from bertwright.evaluation.stored import stored_scores
from bertwright.experiments.show_findings import show_findings
from bertwright.progress import Reporter
from bertwright.runs import PREDICTIONS, VALIDATION_PREDICTIONS, open_run, written_beside

_RECORDED_MEMBERS = 20
_FORMATS = (".jsonl", ".json")


@dataclass(frozen=True)
class Source:
    """Texts of one purpose, and what is known of their labels.

    Attributes:
        name: "data", "test" or "validation".
        rows: where each text stands in its file (texts,).
        labels: the label of each text in words; None without labels.
        label_names: the labels that can be, where there are scores.
        has_labels, scores: (texts, labels), where there are scores.
        several: whether a text may have any number of labels.
    """

    name: str
    texts: Sequence[str]
    rows: np.ndarray
    labels: Sequence[str] | None = None
    label_names: tuple[str, ...] = ()
    has_labels: np.ndarray | None = None
    scores: np.ndarray | None = None
    several: bool = False

    def entry(self, index: int) -> dict[str, Any]:
        label = None if self.labels is None else self.labels[index]
        return {"source": self.name, "row": int(self.rows[index]), "label": label, "text": self.texts[index]}


def inspect(data: str | Path | Sequence[str | Path] = (), *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Near-duplicates among the texts in ``data`` and, with ``run``, labels that are probably wrong.

    ``settings`` are those of ``bertwright inspect``. The record has ``texts``, how many of each source; ``duplicates``;
    and ``label_errors``, None without scores.

    Raises:
        UserError: bad settings, data that cannot be read, a run without scores, or datasketch is not installed.
    """
    config = build(InspectConfig, {**settings, "data": data})
    return run_inspection(config, Reporter(quiet=quiet, results=not quiet))


def run_inspection(config: InspectConfig, reporter: Reporter) -> dict[str, Any]:
    """Read, look, show, and write what is found; returns the record, with examples only."""
    output = None if config.output is None else Path(config.output)
    if output is not None:
        _check_output(output, config.overwrite)
    sources = _sources(config, reporter)
    found = _Duplicates.among(sources, config.similarity, reporter)
    errors = list(_label_errors(sources))
    record = {
        "texts": {source.name: len(source.texts) for source in sources},
        "duplicates": {**found.record(), "groups": found.groups(config.num_shown)},
        "label_errors": _errors_record(sources, errors, config.num_shown) if _have_scores(sources) else None,
    }
    show_findings(record, reporter)
    if output is not None:
        everything = [{"kind": "near-duplicates", **group} for group in found.groups(None)]
        everything += [{"kind": "label error", **error} for error in errors]
        _write(output, record, everything)
        reporter.say(f"findings: {output} ({len(everything):,})")
    return record


# --- what is inspected ------------------------------------------------------------------------------------------------


def _sources(config: InspectConfig, reporter: Reporter) -> list[Source]:
    if not config.data:
        return _of_run(str(config.run), reporter)
    if config.folds is not None:
        from bertwright.experiments.cross_validate import cross_validated  # which needs torch

        scored = cross_validated(config, reporter)
        names = scored.labels
        words, several = _words(scored.has_labels, names), scored.kind == "multi-label"
        source = Source(
            "data", scored.texts or [], scored.rows, words, names, scored.has_labels, scored.scores, several
        )
        return [source, *([_of_files("test", config.test, config, reporter)] if config.test else [])]
    named = [("data", config.data)] + ([("test", config.test)] if config.test else [])
    return [_of_files(name, files, config, reporter) for name, files in named]


def _of_run(path: str, reporter: Reporter) -> list[Source]:
    """The held-out texts of a run, with the scores that it keeps."""
    run = open_run(path)
    has_validation = (run.path / VALIDATION_PREDICTIONS).is_file()
    first = "test" if has_validation or run.metrics.get("test") else "validation"
    names = {first: PREDICTIONS} | ({"validation": VALIDATION_PREDICTIONS} if has_validation else {})
    sources = []
    for name, file in names.items():
        stored = stored_scores(run, file)
        several = stored.kind == "multi-label"
        if stored.texts is None:
            reporter.say(f"{run.path / file}: the run kept no texts (--no-texts): near-duplicates are not looked for")
        texts = stored.texts or [""] * len(stored.rows)
        words = _words(stored.has_labels, stored.labels)
        sources.append(
            Source(name, texts, stored.rows, words, stored.labels, stored.has_labels, stored.scores, several)
        )
    return sources


def _of_files(name: str, files: Sequence[str], config: InspectConfig, reporter: Reporter) -> Source:
    if config.run is not None:
        return _scored(name, files, config, config.run, reporter)
    if any(is_token_cache(file) for file in files):
        texts = read_unlabelled(files, config.text_column, config.on_bad_row, config.pair_column)
        return Source(name, _strings(texts), texts.rows)
    found = read_unsettled(
        files,
        config.text_column,
        config.label_column,
        on_bad_row=config.on_bad_row,
        pair_column=config.pair_column,
    )
    for note in found.notes:
        reporter.say(note)
    labels = _stored_words(found.labels) if found.labels else None
    return Source(name, _strings(found), found.rows, labels)


def _scored(name: str, files: Sequence[str], config: InspectConfig, run: str, reporter: Reporter) -> Source:
    from bertwright.evaluation.evaluate import score_labelled  # which needs torch

    how = DataSettings(**{field: getattr(config, field) for field in DataSettings.model_fields})
    scored = score_labelled(run, files, how, config, reporter)
    texts, labels = scored.texts, scored.predictor.labels
    if texts.kind == "regression":
        raise UserError(f"{run}: found a regression, expected a classifier: labels have no classes to be wrong in")
    if texts.sha256 == _learnt_from(run):
        reporter.warn(
            f"{run} learnt from these {name} texts: its scores agree with wrong labels too, and few are found. Give a "
            "run that learnt from others"
        )
    scores, truth = scored.scores, has_labels(texts)
    several = texts.kind == "multi-label"
    return Source(name, _strings(texts), texts.rows, _words(truth, labels), labels, truth, scores, several)


def _learnt_from(run: str) -> str | None:
    """The hash of the files that a run learnt from, where that is known."""
    try:
        result = open_run(run).result
    except RunError:
        return None
    return None if result is None else result["data"].get("train_sha256")


def _strings(texts: Any) -> list[str]:
    """The texts; of pairs both, with a line between."""
    strings = texts.texts[:].to_pylist()
    if texts.pairs is None:
        return strings
    return [f"{text}\n{pair}" for text, pair in zip(strings, texts.pairs[:].to_pylist(), strict=True)]


def _words(has: np.ndarray, labels: Sequence[str]) -> list[str]:
    """The labels of each text, with "|" between."""
    return ["|".join(label for label, one in zip(labels, row, strict=True) if one) for row in has.tolist()]


def _stored_words(columns: Sequence[LabelColumn]) -> list[str]:
    """The labels of each text as they stand in the columns, with "|" between."""
    together = []
    for column in columns:
        if column.names is not None and column.codes is not None:
            together.append([column.names[code] for code in column.codes.tolist()])
        else:
            assert column.numbers is not None
            together.append([f"{number:g}" for number in column.numbers.tolist()])
    return ["|".join(words) for words in zip(*together, strict=True)]


# --- near-duplicates --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Duplicates:
    """Near-duplicates among the texts of all sources, which are counted through."""

    sources: Sequence[Source]
    similarity: float
    found: NearDuplicates
    members: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def among(cls, sources: Sequence[Source], similarity: float, reporter: Reporter) -> _Duplicates:
        texts = [text for source in sources for text in source.texts]
        if not any(texts):
            nothing = NearDuplicates(np.full(len(texts), -1), np.full(len(texts), np.nan))
            return cls(sources, similarity, nothing)
        found = find_near_duplicates(texts, similarity, reporter)
        return cls(sources, similarity, found, found.members())

    @property
    def _owners(self) -> np.ndarray:
        """Of each text the number of its source."""
        return np.repeat(np.arange(len(self.sources)), [len(source.texts) for source in self.sources])

    def record(self) -> dict[str, Any]:
        """How many texts there are in groups: within each source, and shared with another."""
        owners = self._owners
        within = dict.fromkeys((source.name for source in self.sources), 0)
        shared = dict(within)
        same = conflicts = 0
        for rows in self.members:
            counts = np.bincount(owners[rows], minlength=len(self.sources))
            for source, count in zip(self.sources, counts.tolist(), strict=True):
                within[source.name] += count if count > 1 else 0
                shared[source.name] += count if count < len(rows) else 0
            entries = [self._entry(row) for row in rows.tolist()]
            conflicts += len({entry["label"] for entry in entries} - {None}) > 1
            times = Counter(cleaned_text(entry["text"]) for entry in entries)
            same += sum(count for count in times.values() if count > 1)
        return {
            "similarity": self.similarity,
            "num_groups": len(self.members),
            "texts_in_groups": sum(map(len, self.members)),
            "same_texts": same,
            "within": within,
            "shared": shared if len(self.sources) > 1 else None,
            "groups_with_different_labels": conflicts,
        }

    def groups(self, most: int | None) -> list[dict[str, Any]]:
        """The largest groups, those with different labels first; of each the first 20 texts, or with None all."""
        described: list[dict[str, Any]] = []
        for rows in self.members:
            entries = [self._entry(row) for row in rows.tolist()]
            labels = sorted({entry["label"] for entry in entries if entry["label"] is not None})
            if most is not None:
                entries = entries[:_RECORDED_MEMBERS]
            lowest = float(self.found.similarities[rows].min())
            described.append({"num_texts": len(rows), "least_similarity": lowest, "labels": labels, "texts": entries})
        described.sort(key=lambda group: (len(group["labels"]) < 2, -group["num_texts"]))
        return described if most is None else described[:most]

    def _entry(self, row: int) -> dict[str, Any]:
        for source in self.sources:
            if row < len(source.texts):
                return source.entry(row)
            row -= len(source.texts)
        raise IndexError(row)


# --- labels -----------------------------------------------------------------------------------------------------------


def _have_scores(sources: Iterable[Source]) -> bool:
    return any(source.scores is not None for source in sources)


def _label_errors(sources: Iterable[Source]) -> Iterator[dict[str, Any]]:
    """The labels that are probably wrong, source by source, the least doubtful first."""
    for source in sources:
        if source.scores is None or source.has_labels is None:
            continue
        if not source.several:
            yield from _errors_of(source, source.has_labels.argmax(axis=1), source.scores, source.label_names)
            continue
        for place, label in enumerate(source.label_names):
            of_label = source.scores[:, place]
            names = (f"not {label}", label)
            both = np.stack([1 - of_label, of_label], axis=1)
            yield from _errors_of(source, source.has_labels[:, place].astype(np.int64), both, names)


def _errors_of(
    source: Source, label_ids: np.ndarray, scores: np.ndarray, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    found = find_label_errors(label_ids, scores)
    for row, suggested in zip(found.rows.tolist(), found.suggested.tolist(), strict=True):
        given = int(label_ids[row])
        yield {
            **source.entry(row),
            "label": names[given],
            "suggested": names[suggested],
            "score_of_label": float(scores[row, given]),
            "score_of_suggested": float(scores[row, suggested]),
        }


def _errors_record(sources: Sequence[Source], errors: Sequence[dict[str, Any]], most: int) -> dict[str, Any]:
    """How many labels are probably wrong, as what they are labelled and should be, and the least doubtful."""
    pairs: dict[str, int] = {}
    for error in errors:
        pair = f"{error['label']} → {error['suggested']}"
        pairs[pair] = pairs.get(pair, 0) + 1
    margins = sorted(errors, key=lambda error: error["score_of_label"] - error["score_of_suggested"])
    return {
        "texts": sum(len(source.texts) for source in sources if source.scores is not None),
        "found": len(errors),
        "pairs": dict(sorted(pairs.items(), key=lambda pair: -pair[1])),
        "examples": margins[:most],
    }


# --- what is written ----------------------------------------------------------------------------------------


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix not in _FORMATS:
        raise UserError(f"--output: found {output.name!r}, expected a name that ends in {' or '.join(_FORMATS)}")
    if output.is_dir() or (output.exists() and not overwrite):
        raise RunError(f"{output} exists; pass another --output, or --overwrite to replace it")
    if not output.absolute().parent.is_dir():
        raise RunError(f"{output}: there is no folder {output.absolute().parent}")


def _write(output: Path, record: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> None:
    """All findings, one a line, or the record with them."""
    with written_beside(output) as partial, open(partial, "w", encoding="utf-8") as file:
        if output.suffix == ".json":
            json.dump({**record, "findings": list(findings)}, file, ensure_ascii=False, allow_nan=False)
            return
        file.writelines(json.dumps(finding, ensure_ascii=False, allow_nan=False) + "\n" for finding in findings)
