"""What a checkpoint says that it holds: names, types, shapes and places, read without TensorFlow.

Formats: tensorflow/core/protobuf/tensor_bundle.proto (V2), tensorflow/core/util/saved_tensor_slice.proto (V1).
"""

from __future__ import annotations

import glob
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from finetune.errors import UserError, shortlist
from finetune.files import check_readable
from finetune.protos import BundleEntryProto, BundleHeaderProto, DataType, SavedTensorSlices
from finetune.reading import slices, table

_KINDS = frozenset(kind for kind in DataType.values() if 0 < kind < 100)  # from 100 on they are references
# Bytes of one value, by DataType; strings, resources and variants have no fixed size. The types from float8 (24) on
# take one byte each, four-bit and two-bit ones too.
_WIDTHS = {1: 4, 2: 8, 3: 4, 4: 1, 5: 2, 6: 1, 8: 8, 9: 8, 10: 1, 11: 1, 12: 1, 13: 4, 14: 2, 15: 2, 16: 2, 17: 2}
_WIDTHS |= {18: 16, 19: 2, 22: 4, 23: 8} | {kind: 1 for kind in _KINDS if kind >= 24}

_MAX_RANK = 254  # the most that TensorFlow can represent
_MAX_SHARDS = 99_999  # a file's name has five digits for it
_VERSION = 1  # of both formats, since they exist


@dataclass(frozen=True)
class Slice:
    """One stored piece of a partitioned variable: what it covers, and where its bytes lie.

    `spec` is in the words of Saver, one part per dimension, `start,length` or `-` for all of it: `0,20:-`.
    """

    spec: str
    shard: int
    offset: int
    size: int


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: what it is, and where its bytes lie.

    A partitioned variable is one entry of the full shape; its bytes lie where `slices` say, `size` is their sum.
    A V1 checkpoint does not say where bytes lie: offsets and sizes are 0.
    """

    dtype: int  # DataType of tensorflow/core/framework/types.proto
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    slices: tuple[Slice, ...] = ()


def read_index(prefix: str) -> dict[str, Entry]:
    """What a checkpoint says that it holds, by name, in the order of the names.

    Raises:
      UserError: there is no checkpoint, it is something else, or it is damaged.
    """
    return _read_v2(prefix + ".index") if is_v2(prefix) else _read_v1(prefix)


def shard_count(prefix: str) -> int:
    """In how many data files a V2 checkpoint keeps its values.

    Raises:
      UserError: the index is missing or damaged.
    """
    with _corruption_of(prefix + ".index"):
        return _shard_count(next(_records(prefix + ".index"), None))


def is_v2(prefix: str) -> bool:
    """Whether the checkpoint has an index beside its values, by the rule that TensorFlow goes by too."""
    return os.path.lexists(prefix + ".index")


def v1_files(prefix: str) -> list[str]:
    """The one file of a V1 checkpoint, or the several.

    Raises:
      UserError: there are none, or not all of them.
    """
    if os.path.lexists(prefix):
        return [prefix]
    found = sorted(glob.glob(glob.escape(prefix) + "-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]"))
    if not found:
        raise UserError("source", prefix, f"there is neither {prefix}.index nor {prefix}", "give a checkpoint's prefix")
    expected = [f"{prefix}-{shard:05d}-of-{found[0][-5:]}" for shard in range(int(found[0][-5:]))]
    names = shortlist([os.path.basename(path) for path in found])
    for path in expected:
        if path not in found:
            raise UserError("source", path, f"this part of the checkpoint is missing; there is {names}", "copy it too")
    if found != expected:
        raise UserError("source", prefix, f"these are parts of several checkpoints: {names}", "keep those of one")
    return found


def _records(path: str) -> Iterator[tuple[bytes, bytes]]:
    check_readable(path, "a checkpoint")
    return table.records(path)


@contextmanager
def _corruption_of(path: str) -> Iterator[None]:
    """Makes one error, with the file's name, of every way in which a checkpoint can be damaged."""
    try:
        yield
    except table.Corrupt as error:
        raise UserError("source", path, f"this is no whole checkpoint: {error}", "copy or download it again") from None
    except DecodeError:
        raise UserError(
            "source", path, "this is no whole checkpoint: a message in it is garbled", "copy or download it again"
        ) from None
    except OSError as error:
        raise UserError("source", path, f"it cannot be read: {error.strerror}", "copy it to another disk") from None


def _read_v2(path: str) -> dict[str, Entry]:
    with _corruption_of(path):
        records = _records(path)
        count = _shard_count(next(records, None))
        protos = {key: BundleEntryProto.FromString(value) for key, value in records}
        stored = {key: _stored(key, proto, count) for key, proto in protos.items() if not proto.slices}
        whole = {key: _partitioned(key, proto, stored) for key, proto in protos.items() if proto.slices}
        # The pieces have been taken out of `stored` by now.
        return {_name(key): entry for key, entry in sorted((stored | whole).items())}


def _shard_count(header: tuple[bytes, bytes] | None) -> int:
    """In how many data files the values lie, as the first record of an index says."""
    key, value = header or (None, b"")
    if key != b"":
        raise table.Corrupt("it has no header")
    proto = BundleHeaderProto.FromString(value)
    if proto.endianness not in (BundleHeaderProto.LITTLE, BundleHeaderProto.BIG):  # TensorFlow swaps the bytes
        raise table.Corrupt(f"it claims the unknown byte order {proto.endianness}")
    if not 1 <= proto.num_shards <= _MAX_SHARDS:
        raise table.Corrupt(f"it claims {proto.num_shards} data files")
    _check_version(proto.version)
    return proto.num_shards


def _check_version(version: Any) -> None:
    if version.min_consumer > _VERSION:
        raise table.Corrupt(f"its format asks for a reader of version {version.min_consumer}")


def _stored(key: bytes, proto: Any, count: int) -> Entry:
    """The entry of a tensor that lies in one piece."""
    kind, shape = _type_and_shape(key, proto.dtype, proto.shape)
    if not 0 <= proto.shard_id < count:
        raise table.Corrupt(f"{_label(key)} is in data file {proto.shard_id} of {count}")
    values = math.prod(shape)
    fits = proto.size == values * _WIDTHS[kind] if kind in _WIDTHS else proto.size >= values
    if proto.offset < 0 or not fits:
        raise table.Corrupt(f"{_label(key)} of shape {shape} has {proto.size} bytes at {proto.offset}")
    return Entry(kind, shape, proto.shard_id, proto.offset, proto.size)


def _partitioned(key: bytes, proto: Any, stored: dict[bytes, Entry]) -> Entry:
    """The entry of a partitioned variable, whose pieces are taken out of `stored`."""
    kind, shape = _type_and_shape(key, proto.dtype, proto.shape)
    pieces = []
    for extents in _pieces(key, proto.slices, shape):
        spec, piece = slices.spec_of(extents), stored.pop(slices.stored_key(key, extents), None)
        if piece is None or (piece.dtype, piece.shape) != (kind, slices.piece_shape(extents, shape)):
            raise table.Corrupt(f"the piece {spec} of {_label(key)} is missing or unlike the whole")
        pieces.append(Slice(spec, piece.shard, piece.offset, piece.size))
    return Entry(kind, shape, 0, 0, sum(piece.size for piece in pieces), tuple(pieces))


def _read_v1(prefix: str) -> dict[str, Entry]:
    found: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    for shard, path in enumerate(v1_files(prefix)):
        with _corruption_of(path):
            # Only the first record lists tensors; the others are their values.
            key, value = next(_records(path), (None, b""))
            saved = SavedTensorSlices.FromString(value)
            if key != b"" or not saved.HasField("meta"):
                raise table.Corrupt("it does not begin with a list of tensors")
            _check_version(saved.meta.versions)
        for proto in saved.meta.tensor:
            found[proto.name].append((shard, proto))
    with _corruption_of(prefix):
        return {name: _v1_entry(name, found[name]) for name in sorted(found, key=str.encode)}


def _v1_entry(name: str, found: list[tuple[int, Any]]) -> Entry:
    """The entry of a tensor, the pieces of which may lie in several files."""
    key, (shard, first) = name.encode(), found[0]
    kind, shape = _type_and_shape(key, first.type, first.shape)
    if any((proto.type, proto.shape) != (first.type, first.shape) for _, proto in found):
        raise table.Corrupt(f"the pieces of {_label(key)} differ in type or shape")
    shards = [where for where, proto in found for _ in proto.slice]
    extents = _pieces(key, [each for _, proto in found for each in proto.slice], shape)
    pieces = tuple(Slice(slices.spec_of(each), where, 0, 0) for each, where in zip(extents, shards, strict=True))
    return Entry(kind, shape, shard, 0, 0, pieces if len(pieces) > 1 else ())


def _type_and_shape(key: bytes, kind: int, proto: Any) -> tuple[int, tuple[int, ...]]:
    """Both, if TensorFlow could make a tensor of them; where they are absurd it ends the process."""
    shape = tuple(dim.size for dim in proto.dim)
    if kind not in _KINDS:
        raise table.Corrupt(f"{_label(key)} has the unknown type {kind}")
    if proto.unknown_rank or len(shape) > _MAX_RANK:
        raise table.Corrupt(f"{_label(key)} has an impossible number of dimensions")
    if min(shape, default=0) < 0 or math.prod(max(size, 1) for size in shape) >= 2**63:
        raise table.Corrupt(f"{_label(key)} has the impossible shape {shape}")
    return kind, shape


def _pieces(key: bytes, protos: Iterable[Any], shape: tuple[int, ...]) -> list[slices.Extents]:
    """What the pieces of a tensor cover, which must be all of it."""
    pieces = [slices.extents_of(proto) for proto in protos]
    if not all(slices.inside(piece, shape) for piece in pieces) or not slices.covers(pieces, shape):
        raise table.Corrupt(f"the pieces of {_label(key)} do not make up its shape {shape}")
    return pieces


def _name(key: bytes) -> str:
    try:
        name = key.decode()
    except UnicodeDecodeError:
        raise table.Corrupt(f"the name {_label(key)} is not UTF-8") from None
    if name.startswith("\0"):
        raise table.Corrupt(f"{_label(key)} is a piece of no variable")
    return name


def _label(key: bytes) -> str:
    """A key for a message; those of pieces are no text."""
    return f"'{key.decode(errors='backslashreplace')}'"
