"""What is fuzzed: a parser, valid inputs of it, and how they are spoiled."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertwright.errors import UserError

Case = dict[str, bytes]
"""An input: the content of each file, by its path in the folder that the target is given."""

CORPUS = Path(__file__).parent / "corpus"
MOST_MESSAGE_CHARACTERS = 2_000


@dataclass(frozen=True)
class Codec:
    """How to get at what a file holds, and to put it back: what is spoiled inside passes the outer checks."""

    unpack: Callable[[bytes], bytes]
    pack: Callable[[bytes, bytes], bytes]
    """Of the new content and the old file."""


@dataclass(frozen=True)
class Target:
    """A parser under test.

    Attributes:
        check: reads the files in a folder; a ``UserError`` is a right answer, any other exception a fault.
        seeds: makes valid inputs by name; they are then kept in the corpus.
        generate: draws whole inputs with hypothesis, where there is more to say than mutations of the seeds do.
        codecs: by the end of a file's name.
        repair: puts sizes and checksums right, so that what is spoiled is not refused for these alone.
        words: what is put into files beside what is put into all.
    """

    name: str
    check: Callable[[Path], object]
    seeds: Callable[[], Mapping[str, Case]]
    generate: Callable[[], Any] | None = None
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    repair: Callable[[Case], Case] | None = None
    words: tuple[bytes, ...] = ()


class Fault(AssertionError):
    """A target did what it must not do."""


refusals: list[str] = []
"""What was refused since somebody emptied it: what a seed is refused for, it does not test."""


def refused(work: Callable[[], Any]) -> Any:
    """What ``work`` returns; None where it is a ``UserError``, whose message must be one line that can be shown."""
    try:
        return work()
    except UserError as error:
        refusals.append(str(error))
        check_message(str(error))
        return None


def check_message(message: str) -> None:
    """Raise unless it is one line of a sensible length."""
    if not message.strip() or len(message.splitlines()) != 1:
        raise Fault(f"a message of {len(message.splitlines())} lines: {message[:300]!r}")
    if len(message) > MOST_MESSAGE_CHARACTERS:
        raise Fault(f"a message of {len(message):,} characters: {message[:300]!r}")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in "\u202e\u2067" for char in message):
        raise Fault(f"a message with characters that control a terminal: {message[:300]!r}")


def write_case(folder: Path, case: Case) -> None:
    """Write the files of ``case``, whose names lead nowhere else."""
    for name, content in case.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_case(folder: Path) -> Case:
    """The files in ``folder``."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def corpus_of(name: str) -> Iterator[tuple[str, Case]]:
    """The kept inputs of a target by name: its seeds, and what once failed."""
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted((CORPUS / name).iterdir()):
            yield folder.name, read_case(folder)
