from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.check import PRESETS as ALLOWED
from finetune.examples.preprocess import PRESETS, centred, prepare


def test_the_recipe_allows_exactly_the_presets_that_there_are():
    assert set(ALLOWED) == set(PRESETS)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("none", [10, 20, 30]),
        ("unit", [10 / 255, 20 / 255, 30 / 255]),
        ("inception", [10 / 127.5 - 1, 20 / 127.5 - 1, 30 / 127.5 - 1]),
        ("vgg", [10 - 123.68, 20 - 116.779, 30 - 103.939]),
        ("caffe", [30 - 103.939, 20 - 116.779, 10 - 123.68]),
        ("torch", [(10 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (30 / 255 - 0.406) / 0.225]),
    ],
)
def test_a_preset_is_what_published_networks_were_trained_with(preset: str, expected: list[float]):
    pixel = tf.constant([[[10, 20, 30]]], tf.uint8)
    assert np.allclose(prepare(pixel, (1, 1), preset, tf.float32).numpy().ravel(), expected, rtol=1e-6)


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = tf.constant(np.arange(48).reshape(4, 4, 3), tf.uint8)
    assert np.array_equal(prepare(image, (4, 4), "none", tf.uint8), image)


@pytest.mark.parametrize(
    ("shape", "size", "share", "expected"),
    [
        ((256, 320), (224, 224), 0.875, (slice(16, 240), slice(48, 272))),
        ((100, 60), (10, 10), 1.0, (slice(20, 80), slice(0, 60))),
        ((60, 100), (10, 20), 0.5, (slice(17, 42), slice(25, 75))),
        ((1, 3), (8, 8), 0.1, (slice(0, 1), slice(1, 2))),
    ],
)
def test_the_middle_of_an_image_has_the_proportions_of_the_input(shape, size, share, expected):
    image = np.arange(shape[0] * shape[1]).reshape(*shape, 1)
    assert np.array_equal(centred(tf.constant(image), size, share), image[expected])
