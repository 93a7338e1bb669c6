"""The wire format of Protocol Buffers (protobuf.dev, "Encoding"), as far as reading a few messages needs it."""

from __future__ import annotations

from collections.abc import Iterator


class WireError(ValueError):
    """Bytes that are no message."""


def read_varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    """The number at ``place``, seven bits a byte, the lowest first; and the place after it.

    Raises:
        WireError: it does not end, or has more than 64 bits.
    """
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise WireError("a number does not end")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
        shift += 7


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in their order: number and value.

    A value is an unsigned number (of types varint, fixed64 and fixed32) or bytes (of type length-delimited).

    Raises:
        WireError: the bytes are no message.
    """
    place = 0
    while place < len(message):
        tag, place = read_varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = read_varint(message, place)
            yield number, value
            continue
        if kind == 2:
            size, place = read_varint(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise WireError(f"field {number} is of type {kind}")
        if size > len(message) - place:
            raise WireError(f"field {number} is longer than its message")
        content = message[place : place + size]
        place += size
        yield number, content if kind == 2 else int.from_bytes(content, "little")


def signed(value: int) -> int:
    """An int64 from the unsigned number that it is written as."""
    return value - (1 << 64) if value >> 63 else value
