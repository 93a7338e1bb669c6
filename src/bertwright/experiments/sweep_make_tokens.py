"""Makes the token ids that the trials of a sweep share (``sweep_tokens``), in a process of its own."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertwright.config.base import build
from bertwright.config.tokenize import TokenizeConfig
from bertwright.data.token_manifest import read_manifest
from bertwright.data.tokenize import run_tokenization
from bertwright.errors import DataError, UserError
from bertwright.experiments.sweep_tokens import MADE, NEEDS, WHOLE, Need
from bertwright.model.sources import tokenizer_folder
from bertwright.model.tokenizer import load_tokenizer
from bertwright.progress import Reporter
from bertwright.runs import read_json, wait_for_lock, write_json

_LOCK = "lock"


def main(arguments: Sequence[str]) -> None:
    """Make what is put down in the folder that is the only argument. For a process of its own: ends it with a line on
    standard error and exit code 2 where the texts cannot be used."""
    folder = Path(arguments[0])
    try:
        with wait_for_lock(folder / _LOCK):  # workers of one folder make each but once
            needs = [_need(values) for values in read_json(folder / NEEDS)["needs"]]
            write_json(folder / MADE, {"made": _make(folder, needs)})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _need(values: dict[str, Any]) -> Need:
    lists = {name: tuple(values[name]) for name in ("files", "label_column", "group_columns")}
    return Need(**{**values, **lists})


def _make(folder: Path, needs: Sequence[Need]) -> list[dict[str, Any]]:
    """For each need the folder with its token ids, or None with a note why the files themselves are to be read."""
    tokenizers: dict[tuple[str, str | None], str] = {}
    lengths: dict[tuple[str, str], int] = {}
    for need in needs:
        named = (need.model, need.tokenizer)
        if named not in tokenizers:
            tokenizers[named] = load_tokenizer(tokenizer_folder(*named)).sha256
        key = (need.texts, tokenizers[named])
        lengths[key] = max(lengths.get(key, 0), need.max_length)
    made = []
    for need in needs:
        tokenizer = tokenizers[(need.model, need.tokenizer)]
        max_length = lengths[(need.texts, tokenizer)]
        texts = hashlib.sha256(need.texts.encode()).hexdigest()[:8]
        length = "whole" if max_length == WHOLE else str(max_length)
        place = folder / f"{texts}-{tokenizer[:8]}-{length}"
        note = _make_one(need, place, max_length)
        made.append({"need": asdict(need), "folder": None if note else str(place), "note": note})
    return made


def _make_one(need: Need, place: Path, max_length: int) -> str | None:
    """Make the folder ``place``, unless it is there. Why trials must read the files themselves, or None.

    Raises:
        DataError: the texts to learn from cannot be used, or are not those that the folder was made of.
    """
    config = build(
        TokenizeConfig,
        {
            "data": need.files,
            "output": str(place),
            "model": need.model,
            "tokenizer": need.tokenizer,
            "max_length": max_length,
            "text_column": need.text_column,
            "pair_column": need.pair_column,
            "label_column": need.label_column,
            "group_columns": need.group_columns,
            "on_bad_row": need.on_bad_row,
        },
    )
    was_there = place.exists()
    try:
        run_tokenization(config, Reporter(quiet=True, results=False))
    except DataError as error:
        if need.role == "train" or was_there:
            raise
        # Test texts may lack columns that the training texts have: the trials read them by the training's labels.
        return f"{', '.join(need.files)}: every trial reads the file itself, since {error}"
    if not read_manifest(place).labels:
        return f"{', '.join(need.files)}: every trial reads the file itself, since no labels were found"
    return None
