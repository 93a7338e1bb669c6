"""Errors that a user can cause: one line that says what, what was found, what was expected and what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


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


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    ``purpose`` completes the sentence "... needs <module>", for example ``"reading .parquet"``.

    Raises:
        UserError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise  # something that the module itself needs is broken: not ours to explain away
        raise UserError(f"{purpose} needs {module}: pip install 'bertwright[{extra}]'") from None
