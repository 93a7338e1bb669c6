"""The settings in fairseq's checkpoints: ``args``, an argparse Namespace, or ``cfg``, omegaconf's objects.

A file may hold anything in their place: other types, objects that hold themselves, one object at many places. Nothing
is copied, or followed further than to the setting that is asked for, and each one has a type that it must be of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertwright.errors import CheckpointError, shown
from bertwright.model.pickles import Record

# What fairseq's files name beside tensors. Nothing of it is imported: such objects become records of their attributes.
_RECORD_MODULES = ("fairseq.", "fairseq_cli.", "omegaconf.", "numpy.")
_RECORD_NAMES = frozenset(
    (
        "argparse.Namespace",
        "collections.defaultdict",
        "collections.deque",
        "typing.Any",
        *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
        *(
            f"builtins.{name}"
            for name in (
                "bool",
                "dict",
                "float",
                "frozenset",
                "int",
                "list",
                "object",
                "range",
                "slice",
                "str",
                "tuple",
            )
        ),
    )
)


def is_record(name: str) -> bool:
    """Whether objects of the class ``name`` are read as records: see ``bertwright.model.pickles``."""
    return name in _RECORD_NAMES or name.startswith(_RECORD_MODULES)


class FairseqSettings:
    """The settings of a model, by fairseq's names."""

    def __init__(self, saved: Mapping[str, Any], source: str) -> None:
        """``saved`` is what a checkpoint holds; ``source`` its name, for messages.

        Raises:
            CheckpointError: there are no settings in it.
        """
        self._source = source
        if saved.get("args") is not None:
            found = _members(saved["args"])
        else:
            whole = _members(saved.get("cfg"))
            found = None if whole is None else _members(whole.get("model"))
        if found is None:
            raise CheckpointError(f"{source}: neither args nor cfg in it; expected a checkpoint as fairseq saves it")
        self._values = found

    def check_flag(self, name: str, expected: bool) -> None:
        """Check that a setting is ``expected``, if it is there."""
        value = self._get(name, expected)
        if value is not expected:
            raise self._refused(name, value, repr(expected))

    def check_text(self, name: str, expected: str) -> None:
        """Check that a setting is ``expected``, if it is there."""
        value = self._get(name, expected)
        if type(value) is not str or value != expected:
            raise self._refused(name, value, f"{expected!r}, the only one that is computed here")

    def number(self, name: str) -> int | None:
        """A whole number above 0; None if it is not said."""
        value = self._get(name, None)
        if value is not None and (type(value) is not int or value < 1):
            raise self._refused(name, value, "a whole number above 0")
        return value

    def share(self, name: str, usual: float) -> float:
        """A number from 0 to below 1."""
        value = self._get(name, usual)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise self._refused(name, value, "a number from 0 to below 1")
        return float(value)

    def is_said(self, name: str) -> bool:
        """Whether a text or a list is there that is not empty."""
        value = self._get(name, None)
        if type(value) not in (str, list, type(None)):
            raise self._refused(name, value, "text, or nothing")
        return bool(value)

    def _get(self, name: str, usual: Any) -> Any:
        return _content(self._values.get(name, usual))

    def _refused(self, name: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(f"{self._source}: {name} is {shown(value)}, expected {expected}")


def _members(value: Any) -> Mapping[Any, Any] | None:
    """Names and values of a mapping, of argparse's Namespace or of omegaconf's DictConfig."""
    value = _content(value)
    if isinstance(value, Record):
        state = value.state
        value = state.get("_content", state) if isinstance(state, dict) else None
    return value if isinstance(value, dict) else None


def _content(value: Any) -> Any:
    """The value in one of omegaconf's nodes; anything else as it is."""
    if isinstance(value, Record) and isinstance(value.state, dict):
        return value.state.get("_val", value)
    return value
