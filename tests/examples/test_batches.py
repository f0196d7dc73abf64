from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.augmenting.mixing import Mixing
from finetune.errors import UserError
from finetune.examples import batches, data, folders
from finetune.examples.tasks import make_task, with_targets
from finetune.recipe import Augment, Data, Head

FLOAT = 1  # of types.proto


def orders(steps: int, batch_size: int, count: int, seed: int = 0) -> np.ndarray:
    return np.concatenate([batches.order(step, batch_size, count, seed).numpy() for step in range(steps)])


def test_batches_are_prepared_without_the_tuner_that_a_pipeline_waits_for():
    made = batches.prepared_ahead(tf.data.Dataset.range(3))
    assert made.options().autotune.enabled is False
    assert list(made.as_numpy_iterator()) == [0, 1, 2]


@pytest.mark.parametrize(("batch_size", "count"), [(7, 10), (5, 10), (32, 10), (3, 1)])
def test_every_epoch_is_a_permutation_whatever_the_batch_size(batch_size: int, count: int):
    stream = orders(3 * count, batch_size, count)
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_differ_and_seeds_differ():
    stream = orders(20, 10, 100)
    assert not np.array_equal(stream[:100], stream[100:])
    assert not np.array_equal(stream, orders(20, 10, 100, seed=1))


def test_the_stream_does_not_depend_on_the_batch_size():
    assert np.array_equal(orders(20, 5, 30), orders(10, 10, 30))


def test_neighbours_do_not_stay_neighbours():
    # With four rounds of the shuffling op a third of them did, and a sorted data set gave batches of one class.
    stream = orders(472, 1, 472)
    assert np.mean(np.abs(np.diff(stream)) <= 4) < 0.04


def rows(count: int = 10) -> data.Examples:
    x = np.arange(count, dtype=np.float64)[:, np.newaxis]
    labels = np.arange(count) % 2
    return replace(data.from_arrays({"x": x}, {"labels": labels}, "test"), targets={"head": labels})


def test_104_a_resumed_stream_is_the_rest_of_the_whole_one():
    examples = rows()
    load = batches.make_loader(examples, {"x": (FLOAT, (None, 1))}, Data())
    whole = [b[0]["x"].numpy() for b in batches.training_batches(examples, load, 0, 8, 4, seed=3)]
    rest = [b[0]["x"].numpy() for b in batches.training_batches(examples, load, 5, 8, 4, seed=3)]
    assert np.array_equal(whole[5:], rest)
    assert {b.dtype.name for b in whole} == {"float32"}  # what the input takes


def test_evaluation_sees_every_example_once_in_order():
    examples = rows()
    load = batches.make_loader(examples, {"x": (FLOAT, None)}, Data())
    seen = [b[2].numpy().tolist() for b in batches.evaluation_batches(examples, load, 4, whole=False)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_where_the_graph_takes_only_whole_batches_the_last_one_is_filled_up():
    examples = rows()
    load = batches.make_loader(examples, {"x": (FLOAT, None)}, Data())
    seen = [b[2].numpy().tolist() for b in batches.evaluation_batches(examples, load, 4, whole=True)]
    assert seen[-1] == [8, 9, 9, 9]


def test_rows_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"source.inputs.x: 'x' has rows of \[1\], the input takes \[3\]"):
        batches.make_loader(rows(), {"x": (FLOAT, (None, 3))}, Data())


def test_fractions_do_not_become_integers_unseen():
    with pytest.raises(UserError, match="'x' is float64, the input takes int32; convert it"):
        batches.make_loader(rows(), {"x": (3, (None, 1))}, Data())


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ((None, 784), None, "data.kind: the input takes 2-dimensional batches, images have 4"),
        (None, None, r"data.image_size: the input takes images of any size; add data.image_size"),
        ((None, 28, 28, 1), [32, 32], r"data.image_size: \[32, 32\], but the input takes 28×28"),
    ],
)
def test_an_input_that_takes_no_such_images_says_so(shape, given, message):
    with pytest.raises(UserError, match=message):
        batches.image_geometry(shape, given)


@pytest.fixture
def images(tmp_path: Path) -> data.Examples:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = tf.fill([4, 6, 3], tf.constant(100 * label + i, tf.uint8))
            (tmp_path / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    found = folders.class_folders(str(tmp_path), "labels")
    return with_targets(found, [make_task("head", Head(), "cut:0", "labels", found)])


def test_images_are_decoded_with_the_channels_and_the_size_of_the_input(images: data.Examples):
    load = batches.make_loader(images, {"images": (FLOAT, (None, 8, 8, 1))}, Data(preprocess="none"))
    inputs, targets, _ = next(batches.evaluation_batches(images, load, 6, whole=False))
    assert inputs["images"].shape == (6, 8, 8, 1)
    assert np.allclose(inputs["images"].numpy()[:, 0, 0, 0], [0, 1, 2, 100, 101, 102])
    assert targets["head"].numpy().tolist() == [0, 0, 0, 1, 1, 1]


def test_130_files_that_cannot_be_decoded_are_all_named(images: data.Examples):
    load = batches.make_loader(images, {"images": (FLOAT, (None, 8, 8, 1))}, Data(preprocess="none"))
    for index in (1, 4):
        Path(images.sources[index]).write_bytes(Path(images.sources[index]).read_bytes()[:40])
    with pytest.raises(UserError) as refused:
        list(batches.evaluation_batches(images, load, 6, whole=False))
    assert "cat/1.png" in str(refused.value)
    assert "dog/1.png" in str(refused.value)


def test_several_inputs_take_no_images(images: data.Examples):
    with pytest.raises(UserError, match="images fill one input"):
        batches.make_loader(images, {"a": (FLOAT, None), "b": (FLOAT, None)}, Data(preprocess="none"))


def test_pictures_are_for_people_and_arrays_have_none(images: data.Examples):
    assert batches.pictures(images, [0, 5]).shape == (2, 112, 112, 3)
    assert len(batches.pictures(rows(), [0])) == 0


# Varied examples

VARIED = Data(preprocess="unit", augment=Augment(flip=True, crop=[0.1, 0.5], rotate=30.0))
SEEN = {"images": (FLOAT, (None, 8, 8, 3))}


def varied(images: data.Examples, start: int, stop: int, batch_size: int, seed: int = 0, mixing: Mixing | None = None):
    """(images, targets, indices) of some steps, one after the other."""
    load = batches.make_loader(images, SEEN, VARIED)
    stream = batches.training_batches(images, load, start, stop, batch_size, seed, varied=True, mixing=mixing)
    found = [(inputs["images"].numpy(), targets["head"].numpy(), index.numpy()) for inputs, targets, index in stream]
    return [np.concatenate(column) for column in zip(*found, strict=True)]


@pytest.fixture
def noise(images: data.Examples) -> data.Examples:
    """Images in which each pixel differs, so that each variation shows."""
    for number, source in enumerate(images.sources):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
        Path(source).write_bytes(tf.io.encode_png(pixels).numpy())
    return images


def test_a_variation_is_a_function_of_seed_epoch_and_example(noise: data.Examples):
    stream, _, indices = varied(noise, 0, 6, 3)
    assert stream.min() >= 0
    assert stream.max() <= 1  # preprocessed after it is varied
    first, second = (
        {i: stream[6 * e : 6 * e + 6][indices[6 * e : 6 * e + 6] == i][0] for i in range(6)} for e in (0, 1)
    )
    assert not any(np.array_equal(first[i], second[i]) for i in range(6))
    for batch_size, steps in ((9, 2), (2, 9)):
        again, _, same = varied(noise, 0, steps, batch_size)
        assert np.array_equal(again, stream)
        assert np.array_equal(same, indices)
    other, _, places = varied(noise, 0, 2, 3, seed=1)
    assert not any(np.array_equal(other[places == i][0], first[i]) for i in range(6))


def test_104_a_resumed_stream_varies_and_mixes_as_the_whole_one(noise: data.Examples):
    for mixing in (None, Mixing(0.2, 1.0, {"head": 2})):
        whole, rest = varied(noise, 0, 8, 4, mixing=mixing), varied(noise, 5, 8, 4, mixing=mixing)
        assert all(np.array_equal(all_of_it[20:], end) for all_of_it, end in zip(whole, rest, strict=True))


def test_mixed_targets_are_distributions(noise: data.Examples):
    plain, labels, indices = varied(noise, 0, 4, 6)
    mixed, shares, same = varied(noise, 0, 4, 6, mixing=Mixing(1.0, 0.0, {"head": 2}))
    assert np.array_equal(indices, same)
    assert shares.shape == (24, 2)
    assert np.allclose(shares.sum(axis=1), 1)
    for start in range(0, 24, 6):
        batch, hot = plain[start : start + 6], np.eye(2)[labels[start : start + 6]]
        kept = float(
            np.vdot(mixed[start : start + 6] - batch[::-1], batch - batch[::-1]) / np.sum((batch - batch[::-1]) ** 2)
        )
        assert np.allclose(mixed[start : start + 6], kept * batch + (1 - kept) * batch[::-1], atol=1e-5)
        assert np.allclose(shares[start : start + 6], kept * hot + (1 - kept) * hot[::-1], atol=1e-5)


def test_evaluation_is_never_varied(noise: data.Examples):
    plain = batches.make_loader(noise, SEEN, Data(preprocess="unit"))
    load = batches.make_loader(noise, SEEN, VARIED)
    (one, _, _), (other, _, _) = (next(batches.evaluation_batches(noise, made, 6, False)) for made in (plain, load))
    assert np.array_equal(one["images"], other["images"])


def test_an_eval_crop_looks_at_the_middle_and_random_crops_replace_it(noise: data.Examples):
    def first(data: Data, *seed: int) -> np.ndarray:
        return batches.make_loader(noise, {"images": (FLOAT, (None, 10, 10, 3))}, data)(0, *seed)["images"].numpy()

    pixels = tf.io.decode_png(Path(noise.sources[0]).read_bytes()).numpy()
    middle = pixels[5:15, 7:17].astype(np.float32)
    half = Data(preprocess="none", eval_crop=0.5)
    assert np.array_equal(first(half), middle)
    flipped = Data(preprocess="none", eval_crop=0.5, augment=Augment(flip=True))
    assert all(any(np.array_equal(first(flipped, (n, 0)), m) for m in (middle, middle[:, ::-1])) for n in range(4))
    cropped = Augment(crop=[0.9, 0.99])
    with_and_without = (Data(preprocess="none", eval_crop=e, augment=cropped) for e in (0.5, None))
    assert np.array_equal(*(first(data, (1, 2)) for data in with_and_without))


def test_spectrograms_are_masked_and_other_inputs_are_not():
    draw = np.random.default_rng(0)
    arrays = {"x": draw.random((6, 10, 8)), "y": draw.random((6, 3)), "ids": draw.integers(0, 9, (6, 10, 8))}
    examples = data.from_arrays(arrays, {"labels": np.arange(6) % 2}, "test")
    kinds = {"x": (FLOAT, (None, 10, 8)), "y": (FLOAT, (None, 3)), "ids": (9, (None, 10, 8))}
    load = batches.make_loader(examples, kinds, Data(kind="arrays", augment=Augment(mask_time=0.5)))
    whole = [b for b in batches.training_batches(examples, load, 0, 6, 4, 0, varied=True)]
    rest = [b for b in batches.training_batches(examples, load, 4, 6, 4, 0, varied=True)]
    assert all(np.array_equal(a[0]["x"], b[0]["x"]) for a, b in zip(whole[4:], rest, strict=True))
    masked = 0
    for inputs, _, indices in whole:
        masked += np.sum((inputs["x"].numpy() != arrays["x"][indices].astype(np.float32)).all(axis=2))
        assert np.array_equal(inputs["y"], arrays["y"][indices].astype(np.float32))
        assert np.array_equal(inputs["ids"], arrays["ids"][indices])
    assert masked > 0


def test_what_does_not_fit_the_inputs_is_refused(noise: data.Examples):
    with pytest.raises(
        UserError, match=r"data.augment: no input has images, or rows \[time, frequency\] of floats: x \[1\]"
    ):
        batches.make_loader(rows(), {"x": (FLOAT, (None, 1))}, Data(kind="arrays", augment=Augment(mask_time=0.1)))
    with pytest.raises(UserError, match=r"data.augment.pad_crop: 9 is more than an image of 8×8 has"):
        batches.make_loader(noise, SEEN, Data(preprocess="unit", augment=Augment(pad_crop=9)))
    small = {"images": (FLOAT, (None, 2, 2, 3))}
    with pytest.raises(UserError, match=r"data.augment.rand_augment: images of 2×2 are too small"):
        batches.make_loader(noise, small, Data(preprocess="unit", augment=Augment(rand_augment={})))


def test_what_is_seen_in_training_is_the_first_batch_before_preprocessing(noise: data.Examples):
    for mixing in (None, Mixing(1.0, 0.0, {"head": 2})):
        shown = batches.seen_in_training(noise, SEEN, VARIED, 4, 0, None, mixing)
        trained, _, _ = varied(noise, 0, 1, 4, mixing=mixing)
        assert shown.dtype == np.uint8
        assert np.abs(shown / 255 - trained).max() <= 0.6 / 255
    one_channel = batches.seen_in_training(noise, {"images": (FLOAT, (None, 8, 8, 1))}, VARIED, 4, 0, None, None)
    assert one_channel.shape == (4, 8, 8, 3)
    assert len(batches.seen_in_training(rows(), {"x": (FLOAT, None)}, Data(kind="arrays"), 4, 0, None, None)) == 0


def test_balanced_examples_are_varied_anew_each_time(noise: data.Examples):
    members = [np.array([0, 1]), np.array([2, 3, 4, 5])]
    load = batches.make_loader(noise, SEEN, VARIED)
    found = list(batches.training_batches(noise, load, 0, 2, 6, 0, members, varied=True))
    pixels = np.concatenate([inputs["images"] for inputs, _, _ in found])
    indices = np.concatenate([index for _, _, index in found])
    first, second = np.flatnonzero(indices == 0)[:2]
    assert not np.array_equal(pixels[first], pixels[second])
