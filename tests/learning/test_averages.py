"""Averages are those of TensorFlow 1, by its name, and what evaluation takes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from finetune.learning.averages import SUFFIX, decay_at, follow, make_averages
from finetune.learning.state import make_state
from finetune.learning.train import make_step
from finetune.recipe import Train

VALUES = [np.float32([1.0, -2.0]), np.float32([0.25, 3.0]), np.float32([-7.0, 0.1]), np.float32([2.0, 2.0])]


def test_they_are_those_of_the_class_of_tensorflow_1():
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        variable = tf1.get_variable("w", initializer=VALUES[0], use_resource=False)
        count = tf1.placeholder(tf.int64, [])
        average = tf.train.ExponentialMovingAverage(0.5, num_updates=count)
        move, fed = average.apply([variable]), tf1.placeholder(tf.float32, [2])
        assign = tf1.assign(variable, fed)
        session.run(variable.initializer)  # which the average's own initializer reads
        session.run(tf1.global_variables_initializer())
        truth = []
        for step, value in enumerate(VALUES[1:], start=1):
            session.run(assign, {fed: value})
            session.run(move, {count: step})
            truth.append(session.run(average.average(variable)))
        assert average.average_name(variable) == f"w{SUFFIX}"
    live = {"w": tf.Variable(VALUES[0])}
    averages = make_averages(live)
    for step, (value, expected) in enumerate(zip(VALUES[1:], truth, strict=True), start=1):
        live["w"].assign(value)
        follow(averages, live, tf.constant(decay_at(0.5, step)))
        np.testing.assert_allclose(averages["w"], expected, rtol=1e-6)


def test_whole_numbers_have_no_average():
    assert make_averages({"count": tf.Variable(3), "w": tf.Variable(3.0)}).keys() == {"w"}


def test_evaluation_takes_averages_steps_do_not_and_a_checkpoint_has_both():
    train = Train(optimizer="sgd", learning_rate=1.0, ema=0.9)
    state = make_state({"w": np.float32([0.0])}, {"w": 1.0}, [], {}, train)
    program = lambda given: {"loss": tf.constant(1.0), "gradient/w": tf.constant([-10.0])}  # noqa: E731
    make_step(program, state, 0, ema=train.ema)(1, {}, {})
    average = 10.0 * (1 - 2 / 11)
    assert float(state.arguments({}, {}, seed=(0, 1))["variable/w"][0]) == 10.0
    np.testing.assert_allclose(state.arguments({}, {})["variable/w"], [average], rtol=1e-6)
    saved = {name: np.asarray(value) for name, value in state.everything(1).items()}
    np.testing.assert_allclose(saved[f"w{SUFFIX}"], [average], rtol=1e-6)
    assert saved["w"] == [10.0]
    again = make_state({"w": saved["w"]}, {"w": 1.0}, [], {}, train)
    again.restore(saved, begins=False)
    np.testing.assert_array_equal(again.judged()["w"], state.judged()["w"])
