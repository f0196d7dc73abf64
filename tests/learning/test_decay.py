"""Which variables decay: matrices, unless they are named."""

from __future__ import annotations

import numpy as np
import pytest

from finetune import recipe
from finetune.check import OPTIMIZERS
from finetune.learning.decay import spared, told
from finetune.learning.optimizers import Groups
from finetune.learning.state import State, make_state
from tests.graphs import refusal

SHAPES = {"fc/weights": (3, 2), "fc/biases": (2,), "fc/scale": (), "conv/weights": (3, 3, 1, 2), "head/kernel": (2, 2)}


def test_biases_and_scales_are_spared_and_what_is_named():
    assert spared(SHAPES, []) == {"fc/biases", "fc/scale"}
    assert spared(SHAPES, ["head/.*"]) == {"fc/biases", "fc/scale", "head/kernel"}


def test_a_pattern_that_matches_nothing_is_refused():
    error = refusal(spared, SHAPES, ["head/.*", "heads/kernel"])
    assert (error.where, error.what) == ("train.decay_exclude[1]", "'heads/kernel' matches none of the 5 variables")
    assert error.todo == "did you mean head/kernel?"


def test_it_is_told_where_there_is_any():
    assert told(None, SHAPES, set()) == told(0.0, SHAPES, set()) == []
    assert told(0.1, ["b"], {"b"}) == ["weight decay: 0.1 on no variable; not on b"]


def state(**train: object) -> State:
    values = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    rates = {name: 0.5 if name.startswith("fc") else 1.0 for name in SHAPES if name != "conv/weights"}
    return make_state(values, rates, [], {}, recipe.Train(**{"optimizer": "sgd", "learning_rate": 0.1, **train}))


def after(found: State) -> dict[str, float]:
    """One step without a gradient."""
    found.groups.apply({name: np.zeros(SHAPES[name], np.float32) for name in found.live})
    return {name: float(np.ravel(value)[0]) for name, value in found.variables().items()}


# FTRL makes a variable anew from its sums: without a gradient it becomes zero.
@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "ftrl"])
def test_a_step_takes_its_share_of_matrices_times_the_rate_and_of_nothing_else(optimizer: str):
    moved = after(state(optimizer=optimizer, weight_decay=0.2, decay_exclude=["head/.*"]))
    assert moved.pop("fc/weights") == pytest.approx(1 - 0.2 * 0.1 * 0.5)
    assert set(moved.values()) == {1.0}


def test_an_exception_from_what_does_not_happen_is_refused():
    assert refusal(state, decay_exclude=["head/.*"]).where == "train.decay_exclude"
    assert state(optimizer="adamw", decay_exclude=["head/.*"]).said[0].endswith("head/kernel")


def test_without_a_word_an_optimizer_decays_as_it_does_by_itself():
    assert set(after(state()).values()) == {1.0}
    assert state().said == ()
    found = state(optimizer="adamw")
    assert found.said == ("weight decay: 0.004 on fc/weights, head/kernel; not on fc/biases, fc/scale",)
    assert after(found)["fc/weights"] == pytest.approx(1 - 0.004 * 0.1 * 0.5)
    assert Groups("sgd", 0.1, {}, {}, {}).weight_decay is None
