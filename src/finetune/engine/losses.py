"""What a head's logits mean, and how wrong they are for each example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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


def objective(
    loss: str, outputs: int, smoothing: float = 0.0, weights: Sequence[float] = (), focal: float = 0.0
) -> Callable[[Any, Any], Any] | None:
    """What is lessened in training in the place of a loss of classes; None if that is the loss itself.

    Args:
      smoothing: the share of each target that goes to all classes (Szegedy et al. 2016, "Rethinking the Inception
        architecture"); of classes by themselves, half of it to each answer.
      weights: what the examples of each class count; of classes by themselves, what being one of a class does.
      focal: gamma of the focal loss (Lin et al. 2017, "Focal loss for dense object detection"), 0 for none.
    """
    if not (smoothing or len(weights) or focal):
        return None
    each = np.asarray(weights if len(weights) else np.ones(outputs), np.float32)
    return _soft(outputs, smoothing, each, focal) if loss == "softmax" else _hot(smoothing, each, focal)


def _soft(outputs: int, smoothing: float, weights: np.ndarray, focal: float) -> Callable[[Any, Any], Any]:
    def losses(logits: Any, targets: Any) -> Any:
        shares = tf.one_hot(targets, outputs) if targets.dtype.is_integer else targets
        found = softmax(logits, shares * (1.0 - smoothing) + smoothing / outputs)
        if focal:
            likely = tf.reduce_sum(shares * tf.nn.softmax(logits), axis=1)
            found *= tf.pow(1.0 - likely, focal)
        return found * tf.reduce_sum(shares * weights, axis=1)

    return losses


def _hot(smoothing: float, weights: np.ndarray, focal: float) -> Callable[[Any, Any], Any]:
    def losses(logits: Any, targets: Any) -> Any:
        soft = targets * (1.0 - smoothing) + smoothing / 2
        found = tf.nn.weighted_cross_entropy_with_logits(soft, logits, weights)
        if focal:
            likely = tf.nn.sigmoid(logits)
            found *= tf.pow(tf.abs(targets - likely), focal)
        return tf.reduce_mean(found, axis=1)

    return losses


def distillation(temperature: float) -> Callable[[Any, Any], Any]:
    """How far logits are from those of a teacher, both softened; its gradient does not depend on the temperature much.

    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network": the cross entropy of what both say at
    the temperature, times its square. What the teacher's own entropy adds is taken off, so that agreement is 0.
    """

    def losses(logits: Any, teacher: Any) -> Any:
        wanted = tf.nn.softmax(teacher / temperature)
        apart = softmax(logits / temperature, wanted) - softmax(teacher / temperature, wanted)
        return temperature**2 * apart

    return losses
