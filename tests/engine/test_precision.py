"""Mixed precision: products in 16 bits, in the graph that TensorFlow really runs, and all else as it was."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from finetune.engine.compile import Program, as_function, control_flow_v1
from finetune.engine.precision import PRODUCTS, TYPES, lowered
from finetune.protos import GraphDef

tf1 = tf.compat.v1
X = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
VALUES = {
    "k": np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype(np.float32),
    "w": np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32),
}


def program(with_loop: bool = False) -> Program:
    """A convolution, a product, in a loop of TensorFlow 1 if wanted, and the gradients of both."""
    with control_flow_v1(), tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 6, 6, 3], "x")
        k, w = (tf1.placeholder(tf.float32, VALUES[n].shape, n) for n in ("k", "w"))
        h = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, k, 1, "SAME")), [1, 2])
        if with_loop:
            _, h = tf1.while_loop(lambda i, _: i < 3, lambda i, h: (i + 1, tf.tanh(h @ w)), [0, h])
        else:
            h = tf.matmul(h, w, transpose_b=True)
        loss = tf.reduce_mean(h**2)
        found = dict(zip(("k", "w"), tf1.gradients(loss, [k, w]), strict=True))
        outputs = {"loss": loss.name} | {f"gradient/{n}": g.name for n, g in found.items()}
        definition = GraphDef.FromString(graph.as_graph_def().SerializeToString())
    return Program(definition, {"input/x": "x:0", "variable/k": "k:0", "variable/w": "w:0"}, outputs)


def answers(made: Program) -> dict[str, np.ndarray]:
    given = {"input/x": tf.constant(X), **{f"variable/{n}": tf.constant(v) for n, v in VALUES.items()}}
    return {name: value.numpy() for name, value in as_function(made)(given).items()}


def run_graph(made: Program) -> list[Any]:
    """The nodes after Grappler has had the graph."""
    context.context().enable_run_metadata()
    try:
        answers(made)
        metadata = context.context().export_run_metadata()
    finally:
        context.context().disable_run_metadata()
    return [node for found in metadata.function_graphs for part in found.partition_graphs for node in part.node]


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("with_loop", [False, True])
def test_what_runs_has_every_product_in_16_bits_and_nothing_else(precision: str, with_loop: bool):
    kind = TYPES[precision].as_datatype_enum
    low = lowered(program(with_loop), precision)
    ran = run_graph(low.program)
    products = [n for n in ran if re.sub("_Mkl(Native)?|_(?=Fused)|Fused", "", n.op) in PRODUCTS]
    assert len(products) == low.count > 4
    assert {n.attr["T"].type for n in products} == {kind}
    others = [n for n in ran if n not in products and n.op not in ("Cast", "Const", "Transpose", "Reshape", "_Recv")]
    assert [n.name for n in others if n.attr["T"].type == kind] == []
    assert [n for n in run_graph(program(with_loop)) if n.op == "Cast" and n.attr["DstT"].type == kind] == []


@pytest.mark.parametrize(("precision", "tolerance"), [("mixed_bfloat16", 6e-2), ("mixed_float16", 2e-3)])
@pytest.mark.parametrize("with_loop", [False, True])
def test_the_answers_are_near_those_of_float32_and_not_the_same(precision: str, tolerance: float, with_loop: bool):
    ours, truth = answers(lowered(program(with_loop), precision).program), answers(program(with_loop))
    for name, value in truth.items():
        assert ours[name].dtype == np.float32
        assert np.linalg.norm(ours[name] - value) < tolerance * np.linalg.norm(value)
    assert not np.array_equal(ours["gradient/w"], truth["gradient/w"])


def test_the_program_that_was_given_is_left_alone_and_one_cast_serves_many():
    made = program()
    before = made.graph.SerializeToString(deterministic=True)
    low = lowered(made, "mixed_bfloat16")
    assert made.graph.SerializeToString(deterministic=True) == before
    names = [node.name for node in low.program.graph.node]
    assert len(names) == len(set(names))
    assert names.count("x/finetune_cast") == 1  # for the convolution and for the gradient of its kernel


def test_what_is_not_float32_stays():
    with tf.Graph().as_default() as graph:
        tf.matmul(tf1.placeholder(tf.float64, [2, 2], "x"), tf.eye(2, dtype=tf.float64), name="y")
        made = Program(GraphDef.FromString(graph.as_graph_def().SerializeToString()), {"input/x": "x:0"}, {"y": "y:0"})
    assert lowered(made, "mixed_float16").count == 0
