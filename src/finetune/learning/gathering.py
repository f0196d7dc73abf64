"""Batches of rows, each read when it is needed: never more of them is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.learning import preprocess
from finetune.learning.fields import Field, Rows, as_rows, lengths
from finetune.learning.padding import Shape, fitted, lengths_to_pad_to, padded
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


def row_loader(
    arrays: Mapping[str, Field], inputs: Mapping[str, Kind], data: Data, geometry: Geometry
) -> Callable[[Any], dict[str, Any]]:
    """(int64 [n] row numbers) -> the inputs, by field.

    Args:
      inputs: field -> (dtype as an enum of types.proto, static shape or None).
      geometry: the channels and the size of encoded images, from an input's shape and `data.image_size`.

    Raises:
      UserError: an input does not take such rows.
    """
    made: dict[str, _Input] = {}
    measured = {counts: field for field, counts in data.lengths.items()}
    for name, (enum, shape) in inputs.items():
        if name not in measured and as_rows(arrays[name]).dtype.kind in "OSU" and tf.as_dtype(enum) != tf.string:
            made[name] = _images(name, arrays[name], enum, shape, data, geometry)
        else:
            field = measured.get(name, name)
            _, own = inputs[field]
            rows = fitted(field, arrays[field], None if own is None else tuple(own[1:]))
            if name in measured:
                rows = fitted(name, lengths(rows), None if shape is None else tuple(shape[1:]))
            made[name] = _plain(name, rows, enum, shape, data)

    def read(index: np.ndarray) -> list[np.ndarray]:
        return [one.read(index) for one in made.values()]

    def load(index: Any) -> dict[str, Any]:
        # Flattened, for outside of a graph a list of one comes back as what is in it.
        found = tf.nest.flatten(tf.numpy_function(read, [index], [o.dtype for o in made.values()], stateful=False))
        for tensor, one in zip(found, made.values(), strict=True):
            tensor.set_shape([None, *one.shape])
        return {name: one.finish(tensor) for (name, one), tensor in zip(made.items(), found, strict=True)}

    return load


def _plain(name: str, rows: Rows, enum: int, shape: Sequence[int | None] | None, data: Data) -> _Input:
    dtype = tf.as_dtype(enum)
    if (rows.dtype.kind == "f" and dtype.is_integer) or (rows.dtype.kind not in "OSU" and dtype == tf.string):
        what = f"'{name}' is {rows.dtype}, the input takes {dtype.name}"
        raise UserError("data", f"source.inputs.{name}", what, "convert it")
    convert = _as_bytes if dtype == tf.string else lambda batch: batch.astype(dtype.as_numpy_dtype)
    if None not in rows.shape:
        return _Input(lambda index: convert(np.asarray(rows.read(index))), dtype, rows.shape)
    ends = lengths_to_pad_to(name, rows, None if shape is None else tuple(shape[1:]), data.bucket)
    value = data.pad.get(name, "" if dtype == tf.string else 0)
    # One bucket is one shape, which the input may ask for.
    padded_shape = (ends[0] if len(ends) == 1 else None, *rows.shape[1:])
    return _Input(lambda index: convert(padded(rows.read(index), value, ends)), dtype, padded_shape)


def _images(
    name: str, field: Field, enum: int, shape: Sequence[int | None] | None, data: Data, geometry: Geometry
) -> _Input:
    """Encoded images, decoded and prepared as those of files are."""
    rows, dtype = as_rows(field), tf.as_dtype(enum)
    if rows.shape not in ((), (1,)) or not isinstance(np.ravel(rows.read(np.zeros(1, np.int64))[0])[0], bytes):
        raise UserError(
            "data", f"source.inputs.{name}", f"'{name}' is text, the input takes {dtype.name}", "convert it"
        )
    channels, size = geometry(shape, data.image_size)

    def prepared(content: Any) -> Any:
        return preprocess.prepare(preprocess.decode(content, channels), size, data.preprocess, dtype)

    def finish(contents: Any) -> Any:
        return tf.map_fn(prepared, contents, fn_output_signature=tf.TensorSpec([*size, channels], dtype))

    return _Input(lambda index: _as_bytes(np.asarray(rows.read(index), object).reshape(-1)), tf.string, (), finish)


def _as_bytes(batch: np.ndarray) -> np.ndarray:
    made = np.empty(batch.shape, object)
    made.ravel()[:] = [text if isinstance(text, bytes) else str(text).encode() for text in batch.ravel().tolist()]
    return made
