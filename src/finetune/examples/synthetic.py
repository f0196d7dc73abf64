"""Random examples of the shapes, dtypes and ranges that a source takes, to try a recipe without data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.examples.data import Examples, from_arrays
from finetune.examples.tasks import MANY_CLASSES, NUMBERS
from finetune.graph import DTYPES, attr, consumers, data_inputs, read_constant, shape_of
from finetune.names import node_of
from finetune.recipe import Head
from finetune.surgery.source import Source

COUNT = 64  # enough for a few batches and some held out
FREE = 8  # the size of a dimension that the graph leaves open
STRING = 7

_SAME_SHAPE = ("Identity", "Cast", "Sub", "Mul", "Add", "AddV2", "RealDiv", "Div", "Switch", "Enter", "StopGradient")
_TABLE_LOOKUPS = ("LookupTableFind", "LookupTableFindV2")
_LOOKUPS = ("Gather", "GatherV2", "ResourceGather")


def synthetic(source: Source, heads: Mapping[str, Head], columns: Mapping[str, str], seed: int) -> Examples:
    """Rows for every input, and columns for every head that have nothing to do with them."""
    draw = np.random.default_rng(seed)
    rows = random_rows(source, draw)
    learnt = {columns[name]: _column(draw, head) for name, head in heads.items()}
    return from_arrays(rows, learnt, "synthetic data")


def random_rows(source: Source, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows for every input, by field.

    What is looked up in a table is drawn from its keys, and integers that look something up in a variable stay within
    it; other integers are small and positive, for they may be lengths. Other text is digits.
    """
    readers = consumers(source.below.nodes)
    rows = {}
    for field, (dtype, known) in source.input_kinds().items():
        tensor = source.inputs[field]
        shape = known if known is not None else _shape_asked_for(source, readers, tensor)
        sizes = (COUNT, *(FREE if n is None else n for n in (shape or ())[1:]))
        keys = _keys_looked_up(source, readers, tensor)
        if keys is not None and keys.size and keys.dtype == (object if dtype == STRING else DTYPES[dtype]):
            rows[field] = draw.choice(keys.ravel(), sizes)
        else:
            rows[field] = _values(draw, dtype, sizes, _rows_looked_up(source, readers, tensor))
    return rows


def _column(draw: np.random.Generator, head: Head) -> np.ndarray:
    if head.loss in NUMBERS:
        return draw.random((COUNT, 1), np.float32)
    if head.classes is None:
        what = "not given, and synthetic data has no classes of its own"
        raise UserError("recipe", "head.classes", what, "e.g. head.classes=3")
    return (
        draw.integers(0, 2, (COUNT, head.classes))
        if head.loss in MANY_CLASSES
        else draw.integers(0, head.classes, COUNT)
    )


def _values(draw: np.random.Generator, dtype: int, sizes: tuple[int, ...], limit: int | None) -> np.ndarray:
    if dtype == STRING:
        return draw.integers(0, 10, sizes).astype(str).astype(object)
    kind = np.dtype(DTYPES[dtype])
    if kind.kind == "f":
        return draw.random(sizes).astype(kind)
    if kind.kind == "b":
        return draw.integers(0, 2, sizes).astype(kind)
    return (draw.integers(0, limit, sizes) if limit else draw.integers(1, FREE, sizes)).astype(kind)


def _readings(source: Source, readers: dict[str, list[str]], tensor: str) -> Iterator[tuple[Any, int]]:
    """(node, place among its inputs) wherever the tensor is read, also through nodes that keep its shape."""
    stack, seen = [node_of(tensor)], set()
    while stack:
        name = stack.pop()
        for reader in (source.below.nodes[r] for r in readers.get(name, ())):
            if reader.name in seen:
                continue
            seen.add(reader.name)
            for place, ref in enumerate(data_inputs(reader)):
                if node_of(ref) == name:
                    yield reader, place
            if reader.op in _SAME_SHAPE:
                stack.append(reader.name)


def _shape_asked_for(source: Source, readers: dict[str, list[str]], tensor: str) -> tuple[int | None, ...] | None:
    """The shape of an input that declares none, as what reads it demands; None if nothing does."""
    for node, place in _readings(source, readers, tensor):
        if place != 0:
            continue
        if node.op == "MatMul" and (weights := _sizes(source, node.input[1])):
            return (None, weights[1 if attr(node, "transpose_b").b else 0])
        if node.op == "Conv2D" and (weights := _sizes(source, node.input[1])):
            return (None, 4 * FREE, 4 * FREE, weights[2])
        if node.op == "Reshape":
            target = read_constant(source.below.nodes[node_of(node.input[1])])
            if target is not None and (target[1:] > 0).all():
                return (None, *(int(n) for n in target[1:]))
    return None


def _keys_looked_up(source: Source, readers: dict[str, list[str]], tensor: str) -> np.ndarray | None:
    """The keys of the table in which an input is looked up first; None if it is in none."""
    contents = {table.name: table.keys for table in source.tables}
    queue, seen = deque([node_of(tensor)]), {node_of(tensor)}
    while queue and contents:
        for reader in (source.below.nodes[r] for r in readers.get(queue.popleft(), ())):
            if reader.op in _TABLE_LOOKUPS:
                return contents.get(node_of(reader.input[0]))
            if reader.name not in seen:
                seen.add(reader.name)
                queue.append(reader.name)
    return None


def _rows_looked_up(source: Source, readers: dict[str, list[str]], tensor: str) -> int | None:
    """How many rows a variable has that an input looks things up in; None if it is no such input."""
    for node, place in _readings(source, readers, tensor):
        if node.op in _LOOKUPS and place == 1 and (sizes := _sizes(source, node.input[0])):
            return sizes[0]
    return None


def _sizes(source: Source, ref: str) -> tuple[int, ...] | None:
    """The shape of the variable or constant that an input is."""
    for _ in range(20):
        node = source.below.nodes[node_of(ref)]
        if node.name in source.shapes:
            return source.shapes[node.name]
        if node.op == "Const":
            sizes = shape_of(attr(node, "value").tensor.tensor_shape)
            return tuple(n for n in sizes if n is not None) if sizes else None
        inputs = data_inputs(node)
        if node.op not in ("Identity", "ReadVariableOp", "Enter", "Switch") or not inputs:
            return None
        ref = inputs[0]
    return None
