"""Batches of examples, in an order that is a function of the seed and the position.

Resuming at any step needs no replay and no stored iterator, and costs the same everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.augmenting.augment import example_seed
from finetune.augmenting.augment_keys import settle
from finetune.augmenting.mixing import Mixing, batch_seed, mix
from finetune.errors import UserError
from finetune.examples import preprocess
from finetune.examples.data import Examples
from finetune.examples.folders import refuse_unreadable
from finetune.examples.gathering import row_loader
from finetune.examples.images import image_reader
from finetune.recipe import Data
from finetune.surgery.source import Kind

# Index (images) or indices (arrays) of examples -> inputs by field; with a seed for each, as the seeds vary them.
Loader = Callable[..., Mapping[str, Any]]
Batch = tuple[Mapping[str, Any], Mapping[str, Any], Any]  # inputs by field, targets by head, indices

WHOLE = (0, 1)  # the share of a batch that one worker reads who is alone

_AHEAD = 2  # batches that are prepared while one is computed
_TOGETHER = 16  # steps whose examples are chosen at once


def order(step: int, batch_size: int, count: int, seed: int) -> Any:
    """The examples of one step: int64 [batch_size] indices below `count`.

    Position p of the endless stream belongs to epoch p // count; each epoch is a permutation of all examples.
    """
    return _ordered(_positions(step, batch_size), count, seed)[0]


def _positions(step: Any, batch_size: int, steps: Any = 1, share: tuple[int, int] = WHOLE) -> Any:
    """The places in the endless stream that some steps take, or a worker's share of each; they are counted from 0."""
    number, of = share
    size = batch_size // of
    first = (tf.cast(step, tf.int64) + tf.range(tf.cast(steps, tf.int64))) * batch_size + number * size
    return tf.reshape(first[:, None] + tf.range(size, dtype=tf.int64), [-1])


def _ordered(position: Any, count: int, seed: int) -> tuple[Any, Any]:
    epoch, place = position // count, position % count
    return _shuffled(place, seed, epoch, tf.zeros_like(epoch), tf.constant(count - 1, tf.int64)), epoch


def balanced_order(step: int, batch_size: int, members: Sequence[np.ndarray], seed: int) -> Any:
    """The examples of one step where all classes are seen equally often, however many examples they have.

    Each stretch of the endless stream that is as long as there are classes has every class once, in an order of its
    own. The examples of a class come as those of a whole data set do: in permutations, one after the other.

    Args:
      members: the indices of the examples of each class, none of them empty.
    """
    return _balanced(_positions(step, batch_size), members, seed)[0]


def _balanced(position: Any, members: Sequence[np.ndarray], seed: int) -> tuple[Any, Any]:
    classes = len(members)
    turn, place = position // classes, position % classes
    chosen = _shuffled(place, seed, turn, -tf.ones_like(turn), tf.constant(classes - 1, tf.int64))
    counts = tf.gather(tf.constant([len(m) for m in members], tf.int64), chosen)
    epoch = turn // counts  # of the class
    own = _shuffled(turn % counts, seed, epoch, chosen, counts - 1)
    starts = tf.constant(np.cumsum([0, *map(len, members)])[:-1], tf.int64)
    return tf.gather(tf.constant(np.concatenate(members), tf.int64), tf.gather(starts, chosen) + own), epoch


def _shuffled(place: Any, seed: int, epoch: Any, of: Any, last: Any) -> Any:
    """Where each place is in the permutation of 0 to `last` that belongs to its seed, its epoch and what it is of."""
    # The raw op, for a batch may hold the end of one epoch and the beginning of the next, and
    # `tf.random.experimental.index_shuffle` pads a matrix of seeds along the wrong axis (TensorFlow 2.21).
    seeds = tf.stack([tf.fill(tf.shape(place), tf.constant(seed, tf.int64)), epoch, of], axis=1)
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
    varied: bool = False,
    mixing: Mixing | None = None,
    views: int | None = None,
    ends: Sequence[int] | None = None,
    share: tuple[int, int] = WHOLE,
) -> Iterator[Batch]:
    """(inputs, targets, indices) of steps `start` to `stop`, each with `batch_size` examples.

    Args:
      share: which part of each batch is wanted, and of how many equal ones.
      members: the indices of each class, where classes are balanced.
      varied: whether the loader gets a seed for each example and epoch.
      mixing: how the examples of a batch are mixed; targets of one class become distributions then.
      views: after so many epochs the seeds are those of the first one again. A loader that varies nothing gets the
        place of each example among all views, those of one view behind each other.
      ends: the steps at which batches end that have the examples of several steps behind each other, of rows only and
        not mixed; None for a batch a step.
    """

    read = WHOLE if mixing is not None else share  # what is mixed with what must not depend on who reads it
    size = batch_size // read[1]

    def places(step: Any, last: Any) -> Any:
        position = _positions(step, batch_size, last - step, read)
        if members is None:
            indices, epochs = _ordered(position, len(examples), seed)
        else:
            indices, epochs = _balanced(position, members, seed)
        epochs = epochs if views is None else epochs % views
        if not varied:
            return (indices,) if views is None else (indices, epochs * len(examples) + indices)
        return indices, _seeds(seed, epochs, indices)

    def places_of_each(steps: Any) -> Any:
        found = places(steps[0], steps[-1] + 1)
        return tuple(tf.reshape(rows, [-1, size, *rows.shape[1:]]) for rows in found)

    steps = tf.data.Dataset.range(start, stop)
    if ends is None:  # many at once, for each takes a score of small ops
        chosen = steps.batch(_TOGETHER).map(places_of_each).unbatch()
    else:
        firsts = np.array([start, *ends[:-1]], np.int64)[: len(ends)]
        chosen = tf.data.Dataset.from_tensor_slices((firsts, np.array(ends, np.int64))).map(places)
    loaded = _loaded(examples, load, chosen, size)
    if mixing is not None:
        number, each = share[0], batch_size // share[1]

        def mixed(batch: Batch, step: Any) -> Batch:
            made = (*mix(batch[0], batch[1], batch_seed(seed, step), mixing), batch[2])
            return tf.nest.map_structure(lambda rows: rows[number * each : (number + 1) * each], made)

        loaded = tf.data.Dataset.zip((loaded, steps)).map(mixed, num_parallel_calls=_AHEAD)
    return _naming_files(loaded, examples, load)


def evaluation_batches(examples: Examples, load: Loader, batch_size: int, whole: bool) -> Iterator[Batch]:
    """(inputs, targets, indices) of every example once, in order.

    The last batch may be short; where only a whole one will do, it is filled up with the last example.
    """
    return _naming_files(evaluation_data(examples, load, batch_size, whole), examples, load)


def evaluation_data(examples: Examples, load: Loader, batch_size: int, whole: bool) -> Any:
    """The same as a `tf.data.Dataset`."""
    count = -(-len(examples) // batch_size) * batch_size if whole else len(examples)
    indices = tf.data.Dataset.range(count).map(lambda i: (tf.minimum(i, len(examples) - 1),)).batch(batch_size)
    return _loaded(examples, load, indices, batch_size)


def chosen_batches(
    examples: Examples,
    load: Loader,
    places: Callable[[], Iterator[np.ndarray]],
    count: int,
    batch_size: int,
    seed: int | None = None,
) -> Iterator[Batch]:
    """(inputs, targets, indices) of batches of any examples; a place beyond the last one is that of the last one.

    Args:
      places: gives int64 [batch_size] for each batch, the last one may be short: below `count`, those of one view
        behind each other.
      seed: of the run, where examples are varied, each view in its own way.
    """
    kind = tf.TensorSpec([None], tf.int64)

    def rows(given: Any) -> Any:
        place = tf.minimum(given, count - 1)
        view, index = place // len(examples), place % len(examples)
        return (index,) if seed is None else (index, _seeds(seed, view, index))

    chosen = tf.data.Dataset.from_generator(places, output_signature=kind).map(rows)
    return _naming_files(_loaded(examples, load, chosen, batch_size), examples, load)


def _seeds(seed: int, epochs: Any, indices: Any) -> Any:
    one = tf.TensorSpec([2], tf.int64)
    return tf.map_fn(lambda place: example_seed(seed, *place), (epochs, indices), fn_output_signature=one)


def row_shapes(examples: Examples, load: Loader) -> dict[str, tuple[int | None, ...]]:
    """The shape of one example of each input, by field, as far as all have the same."""
    one = evaluation_data(examples, load, 1, whole=False)
    inputs, _, _ = one.element_spec
    return {name: tuple(spec.shape.as_list()[1:]) for name, spec in inputs.items()}


def first_inputs(examples: Examples, load: Loader, batch_size: int) -> Mapping[str, Any]:
    """The inputs of the first batch of the examples, by field."""
    return next(evaluation_batches(examples, load, batch_size, whole=True))[0]


def probe(examples: Examples, load: Loader, batch_size: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the backbone for the first batch of the examples at some values of the variables."""
    variables = {f"variable/{name}": tf.constant(value) for name, value in values.items()}
    inputs = {f"input/{name}": tensor for name, tensor in first_inputs(examples, load, batch_size).items()}
    return {**variables, **inputs, "seed": (0, 0)}


def _loaded(examples: Examples, load: Loader, places: Any, batch_size: int) -> Any:
    """The batches at some places: indices, and seeds where examples are varied."""
    rows = _rows(examples, load)
    if examples.arrays is not None:
        return places.map(rows, num_parallel_calls=_AHEAD)
    one = places.unbatch().map(rows, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
    return one.batch(batch_size)


def prepared_ahead(batches: Any) -> Any:
    """A data set whose next batches are prepared while one is computed.

    Without tf.data's autotuning: at the end of its data a pipeline waits for the tuner, which sleeps for twice as long
    each time. A pass that takes eleven seconds would take twenty.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(_AHEAD).with_options(options)


def _rows(examples: Examples, load: Loader) -> Callable[..., Batch]:
    targets = {head: tf.constant(values) for head, values in examples.targets.items()}

    def rows(index: Any, *seed: Any) -> Batch:
        return load(index, *seed), {head: tf.gather(values, index) for head, values in targets.items()}, index

    return rows


def _naming_files(batches: Any, examples: Examples, load: Loader) -> Iterator[Batch]:
    """The batches of a data set; a file that cannot be decoded ends them with an error that names every such file."""
    try:
        yield from iter(prepared_ahead(batches))
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        if examples.arrays is None:
            refuse_unreadable(unreadable(examples, load))
            raise
        if found := re.search(r"Error: (\[Errno -?\d+\] .*)", str(error.message)):  # a disk or a network, not the data
            what = f"the rows of a batch cannot be read ({found[1][:300]})"
            raise UserError("storage", "data.path", what, "see to it, then give the same command again") from error
        said = str(error.message).strip().splitlines()
        what = f"the rows of a batch cannot be read ({said[0].split('}}')[-1].strip()[:200]})"
        raise UserError("data", "data.path", what, "look at all of them with --check-data") from error


def make_loader(examples: Examples, inputs: Mapping[str, Kind], data: Data) -> Loader:
    """How the inputs of one example (images) or of a vector of examples (arrays) are made, and varied if asked for.

    Args:
      inputs: field -> (dtype as an enum of types.proto, static shape or None).

    Raises:
      UserError: the inputs do not take such examples.
    """
    how = settle(data.augment, data.kind)
    if examples.arrays is not None:
        return row_loader(examples.arrays, inputs, data, image_geometry, how)
    if len(inputs) != 1:
        raise UserError(
            "data", "data.kind", f"images fill one input, the cut needs {sorted(inputs)}", "use data.kind=arrays"
        )
    ((field, (enum, shape)),) = inputs.items()
    channels, size = image_geometry(shape, data.image_size)
    files = tf.constant(list(examples.sources))
    read = image_reader(channels, size, data, how, tf.as_dtype(enum))
    return lambda index, *seed: {field: read(tf.io.read_file(files[index]), *seed)}


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


def seen_in_training(
    examples: Examples,
    inputs: Mapping[str, Kind],
    data: Data,
    batch_size: int,
    seed: int,
    members: Sequence[np.ndarray] | None,
    mixing: Mixing | None,
) -> np.ndarray:
    """The first batch's images as the model gets them, but for the preprocessing: uint8 [images, height, width, 3].

    There are none for arrays.
    """
    if examples.arrays is not None:
        return np.zeros((0, 1, 1, 3), np.uint8)
    load = make_loader(examples, inputs, replace(data, preprocess="none"))
    varied = settle(data.augment, data.kind) is not None
    fields, _, _ = next(training_batches(examples, load, 0, 1, batch_size, seed, members, varied, mixing))
    (images,) = fields.values()
    whole = np.clip(np.round(images.numpy()), 0, 255).astype(np.uint8)
    return np.repeat(whole, 3, axis=-1) if whole.shape[-1] == 1 else whole[..., :3]


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
