"""The weights of a checkpoint: whether they are all there, and their values.

A V2 checkpoint is an index, `prefix.index`, and the values in `prefix.data-?????-of-?????`. A V1 checkpoint has both
in one file, or in several named `prefix-?????-of-?????`. Where there is none, the file of the graph may hold the
values as constants; its path is then the prefix.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.files import check_readable, first_bytes
from finetune.graph import Graph, attr, read_constant
from finetune.reading import constants, index
from finetune.reading.index import Entry, Slice, is_v2, shard_count, v1_files
from finetune.reading.slices import index_of
from finetune.surgery import trust

__all__ = ["Entry", "Slice", "check_data", "files_of", "read_index", "read_tensors", "restore"]

Piece = tuple[str, str, int]  # name, the Saver's text for a slice or "", dtype


def read_index(prefix: str) -> dict[str, Entry]:
    """What a checkpoint, or the file of a graph in the place of one, says that it holds, by name.

    Raises:
      UserError: there is no checkpoint, it is something else, or it is damaged.
    """
    if not constants.lie_in(prefix):
        return index.read_index(prefix)
    found = {}
    for name, node in _constants(prefix).items():
        tensor = attr(node, "value").tensor
        found[name] = Entry(tensor.dtype, tuple(d.size for d in tensor.tensor_shape.dim), 0, 0, 0)
    return found


def _constants(prefix: str) -> dict[str, Any]:
    """The constants with the weights, looked at as those that reach TensorFlow are."""
    found = constants.read(prefix)
    trust.check_constants(Graph({node.name: node for node in found.values()}))
    return found


def check_data(prefix: str, entries: Mapping[str, Entry], names: Iterable[str]) -> None:
    """Refuses a V2 checkpoint if a data file that some tensors are in is missing, or shorter than the index says.

    A file that was cut off is refused even if what is left would do: nobody meant it to be so.

    Raises:
      UserError: the message names the file.
    """
    if not is_v2(prefix):
        return  # the values are in the file of the index, or of the graph
    sizes: dict[int, int] = defaultdict(int)
    for entry in entries.values():
        for place in entry.slices or (entry,):
            sizes[place.shard] = max(sizes[place.shard], place.offset + place.size)
    count = shard_count(prefix)
    for shard in sorted({place.shard for name in names for place in entries[name].slices or (entries[name],)}):
        _check_shard(prefix, _data_file(prefix, shard, count), sizes[shard])


def files_of(prefix: str, entries: Mapping[str, Entry], names: Iterable[str]) -> list[str]:
    """The names of the files of a V2 checkpoint that have to be read for some of its tensors, the index first."""
    shards = {place.shard for name in names for place in entries[name].slices or (entries[name],)}
    files = [prefix + ".index", *(_data_file(prefix, shard, shard_count(prefix)) for shard in sorted(shards))]
    return [os.path.basename(file) for file in files]


def _data_file(prefix: str, shard: int, count: int) -> str:
    return f"{prefix}.data-{shard:05d}-of-{count:05d}"


def read_tensors(prefix: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The values of some of the tensors, by TensorFlow's own reader, which verifies their checksums.

    To be called eagerly, not while a graph is being built. Constants are read without it.

    Raises:
      UserError: the checkpoint lacks a tensor, or a tensor cannot be read; the message names it.
    """
    if constants.lie_in(prefix):
        return _values_of_constants(prefix, list(names))
    names, entries = list(names), read_index(prefix)
    unknown = [name for name in names if name not in entries]
    if unknown:
        raise UserError("source", prefix, f"holds no {shortlist(unknown)}", f"it holds {shortlist(list(entries), 5)}")
    check_data(prefix, entries, names)
    with _for_tensorflow(prefix) as path:
        return _restore(prefix, path, {name: entries[name] for name in names})


def _values_of_constants(prefix: str, names: list[str]) -> dict[str, np.ndarray]:
    found = {}
    nodes = _constants(prefix)
    for name in names:
        value = read_constant(nodes[name]) if name in nodes else None
        if value is None:
            raise UserError(
                "source", prefix, f"the constant with the values of '{name}' cannot be read", "copy it again"
            )
        found[name] = value
    return found


def _check_shard(prefix: str, path: str, size: int) -> None:
    """Refuses a data file that is missing or shorter than `size`."""
    if not os.path.lexists(path):
        beside = [os.path.basename(found) for found in sorted(glob.glob(glob.escape(prefix) + ".data-*"))]
        others = f"there is {shortlist(beside)}" if beside else "there is no other"
        raise UserError("source", path, f"this part of the checkpoint is missing; {others}", "copy it too")
    first_bytes(path, "a part of a checkpoint")
    found = os.path.getsize(path)
    if found < size:
        if found:
            # Values may begin with any bytes: what else it could be is asked only of a file that is too short.
            check_readable(path, "a part of a checkpoint")
        raise UserError("source", path, f"expected {size} bytes, found {found}", "copy or download it again")


@contextmanager
def _for_tensorflow(prefix: str) -> Iterator[str]:
    """The prefix as TensorFlow's reader takes it, which is as a pattern: `[x]` in a folder's name would match `x`."""
    files = glob.glob(glob.escape(prefix) + ".*") if is_v2(prefix) else v1_files(prefix)
    ending = "" if is_v2(prefix) or files == [prefix] else "-?????-of-?????"
    if not set("*?[\\") & set(prefix):
        yield prefix + ending
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = os.path.join(folder, "weights")
        for path in files:
            os.symlink(os.path.abspath(path), plain + path.removeprefix(prefix))
        yield plain + ending


def _restore(prefix: str, path: str, wanted: Mapping[str, Entry]) -> dict[str, np.ndarray]:
    """The values of tensors that the index has; those that cannot be read are found by reading each alone."""
    import tensorflow as tf  # takes seconds, and the index does not need it

    def values(some: Mapping[str, Entry]) -> dict[str, np.ndarray] | tf.errors.OpError:
        try:
            with tf.device("CPU:0"):  # values need no room on a GPU
                return _values(path, some)
        except tf.errors.OpError as error:
            return error

    found = values(wanted)
    if isinstance(found, dict):
        return found
    alone = {name: values({name: entry}) for name, entry in wanted.items()}
    damaged = {name: error for name, error in alone.items() if not isinstance(error, dict)}
    if not damaged:  # the disk failed once
        return {name: value for each in alone.values() if isinstance(each, dict) for name, value in each.items()}
    name, error = next(iter(damaged.items()))
    where, place = _place_of(prefix, wanted[name])
    check_readable(where, "a part of a checkpoint")  # an archive or a web page may be larger than what it stands for
    reason = "their checksum does not match" if "hecksum" in error.message else type(error).__name__
    what = f"the values of '{name}'{place} cannot be read: {reason}"
    if len(damaged) == 1:
        raise UserError("source", where, what, "copy or download it again")
    what += f"; nor can those of {len(damaged) - 1} others of {len(wanted)}"
    raise UserError("source", where, what, "are its files those of one checkpoint? copy or download all of them again")


def _place_of(prefix: str, entry: Entry) -> tuple[str, str]:
    """The file in which a tensor lies, as far as the index says, and the words for its bytes."""
    if not is_v2(prefix):
        return v1_files(prefix)[entry.shard], ""
    place = entry.slices[0] if entry.slices else entry
    end = place.offset + place.size
    return _data_file(prefix, place.shard, shard_count(prefix)), f" (bytes {place.offset} to {end})"


def _values(path: str, wanted: Mapping[str, Entry]) -> dict[str, np.ndarray]:
    """One op reads all, partitioned variables piece by piece: TensorFlow joins pieces of the commonest types only."""
    asked = []
    for name, entry in wanted.items():
        shape = " ".join(map(str, entry.shape))
        specs = [f"{shape} {piece.spec}" for piece in entry.slices] or [""]
        asked += [(name, spec, entry.dtype) for spec in specs]
    found = iter(_restored(path, asked))
    return {name: _joined(entry, [next(found) for _ in entry.slices or [""]]) for name, entry in wanted.items()}


def restore(prefix: str, pieces: Sequence[Piece]) -> list[np.ndarray]:
    """Tensors and pieces of tensors as a Saver restores them: TensorFlow finds and joins what they are stored in.

    Raises:
      tf.errors.OpError: one of them cannot be read, or it has to be joined and is of a rare type.
    """
    if constants.lie_in(prefix):
        return list(_values_of_constants(prefix, [name for name, _, _ in pieces]).values())
    import tensorflow as tf

    with _for_tensorflow(prefix) as path, tf.device("CPU:0"):
        return _restored(path, pieces)


def _restored(path: str, pieces: Sequence[Piece]) -> list[np.ndarray]:
    import tensorflow as tf

    if not pieces:
        return []
    names, specs, types = zip(*pieces, strict=True)
    found = tf.raw_ops.RestoreV2(prefix=path, tensor_names=names, shape_and_slices=specs, dtypes=types)
    return [_array(tensor.numpy()) for tensor in found]


def _array(value: Any) -> np.ndarray:
    # A scalar comes without an array, a string as bytes; NumPy's own strings would lose zeros at the end.
    return np.asarray(value, dtype=object if isinstance(value, bytes) else None)


def _joined(entry: Entry, pieces: list[Any]) -> np.ndarray:
    """The tensor that the pieces make up."""
    if not entry.slices:
        return pieces[0]
    whole = np.empty(entry.shape, pieces[0].dtype)
    for piece, values in zip(entry.slices, pieces, strict=True):
        whole[index_of(piece.spec)] = values
    return whole
