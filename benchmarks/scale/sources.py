"""Shards of records of one size, written fast: all records are alike but for their values and labels."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from finetune.examples.checksums import masked_crc32c_of
from finetune.protos import Example

CLASSES = 10
_AGE = 60.0  # seconds, for what is younger than two is not kept


def shards(folder: Path, examples: int, each: int, size: int) -> None:
    """So many examples in shards of `each`, with inputs of `size` bytes: the feature `x` of bytes, `label` a number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, examples, each)):
        place = folder / f"train-{number:05d}.tfrecord"
        _written(place, first, min(each, examples - first), size)
        then = time.time() - _AGE
        os.utime(place, (then, then))


def _written(place: Path, first: int, count: int, size: int) -> None:
    marked = b"\xa5" * size
    made = Example()
    made.features.feature["label"].int64_list.value.append(111)
    made.features.feature["x"].bytes_list.value.append(marked)
    template = made.SerializeToString(deterministic=True)
    at, label = template.index(marked), template.index(111)
    draw = np.random.default_rng(first)
    with place.open("wb") as file:
        for start in range(0, count, most := max(1, (1 << 24) // len(template))):
            rows = np.tile(np.frombuffer(template, np.uint8), (min(most, count - start), 1))
            rows[:, at : at + size] = draw.integers(0, 256, (len(rows), size), np.uint8)
            rows[:, label] = (first + start + np.arange(len(rows))) % CLASSES
            _append(file, [row.tobytes() for row in rows])


def _append(file, contents: list[bytes]) -> None:
    heads = [len(content).to_bytes(8, "little") for content in contents]
    checksums = [masked_crc32c_of(parts).astype("<u4") for parts in (heads, contents)]
    for head, before, content, after in zip(heads, checksums[0], contents, checksums[1], strict=True):
        file.write(head + before.tobytes() + content + after.tobytes())
