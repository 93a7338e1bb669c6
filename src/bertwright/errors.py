"""Errors that a user can cause: one line that says what, what was found, what was expected and what to do."""

from __future__ import annotations

import unicodedata

_MOST_CHARACTERS = 100
_MOST_BITS = 256


def shown(value: object) -> str:
    """A value from a file as it may stand in a message: short, whatever it is."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length():,} bits"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= _MOST_CHARACTERS else f"{value[:_MOST_CHARACTERS]!r}..."
    return f"a {type(value).__name__}"


_MOST_OF_A_MESSAGE = 1_500
_LAST_OF_A_MESSAGE = 300
# Embeddings, overrides and isolates of writing direction (Unicode Standard Annex 9): they reorder what stands around.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def in_a_line(message: str) -> str:
    """``message`` as one line that a terminal only shows: names of files, values of them and what other libraries say
    come into messages as they are, and may hold line breaks, control characters or megabytes."""
    if len(message) > _MOST_OF_A_MESSAGE:
        first = _MOST_OF_A_MESSAGE - _LAST_OF_A_MESSAGE
        message = f"{message[:first]} [...] {message[-_LAST_OF_A_MESSAGE:]}"
    if message.isprintable():
        return message
    return "".join(map(_shown_character, message))


def _shown_character(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _REORDERING:
        return character.encode("unicode_escape").decode("ascii")
    return character


class UserError(Exception):
    """Something that the user can put right. The shell shows its one line and exits with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(in_a_line(message))


class DataError(UserError):
    """A data file that cannot be read or used: names the file and, where there is one, the line."""


class CheckpointError(UserError):
    """A model folder or file that cannot be used: names the file and the tensor or setting."""


class TrainingError(UserError):
    """A training that cannot go on, such as a loss that is no longer a number."""


class RunError(UserError):
    """A run folder that is missing, unfinished, damaged or in the way."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a run was going: what is kept, and how to go on, has been said on standard error."""

    exit_code = 130
