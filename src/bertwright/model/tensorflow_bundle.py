"""TensorFlow's checkpoints (PREFIX.index and PREFIX.data-00000-of-00001), read without TensorFlow.

The index is a table as LevelDB writes it (github.com/google/leveldb, doc/table_format.md): blocks of sorted keys with
values, a block of where they are, and a footer. Its values are messages of TensorFlow's
core/protobuf/tensor_bundle.proto: under the empty key a BundleHeaderProto, under a tensor's name a BundleEntryProto
that says where in which data file its bytes are. Every block and every tensor carries a CRC-32C.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertwright.errors import CheckpointError, shown
from bertwright.model.crc32c import crc32c, unmasked
from bertwright.model.protocol_buffers import WireError, fields, read_varint, signed

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER_BYTES = 5  # of a block: how it is compressed, and the CRC of both
# BERT-large with what its optimizer kept: 1,200 entries, 100 kB. Keys are written without the beginning that they share
# with the one before, so that few bytes can stand for many.
_MOST_INDEX_BYTES = 1 << 26
_MOST_ENTRIES = 100_000
_MOST_KEY_BYTES = 4096
_MOST_BYTES_OF_ALL_KEYS = 1 << 24
_MOST_DIMENSIONS = 8

# TensorFlow's core/framework/types.proto: those that a model's weights may have, as NumPy's. bfloat16 is read as the
# 16 upper bits of a float32.
_FLOATS = {1: "f4", 2: "f8", 19: "f2", 14: "bfloat16"}
_TYPE_NAMES = {3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 9: "int64", 10: "bool"}


@dataclass(frozen=True)
class Entry:
    """Where a tensor is: the data file ``shard``, from ``offset`` on, ``size`` bytes."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    is_sliced: bool


class Bundle:
    """A checkpoint's tensors by name. Opening reads the index alone.

    Attributes:
        entries: where each tensor is, by its name.
    """

    def __init__(self, prefix: Path) -> None:
        """Open PREFIX.index.

        Raises:
            CheckpointError: the index cannot be read, is damaged, or of a kind that is not known.
        """
        self.prefix = prefix
        self.index_path = prefix.with_name(prefix.name + ".index")
        self.entries: dict[str, Entry] = {}
        header = None
        try:
            for key, value in _table(_read_index(self.index_path)):
                if not key:
                    header = value
                elif key[0]:  # a slice's key starts with a zero byte
                    self.entries[_name(key)] = _entry(value)
            _check_places(self.entries)
            if header is None:
                raise WireError("it has no header")
            self.num_shards, self.is_big_endian = self._header(header)
        except (WireError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self.index_path}: damaged: {error}; get the file again") from None

    def read(self, name: str) -> np.ndarray:
        """A tensor of real numbers, in the machine's byte order; float32, but for float64 and float16.

        Raises:
            CheckpointError: its data file is missing or too short, its bytes are not those that were written, or it
                holds something else than real numbers.
        """
        entry = self.entries[name]
        where = f"{self.prefix}: tensor {name}"
        if entry.is_sliced:
            raise CheckpointError(
                f"{where} is saved in slices (a partitioned variable), expected it whole; save it again without "
                "partitions"
            )
        if entry.dtype not in _FLOATS:
            kind = _TYPE_NAMES.get(entry.dtype, f"type {entry.dtype}")
            raise CheckpointError(f"{where} holds {kind}, expected real numbers")
        kind = _FLOATS[entry.dtype]
        stored = np.dtype("u2" if kind == "bfloat16" else kind).newbyteorder(">" if self.is_big_endian else "<")
        if math.prod(entry.shape) * stored.itemsize != entry.size:
            raise CheckpointError(
                f"{self.index_path}: damaged: tensor {name} of shape {entry.shape} has {entry.size:,} bytes, expected "
                f"{math.prod(entry.shape) * stored.itemsize:,}; get the file again"
            )
        data = self._bytes(entry, where)
        if crc32c(data) != unmasked(entry.crc):
            raise CheckpointError(f"{where}: its bytes are not those that were written (CRC-32C differs); get it again")
        values = np.frombuffer(data, stored).reshape(entry.shape)
        if kind == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(stored.newbyteorder("="))

    def _bytes(self, entry: Entry, where: str) -> bytes:
        path = self.prefix.with_name(f"{self.prefix.name}.data-{entry.shard:05d}-of-{self.num_shards:05d}")
        if not 0 <= entry.shard < self.num_shards:
            raise CheckpointError(f"{where} is in data file {entry.shard}, expected one of {self.num_shards}")
        try:
            found = path.stat().st_size
            if entry.offset + entry.size > found:
                raise CheckpointError(
                    f"{path}: truncated: found {found:,} bytes, expected {entry.offset + entry.size:,} or more; get "
                    "the file again"
                )
            with open(path, "rb") as file:
                file.seek(entry.offset)
                data = file.read(entry.size)
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error.strerror or error}); a checkpoint is its .index and all of its "
                f"{self.num_shards} data files"
            ) from None
        if len(data) != entry.size:
            raise CheckpointError(f"{path}: truncated while it was read; get the file again")
        return data

    def _header(self, header: bytes) -> tuple[int, bool]:
        num_shards = endianness = 0
        for number, value in fields(header):
            if number == 1 and isinstance(value, int):
                num_shards = value
            elif number == 2 and isinstance(value, int):
                endianness = value
        if not 1 <= num_shards <= 100_000:
            raise CheckpointError(f"{self.index_path}: damaged: {num_shards:,} data files, expected 1 to 99,999")
        if endianness not in (0, 1):
            raise CheckpointError(
                f"{self.index_path}: byte order {endianness}, expected 0 (little-endian) or 1 (big-endian)"
            )
        return num_shards, endianness == 1


def _read_index(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_INDEX_BYTES:
            raise CheckpointError(
                f"{path}: {path.stat().st_size:,} bytes, expected an index of at most {_MOST_INDEX_BYTES:,}"
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _name(key: bytes) -> str:
    name = key.decode("utf-8")
    if not name.isprintable():
        raise WireError(f"{shown(name)} is no tensor's name")
    return name


def _check_places(entries: dict[str, Entry]) -> None:
    """Check that no two tensors share bytes of a data file: each would be read, and kept, in full."""
    placed = sorted((entry.shard, entry.offset, entry.size, name) for name, entry in entries.items() if entry.size)
    for (shard, offset, size, name), (next_shard, next_offset, _, other) in itertools.pairwise(placed):
        if shard == next_shard and next_offset < offset + size:
            raise WireError(f"tensors {name} and {other} are at the same place of a data file")


def _entry(message: bytes) -> Entry:
    """A BundleEntryProto."""
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    is_sliced = False
    for number, value in fields(message):
        if number in numbers and isinstance(value, int):
            numbers[number] = value
        elif number == 2 and isinstance(value, bytes):
            shape = _shape(value)
        elif number == 7:
            is_sliced = True
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], numbers[6], is_sliced)


def _shape(message: bytes) -> tuple[int, ...]:
    """A TensorShapeProto."""
    sizes = []
    for number, value in fields(message):
        if number == 2 and isinstance(value, bytes):
            sizes.append(
                signed(next((size for field, size in fields(value) if field == 1 and isinstance(size, int)), 0))
            )
        elif number == 3 and value:
            raise WireError("a tensor's shape is not known")
    if len(sizes) > _MOST_DIMENSIONS or any(size < 0 for size in sizes):
        raise WireError(f"a tensor's shape is {tuple(sizes)}")
    return tuple(sizes)


# --- the table -------------------------------------------------------------------------------------------------------


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in their order.

    Raises:
        WireError: it is no table; a block stands in it twice; keys do not ascend, or are too many.
    """
    if len(data) < _FOOTER_BYTES:
        raise WireError(f"found {len(data)} bytes, expected {_FOOTER_BYTES} or more")
    footer = data[-_FOOTER_BYTES:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise WireError("it does not end as an index does (truncated, or another kind of file)")
    _, place = _handle(footer, 0)  # of a block about other things, which is empty
    blocks, _ = _handle(footer, place)
    last, end = None, 0
    num_entries = num_key_bytes = 0
    for num_blocks, (_, handle) in enumerate(_block(data, blocks), 1):
        if num_blocks > _MOST_ENTRIES:
            raise WireError(f"it has more than {_MOST_ENTRIES:,} blocks")
        (offset, size), _ = _handle(handle, 0)
        if offset < end:
            raise WireError(f"the block at byte {offset:,} begins before the end of the one before it, {end:,}")
        end = offset + size + _TRAILER_BYTES
        for key, value in _block(data, (offset, size)):
            if last is not None and key <= last:
                raise WireError(f"key {shown(key)} is not after the one before it")
            last = key
            num_entries += 1
            num_key_bytes += len(key)
            if num_entries > _MOST_ENTRIES or num_key_bytes > _MOST_BYTES_OF_ALL_KEYS:
                raise WireError(
                    f"it has more than {_MOST_ENTRIES:,} entries, or {_MOST_BYTES_OF_ALL_KEYS:,} bytes of keys"
                )
            yield key, value


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    """Where a block is, (offset, size); and the place after that."""
    offset, place = read_varint(data, place)
    size, place = read_varint(data, place)
    return (offset, size), place


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block."""
    offset, size = handle
    end = offset + size
    if end + _TRAILER_BYTES > len(data) or size < 4:
        raise WireError(f"a block of {size:,} bytes at {offset:,} does not fit into {len(data):,}")
    if crc32c(data[offset : end + 1]) != unmasked(int.from_bytes(data[end + 1 : end + _TRAILER_BYTES], "little")):
        raise WireError(f"the block at byte {offset:,} is not as it was written (CRC-32C differs)")
    if data[end]:
        raise WireError(f"the block at byte {offset:,} is compressed (kind {data[end]}), which TensorFlow does not do")
    num_restarts = int.from_bytes(data[end - 4 : end], "little")
    entries = data[offset : max(offset, end - 4 - 4 * num_restarts)]
    key, place = b"", 0
    while place < len(entries):
        shared, place = read_varint(entries, place)
        unshared, place = read_varint(entries, place)
        value_size, place = read_varint(entries, place)
        if shared > len(key) or unshared + value_size > len(entries) - place:
            raise WireError(f"an entry of the block at byte {offset:,} does not fit into it")
        if shared + unshared > _MOST_KEY_BYTES:
            raise WireError(f"a key of {shared + unshared:,} bytes, expected at most {_MOST_KEY_BYTES:,}")
        key = key[:shared] + entries[place : place + unshared]
        place += unshared
        yield key, entries[place : place + value_size]
        place += value_size
