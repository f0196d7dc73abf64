"""Rows as an input takes them: in its shape, and as long as each other.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.examples.fields import Field, Rows, as_rows

Shape = tuple[int | None, ...]


def fitted(name: str, field: Field, wanted: Shape | None) -> Rows:
    """The rows in the shape that an input takes for one example; None if it does not say.

    Raises:
      UserError: they do not fit.
    """
    rows = as_rows(field)
    if wanted is None or _fits(rows, wanted):
        return rows
    if rows.flat and wanted.count(None) <= 1 and (size := math.prod(n for n in wanted if n is not None)):
        (have,) = rows.shape if len(rows.shape) == 1 else (None,)
        exact = have is not None and have % size == 0 and (None in wanted or have == size)
        if len(rows.shape) == 1 and (exact or (have is None and wanted[0] is None)):
            target = [-1 if n is None else n for n in wanted]
            shape = (None if have is None else have // size, *wanted[1:]) if None in wanted[:1] else wanted
            read = rows.read
            return replace(
                rows,
                shape=shape,
                read=lambda index: [np.reshape(row, target) for row in read(index)],
                longest=rows.longest // size,
            )
    what = f"'{name}' has rows of {shown(rows.shape)}, the input takes {shown(wanted)}"
    raise UserError("data", f"source.inputs.{name}", what, "reshape the array")


def lengths_to_pad_to(name: str, rows: Rows, wanted: Shape | None, buckets: Sequence[int]) -> Sequence[int]:
    """The lengths that batches of rows of different lengths may have; none: that of the longest row.

    Raises:
      UserError: a row is longer than all of them.
    """
    fixed = wanted[0] if wanted else None
    if fixed is not None:
        if rows.longest > fixed:
            what = f"'{name}' has rows of up to {rows.longest}, the input takes {fixed}"
            raise UserError("data", f"source.inputs.{name}", what, "shorten them")
        return [fixed]
    if buckets and rows.longest > buckets[-1]:
        what = f"'{name}' has rows of up to {rows.longest}, the last bucket is {buckets[-1]}"
        raise UserError("recipe", "data.bucket", what, f"add {rows.longest}")
    return buckets


def padded(rows: Sequence[Any], value: Any, buckets: Sequence[int] = ()) -> np.ndarray:
    """The rows as one array, filled up with `value` behind their ends to the length of the longest.

    Args:
      buckets: ascending lengths; the batch gets the first of them that is long enough, so that shapes are few.

    >>> padded([np.array([1, 2, 3]), np.array([4])], 0)
    array([[1, 2, 3],
           [4, 0, 0]])
    >>> padded([np.array([1, 2, 3]), np.array([4])], -1, [2, 4])
    array([[ 1,  2,  3, -1],
           [ 4, -1, -1, -1]])
    """
    longest = max(len(row) for row in rows)
    length = next((bucket for bucket in buckets if bucket >= longest), longest)
    rest = np.max([np.shape(row)[1:] for row in rows], axis=0).astype(int)
    batch = np.full((len(rows), length, *rest), value, rows[0].dtype)
    for filled, row in zip(batch, rows, strict=True):
        filled[tuple(slice(n) for n in row.shape)] = row
    return batch


def shown(shape: Shape) -> str:
    """A shape as messages have it.

    >>> shown((None, 3))
    '[?, 3]'
    """
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


def _fits(rows: Rows, wanted: Shape) -> bool:
    """Whether rows fit as they are; those of different lengths fit into a fixed one by being padded."""
    if len(rows.shape) != len(wanted):
        return False
    ragged = rows.shape[:1] == (None,)
    pairs = list(zip(rows.shape, wanted, strict=True))[1 if ragged else 0 :]
    return all(w is None or w == s for s, w in pairs)
