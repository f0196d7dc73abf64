"""RandAugment: a few changes of one image, drawn from a list, all of one magnitude.

Cubuk et al. 2020, "RandAugment: practical automated data augmentation with a reduced search space". The changes are the
paper's fourteen; each grows with the magnitude in both directions, from none at 0 to its most at 10.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from finetune.augmenting import pixels

# (image, amount from -1 to 1) -> image. The most of each is that of AutoAugment (Cubuk et al. 2019, table 6).
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "identity": lambda image, amount: image,
    "autocontrast": lambda image, amount: pixels.autocontrast(image),
    "equalise": lambda image, amount: pixels.equalise(image),
    "rotate": lambda image, amount: pixels.rotate(image, 30.0 * amount),
    "solarise": lambda image, amount: pixels.solarise(image, 256.0 * (1.0 - tf.abs(amount))),
    "saturation": lambda image, amount: pixels.saturation(image, 1.0 + 0.9 * amount),
    "posterise": lambda image, amount: pixels.posterise(image, 8.0 - tf.round(4.0 * tf.abs(amount))),
    "contrast": lambda image, amount: pixels.contrast(image, 1.0 + 0.9 * amount),
    "brightness": lambda image, amount: pixels.brightness(image, 1.0 + 0.9 * amount),
    "sharpness": lambda image, amount: pixels.sharpness(image, 1.0 + 0.9 * amount),
    "shear_x": lambda image, amount: pixels.affine(image, ((1.0, 0.3 * amount), (0.0, 1.0))),
    "shear_y": lambda image, amount: pixels.affine(image, ((1.0, 0.0), (0.3 * amount, 1.0))),
    "translate_x": lambda image, amount: pixels.affine(image, _SAME, (0.45 * image.shape[1] * amount, 0.0)),
    "translate_y": lambda image, amount: pixels.affine(image, _SAME, (0.0, 0.45 * image.shape[0] * amount)),
}
_SAME = ((1.0, 0.0), (0.0, 1.0))


def rand_augment(image: Any, seed: Any, layers: int, magnitude: float) -> Any:
    """`layers` changes, one after the other; float32 [height, width, channels] in 0..255 becomes the same."""
    which, signs = tf.unstack(tf.random.split(seed, 2))
    drawn = tf.random.stateless_uniform([layers], which, 0, len(OPERATIONS), tf.int32)
    amounts = tf.sign(tf.random.stateless_uniform([layers], signs, -1.0, 1.0)) * (magnitude / 10.0)

    def one(image: Any, drawn: tuple[Any, Any]) -> Any:
        branches = [partial(operation, image, drawn[1]) for operation in OPERATIONS.values()]
        return tf.ensure_shape(tf.switch_case(drawn[0], branches), image.shape)

    return tf.foldl(one, (drawn, amounts), initializer=image)  # the branches are traced once for all layers
