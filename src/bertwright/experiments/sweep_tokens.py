"""The token ids of a sweep's texts: made once, in folders that all its trials share. Torch is never imported here.

Trials that differ in settings of the learning alone have the same token ids; another tokenizer, or other texts or
columns, have others. A folder holds texts up to the longest ``max_length`` of all trials, since a training cuts them
further, exactly as it would cut the texts; or whole where a trial reads more of them than their head.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertwright.config import TokenizeConfig, TrainConfig, build
from bertwright.data.token_cache import is_token_cache, read_manifest
from bertwright.errors import DataError, UserError
from bertwright.runs import read_json, wait_for_lock, write_json

FOLDER = "tokens"
_ROLES = ("train", "validation", "test")
_WHOLE = 1_000_000
_LOCK, _NEEDS, _MADE = "lock", "needs.json", "made.json"


@dataclass(frozen=True)
class Need:
    """Token ids that a trial needs; ``role`` is what for."""

    role: str
    files: tuple[str, ...]
    model: str
    tokenizer: str | None
    max_length: int
    text_column: str | None
    pair_column: str | None
    label_column: tuple[str, ...]
    group_columns: tuple[str, ...]
    on_bad_row: str

    @property
    def texts(self) -> str:
        """What names the texts and what is taken of them."""
        columns = (self.text_column, self.pair_column, self.label_column, self.group_columns, self.on_bad_row)
        return repr((self.files, columns))


def needs_of(config: TrainConfig) -> list[Need]:
    """What a training needs; nothing for files that are folders of token ids already."""
    max_length = config.max_length if config.long_texts == "head" else _WHOLE
    found = []
    for role in _ROLES:
        files = tuple(getattr(config, role))
        if files and not any(is_token_cache(file) for file in files):
            found.append(
                Need(
                    role,
                    files,
                    config.model,
                    config.tokenizer,
                    max_length,
                    config.text_column,
                    config.pair_column,
                    config.label_column,
                    config.group_columns,
                    config.on_bad_row,
                )
            )
    return found


class SharedTokens:
    """Which folder holds the token ids that a trial needs."""

    def __init__(self, made: Sequence[dict[str, Any]]) -> None:
        self.notes = [entry["note"] for entry in made if entry["note"]]
        self._folders = {_key(entry["need"]): entry["folder"] for entry in made}

    def files(self, config: TrainConfig) -> dict[str, tuple[str, ...]]:
        """The settings of a training that name its files, with folders in their place where there are any."""
        found: dict[str, tuple[str, ...]] = {}
        for need in needs_of(config):
            folder = self._folders.get(_key(asdict(need)))
            if folder is not None:
                found[need.role] = (folder,)
        return found


def write_needs(folder: Path, configs: Iterable[TrainConfig]) -> bool:
    """Put down in ``folder`` what the trainings need; False if that is nothing."""
    needs = list(dict.fromkeys(need for config in configs for need in needs_of(config)))
    if needs:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _NEEDS, {"needs": [asdict(need) for need in needs]})
    return bool(needs)


def shared_tokens(folder: Path) -> SharedTokens:
    """What ``main`` made in ``folder``."""
    return SharedTokens(read_json(folder / _MADE)["made"])


def main(arguments: Sequence[str]) -> None:
    """Make what is put down in the folder that is the only argument. For a process of its own: ends it with a line on
    standard error and exit code 2 where the texts cannot be used."""
    folder = Path(arguments[0])
    try:
        with wait_for_lock(folder / _LOCK):  # workers of one folder make each but once
            needs = [_need(values) for values in read_json(folder / _NEEDS)["needs"]]
            write_json(folder / _MADE, {"made": _make(folder, needs)})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _need(values: dict[str, Any]) -> Need:
    lists = {name: tuple(values[name]) for name in ("files", "label_column", "group_columns")}
    return Need(**{**values, **lists})


def _make(folder: Path, needs: Sequence[Need]) -> list[dict[str, Any]]:
    """For each need the folder with its token ids, or None with a note why the files themselves are to be read."""
    from bertwright.model.sources import tokenizer_folder
    from bertwright.model.tokenizer import load_tokenizer

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
        length = "whole" if max_length == _WHOLE else str(max_length)
        place = folder / f"{texts}-{tokenizer[:8]}-{length}"
        note = _make_one(need, place, max_length)
        made.append({"need": asdict(need), "folder": None if note else str(place), "note": note})
    return made


def _make_one(need: Need, place: Path, max_length: int) -> str | None:
    """Make the folder ``place``, unless it is there. Why trials must read the files themselves, or None.

    Raises:
        DataError: the texts to learn from cannot be used, or are not those that the folder was made of.
    """
    from bertwright.data.tokenize import run_tokenization
    from bertwright.progress import Reporter

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


def _key(need: dict[str, Any]) -> str:
    """Names a need; its length does not count, since one folder serves all lengths."""
    return json.dumps({name: value for name, value in need.items() if name not in ("max_length", "role")}, default=list)


def folder_of(sweep: Path) -> Path:
    """Where the token ids of the sweep in the folder ``sweep`` lie."""
    return Path(os.path.join(sweep, FOLDER))
