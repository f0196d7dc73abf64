"""Examples in TFRecord files, each found by where it begins.

A record is its length (8 bytes), the checksum of these (4), the content and the checksum of that (4); the content is a
tf.train.Example. Format: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/feature.proto.
Nothing here imports TensorFlow.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from finetune.errors import UserError, shortlist
from finetune.examples.checksums import masked_crc32c_of
from finetune.examples.columns import as_column, find, wanted
from finetune.examples.compact import Digests, numbered
from finetune.examples.data import Examples
from finetune.examples.fields import Rows
from finetune.protos import Example

_HEADER, _FOOTER = 12, 4
_AT_ONCE = 1 << 24  # bytes that are compared with their checksums together
_GZIP = b"\x1f\x8b"
_DTYPES = {"bytes_list": np.dtype(object), "float_list": np.dtype(np.float32), "int64_list": np.dtype(np.int64)}
_IN_WORDS = {"bytes_list": "bytes", "float_list": "floats", "int64_list": "integers"}


class Unpacked:
    """The contents of gzip files, one after the other: packed, there is no way to their middle.

    They lie in one temporary file without a name, which is gone with this object.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
        self.size = 0

    def add(self, path: str) -> int:
        """Unpacks a file; gives where its content begins."""
        start = self.size
        try:
            with gzip.open(path) as packed, open(os.dup(self.descriptor), "wb") as plain:
                plain.seek(start)
                shutil.copyfileobj(packed, plain, 1 << 20)
                self.size = plain.tell()
        except (OSError, EOFError, zlib.error) as error:
            raise UserError("data", path, f"this gzip file is damaged ({error})", "copy or write it again") from None
        return start

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class Shard:
    """One file: itself, or where its content lies among what was unpacked."""

    path: str
    start: int
    end: int
    unpacked: Unpacked | None

    def read(self, offset: int, size: int) -> bytes:
        """Some of its bytes; any thread may ask. There may be more shards than a process can hold open."""
        if self.unpacked is not None:
            return os.pread(self.unpacked.descriptor, size, self.start + offset)
        with open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)


@dataclass(frozen=True)
class Records:
    """Records of several files: of each, which file, and where its content begins and how long it is."""

    shards: Sequence[Shard]
    places: np.ndarray  # int64 [records, 3]

    def __len__(self) -> int:
        return len(self.places)

    def features(self, row: int) -> Mapping[str, Any]:
        """What one record holds, by name.

        Raises:
          UserError: it is no tf.train.Example.
        """
        number, offset, size = self.places[row].tolist()
        return self.parsed(row, self.shards[number].read(offset, size))

    def parsed(self, row: int, content: bytes) -> Mapping[str, Any]:
        """The same, of a record that was read already."""
        try:
            return Example.FromString(content).features.feature
        except DecodeError:
            number, offset, _ = self.places[row].tolist()
            raise _damaged(self.shards[number].path, offset - _HEADER, "it is no tf.train.Example") from None

    def all(self) -> Iterator[Mapping[str, Any]]:
        """What every record holds, each read and compared with its checksum.

        Raises:
          UserError: the bytes are not those that were written.
        """
        ends = np.cumsum(self.places[:, 2]) // _AT_ONCE
        for part in np.split(np.arange(len(self)), np.flatnonzero(np.diff(ends)) + 1):
            whole = [self.shards[n].read(offset, size + _FOOTER) for n, offset, size in self.places[part].tolist()]
            contents = [record[:-_FOOTER] for record in whole]
            stored = np.asarray([int.from_bytes(record[-_FOOTER:], "little") for record in whole], np.uint32)
            for place in np.flatnonzero(masked_crc32c_of(contents) != stored)[:1]:
                number, offset, _ = self.places[part[place]].tolist()
                raise _damaged(self.shards[number].path, offset - _HEADER, "it does not match its checksum")
            yield from map(self.parsed, part.tolist(), contents)

    def name(self, row: int) -> str:
        """How people find a record: its file and where it begins there."""
        number, offset, _ = self.places[row].tolist()
        return f"{Path(self.shards[number].path).name}@{offset - _HEADER}"


def read_records(
    path: str, fields: Mapping[str, Sequence[str]], labels: Sequence[str], others: Sequence[str], key: str
) -> Examples:
    """The records of a file, of all files of a folder, or of all that a pattern matches; gzip is unpacked first.

    Args:
      fields: input -> the name of its feature, where that is another.
      labels, others: the features that are columns; `others` may be missing.

    Raises:
      UserError: no such file, damage, a feature that some record lacks or has in another kind.
    """
    records = _opened(_files(path, key))
    first = next(records.all())
    known = {label: find(label, first, path) for label in labels} | {name: name for name in others if name in first}
    names = {field: wanted(field, fields, [n for n in first if n not in known.values()], path) for field in fields}
    kinds = {name: first[name].WhichOneof("kind") for name in {*names.values(), *known.values()}}
    cells: dict[str, list[Any]] = {column: [] for column in known}
    sizes: dict[str, set[int]] = {name: set() for name in names.values()}
    hashes = []
    for row, found in enumerate(records.all()):
        values = {name: _values(found, name, kind, records, row) for name, kind in kinds.items()}
        sha = hashlib.sha256()
        for name in names.values():
            sizes[name].add(len(values[name]))
            sha.update(_bytes(values[name], kinds[name]))
        hashes.append(sha.digest())
        for column, name in known.items():
            if not len(values[name]):
                raise UserError("data", records.name(row), f"this record has no '{name}'", "remove or complete it")
            cells[column].append(values[name])
    rows = {field: _rows(records, name, kinds[name], sizes[name]) for field, name in names.items()}
    columns = {column: as_column(_bare(values)) for column, values in cells.items()}
    return Examples(numbered(len(records), records.name), columns, Digests.of(hashes), rows)


def _rows(records: Records, name: str, kind: str, sizes: set[int]) -> Rows:
    def read(index: np.ndarray) -> list[np.ndarray]:
        found = ((records.features(row), row) for row in index.tolist())
        return [np.asarray(_values(features, name, kind, records, row), _DTYPES[kind]) for features, row in found]

    (size,) = sizes if len(sizes) == 1 else (None,)
    return Rows(len(records), _DTYPES[kind], (size,), read, flat=True, longest=max(sizes))


def _values(features: Mapping[str, Any], name: str, kind: str, records: Records, row: int) -> Sequence[Any]:
    if name not in features or (own := features[name].WhichOneof("kind")) is None:
        return []
    if own != kind:
        what = f"'{name}' has {_IN_WORDS[own]}, in the first record it has {_IN_WORDS[kind]}"
        raise UserError("data", records.name(row), what, "write one kind")
    return getattr(features[name], kind).value


def _bytes(values: Sequence[Any], kind: str) -> bytes:
    """What tells a value from another one, whatever the lengths of its parts."""
    if kind == "bytes_list":
        return b"".join(struct.pack("<Q", len(part)) + part for part in values)
    return struct.pack("<Q", len(values)) + np.asarray(values, _DTYPES[kind]).tobytes()


def _bare(values: Sequence[Sequence[Any]]) -> list[Any]:
    """One value a record without its list, text as text."""
    texts = [[v.decode(errors="replace") if isinstance(v, bytes) else v for v in row] for row in values]
    return [row[0] for row in texts] if all(len(row) == 1 for row in texts) else texts


def _files(path: str, key: str) -> list[str]:
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        found = [str(f) for f in Path(path).iterdir() if f.is_file() and "tfrecord" in f.name.lower()]
        if not found:
            raise UserError("data", key, f"'{path}' has no file with tfrecord in its name", "give a pattern: 'train-*'")
        return sorted(found)
    found = [path] if os.path.isfile(path) else sorted(f for f in glob.glob(path) if os.path.isfile(f))
    if not found:
        raise UserError("data", key, f"there is no file '{path}'", "give a TFRecord file, a folder or a pattern")
    return found


def _opened(paths: Sequence[str]) -> Records:
    shards, places, unpacked = [], [], None
    for path in paths:
        with open(path, "rb") as file:
            is_packed = file.read(2) == _GZIP
        if is_packed:
            unpacked = unpacked or Unpacked()
            start = unpacked.add(path)
            shards.append(Shard(path, start, unpacked.size, unpacked))
        else:
            shards.append(Shard(path, 0, os.path.getsize(path), None))
        places += [(len(shards) - 1, offset, size) for offset, size in _index(shards[-1])]
    if not places:
        raise UserError("data", shortlist(list(paths)), "there are no records", "give at least one of each class")
    return Records(shards, np.asarray(places, np.int64))


def _index(shard: Shard) -> list[tuple[int, int]]:
    """(offset, size) of each record's content."""
    found, headers, at, end = [], [], 0, shard.end - shard.start
    while at < end:
        headers.append(shard.read(at, _HEADER))
        size = int.from_bytes(headers[-1][:8], "little")
        if len(headers[-1]) < _HEADER or at + _HEADER + size + _FOOTER > end:
            _check_headers(shard.path, headers, [*found, (at + _HEADER, size)])
            raise _damaged(shard.path, at, "it ends before its length says")
        found.append((at + _HEADER, size))
        at += _HEADER + size + _FOOTER
    _check_headers(shard.path, headers, found)
    return found


def _check_headers(path: str, headers: Sequence[bytes], found: Sequence[tuple[int, int]]) -> None:
    stored = np.asarray([int.from_bytes(header[8:], "little") for header in headers], np.uint32)
    for place in np.flatnonzero(masked_crc32c_of([header[:8] for header in headers], block=8) != stored)[:1]:
        if place == 0:
            raise UserError("data", path, "this is no TFRecord file", "write it with tf.io.TFRecordWriter")
        raise _damaged(path, found[place][0] - _HEADER, "its length does not match its checksum")


def _damaged(path: str, at: int, what: str) -> UserError:
    return UserError("data", path, f"the record at byte {at} cannot be read: {what}", "copy or write the file again")
