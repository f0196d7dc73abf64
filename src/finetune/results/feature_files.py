"""Features of many examples in a file: `.npz` for NumPy, or shards of `tf.train.Example`.

Written beside its name and renamed when it is whole, so that a killed process leaves nothing that looks like a result.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from finetune.errors import UserError

SUFFIXES = (".npz", ".tfrecord")


class Sink(Protocol):
    """What takes features batch by batch."""

    def add(self, places: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        """Takes the rows of the examples at some places, by tensor."""
        ...


@contextmanager
def open_sink(path: Path, columns: Mapping[str, np.ndarray], shards: int = 1) -> Iterator[Sink]:
    """What writes to a file; the suffix says of which kind.

    Args:
      columns: what is known of the examples beside the features, by name, a row for each.
      shards: the number of TFRecord files; with more than one they are NAME-00000-of-00004.tfrecord.

    Raises:
      UserError: examples give features of different shapes, and it is a `.npz`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        if path.suffix == ".npz":
            arrays = _Arrays(aside, path, len(next(iter(columns.values()))))
            yield arrays
            arrays.write(aside / path.name, columns)
        else:
            records = _Records(aside, path, columns, shards)
            yield records
            records.close()
        for file in sorted(aside.glob(f"{path.stem}*{path.suffix}")):
            os.replace(file, path.parent / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def names(path: Path, shards: int) -> list[Path]:
    """The files that are written."""
    if shards == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{n:05d}-of-{shards:05d}{path.suffix}") for n in range(shards)]


def key(tensor: str) -> str:
    """What the features of a tensor are called in a file.

    >>> key("vgg/fc7:0"), key("vgg/rnn:1")
    ('vgg/fc7', 'vgg/rnn_1')
    """
    return re.sub(r":(\d+)$", r"_\1", tensor.removesuffix(":0"))


class _Arrays:
    """A mapped array for each tensor, which become members of one `.npz`."""

    def __init__(self, folder: Path, path: Path, count: int):
        self._folder, self._path, self._count = folder, path, count
        self._mapped: dict[str, Any] = {}

    def add(self, places: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        for number, (tensor, values) in enumerate(rows.items()):
            if tensor not in self._mapped:
                shape = (self._count, *values.shape[1:])
                file = self._folder / f"{number}.npy"
                self._mapped[tensor] = np.lib.format.open_memmap(file, "w+", values.dtype, shape)
            mapped = self._mapped[tensor]
            if mapped.shape[1:] != values.shape[1:]:
                what = f"{tensor} is {values.shape[1:]} here and {mapped.shape[1:]} before: lengths differ"
                raise UserError("recipe", "--out", what, f"write {self._path.with_suffix('.tfrecord')}")
            mapped[places] = values

    def write(self, path: Path, columns: Mapping[str, np.ndarray]) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for number, (tensor, mapped) in enumerate(self._mapped.items()):
                mapped.flush()
                archive.write(self._folder / f"{number}.npy", f"{key(tensor)}.npy")
            for name, column in columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, column.astype(str) if column.dtype == object else column)


class _Records:
    """Examples in contiguous parts, one for each shard."""

    def __init__(self, folder: Path, path: Path, columns: Mapping[str, np.ndarray], shards: int):
        import tensorflow as tf

        self._columns = columns
        self._count = len(next(iter(columns.values())))
        self._files = [tf.io.TFRecordWriter(str(folder / name.name)) for name in names(path, shards)]

    def add(self, places: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        import tensorflow as tf

        for row, place in enumerate(places.tolist()):
            held = {name: _feature(column[place]) for name, column in self._columns.items()}
            for tensor, values in rows.items():
                held[key(tensor)] = _feature(values[row])
                held[f"{key(tensor)}/shape"] = _feature(np.array(values[row].shape, np.int64))
            example = tf.train.Example(features=tf.train.Features(feature=held))
            self._files[place * len(self._files) // self._count].write(example.SerializeToString())

    def close(self) -> None:
        for file in self._files:
            file.close()


def _feature(value: Any) -> Any:
    import tensorflow as tf

    if isinstance(value, str):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
    flat = np.ravel(value)
    if flat.dtype.kind in "iub":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=flat.astype(np.int64).tolist()))
    return tf.train.Feature(float_list=tf.train.FloatList(value=flat.astype(np.float32)))
