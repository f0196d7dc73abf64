"""The checksums of many records at once.

One at a time they would take NumPy longer than everything else that is done with a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_MASK_DELTA = 0xA282EAD8
_LEAST, _MOST = 8, 512  # bytes of a block


def _table() -> np.ndarray:
    """What two bytes do to an empty register, for each pair of bytes."""
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> 1) ^ (table & 1) * np.uint32(_POLYNOMIAL)
    return table


_TABLE = _table()


@cache
def _moved(block: int) -> np.ndarray:
    """What a block of zeros does to a register, for each value of each of its four bytes: uint32 [4, 256]."""
    register = (np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, np.newaxis]).ravel()
    for _ in range(block // 2):
        register = _TABLE[register & 0xFFFF] ^ (register >> 16)
    return register.reshape(4, 256)


def masked_crc32c_of(records: Sequence[bytes], block: int | None = None) -> np.ndarray:
    """The checksum of each record as record files store it: uint32 [records].

    The records are cut into blocks of so many bytes, and NumPy goes through all blocks of all records side by side. By
    themselves blocks are about as large as a record, so that little of them is empty, and not too few to be many.

    >>> [hex(crc) for crc in masked_crc32c_of([b"", b"a", b"123456789"])]
    ['0xa282ead8', '0x28e46e78', '0xc78ab0e5']
    """
    # A register that starts as all ones is one that starts empty, before four bytes of which each bit is turned over.
    sizes = np.fromiter(map(len, records), np.int64, len(records))
    if block is None:
        mean = int(sizes.sum()) // max(len(records), 1)
        block = min(max(1 << mean.bit_length(), _LEAST), _MOST)
    counts = -(-np.maximum(sizes, 4) // block)
    starts = np.concatenate([[0], np.cumsum(counts)])
    grid = np.zeros(starts[-1] * block, np.uint8)
    stops, view = starts[1:] * block, grid.data
    for record, stop in zip(records, stops.tolist(), strict=True):
        view[stop - len(record) : stop] = record  # zeros in front change nothing
    (long,) = np.nonzero(sizes >= 4)
    grid[(stops - sizes)[long, np.newaxis] + np.arange(4)] ^= 0xFF
    register = np.zeros(starts[-1], np.uint32)
    for pair in np.ascontiguousarray(grid.view("<u2").reshape(-1, block // 2).T):
        register = _TABLE[(register ^ pair) & 0xFFFF] ^ (register >> 16)
    crc = register[starts[:-1]]
    for number in range(1, counts.max(initial=0)):
        (longer,) = np.nonzero(counts > number)
        crc[longer] = _after_zeros(crc[longer], block) ^ register[starts[longer] + number]
    for place in np.flatnonzero(sizes < 4).tolist():
        crc[place] = _of_few(records[place])
    crc ^= np.uint32(0xFFFFFFFF)
    return ((crc >> 15) | (crc << 17)) + np.uint32(_MASK_DELTA)


def _after_zeros(register: np.ndarray, block: int) -> np.ndarray:
    parts = [_moved(block)[byte][(register >> (8 * byte)) & 0xFF] for byte in range(4)]
    return parts[0] ^ parts[1] ^ parts[2] ^ parts[3]


def _of_few(record: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in record:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (register & 1) * _POLYNOMIAL
    return register
