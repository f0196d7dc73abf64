"""Each loss is the formula that its name stands for, one number for each example."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.check import LOSSES as ALLOWED
from finetune.engine.losses import LOSSES, distillation, objective
from finetune.examples.tasks import MANY_CLASSES, NUMBERS, ONE_CLASS

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


# ---- what is lessened in training


def lessened(loss: str, targets: np.ndarray, **words) -> np.ndarray:
    found = objective(loss, 3, **words)
    assert found is not None
    return found(tf.constant(LOGITS), tf.constant(targets)).numpy()


def test_without_words_it_is_the_loss_itself():
    assert objective("softmax", 3) is None


def test_smoothing_is_that_of_keras():
    for loss, targets, kind in (
        ("softmax", np.float32([[0, 0, 1], [0, 1, 0]]), tf.keras.losses.CategoricalCrossentropy),
        ("sigmoid", HOT, tf.keras.losses.BinaryCrossentropy),
    ):
        wanted = kind(from_logits=True, label_smoothing=0.2, reduction="none")(targets, LOGITS)
        np.testing.assert_allclose(lessened(loss, targets, smoothing=0.2), wanted, rtol=1e-5)


def test_focal_losses_are_those_of_keras():
    hot = np.float32([[0, 0, 1], [0, 1, 0]])
    kind = tf.keras.losses.CategoricalFocalCrossentropy(from_logits=True, gamma=2.0, alpha=1.0, reduction="none")
    np.testing.assert_allclose(lessened("softmax", np.int64([2, 1]), focal=2.0), kind(hot, LOGITS), rtol=1e-4)
    kind = tf.keras.losses.BinaryFocalCrossentropy(from_logits=True, gamma=2.0, reduction="none")
    np.testing.assert_allclose(lessened("sigmoid", HOT, focal=2.0), kind(HOT, LOGITS), rtol=1e-4)


def test_weights_are_those_of_the_class():
    plain = losses("softmax", np.int64([2, 1]))
    np.testing.assert_allclose(lessened("softmax", np.int64([2, 1]), weights=(1, 5, 3)), plain * [3, 5], rtol=1e-5)
    wanted = tf.nn.weighted_cross_entropy_with_logits(HOT, LOGITS, np.float32([1, 5, 3])).numpy().mean(axis=1)
    np.testing.assert_allclose(lessened("sigmoid", HOT, weights=(1, 5, 3)), wanted, rtol=1e-5)


def test_a_teacher_that_agrees_has_nothing_to_say():
    other = LOGITS[::-1].copy()
    found = distillation(2.0)(tf.constant(LOGITS), tf.constant(LOGITS)).numpy()
    np.testing.assert_allclose(found, 0, atol=1e-6)
    wanted, said = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (other, LOGITS))
    divergence = (wanted * np.log(wanted / said)).sum(axis=1)
    np.testing.assert_allclose(distillation(2.0)(tf.constant(LOGITS), tf.constant(other)), 4 * divergence, rtol=1e-4)
