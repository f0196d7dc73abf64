"""A program as a function: compiled with XLA, or refused by it in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.engine.compile import Program, as_function, control_flow_v1
from finetune.errors import UserError
from finetune.protos import GraphDef

tf1 = tf.compat.v1
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def program(make: Any) -> Program:
    with control_flow_v1(), tf.Graph().as_default() as graph:
        y = tf.identity(make(tf1.placeholder(tf.float32, [None, 3], "x")), "y")
        definition = GraphDef.FromString(graph.as_graph_def().SerializeToString())
    return Program(definition, {"input/x": "x:0"}, {"y": y.name})


def test_xla_compiles_and_agrees():
    made = program(lambda x: tf.nn.softmax(tf.exp(x) @ tf.transpose(x)))
    ours, truth = (as_function(made, xla=xla)({"input/x": tf.constant(X)})["y"] for xla in (True, False))
    np.testing.assert_allclose(ours, truth, rtol=1e-5)
    compiled = as_function(made, xla=True)
    assert compiled({"input/x": tf.constant(X[:2])})["y"].shape == (2, 2)


def test_a_loop_of_tensorflow_1_is_refused_by_name():
    made = program(lambda x: tf1.while_loop(lambda i, _: i < 3, lambda i, h: (i + 1, h * 2), [0, x], name="again")[1])
    with pytest.raises(UserError) as refused:
        as_function(made, xla=True)({"input/x": tf.constant(X)})
    assert str(refused.value).startswith("error[recipe] train.xla: XLA cannot compile Enter (node 'again/Enter")
    assert str(refused.value).endswith("take train.xla back: it takes no loops and branches of TensorFlow 1")
    np.testing.assert_array_equal(as_function(made)({"input/x": tf.constant(X)})["y"], X * 8)


def test_an_op_that_xla_lacks_is_refused_by_name():
    made = program(lambda x: tf.strings.length(tf.strings.as_string(x)))
    with pytest.raises(UserError, match=r"train.xla: XLA cannot compile AsString \(node 'AsString'\); take train.xla"):
        as_function(made, xla=True)({"input/x": tf.constant(X)})
