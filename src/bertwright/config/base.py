"""Every setting of every act: typed, validated when built, unknown keys refused by name.

The command line's flags derive from these classes, a ``--config FILE.toml`` is read into them, and a run's
``config.json`` holds them resolved, so that a run can be run again from its own record.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from bertwright.errors import UserError

# Settings that hold paths, and those that hold a model's name or its folder's path.
_PATHS = {
    *("output", "train", "test", "validation", "data", "run", "runs", "model", "tokenizer", "figures", "tables"),
    *("teacher", "wheels", "unlabelled", "teacher_scores"),
    *("checkpoint", "vocabulary"),
    *("corpus", "cache", "word_embeddings"),
    *("plan", "measured", "results", "logs", "report"),
    *("small", "large"),
}


def expand_home(path: str) -> str:
    """``path`` with the user's home in place of a "~" that is its first part: there may be no shell that did it."""
    return os.path.expanduser(path) if path == "~" or path.startswith(("~/", f"~{os.sep}")) else path


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about what it is given."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), defer_build=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_paths(cls, values: Any) -> Any:
        """Paths are taken as strings, "~" as the user's home, and one file where several may stand as a list of one."""
        if not isinstance(values, Mapping):
            return values
        plain = {}
        for name, value in values.items():
            kind = cls.model_fields[name].annotation if name in cls.model_fields else None
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            if kind == tuple[str, ...] and isinstance(value, str):
                value = (value,)
            elif isinstance(value, list | tuple):
                value = tuple(os.fspath(item) if isinstance(item, os.PathLike) else item for item in value)
            if name in _PATHS:
                if isinstance(value, str):
                    value = expand_home(value)
                elif isinstance(value, tuple):
                    value = tuple(expand_home(item) if isinstance(item, str) else item for item in value)
            plain[name] = value
        return plain


AnySettings = TypeVar("AnySettings", bound=Settings)


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with those of ``over`` in their place; of settings that exclude each other, the one in ``over``."""
    kept = dict(values)
    for one, other in (
        *(("steps", "epochs"), ("validation", "validation_share")),
        *(("budget", "epochs"), ("budget", "steps")),
    ):
        if one in over:
            kept.pop(other, None)
        if other in over:
            kept.pop(one, None)
    return {**kept, **over}


def build(kind: type[AnySettings], values: Mapping[str, Any], source: str = "") -> AnySettings:
    """Settings of ``kind`` from a mapping of names to values.

    ``source`` says where the values come from (a file's name) and opens the error message.

    Raises:
        UserError: an unknown name (with the nearest known one), or a value that its setting refuses.
    """
    prefix = f"{source}: " if source else ""
    known = kind.model_fields
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; the known ones are {', '.join(sorted(known))}"
            raise UserError(f"{prefix}unknown setting {name!r}{hint}")
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(prefix + explain(error)) from None
    except UnicodeEncodeError:  # of pydantic, which wants to repeat the value
        raise UserError(f"{prefix}found half a character (a surrogate alone), expected whole ones") from None


def explain(error: ValidationError) -> str:
    """The first complaint of pydantic as one sentence in this project's words."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = "--" + str(first["loc"][0]).replace("_", "-")
    if first["type"] == "missing":
        return f"{name} is required"
    return f"{name}: found {first['input']!r}; {message[0].lower()}{message[1:]}"


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The settings in a .toml file, or in a run's config.json.

    Raises:
        UserError: the file is missing or is not TOML (or JSON).
    """
    path = Path(expand_home(os.fspath(path)))
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(values, dict):
                values = values.get("settings", values)
        else:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --config takes a .toml file or a run's config.json") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, no TOML, no JSON, or a huge integer
        raise UserError(f"{path}: cannot be read as settings ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: found {type(values).__name__}, expected names with values")
    return values
