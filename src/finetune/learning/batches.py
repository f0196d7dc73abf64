"""Batches of examples, in an order that is a function of the seed and the position.

Resuming at any step needs no replay and no stored iterator, and costs the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.learning import preprocess
from finetune.learning.data import Examples, refuse_unreadable
from finetune.recipe import Data
from finetune.surgery.source import Kind

Loader = Callable[[Any], Mapping[str, Any]]  # index or indices of examples -> inputs by field
Batch = tuple[Mapping[str, Any], Mapping[str, Any], Any]  # inputs by field, targets by head, indices


def order(step: int, batch_size: int, count: int, seed: int) -> Any:
    """The examples of one step: int64 [batch_size] indices below `count`.

    Position p of the endless stream belongs to epoch p // count; each epoch is a permutation of all examples.
    """
    position = tf.cast(step, tf.int64) * batch_size + tf.range(batch_size, dtype=tf.int64)
    epoch, place = position // count, position % count
    # The raw op, for a batch may hold the end of one epoch and the beginning of the next, and
    # `tf.random.experimental.index_shuffle` pads a matrix of seeds along the wrong axis (TensorFlow 2.21).
    seeds = tf.stack([tf.fill([batch_size], tf.constant(seed, tf.int64)), epoch, tf.zeros_like(epoch)], axis=1)
    last = tf.constant(count - 1, tf.int64)
    # With the usual four rounds neighbours stay neighbours, and a batch of a sorted data set is nearly of one class.
    return tf.raw_ops.RandomIndexShuffle(index=place, seed=seeds, max_index=last, rounds=8)


def training_batches(
    examples: Examples, load: Loader, start: int, stop: int, batch_size: int, seed: int
) -> Iterator[Batch]:
    """(inputs, targets, indices) of steps `start` to `stop`, each with `batch_size` examples."""
    steps = tf.data.Dataset.range(start, stop)
    indices = steps.map(lambda step: order(step, batch_size, len(examples), seed))
    return _batches(examples, load, indices, batch_size)


def evaluation_batches(examples: Examples, load: Loader, batch_size: int, whole: bool) -> Iterator[Batch]:
    """(inputs, targets, indices) of every example once, in order.

    The last batch may be short; where only a whole one will do, it is filled up with the last example.
    """
    count = -(-len(examples) // batch_size) * batch_size if whole else len(examples)
    indices = tf.data.Dataset.range(count).map(lambda i: tf.minimum(i, len(examples) - 1)).batch(batch_size)
    return _batches(examples, load, indices, batch_size)


def first_inputs(examples: Examples, load: Loader, batch_size: int) -> Mapping[str, Any]:
    """The inputs of the first batch of the examples, by field."""
    return next(evaluation_batches(examples, load, batch_size, whole=True))[0]


def probe(examples: Examples, load: Loader, batch_size: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the backbone for the first batch of the examples at some values of the variables."""
    variables = {f"variable/{name}": tf.constant(value) for name, value in values.items()}
    inputs = {f"input/{name}": tensor for name, tensor in first_inputs(examples, load, batch_size).items()}
    return {**variables, **inputs, "seed": (0, 0)}


def _batches(examples: Examples, load: Loader, indices: Any, batch_size: int) -> Iterator[Any]:
    targets = {head: tf.constant(values) for head, values in examples.targets.items()}

    def rows(index: Any) -> Batch:
        return load(index), {head: tf.gather(values, index) for head, values in targets.items()}, index

    if examples.arrays is not None:
        loaded = indices.map(rows, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        one = indices.unbatch().map(rows, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        loaded = one.batch(batch_size)
    return _naming_files(iter(loaded.prefetch(tf.data.AUTOTUNE)), examples, load)


def _naming_files(batches: Iterator[Batch], examples: Examples, load: Loader) -> Iterator[Batch]:
    """The batches; a file that cannot be decoded ends them with an error that names every such file."""
    try:
        yield from batches
    except tf.errors.InvalidArgumentError:
        if examples.arrays is None:
            refuse_unreadable(unreadable(examples, load))
        raise


def make_loader(examples: Examples, inputs: Mapping[str, Kind], data: Data) -> Loader:
    """How the inputs of one example (images) or of a vector of examples (arrays) are made.

    Args:
      inputs: field -> (dtype as an enum of types.proto, static shape or None).

    Raises:
      UserError: the inputs do not take such examples.
    """
    if examples.arrays is not None:
        return _array_loader(examples.arrays, inputs)
    if len(inputs) != 1:
        raise UserError(
            "data", "data.kind", f"images fill one input, the cut needs {sorted(inputs)}", "use data.kind=arrays"
        )
    ((field, (enum, shape)),) = inputs.items()
    channels, size = image_geometry(shape, data.image_size)
    return _image_loader(examples, field, channels, size, data.preprocess, tf.as_dtype(enum))


def _array_loader(arrays: Mapping[str, np.ndarray], inputs: Mapping[str, Kind]) -> Loader:
    rows = {}
    for name, (enum, shape) in inputs.items():
        array, dtype = arrays[name], tf.as_dtype(enum)
        if shape is not None and not _fits(array.shape[1:], shape[1:]):
            what = f"'{name}' has rows of {list(array.shape[1:])}, the input takes {list(shape[1:])}"
            raise UserError("data", f"source.inputs.{name}", what, "reshape the array")
        if array.dtype.kind == "f" and dtype.is_integer:
            raise UserError(
                "data",
                f"source.inputs.{name}",
                f"'{name}' is {array.dtype}, the input takes {dtype.name}",
                "convert it",
            )
        rows[name] = tf.constant(array if dtype == tf.string else array.astype(dtype.as_numpy_dtype))
    return lambda index: {name: tf.gather(array, index) for name, array in rows.items()}


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(w is None or w == s for s, w in zip(shape, wanted, strict=True))


def _image_loader(
    examples: Examples, field: str, channels: int, size: tuple[int, int], preset: str, dtype: Any
) -> Loader:
    files = tf.constant(list(examples.sources))

    def load(index: Any) -> Mapping[str, Any]:
        image = preprocess.decode(tf.io.read_file(files[index]), channels)
        return {field: preprocess.prepare(image, size, preset, dtype)}

    return load


def pictures(examples: Examples, indices: Sequence[int], size: tuple[int, int] = (112, 112)) -> np.ndarray:
    """Some of the images for people to look at: uint8 [images, height, width, 3], or none for arrays."""
    if examples.arrays is not None:
        return np.zeros((0, *size, 3), np.uint8)
    found = []
    for i in indices:
        image = preprocess.decode(tf.io.read_file(examples.sources[i]), 3)
        # Small images keep their pixels: an interpolated one hides what the model has to work with.
        resized = tf.image.resize(image, size, tf.image.ResizeMethod.NEAREST_NEIGHBOR)
        found.append(resized.numpy())
    return np.stack(found) if found else np.zeros((0, *size, 3), np.uint8)


def image_geometry(shape: Sequence[int | None] | None, given: Sequence[int] | None) -> tuple[int, tuple[int, int]]:
    """(channels, (height, width)) of the images that an input takes.

    Args:
      shape: the input's static shape; None if unknown.
      given: `data.image_size`, where the recipe has one.

    Raises:
      UserError: the input takes no images, or does not say of what size.

    >>> image_geometry((None, 224, 224, 3), None)
    (3, (224, 224))
    """
    if shape is not None and len(shape) != 4:
        raise UserError(
            "data",
            "data.kind",
            f"the input takes {len(shape)}-dimensional batches, images have 4",
            "use data.kind=arrays",
        )
    _, height, width, channels = shape if shape is not None else (None, None, None, None)
    if given is not None:
        if (height, width) not in ((None, None), tuple(given)):
            what = f"{list(given)}, but the input takes {height}×{width}"
            raise UserError("recipe", "data.image_size", what, "leave it out")
        height, width = given
    if height is None or width is None:
        raise UserError(
            "recipe", "data.image_size", "the input takes images of any size", "add data.image_size=[224,224]"
        )
    return channels or 3, (height, width)


def unreadable(examples: Examples, load: Loader) -> list[str]:
    """The files that cannot be decoded, each tried by itself."""
    bad = []
    for index, source in enumerate(examples.sources):
        try:
            load(tf.constant(index, tf.int64))
        except tf.errors.OpError as error:
            bad.append(f"{source} ({str(error.message).splitlines()[0].split('}}')[-1].strip()[:80]})")
    return bad
