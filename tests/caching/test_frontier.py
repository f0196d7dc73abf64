"""Where the kept part ends: at what costs the least to read and to compute again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from finetune.caching.dependence import dependences
from finetune.caching.frontier import Frontier, frontiers
from finetune.graph import Graph
from tests.graphs import fed, graph, node

BATCH = 1_000_003
SIZES = {"x": 64, "a": 512, "b": 16, "c": 24, "d": 8}


def chain(**more: Any) -> Graph:
    """x [64] -> a [512] -> b [16] -> c [24] -> d [8]."""
    order = list(SIZES)
    nodes = [fed("x", None, 64)]
    for before, name in pairwise(order):
        nodes += [fed(f"w{name}", SIZES[before], SIZES[name]), node(name, "MatMul", before, f"w{name}")]
    return graph(*nodes, *more.values())


def found(made: Graph, live: list[str], *ends: str, sizes: dict[str, int] = SIZES) -> list[Frontier]:
    shapes: dict[str, Any] = {f"{name}:0": (BATCH, size) for name, size in sizes.items()}
    shapes |= {f"{n}:0": tuple(d.size for d in v.attr["shape"].shape.dim) for n, v in made.nodes.items() if n[0] == "w"}
    known = dependences(made, ["x:0"], live, shapes, BATCH)
    return frontiers(made, ends, known, shapes, dict.fromkeys(shapes, np.dtype(np.float32)), BATCH)


def test_it_goes_as_far_as_nothing_learns():
    made = chain()
    assert found(made, [], "d:0")[0].tensors == ("d:0",)
    first, *_ = found(made, ["wd"], "d:0")
    assert first.tensors == ("c:0",)
    assert first.rows == {"c:0": (24,)}
    assert first.bytes == 96
    assert first.operations == 2 * (64 * 512 + 512 * 16 + 16 * 24)
    assert found(made, ["wa"], "d:0") == []


def test_what_is_wide_and_cheap_is_computed_again():
    wide = SIZES | {"c": 100_000}
    nodes = dict(chain().nodes)
    nodes["wc"] = fed("wc", 1, 100_000)
    nodes["c"] = node("c", "AddV2", "b", "wc")  # an operation for each of its bytes, and no more
    made = graph(*nodes.values())
    assert found(made, ["wd"], "d:0", sizes=wide)[0].tensors == ("b:0",)


def test_a_branch_that_is_read_later_is_kept_beside():
    made = chain(last=node("last", "ConcatV2", "a", "d", "axis"), axis=fed("axis"))
    sizes = SIZES | {"last": 520}
    best, *_ = found(made, ["wd"], "last:0", sizes=sizes)
    assert sorted(best.tensors) in (["a:0", "c:0"], ["a:0", "b:0"], ["a:0"])
    assert all("a:0" in f.tensors for f in found(made, ["wd"], "last:0", sizes=sizes))


def test_a_number_of_examples_cannot_be_kept():
    made = chain(count=node("count", "Shape", "c", out_type={"type": 3}), again=node("again", "Fill", "count", "value"))
    made = made.with_nodes({**made.nodes, "value": fed("value")})
    kept = {tensor for f in found(made, ["wd", "value"], "d:0", "again:0") for tensor in f.tensors}
    assert kept == {"a:0", "b:0", "c:0"}  # what measures c stands behind it, and is never kept itself


def test_where_nothing_is_saved_there_is_none():
    made = graph(fed("x", None, 64), node("y", "Neg", "x"))
    assert found(made, [], "y:0", sizes={"x": 64, "y": 64}) == []
