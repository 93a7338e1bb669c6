"""The lines of JSON that ``bertwright bench`` writes, read again: from any machine, and not trusted. Without torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertwright.errors import UserError

_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Rates:
    """How fast bertwright was on a machine.

    Attributes:
        case: "tokenize", "train", "infer" or "pretrain".
        device: the GPU's name, or else the CPU's.
        model, max_length, how, data: what was done: whoever did other work is not beside this one. ``how`` names what
            is not the usual: a frozen encoder, mean pooling, long texts not cut off.
        num_texts: of one turn.
        measured: when, in ISO 8601; "" where it is not known.
    """

    case: str
    device: str
    num_threads: int | None
    dtype: str | None
    model: str
    max_length: int | None
    how: str
    data: str
    num_texts: int
    texts_per_s: Spread
    usd_per_hour: float | None
    measured: str


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line.

    Raises:
        UserError: it cannot be read, or a line is no JSON object; with the line.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path}: found more than {_MOST_BYTES >> 20} MiB, expected lines of bertwright bench")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); expected lines of bertwright bench") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number:,}: expected a JSON object as bertwright bench writes it")
        found.append(value)
    return found


def has_rates(line: dict[str, Any]) -> bool:
    """Whether bertwright ran in what the line tells of: bench writes a line also where it did not."""
    contenders = line.get("contenders")
    named = contenders if isinstance(contenders, list) else []
    return not any(
        isinstance(one, dict) and one.get("name") == "bertwright" and one.get("texts_per_s") is None for one in named
    )


def rates_of(line: dict[str, Any], path: str | Path) -> Rates:
    """What a line of bench says of bertwright.

    Raises:
        UserError: it lacks something that bench writes.
    """
    try:
        ours = next(one for one in line["contenders"] if one["name"] == "bertwright")
        environment = line["environment"]
        found = Rates(
            case=str(line["case"]),
            device=str(environment.get("gpu") or environment.get("cpu") or "unknown"),
            num_threads=_whole(environment.get("num_threads")),
            dtype=None if line.get("dtype") is None else str(line["dtype"]),
            model=str(line.get("model") or ""),
            max_length=_whole(line.get("max_length")),
            how="mean pooling" if line.get("pooling") == "mean" else "",
            data=str(line.get("data_sha256") or ""),
            num_texts=int(finite(line["num_texts"])),
            texts_per_s=Spread(*(finite(ours["texts_per_s"][name]) for name in ("median", "min", "max"))),
            usd_per_hour=None if line.get("usd_per_hour") is None else finite(line["usd_per_hour"]),
            measured=str(line.get("measured") or ""),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, StopIteration):
        raise damaged(path) from None
    if 0 in (found.texts_per_s.median, found.texts_per_s.min, found.texts_per_s.max) or found.num_texts < 1:
        raise damaged(path)
    return found


def _whole(value: Any) -> int | None:
    return None if value is None else int(finite(value))


def finite(value: Any) -> float:
    """A finite number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError
    return float(value)


def damaged(path: str | Path) -> UserError:
    """What to say of a line that bench did not write."""
    return UserError(f"{path}: a line lacks what bench writes; expected a file of bertwright bench")
