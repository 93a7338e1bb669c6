"""A writer of TensorFlow's checkpoints for tests: what TensorFlow on this machine cannot write, and broken ones.

Only for what the fixtures by TensorFlow itself (tests/golden/tensorflow) do not cover.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bertwright.model.crc32c import crc32c

MAGIC = 0xDB4775248B80FB57
DTYPES = {"float32": 1, "float64": 2, "int64": 9, "bfloat16": 14, "float16": 19}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def masked(crc: int) -> bytes:
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def block(entries: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """A block without shared beginnings of keys, with its trailer."""
    content = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
    content += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    trailed = content + bytes([compression])
    return trailed + masked(crc32c(trailed))


def table(entries: list[tuple[bytes, bytes]], compression: int = 0, per_block: int = 5) -> bytes:
    out, index = b"", []
    for first in range(0, len(entries), per_block):
        part = entries[first : first + per_block]
        made = block(part, compression)
        index.append((part[-1][0], varint(len(out)) + varint(len(made) - 5)))
        out += made
    handles = b""
    for made in (block([]), block(index)):
        handles += varint(len(out)) + varint(len(made) - 5)
        out += made
    return out + handles.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def header(num_shards: int = 1, endianness: int = 0) -> bytes:
    return number(1, num_shards) + number(2, endianness) + message(3, number(1, 1))


def entry(
    dtype: int, shape: tuple[int, ...], offset: int, data: bytes, shard: int = 0, size: int | None = None
) -> bytes:
    dimensions = b"".join(message(2, number(1, dimension)) for dimension in shape)
    crc = varint(6 << 3 | 5) + masked(crc32c(data))
    place = number(3, shard) + number(4, offset) + number(5, len(data) if size is None else size)
    return number(1, dtype) + message(2, dimensions) + place + crc


def write(prefix: Path, tensors: Mapping[str, np.ndarray], endianness: int = 0, bfloat16: bool = False) -> None:
    """A whole checkpoint in one data file; endianness 1 is big-endian. With ``bfloat16`` floats are cut."""
    data, entries = b"", [(b"", header(endianness=endianness))]
    for name in sorted(tensors):
        values = np.asarray(tensors[name])
        kind = str(values.dtype)
        if bfloat16 and kind == "float32":
            kind, values = "bfloat16", (values.view(np.uint32) >> 16).astype(np.uint16)
        written = values.astype(values.dtype.newbyteorder(">" if endianness == 1 else "<")).tobytes()
        entries.append((name.encode(), entry(DTYPES[kind], values.shape, len(data), written)))
        data += written
    prefix.with_name(prefix.name + ".index").write_bytes(table(entries))
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)
