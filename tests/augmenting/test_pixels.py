"""Every change against Pillow's, which works on whole numbers: a difference of a rounding is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from finetune.augmenting import pixels

Image = pytest.importorskip("PIL.Image")
from PIL import ImageEnhance, ImageOps


def photograph(channels: int = 3, height: int = 24, width: int = 31) -> np.ndarray:
    """Smooth colours with some noise and an edge, not over the whole range."""
    draw = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    waves = [90 + 60 * np.sin(x / 5 + c) * np.cos(y / 7 - c) + 20 * (x > width // 2) for c in range(channels)]
    return np.clip(np.stack(waves, -1) + draw.normal(0, 6, (height, width, channels)), 5, 230).astype(np.uint8)


def pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def ours(change: Callable, image: np.ndarray, *values: float) -> np.ndarray:
    result = change(tf.constant(image, tf.float32), *values).numpy()
    assert result.dtype == np.float32
    assert result.shape == image.shape
    assert result.min() >= 0
    assert result.max() <= 255
    return result


def theirs(result: Image.Image, like: np.ndarray) -> np.ndarray:
    return np.asarray(result, np.float32).reshape(like.shape)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.9])
@pytest.mark.parametrize(
    ("change", "reference"),
    [
        (pixels.brightness, ImageEnhance.Brightness),
        (pixels.contrast, ImageEnhance.Contrast),
        (pixels.saturation, ImageEnhance.Color),
        (pixels.sharpness, ImageEnhance.Sharpness),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_enhancements_are_pillows(change, reference, factor: float, channels: int):
    image = photograph(channels)
    expected = theirs(reference(pillow(image)).enhance(factor), image)
    # Pillow rounds what it blends with, and the factor multiplies that rounding.
    assert np.abs(ours(change, image, factor) - expected).max() <= 1 + factor


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("change", "reference", "values"),
    [
        (pixels.autocontrast, ImageOps.autocontrast, ()),
        (pixels.equalise, ImageOps.equalize, ()),
        (pixels.posterise, ImageOps.posterize, (3,)),
        (pixels.posterise, ImageOps.posterize, (8,)),
        (pixels.solarise, ImageOps.solarize, (100,)),
        (pixels.solarise, ImageOps.solarize, (256,)),
    ],
)
def test_operations_are_pillows(change, reference, values, channels: int):
    image = photograph(channels)
    changed = ours(change, image, *values)
    assert np.abs(changed - theirs(reference(pillow(image), *values), image)).max() <= 1
    if change is not pixels.autocontrast:
        assert np.array_equal(changed, theirs(reference(pillow(image), *values), image))


@pytest.mark.parametrize("change", [pixels.autocontrast, pixels.equalise])
def test_an_image_of_one_value_stays(change):
    image = np.full((5, 4, 3), 77, np.uint8)
    assert np.array_equal(ours(change, image), image)


def test_grey_is_pillows_and_an_image_without_colours_stays():
    image = photograph()
    expected = np.asarray(pillow(image).convert("L"), np.float32)[..., np.newaxis]
    assert np.abs(ours(pixels.grey, image) - expected).max() <= 1
    single = photograph(1)
    for change in (pixels.grey, lambda i: pixels.hue(i, 0.3), lambda i: pixels.saturation(i, 0.3)):
        assert np.array_equal(ours(change, single), single)


def test_a_third_of_the_colour_circle_swaps_the_channels():
    image = photograph()
    assert np.allclose(ours(pixels.hue, image, 1 / 3), np.roll(image, 1, axis=-1), atol=0.6)
    assert np.allclose(ours(pixels.hue, image, 0.0), image, atol=0.01)


@pytest.mark.parametrize("degrees", [0.0, 10.0, -25.0, 90.0])
def test_a_rotation_is_pillows_away_from_the_border(degrees: float):
    image = photograph(height=31)
    expected = theirs(pillow(image).rotate(degrees, Image.Resampling.BILINEAR), image)
    assert np.abs(ours(pixels.rotate, image, degrees) - expected)[8:-8, 8:-8].max() < 1.01


@pytest.mark.parametrize(
    ("rows", "shift"),
    [(((1, 0.3), (0, 1)), (0, 0)), (((1, 0), (-0.2, 1)), (0, 0)), (((1, 0), (0, 1)), (3, -2.5))],
)
def test_shears_and_shifts_are_pillows_away_from_the_border(rows, shift):
    image = photograph(height=30, width=33)
    ((a, b), (c, d)), (x, y) = rows, (33 / 2, 30 / 2)  # Pillow counts from the corner of the first pixel
    data = (a, b, x - a * x - b * y + shift[0], c, d, y - c * x - d * y + shift[1])
    moved = pillow(image).transform((33, 30), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    changed = ours(lambda i: pixels.affine(i, rows, shift), image)
    assert np.abs(changed - theirs(moved, image))[8:-8, 8:-8].max() < 1.01


def test_beyond_the_border_lies_the_mirror_image():
    image = photograph()
    changed = ours(lambda i: pixels.affine(i, ((1, 0), (0, 1)), (-3.0, 0.0)), image)
    assert np.array_equal(changed[:, 3:], image[:, :-3])
    assert np.array_equal(changed[:, :3], image[:, 2::-1])


def test_a_blur_is_a_gaussian():
    image = photograph()
    kernel = np.array([math.exp(-0.5 * (i / 1.3) ** 2) for i in range(-4, 5)])
    kernel /= kernel.sum()
    wider = np.pad(image.astype(np.float64), [(4, 4), (4, 4), (0, 0)], "symmetric")
    down = sum(weight * wider[i : i + 24] for i, weight in enumerate(kernel))
    expected = sum(weight * down[:, i : i + 31] for i, weight in enumerate(kernel))
    assert np.allclose(ours(pixels.blur, image, 1.3, 4), expected, atol=1e-3)
