"""Data sets of the hub, named hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT: which parquet files they are."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from bertwright.data.table import show
from bertwright.errors import DataError
from bertwright.model.hub_failure import http_error, hub_errors, hub_failure, is_unreadable, named
from bertwright.model.hub_transfer import damage_of, passes, patiently
from bertwright.progress import Reporter

_PREFIX = "hub:"
_CONVERTED = "refs/convert/parquet"
_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d{4,6})-of-(?P<count>\d{4,6})(-[0-9a-f]+)?")
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile("[0-9a-f]{40}")
_NO_CONFIG = "default"
_NOTES = "bertwright"

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
        if silent is None:
            try:
                listed = time.time_ns()
                commit, files = _listing(name, repository, revision)
            except _Silent as error:
                silent = error.reason
        if silent is not None:
            kept = _kept(name, repository, revision, config, split)
            if kept is not None:
                if not constants.HF_HUB_OFFLINE:
                    Reporter().warn(
                        f"{name}: the hub does not tell which files there are ({named(silent)}); what was fetched "
                        "before is taken, and may be older"
                    )
                return kept
            continue
        grouped = group_files(files)
        if grouped:
            paths = _fetched(name, repository, commit or revision, _chosen(name, grouped, config, split))
            if commit is not None:
                _note(repository, revision, commit, files, listed)
            return paths
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
    if len(pieces) > 3 or not all(pieces) or not _REPOSITORY.fullmatch(pieces[0]):
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


class _Silent(Exception):
    """The hub tells nothing now."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


def _listing(name: str, repository: str, revision: str) -> tuple[str | None, list[str]]:
    """The commit of a revision and its files, none where there is no such revision.

    Raises:
        _Silent: the hub cannot be reached, or fails for longer than was waited.
        DataError: there is no such data set, or it is not for everybody.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        # one request; list_repo_files asks again and again, for half a minute, where the hub is not reached
        found = patiently(lambda: huggingface_hub.HfApi().dataset_info(repository, revision=revision))
        commit = found.sha if _COMMIT.fullmatch(found.sha or "") else None
        return commit, [file.rfilename for file in found.siblings or ()]
    except errors.RevisionNotFoundError:
        return None, []
    except hub_errors() as error:
        of_the_line = isinstance(error, OSError | http_error()) and not is_unreadable(error)
        if not of_the_line or (isinstance(error, errors.HfHubHTTPError) and not passes(error)):
            raise _refusal(name, error) from None
        raise _Silent(error) from None


def _kept(name: str, repository: str, revision: str, config: str | None, split: str | None) -> list[str] | None:
    """The files of the split that were fetched before, all of them; None where the cache holds none of the revision.

    Of several commits the newest is taken of which the split is whole, with a warning if that is an older one.

    Raises:
        DataError: only some of the files were fetched, one is damaged, or the newest commit has no such split.
    """
    refused: DataError | None = None
    for folder, files, are_all in _snapshots(repository, revision):
        grouped = group_files(files)
        if not grouped:
            continue
        try:
            chosen = _chosen(name, grouped, config, split)
        except DataError as error:
            refused = refused or error
            if are_all:
                break
            continue
        paths = [folder / file for file in chosen]
        there = sum(path.is_file() for path in paths)
        if there == len(paths):
            if refused is not None:
                Reporter().warn(f"{name}: an older commit is taken, since of the newest: {refused}")
            return _sound(name, chosen, paths)
        refused = refused or DataError(
            f"{name}: found {there:,} files of the split in the hub's cache on this machine, expected {len(paths):,}. "
            "Fetch it again while the hub can be reached"
        )
    if refused is not None:
        raise refused
    return None


def _snapshots(repository: str, revision: str) -> Iterator[tuple[Path, list[str], bool]]:
    """What the cache has of a revision, the newest first: the folder of a commit, which files that has, and whether
    these are all, as they were listed when it was fetched; else as far as the files there tell."""
    notes = _noted(repository, revision)
    times = {commit: note.listed for commit, note in notes.items()}
    current = _current(repository, revision)
    if current is not None:
        commit, when = current
        # Of a cache that was copied, times of files tell nothing: what was noted while it said this is newer.
        later = [note.listed - 1 for note in notes.values() if note.other == commit]
        times[commit] = max(min([when, *later]), times.get(commit, 0))
    for commit in sorted(times, key=lambda commit: times[commit], reverse=True):
        folder = _folder(repository) / "snapshots" / commit
        if commit in notes:
            yield folder, notes[commit].files, True
        else:
            files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
            yield folder, _with_gaps(files, revision), False


def _current(repository: str, revision: str) -> tuple[str, int] | None:
    """The commit that the cache takes the revision for, and when that was noted, in nanoseconds."""
    path = _folder(repository) / "refs" / revision
    try:
        commit, when = path.read_text(encoding="ascii").strip(), path.stat().st_mtime_ns
    except (OSError, ValueError):
        return None
    return (commit, when) if _COMMIT.fullmatch(commit) else None


def _folder(repository: str) -> Path:
    """Where the cache keeps a data set."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "--".join(["datasets", *repository.split("/")]))


@dataclass(frozen=True)
class _Note:
    """What is remembered of a commit of which files were fetched, since the cache itself does not tell what it lacks.

    Attributes:
        listed: when its files were listed, in nanoseconds.
        files: its parquet files.
        whole: whether all of its files were there.
        other: the commit that the cache takes the revision for, where that is another one.
    """

    listed: int
    files: list[str]
    whole: bool
    other: str | None


def _note(repository: str, revision: str, commit: str, files: list[str], listed: int) -> None:
    """Remember the commit; and that the revision is this commit, as all programs note it, unless another one is there
    whole as this one is not, or was listed later."""
    folder = _folder(repository)
    # A cache that may only be read holds the files, and needs no note.
    with contextlib.suppress(OSError):
        notes, current = _noted(repository, revision), _current(repository, revision)
        whole = all((folder / "snapshots" / commit / file).is_file() for file in files)
        known = None if current is None else notes.get(current[0])
        takes = current is None or whole or (known is not None and not known.whole)
        takes = takes and not any(note.listed > listed for note in notes.values())
        note = {
            "repository": repository,
            "revision": revision,
            "listed": listed,
            "files": [file for file in files if file.endswith(".parquet")],
            "whole": whole,
            "other": None if takes or current is None or current[0] == commit else current[0],
        }
        _write(folder / _NOTES, folder / _NOTES / f"{commit}.json", json.dumps(note))
        if takes:
            _write(folder / _NOTES, folder / "refs" / revision, commit)


def _write(folder: Path, path: Path, text: str) -> None:
    """Whole or not at all. What a kill leaves half-written lies in ``folder``, where nobody else looks."""
    for parent in (folder, path.parent):
        parent.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{path.name}-{os.getpid()}"
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _noted(repository: str, revision: str) -> dict[str, _Note]:
    """The commits of the revision of which files were fetched. One whose snapshot is gone, or whose note is damaged, is
    not among them."""
    found = {}
    for path in (_folder(repository) / _NOTES).glob("*.json"):
        try:
            note = json.loads(path.read_bytes())
            known = note["repository"] == repository and note["revision"] == revision
            if known and _COMMIT.fullmatch(path.stem) and (_folder(repository) / "snapshots" / path.stem).is_dir():
                files = [file for file in note["files"] if _is_plain(file)]
                found[path.stem] = _Note(int(note["listed"]), files, note["whole"] is True, note["other"])
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            continue
    return found


def _is_plain(file: object) -> bool:
    """Whether it names a file below the folder."""
    return isinstance(file, str) and not PurePosixPath(file).is_absolute() and ".." not in PurePosixPath(file).parts


def _with_gaps(files: list[str], revision: str) -> list[str]:
    """``files``, and those that are missing among 0000.parquet, 0001.parquet and so on, up to the last that is there.

    So the hub numbers those that it made; in the data set itself 0000 must be there, else they may be years.
    """
    numbers: dict[PurePosixPath, set[int]] = {}
    for path in map(PurePosixPath, files):
        if path.suffix == ".parquet" and re.fullmatch("[0-9]{4}", path.stem):
            numbers.setdefault(path.parent, set()).add(int(path.stem))
    numbered = {
        str(folder / f"{number:04}.parquet")
        for folder, found in numbers.items()
        if revision == _CONVERTED or 0 in found
        for number in range(max(found) + 1)
    }
    return sorted({*files, *numbered})


def _fetched(name: str, repository: str, commit: str, files: list[str]) -> list[str]:
    """All of one commit, whatever happens to the data set meanwhile."""
    import huggingface_hub

    def fetch(file: str) -> str:
        return huggingface_hub.hf_hub_download(repository, file, repo_type="dataset", revision=commit)

    try:
        paths = [Path(patiently(partial(fetch, file))) for file in files]
    except hub_errors() as error:
        raise _refusal(name, error) from None
    return _sound(name, files, paths)


def _sound(name: str, files: list[str], paths: list[Path]) -> list[str]:
    """The paths, as none is damaged.

    Raises:
        DataError: one is; it is removed.
    """
    for file, path in zip(files, paths, strict=True):
        try:
            damage = damage_of(path)
        except OSError as error:
            raise _refusal(name, error) from None
        if damage is not None:
            raise DataError(f"{name}: {file} came damaged from the hub: {damage}; it was removed. Try again")
    return [os.fspath(path) for path in paths]


def _refusal(name: str, error: BaseException) -> DataError:
    return DataError(hub_failure(name, error, "data set", "Expected hub:OWNER/NAME"))


def _extensions(files: list[str]) -> str:
    found = sorted({PurePosixPath(file).suffix for file in files} - {""})
    return f"it has {', '.join(found[:8])}" if found else ""


def _natural(name: str) -> list[tuple[int, int, str]]:
    pieces = re.split(r"([0-9]+)", name)
    return [(0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]
