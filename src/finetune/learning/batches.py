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
from finetune.learning.data import Examples
from finetune.learning.folders import refuse_unreadable
from finetune.learning.gathering import row_loader
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
    return _shuffled(place, seed, epoch, tf.zeros_like(epoch), tf.constant(count - 1, tf.int64))


def balanced_order(step: int, batch_size: int, members: Sequence[np.ndarray], seed: int) -> Any:
    """The examples of one step where all classes are seen equally often, however many examples they have.

    Each stretch of the endless stream that is as long as there are classes has every class once, in an order of its
    own. The examples of a class come as those of a whole data set do: in permutations, one after the other.

    Args:
      members: the indices of the examples of each class, none of them empty.
    """
    classes = len(members)
    position = tf.cast(step, tf.int64) * batch_size + tf.range(batch_size, dtype=tf.int64)
    turn, place = position // classes, position % classes
    chosen = _shuffled(place, seed, turn, -tf.ones_like(turn), tf.constant(classes - 1, tf.int64))
    counts = tf.gather(tf.constant([len(m) for m in members], tf.int64), chosen)
    own = _shuffled(turn % counts, seed, turn // counts, chosen, counts - 1)
    starts = tf.constant(np.cumsum([0, *map(len, members)])[:-1], tf.int64)
    return tf.gather(tf.constant(np.concatenate(members), tf.int64), tf.gather(starts, chosen) + own)


def _shuffled(place: Any, seed: int, epoch: Any, of: Any, last: Any) -> Any:
    """Where each place is in the permutation of 0 to `last` that belongs to its seed, its epoch and what it is of."""
    # The raw op, for a batch may hold the end of one epoch and the beginning of the next, and
    # `tf.random.experimental.index_shuffle` pads a matrix of seeds along the wrong axis (TensorFlow 2.21).
    seeds = tf.stack([tf.fill(place.shape, tf.constant(seed, tf.int64)), epoch, of], axis=1)
    # With the usual four rounds neighbours stay neighbours, and a batch of a sorted data set is nearly of one class.
    return tf.raw_ops.RandomIndexShuffle(index=place, seed=seeds, max_index=last, rounds=8)


def training_batches(
    examples: Examples,
    load: Loader,
    start: int,
    stop: int,
    batch_size: int,
    seed: int,
    members: Sequence[np.ndarray] | None = None,
) -> Iterator[Batch]:
    """(inputs, targets, indices) of steps `start` to `stop`, each with `batch_size` examples.

    With `members`, the indices of each class, the classes are balanced.
    """
    steps = tf.data.Dataset.range(start, stop)
    if members is None:
        indices = steps.map(lambda step: order(step, batch_size, len(examples), seed))
    else:
        indices = steps.map(lambda step: balanced_order(step, batch_size, members, seed))
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
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        if examples.arrays is None:
            refuse_unreadable(unreadable(examples, load))
            raise
        said = str(error.message).strip().splitlines()
        what = f"the rows of a batch cannot be read ({said[0].split('}}')[-1].strip()[:200]})"
        raise UserError("data", "data.path", what, "look at all of them with --check-data") from error


def make_loader(examples: Examples, inputs: Mapping[str, Kind], data: Data) -> Loader:
    """How the inputs of one example (images) or of a vector of examples (arrays) are made.

    Args:
      inputs: field -> (dtype as an enum of types.proto, static shape or None).

    Raises:
      UserError: the inputs do not take such examples.
    """
    if examples.arrays is not None:
        return row_loader(examples.arrays, inputs, data, image_geometry)
    if len(inputs) != 1:
        raise UserError(
            "data", "data.kind", f"images fill one input, the cut needs {sorted(inputs)}", "use data.kind=arrays"
        )
    ((field, (enum, shape)),) = inputs.items()
    channels, size = image_geometry(shape, data.image_size)
    return _image_loader(examples, field, channels, size, data.preprocess, tf.as_dtype(enum))


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
            bad.append(f"{source} ({preprocess.reason(error)})")
    return bad
