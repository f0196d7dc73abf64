"""Changes of one image: float32 [height, width, channels] in 0..255 becomes the same.

What Pillow's ImageOps and ImageEnhance have is meant as they have it, without their rounding. Where a change needs
pixels beyond the border, it takes the image's mirror image, which assumes nothing of backgrounds.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow weighs red, green and blue


def affine(image: Any, rows: tuple[tuple[Any, Any], tuple[Any, Any]], shift: tuple[Any, Any] = (0.0, 0.0)) -> Any:
    """The image whose pixel at (x, y) is the old one at rows·(x, y) + shift, both counted from the centre; bilinear."""
    height, width = image.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    (a, b), (c, d) = rows
    # The op counts from the first pixel.
    transform = [a, b, x - a * x - b * y + shift[0], c, d, y - c * x - d * y + shift[1], 0.0, 0.0]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack([tf.cast(value, tf.float32) for value in transform])[tf.newaxis],
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return tf.ensure_shape(moved[0], image.shape)


def rotate(image: Any, degrees: Any) -> Any:
    """Turned counter-clockwise about the centre."""
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    return affine(image, ((cos, -sin), (sin, cos)))


def grey(image: Any) -> Any:
    """Without its colours; an image that has none stays as it is."""
    if image.shape[-1] != 3:
        return image
    return tf.repeat(tf.reduce_sum(image * _LUMA, axis=-1, keepdims=True), 3, axis=-1)


def _blend(other: Any, image: Any, factor: Any) -> Any:
    """`other` at 0, the image at 1, and beyond it from there."""
    return tf.clip_by_value(other + factor * (image - other), 0.0, 255.0)


def brightness(image: Any, factor: Any) -> Any:
    """Between black (0) and the image (1), or brighter."""
    return _blend(tf.zeros_like(image), image, factor)


def contrast(image: Any, factor: Any) -> Any:
    """Between the even grey of its mean (0) and the image (1), or with more contrast."""
    return _blend(tf.floor(tf.reduce_mean(grey(image)) + 0.5), image, factor)


def saturation(image: Any, factor: Any) -> Any:
    """Between grey (0) and the image (1), or more colourful."""
    return _blend(grey(image), image, factor)


def sharpness(image: Any, factor: Any) -> Any:
    """Between a smoothed image (0) and the image (1), or sharper; the outermost pixels stay."""
    # Pillow's kernel weighs the pixel itself 5 and its eight neighbours 1.
    inner = image[1:-1, 1:-1]
    mean = tf.nn.avg_pool2d(image[tf.newaxis], 3, 1, "VALID")[0]
    smooth = (9.0 * mean + 4.0 * inner) / 13.0
    return _blend(image + tf.pad(smooth - inner, [[1, 1], [1, 1], [0, 0]]), image, factor)


def hue(image: Any, turn: Any) -> Any:
    """All colours moved on by a part of the colour circle; an image that has none stays as it is."""
    if image.shape[-1] != 3:
        return image
    return tf.clip_by_value(255.0 * tf.image.adjust_hue(image / 255.0, turn), 0.0, 255.0)


def autocontrast(image: Any) -> Any:
    """Each channel stretched so that it reaches from 0 to 255; one of a single value stays."""
    low, high = tf.reduce_min(image, axis=[0, 1]), tf.reduce_max(image, axis=[0, 1])
    stretched = (image - low) * tf.math.divide_no_nan(255.0, high - low)
    return tf.where(high > low, tf.clip_by_value(stretched, 0.0, 255.0), image)


def equalise(image: Any) -> Any:
    """Each channel mapped so that its values are about equally frequent."""
    channels = image.shape[-1]
    values = tf.cast(tf.round(image), tf.int32) + 256 * tf.range(channels)  # each channel has bins of its own
    counts = tf.reshape(tf.math.bincount(values, minlength=256 * channels, maxlength=256 * channels), [channels, 256])
    places = tf.where(counts > 0, tf.range(256), -1)
    last = tf.gather(counts, tf.reduce_max(places, axis=1), axis=1, batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1) - last)[:, tf.newaxis] // 255
    table = (tf.cumsum(counts, axis=1, exclusive=True) + step // 2) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
    return tf.cast(tf.gather(tf.reshape(table, [-1]), values), tf.float32)


def posterise(image: Any, bits: Any) -> Any:
    """Only the `bits` highest bits of each value."""
    unit = tf.pow(2.0, 8.0 - tf.cast(bits, tf.float32))
    return tf.floor(image / unit) * unit


def solarise(image: Any, threshold: Any) -> Any:
    """Values from the threshold up are inverted."""
    return tf.where(image < threshold, image, 255.0 - image)


def blur(image: Any, sigma: Any, radius: int) -> Any:
    """Smoothed by a Gaussian of `sigma` pixels, cut off after `radius`."""
    channels = image.shape[-1]
    weights = tf.exp(-0.5 * tf.square(tf.range(-radius, radius + 1, dtype=tf.float32) / sigma))
    kernel = tf.tile((weights / tf.reduce_sum(weights))[:, tf.newaxis, tf.newaxis, tf.newaxis], [1, 1, channels, 1])
    wider = tf.pad(image, [[radius, radius], [radius, radius], [0, 0]], "SYMMETRIC")[tf.newaxis]
    down = tf.nn.depthwise_conv2d(wider, kernel, [1, 1, 1, 1], "VALID")
    across = tf.nn.depthwise_conv2d(down, tf.transpose(kernel, [1, 0, 2, 3]), [1, 1, 1, 1], "VALID")
    return tf.ensure_shape(tf.clip_by_value(across[0], 0.0, 255.0), image.shape)
