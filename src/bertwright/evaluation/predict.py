"""The act of scoring texts: given ones, files of them, or standard input."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from bertwright.config.base import build, expand_home
from bertwright.config.evaluate import PredictSettings
from bertwright.config.parts import ScoringMachineSettings
from bertwright.data.columns import LabelledTexts, read_unlabelled
from bertwright.data.texts import Texts
from bertwright.data.tokenize import how_read
from bertwright.errors import RunError, UserError
from bertwright.evaluation.cascade import Cascade
from bertwright.evaluation.extremes import one_line
from bertwright.evaluation.judge import prediction_tables, say_notes, write_predictions
from bertwright.evaluation.load_scorer import load_scorer
from bertwright.evaluation.logit_scorer import ScorerByLogits
from bertwright.evaluation.predictions import Prediction
from bertwright.evaluation.score_texts import ids_of, score_in_portions, texts_or_pairs
from bertwright.evaluation.scorer import Scorer, checked_texts
from bertwright.progress import Reporter
from bertwright.runs import written_beside

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")
"""The endings of files that scores are written to."""


def predict(run: str | Path, texts: Sequence[str], **settings: Any) -> list[Prediction]:
    """A prediction for each of ``texts`` by a run's classifier; ``settings`` are device, dtype and token_budget.

    To score texts more than once, keep ``bertwright.load(run)``: it reads the model once.

    Raises:
        UserError: bad settings, a run without a classifier, or a text that is none.
    """
    machine = build(ScoringMachineSettings, settings)
    scorer = load_scorer(str(run), machine)
    return scorer.predictions(scorer.score(checked_texts(texts)))


def run_prediction(
    run: str,
    given: Sequence[str],
    files: Sequence[str],
    settings: PredictSettings,
    reporter: Reporter,
    as_json: bool = False,
    given_pairs: Sequence[str] = (),
) -> None:
    """Score ``given`` texts, or the texts of ``files`` ("-": standard input, a text a line), and write or show them.

    ``given_pairs`` are the second texts of ``given``, for a classifier of pairs. ``as_json`` shows one
    object a line or, where the scores go to a file, one object that names it.

    Raises:
        UserError: as ``predict``; also files that cannot be read, an unknown output format, an output in the way.
    """
    output = None if settings.output is None else Path(settings.output)
    if output is not None:
        _check_output(output, settings.overwrite)
    if given and files:
        raise UserError("--text and files exclude each other: give one of them")
    if given and settings.group_columns:
        raise UserError("--group-columns names columns of files; leave it out with --text")
    if settings.resume:
        raise UserError("--resume goes on with files that were scored into --output: name both")
    if given_pairs and len(given_pairs) != len(given):
        raise UserError(f"found {len(given)} --text and {len(given_pairs)} --pair, expected a --pair for each --text")
    scorer = load_and_say(run, settings, reporter)
    if not given and not files and sys.stdin.isatty():
        reporter.say("reading texts from standard input, one a line")
    texts = (
        _given_texts(given, given_pairs)
        if given
        else read_unlabelled(
            [expand_home(file) for file in files] or ["-"],
            settings.text_column,
            settings.on_bad_row,
            settings.pair_column,
            settings.group_columns,
        )
    )
    say_notes(texts, reporter)
    ragged = ids_of(scorer, texts, run, reporter)
    longer = how_read([ragged], scorer.settings)
    if longer is not None:
        reporter.say(longer)
    expect(scorer, int(ragged.starts[-1]))
    with reporter.progress("Scoring", len(texts)) as advance:
        scores = score_in_portions(scorer, texts_or_pairs(texts), ragged, advance)
    say_deferred(scorer, reporter)
    tables = tables_of(scorer, texts, scores)
    if output is None:
        if as_json:
            sys.stdout.writelines(line + "\n" for line in json_lines(tables))
        else:
            for table in tables:
                _print_lines(table, sys.stdout)
        return
    write_tables(output, tables)
    reporter.say(f"scores: {output} ({len(texts):,} texts)")
    if as_json:
        done = {"output": str(output), "texts": len(texts), "bad_rows": len(texts.bad_rows)}
        print(json.dumps(done, ensure_ascii=False))


def load_and_say(run: str, machine: ScoringMachineSettings, reporter: Reporter) -> Scorer:
    """What ``run`` names, ready to score, once it was said what was found and chosen.

    Raises:
        UserError: as ``load_scorer``.
    """
    scorer = load_scorer(run, machine)
    for note in getattr(scorer, "notes", ()):
        reporter.say(f"model: {note}")
    reporter.say(scorer.summary())
    return scorer


def expect(scorer: Scorer, num_tokens: int) -> None:
    """Tell a scorer that prepares itself for large work how much will come, portion by portion."""
    if isinstance(scorer, ScorerByLogits | Cascade):
        scorer.expect(num_tokens)


def say_deferred(scorer: Scorer, reporter: Reporter) -> None:
    """How many texts a cascade gave to its large model."""
    if isinstance(scorer, Cascade):
        reporter.say(scorer.deferred_in_words())


def tables_of(scorer: Scorer, texts: LabelledTexts, scores: np.ndarray) -> Iterator[pa.Table]:
    """``prediction_tables`` of texts without labels that ``scorer`` gave ``scores``."""
    settings = scorer.settings
    return prediction_tables(texts, scores, scorer.labels, settings.threshold, True, settings.kind)


def _given_texts(given: Sequence[str], pairs: Sequence[str]) -> LabelledTexts:
    try:
        strings, second = Texts.of(given), Texts.of(pairs) if pairs else None
    except UnicodeEncodeError:
        raise UserError("--text, --pair: found bytes that are not valid UTF-8, expected text") from None
    digest = hashlib.sha256("\n".join([*given, *pairs]).encode()).hexdigest()
    return LabelledTexts(strings, None, (), np.arange(len(given)), [], [], digest, pairs=second)


def json_lines(tables: Iterator[pa.Table]) -> Iterator[str]:
    for table in tables:
        for row in table.to_pylist():
            yield json.dumps(row, ensure_ascii=False)


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix not in FORMATS:
        raise UserError(f"--output: found {output.name!r}, expected a name that ends in {', '.join(FORMATS)}")
    if output.is_dir() or (output.exists() and not overwrite):
        raise RunError(f"{output} exists; pass another --output, or --overwrite to replace it")
    if not output.absolute().parent.is_dir():
        raise RunError(f"{output}: there is no folder {output.absolute().parent}")


def write_tables(output: Path, tables: Iterator[pa.Table], header: bool = True) -> None:
    """Write ``tables`` in the format that the name ``output`` says, beside it first; .csv and .tsv with a ``header``.

    Raises:
        OSError: it cannot be written.
    """
    if output.suffix == ".parquet":
        write_predictions(output, tables)
        return
    write: Callable[[TextIO], None] = {
        ".jsonl": lambda file: file.writelines(line + "\n" for line in json_lines(tables)),
        ".csv": lambda file: _write_rows(file, tables, ",", header),
        ".tsv": lambda file: _write_rows(file, tables, "\t", header),
    }[output.suffix]
    with written_beside(output) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        write(file)


def _write_rows(file: TextIO, tables: Iterator[pa.Table], delimiter: str, header: bool) -> None:
    """A list, such as the labels decided for where there may be any number, is written with "|" between."""
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    for number, table in enumerate(tables):
        if number == 0 and header:
            writer.writerow(table.column_names)
        for row in table.to_pylist():
            writer.writerow("|".join(value) if isinstance(value, list) else value for value in row.values())


def _print_lines(table: pa.Table, file: TextIO) -> None:
    """A text a line, separated by tabs: the label decided for, its probability and the text.

    Where there may be any number of labels: those decided for with "|" between, or "-", and the highest probability of
    a label. Of a regression: the number and the text.
    """
    scores = [name for name in table.column_names if name.startswith("score_")]
    for row in table.to_pylist():
        predicted = row["predicted"]
        if isinstance(predicted, list):
            shown = [one_line("|".join(predicted)) or "-", f"{max(row[name] for name in scores):.4f}"]
        elif isinstance(predicted, str):
            shown = [one_line(predicted), f"{row[f'score_{predicted}']:.4f}"]
        else:
            shown = [f"{predicted:.4f}"]
        texts = [row["text"]] if row.get("pair") is None else [row["text"], row["pair"]]
        print("\t".join([*shown, *map(one_line, texts)]), file=file)
