"""Examples that a Python object gives: arrays by name, or one example for each number.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.examples.columns import find, wanted
from finetune.examples.compact import Digests, numbered
from finetune.examples.data import Examples, from_arrays
from finetune.examples.fields import Field, Rows, ragged


def from_mapping(
    arrays: Mapping[str, Any],
    fields: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    others: Sequence[str],
    where: str,
) -> Examples:
    """Examples of arrays, or lists of rows, by name.

    Raises:
      UserError: one is missing, or they differ in length.
    """
    taken = {label: find(label, arrays, where) for label in labels} | {n: n for n in others if n in arrays}
    left = [name for name in arrays if name not in taken.values()]
    rows = {field: _field(arrays[wanted(field, fields, left, where)], where) for field in fields}
    columns = {name: _column(arrays[known]) for name, known in taken.items()}
    return from_arrays(rows, columns, where)


def from_elements(
    elements: Any, fields: Mapping[str, Sequence[str]], labels: Sequence[str], others: Sequence[str], where: str
) -> Examples:
    """Examples that are read by number: each a mapping by name, or a pair of the one input and its label.

    Raises:
      UserError: an element without one of the names.
    """
    if not len(elements):
        raise UserError("data", where, "there are no rows", "give at least one of each class")
    named = _named(elements, fields, labels, where)
    first = named(0)
    taken = {label: find(label, first, where) for label in labels} | {n: n for n in others if n in first}
    left = [name for name in first if name not in taken.values()]
    names = {field: wanted(field, fields, left, where) for field in fields}
    kinds = {name: np.asarray(first[name]).dtype for name in names.values()}
    shapes: dict[str, set[tuple[int, ...]]] = {name: set() for name in names.values()}
    cells: dict[str, list[Any]] = {column: [] for column in taken}
    hashes = []
    for number in range(len(elements)):
        element = named(number)
        if missing := [name for name in {*names.values(), *taken.values()} if name not in element]:
            raise UserError(
                "data", f"{where}[{number}]", f"it has no '{missing[0]}'", "give all examples the same names"
            )
        sha = hashlib.sha256()
        for name in names.values():
            value = np.asarray(element[name])
            shapes[name].add(value.shape)
            sha.update(repr(value.tolist()).encode() if value.dtype == object else value.tobytes())
        hashes.append(sha.digest())
        for column, name in taken.items():
            cells[column].append(element[name])
    rows = {field: _rows(named, name, len(elements), kinds[name], shapes[name], where) for field, name in names.items()}
    columns = {column: _column(values) for column, values in cells.items()}
    return Examples(numbered(len(elements)), columns, Digests.of(hashes), rows)


def _named(
    elements: Any, fields: Mapping[str, Sequence[str]], labels: Sequence[str], where: str
) -> Callable[[int], Mapping[str, Any]]:
    """(number) -> the element as a mapping."""
    first = elements[0]
    if isinstance(first, Mapping):
        return lambda number: elements[number]
    if isinstance(first, (tuple, list)) and len(first) == 2 and len(fields) == len(labels) == 1:
        return lambda number: dict(zip([*fields, *labels], elements[number], strict=True))
    what = f"an example is a {type(first).__name__}"
    raise UserError("data", where, what, "give a mapping by name, or a pair of the one input and its label")


def _rows(
    named: Callable[[int], Mapping[str, Any]],
    name: str,
    count: int,
    dtype: np.dtype,
    shapes: set[tuple[int, ...]],
    where: str,
) -> Rows:
    if len({len(shape) for shape in shapes}) > 1:
        what = f"'{name}' has rows of {' and '.join(map(str, sorted(map(list, shapes))[:2]))}"
        raise UserError("data", where, what, "give all rows as many dimensions")
    sizes = [{shape[axis] for shape in shapes} for axis in range(len(next(iter(shapes))))]
    shape = tuple(next(iter(size)) if len(size) == 1 else None for size in sizes)
    kind = np.dtype(object) if dtype.kind in "SU" else dtype
    longest = max((own[0] for own in shapes if own), default=0)
    return Rows(
        count, kind, shape, lambda index: [np.asarray(named(i)[name], kind)[()] for i in index.tolist()], False, longest
    )


def _field(value: Any, where: str) -> Field:
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        first = np.asarray(value[0])
        if not first.ndim:
            raise UserError("data", where, "an input is a mixture of numbers and lists", "give arrays") from None
        return ragged(list(value), first.dtype)


def _column(values: Any) -> np.ndarray:
    """Labels as they are, text as objects."""
    column = np.asarray([value.decode() if isinstance(value, bytes) else value for value in values])
    return column.astype(object) if column.dtype.kind == "U" else column
