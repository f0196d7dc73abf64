"""The factor of the loss: halved where a gradient overflows, doubled after many steps that were good."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.learning.loss_scale import FIRST, GOOD_STEPS, make_loss_scale
from finetune.learning.state import make_state
from finetune.learning.train import make_step
from finetune.recipe import Train


def test_it_is_halved_at_once_and_doubled_after_many_good_steps():
    scale = make_loss_scale()
    scale.learn(tf.constant(False))
    assert float(scale.factor) == FIRST / 2
    scale.good.assign(GOOD_STEPS - 2)
    scale.learn(tf.constant(True))
    assert (float(scale.factor), int(scale.good)) == (FIRST / 2, GOOD_STEPS - 1)
    scale.learn(tf.constant(True))
    assert (float(scale.factor), int(scale.good)) == (FIRST, 0)
    scale.good.assign(7)
    scale.learn(tf.constant(False))
    assert int(scale.good) == 0


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_step_whose_gradients_overflow_is_left_out(bad: float):
    train = Train(optimizer="adam", learning_rate=1.0, ema=0.5, precision="mixed_float16")
    state = make_state({"w": np.float32([1.0, 2.0]), "seen": np.float32(5.0)}, {"w": 1.0}, ["seen"], {}, train)
    before = {name: np.asarray(value) for name, value in state.everything(0).items()}

    def program(given):
        tf.debugging.assert_equal(given["scale"], FIRST)
        return {"loss": tf.constant(1.0), "gradient/w": tf.constant([1.0, bad]), "update/seen": tf.constant(9.0)}

    make_step(program, state, 0, ema=0.5)(1, {}, {})
    after = {name: np.asarray(value) for name, value in state.everything(0).items()}
    changed = [name for name in before if before[name].tobytes() != after[name].tobytes()]
    assert changed == ["loss_scale/factor"]


def test_the_step_does_not_see_the_factor():
    train = Train(optimizer="sgd", learning_rate=1.0, precision="mixed_float16")
    state = make_state({"w": np.float32([1.0])}, {"w": 1.0}, [], {}, train)
    program = lambda given: {"loss": tf.constant(1.0), "gradient/w": tf.constant([3.0]) * given["scale"]}  # noqa: E731
    found = make_step(program, state, 0)(1, {}, {})
    assert float(state.live["w"][0]) == -2.0
    assert float(found["gradient_norm"]) == 3.0
    assert int(state.scale.good) == 1
