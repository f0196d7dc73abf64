"""The factor that keeps float16 gradients from becoming zero, found while training.

Micikevicius et al. 2018, "Mixed precision training": the loss is multiplied before gradients are taken; where one of
them overflows, the step is left out and the factor halved, and after many good steps it is doubled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

FIRST = 2.0**15
GOOD_STEPS = 2000  # before it is doubled


@dataclass(frozen=True)
class LossScale:
    """The factor, float32, and how many steps in a row it has been good for, int64."""

    factor: Any
    good: Any

    def state(self) -> dict[str, Any]:
        """Its variables, by the name that a checkpoint gives them."""
        return {"loss_scale/factor": self.factor, "loss_scale/good_steps": self.good}

    def learn(self, is_finite: Any) -> None:
        """Takes up whether the gradients of a step were finite, a bool scalar."""
        doubled = tf.logical_and(is_finite, self.good >= GOOD_STEPS - 1)
        change = tf.where(is_finite, tf.where(doubled, 2.0, 1.0), 0.5)
        self.factor.assign(tf.clip_by_value(self.factor * change, 1.0, 2.0**126))
        self.good.assign(tf.where(tf.logical_and(is_finite, tf.logical_not(doubled)), self.good + 1, 0))


def make_loss_scale() -> LossScale:
    """The factor at step 0."""
    return LossScale(tf.Variable(tf.constant(FIRST), name="loss_scale"), tf.Variable(tf.constant(0, tf.int64)))
