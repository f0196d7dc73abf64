"""Each loss is the formula that its name stands for, one number for each example."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.check import LOSSES as ALLOWED
from finetune.engine.losses import LOSSES
from finetune.learning.tasks import MANY_CLASSES, NUMBERS, ONE_CLASS

LOGITS = np.float32([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
HOT = np.float32([[1, 0, 1], [0, 0, 1]])


def losses(name: str, targets: np.ndarray) -> np.ndarray:
    return LOSSES[name].of(tf.constant(LOGITS), tf.constant(targets)).numpy()


def test_what_a_recipe_may_name_is_there():
    assert set(ALLOWED) == set(LOSSES) == {*ONE_CLASS, *MANY_CLASSES, *NUMBERS}


def test_softmax_takes_classes_and_distributions():
    logs = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(losses("softmax", np.int64([2, 1])), [-logs[0, 2], -logs[1, 1]], rtol=1e-5)
    shares = np.float32([[0.5, 0.5, 0], [0.1, 0.2, 0.7]])
    np.testing.assert_allclose(losses("softmax", shares), -(shares * logs).sum(axis=1), rtol=1e-5)


def test_sigmoid_is_the_mean_over_the_classes():
    likely = 1 / (1 + np.exp(-LOGITS))
    wanted = -(HOT * np.log(likely) + (1 - HOT) * np.log(1 - likely)).mean(axis=1)
    np.testing.assert_allclose(losses("sigmoid", HOT), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("squared", lambda off: off**2),
        ("absolute", np.abs),
        ("huber", lambda off: np.where(np.abs(off) <= 1, off**2 / 2, np.abs(off) - 0.5)),
    ],
)
def test_numbers_are_compared_by_their_difference(name, of):
    np.testing.assert_allclose(losses(name, HOT), of(LOGITS - HOT).mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_activation_is_what_the_targets_are_like(name):
    found = LOSSES[name].activation(tf.constant(LOGITS)).numpy()
    assert {"softmax": np.allclose(found.sum(axis=1), 1), "sigmoid": 0 < found.min() < found.max() < 1}.get(
        name, np.array_equal(found, LOGITS)
    )
