"""Where the part ends that is computed once: the tensors that are kept for each example.

Of all places where it may end, the cheapest is taken. What has to be read again for each step costs by the byte, and
what has to be computed again, because it stands behind the place, costs by the operation.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.caching.dependence import Dependence, Shapes, in_order, is_counted
from finetune.graph import ENUMS, Graph, attr, data_inputs
from finetune.names import node_of, port_of, tensor_name
from finetune.surgery.cut import places

# A core does some 10 operations in the time in which it reads a byte that no cache holds.
OPERATIONS_PER_BYTE = 10.0
MOST_TENSORS = 8  # that are kept of one example; a place where more are open is in the middle of something
_BORDERS = ("Enter", "Exit", "Merge", "Switch", "NextIteration", "LoopCond")


@dataclass(frozen=True)
class Frontier:
    """The tensors at which the kept part ends, and what that saves.

    `rows` are their shapes for one example and `dtypes` their types. `operations` are those that an example takes up to
    here, `bytes` what is kept of it.
    """

    tensors: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    operations: float
    bytes: int


def frontiers(
    graph: Graph,
    ends: Iterable[str],
    found: Mapping[str, Dependence],
    shapes: Shapes,
    dtypes: Mapping[str, Any],
    batch: int,
    allowed: Collection[str] | None = None,
) -> list[Frontier]:
    """All places where the kept part may end, the cheapest first; none where nothing is saved.

    Args:
      ends: the tensors for which the graph is computed.
      found: what each node depends on.
      dtypes: of every tensor, as NumPy has them; None for what is no array.
      batch: the number of rows in `shapes`.
      allowed: the tensors that may be kept; None for all.
    """
    either = {name for name, known in found.items() if known.is_constant}  # is computed on the side that reads it
    readers, bound = _readers(graph, ends), places(graph)
    kept = [name for name in in_order(graph) if found[name].what in ("rows", "size")]
    turns = dict.fromkeys(bound, _turns(graph, shapes))
    costs = {name: _operations(graph, graph.nodes[name], shapes) / batch * turns.get(name, 1) for name in kept}
    every = sum(costs.values())
    inside: set[str] = set()
    outside: dict[str, int] = {}  # how often each tensor from inside is read outside
    done, possible = 0.0, []
    for name in kept:
        inside.add(name)
        done += costs[name]
        for ref in map(tensor_name, data_inputs(graph.nodes[name])):
            if ref in outside:
                outside[ref] -= 1
                if not outside[ref]:
                    del outside[ref]
        for port, reading in readers.get(name, {}).items():
            if count := sum(reader not in inside and reader not in either for reader in reading):
                outside[f"{name}:{port}"] = count
        can_end = len(outside) <= MOST_TENSORS and not any(node_of(tensor) in bound for tensor in outside)
        if can_end and (frontier := _frontier(graph, outside, found, shapes, dtypes, done, batch, allowed)):
            possible.append(frontier)
    saving = [f for f in possible if f.operations > f.bytes * OPERATIONS_PER_BYTE]
    return sorted(saving, key=lambda f: every - f.operations + f.bytes * OPERATIONS_PER_BYTE)


def _readers(graph: Graph, ends: Iterable[str]) -> dict[str, dict[int, list[str]]]:
    """What reads each output of a node: nodes, and nobody ("") where it is asked for."""
    found: dict[str, dict[int, list[str]]] = {}
    reads = [(ref, name) for name, node in graph.nodes.items() for ref in data_inputs(node)]
    for ref, reader in (*reads, *((end, "") for end in ends)):
        found.setdefault(node_of(ref), {}).setdefault(port_of(ref), []).append(reader)
    return found


def _frontier(
    graph: Graph,
    tensors: Collection[str],
    found: Mapping[str, Dependence],
    shapes: Shapes,
    dtypes: Mapping[str, Any],
    operations: float,
    batch: int,
    allowed: Collection[str] | None,
) -> Frontier | None:
    rows, types = {}, {}
    for tensor in tensors:
        shape, kind = shapes.get(tensor), dtypes.get(tensor)
        is_plain = not port_of(tensor) and graph.nodes[node_of(tensor)].op not in _BORDERS
        if not (is_plain and found[node_of(tensor)].is_kept) or kind is None or np.dtype(kind) not in ENUMS:
            return None
        if shape is None or None in shape or shape[:1] != (batch,) or (allowed is not None and tensor not in allowed):
            return None
        if is_counted(np.array(shape[1:], np.int64), batch):
            return None
        rows[tensor] = tuple(n for n in shape[1:] if n is not None)
        types[tensor] = np.dtype(kind)
    if not rows:
        return None
    size = sum(math.prod(rows[tensor]) * types[tensor].itemsize for tensor in rows)
    return Frontier(tuple(rows), rows, types, operations, size)


def _turns(graph: Graph, shapes: Shapes) -> int:
    """How often loops turn, told by the longest TensorArray."""
    scattered = [data_inputs(node)[2] for node in graph.nodes.values() if node.op == "TensorArrayScatterV3"]
    return max(((shapes.get(tensor_name(rows)) or (1,))[0] or 1 for rows in scattered), default=1)


def _operations(graph: Graph, node: Any, shapes: Shapes) -> float:
    """The additions and multiplications of a node, for all rows together; of a loop those of one turn."""
    made, refs = _count(shapes.get(f"{node.name}:0")), data_inputs(node)
    if not refs:
        return 0.0
    if node.op in ("Conv2D", "Conv3D", "DepthwiseConv2dNative", "MatMul", "BatchMatMul", "BatchMatMulV2"):
        weights = shapes.get(tensor_name(refs[1])) or (1,)
        if node.op == "DepthwiseConv2dNative":
            return 2.0 * made * _count(weights[:2])
        if node.op.startswith("Conv"):
            return 2.0 * made * _count(weights[:-1])
        *_, rows, columns = shapes.get(tensor_name(refs[0])) or (1, 1)
        return 2.0 * made * ((rows if attr(node, "transpose_a").b or attr(node, "adj_x").b else columns) or 1)
    if node.op in ("MaxPool", "AvgPool", "MaxPoolV2"):
        return made * math.prod(attr(node, "ksize").list.i or (1,))
    return made


def _count(shape: Iterable[int | None] | None) -> float:
    return float(math.prod(n or 1 for n in shape)) if shape is not None else 1.0
