"""What a head's logits mean, and how wrong they are for each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Loss:
    """A way to read logits [batch, outputs].

    `activation` turns them into what is called `output` in the written pair; `of(logits, targets)` gives a loss for
    each example, float32 [batch].
    """

    output: str
    activation: Callable[..., Any]
    of: Callable[[Any, Any], Any]


def softmax(logits: Any, targets: Any) -> Any:
    """Cross entropy with one class an example, int64 [batch], or with a distribution, float32 [batch, classes]."""
    if targets.dtype.is_integer:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def sigmoid(logits: Any, targets: Any) -> Any:
    """Cross entropy of every class by itself, the mean over the classes; targets float32 [batch, classes] in 0..1."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=1)


def squared(logits: Any, targets: Any) -> Any:
    """Squared error, the mean over the outputs; targets float32 [batch, outputs]."""
    return tf.reduce_mean(tf.math.squared_difference(logits, targets), axis=1)


def absolute(logits: Any, targets: Any) -> Any:
    """Absolute error, the mean over the outputs."""
    return tf.reduce_mean(tf.abs(logits - targets), axis=1)


def huber(logits: Any, targets: Any) -> Any:
    """Squared error up to a difference of 1, absolute beyond (Huber 1964), the mean over the outputs."""
    off = tf.abs(logits - targets)
    return tf.reduce_mean(tf.where(off <= 1.0, 0.5 * off * off, off - 0.5), axis=1)


LOSSES = {
    "softmax": Loss("probabilities", tf.nn.softmax, softmax),
    "sigmoid": Loss("probabilities", tf.nn.sigmoid, sigmoid),
    "squared": Loss("values", tf.identity, squared),
    "absolute": Loss("values", tf.identity, absolute),
    "huber": Loss("values", tf.identity, huber),
}
