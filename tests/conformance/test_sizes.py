"""Promise: a batch or image size that is baked into a source is rewritten where that changes no example's features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.engine import rows
from finetune.engine.compile import as_function, features_program
from finetune.errors import UserError
from finetune.surgery.backbone import make_backbone
from finetune.surgery.source import Source, read_source, read_values, resized

tf1 = tf.compat.v1
BATCH, STEPS, UNITS = 4, 5, 3


def dense(x: Any, width: int = UNITS, name: str = "w") -> Any:
    weights = np.random.default_rng(len(name)).normal(size=(x.shape[-1], width)).astype(np.float32)
    return tf.matmul(x, tf1.get_variable(name, initializer=weights, use_resource=False))


def static_states() -> Any:
    """A recurrent loop with a zero state, a tensor array and a length for each of four examples."""
    x = tf1.placeholder(tf.float32, [BATCH, STEPS, 2], "x")
    by_step = tf.transpose(x, [1, 0, 2])
    lengths = tf.fill([BATCH], np.int32(STEPS))
    taken = tf.TensorArray(tf.float32, STEPS, element_shape=[BATCH, 2]).unstack(by_step)

    def turn(time: Any, state: Any) -> Any:
        new = tf.tanh(dense(tf.concat([taken.read(time), state], 1)))
        kept = tf.tile((time < lengths)[:, None], [1, UNITS])
        return time + 1, tf.where(kept, new, tf.zeros([BATCH, UNITS]))

    start = (tf.constant(0), tf.zeros([BATCH, UNITS]))
    return tf.while_loop(lambda time, _: time < STEPS, turn, start)[1]


def flattened() -> Any:
    """An image flattened by a shape that was known when the program ran."""
    x = tf1.placeholder(tf.float32, [BATCH, 2, 2, 2], "x")
    return tf.nn.relu(dense(tf.reshape(x, [BATCH, 8])))


def hidden() -> Any:
    """A placeholder for any number of examples, and a constant for four: the cut tells."""
    x = tf1.placeholder(tf.float32, [None, 3], "x")
    return tf.concat([dense(x), np.ones([BATCH, 2], np.float32)], 1)


def of_one_example() -> Any:
    x = tf1.placeholder(tf.float32, [1, 2, 3], "x")
    return dense(tf.reshape(x, [1, 6]))


def over_the_batch() -> Any:
    """Features of an example that depend on the others."""
    x = tf1.placeholder(tf.float32, [BATCH, 3], "x")
    return dense(x) - tf.reduce_mean(x)


def of_each_row() -> Any:
    """A table with a row for each place in the batch: nobody knows what a fifth would be."""
    x = tf1.placeholder(tf.float32, [BATCH, 3], "x")
    return dense(x) * np.arange(BATCH, dtype=np.float32)[:, None]


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return saved(request.param, tmp_path)


def saved(build: Callable[[], Any], folder: Path) -> Source:
    v2 = tf1.control_flow_v2_enabled()
    tf1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), tf1.Session() as session:
            tf.identity(build(), "features")
            session.run(tf1.global_variables_initializer())
            tf1.train.Saver().save(session, str(folder / "model"))
    finally:
        (tf1.enable_control_flow_v2 if v2 else tf1.disable_control_flow_v2)()
    return read_source(str(folder), "features", {}, {})


def arguments(source: Source, count: int) -> dict[str, Any]:
    ((field, (_, shape)),) = source.input_kinds().items()
    batch = np.random.default_rng(0).normal(size=(count, *shape[1:])).astype(np.float32)
    return {f"variable/{name}": tf.constant(v) for name, v in read_values(source).items()} | {f"input/{field}": batch}


def features(source: Source, given: dict[str, Any]) -> np.ndarray:
    backbone = make_backbone(source.whole, [source.cut], source.inputs, {})
    return as_function(features_program(backbone))({n: tf.constant(v) for n, v in given.items()})["features"].numpy()


def checked(source: Source, given: dict[str, Any]) -> list[str]:
    return rows.check_sizes(source, make_backbone(source.whole, [source.cut], source.inputs, {}), {}, given)


@pytest.mark.parametrize("count", [3, 6])
@pytest.mark.parametrize("source", [static_states, flattened, hidden], indirect=True)
def test_an_example_has_the_same_features_in_a_batch_of_another_size(source, count):
    assert source.batch_size == BATCH
    free = resized(source, {count}, None)
    given = arguments(free, count)
    (said,) = checked(free, given)
    assert f"{count} instead of the source's {BATCH}" in said
    found = features(free, given)
    place = next(name for name in given if name.startswith("input/"))
    whole = {**given, place: np.resize(given[place], (BATCH, *given[place].shape[1:]))}
    np.testing.assert_allclose(found[: min(count, BATCH)], features(source, whole)[:count], rtol=1e-5)


def test_a_source_of_one_example_takes_many(tmp_path):
    source = saved(of_one_example, tmp_path)
    free = resized(source, {7}, None)
    given = arguments(free, 7)
    assert "features of 4 examples agree" in checked(free, given)[0]
    assert features(free, given).shape == (7, UNITS)


@pytest.mark.parametrize("source", [static_states, flattened], indirect=True)
def test_at_the_old_size_the_rewritten_source_gives_the_same_bits(source):
    given = arguments(source, BATCH)
    np.testing.assert_array_equal(features(resized(source, {2}, None), given), features(source, given))


@pytest.mark.parametrize("source", [flattened], indirect=True)
def test_a_recipe_with_the_old_size_changes_nothing(source):
    assert resized(source, {BATCH}, None) is source


@pytest.mark.parametrize("source", [over_the_batch, of_each_row], indirect=True)
def test_what_is_not_sound_is_refused_with_the_size_to_take(source):
    free = resized(source, {3}, None)
    with pytest.raises(UserError) as refused:
        checked(free, arguments(free, 3))
    assert (refused.value.where, refused.value.todo) == ("train.batch_size", f"set train.batch_size={BATCH}")
    assert f"3, but the source takes exactly {BATCH} examples at once" in refused.value.what


def images(pooled: bool) -> Any:
    x = tf1.placeholder(tf.float32, [None, 6, 6, 2], "x")
    return dense(tf.reduce_mean(x, [1, 2]) if pooled else tf.reshape(x, [-1, 72]))


def test_images_of_another_size_are_taken_where_the_graph_allows_it(tmp_path):
    other = resized(saved(lambda: images(pooled=True), tmp_path), set(), [9, 4])
    given = arguments(other, 2)
    assert checked(other, given) == ["image size: 9×4 instead of the source's 6×6"]
    assert features(other, given).shape == (2, UNITS)


@pytest.mark.parametrize("size", [[9, 5], [12, 12]])
def test_images_of_another_size_are_refused_where_they_are_flattened(tmp_path, size):
    other = resized(saved(lambda: images(pooled=False), tmp_path), set(), size)
    with pytest.raises(UserError) as refused:
        checked(other, arguments(other, 3))
    assert refused.value.where == "data.image_size"
    assert "up to its cut the source takes 6×6" in refused.value.what
