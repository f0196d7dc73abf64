"""The pull towards pretrained values: in the loss, in the gradient, and in where training ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune import recipe
from finetune.learning.l2_sp import anchors, penalised
from finetune.learning.state import make_state
from finetune.learning.train import make_step
from tests.graphs import refusal

PRETRAINED = {"w": np.float32([[1.0, -2.0]]), "frozen": np.float32([5.0])}
NOW = {"w": np.float32([[2.0, 1.0]]), "frozen": np.float32([5.0]), "head/kernel": np.float32([3.0])}
GRADIENTS = {"w": np.float32([[0.5, 0.25]]), "head/kernel": np.float32([-1.0])}


def program(arguments: Mapping[str, Any]) -> dict[str, Any]:
    outputs = {f"gradient/{name}": tf.constant(value) for name, value in GRADIENTS.items()}
    return {"loss": tf.constant(1.0), "update/mean": tf.constant(7.0), **outputs}


def pulled(alpha: float | None, beta: float | None) -> dict[str, Any]:
    drawn = anchors(["w", "head/kernel"], PRETRAINED, ["head/kernel"], alpha, beta)
    return penalised(program, drawn)({f"variable/{name}": value for name, value in NOW.items()})


def test_the_gradient_and_the_loss_have_what_the_paper_adds():
    outputs = pulled(0.1, 0.2)
    np.testing.assert_allclose(outputs["gradient/w"], GRADIENTS["w"] + 0.1 * np.float32([[1.0, 3.0]]))
    np.testing.assert_allclose(outputs["gradient/head/kernel"], [-1.0 + 0.2 * 3.0])
    assert float(outputs["l2_sp/loss"]) == pytest.approx(0.1 / 2 * (1 + 9) + 0.2 / 2 * 9)
    assert float(outputs["loss"]) == pytest.approx(1.0 + float(outputs["l2_sp/loss"]))
    assert float(outputs["update/mean"]) == 7.0


def test_each_of_the_two_is_left_out_where_it_is_not_asked_for():
    np.testing.assert_array_equal(pulled(None, 0.2)["gradient/w"], GRADIENTS["w"])
    np.testing.assert_array_equal(pulled(0.1, None)["gradient/head/kernel"], GRADIENTS["head/kernel"])
    assert penalised(program, anchors(["w"], PRETRAINED, ["head/kernel"], None, None)) is program


def test_a_pull_on_nothing_is_refused():
    error = refusal(anchors, ["head/kernel"], PRETRAINED, ["head/kernel"], 0.1, None)
    assert (error.where, error.what) == ("train.l2_sp", "0.1 is asked for, but no variable of the source learns")


def test_where_nothing_else_pulls_a_variable_comes_back():
    def still(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"loss": tf.constant(0.0), "gradient/w": tf.zeros([1, 2])}

    train = recipe.Train(optimizer="sgd", learning_rate=0.5)
    state = make_state({"w": NOW["w"]}, {"w": 1.0}, [], {}, train)
    step = make_step(penalised(still, anchors(["w"], PRETRAINED, [], 1.0, None)), state, 0)
    losses = [step(number, {}, {})["loss"] for number in range(1, 30)]
    np.testing.assert_allclose(state.live["w"], PRETRAINED["w"], atol=1e-6)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(5.0)
