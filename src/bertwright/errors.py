"""Errors that a user can cause: one line that says what, what was found, what was expected and what to do."""

from __future__ import annotations

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


class UserError(Exception):
    """Something that the user can put right. The shell shows its one line and exits with code 2."""


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
