"""Inputs that were valid, spoiled: hypothesis draws what is done to them, so that it can find the least that fails."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.target import Case, Target

_RAW = "\x02raw\x03"
# Put into the place of a value of JSON, as they stand.
JSON_VALUES = (
    "null", "true", "[]", "{}", '""', '"x"', "-1", "0", "1", "0.5", "-0.0", "2147483648", "9223372036854775807",
    "18446744073709551616", "1" + "0" * 400, "9" * 5_000, "1e308", "1e999", "NaN", "-Infinity",
    '"\\ud800"', '"a\\nb"', '"\\u0000"', '"\\u001b[31m"', '"../outside/secret"', '"/etc/passwd"', '"~root/x"',
    '"hub:a/b"',
    json.dumps("x" * 70_000), "[" * 60 + "]" * 60, "[[]]", '{"": 1}', '[1, "a", null]', '["a"]', "[1]", "[0.5, 0.5]",
    '{"a": {"b": []}}',
)  # fmt: skip
# Put into files of any kind.
WORDS = (
    b"\0", b"\n", b"\r", b"\r\n", b'"', b",", b"\t", b"'", b"\\", b"[", b"{", b"=", b" ||| ", b"-", b".",
    b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b"\\ud800", b"\xe2\x80\xa8", b"\x1b[2J",
    b"../outside/secret", b"/etc/passwd", b"~root/", b"%s%n", b"NaN", b"-inf", b"1e999", b"-1", b"0x10", b"9" * 5_000,
    b"[" * 100_000, b'{"a":' * 20_000, b"(" * 5_000, b"a" * 70_000,
    b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\xff" * 7 + b"\x7f", b"\x80\x02cposix\nsystem\nX\x01\0\0\0x\x85R.",
)  # fmt: skip
_NUMBERS = (
    b"0", b"-1", b"1", b"2", b"255", b"65536", b"2147483647", b"4294967296", b"9223372036854775808", b"1e9", b"0.1",
    b"1" + b"0" * 30, b"9" * 5_000, b"NaN", b"Infinity",
)  # fmt: skip
_FIXED = (0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_DIGITS = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")
_MOST_BYTES = 4 << 20
_PLACES = 1 << 20

Edit = tuple[str, int, int, int, bool]
_OPERATIONS = (
    "flip", "byte", "word", "word", "delete", "cut", "repeat", "splice", "fixed", "number", "json", "json", "json_key",
    "line", "drop", "empty", "swap",
)  # fmt: skip


def edits(most: int = 4) -> st.SearchStrategy[list[Edit]]:
    """What is done, in turn: the kind of it, which file, where, and with what; whether inside a packed file."""
    places = st.integers(0, _PLACES - 1)
    return st.lists(
        st.tuples(st.sampled_from(_OPERATIONS), st.integers(0, 30), places, places, st.booleans()),
        min_size=1,
        max_size=most,
    )


def cases(target: Target, seeds: Sequence[Case]) -> st.SearchStrategy[Case]:
    """Inputs of the target: spoiled seeds, and what it draws itself."""
    spoiled = st.builds(
        lambda first, second, todo, mend: spoil(target, first, second, todo, mend),
        st.sampled_from(seeds),
        st.sampled_from(seeds),
        edits(),
        st.booleans(),
    )
    if target.generate is None:
        return spoiled
    drawn = target.generate()
    respoiled = st.builds(
        lambda case, todo, mend: spoil(target, case, case, todo, mend), drawn, edits(2), st.booleans()
    )
    return st.one_of(spoiled, drawn, respoiled)


def spoil(target: Target, case: Case, other: Case, todo: Sequence[Edit], mend: bool) -> Case:
    """``case`` with the edits done; pieces of ``other`` may come in."""
    case = dict(case)
    for operation, file, place, more, inside in todo:
        names = sorted(case)
        if not names:
            break
        name = names[file % len(names)]
        if operation == "drop":
            if len(names) > 1:
                del case[name]
        elif operation == "empty":
            case[name] = b""
        elif operation == "swap":
            with_name = names[more % len(names)]
            case[name], case[with_name] = case[with_name], case[name]
        else:
            words = (*WORDS, *target.words)
            donor = other.get(name) or next(iter(other.values()), b"")
            codec = (
                next((codec for end, codec in target.codecs.items() if name.endswith(end)), None) if inside else None
            )
            packed = case[name]
            if codec is not None:
                try:
                    content = codec.unpack(packed)
                except Exception:  # noqa: BLE001 - spoiled before: it stays as it is
                    continue
                case[name] = codec.pack(_edited(content, donor, operation, place, more, words), packed)
            else:
                case[name] = _edited(packed, donor, operation, place, more, words)
        if len(case.get(name, b"")) > _MOST_BYTES:
            case[name] = case[name][:_MOST_BYTES]
    return target.repair(case) if mend and target.repair is not None else case


def _edited(data: bytes, donor: bytes, operation: str, place: int, more: int, words: Sequence[bytes]) -> bytes:
    at = place * (len(data) + 1) // _PLACES
    if operation == "flip":
        at = min(at, len(data) - 1)
        return data if not data else data[:at] + bytes([data[at] ^ (1 << more % 8)]) + data[at + 1 :]
    if operation == "byte":
        return data[:at] + bytes([more % 256]) + data[at + 1 :]
    if operation == "word":
        over = more % 3 == 0  # in the place of as many bytes
        word = words[more // 3 % len(words)]
        return data[:at] + word + data[at + (len(word) if over else 0) :]
    if operation == "delete":
        return data[:at] + data[at + 1 + more % 64 :]
    if operation == "cut":
        return data[:at]
    if operation == "repeat":
        size = 1 + more % 256
        return data[:at] + data[at : at + size] * (2 + more // 256 % 50) + data[at + size :]
    if operation == "splice":
        begin = more * (len(donor) + 1) // _PLACES
        return data[:at] + donor[begin : begin + 1 + place % 512] + data[at:]
    if operation == "fixed":
        width = (1, 2, 4, 8)[more % 4]
        value = _FIXED[more // 4 % len(_FIXED)] % (1 << 8 * width)
        order = "little" if more % 5 else "big"
        return data[:at] + value.to_bytes(width, order) + data[at + width :]
    if operation == "number":
        found = list(_DIGITS.finditer(data[: 1 << 16]))
        if not found:
            return data
        one = found[place * len(found) // _PLACES]
        return data[: one.start()] + _NUMBERS[more % len(_NUMBERS)] + data[one.end() :]
    if operation == "line":
        lines = data.split(b"\n")
        number = place * len(lines) // _PLACES
        line = lines[number]
        change = more % 4
        lines[number : number + 1] = ([], [line, line], [line[::-1]], [line * 3])[change]
        return b"\n".join(lines)
    return _edited_json(data, place, more, keys=operation == "json_key")


def _edited_json(data: bytes, place: int, more: int, keys: bool) -> bytes:
    """JSON, also of a line, with another value somewhere, or without a key."""
    lines = [data]
    number = 0
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        lines = data.split(b"\n")
        number = place * len(lines) // _PLACES
        try:
            value = json.loads(lines[number])
        except (ValueError, RecursionError):
            return data
    spots = _spots(value)
    if not spots:
        lines[number] = JSON_VALUES[more % len(JSON_VALUES)].encode()
        return b"\n".join(lines)
    holder, key = spots[place * 31 % len(spots)]
    if keys and isinstance(holder, dict):
        held = holder.pop(key)
        if more % 3:
            holder[("", "../outside/secret", "x" * 300, "\ud800", key + "x")[more // 3 % 5]] = held
    elif keys:
        holder.insert(key, holder[key])
    else:
        holder[key] = _RAW
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        return data
    lines[number] = text.replace(json.dumps(_RAW), JSON_VALUES[more % len(JSON_VALUES)]).encode()
    return b"\n".join(lines)


def _spots(value: Any, most: int = 5_000) -> list[tuple[Any, Any]]:
    """Where values stand: what holds them, and their key or place in it."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo and len(found) < most:
        holder = todo.pop()
        items = holder.items() if isinstance(holder, Mapping) else enumerate(holder) if isinstance(holder, list) else ()
        for key, held in list(items):
            found.append((holder, key))
            todo.append(held)
    return found
