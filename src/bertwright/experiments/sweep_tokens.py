"""The token ids of a sweep's texts: made once, in folders that all its trials share. Torch is never imported here.

Trials that differ in settings of the learning alone have the same token ids; another tokenizer, or other texts or
columns, have others. A folder holds texts up to the longest ``max_length`` of all trials, since a training cuts them
further, exactly as it would cut the texts; or whole where a trial reads more of them than their head.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertwright.config.train import TrainConfig
from bertwright.data.token_manifest import is_token_cache
from bertwright.runs import read_json, write_json
from bertwright.training.recipe import long_texts_of

FOLDER = "tokens"
_ROLES = ("train", "validation", "test")
WHOLE = 1_000_000
"""As a length: nothing is cut."""
NEEDS, MADE = "needs.json", "made.json"
MAKER = "bertwright.experiments.sweep_make_tokens"
"""The module whose ``main`` makes them, in a process of its own."""


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
    max_length = config.max_length if long_texts_of(config) == "head" else WHOLE
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
        write_json(folder / NEEDS, {"needs": [asdict(need) for need in needs]})
    return bool(needs)


def shared_tokens(folder: Path) -> SharedTokens:
    """What ``MAKER`` made in ``folder``."""
    return SharedTokens(read_json(folder / MADE)["made"])


def _key(need: dict[str, Any]) -> str:
    """Names a need; its length does not count, since one folder serves all lengths."""
    return json.dumps({name: value for name, value in need.items() if name not in ("max_length", "role")}, default=list)


def folder_of(sweep: Path) -> Path:
    """Where the token ids of the sweep in the folder ``sweep`` lie."""
    return Path(os.path.join(sweep, FOLDER))
