from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.check import HEAD_KINDS
from finetune.engine.heads import HEADS, flatten, flattening, initial_values
from finetune.errors import UserError


def test_the_recipe_allows_exactly_the_heads_that_there_are():
    assert set(HEAD_KINDS) == set(HEADS)


@pytest.mark.parametrize(
    ("shape", "pool", "width", "how"),
    [
        ((None, 5), "avg", 5, lambda x: x),
        ((None, 1, 1, 5), "avg", 5, lambda x: x[:, 0, 0, :]),
        ((None, 2, 3, 5), "avg", 5, lambda x: x.mean((1, 2))),
        ((None, 2, 3, 5), "max", 5, lambda x: x.max((1, 2))),
        ((None, 2, 3, 5), "flatten", 30, lambda x: x.reshape(len(x), -1)),
        ((None, None, 5), "avg", 5, lambda x: x.mean(1)),
        ((None,), "avg", 1, lambda x: x[:, None]),
    ],
)
def test_features_of_any_rank_become_vectors(shape, pool, width, how):
    x = np.random.default_rng(0).normal(size=[7 if n is None else n for n in shape]).astype(np.float32)
    found = flattening(shape, pool)
    assert found.width == width
    assert np.allclose(flatten(tf.constant(x), found.how), how(x), atol=1e-6)


@pytest.mark.parametrize("shape", [None, (None, None), (None, 3, 3, None)])
def test_a_cut_of_unknown_width_is_refused(shape):
    with pytest.raises(UserError, match="the graph does not say how wide the cut is"):
        flattening(shape, "avg")


def test_an_unknown_size_cannot_be_flattened():
    with pytest.raises(UserError, match="'flatten' needs a known size"):
        flattening((None, None, None, 8), "flatten")


def test_initial_values_depend_on_the_seed_and_on_nothing_else():
    shapes = {"head/kernel": (100, 4), "head/bias": (4,)}
    first, again, other = (initial_values(shapes, seed) for seed in (0, 0, 1))
    assert np.array_equal(first["head/kernel"], again["head/kernel"])
    assert not np.array_equal(first["head/kernel"], other["head/kernel"])
    assert np.abs(first["head/kernel"]).max() <= np.sqrt(6 / 104)
    assert not first["head/bias"].any()


RNG = np.random.default_rng(3)


def values(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def test_hidden_layers_stand_before_the_linear_one():
    shapes, apply = HEADS["mlp"]
    assert shapes(5, 2, [7, 3]) == {
        "hidden_1/kernel": (5, 7),
        "hidden_1/bias": (7,),
        "hidden_2/kernel": (7, 3),
        "hidden_2/bias": (3,),
        "kernel": (3, 2),
        "bias": (2,),
    }
    w, x = values(shapes(5, 2, [7, 3])), RNG.normal(size=(4, 5)).astype(np.float32)
    hidden = relu(relu(x @ w["hidden_1/kernel"] + w["hidden_1/bias"]) @ w["hidden_2/kernel"] + w["hidden_2/bias"])
    np.testing.assert_allclose(apply(tf.constant(x), w), hidden @ w["kernel"] + w["bias"], rtol=1e-4)


def test_convolutions_see_the_map_before_its_mean():
    shapes, apply = HEADS["conv"]
    w, x = values(shapes(5, 2, [7])), RNG.normal(size=(4, 3, 6, 5)).astype(np.float32)
    assert w["hidden_1/kernel"].shape == (1, 1, 5, 7)
    hidden = relu(x @ w["hidden_1/kernel"][0, 0] + w["hidden_1/bias"]).mean((1, 2))
    np.testing.assert_allclose(apply(tf.constant(x), w), hidden @ w["kernel"] + w["bias"], rtol=1e-4)
    assert flattening((None, 3, 6, 5), "avg", maps=True).how == "map"
    with pytest.raises(UserError, match="'conv' needs maps"):
        flattening((None, 5), "avg", maps=True)


def test_dropout_is_before_every_layer():
    shapes, apply = HEADS["mlp"]
    w, seen = values(shapes(5, 2, [7])), []
    apply(tf.ones([4, 5]), w, lambda x: seen.append(tuple(x.shape)) or x)
    assert seen == [(4, 5), (4, 7)]
