from __future__ import annotations

import numpy as np

from finetune.examples.checksums import masked_crc32c_of
from finetune.reading.table import masked_crc32c


def test_many_checksums_are_those_of_each():
    draw = np.random.default_rng(0)
    records = [draw.bytes(size) for size in (4, 5, 8, 17, 511, 512, 513, 1024, 5000, 12)]
    alone = [masked_crc32c(record) for record in records]
    assert masked_crc32c_of(records).tolist() == alone
    assert masked_crc32c_of(records, block=8).tolist() == alone


def test_one_bit_makes_another_checksum():
    first, second = masked_crc32c_of([b"abc" + bytes(600), b"abb" + bytes(600)])
    assert first != second


def test_a_known_value():
    # CRC-32C of these digits is 0xE3069283 (RFC 3720, B.4 uses the same polynomial), here rotated and shifted.
    crc = 0xE3069283
    masked = (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c_of([b"123456789"]).tolist() == [masked]
