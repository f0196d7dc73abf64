from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.augmenting.rand_augment import OPERATIONS, rand_augment

IMAGE = tf.constant(np.random.default_rng(3).uniform(20, 220, (16, 20, 3)), tf.float32)
SUBTLE = {"identity", "autocontrast", "equalise"}  # these know no amount


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_grows_from_nothing(name: str):
    operation = OPERATIONS[name]

    def difference(amount: float) -> float:
        changed = operation(IMAGE, tf.constant(amount)).numpy()
        assert changed.shape == IMAGE.shape
        assert changed.min() >= 0
        assert changed.max() <= 255
        return float(np.abs(changed - IMAGE).mean())

    if name in SUBTLE:
        assert difference(0.1) == difference(-1.0)
        return
    assert difference(0.0) <= (0.6 if name == "posterise" else 1e-4)  # that keeps whole numbers only
    for sign in (1.0, -1.0):
        assert difference(0.0) < difference(0.5 * sign) < difference(1.0 * sign)


def test_a_channel_alone_is_enough():
    image = IMAGE[..., :1]
    for operation in OPERATIONS.values():
        assert operation(image, tf.constant(0.9)).shape == image.shape


def test_all_operations_are_drawn_and_the_same_seed_draws_the_same():
    plain = [operation(IMAGE, tf.constant(sign * 0.9)).numpy() for operation in OPERATIONS.values() for sign in (1, -1)]
    seen = set()
    for number in range(150):
        changed = rand_augment(IMAGE, (number, 0), layers=1, magnitude=9).numpy()
        found = [i // 2 for i, image in enumerate(plain) if np.array_equal(image, changed)]
        assert found
        seen.add(found[0])
    assert seen == set(range(14))
    assert np.array_equal(*(rand_augment(IMAGE, (5, 6), 3, 7.0).numpy() for _ in range(2)))


def test_layers_follow_one_another():
    one, two = (rand_augment(IMAGE, (1, 1), layers, 9).numpy() for layers in (1, 2))
    assert not np.array_equal(one, two)
