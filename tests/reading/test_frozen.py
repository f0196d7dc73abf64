"""Which constants of a frozen graph are weights, and that they become variables again."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.graph import constant, to_meta
from finetune.reading import frozen
from finetune.reading.metagraph import variable_defs
from finetune.reading.variables import find_variables
from tests.graphs import FLOAT, INT, fed, graph, loop_graph, node, strings


def const(name: str, *sizes: int, dtype: int = FLOAT):
    return constant(name, np.ones(sizes), dtype)


def decided(*nodes) -> dict[str, bool]:
    return frozen.weights(graph(fed("x", None, 4), *nodes))


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("MatMul", ["x", "w"]),
        ("Conv2D", ["x", "w"]),
        ("DepthwiseConv2dNative", ["x", "w"]),
        ("Conv2DBackpropInput", ["sizes", "w", "x"]),
        ("BiasAdd", ["x", "w"]),
        ("GatherV2", ["w", "x", "axis"]),
        ("Mul", ["x", "w"]),
        ("AddV2", ["w", "x"]),
        ("Sub", ["w", "x"]),
        ("FusedBatchNormV3", ["x", "w", "b", "m", "v"]),
    ],
)
def test_what_a_layer_takes_as_weights_is_one(op, inputs):
    assert decided(const("w", 4), node("y", op, *inputs)) == {"w": True}


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("Conv2D", ["w", "x"]),
        ("Sub", ["x", "w"]),
        ("ConcatV2", ["x", "w"]),
        ("ResizeBilinear", ["x", "w"]),
        ("BiasAdd", ["x", "^w"]),
    ],
)
def test_what_is_taken_for_something_else_is_none(op, inputs):
    assert decided(const("w", 4), node("y", op, *inputs)) == {}


def test_a_weight_may_be_handed_on_and_reshaped_on_the_way():
    way = [
        node("w/read", "Identity", "w"),
        node("w/rows", "Reshape", "w/read", "shape"),
        node("w/split", "Split", "axis", "w/rows"),
        node("w/enter", "Enter", "w/split:1"),
    ]
    assert decided(const("w", 4, 4), *way, node("y", "MatMul", "x", "w/enter")) == {"w": True}
    assert decided(const("w", 4, 4), node("w/shape", "Shape", "w"), node("y", "MatMul", "x", "w/shape")) == {}


def test_numbers_and_texts_stay_constants():
    assert decided(constant("w", 2.0, FLOAT), node("y", "Mul", "x", "w")) == {}
    assert decided(const("w", 1), node("y", "Mul", "x", "w")) == {}
    assert decided(const("w", 4, dtype=INT), node("y", "AddV2", "x", "w")) == {}
    assert decided(strings("w", "a", "b"), node("y", "GatherV2", "w", "x")) == {}
    assert decided(const("w", 0), node("y", "FusedBatchNorm", "x", "a", "b", "w", "w")) == {}


def test_a_bias_of_one_value_is_a_weight():
    assert decided(const("w", 1), node("y", "BiasAdd", "x", "w")) == {"w": True}


def test_statistics_are_not_trained():
    norm = node("y", "FusedBatchNorm", "x", "gamma", "beta", "mean", "variance")
    kinds = decided(*(const(name, 4) for name in ("gamma", "beta", "mean", "variance")), norm)
    assert kinds == {"gamma": True, "beta": True, "mean": False, "variance": False}
    written_out = [const("bn/moving_variance", 4), node("bn/add", "AddV2", "bn/moving_variance", "epsilon")]
    assert decided(*written_out) == {"bn/moving_variance": False}


def test_a_constant_in_a_loop_stays_one():
    inner = constant("w", np.ones(4), FLOAT, ["^x"])
    assert decided(inner, node("y", "MatMul", "x", "w")) == {}


def test_weights_become_variables_of_the_same_names_and_the_rest_stays():
    nodes = [fed("x", None, 4), const("w", 4, 2), const("m", 2), const("s", 3), node("w/read", "Identity", "w")]
    nodes += [node("y", "MatMul", "x", "w/read"), node("z", "FusedBatchNorm", "y", "a", "b", "m", "v")]
    meta = to_meta(graph(*nodes, node("size", "ResizeBilinear", "z", "s")))
    before = meta.SerializeToString(deterministic=True)
    found = frozen.with_variables(meta)
    assert meta.SerializeToString(deterministic=True) == before
    ops = {n.name: n.op for n in found.graph_def.node}
    assert ops == {n.name: n.op for n in nodes} | {"size": "ResizeBilinear", "w": "VariableV2", "m": "VariableV2"}
    listed = [node.variable_name for node in variable_defs(found, "trainable_variables")]
    assert listed == ["w:0"]
    both = find_variables(found, graph(*found.graph_def.node))
    assert {v.name: (v.key, v.shape, v.trainable) for v in both} == {
        "w": ("w", (4, 2), True),
        "m": ("m", (2,), False),
    }


def test_a_loop_gets_its_context_back():
    whole = loop_graph()
    bare = graph(*(const("w", 3) if n.name == "w" else n for n in whole.nodes.values()))
    assert frozen.with_variables(to_meta(bare)).collection_def["while_context"].bytes_list.value
    assert "while_context" not in frozen.with_variables(to_meta(graph(fed("x")))).collection_def
