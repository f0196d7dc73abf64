from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from finetune.augmenting.augment import augment, augment_row, example_seed
from finetune.augmenting.augment_keys import Augmentation

SIZE = (20, 24)
EVERYTHING = Augmentation(
    crop=(0.3, 0.9),
    flip=True,
    flip_vertical=True,
    rotate=20.0,
    layers=2,
    magnitude=9,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.1,
    grey=0.5,
    blur=0.5,
    erase=0.5,
)
ALONE = [
    Augmentation(crop=(0.3, 0.9)),
    Augmentation(pad_crop=4),
    Augmentation(flip=True),
    Augmentation(flip_vertical=True),
    Augmentation(rotate=20.0),
    Augmentation(layers=2, magnitude=9),
    Augmentation(brightness=0.3),
    Augmentation(contrast=0.3),
    Augmentation(saturation=0.3),
    Augmentation(hue=0.1),
    Augmentation(grey=0.5),
    Augmentation(blur=0.5),
    Augmentation(erase=0.5),
]


def picture(height: int = 30, width: int = 40, channels: int = 3) -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).integers(0, 256, (height, width, channels)), tf.uint8)


@functools.cache  # tracing takes longer than running
def compiled(how: Augmentation) -> Callable:
    return tf.function(lambda image, seed: augment(image, seed, SIZE, how))


def variants(how: Augmentation, count: int = 12, image: tf.Tensor | None = None) -> list[np.ndarray]:
    given = picture() if image is None else image
    return [compiled(how)(given, tf.constant([number, 5], tf.int64)).numpy() for number in range(count)]


def test_nothing_asked_for_is_the_resized_image():
    assert np.array_equal(variants(Augmentation(), 1)[0], tf.image.resize(picture(), SIZE))


@pytest.mark.parametrize("how", ALONE, ids=lambda how: next(k for k, v in vars(how).items() if v))
def test_each_change_does_something_by_itself_and_is_a_function_of_the_seed(how: Augmentation):
    found = variants(how)
    assert all(image.shape == (*SIZE, 3) and image.dtype == np.float32 for image in found)
    assert all(image.min() >= 0 and image.max() <= 255 for image in found)
    assert any(not np.array_equal(image, found[0]) for image in found)
    assert all(np.array_equal(a, b) for a, b in zip(found, variants(how), strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_together_stays_an_image(channels: int):
    for image in variants(EVERYTHING, 6, picture(channels=channels)):
        assert image.shape == (*SIZE, channels)
        assert image.min() >= 0
        assert image.max() <= 255


def test_each_change_draws_for_itself():
    """What one change does, does not depend on whether another is asked for."""
    erased = variants(Augmentation(erase=1.0), 6)
    both = variants(Augmentation(erase=1.0, flip=True), 6)
    plain = tf.image.resize(picture(), SIZE).numpy()
    for one, two in zip(erased, both, strict=True):
        assert np.array_equal(one != plain, two != plain) or np.array_equal(one != plain, two != plain[:, ::-1])


def test_crops_have_the_area_and_the_shape_that_were_asked_for():
    y, x = np.mgrid[:100, :120].astype(np.float32)
    places = tf.constant(np.stack([y, x, 0 * x], -1))  # each pixel says where it was
    shares, ratios = [], []
    for image in variants(Augmentation(crop=(0.3, 0.9)), 60, places):
        height, width = np.ptp(image[..., 0]) * 20 / 19, np.ptp(image[..., 1]) * 24 / 23
        shares.append(height * width / 12000)
        ratios.append(width / height / (24 / 20))
    assert 0.25 < min(shares) < 0.4
    assert 0.75 < max(shares) < 0.95
    assert 0.7 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.42


def test_pad_crop_moves_an_image_by_up_to_its_pixels_either_way():
    image = picture(*SIZE)
    wider = np.pad(image.numpy(), [(2, 2), (2, 2), (0, 0)], "symmetric").astype(np.float32)
    windows = [wider[y : y + 20, x : x + 24] for y in range(5) for x in range(5)]
    found = [
        [np.array_equal(moved, window) for window in windows].index(True)
        for moved in variants(Augmentation(pad_crop=2), 120, image)
    ]
    assert len(set(found)) > 20


def test_probabilities_are_kept():
    plain = tf.image.resize(picture(), SIZE).numpy()
    for how in (Augmentation(grey=0.25), Augmentation(flip=True), Augmentation(erase=0.25)):
        changed = np.mean([not np.array_equal(image, plain) for image in variants(how, 300)])
        assert abs(changed - (0.5 if how.flip else 0.25)) < 0.08


def test_seeds_differ_between_runs_epochs_and_examples():
    seeds = {
        tuple(example_seed(run, tf.constant(epoch, tf.int64), tf.constant(index, tf.int64)).numpy().tolist())
        for run in range(3)
        for epoch in range(4)
        for index in range(5)
    }
    assert len(seeds) == 3 * 4 * 5


def test_stripes_of_a_spectrogram_are_hidden():
    row = np.random.default_rng(0).random((40, 30)).astype(np.float32)
    time, frequency, both = (
        augment_row(tf.constant(row), (3, 4), how).numpy()
        for how in (
            Augmentation(mask_time=0.5),
            Augmentation(mask_frequency=0.5),
            Augmentation(mask_time=0.5, mask_frequency=0.5),
        )
    )
    assert 0 < (time != row).all(axis=1).sum() <= 20
    assert 0 < (frequency != row).all(axis=0).sum() <= 15
    assert (both != row).sum() > max((time != row).sum(), (frequency != row).sum())
