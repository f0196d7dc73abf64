"""A program as a function: compiled with XLA, or refused by it in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.engine.compile import Program, as_function, control_flow_v1, explained
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


OOM = "OOM when allocating tensor with shape[64,512,28,28] on GPU:0"
GEMM = "failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED"
ECC = "Failed to synchronize: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            tf.errors.ResourceExhaustedError(None, None, OOM),
            2,
            f"data] train.batch_size: the memory is too small * {OOM}",
        ),
        (
            tf.errors.InternalError(None, None, GEMM),
            2,
            f"data] train.batch_size: the memory is too small * {GEMM}; use",
        ),
        (tf.errors.InternalError(None, None, ECC), 75, f"machine] device: a device failed: {ECC}; the same command"),
        (
            tf.errors.UnavailableError(None, None, "gone"),
            75,
            "machine] device: a device failed: gone; the same command",
        ),
        (tf.errors.AbortedError(None, None, "gone"), 75, "machine] device: a device failed: gone; the same command"),
        (tf.errors.InternalError(None, None, "no such kernel"), 3, "source] cut: TensorFlow cannot run the graph: no"),
        (tf.errors.UnimplementedError(None, None, "int4"), 3, "source] cut: TensorFlow cannot run the graph: int4"),
    ],
)
def test_what_the_device_is_to_blame_for_is_told_from_what_the_graph_is(error, status, said):
    with pytest.raises(UserError) as refused, explained():
        raise error
    assert refused.value.status == status
    assert str(refused.value).startswith("error[" + said.partition(" * ")[0])
    assert said.partition(" * ")[2] in str(refused.value)
