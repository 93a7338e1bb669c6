"""The lines of JSON that ``bertwright bench`` writes, read again: from any machine, and not trusted. Without torch."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertwright.errors import UserError

# Other work for more than this share of the CPUs disturbs what is measured.
BUSY_SHARE = 0.1

_MOST_BYTES = 64 << 20
# No machine is slower or faster than this, none costs as much, and no count is as large: times and dollars that are
# made of them stay numbers that can be shown.
_RATES = (1e-6, 1e12)
_USD_PER_HOUR = 1e7
_COUNT = 1e12


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
        machine: what its owner calls the machine, such as "aws g6.xlarge"; "" where it has no name.
        model, max_length, how, data: what was done: whoever did other work is not beside this one. ``how`` names what
            is not the usual: a frozen encoder, mean pooling, long texts not cut off.
        batch_size: texts of an optimizer step: training in other batches is other work.
        num_texts: of one turn; 1 of a run, which takes all of its texts.
        measured: when, in ISO 8601; "" where it is not known.
        busy_share: of the CPUs, by others, when the measuring began.
        is_run: these are a whole run's, not those of a benchmark's turns.
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
    machine: str = ""
    batch_size: int | None = None
    busy_share: float | None = None
    is_run: bool = False

    @property
    def place(self) -> str:
        """The device and, where it has one, the name of the machine that it is in."""
        return f"{self.machine}: {self.device}" if self.machine else self.device


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
        UserError: it lacks something that bench writes, or holds what cannot be.
    """
    try:
        ours = next(one for one in line["contenders"] if one["name"] == "bertwright")
        environment = line["environment"]
        found = Rates(
            case=plain(line["case"]),
            device=plain(environment.get("gpu") or environment.get("cpu") or "unknown"),
            num_threads=whole(environment.get("num_threads")),
            dtype=None if line.get("dtype") is None else plain(line["dtype"]),
            model=plain(line.get("model") or ""),
            max_length=whole(line.get("max_length")),
            how="mean pooling" if line.get("pooling") == "mean" else "",
            data=plain(line.get("data_sha256") or ""),
            num_texts=whole(finite(line["num_texts"])) or 0,
            texts_per_s=Spread(*(finite(ours["texts_per_s"][name]) for name in ("median", "min", "max"))),
            usd_per_hour=None if line.get("usd_per_hour") is None else finite(line["usd_per_hour"]),
            measured=plain(line.get("measured") or ""),
            machine=plain(line.get("machine") or ""),
            batch_size=whole(line.get("batch_size")),
            busy_share=_share(line.get("busy_share_at_start")),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, StopIteration):
        raise damaged(path) from None
    if found.num_texts < 1:
        raise damaged(path)
    return checked(found, path)


def checked(rates: Rates, path: str | Path) -> Rates:
    """``rates``, if times and dollars can be made of them.

    Raises:
        UserError: a rate, a spread or a price that no machine has.
    """
    texts = rates.texts_per_s
    for value in (texts.min, texts.median, texts.max):
        if not _RATES[0] <= value <= _RATES[1]:
            raise UserError(f"{path}: found {value:g} texts/s, expected {_RATES[0]:g} to {_RATES[1]:g}")
    if not texts.min <= texts.median <= texts.max:
        raise UserError(
            f"{path}: found {texts.min:g} texts/s as the smallest, {texts.median:g} as the median and {texts.max:g} as "
            "the largest rate, expected them in this order"
        )
    if rates.usd_per_hour is not None and not 0 <= rates.usd_per_hour < _USD_PER_HOUR:
        raise UserError(
            f"{path}: found {rates.usd_per_hour:g} USD an hour, expected 0 to less than {_USD_PER_HOUR:,.0f}"
        )
    return rates


def plain(value: Any) -> str:
    """``value`` as text that can be written: lone surrogates, which JSON can hold and UTF-8 cannot, as U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", str(value))


def whole(value: Any) -> int | None:
    """A count; None is passed on.

    Raises:
        ValueError: it is no number, or too large for a count.
    """
    if value is None:
        return None
    if (number := finite(value)) > _COUNT:
        raise ValueError
    return int(number)


def _share(value: Any) -> float | None:
    """0 to 1; clocks that go back a little give shares just outside."""
    return None if value is None else min(1.0, finite(max(value, 0)))


def finite(value: Any) -> float:
    """A finite number of 0 or more.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError
    return float(value)


def damaged(path: str | Path) -> UserError:
    """What to say of a line that bench did not write."""
    return UserError(f"{path}: a line lacks what bench writes; expected a file of bertwright bench")
