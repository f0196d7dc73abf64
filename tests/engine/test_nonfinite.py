"""Where a NaN begins: inputs, weights and tensors, inside loops and branches too."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from finetune.engine.compile import Program, as_function
from finetune.engine.nonfinite import checked, first_nonfinite
from finetune.graph import Graph, changed, to_meta
from finetune.protos import GraphDef
from tests.graphs import FLOAT, cond_graph, constant, fed, graph, loop_graph, node

X = np.float32([[1, 2, 3]])


def program(source: Graph, *outputs: str, **variables: tuple[int, ...]) -> Program:
    """The graph as a program: its variables become placeholders of some shapes."""
    nodes = [fed(n.name, *variables[n.name]) if n.op == "VariableV2" else n for n in source.nodes.values()]
    nodes = [changed(n, op="Switch") if n.op == "RefSwitch" else n for n in nodes]
    definition = GraphDef(node=nodes, versions=to_meta(source).graph_def.versions)
    inputs = {f"variable/{name}": f"{name}:0" for name in variables} | {"input/x": "x:0"}
    return Program(definition, inputs, {name: f"{name}:0" for name in outputs})


def roots() -> Program:
    """`out` is the square root of x - w, and `one` is 1 whatever they are."""
    nodes = [
        fed("x", None, 3),
        fed("w", 3),
        node("difference", "Sub", "x", "w"),
        node("root", "Sqrt", "difference"),
        constant("minus_infinity", np.float32(-np.inf), FLOAT),
        node("least", "Maximum", "root", "minus_infinity"),
        node("out", "Relu", "least"),
    ]
    return program(graph(*nodes), "out", w=(3,))


def asked(found: Program, **arguments: Any) -> str | None:
    values = {"input/x": X, **{f"variable/{name}": np.float32(value) for name, value in arguments.items()}}
    return first_nonfinite(found, {name: tf.constant(v) for name, v in values.items()})


def test_the_first_tensor_is_named_and_not_what_is_computed_from_it():
    assert asked(roots(), w=[1, 2, 4]) == "tensor root:0 has NaN"


def test_a_constant_that_is_not_finite_is_none():
    assert asked(roots(), w=[0, 0, 0]) is None


def test_a_weight_and_an_input_are_named_as_such():
    assert asked(roots(), w=[1, np.inf, 2]) == "variable w has Inf"
    x = {"input/x": tf.constant(X * np.nan), "variable/w": tf.zeros(3)}
    assert first_nonfinite(roots(), x) == "input x has NaN"


def test_inside_a_loop():
    found = program(loop_graph(), "out", w=(3,))
    assert asked(found, w=[1, 1, 1]) is None
    assert asked(found, w=[1, 1, 1e30]) == "tensor loop/Mul:0 has Inf"


def test_inside_a_branch_that_is_taken():
    source = program(cond_graph(), "out", a=(3,), b=(3,))
    for training, expected in ((True, "tensor cond/mul:0 has Inf"), (False, None)):
        nodes = [constant("training", training, 10) if n.name == "training" else n for n in source.graph.node]
        found = Program(GraphDef(node=nodes, versions=source.graph.versions), source.inputs, source.outputs)
        # Both are read, but what is not taken is not computed.
        assert asked(found, a=[3e38, 1, 3e38], b=[1, 1, 1]) == expected


def test_the_checked_program_computes_the_same_bits():
    values = {"input/x": tf.constant(X), "variable/w": tf.constant([0.5, 0.25, 0.125])}
    plain, with_checks = (as_function(p)(values)["out"].numpy() for p in (roots(), checked(roots())))
    assert plain.tobytes() == with_checks.tobytes()
