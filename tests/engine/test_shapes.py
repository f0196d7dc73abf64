"""The shapes of a backbone's tensors, which TensorFlow gives up for V1 loops."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from finetune.engine.shapes import static_shapes
from tests.caching.test_dependence import backbone_of

tf1 = tf.compat.v1
BATCH = 1009


def shape_of(make: Any, *row: int) -> Any:
    shapes, _ = static_shapes(backbone_of(make, *row), {"x": row}, BATCH)
    return shapes["y:0"]


def turned(body: Any, *given: Any, **words: Any) -> Any:
    """What four turns of a loop make of the first of some values."""
    return tf1.while_loop(lambda i, *_: i < 4, lambda i, *v: (i + 1, *body(*v)), [0, *given], **words)[1]


def last_state(x: Any) -> Any:
    """Of a recurrence over time whose inputs come from a TensorArray, which has no shape."""
    inputs = tf.TensorArray(tf.float32, tf.shape(x)[1]).unstack(tf.transpose(x, [1, 0, 2]))
    kernel = tf.ones([9, 5])
    words = lambda i, _: i < 4, lambda i, h: (i + 1, tf.tanh(tf.concat([inputs.read(i), h], 1) @ kernel))
    return tf1.while_loop(*words, [0, tf.zeros([tf.shape(x)[0], 5])])[1]


def grown(x: Any) -> Any:
    any_width = [tf.TensorShape([]), tf.TensorShape([None, None])]
    return turned(lambda h: [tf.concat([h, h], 1)], x, shape_invariants=any_width)


def in_a_loop(x: Any) -> Any:
    return turned(lambda h: [turned(lambda g: [g * 2], h + 1)], x)


def grown_in_a_loop(x: Any) -> Any:
    any_width = [tf.TensorShape([]), tf.TensorShape([None, None])]
    return turned(lambda h: [grown(h)], x, shape_invariants=any_width)


def beside_one_that_grows(x: Any) -> Any:
    any_width = [tf.TensorShape([]), tf.TensorShape([None, 3]), tf.TensorShape([None, None])]
    return turned(lambda h, g: [h + 1, tf.concat([g, g], 1)], x, x, shape_invariants=any_width)


@pytest.mark.parametrize(
    ("make", "row", "shape"),
    [(last_state, (4, 4), (BATCH, 5)), (in_a_loop, (3,), (BATCH, 3)), (beside_one_that_grows, (3,), (BATCH, 3))],
)
def test_what_a_turn_leaves_as_it_is_keeps_its_shape(make: Any, row: tuple[int, ...], shape: tuple[int, ...]):
    assert shape_of(make, *row) == shape


@pytest.mark.parametrize("make", [grown, grown_in_a_loop])
def test_what_grows_has_none(make: Any):
    assert None in (shape_of(make, 3) or (None,))
