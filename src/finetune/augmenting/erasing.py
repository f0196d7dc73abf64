"""What is taken away from one example: a rectangle of an image, a stripe of a spectrogram.

Zhong et al. 2017, "Random erasing data augmentation"; Park et al. 2019, "SpecAugment".
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

_AREA, _ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)  # of the rectangle, as Zhong et al. chose them
_TRIES = 10


def erase(image: Any, seed: Any) -> Any:
    """A rectangle of 2 to 40 per cent of the image, anywhere within it, becomes noise of 0..255."""
    sizes, aspects, corners, noise = tf.unstack(tf.random.split(seed, 4))
    height, width = image.shape[:2]
    area = height * width * tf.random.stateless_uniform([_TRIES], sizes, *_AREA)
    aspect = tf.exp(tf.random.stateless_uniform([_TRIES], aspects, math.log(_ASPECT[0]), math.log(_ASPECT[1])))
    high, wide = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (high <= height) & (wide <= width)
    first = tf.argmax(fits)  # the first that fits; the chance that none of ten does is negligible, and it is cut off
    high, wide = tf.minimum(high[first], float(height)), tf.minimum(wide[first], float(width))
    top, left = tf.unstack(tf.floor(tf.random.stateless_uniform([2], corners) * [height - high + 1, width - wide + 1]))
    y, x = tf.range(height, dtype=tf.float32)[:, tf.newaxis], tf.range(width, dtype=tf.float32)
    inside = (y >= top) & (y < top + high) & (x >= left) & (x < left + wide)
    return tf.where(inside[..., tf.newaxis], tf.random.stateless_uniform(image.shape, noise, 0.0, 255.0), image)


def mask(row: Any, seed: Any, axis: int, most: float) -> Any:
    """A stripe across `axis`, up to the share `most` of it wide, becomes the mean of the row."""
    width, place = tf.unstack(tf.random.stateless_uniform([2], seed))
    count = tf.cast(tf.shape(row)[axis], tf.float32)
    wide = tf.floor(width * (tf.floor(most * count) + 1.0))
    start = tf.floor(place * (count - wide + 1.0))
    along = tf.range(count)
    inside = (along >= start) & (along < start + wide)
    inside = tf.reshape(inside, [-1 if i == axis else 1 for i in range(row.shape.rank)])
    return tf.where(inside, tf.reduce_mean(row), row)
