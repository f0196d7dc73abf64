from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from finetune.augmenting.mixing import Mixing, batch_seed, beta, mix

COUNT = 5


def batch(dtype: tf.DType = tf.float32) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Images of one value each, so that each pixel says whose it is; classes and numbers to learn."""
    own = tf.reshape(tf.range(COUNT, dtype=tf.float32) * 10, [COUNT, 1, 1, 1])
    targets = {"head": tf.range(COUNT, dtype=tf.int64), "value": tf.range(COUNT, dtype=tf.float32)[:, tf.newaxis]}
    return {"images": tf.cast(tf.tile(own, [1, 20, 30, 3]), dtype)}, targets


def mixed(number: int, mixup: float, cutmix: float, dtype: tf.DType = tf.float32):
    how = Mixing(mixup, cutmix, {"head": COUNT, "value": 1})
    inputs, targets = mix(*batch(dtype), batch_seed(3, tf.constant(number, tf.int64)), how)
    return inputs["images"].numpy(), {head: target.numpy() for head, target in targets.items()}


def test_mixup_blends_images_and_targets_by_one_share():
    shares = set()
    for number in range(20):
        images, targets = mixed(number, 1.0, 0.0)
        kept = targets["head"][0, 0]
        shares.add(float(kept))
        expected = [10 * (kept * i + (1 - kept) * (COUNT - 1 - i)) for i in range(COUNT)]
        assert np.allclose(images, np.reshape(expected, [COUNT, 1, 1, 1]), atol=1e-4)
        assert np.allclose(targets["value"][:, 0] * 10, expected, atol=1e-4)
        assert np.allclose(targets["head"].sum(axis=1), 1)
        assert np.allclose(targets["head"][0], [kept, 0, 0, 0, 1 - kept])
    assert len(shares) == 20


def test_cutmix_pastes_a_rectangle_and_targets_follow_its_area():
    for number in range(20):
        images, targets = mixed(number, 0.0, 1.0)
        foreign = images[0, ..., 0] == 40
        assert set(np.unique(images[0])) <= {0.0, 40.0}
        assert np.isclose(targets["head"][0, 0], 1 - foreign.mean())
        rows, columns = foreign.any(axis=1).sum(), foreign.any(axis=0).sum()
        assert foreign.sum() == rows * columns
        assert np.array_equal(images[1, ..., 0] == 30, foreign)
        assert (images[2] == 20).all()


def test_of_both_a_batch_gets_one_and_each_comes_up():
    kinds = [len(np.unique(mixed(number, 1.0, 1.0)[0][0])) for number in range(60)]
    assert 15 < sum(kind == 2 for kind in kinds) < 45


def test_the_same_seed_mixes_the_same_and_another_does_not():
    for mixup, cutmix in ((0.2, 0.0), (0.0, 1.0), (0.2, 1.0)):
        (one, _), (again, _), (other, _) = (mixed(number, mixup, cutmix) for number in (1, 1, 2))
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)


def test_whole_numbers_stay_whole_numbers():
    exact, targets = mixed(4, 1.0, 0.0)
    images, _ = mixed(4, 1.0, 0.0, tf.uint8)
    assert images.dtype == np.uint8
    assert np.array_equal(images, np.round(exact))
    assert targets["head"].dtype == np.float32


@pytest.mark.parametrize("a", [0.2, 1.0, 8.0])
def test_shares_are_of_the_beta_distribution(a: float):
    drawn = np.array([beta(a, (number, 1)).numpy() for number in range(600)])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert abs(drawn.mean() - 0.5) < 0.06
    assert abs(drawn.var() / (0.25 / (2 * a + 1)) - 1) < 0.2


def test_shares_are_numbers_however_small_the_parameter():
    drawn = np.array([beta(0.001, (number, 1)).numpy() for number in range(300)])
    assert np.isfinite(drawn).all()
    assert (drawn < 1e-6).any()
    assert (drawn > 1 - 1e-6).any()
