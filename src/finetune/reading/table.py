"""Sorted tables, the file format under every checkpoint of TensorFlow's: blocks of keys and values, checksummed.

A table ends in a footer, which says where the index block lies, which says where the data blocks lie. In a block
each key is written as the number of bytes it shares with the key before it, and the rest. A block is followed by
one byte for its compression and four for its checksum.
Format: tensorflow/core/lib/io/format.h, which is that of LevelDB.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

_FOOTER = 48
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_TRAILER = 5
_PLAIN, _SNAPPY = 0, 1

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_MASK_DELTA = 0xA282EAD8  # stored checksums are rotated and shifted, because checksummed data may hold checksums


class Corrupt(Exception):
    """What is wrong with the bytes; whoever knows the file's name makes a message of it."""


def records(path: str | os.PathLike[str]) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in order; a block is read when the first of its keys is asked for.

    Raises:
      Corrupt: the bytes are no table, or a damaged one.
      OSError: the disk fails.
    """
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size - _FOOTER
        if end < 0:
            raise Corrupt(f"it has only {end + _FOOTER} bytes")
        file.seek(end)
        footer = file.read(_FOOTER)
        if not footer.endswith(_MAGIC):
            raise Corrupt("the mark that ends every checkpoint is missing")
        _, at = _handle(footer, 0)  # that of a block for metadata, which TensorFlow leaves empty
        index, _ = _handle(footer, at)
        last = None
        for _, value in _entries(_block(file, index, end)):
            for key, content in _entries(_block(file, _handle(value, 0)[0], end)):
                if last is not None and key <= last:
                    raise Corrupt("its keys are out of order")
                last = key
                yield key, content


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Where a block lies, as offset and size, and where the handle ends."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(file: BinaryIO, handle: tuple[int, int], end: int) -> memoryview:
    """The content of a block, its checksum verified."""
    offset, size = handle
    if size < 4 or offset + size + _TRAILER > end:
        raise Corrupt("a block lies outside the file")
    file.seek(offset)
    data = memoryview(file.read(size + _TRAILER))
    if len(data) < size + _TRAILER:
        raise Corrupt("it ends early")
    if masked_crc32c(data[: size + 1]) != int.from_bytes(data[size + 1 :], "little"):
        raise Corrupt("a checksum does not match")
    if data[size] not in (_PLAIN, _SNAPPY):
        raise Corrupt(f"a block has the unknown compression {data[size]}")
    return data[:size] if data[size] == _PLAIN else memoryview(_unsnappy(bytes(data[:size])))


def _entries(block: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block; the restart points at its end serve only for searching."""
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise Corrupt("a block has more restart points than bytes")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + rest + size > end:
            raise Corrupt("an entry reaches beyond its block")
        key = key[:shared] + bytes(block[at : at + rest])
        at += rest + size
        yield key, bytes(block[at - size : at])


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise Corrupt("a number has no end")


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ (table & 1) * np.uint32(_POLYNOMIAL)
    return table


_CRC_TABLE = _crc_table()


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum as tables store it, of four bytes or more.

    The bytes are cut into as many rows as columns and NumPy goes through all rows at once: a loop over single bytes
    would take half a minute for the first block of a large V1 checkpoint. The checksum is linear, so that of
    the whole follows from those of the rows and from what a row of zeros does to each bit of the register.
    """
    columns = math.isqrt(len(data)) + 1
    rows = -(-len(data) // columns)
    grid = np.zeros(rows * columns, np.uint8)  # zeros in front change nothing
    first = grid.size - len(data)
    grid[first:] = np.frombuffer(data, np.uint8)
    grid[first : first + 4] ^= 0xFF  # the same as a register that starts as all ones
    register = np.concatenate([np.zeros(rows, np.uint32), np.uint32(1) << np.arange(32, dtype=np.uint32)])
    for column in grid.reshape(rows, columns).T:
        register[:rows] ^= column
        register = _CRC_TABLE[register & 0xFF] ^ (register >> 8)
    bits = register[rows:].tolist()
    crc = 0
    for row in register[:rows].tolist():
        moved = row
        for number, image in enumerate(bits):
            if crc >> number & 1:
                moved ^= image
        crc = moved
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _unsnappy(data: bytes) -> bytes:
    """Undoes Snappy: literals, and copies of what is already there."""
    length, at = _varint(data, 0)
    out = bytearray()
    while at < len(data) and len(out) < length:
        tag, kind = data[at] >> 2, data[at] & 3
        at += 1
        if kind == 0:
            extra = max(tag - 59, 0)  # lengths from 60 on follow in as many bytes
            size = 1 + (int.from_bytes(data[at : at + extra], "little") if extra else tag)
            out += data[at + extra : at + extra + size]
            at += extra + size
            continue
        width = (1, 2, 4)[kind - 1]
        back = int.from_bytes(data[at : at + width], "little")
        at += width
        if kind == 1:
            back |= tag >> 3 << 8
        size = (tag & 7) + 4 if kind == 1 else tag + 1
        if not 0 < back <= len(out):
            raise Corrupt("a compressed block refers to bytes that it lacks")
        start = len(out) - back
        chunk = out[start : start + size]  # repeated where a copy overlaps itself
        out += (chunk * (size // back + 1))[:size]
    if at != len(data) or len(out) != length:
        raise Corrupt("a compressed block has the wrong length")
    return bytes(out)
