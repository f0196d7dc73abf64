from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.augmenting.erasing import erase, mask


@pytest.mark.parametrize("size", [(24, 24), (8, 40)])
def test_one_rectangle_of_the_papers_sizes_becomes_noise(size: tuple[int, int]):
    image = tf.fill([*size, 3], 300.0)  # a value that the noise cannot have
    shares, aspects = [], []
    for number in range(40):
        erased = erase(image, (number, 1)).numpy()
        gone = np.any(erased != 300, axis=-1)
        rows, columns = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
        assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert gone.sum() == len(rows) * len(columns)
        noise = erased[gone]
        assert noise.min() >= 0
        assert noise.max() <= 255
        shares.append(gone.mean())
        aspects.append(len(rows) / len(columns))
    assert 0.01 < min(shares) < 0.1  # whole pixels: a little beside 0.02
    assert 0.25 < max(shares) < 0.43
    assert 0.2 < min(aspects) < 1.2
    assert max(aspects) < 4


def test_a_stripe_becomes_the_mean_and_is_no_wider_than_asked_for():
    row = tf.constant(np.random.default_rng(0).random((20, 30, 2)), tf.float32)
    mean = tf.reduce_mean(row).numpy()
    for axis, most in ((0, 4), (1, 6)):
        widths = set()
        for number in range(60):
            masked = mask(row, (number, 2), axis, 0.2).numpy()
            hidden = np.all(masked == mean, axis=tuple({0, 1, 2} - {axis}))
            places = np.flatnonzero(hidden)
            widths.add(len(places))
            assert np.array_equal(np.delete(masked, places, axis), np.delete(row.numpy(), places, axis))
            assert not len(places) or places[-1] - places[0] + 1 == len(places)
        assert widths == set(range(most + 1))


def test_rows_of_two_dimensions_are_masked_too():
    row = tf.reshape(tf.range(100.0), [10, 10])
    masked = mask(row, (1, 2), 0, 0.9).numpy()
    assert (masked == 49.5).any()
    assert masked.shape == (10, 10)
