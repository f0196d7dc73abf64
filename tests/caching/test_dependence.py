"""The proof that a row is made of one example: held against what TensorFlow computes for other batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.caching.dependence import Dependence, dependences
from finetune.caching.frontier import frontiers
from finetune.engine.compile import as_function, control_flow_v1, features_program
from finetune.engine.shapes import static_shapes
from finetune.graph import from_meta
from finetune.protos import MetaGraphDef
from finetune.surgery.backbone import Backbone, make_backbone
from tests.conformance.goldens import FOLDER, Golden, read_golden, source_of

tf1 = tf.compat.v1
BATCH = 1_000_003


def backbone_of(make: Callable[[Any], Any], *row: int) -> Backbone:
    with control_flow_v1(), tf.Graph().as_default():
        tf.identity(make(tf1.placeholder(tf.float32, [None, *row], "x")), "y")
        meta = MetaGraphDef.FromString(tf1.train.export_meta_graph().SerializeToString())
    return make_backbone(from_meta(meta), ["y:0"], {"x": "x:0"}, {})


def proven(backbone: Backbone, *row: int) -> Dependence:
    shapes, _ = static_shapes(backbone, {"x": row}, BATCH)
    return dependences(backbone.graph, ["x:0"], (), shapes, BATCH)["y"]


def weights(*shape: int) -> Any:
    return tf.constant(np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32))


def looped(x: Any) -> Any:
    """A recurrence over time, as `dynamic_rnn` writes it: [batch, time, 4] -> [batch, time, 5]."""
    _, _, made = _recurrence(x)
    return tf.transpose(made.stack(), [1, 0, 2])


def last_state(x: Any) -> Any:
    """Its last state: [batch, time, 4] -> [batch, 5]."""
    _, state, _ = _recurrence(x)
    return state


def _recurrence(x: Any) -> Any:
    time_major = tf.transpose(x, tf.concat([[1, 0], tf.range(2, tf.rank(x))], 0))
    steps, batch = tf.unstack(tf.shape(time_major)[:2])
    inputs = tf.TensorArray(tf.float32, steps).unstack(time_major)
    outputs = tf.TensorArray(tf.float32, steps)

    def turn(time: Any, state: Any, made: Any) -> Any:
        state = tf.tanh(tf.concat([inputs.read(time), state], 1) @ weights(9, 5))
        return time + 1, state, made.write(time, state)

    return tf1.while_loop(lambda time, *_: time < steps, turn, [0, tf.zeros(tf.stack([batch, 5])), outputs])


def unrolled(x: Any) -> Any:
    """Time steps side by side, as programs wrote it before there were loops."""
    flat = tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, 4])
    steps = tf.split(tf.nn.relu(flat @ weights(4, 5)), 6, 0)
    return tf.add_n(steps)


def switched(x: Any) -> Any:
    return tf1.cond(tf.reduce_mean(x) > 0, lambda: x * 2, lambda: x - 1)


def repeated(x: Any) -> Any:
    turns = tf.cast(tf.reduce_max(x), tf.int32)
    return tf1.while_loop(lambda i, _: i < turns, lambda i, h: (i + 1, h * 2), [0, x])[1]


APART: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "dense": (lambda x: tf.nn.relu(x @ weights(4, 3) + weights(3)), (4,)),
    "convolution": (
        lambda x: tf.nn.max_pool2d(tf.nn.conv2d(x, weights(3, 3, 2, 4), 1, "SAME"), 2, 2, "SAME"),
        (6, 6, 2),
    ),
    "dilated": (lambda x: tf.nn.conv2d(x, weights(3, 3, 2, 4), 1, "SAME", dilations=2), (8, 8, 2)),
    "transposed": (
        lambda x: tf.nn.conv2d_transpose(x, weights(2, 2, 3, 2), [tf.shape(x)[0], 12, 12, 3], 2),
        (6, 6, 2),
    ),
    "inference norm": (
        lambda x: tf1.nn.fused_batch_norm(x, *(weights(2) for _ in range(3)), weights(2) ** 2, is_training=False)[0],
        (3, 3, 2),
    ),
    "flatten": (lambda x: tf.reshape(x, [tf.shape(x)[0], 12]) @ weights(12, 3), (2, 2, 3)),
    "flatten by hand": (lambda x: tf.reshape(x, [-1, 12]) @ weights(12, 3), (2, 2, 3)),
    "mean of a map": (lambda x: tf.reduce_mean(x, [1, 2], keepdims=True), (2, 2, 3)),
    "softmax": (lambda x: tf.nn.softmax(x), (5,)),
    "unit length": (lambda x: tf.nn.l2_normalize(x, 1), (5,)),
    "lookup": (lambda x: tf.gather(weights(9, 3), tf.cast(tf.abs(x) % 9, tf.int32)), (5,)),
    "tokens behind each other": (
        lambda x: tf.reshape(tf.gather(weights(9, 3), tf.reshape(tf.cast(tf.abs(x) % 9, tf.int32), [-1])), [-1, 5, 3]),
        (5,),
    ),
    "parts": (lambda x: tf.concat(tf.split(x, 2, 1)[::-1], 1) - tf.stack(tf.unstack(x, axis=1), 1), (4,)),
    "slices": (lambda x: x[:, 1:, tf.newaxis] * x[..., :-1, tf.newaxis], (4,)),
    "attention": (lambda x: tf.nn.softmax(tf.matmul(x, x, transpose_b=True)) @ x, (5, 3)),
    "choice": (lambda x: tf.where(x > 0, x, tf.zeros_like(x)), (4,)),
    "one hot": (lambda x: tf.one_hot(tf.argmax(x, 1), 4), (4,)),
    "padding": (lambda x: tf.pad(x, [[0, 0], [1, 2]]), (4,)),
    "loop": (looped, (6, 4)),
    "last state": (last_state, (6, 4)),
    "unrolled": (unrolled, (6, 4)),
    "zeros of the batch": (lambda x: tf.concat([x, tf.zeros([tf.shape(x)[0], 2])], 1), (4,)),
}
# What forbids it: a part of what is said.
TOGETHER: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], str]] = {
    "centred": (lambda x: x - tf.reduce_mean(x, 0), (4,), "(Mean) ranges over the examples of a batch"),
    "training norm": (
        lambda x: tf1.nn.fused_batch_norm(x, weights(2), weights(2), is_training=True)[0],
        (3, 3, 2),
        "normalises by the mean of the batch",
    ),
    "reversed": (lambda x: x + tf.reverse(x, [0]), (4,), "(ReverseV2) goes from one example of a batch to the next"),
    "running sum": (lambda x: tf.cumsum(x, 0), (4,), "(Cumsum) goes from one example"),
    "first": (lambda x: x - x[0], (4,), "takes some examples of a batch"),
    "neighbours": (lambda x: tf.concat([x[1:], x[:1]], 0), (4,), "takes some examples of a batch"),
    "gram": (lambda x: tf.reduce_sum(tf.matmul(x, x, transpose_b=True), 1), (4,), "takes more than one input"),
    "places": (
        lambda x: x + tf.cast(tf.range(tf.shape(x)[0]), tf.float32)[:, None],
        (4,),
        "depends on the number of examples",
    ),
    "count": (lambda x: x / tf.cast(tf.shape(x)[0], tf.float32), (4,), "depends on the number of examples"),
    "softmax of the batch": (
        lambda x: tf.transpose(tf.nn.softmax(tf.transpose(x))),
        (4,),
        "(Softmax) ranges over the examples",
    ),
    "branch": (switched, (4,), "(Mean) ranges over the examples"),
    "turns": (repeated, (4,), "ranges over the examples"),
    "chance": (lambda x: tf1.nn.dropout(x, rate=0.5), (4,), "draws at random"),
}


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, *shape), scale=3).astype(np.float32)


def computed(backbone: Backbone, batch: np.ndarray) -> np.ndarray:
    return as_function(features_program(backbone))({"input/x": tf.constant(batch), "seed": (0, 0)})["features"].numpy()


@pytest.mark.parametrize("name", APART)
def test_what_treats_each_example_by_itself_is_proven(name: str):
    make, row = APART[name]
    backbone = backbone_of(make, *row)
    assert proven(backbone, *row).is_kept, proven(backbone, *row)
    batch, order = rows(*row), np.random.default_rng(1).permutation(8)
    whole = computed(backbone, batch)
    np.testing.assert_allclose(computed(backbone, batch[order]), whole[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(computed(backbone, batch[:3]), whole[:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TOGETHER)
def test_what_joins_examples_is_forbidden_by_name(name: str):
    make, row, why = TOGETHER[name]
    backbone = backbone_of(make, *row)
    found = proven(backbone, *row)
    assert found.what == "bad"
    assert why in found.why
    batch = rows(*row)
    if name != "chance":  # and rightly so: other mates and another place, another answer
        others = np.concatenate([1 - 3 * batch[:5], batch[3:4], batch[:4] + 2])
        assert not np.allclose(computed(backbone, others)[5], computed(backbone, batch)[3], atol=1e-3)


def test_the_last_state_of_a_loop_is_kept():
    backbone = backbone_of(last_state, 6, 4)
    shapes, dtypes = static_shapes(backbone, {"x": (6, 4)}, BATCH)
    found = dependences(backbone.graph, ["x:0"], (), shapes, BATCH)
    best, *_ = frontiers(backbone.graph, ["y:0"], found, shapes, dtypes, BATCH)
    assert dict(best.rows) == {"y:0": (5,)}


def test_what_learns_is_not_kept_and_forbids_nothing():
    with tf.Graph().as_default():
        x = tf1.placeholder(tf.float32, [None, 4], "x")
        frozen, learnt = (tf1.get_variable(n, [4, 4], use_resource=False) for n in ("frozen", "learnt"))
        tf.nn.relu(tf.nn.relu(x @ frozen, "below") @ learnt, "y")
        meta = MetaGraphDef.FromString(tf1.train.export_meta_graph().SerializeToString())
    backbone = make_backbone(from_meta(meta), ["y:0"], {"x": "x:0"}, {})
    shapes, _ = static_shapes(backbone, {"x": (4,)}, BATCH)
    found = dependences(backbone.graph, ["x:0"], ["learnt"], shapes, BATCH)
    assert found["below"].is_kept
    assert (found["y"].what, found["y"].why) == ("live", "")


@dataclass(frozen=True)
class Expected:
    kept: bool
    why: str = ""


NO_RULE = "'words/DynamicPartition_1' (DynamicPartition) is not known to treat each example by itself"
GOLDENS = {
    "bn_cond": Expected(True),
    "bn_moments": Expected(True),
    "bn_side_effect": Expected(True),
    "cond_data": Expected(False, "'Mean' (Mean) ranges over the examples of a batch"),
    "conv_ref": Expected(True),
    "dense_resource": Expected(True),
    "dict_saver": Expected(True),
    "dropout_while": Expected(True),
    "embedding": Expected(False, NO_RULE),
    "rnn_sequence": Expected(True),
    "rnn_while": Expected(True),
    "shared": Expected(True),
    "v1_checkpoint": Expected(True),
    "while_scalar": Expected(True),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_in_inference(name: str):
    golden: Golden = read_golden(FOLDER / name)
    source = source_of(golden)
    fed = {tensor: value for tensor, value in golden.feeds["eval"].items() if tensor not in golden.inputs.values()}
    backbone = make_backbone(source.whole, source.cuts, source.inputs, fed, (), source.tables)
    shapes, _ = static_shapes(backbone, {field: rows.shape[1:] for field, rows in golden.batch.items()}, BATCH)
    found = dependences(backbone.graph, backbone.inputs.values(), (), shapes, BATCH)[source.cut.partition(":")[0]]
    assert (found.is_kept, found.why) == (GOLDENS[name].kept, GOLDENS[name].why)
