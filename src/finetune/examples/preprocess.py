"""What happens to one image before the source sees it.

The presets are those that published networks were trained with; the wrong one costs accuracy and raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Channel means of ImageNet, RGB, 0..255 (Simonyan and Zisserman 2014, in the release notes of VGG) and, for
# `torch`, mean and standard deviation, RGB, 0..1 (torchvision's reference training).
_VGG_MEANS = (123.68, 116.779, 103.939)
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _caffe(image: Any) -> Any:
    return image[..., ::-1] - tf.constant(_VGG_MEANS[::-1])


def _vgg(image: Any) -> Any:
    return image - tf.constant(_VGG_MEANS)


def _torch(image: Any) -> Any:
    return (image / 255.0 - tf.constant(_TORCH_MEAN)) / tf.constant(_TORCH_STD)


# float32 [height, width, channels] in 0..255 -> the same shape
PRESETS: dict[str, Callable[[Any], Any]] = {
    "none": lambda image: image,
    "unit": lambda image: image / 255.0,
    "inception": lambda image: image / 127.5 - 1.0,
    "vgg": _vgg,
    "caffe": _caffe,
    "torch": _torch,
}


def decode(content: Any, channels: int) -> Any:
    """uint8 [height, width, channels] from the bytes of a PNG, JPEG, GIF or BMP file."""
    image = tf.io.decode_image(content, channels=channels, expand_animations=False)
    image.set_shape([None, None, channels])
    return image


def what_is_wrong(content: bytes) -> str:
    """Why an image cannot be decoded; nothing if it can."""
    try:
        decode(tf.constant(content), 3)
    except tf.errors.OpError as error:
        return reason(error)
    return ""


def reason(error: tf.errors.OpError) -> str:
    """What a decoder says, without the names of node and op."""
    return str(error.message).splitlines()[0].split("}}")[-1].partition(" [Op:")[0].strip()[:80]


def centred(image: Any, size: tuple[int, int], share: float) -> Any:
    """The middle of an image or of a batch, in the proportions of `size`.

    Its sides are `share` of the largest such rectangle's: at 224 pixels and 0.875 that is what is
    left of an image whose shorter side is made 256 pixels long.
    """
    sides = tf.cast(tf.shape(image)[-3:-1], tf.float32)
    wanted = tf.constant(size, tf.float32)
    extent = tf.cast(tf.maximum(tf.round(wanted * share * tf.reduce_min(sides / wanted)), 1.0), tf.int32)
    begin = (tf.shape(image)[-3:-1] - extent) // 2
    return image[..., begin[0] : begin[0] + extent[0], begin[1] : begin[1] + extent[1], :]


def prepare(image: Any, size: tuple[int, int], preset: str, dtype: Any, crop: float | None = None) -> Any:
    """Images as the source's input takes them, one or a batch: resized (bilinear, if sizes differ), scaled, cast.

    With `crop`, that share of their sides in their middle.
    """
    image = tf.cast(image, tf.float32)
    image = image if crop is None else centred(image, size, crop)
    image = tf.image.resize(image, size)
    image.set_shape([*image.shape[:-3], *size, image.shape[-1]])
    return tf.cast(PRESETS[preset](image), dtype)
