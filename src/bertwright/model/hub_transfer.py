"""Transfers to and from the hub that survive its bad moments, and a look at whether what came is what was sent."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

from bertwright.model.hub_failure import http_error, is_unreadable, named, xet_errors
from bertwright.progress import Reporter

_WAITS_S = (1.0, 2.0, 4.0, 8.0)
_PASSING = (408, 429, 500, 502, 503, 504)
_BLOCK_BYTES = 1 << 20

Result = TypeVar("Result")


def patiently(
    transfer: Callable[[], Result],
    say: Callable[[str], object] = lambda _: None,
    waits_s: Iterable[float] = _WAITS_S,
) -> Result:
    """What ``transfer`` gives; done again, later and later, while what it meets is a thing that passes.

    That is a server which is overloaded or fails, or a connection that is cut; not one that was never there. What a
    transfer has done it must be able to find done: huggingface_hub keeps the files that came whole. Where hf_xet, its
    way for large files, gives up, it goes on without, from then on.

    Raises:
        Exception: what the hub or the line did where it does not pass, or has not passed after all ``waits_s``; so the
            hub's own refusal of a listing, where huggingface_hub would say that the files are not on this machine.
    """
    waits = iter(waits_s)
    faults: tuple[type[Exception], ...] = (OSError, RuntimeError, http_error(), *xet_errors())
    while True:
        try:
            return transfer()
        except faults as error:
            reason = _reason(error)
        if _is_of_xet(reason) and _leave_out_xet():
            Reporter().warn(f"hf_xet gave up ({named(reason)}); large files come and go without it from here on")
            continue
        wait_s = next(waits, None)
        if wait_s is None or not passes(reason):
            raise reason
        say(f"the hub: {named(reason)}; once more in {wait_s:g} s")
        time.sleep(wait_s)


def _reason(error: Exception) -> Exception:
    """What happened: of a listing that failed huggingface_hub says only that there is no copy on this machine, and of a
    file that was sent that it was not."""
    from huggingface_hub import errors

    cause = error.__cause__
    wraps = isinstance(error, errors.LocalEntryNotFoundError | RuntimeError)  # RuntimeError: of a file that was sent
    if wraps and isinstance(cause, (OSError, http_error())):
        return cause
    return error


def _is_of_xet(error: BaseException) -> bool:
    """Whether it may be hf_xet that gave up, over a status or a connection: it has few names of its own for that."""
    module = type(error).__module__
    plain = module == "builtins" and not isinstance(error, RecursionError)
    return (
        module == "hf_xet"
        or isinstance(error, xet_errors())
        or (plain and isinstance(error, RuntimeError | ConnectionError | TimeoutError))
    )


def _leave_out_xet() -> bool:
    """Whether hf_xet was in use until now."""
    from huggingface_hub import constants

    if getattr(constants, "HF_HUB_DISABLE_XET", True) or importlib.util.find_spec("hf_xet") is None:
        return False
    constants.HF_HUB_DISABLE_XET = True
    return True


def passes(error: BaseException) -> bool:
    """Whether it may be gone in a moment: the hub fails or is overloaded, or a connection was cut."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return getattr(getattr(error, "response", None), "status_code", None) in _PASSING
    # A local cause has a number; a file of another size than announced has none, nor has a connection that was cut.
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) or is_unreadable(error):
        return False
    # Of requests, which older versions of huggingface_hub use, these are OSErrors.
    if isinstance(error, OSError) and not isinstance(error, http_error()):
        return error.errno is None and "Consistency check failed" in str(error)
    return "connect" not in type(error).__name__.lower()  # nobody is there: waiting does not help


def damage_of(path: Path) -> str | None:
    """What is wrong with a file of huggingface_hub's cache, which is then removed from it; None where nothing is.

    The cache names a file by what the hub says of it: the SHA-256 of a large one, git's SHA-1 of another. That is where
    a snapshot's file leads to, which may lead on, to a store that all repositories share, under a name of hf_xet's. A
    file whose name says neither, as where the cache holds copies, is not looked at.

    Raises:
        OSError: it cannot be read.
    """
    named_by_hub = path.parent / os.readlink(path) if path.is_symlink() else path
    expected = named_by_hub.name
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):
        return None
    sha256, git_sha1 = checksums(path)
    found = sha256 if len(expected) == 64 else git_sha1
    if found == expected:
        return None
    for link in (path, named_by_hub, path.resolve()):
        link.unlink(missing_ok=True)
    return f"its checksum is {found[:12]}..., expected {expected[:12]}..."


def damage_in(folder: Path, patterns: Collection[str]) -> str | None:
    """The first file in ``folder`` that is damaged, with what is wrong; all that are damaged are removed.

    Only those whose names fit one of ``patterns`` are read: the others are other programs'.
    """
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    found = [f"{path.name}: {damage}" for path in paths if (damage := damage_of(path))]
    return found[0] if found else None


def checksums(path: Path) -> tuple[str, str]:
    """A file's SHA-256, and git's SHA-1 of it: what the hub calls a large file and another one.

    Raises:
        OSError: it cannot be read.
    """
    sha256 = hashlib.sha256()
    git_sha1 = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            sha256.update(block)
            git_sha1.update(block)
    return sha256.hexdigest(), git_sha1.hexdigest()
