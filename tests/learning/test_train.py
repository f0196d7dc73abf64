"""One step: what the program gives, clipped and at the share of the rate that the step takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune import recipe
from finetune.learning.state import State, make_state
from finetune.learning.strides import one_by_one
from finetune.learning.train import Actions, Clock, NonFinite, check_finite, loop, make_step


def program(loss: float = 1.0):
    """Gradients that together measure 5."""

    def run(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        assert arguments["seed"].shape == (2,)
        return {"loss": tf.constant(loss), "gradient/a": tf.constant([3.0]), "gradient/b": tf.constant([4.0])}

    return run


def state() -> State:
    values = {"a": np.float32([0.0]), "b": np.float32([0.0])}
    return make_state(values, {"a": 1.0, "b": 1.0}, [], {}, recipe.Train(optimizer="sgd", learning_rate=1.0))


def moved(found: State) -> list[float]:
    return [float(found.live[name][0]) for name in ("a", "b")]


def test_gradients_are_clipped_together():
    found = state()
    make_step(program(), found, 0, clip_norm=1.0)(1, {}, {})
    assert moved(found) == pytest.approx([-0.6, -0.8])
    make_step(program(), found, 0, clip_norm=100.0)(2, {}, {})
    assert moved(found) == pytest.approx([-3.6, -4.8])


def test_each_step_takes_its_share_of_the_rate():
    found = state()
    step = make_step(program(), found, 0, share=lambda number: {1: 1.0, 2: 0.5}[number])
    step(1, {}, {})
    assert moved(found) == [-3.0, -4.0]
    step(2, {}, {})
    assert moved(found) == [-4.5, -6.0]


def test_a_loss_that_is_no_number_changes_nothing():
    found = state()
    with pytest.raises(NonFinite, match="step 7: the loss is nan"):
        make_step(program(float("nan")), found, 0)(7, {}, {})
    assert moved(found) == [0.0, 0.0]


def gradients(*values: float):
    return lambda arguments: {
        "loss": tf.constant(1.0),
        "gradient/a": tf.constant([values[0]]),
        "gradient/b": tf.constant([values[1]]),
    }


def test_a_gradient_that_is_no_number_changes_nothing():
    found = state()
    for clip_norm in (None, 1.0):
        with pytest.raises(NonFinite, match="step 3: the loss is 1, but not finite is gradient/b"):
            make_step(gradients(1.0, float("inf")), found, 0, clip_norm=clip_norm)(3, {}, {})
    assert moved(found) == [0.0, 0.0]


def test_gradients_whose_sum_is_too_large_are_finite_unless_their_norm_is_needed():
    found = state()
    make_step(gradients(-3e38, -3e38), found, 0)(1, {}, {})
    assert moved(found) == [np.float32(3e38), np.float32(3e38)]
    with pytest.raises(NonFinite, match="the norm of the gradients"):
        make_step(gradients(3e38, 3e38), found, 0, clip_norm=1.0)(2, {}, {})
    assert moved(found) == [np.float32(3e38), np.float32(3e38)]


def test_weights_that_a_step_has_made_infinite_are_seen():
    found = state()
    check_finite(found, 1)
    for number in (1, 2):
        make_step(gradients(-3e38, 0.0), found, 0)(number, {}, {})
    with pytest.raises(NonFinite, match=r"step 2: no longer finite is a$"):
        check_finite(found, 2)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_norm_of_all_gradients_is_given_as_it_was_before_clipping(clip_norm: float | None):
    found = make_step(program(), state(), 0, clip_norm=clip_norm)(1, {}, {})
    assert float(found["gradient_norm"]) == pytest.approx(5.0)


def test_a_norm_that_overflows_is_left_out_of_the_log():
    lines: list[Mapping[str, float]] = []
    actions = Actions(lambda number, found: lines.append(found), lambda n: None, lambda n: None, lambda loss: None)
    step = lambda number, inputs, targets: {"loss": 1.0, "gradient_norm": tf.constant(float("inf"))}  # noqa: E731
    loop(one_by_one(step), iter([({}, {}, [0])]), [1], 0, actions, 1, Clock(), Clock())
    assert lines[0].keys() == {"loss", "examples_per_second"}
