"""What constants unfold to is worked out as TensorFlow computes it, and no further than that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.graph import constant, make_node
from finetune.surgery.costs import MOST_VALUES, too_large
from tests.graphs import INT, every_golden, fed, golden, node, strings
from tests.graphs import graph as graph_of


def first(nodes: Any) -> tuple[str, str] | None:
    return next(too_large(nodes), None)


def whole(name: str, *values: int) -> Any:
    return constant(name, list(values), INT)


def integer(name: str, op: str, *inputs: str, **attrs: Any) -> Any:
    return node(name, op, *inputs, **{"T": {"type": INT}, **attrs})


V = constant("v", 1.0)
ZERO = constant("zero", 0, INT)
SLICED = {"begin_mask": {"i": 1}, "shrink_axis_mask": {"i": 0}}
# The nodes that make `dims` -> what a Fill of it makes.
DIMS = {
    "as it stands": ([whole("dims", 30_000, 30_000)], 30_000**2),
    "passed on": ([whole("a", 2**15, 2**15), integer("dims", "Identity", "a")], 2**30),
    "multiplied": ([whole("a", 30_000, 60_000), whole("b", 2), integer("dims", "Mul", "a", "b")], 60_000 * 120_000),
    "divided": ([whole("a", 60_000, 90_001), whole("b", 3), integer("dims", "FloorDiv", "a", "b")], 20_000 * 30_000),
    "joined": (
        [whole("a", 30_000), whole("b", 40_000), ZERO, integer("dims", "ConcatV2", "a", "b", "zero")],
        30_000 * 40_000,
    ),
    "packed": (
        [constant("a", 2**20, INT), constant("b", 2**10, INT), integer("dims", "Pack", "a", "b", axis={"i": 0})],
        2**30,
    ),
    "a shape": (
        [constant("a", np.zeros([1, 3])), node("s", "Shape", "a"), whole("b", 2**29), integer("dims", "Mul", "s", "b")],
        2**29 * 3 * 2**29,
    ),
    "sliced": (
        [
            whole("a", 2**30, 5, 1),
            whole("one", 0),
            whole("two", 2),
            whole("by", 1),
            integer("dims", "StridedSlice", "a", "one", "two", "by"),
        ],
        5 * 2**30,
    ),
    "chosen": ([whole("a", 7, 2**30), whole("i", 1), ZERO, integer("dims", "GatherV2", "a", "i", "zero")], 2**30),
    "summed": ([whole("a", 2**29, 2**29 + 1), ZERO, integer("dims", "Sum", "a", "zero")], 2**30 + 1),
    "stitched": (
        [
            whole("i", 1),
            whole("j", 0),
            whole("a", 2**20),
            whole("b", 2**9),
            integer("dims", "DynamicStitch", "i", "j", "a", "b"),
        ],
        2**29,
    ),
}


@pytest.mark.parametrize("way", DIMS)
def test_a_size_is_followed_through_what_computes_it(way: str):
    nodes, count = DIMS[way]
    assert first([*nodes, V, node("out", "Fill", "dims", "v")]) == (
        "out",
        f"Fill makes {count:,} values out of constants",
    )


MADE = {
    "the shape that two have": [whole("a", 4, 1), whole("b", 3), integer("dims", "BroadcastArgs", "a", "b")],
    "places": [whole("a", 1, 1), integer("at", "Where", "a"), integer("dims", "Size", "at")],
    "what is not taken": [whole("a", 3, 2, 1), whole("b", 0), integer("dims", "ListDiff", "a", "b")],
    "a number of dimensions": [whole("a", 3), integer("dims", "Rank", "a")],
}


@pytest.mark.parametrize("way", MADE)
def test_sizes_that_honest_graphs_compute_are_known(way: str):
    assert first([*MADE[way], V, node("out", "Fill", "dims", "v")]) is None


@pytest.mark.parametrize("port", ["parts", "parts:1"])
def test_parts_of_a_constant_are_as_large_as_parts(port: str):
    half = [whole("shape", 2**9, 2**18), V, node("all", "Fill", "shape", "v"), whole("axis", 0)]
    parts = [*half, node("parts", "Split", "axis", "all", num_split={"i": 2}), node("row", "Neg", port)]
    assert first([*parts, node("sum", "AddV2", "row", "row")]) is None
    assert first([*parts, whole("m", 1, 5), node("more", "Tile", "row", "m")]) is not None


def test_the_most_that_is_allowed_is_allowed():
    most, one = [node("out", "Fill", "dims", "v"), V], node("more", "Tile", "out", "twice")
    assert first([whole("dims", MOST_VALUES), *most]) is None
    assert first([whole("dims", MOST_VALUES + 1), *most]) is not None
    name, what = first([whole("dims", MOST_VALUES), *most, one, whole("twice", 2)]) or ("", "")
    assert (name, f"{2 * MOST_VALUES:,}" in what) == ("more", True)


def test_what_depends_on_data_is_not_looked_at():
    assert first([fed("x", 4), node("s", "Shape", "x"), V, node("out", "Fill", "s", "v")]) is None
    assert first([fed("x", 4), whole("n", 2), node("out", "Tile", "x", "n")]) is None


def test_a_circle_and_a_missing_node_are_passed_over():
    circle = [node("a", "AddV2", "b", "v"), node("b", "Identity", "a"), V]
    assert first([*circle, node("c", "Fill", "nowhere", "v")]) is None


def test_nodes_that_no_op_would_take_are_left_to_tensorflow():
    odd = [whole("a", 1, 2), whole("b", 1, 2, 3), strings("t", "x"), make_node("none", "Range")]
    odd += [node("sum", "AddV2", "a", "b"), node("fill", "Fill", "a"), node("neg", "Neg", "t"), node("few", "Mul")]
    odd += [node("cut", "StridedSlice", "a", "b", "b", "b"), node("pack", "Pack", "a", "b"), node("cast", "Cast", "a")]
    odd += [node("far", "DynamicStitch", "big", "a"), constant("big", [2**31 - 2, 1], INT)]
    assert first(odd) is None


@pytest.mark.parametrize("size", [constant("n", float("nan")), constant("n", [True]), strings("n", "")])
def test_a_size_that_is_no_number_is_refused(size: Any):
    assert first([size, V, node("out", "Fill", "n", "v")]) == ("out", "Fill is told a size that is no number")
    assert first([V, node("out", "OneHot", "v")]) is not None


@every_golden
def test_no_golden_unfolds_to_much(name: str):
    below = [n for n in golden(name).graph.nodes.values() if not n.name.startswith("gradients/")]
    assert first(graph_of(*below).nodes.values()) is None
