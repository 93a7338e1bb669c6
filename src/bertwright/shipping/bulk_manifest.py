"""What the scores of files depend on: texts, model and settings. A stopped scoring goes on with those alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertwright import __version__
from bertwright.config.evaluate import PredictSettings
from bertwright.data.token_manifest import is_token_cache
from bertwright.data.token_manifest import read_manifest as read_token_manifest
from bertwright.data.tokenize import files_sha256
from bertwright.errors import CheckpointError, DataError, RunError
from bertwright.evaluation.scorer import Scorer
from bertwright.model.sources import find_folder

# Which must be the same. What is not among them changes no score but by rounding: it is said, not refused.
_SETTINGS = ("text_column", "pair_column", "group_columns", "dtype", "shard_texts")

Stamps = dict[str, tuple[int, int]]


def manifest_of(
    run: str, scorer: Scorer, files: Sequence[str], settings: PredictSettings, suffix: str
) -> dict[str, Any]:
    """What the scores of ``files`` by ``run`` depend on. Every file is read once, to hash it.

    Raises:
        DataError: a file cannot be read.
    """
    given = settings.model_dump(mode="json")
    return {
        "format": 1,
        "bertwright": __version__,
        "run": run,
        "model_sha256": model_sha256(run),
        "files": list(files),
        "files_sha256": [_file_sha256(file) for file in files],
        "settings": {**{name: given[name] for name in _SETTINGS}, "output_format": suffix},
        "computing": scorer.summary(),
        "overwrite": settings.overwrite,
    }


def check_unchanged(recorded: Mapping[str, Any], manifest: Mapping[str, Any], place: Path) -> list[str]:
    """Refuse to go on with a scoring of other texts, by another model or with other settings; what else differs.

    Raises:
        RunError: so it is; or what is on record is damaged.
    """
    anew = "or pass --overwrite to begin anew"
    files, hashes, settings = (recorded.get(name) for name in ("files", "files_sha256", "settings"))
    if not isinstance(files, list) or not isinstance(hashes, list) or not isinstance(settings, dict):
        raise RunError(f"{place}: its manifest is damaged; pass --overwrite to begin anew")
    if recorded.get("format") != manifest["format"]:
        raise RunError(f"{place}: written by bertwright {recorded.get('bertwright')}; pass --overwrite to begin anew")
    if len(hashes) != len(manifest["files_sha256"]):
        raise RunError(
            f"found {len(manifest['files'])} files, expected {len(hashes)} as {place} was begun with: "
            f"{', '.join(map(str, files))}. Name those, {anew}"
        )
    for name, found, expected in zip(manifest["files"], manifest["files_sha256"], hashes, strict=True):
        if found != expected:
            raise RunError(
                f"{name}: its content is not what {place} was begun with; a scoring goes on with the same texts only. "
                f"Restore the file, {anew}"
            )
    if recorded.get("model_sha256") != manifest["model_sha256"]:
        raise RunError(
            f"{manifest['run']}: is not the model that {place} was begun with ({recorded.get('run')}). Name that one, "
            f"{anew}"
        )
    for name, value in manifest["settings"].items():
        if settings.get(name) != value:
            raise RunError(
                f"--{name.replace('_', '-')}: found {_shown(value)}, expected {_shown(settings.get(name))} as {place} "
                f"was begun with. Pass that, {anew}"
            )
    return [
        f"{place} was begun with another {what}: scores may differ by rounding (found {manifest[name]}, then "
        f"{recorded.get(name)})"
        for name, what in (("computing", "machine or token budget"), ("bertwright", "version"))
        if recorded.get(name) != manifest[name]
    ]


def _shown(value: Any) -> str:
    if value in (None, [], ()):
        return "nothing"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def model_files(run: str) -> tuple[Path, list[Path]]:
    """The folder of the model, or of what else scores, that ``run`` names, and all files in it, in order.

    Raises:
        CheckpointError: it is not there.
    """
    given = Path(run).expanduser()
    try:
        folder = find_folder(run)[0]
    except CheckpointError:
        if not given.is_dir():
            raise
        folder = given  # not a model's, but of something that holds models
    return folder, sorted(path for path in folder.rglob("*") if path.is_file())


def model_sha256(run: str) -> str:
    """The hash of all files of the model, or of what else scores, that ``run`` names.

    Raises:
        CheckpointError: it is not there.
    """
    folder, files = model_files(run)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)}\0{_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _file_sha256(name: str) -> str:
    if is_token_cache(name):
        return read_token_manifest(Path(name)).key
    if os.path.isdir(name):
        return files_sha256([name])
    if os.path.exists(name) and not os.path.isfile(name):  # a pipe would wait for ever for a second writer
        raise DataError(f"{name}: not a file, which is read twice; expected one, or - for standard input")
    try:
        return _sha256(Path(name))
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamps(files: Sequence[str]) -> Stamps:
    """Size and time of change of each file; not of folders."""
    return {
        name: (status.st_size, status.st_mtime_ns)
        for name in files
        if os.path.isfile(name) and (status := os.stat(name))
    }


def check_unmoved(stamps: Stamps) -> None:
    """Refuse files that have changed since ``stamps`` was taken.

    Raises:
        DataError: one has.
    """
    for name, found in file_stamps(list(stamps)).items():
        if found != stamps[name]:
            raise DataError(
                f"{name}: changed while it was read, expected it to stay as it is. Score it again, with --overwrite"
            )
