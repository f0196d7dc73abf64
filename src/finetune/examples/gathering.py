"""Batches of rows, each read when it is needed: never more of them is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.augmenting.augment import augment_row
from finetune.augmenting.augment_keys import Augmentation
from finetune.errors import UserError, shortlist
from finetune.examples.fields import Field, Rows, as_rows, lengths
from finetune.examples.images import image_reader
from finetune.examples.padding import Shape, fitted, lengths_to_pad_to, padded
from finetune.recipe import Data
from finetune.surgery.source import Kind

Geometry = Callable[[Sequence[int | None] | None, Sequence[int] | None], tuple[int, tuple[int, int]]]


@dataclass(frozen=True)
class _Input:
    """How the batch of one input is made: by NumPy from row numbers, then by TensorFlow where that is not all."""

    read: Callable[[np.ndarray], np.ndarray]
    dtype: Any  # of what `read` gives
    shape: Shape  # of one row of it
    finish: Callable[[Any], Any] = lambda tensor: tensor
    vary: Callable[[Any, Any], Any] | None = None  # in place of `finish`: (batch, a seed for each of its rows)


def row_loader(
    arrays: Mapping[str, Field],
    inputs: Mapping[str, Kind],
    data: Data,
    geometry: Geometry,
    how: Augmentation | None = None,
) -> Callable[..., dict[str, Any]]:
    """(int64 [n] row numbers) -> the inputs, by field; with int64 [n, 2] seeds too, as they vary the rows.

    Args:
      inputs: field -> (dtype as an enum of types.proto, static shape or None).
      geometry: the channels and the size of encoded images, from an input's shape and `data.image_size`.
      how: what `data.augment` asks for.

    Raises:
      UserError: an input does not take such rows, or none is of a kind that is varied.
    """
    made: dict[str, _Input] = {}
    measured = {counts: field for field, counts in data.lengths.items()}
    for name, (enum, shape) in inputs.items():
        if name not in measured and as_rows(arrays[name]).dtype.kind in "OSU" and tf.as_dtype(enum) != tf.string:
            made[name] = _images(name, arrays[name], enum, shape, data, geometry, how)
        else:
            field = measured.get(name, name)
            _, own = inputs[field]
            rows = fitted(field, arrays[field], None if own is None else tuple(own[1:]))
            if name in measured:
                rows = fitted(name, lengths(rows), None if shape is None else tuple(shape[1:]))
            made[name] = _plain(name, rows, enum, shape, data)
            if how is not None and how.masks and made[name].dtype.is_floating and len(rows.shape) in (2, 3):
                made[name] = replace(made[name], vary=_masked(how))
    varied = [name for name, one in made.items() if one.vary is not None]
    if how is not None and not varied:
        shapes = shortlist([f"{name} {list(one.shape)}" for name, one in made.items()])
        what = f"no input has images, or rows [time, frequency] of floats: {shapes}"
        raise UserError("recipe", "data.augment", what, "leave it out")

    def read(index: np.ndarray) -> list[np.ndarray]:
        return [one.read(index) for one in made.values()]

    def load(index: Any, seeds: Any = None) -> dict[str, Any]:
        # Flattened, for outside of a graph a list of one comes back as what is in it.
        found = tf.nest.flatten(tf.numpy_function(read, [index], [o.dtype for o in made.values()], stateful=False))
        for tensor, one in zip(found, made.values(), strict=True):
            tensor.set_shape([None, *one.shape])
        rows = dict(zip(made, found, strict=True))
        if seeds is None or how is None:
            return {name: one.finish(rows[name]) for name, one in made.items()}
        own = tf.map_fn(lambda seed: tf.random.split(seed, len(varied)), seeds)  # [n, varied, 2]
        finished = {}
        for name, one in made.items():
            vary = one.vary
            finished[name] = one.finish(rows[name]) if vary is None else vary(rows[name], own[:, varied.index(name)])
        return finished

    return load


def _plain(name: str, rows: Rows, enum: int, shape: Sequence[int | None] | None, data: Data) -> _Input:
    dtype = tf.as_dtype(enum)
    if (rows.dtype.kind == "f" and dtype.is_integer) or (rows.dtype.kind not in "OSU" and dtype == tf.string):
        what = f"'{name}' is {rows.dtype}, the input takes {dtype.name}"
        raise UserError("data", f"source.inputs.{name}", what, "convert it")
    convert = _as_bytes if dtype == tf.string else lambda batch: batch.astype(dtype.as_numpy_dtype, copy=False)
    if None not in rows.shape:
        return _Input(lambda index: convert(np.asarray(rows.read(index))), dtype, rows.shape)
    ends = lengths_to_pad_to(name, rows, None if shape is None else tuple(shape[1:]), data.bucket)
    value = data.pad.get(name, "" if dtype == tf.string else 0)
    # One bucket is one shape, which the input may ask for.
    padded_shape = (ends[0] if len(ends) == 1 else None, *rows.shape[1:])
    return _Input(lambda index: convert(padded(rows.read(index), value, ends)), dtype, padded_shape)


def _masked(how: Augmentation) -> Callable[[Any, Any], Any]:
    def vary(batch: Any, seeds: Any) -> Any:
        kind = tf.TensorSpec(batch.shape[1:], batch.dtype)
        return tf.map_fn(lambda row: augment_row(row[0], row[1], how), (batch, seeds), fn_output_signature=kind)

    return vary


def _images(
    name: str,
    field: Field,
    enum: int,
    shape: Sequence[int | None] | None,
    data: Data,
    geometry: Geometry,
    how: Augmentation | None,
) -> _Input:
    """Encoded images, decoded and prepared as those of files are."""
    rows, dtype = as_rows(field), tf.as_dtype(enum)
    if rows.shape not in ((), (1,)) or not isinstance(np.ravel(rows.read(np.zeros(1, np.int64))[0])[0], bytes):
        raise UserError(
            "data", f"source.inputs.{name}", f"'{name}' is text, the input takes {dtype.name}", "convert it"
        )
    channels, size = geometry(shape, data.image_size)

    prepared = image_reader(channels, size, data, how, dtype)
    kind = tf.TensorSpec([*size, channels], dtype)

    def finish(contents: Any) -> Any:
        return tf.map_fn(prepared, contents, fn_output_signature=kind)

    def vary(contents: Any, seeds: Any) -> Any:
        return tf.map_fn(lambda row: prepared(*row), (contents, seeds), fn_output_signature=kind)

    def read(index: np.ndarray) -> np.ndarray:
        return _as_bytes(np.asarray(rows.read(index), object).reshape(-1))

    return _Input(read, tf.string, (), finish, vary if how is not None and how.changes_images else None)


def _as_bytes(batch: np.ndarray) -> np.ndarray:
    made = np.empty(batch.shape, object)
    made.ravel()[:] = [text if isinstance(text, bytes) else str(text).encode() for text in batch.ravel().tolist()]
    return made
