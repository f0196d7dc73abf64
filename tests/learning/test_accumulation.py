"""Portions, one after the other, make the step of the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.learning.accumulation import in_portions

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(8, 3)).astype(np.float32), RANDOM.normal(size=(8, 1)).astype(np.float32)
W = RANDOM.normal(size=(3, 1)).astype(np.float32)


def arguments() -> dict[str, Any]:
    return {
        "input/x": tf.constant(X),
        "target/head": tf.constant(Y),
        "variable/w": tf.constant(W),
        "variable/seen": tf.constant(1.0),
        "seed": tf.constant([3, 4]),
    }


def least_squares(given: Mapping[str, Any]) -> dict[str, Any]:
    x, y, w = given["input/x"], given["target/head"], given["variable/w"]
    error = x @ w - y
    return {
        "loss": tf.reduce_mean(error**2),
        "gradient/w": 2.0 * tf.transpose(x) @ error / len(x),
        "update/seen": given["variable/seen"] * 2.0,
    }


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_losses_and_gradients_are_those_of_the_whole_batch(count: int):
    whole, ours = least_squares(arguments()), in_portions(least_squares, count)(arguments())
    np.testing.assert_allclose(ours["loss"], whole["loss"], rtol=1e-6)
    np.testing.assert_allclose(ours["gradient/w"], whole["gradient/w"], rtol=1e-6)


def test_a_portion_finds_the_updates_of_the_one_before_and_nothing_is_assigned():
    given = arguments()
    assert float(in_portions(least_squares, 4)(given)["update/seen"]) == 16.0
    assert float(given["variable/seen"]) == 1.0


def test_each_portion_has_its_own_rows_and_its_own_seed():
    seen = []

    def program(given: Mapping[str, Any]) -> dict[str, Any]:
        seen.append((given["input/x"].numpy(), given["target/head"].numpy(), tuple(given["seed"].numpy())))
        return {"loss": tf.constant(0.0)}

    in_portions(program, 4)(arguments())
    np.testing.assert_array_equal(np.concatenate([x for x, _, _ in seen]), X)
    np.testing.assert_array_equal(np.concatenate([y for _, y, _ in seen]), Y)
    assert len({seed for _, _, seed in seen}) == 4
    first = [seed for _, _, seed in seen]
    in_portions(program, 4)(arguments())
    assert [seed for _, _, seed in seen[4:]] == first
