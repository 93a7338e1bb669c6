"""The act of tokenising: from files of texts to a folder of token ids, made once and used by many trainings."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertwright import hardware, runs
from bertwright.config.base import build
from bertwright.config.tokenize import TokenizeConfig
from bertwright.data.columns import LabelledTexts, read_unsettled, source_files
from bertwright.data.compression import COMPRESSIONS
from bertwright.data.ragged import Ragged, tokenize_texts
from bertwright.data.read import read_parts
from bertwright.data.token_cache import open_token_cache
from bertwright.data.token_cache_writer import write_token_cache
from bertwright.data.token_manifest import (
    Manifest,
    is_token_cache,
    may_be_replaced,
    read_manifest,
)
from bertwright.errors import DataError
from bertwright.model.sources import tokenizer_folder
from bertwright.model.tokenizer import Tokenizer, load_tokenizer
from bertwright.progress import Reporter, duration

if TYPE_CHECKING:  # it brings torch
    from bertwright.model.classifier_settings import ClassifierSettings

_HASHED_BYTES = 1 << 20


def tokenize(
    data: str | Path | Sequence[str | Path], output: str | Path, *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """Tokenise the texts in ``data`` (a file or several) into the folder ``output``, and return what was done.

    ``settings`` are those of ``bertwright tokenize``. Give the folder to ``train``, ``evaluate`` or the command
    ``predict`` where they take files.

    Raises:
        UserError: bad settings, data or a tokenizer that cannot be used, or an output in the way.
    """
    config = build(TokenizeConfig, {**settings, "data": data, "output": output})
    return run_tokenization(config, Reporter(quiet=quiet, results=not quiet))


def run_tokenization(config: TokenizeConfig, reporter: Reporter) -> dict[str, Any]:
    """Read, tokenise and write, unless the output already holds the same; says and returns what was done."""
    started = time.perf_counter()
    folder = Path(config.output or "")
    _check_output(folder)
    tokenizer = load_tokenizer(tokenizer_folder(config.model, config.tokenizer))
    if config.pair_column is not None:
        tokenizer.check_pairs()
    for note in tokenizer.notes:
        reporter.say(note)
    if tokenizer.engine != "nanotoken":
        reporter.say(f"tokenising with tokenizers, which is slower: {tokenizer.reason}")
    if is_token_cache(folder) and not config.overwrite:
        return _already_there(config, folder, tokenizer, started, reporter)

    read_started = time.perf_counter()
    texts = read_unsettled(
        config.data,
        config.text_column,
        config.label_column,
        with_labels=config.labels,
        on_bad_row=config.on_bad_row,
        pair_column=config.pair_column,
        group_columns=config.group_columns,
    )
    read_s = time.perf_counter() - read_started
    for note in texts.notes:
        reporter.say(note)
    if texts.bad_rows:
        reporter.say(f"bad rows skipped: {len(texts.bad_rows):,}, the first: {texts.bad_rows[0]}")
    key = cache_key(config, texts.sha256, tokenizer)
    written = write_token_cache(
        folder, texts, tokenizer, config.tokenizer or config.model, config.max_length, key, reporter
    )
    total_s = time.perf_counter() - started
    result = _result(folder, written.manifest, True)
    result["seconds"] = {"read": read_s, "tokenize": written.tokenize_s, "write": written.write_s, "total": total_s}
    result["rates"] = {
        "tokenize_texts_per_s": len(texts.texts) / written.tokenize_s,
        "tokenize_tokens_per_s": written.manifest.num_tokens / written.tokenize_s,
        "total_texts_per_s": len(texts.texts) / total_s,
    }
    result["memory"] = {"peak_process_bytes": hardware.peak_process_bytes()}
    _show(_lines(result), reporter)
    return result


def token_ids_of(
    texts: LabelledTexts, tokenizer: Tokenizer, settings: ClassifierSettings, model: str, reporter: Reporter
) -> Ragged:
    """The token ids of ``texts`` for a classifier of these settings: those that came with them, else made now.

    ``model`` is the name of the model that ``tokenizer`` belongs to, for messages.

    Raises:
        DataError: those that came with them do not fit the tokenizer or the settings; pairs where single texts are
            expected, or the other way round.
    """
    check_pairs_match(texts, settings, model)
    if texts.tokens is not None:
        return texts.tokens.ragged(tokenizer, settings.max_length, model, settings.long_texts, settings.window_overlap)
    return tokenize_texts(
        tokenizer,
        texts.texts,
        settings.max_length,
        reporter,
        pairs=texts.pairs,
        long_texts=settings.long_texts,
        window_overlap=settings.window_overlap,
    )


def check_pairs_match(texts: LabelledTexts, settings: ClassifierSettings, model: str) -> None:
    """Refuse pairs where ``model`` judges single texts, and the other way round.

    Raises:
        DataError: so it is.
    """
    if settings.pairs != (texts.pairs is not None):
        found, expected = ("single texts", "pairs") if settings.pairs else ("pairs", "single texts")
        more = ": name the column of the second texts with --pair-column" if settings.pairs else ""
        raise DataError(f"found {found}, expected {expected}, which {model} judges{more}")


@dataclass(frozen=True)
class LongTextCounts:
    """How many texts there are, how many lost a part, how many are of several windows, and all windows of all texts."""

    num_texts: int = 0
    num_truncated: int = 0
    num_in_windows: int = 0
    num_windows: int = 0

    @staticmethod
    def of(ragged: Ragged) -> LongTextCounts:
        return LongTextCounts(len(ragged), ragged.num_truncated, ragged.num_in_windows, ragged.num_sequences)

    def __add__(self, other: LongTextCounts) -> LongTextCounts:
        return LongTextCounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def how_read(splits: Sequence[Ragged] | LongTextCounts, settings: ClassifierSettings) -> str | None:
    """One line on the texts that are longer than the model reads at once; None if there are none."""
    counts = splits if isinstance(splits, LongTextCounts) else sum(map(LongTextCounts.of, splits), LongTextCounts())
    what = "pairs of texts" if settings.pairs else "texts"
    if counts.num_truncated:
        lost = "their middle" if settings.long_texts == "head+tail" else "their end"
        share = counts.num_truncated / counts.num_texts
        return (
            f"{counts.num_truncated:,} of {counts.num_texts:,} {what} ({share:.1%}) are longer than --max-length "
            f"{settings.max_length} tokens and lost {lost}"
        )
    if counts.num_in_windows:
        share = counts.num_in_windows / counts.num_texts
        return (
            f"{counts.num_in_windows:,} of {counts.num_texts:,} texts ({share:.1%}) are longer than "
            f"--max-length {settings.max_length} tokens and are read in several windows: {counts.num_windows:,} "
            "windows of all texts"
        )
    return None


def token_folders(texts: Iterable[LabelledTexts]) -> list[str]:
    """The folders that the token ids of some texts came from, each once: what a run records."""
    return list(dict.fromkeys(part.tokens.folder for part in texts if part.tokens is not None))


def cache_key(config: TokenizeConfig, source_sha256: str, tokenizer: Tokenizer) -> str:
    """What a folder of token ids depends on, as one hash: equal keys mean equal folders.

    The content and formats of the files and what is taken from them, the tokenizer and the length; not where the files
    lie or what they are called.
    """
    columns: list[Any] = [config.text_column, ",".join(config.label_column) or None, config.labels]
    if config.group_columns:
        columns.append(",".join(config.group_columns))
    parts = {
        "format": 1,  # of this hash
        "source": source_sha256,
        "formats": [_extension(name) for name in config.data],
        "columns": columns,
        "on_bad_row": config.on_bad_row,
        "tokenizer": tokenizer.sha256,
        "max_length": config.max_length,
    }
    if config.pair_column is not None:
        parts["pair_column"] = config.pair_column
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def _extension(name: str) -> str:
    return "".join(Path(name.lower()).suffixes[-2 if name.lower().endswith(COMPRESSIONS) else -1 :])


def _check_output(folder: Path) -> None:
    """Refuse, before any work, a place where no folder of token ids can be.

    Raises:
        DataError, RunError: something else is there, or the folder cannot be made.
    """
    if folder.exists() and not (folder.is_dir() and may_be_replaced(folder)):
        raise DataError(f"{folder} exists and is not a folder of token ids alone; pass another --output")
    runs.check_can_be_made(folder)


def _already_there(
    config: TokenizeConfig, folder: Path, tokenizer: Tokenizer, started: float, reporter: Reporter
) -> dict[str, Any]:
    """What is said and returned where the folder already holds what was asked for.

    Raises:
        DataError: it holds something else, or is damaged.
    """
    manifest = read_manifest(folder)
    if "-" in config.data or manifest.key != cache_key(config, files_sha256(config.data), tokenizer):
        raise DataError(
            f"{folder} exists and holds other token ids (other texts, columns, tokenizer or --max-length); pass "
            "another --output, or --overwrite to replace it"
        )
    open_token_cache(folder)
    result = _result(folder, manifest, False)
    result["seconds"] = {"read": None, "tokenize": None, "write": None, "total": time.perf_counter() - started}
    result["rates"] = {"tokenize_texts_per_s": None, "tokenize_tokens_per_s": None, "total_texts_per_s": None}
    result["memory"] = {"peak_process_bytes": hardware.peak_process_bytes()}
    _show(
        [
            f"{folder} already holds the token ids of these {manifest.num_texts:,} {_what(manifest.pairs)}, by the "
            f"same tokenizer, cut to {manifest.max_length} tokens: nothing to do"
        ],
        reporter,
    )
    return result


def files_sha256(names: Sequence[str]) -> str:
    """The hash of the files' bytes, one after the other, as ``LabelledTexts`` has it; "" if one cannot be read."""
    digest = hashlib.sha256()
    try:
        for name in source_files(names):
            if os.path.isdir(name):
                for _ in read_parts(name, on_bytes=digest.update):
                    pass
                continue
            with open(name, "rb") as file:
                while piece := file.read(_HASHED_BYTES):
                    digest.update(piece)
    except (OSError, DataError):
        return ""
    return digest.hexdigest()


def _result(folder: Path, manifest: Manifest, made: bool) -> dict[str, Any]:
    stored = sum(file.bytes for file in manifest.files.values()) + os.path.getsize(folder / "manifest.json")
    return {
        "output": str(folder),
        "made": made,
        "texts": manifest.num_texts,
        "pairs": manifest.pairs,
        "tokens": manifest.num_tokens,
        "truncated_texts": manifest.num_truncated,
        "truncated_share": manifest.truncated_share,
        "max_length": manifest.max_length,
        "labels": _num_labels(manifest),
        "label_columns": [column.column for column in manifest.labels],
        "bad_rows": manifest.num_skipped,
        "tokenizer": manifest.tokenizer.model_dump(mode="json"),
        "source_sha256": manifest.source_sha256,
        "bytes": stored,
    }


def _what(pairs: bool) -> str:
    return "pairs" if pairs else "texts"


def _num_labels(manifest: Manifest) -> int | None:
    """Different labels of the one column that holds some; None without labels, for several columns and for numbers."""
    names = manifest.labels[0].names if len(manifest.labels) == 1 else None
    return None if names is None else len(names)


def _show(lines: Sequence[str], reporter: Reporter) -> None:
    """Lines as they are: names of files are no markup, and are not broken."""
    from rich.text import Text

    reporter.show(Text("\n".join(lines), no_wrap=True, overflow="ignore"))


def _lines(result: dict[str, Any]) -> list[str]:
    seconds = result["seconds"]
    labels = "no labels" if result["labels"] is None else f"{result['labels']:,} different labels"
    if result["label_columns"] and result["labels"] is None:
        columns = len(result["label_columns"])
        labels = f"{columns:,} columns of labels" if columns > 1 else "numbers as labels"
    what = _what(result["pairs"])
    return [
        f"{what}      {result['texts']:>14,}   with {labels}",
        f"tokens     {result['tokens']:>14,}   {result['tokens'] / result['texts']:.1f} a {what[:-1]}",
        f"truncated  {result['truncated_share']:>14.1%}   {result['truncated_texts']:,} {what} are longer than "
        f"{result['max_length']} tokens and lost their end",
        f"read       {duration(seconds['read']):>14}",
        f"tokenize   {duration(seconds['tokenize']):>14}   {result['rates']['tokenize_texts_per_s']:,.0f} {what}/s by "
        f"{result['tokenizer']['engine']}",
        f"write      {duration(seconds['write']):>14}   {result['bytes'] / 1e6:,.1f} MB in {result['output']}",
        f"total      {duration(seconds['total']):>14}   {result['rates']['total_texts_per_s']:,.0f} {what}/s",
        f"memory     {result['memory']['peak_process_bytes'] / 2**20:>10,.0f} MiB   peak of the process",
    ]
