"""Many steps in one call: the bits of one after the other, and what is not finite ends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune import recipe
from finetune.learning.state import State, make_state
from finetune.learning.strides import make_stride
from finetune.learning.train import Actions, Clock, NonFinite, loop, make_step


def program(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The gradient is the mean of the rows, which is not finite where a row is not."""
    mean = tf.reduce_mean(arguments["input/x"], 0)
    return {"loss": tf.reduce_sum(mean), "gradient/a": mean}


def state() -> State:
    return make_state({"a": np.float32([0.0])}, {"a": 1.0}, [], {}, recipe.Train(optimizer="sgd", learning_rate=1.0))


def stride(found: State) -> Any:
    return make_stride(program, make_step(program, found, 0), found, 0)


def rows(*values: float) -> dict[str, Any]:
    return {"x": tf.constant([[value] for value in values], tf.float32)}


def test_steps_of_a_stride_are_those_of_one_after_the_other():
    found = state()
    take = stride(found)
    made = [*take(0, 3, rows(1, 2, 3, 4, 5, 6), {}), *take(3, 5, rows(7, 8, 9, 10), {})]
    assert [float(each["loss"]) for each in made] == [1.5, 3.5, 5.5, 7.5, 9.5]
    assert float(found.live["a"][0]) == -27.5


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_step_that_is_not_finite_ends_a_stride_and_those_before_it_are_logged(at: int):
    found, values = state(), [1.0, 2.0, 3.0, 4.0]
    values[at] = float("nan")
    lines: list[int] = []
    actions = Actions(lambda number, given: lines.append(number), lambda n: None, lambda n: None, lambda loss: None)
    batches = iter([(rows(*values), {}, range(4))])
    with pytest.raises(NonFinite, match=f"step {at + 1}: the loss is nan"):
        loop(stride(found), batches, [4], 0, actions, 1, Clock(), Clock())
    assert lines == list(range(1, at + 1))
    assert float(found.live["a"][0]) == -sum(values[:at])
