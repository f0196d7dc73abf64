"""Moving averages of the variables that change, as `tf.train.ExponentialMovingAverage` makes and names them.

tensorflow/python/training/moving_averages.py, with `num_updates`: the decay begins low, so that the first steps do not
hold on to the values of step 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

SUFFIX = "/ExponentialMovingAverage"


def make_averages(live: Mapping[str, Any]) -> dict[str, Any]:
    """An average for each variable of numbers that can be averaged, beginning at its value."""
    return {n: tf.Variable(v, name=f"{n.replace('/', '_')}_average") for n, v in live.items() if v.dtype.is_floating}


def decay_at(decay: float, step: int) -> float:
    """The decay at a step, counted from 1: a function of its number, so that a resume needs no state.

    >>> [round(decay_at(0.999, step), 3) for step in (1, 10, 100, 100_000)]
    [0.182, 0.55, 0.918, 0.999]
    """
    return min(decay, (1 + step) / (10 + step))


def follow(averages: Mapping[str, Any], live: Mapping[str, Any], decay: Any) -> None:
    """Moves each average towards its variable; `decay` is a float32 scalar."""
    for name, average in averages.items():
        average.assign_sub((average - live[name]) * tf.cast(1.0 - decay, average.dtype))
