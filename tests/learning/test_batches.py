from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from finetune.errors import UserError
from finetune.learning import batches, data
from finetune.learning.tasks import make_task, with_targets
from finetune.recipe import Data, Head

FLOAT = 1  # of types.proto


def orders(steps: int, batch_size: int, count: int, seed: int = 0) -> np.ndarray:
    return np.concatenate([batches.order(step, batch_size, count, seed).numpy() for step in range(steps)])


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


def test_a_resumed_stream_is_the_rest_of_the_whole_one():
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
    found = data.class_folders(str(tmp_path), "labels")
    return with_targets(found, [make_task("head", Head(), "cut:0", "labels", found)])


def test_images_are_decoded_with_the_channels_and_the_size_of_the_input(images: data.Examples):
    load = batches.make_loader(images, {"images": (FLOAT, (None, 8, 8, 1))}, Data(preprocess="none"))
    inputs, targets, _ = next(batches.evaluation_batches(images, load, 6, whole=False))
    assert inputs["images"].shape == (6, 8, 8, 1)
    assert np.allclose(inputs["images"].numpy()[:, 0, 0, 0], [0, 1, 2, 100, 101, 102])
    assert targets["head"].numpy().tolist() == [0, 0, 0, 1, 1, 1]


def test_files_that_cannot_be_decoded_are_all_named(images: data.Examples):
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
