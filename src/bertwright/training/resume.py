"""The settings of a training that goes on: those on record, unless others are given. Torch is never imported here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bertwright import runs
from bertwright.config.base import Settings, build, expand_home
from bertwright.config.train import TrainConfig
from bertwright.errors import RunError, UserError

# What may be given anew: where the run is and how it is kept, the machine, and the places of files, of which the
# contents must be the same.
HOW_KEPT = {
    *("output", "overwrite", "resume", "checkpoint_minutes", "checkpoint_steps", "track"),
    *("token_budget", "usd_per_hour", "teacher_scores", "num_processes"),
}
"""Settings of how a run is reached, kept and followed, which change no result."""
_FREE = HOW_KEPT | {"device", "dtype", "compile"} | {"train", "test", "validation", "unlabelled"}
# May lie elsewhere by now: hashes of the weights and of the tokenizer tell whether they are the same.
_FOLDERS = {"model", "tokenizer", "teacher"}

Kind = TypeVar("Kind", bound=TrainConfig)


def train_config(given: Mapping[str, Any], source: str = "") -> TrainConfig:
    """The settings of a training from those that were given: see ``config_of``."""
    return config_of(TrainConfig, given, source)


def config_of(kind: type[Kind], given: Mapping[str, Any], source: str = "") -> Kind:
    """The settings of a training from those that were given; ``source`` is the file that they come from.

    With ``resume`` and a run in ``output``, those on record there. What is given besides must be the same, but for
    settings that change no result. Without a run there, a new one starts.

    Raises:
        UserError: as ``build``; ``overwrite`` with ``resume``; nothing to go on with; another setting than on record.
    """
    if not given.get("resume"):
        return build(kind, given, source)
    if given.get("overwrite"):
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    has_files = bool(given.get("train"))
    if not given.get("output"):
        if not has_files:
            raise UserError("--resume needs the run to go on with: pass --output RUN, or the files of the training")
        return build(kind, given, source)
    output = Path(expand_home(os.fspath(given["output"])))
    if not output.exists() or runs.is_unborn(output):
        if not has_files:
            raise UserError(f"{output}: no such run; to start it, give the files of labelled texts to learn from")
        return build(kind, given, source)
    recorded = recorded_settings(output, kind.act)
    needed: dict[str, Any] = {
        name: given.get(name) or recorded.get(name, ()) for name in ("train", "teacher") if name in kind.model_fields
    }
    check_same(kind, output, recorded, {**given, **needed}, source, _FREE)
    free = {name: value for name, value in given.items() if name in _FREE | _FOLDERS and value not in (None, ())}
    return build(kind, {**recorded, **free}, str(output / runs.CONFIG))


def recorded_act(output: Path) -> str:
    """The act of the run in the folder ``output``.

    Raises:
        RunError: no run is there.
    """
    return str(runs.read_json(output / runs.CONFIG).get("act"))


def recorded_settings(output: Path, act: str = TrainConfig.act) -> dict[str, Any]:
    """The settings of the training in the folder ``output``, by ``bertwright train`` or another ``act``.

    Raises:
        RunError: it is none of those.
    """
    if not runs.is_run(output):
        raise RunError(
            f"{output} exists and is not a run's folder; --resume goes on with runs of bertwright {act} only"
        )
    config = runs.read_json(output / runs.CONFIG)
    if config["act"] != act:
        raise RunError(f"{output}: found a run of bertwright {config['act']}, expected one of bertwright {act}")
    if not isinstance(config.get("settings"), dict):
        raise RunError(f"{output / runs.CONFIG}: not the record of a run; the file is damaged")
    return config["settings"]


def check_same(
    kind: type[Settings],
    output: Path,
    recorded: Mapping[str, Any],
    given: Mapping[str, Any],
    source: str,
    free: Collection[str],
) -> None:
    """Refuse a setting that is given and is not what is on record; defaults that were resolved are on record too.

    Those in ``free`` may be others.
    """
    asked = build(kind, given, source).model_dump(mode="json")
    for name, value in given.items():
        if name in free or value is None or value == ():
            continue
        found, expected = asked[name], recorded.get(name)
        if found == expected or (name in _FOLDERS and os.path.isdir(found)):
            continue
        flag = "the teacher" if name == "teacher" else "--" + name.replace("_", "-")
        known = "not given" if expected is None else shown(expected)
        raise UserError(
            f"{flag}: found {shown(found)}, expected {known} as in {output / runs.CONFIG}; a run goes on with the "
            "settings that it began with. Leave it out, or pass another --output"
        )


def settings_that_count(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run must go on with."""
    return {name: value for name, value in settings.items() if name not in _FREE | _FOLDERS}


def shown(value: Any) -> str:
    """A setting as it would be typed."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def command(output: Path) -> str:
    """What to type to go on with the run in ``output``."""
    try:
        act = recorded_act(output)
    except RunError:
        act = TrainConfig.act
    return f"bertwright {act} --resume --output {shlex.quote(str(output))}"
