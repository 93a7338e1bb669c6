"""CRC-32C against published values and against the definition, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from bertwright.model.crc32c import crc32c, unmasked


def bit_by_bit(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),  # the check value of catalogues of CRCs
        (bytes(32), 0x8A9136AA),  # this and the next three: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("num_bytes", [1, 3, 4, 5, 1023, 1024, 1025, 2048, 5000, 20_001])
def test_any_length(num_bytes: int) -> None:
    data = np.random.default_rng(num_bytes).bytes(num_bytes)
    assert crc32c(data) == bit_by_bit(data)


def test_blocks_are_put_together() -> None:
    """4 MiB and more go block by block: moving one bit in any of them is seen, and zeros before are not nothing."""
    data = bytearray(np.random.default_rng(0).bytes(2 * (1 << 22) + 100))
    whole = crc32c(data)
    for place in (0, (1 << 22) - 1, 1 << 22, len(data) - 1):
        data[place] ^= 1
        assert crc32c(data) != whole
        data[place] ^= 1
    # A CRC is linear: of three texts of one length xor-ed together it is the xor of theirs.
    a, b = np.frombuffer(data, np.uint8), np.frombuffer(np.random.default_rng(1).bytes(len(data)), np.uint8)
    assert crc32c(a ^ b) == crc32c(a) ^ crc32c(b) ^ crc32c(bytes(len(data)))


def test_mask() -> None:
    """LevelDB's (util/crc32c.h): rotated right by 15 bits, and a constant added."""
    crc = 0x12345678
    stored = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert unmasked(stored) == crc
