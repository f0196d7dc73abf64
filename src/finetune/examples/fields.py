"""The rows of one input: in memory, or read when a batch needs them.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

CHUNK = 256  # rows that are looked at together where all of them are


@dataclass(frozen=True)
class Rows:
    """Rows that lie in a file.

    `shape` is that of one row, with None where rows differ. `dtype` is object for text and bytes. `read` takes row
    numbers (int64 [n]) and gives that many rows, as an array or as a list of arrays. Rows that are `flat` are lists of
    values without a shape of their own: they take that of the input. `longest` is the length of the longest row.
    """

    count: int
    dtype: np.dtype
    shape: tuple[int | None, ...]
    read: Callable[[np.ndarray], Any]
    flat: bool = False
    longest: int = 0

    def __len__(self) -> int:
        return self.count


Field = np.ndarray | Rows


def as_rows(field: Field) -> Rows:
    """An array as rows, which are copied only when they are read."""
    if isinstance(field, Rows):
        return field
    return Rows(len(field), field.dtype, field.shape[1:], lambda index: np.asarray(field[index]))


def ragged(rows: Sequence[Any], dtype: np.dtype) -> Rows:
    """Rows of different lengths that lie in memory; all have the rank of the first."""
    arrays = [np.asarray(row, dtype) for row in rows]
    first = arrays[0].shape
    alike = [all(a.shape[i : i + 1] == first[i : i + 1] for a in arrays) for i in range(len(first))]
    shape = tuple(n if same else None for n, same in zip(first, alike, strict=True))
    longest = max(map(len, arrays))
    return Rows(len(arrays), dtype, shape, lambda index: [arrays[i] for i in index], longest=longest)


def chosen(field: Field, places: np.ndarray) -> Field:
    """The rows at some places; those of a file stay there."""
    if isinstance(field, np.ndarray) and not isinstance(field, np.memmap):
        return field[places]
    rows = as_rows(field)
    return replace(rows, count=len(places), read=lambda index: rows.read(places[index]))


def lengths(field: Field) -> Rows:
    """How long each row is, as an input of its own."""
    rows = as_rows(field)
    return Rows(
        len(rows), np.dtype(np.int64), (), lambda index: np.asarray([len(row) for row in rows.read(index)], np.int64)
    )


def chunks(field: Field) -> Iterator[tuple[int, Sequence[Any]]]:
    """(number of the first row, rows) for all rows, some at a time."""
    rows = as_rows(field)
    for start in range(0, len(rows), CHUNK):
        yield start, rows.read(np.arange(start, min(start + CHUNK, len(rows))))
