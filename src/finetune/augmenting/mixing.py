"""Batches whose examples are mixed with one another, labels and all, as a function of a seed.

Zhang et al. 2018, "mixup: beyond empirical risk minimization"; Yun et al. 2019, "CutMix: regularization strategy to
train strong classifiers with localizable features".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from finetune.examples.tasks import Task

_STREAM = 0x6D697869  # keeps these seeds apart from those of order, dropout and augmentation


@dataclass(frozen=True)
class Mixing:
    """The parameter a of Beta(a, a) for each way of mixing, 0 for never; and how many outputs each head has."""

    mixup: float
    cutmix: float
    outputs: Mapping[str, int]


def make_mixing(mixup: float, cutmix: float, tasks: Sequence[Task]) -> Mixing | None:
    """What two keys of a recipe ask for; None for nothing."""
    return Mixing(mixup, cutmix, {task.name: task.outputs for task in tasks}) if mixup or cutmix else None


def batch_seed(run_seed: int, step: Any) -> Any:
    """The seed of a step's batch: int64 [2]; the step is an int64 scalar."""
    return tf.random.experimental.stateless_fold_in(tf.constant([run_seed, _STREAM], tf.int64), step)


@tf.autograph.experimental.do_not_convert
def mix(
    inputs: Mapping[str, Any], targets: Mapping[str, Any], seed: Any, how: Mixing
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batch with each example mixed with the one at the same place from the end.

    One share is drawn for the whole batch. Where both ways are given, a fair coin says which of them a batch gets.

    Args:
      inputs: [examples, …] by field; for CutMix one, [examples, height, width, …]. Whole numbers are rounded again.
      targets: by head; int64 [examples] become float32 [examples, outputs], others are float32 already.
    """
    which, share, place = tf.unstack(tf.random.split(seed, 3))

    def blended() -> tuple[dict[str, Any], Any]:
        kept = beta(how.mixup, share)
        return {name: _blend(kept, batch) for name, batch in inputs.items()}, kept

    def pasted() -> tuple[dict[str, Any], Any]:
        ((name, images),) = inputs.items()
        images, kept = _paste(images, beta(how.cutmix, share), place)
        return {name: images}, kept

    if how.mixup and how.cutmix:
        mixed, kept = tf.cond(tf.random.stateless_uniform([], which) < 0.5, blended, pasted)
    else:
        mixed, kept = blended() if how.mixup else pasted()
    spread = {head: _distribution(target, how.outputs[head]) for head, target in targets.items()}
    return mixed, {head: _blend(kept, target) for head, target in spread.items()}


def _distribution(target: Any, outputs: int) -> Any:
    return tf.one_hot(target, outputs) if target.dtype.is_integer else target


def beta(a: float, seed: Any) -> Any:
    """One number from Beta(a, a), float32."""
    # In float64, for both may be tiny where a is small; if both vanish all the same, 0 is as likely an end as 1.
    one, other = tf.unstack(tf.random.stateless_gamma([2], seed, alpha=tf.constant(a, tf.float64), dtype=tf.float64))
    return tf.cast(tf.math.divide_no_nan(one, one + other), tf.float32)


def _blend(kept: Any, batch: Any) -> Any:
    exact = tf.cast(batch, tf.float32)
    mixed = kept * exact + (1.0 - kept) * tf.reverse(exact, [0])
    return tf.cast(tf.round(mixed) if batch.dtype.is_integer else mixed, batch.dtype)


def _paste(batch: Any, kept: Any, seed: Any) -> tuple[Any, Any]:
    """Images with a rectangle from their partners, and the share of the area that is still their own."""
    middle, side = tf.random.stateless_uniform([2], seed), tf.sqrt(1.0 - kept)
    sizes = tf.cast(tf.shape(batch)[1:3], tf.float32)
    # What would lie beyond the border is cut off, so that the share is what is left and not what was drawn.
    top, left = tf.unstack(tf.round(tf.maximum(middle - side / 2, 0.0) * sizes))
    bottom, right = tf.unstack(tf.round(tf.minimum(middle + side / 2, 1.0) * sizes))
    y, x = tf.range(sizes[0])[:, tf.newaxis], tf.range(sizes[1])
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    inside = tf.reshape(inside, [1, *tf.unstack(tf.shape(inside)), *[1] * (batch.shape.rank - 3)])
    own = 1.0 - (bottom - top) * (right - left) / tf.reduce_prod(sizes)
    return tf.where(inside, tf.reverse(batch, [0]), batch), own
