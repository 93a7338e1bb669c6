"""Data sets of the hub, named hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT: which parquet files they are."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path, PurePosixPath

from bertwright.data.table import show
from bertwright.errors import DataError
from bertwright.model.hub_failure import http_error, hub_failure
from bertwright.model.hub_transfer import damage_of, named, passes, patiently
from bertwright.progress import Reporter

_PREFIX = "hub:"
_CONVERTED = "refs/convert/parquet"
_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d{4,6})-of-(?P<count>\d{4,6})(-[0-9a-f]+)?")
_NO_CONFIG = "default"

Files = dict[str, dict[str, list[str]]]
"""The parquet files of a data set, by configuration and split, in the order of their rows."""


def is_hub_name(name: object) -> bool:
    """Whether ``name``, given where a file may stand, names a data set of the hub."""
    return isinstance(name, str | os.PathLike) and os.fspath(name).startswith(_PREFIX)


def local_files(name: str | os.PathLike[str]) -> list[str]:
    """The parquet files of a data set's split on this machine, fetched through huggingface_hub's cache.

    ``name`` is hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT, where NAME may have an owner (owner/name). The split
    is "train" and the configuration the only one (or "default") where none is given. Files are looked for in the data
    set itself, then among those that the hub made of it. HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT hold. Without the hub,
    what was fetched before is taken; with a warning, unless HF_HUB_OFFLINE asks for it.

    Raises:
        DataError: there is no such data set, configuration or split, it has no parquet files, or it cannot be fetched.
    """
    from huggingface_hub import constants, errors

    name = os.fspath(name)
    repository, config, split = _parsed(name)
    nothing_on_main = ""
    silent: Exception | None = None
    if constants.HF_HUB_OFFLINE:
        silent = errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    for revision in ("main", _CONVERTED):
        folder, files, silent = _look_up(name, repository, revision, silent)
        grouped = group_files(files)
        if grouped:
            if silent is not None and not constants.HF_HUB_OFFLINE:
                Reporter().warn(
                    f"{name}: the hub does not tell which files there are ({named(silent)}); what was fetched before "
                    "is taken, and may be older"
                )
            chosen = _chosen(name, grouped, config, split)
            return _fetched(name, repository, revision, folder, chosen)
        nothing_on_main = nothing_on_main or _extensions(files)
    if silent is not None:
        raise _refusal(name, silent)
    raise DataError(
        f"{name}: found no parquet files in the data set ({nothing_on_main or 'it is empty'}), nor any that the hub "
        "made of it. Download its files, and name them"
    )


def group_files(files: list[str]) -> Files:
    """The parquet files among ``files``, by configuration and split.

    Known are SPLIT.parquet, SPLIT-00000-of-00002.parquet and SPLIT/0000.parquet, each also in a folder, which is the
    configuration unless it is named "data".
    """
    grouped: Files = {}
    for file in sorted(files, key=_natural):
        path = PurePosixPath(file)
        if path.suffix != ".parquet" or any(part.startswith(".") for part in path.parts):
            continue
        folders = list(path.parts[:-1])
        shard = _SHARD.fullmatch(path.stem)
        split = shard["split"] if shard else path.stem
        if split.isdecimal() and folders:
            split = folders.pop()
        config = "/".join(folder for folder in folders if folder != "data") or _NO_CONFIG
        grouped.setdefault(config, {}).setdefault(split, []).append(file)
    return grouped


def _parsed(name: str) -> tuple[str, str | None, str | None]:
    pieces = name.removeprefix(_PREFIX).split(":")
    if len(pieces) > 3 or not all(pieces) or pieces[0].count("/") > 1:
        raise DataError(
            f"{name}: not the name of a data set, expected hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT"
        )
    config = pieces[1] if len(pieces) == 3 else None
    return pieces[0], config, pieces[-1] if len(pieces) > 1 else None


def _chosen(name: str, grouped: Files, config: str | None, split: str | None) -> list[str]:
    if config is None and len(grouped) > 1:
        if split in grouped and split not in grouped.get(_NO_CONFIG, {}):
            splits = ", ".join(grouped[split])
            raise DataError(
                f"{name}: {show(split)} is a configuration, expected a split of it too, one of {splits}: {name}:SPLIT"
            )
        if _NO_CONFIG not in grouped:
            repository = name.removeprefix(_PREFIX).split(":")[0]
            raise DataError(
                f"{name}: found {len(grouped)} configurations ({_listed(grouped)}), expected the name of one: "
                f"hub:{repository}:CONFIG:{split or 'train'}"
            )
    config = config or (_NO_CONFIG if _NO_CONFIG in grouped else next(iter(grouped)))
    if config not in grouped:
        raise DataError(f"{name}: found no configuration {show(config)}, expected one of {_listed(grouped)}")
    splits_of_it = grouped[config]
    wanted = split or "train"
    if wanted not in splits_of_it:
        raise DataError(f"{name}: found no split {show(wanted)}, expected one of {_listed(splits_of_it)}")
    files = splits_of_it[wanted]
    shards = [_SHARD.fullmatch(PurePosixPath(file).stem) for file in files]
    counts = {int(shard["count"]) for shard in shards if shard}
    if counts and (len(counts) > 1 or len(files) != next(iter(counts))):
        raise DataError(
            f"{name}: found {len(files):,} files for split {show(wanted)}, expected {min(counts):,} as their names "
            "say. Fetch it again while the hub can be reached"
        )
    return files


def _listed(names: Collection[str], most: int = 20) -> str:
    shown = ", ".join(list(names)[:most])
    return shown if len(names) <= most else f"{shown} ... ({len(names):,} in all)"


def _look_up(
    name: str, repository: str, revision: str, silent: Exception | None
) -> tuple[Path | None, list[str], Exception | None]:
    """The files of a revision, none where there is no such revision. Where the hub is ``silent``, which is why it tells
    nothing, those that were fetched before, with their folder."""
    import huggingface_hub
    from huggingface_hub import errors

    if silent is None:
        try:
            # one request; list_repo_files asks again and again, for half a minute, where the hub is not reached
            found = patiently(lambda: huggingface_hub.HfApi().dataset_info(repository, revision=revision))
            return None, [file.rfilename for file in found.siblings or ()], None
        except errors.RevisionNotFoundError:
            return None, [], None
        except errors.HFValidationError as error:
            raise _refusal(name, error) from None
        except (OSError, http_error()) as error:
            if isinstance(error, errors.HfHubHTTPError) and not passes(error):
                raise _refusal(name, error) from None
            silent = error
    folder = _cached(repository, revision)
    if folder is None:
        return None, [], silent
    return folder, [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()], silent


def _cached(repository: str, revision: str) -> Path | None:
    """The folder of what was fetched of a revision before."""
    import huggingface_hub
    from huggingface_hub import constants

    try:
        repositories = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (huggingface_hub.CacheNotFound, OSError):
        return None
    for found in repositories:
        if found.repo_type == "dataset" and found.repo_id == repository:
            return next(
                (Path(snapshot.snapshot_path) for snapshot in found.revisions if revision in snapshot.refs), None
            )
    return None


def _fetched(name: str, repository: str, revision: str, folder: Path | None, files: list[str]) -> list[str]:
    import huggingface_hub

    def fetch(file: str) -> str:
        return huggingface_hub.hf_hub_download(repository, file, repo_type="dataset", revision=revision)

    paths = []
    try:
        # the first file last: where the others are not counted by their names, it shows that all of them were fetched
        for file in reversed(files):
            path = os.fspath(folder / file) if folder is not None else patiently(partial(fetch, file))
            damage = damage_of(Path(path))
            if damage is not None:
                raise DataError(f"{name}: {file} came damaged from the hub: {damage}; it was removed. Try again")
            paths.append(path)
    except (OSError, ValueError, http_error()) as error:
        raise _refusal(name, error) from None
    return paths[::-1]


def _refusal(name: str, error: BaseException) -> DataError:
    return DataError(hub_failure(name, error, "data set", "Expected hub:OWNER/NAME"))


def _extensions(files: list[str]) -> str:
    found = sorted({PurePosixPath(file).suffix for file in files} - {""})
    return f"it has {', '.join(found[:8])}" if found else ""


def _natural(name: str) -> list[tuple[int, int, str]]:
    pieces = re.split(r"([0-9]+)", name)
    return [(0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]
