"""How one training example is varied, as a function of the run's seed, the epoch and the example alone.

So a resumed run sees the same bits, and neither batch size nor the number of threads matters. What happens to an image
happens in the order of this room, from the outer form to what is taken away; preprocessing follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from finetune.augmenting import pixels
from finetune.augmenting.augment_keys import Augmentation
from finetune.augmenting.erasing import erase, mask
from finetune.augmenting.rand_augment import rand_augment

_STREAM = 0x61756721  # keeps these seeds apart from those of order and dropout


def example_seed(run_seed: int, epoch: Any, index: Any) -> Any:
    """The seed of an example in an epoch: int64 [2]; epoch and index are int64 scalars."""
    fold = tf.random.experimental.stateless_fold_in
    return fold(fold(tf.constant([run_seed, _STREAM], tf.int64), epoch), index)


@tf.autograph.experimental.do_not_convert  # there is no Python here to convert, and looking for it takes seconds
def augment(image: Any, seed: Any, size: tuple[int, int], how: Augmentation) -> Any:
    """float32 [*size, channels] in 0..255 from an image of any size and dtype with the same range."""
    first, *seeds = tf.unstack(tf.random.split(seed, 1 + len(_CHANGES)))
    if how.crop is not None:
        image = _cropped(image, first, size, how.crop)
    image = tf.image.resize(tf.cast(image, tf.float32), size)
    image = tf.ensure_shape(image, [*size, image.shape[-1]])
    for change, own in zip(_CHANGES, seeds, strict=True):
        image = change(image, own, how)
    return image


def augment_row(row: Any, seed: Any, how: Augmentation) -> Any:
    """A row [time, frequency, …] of floats with a stripe of each hidden."""
    time, frequency = tf.unstack(tf.random.split(seed, 2))
    row = mask(row, time, 0, how.mask_time) if how.mask_time else row
    return mask(row, frequency, 1, how.mask_frequency) if how.mask_frequency else row


def _cropped(image: Any, seed: Any, size: tuple[int, int], area: tuple[float, float]) -> Any:
    """A random rectangle of an image, its sides in a ratio 3/4 to 4/3 of the sides' it will be resized to.

    Szegedy et al. 2015, "Going deeper with convolutions", section 6. Where none fits it is the whole image.
    """
    ratio = size[1] / size[0]
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(0.75 * ratio, ratio / 0.75),
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    rectangle = tf.slice(image, begin, extent)
    return tf.ensure_shape(rectangle, [None, None, image.shape[-1]])


def _shift(image: Any, seed: Any, how: Augmentation) -> Any:
    if not how.pad_crop:
        return image
    pad = [how.pad_crop, how.pad_crop]
    wider = tf.pad(image, [pad, pad, [0, 0]], "SYMMETRIC")
    y, x = tf.unstack(tf.random.stateless_uniform([2], seed, 0, 2 * how.pad_crop + 1, tf.int32))
    return tf.slice(wider, tf.stack([y, x, 0]), image.shape)


def _flip(image: Any, seed: Any, how: Augmentation) -> Any:
    return tf.image.stateless_random_flip_left_right(image, seed) if how.flip else image


def _flip_vertical(image: Any, seed: Any, how: Augmentation) -> Any:
    return tf.image.stateless_random_flip_up_down(image, seed) if how.flip_vertical else image


def _rotate(image: Any, seed: Any, how: Augmentation) -> Any:
    return pixels.rotate(image, _around(0.0, how.rotate, seed)) if how.rotate else image


def _rand_augment(image: Any, seed: Any, how: Augmentation) -> Any:
    return rand_augment(image, seed, how.layers, how.magnitude) if how.layers else image


def _colour(image: Any, seed: Any, how: Augmentation) -> Any:
    seeds = tf.unstack(tf.random.split(seed, 4))
    changes = (
        (pixels.brightness, how.brightness, 1.0),
        (pixels.contrast, how.contrast, 1.0),
        (pixels.saturation, how.saturation, 1.0),
        (pixels.hue, how.hue, 0.0),
    )
    for (change, most, none), own in zip(changes, seeds, strict=True):
        image = change(image, _around(none, most, own)) if most else image
    return image


def _grey(image: Any, seed: Any, how: Augmentation) -> Any:
    return _sometimes(how.grey, seed, image, pixels.grey)


def _blur(image: Any, seed: Any, how: Augmentation) -> Any:
    # SimCLR's sigma (Chen et al. 2020), 0.1 to 2 pixels at 224, in proportion to the image.
    most = max(image.shape[:2]) / 112
    sigma = tf.random.stateless_uniform([], tf.random.split(seed, 2)[1], most / 20, most)
    return _sometimes(how.blur, seed, image, lambda sharp: pixels.blur(sharp, sigma, max(1, round(3 * most))))


def _erase(image: Any, seed: Any, how: Augmentation) -> Any:
    return _sometimes(how.erase, seed, image, lambda whole: erase(whole, tf.random.split(seed, 2)[1]))


_CHANGES: tuple[Callable[[Any, Any, Augmentation], Any], ...] = (
    _shift,
    _flip,
    _flip_vertical,
    _rotate,
    _rand_augment,
    _colour,
    _grey,
    _blur,
    _erase,
)


def _around(middle: float, most: float, seed: Any) -> Any:
    return tf.random.stateless_uniform([], seed, middle - most, middle + most)


def _sometimes(probability: float, seed: Any, image: Any, change: Callable[[Any], Any]) -> Any:
    if not probability:
        return image
    draw = tf.random.stateless_uniform([], tf.random.split(seed, 2)[0])
    return tf.ensure_shape(tf.cond(draw < probability, lambda: change(image), lambda: image), image.shape)
