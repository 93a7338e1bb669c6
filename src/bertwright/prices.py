"""What machines cost: a dated table that comes with the package, or a newer one of the user's.

Columns of the file, in any order:

    cloud, region, machine     as the seller names them; together they name a row
    accelerator                what it is called; "none (CPU: ...)" for machines without one
    num_accelerators           GPUs, or chips of a TPU; 0 without one
    num_cpus, memory_gib       of the machine; empty where not known
    usd_per_hour               of the whole machine, without a commitment
    spot_usd_per_hour          where it may be taken away at any moment; empty where none is known
    as_of                      YYYY-MM-DD, when the price held; empty where not known
    source, note               where the price is from, and what to doubt about it; a note with "doubtful" in it marks
                               the price wherever it is shown
"""

from __future__ import annotations

import csv
import datetime
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bertwright.errors import UserError
from bertwright.runs import write_text

SHIPPED = Path(__file__).with_name("prices.csv")
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Price:
    """A machine and its price; see the module's docstring."""

    cloud: str
    region: str
    machine: str
    accelerator: str
    num_accelerators: int
    num_cpus: int | None
    memory_gib: float | None
    usd_per_hour: float
    spot_usd_per_hour: float | None
    as_of: str
    source: str
    note: str

    @property
    def name(self) -> str:
        """``cloud/machine``, which names it but for the region."""
        return f"{self.cloud}/{self.machine}"

    @property
    def doubtful(self) -> bool:
        """Whether the note says so: such a price is never shown without a mark."""
        return "doubtful" in self.note.casefold()

    def record(self) -> dict[str, Any]:
        return asdict(self)


def user_file() -> Path:
    """Where a newer table is kept: ``bertwright/prices.csv`` among the user's settings (XDG_CONFIG_HOME)."""
    root = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(root) / "bertwright" / "prices.csv"


def load_prices() -> tuple[list[Price], Path]:
    """The user's table, or else the one that came with the package; and its file.

    Raises:
        UserError: the user's table is damaged.
    """
    path = user_file()
    found = path if path.is_file() else SHIPPED
    return read_prices(found), found


def read_prices(path: Path) -> list[Price]:
    """The rows of a table.

    Raises:
        UserError: it cannot be read, lacks a column, or a value is none; with the line.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path}: found more than {_MOST_BYTES >> 20} MiB, expected a table of prices")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); expected a csv file of prices") from None
    reader = csv.DictReader(io.StringIO(text), restkey="", strict=True)
    prices: dict[tuple[str, str, str], Price] = {}
    try:
        missing = [field.name for field in fields(Price) if field.name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: column {missing[0]} is missing; expected {', '.join(_COLUMNS)}")
        for row in reader:
            where = f"{path}, line {reader.line_num:,}"
            if row.get("") is not None or None in row.values():
                raise UserError(
                    f"{where}: found another number of values than the header's {len(reader.fieldnames or ())}"
                )
            price = _price(row, where)
            key = (price.cloud, price.region, price.machine)
            if key in prices:
                raise UserError(f"{where}: {price.name} in {price.region} is there twice")
            prices[key] = price
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num:,}: cannot be read as csv ({error})") from None
    if not prices:
        raise UserError(f"{path}: no prices in it, expected at least one row")
    return list(prices.values())


_COLUMNS = [field.name for field in fields(Price)]


def _price(row: Mapping[str, str], where: str) -> Price:
    values = {name: row[name].strip() for name in _COLUMNS}
    for name in ("cloud", "machine", "accelerator"):
        if not values[name]:
            raise UserError(f"{where}: {name} is empty")
    if values["as_of"]:
        try:
            datetime.date.fromisoformat(values["as_of"])
        except ValueError:
            raise UserError(f"{where}: as_of is {values['as_of'][:40]!r}, expected YYYY-MM-DD or nothing") from None
    count = _number(values["num_accelerators"], "num_accelerators", where, whole=True)
    hour = _number(values["usd_per_hour"], "usd_per_hour", where)
    if count is None or hour is None:
        raise UserError(f"{where}: {'num_accelerators' if count is None else 'usd_per_hour'} is empty")
    cpus = _number(values["num_cpus"], "num_cpus", where, whole=True)
    return Price(
        cloud=values["cloud"],
        region=values["region"],
        machine=values["machine"],
        accelerator=values["accelerator"],
        num_accelerators=int(count),
        num_cpus=None if cpus is None else int(cpus),
        memory_gib=_number(values["memory_gib"], "memory_gib", where),
        usd_per_hour=hour,
        spot_usd_per_hour=_number(values["spot_usd_per_hour"], "spot_usd_per_hour", where),
        as_of=values["as_of"],
        source=values["source"],
        note=values["note"],
    )


def _number(text: str, name: str, where: str, whole: bool = False) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e7 or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{where}: {name} is {text[:40]!r}, expected {kind} of 0 or more")
    return value


def refresh(source: Path) -> tuple[int, Path]:
    """Take the table in ``source`` from now on; how many prices it has, and where it is kept.

    Raises:
        UserError: as :func:`read_prices`; the table of before stays.
    """
    prices, path = read_prices(source), user_file()
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: "" if value is None else value for name, value in price.record().items()} for price in prices
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
    return len(prices), path


def find_price(prices: Sequence[Price], name: str) -> Price:
    """The machine ``name``: as the seller calls it, with or without ``cloud/`` before it.

    Raises:
        UserError: there is none, or several sell one by that name.
    """
    found = [price for price in prices if name in (price.machine, price.name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name}: several are called so ({', '.join(f'{one.name} in {one.region}' for one in found)})")
    import difflib

    near = difflib.get_close_matches(name, [price.machine for price in prices] + [price.name for price in prices], 1)
    hint = f"; did you mean {near[0]}?" if near else ". See bertwright prices"
    raise UserError(f"{name}: no such machine in the table of prices{hint}")


def doubts(notes: Mapping[str, str]) -> list[str]:
    """What to say below a table in which prices are marked with "?": ``notes`` by the names of their machines."""
    return [f"? a doubtful price: {name}: {note}" for name, note in notes.items()]


def selected(prices: Sequence[Price], words: Sequence[str]) -> list[Price]:
    """Those whose cloud, machine or accelerator holds each of ``words``, whatever the case; the cheapest first."""
    found = [
        price
        for price in prices
        if all(word.lower() in f"{price.cloud} {price.machine} {price.accelerator}".lower() for word in words)
    ]
    return sorted(found, key=lambda price: price.usd_per_hour)
