from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.check import OPTIMIZERS
from finetune.errors import UserError
from finetune.learning.optimizers import Groups, make
from finetune.learning.state import make_state
from finetune.recipe import Train


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_that_the_recipe_allows_makes_a_step(name: str):
    variable = tf.Variable([[1.0, 2.0]])
    groups = Groups(name, 0.1, {}, {"w": 1.0}, {"w": variable})
    groups.apply({"w": tf.constant([[1.0, 1.0]])})
    assert not np.array_equal(variable, [[1.0, 2.0]])


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_rate_scales_the_step_and_not_the_gradient(name: str):
    variables = {"slow": tf.Variable([1.0]), "fast": tf.Variable([1.0])}
    groups = Groups(name, 0.1, {}, {"slow": 0.1, "fast": 1.0}, variables)
    groups.apply({n: tf.constant([0.5]) for n in variables})
    slow, fast = (1 - variables[n].numpy()[0] for n in ("slow", "fast"))
    assert slow == pytest.approx(fast / 10, rel=1e-4)


def test_the_state_names_every_slot_of_every_group_once():
    variables = {"a/w": tf.Variable([1.0], name="a_w"), "a_w": tf.Variable([1.0], name="a_w")}
    state = Groups("adam", 0.1, {}, {"a/w": 1.0, "a_w": 1.0}, variables).state()
    assert len(state) == 2 + 2 * 2  # iterations, learning rate, two moments each
    assert all(name.startswith("optimizer/1/") for name in state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_second_run_of_a_process_names_its_slots_as_the_first(name: str):
    first, second = (Groups(name, 0.1, {}, {"w": 1.0}, {"w": tf.Variable([[1.0]])}).state() for _ in range(2))
    assert list(first) == list(second)
    assert all(key.startswith(f"optimizer/1/{name}") for key in first)


def test_an_argument_that_the_optimizer_does_not_take():
    with pytest.raises(UserError, match=r"train.optimizer_args: sgd refuses {'momentun': 0.9}"):
        make("sgd", 0.1, {"momentun": 0.9})


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_share_scales_the_step_of_every_group_and_none_leaves_it(name: str):
    moved = {}
    for share in (None, 1.0, 0.25):
        variables = {"slow": tf.Variable([1.0]), "fast": tf.Variable([1.0])}
        groups = Groups(name, 0.1, {}, {"slow": 0.1, "fast": 1.0}, variables)
        if share is not None:
            groups.slow_down(share)
        groups.apply({n: tf.constant([0.5]) for n in variables})
        moved[share] = np.array([1 - variables[n].numpy()[0] for n in ("slow", "fast")])
    np.testing.assert_array_equal(moved[None], moved[1.0])
    np.testing.assert_allclose(moved[0.25], moved[1.0] / 4, rtol=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_with_the_same_bits_after_a_restore(name: str):
    start = {"w": np.float32([[1.0, 2.0], [3.0, 4.0]]), "b": np.float32([0.5, -0.5])}
    train = Train(optimizer=name, learning_rate=0.1)
    make_from = lambda values: make_state(values, {"w": 1.0, "b": 0.1}, [], {}, train)  # noqa: E731
    whole, killed = make_from(start), make_from(start)
    for state, steps in ((whole, range(6)), (killed, range(3))):
        for step in steps:
            state.groups.apply(gradients_at(step))
    saved = {name: np.asarray(value) for name, value in killed.everything(3).items()}
    resumed = make_from({name: saved[name] for name in start})
    resumed.restore(saved, begins=False)
    for step in range(3, 6):
        resumed.groups.apply(gradients_at(step))
    ours, undisturbed = resumed.everything(6), whole.everything(6)
    assert ours.keys() == undisturbed.keys()
    for key in ours:
        np.testing.assert_array_equal(np.asarray(ours[key]), np.asarray(undisturbed[key]), err_msg=key)
    assert not np.array_equal(whole.live["w"], killed.live["w"])


def gradients_at(step: int) -> dict[str, tf.Tensor]:
    random = np.random.default_rng(step)
    return {
        "w": tf.constant(random.normal(size=(2, 2)), tf.float32),
        "b": tf.constant(random.normal(size=2), tf.float32),
    }
