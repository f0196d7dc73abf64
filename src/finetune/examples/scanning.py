"""One pass over a file of records: where each begins, what is learnt of it, and whether it is what was written.

A record is its length (8 bytes), the checksum of these (4), the content and the checksum of that (4); the content is a
tf.train.Example. Format: tensorflow/core/lib/io/record_writer.h and tensorflow/core/example/feature.proto.
Nothing here imports TensorFlow.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from finetune.errors import UserError
from finetune.examples.checksums import masked_crc32c_of
from finetune.examples.columns import as_column
from finetune.protos import Example

HEADER, FOOTER = 12, 4
TEXT = "bytes_list"
DTYPES = {TEXT: np.dtype(object), "float_list": np.dtype(np.float32), "int64_list": np.dtype(np.int64)}
_IN_WORDS = {TEXT: "bytes", "float_list": "floats", "int64_list": "integers"}
_AT_ONCE = 1 << 24  # bytes that are read, and compared with their checksums, together

Read = Callable[[int, int], bytes]  # (offset, size) -> some bytes of a file


@dataclass(frozen=True)
class Asked:
    """What is looked at in each record: features, each with its kind. Digests are those of `inputs`, in this order."""

    inputs: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cells:
    """What the records have of one column.

    Numbers lie behind each other in `values`, and `lengths` are how many each record has. Of text `values` are the
    numbers of the cells in `texts`, each of which is there once, and there are no lengths.
    """

    values: np.ndarray
    lengths: np.ndarray
    texts: list[list[str]] | None = None


@dataclass(frozen=True)
class Found:
    """What one file holds: the bytes of each content, its digest, the fewest and the most values of each input."""

    sizes: np.ndarray  # int64 [records]
    digests: np.ndarray  # uint8 [records, 32]
    spans: Mapping[str, tuple[int, int]]
    cells: Mapping[str, Cells]

    def begins(self) -> np.ndarray:
        """Where each record begins, and where the last one ends: int64 [records + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes.astype(np.int64) + (HEADER + FOOTER))])


def kinds_of_first(path: str, end: int, read: Read) -> dict[str, str]:
    """The features of the first record, each with its kind; none where there is no record.

    Raises:
      UserError: it cannot be read.
    """
    for start, content in records(path, end, read, 1 << 16):
        return {name: feature.WhichOneof("kind") for name, feature in parsed(path, start, content).items()}
    return {}


def scan(path: str, end: int, read: Read, asked: Asked) -> Found:
    """Everything that is to be known of a file of `end` bytes.

    Raises:
      UserError: damage, a feature that some record lacks or has in another kind.
    """
    sizes, digests = [], bytearray()
    spans = {name: (1 << 62, 0) for name, _ in asked.inputs}
    gathered = {name: _Gathered(kind) for name, kind in asked.columns}
    for start, content in records(path, end, read):
        features = parsed(path, start, content)
        sizes.append(len(content))
        sha = hashlib.sha256()
        for name, kind in asked.inputs:
            found = values(features, name, kind, path, start)
            least, most = spans[name]
            spans[name] = min(least, len(found)), max(most, len(found))
            sha.update(_bytes(found, kind))
        digests += sha.digest()
        for name, kind in asked.columns:
            found = values(features, name, kind, path, start)
            if not len(found):
                raise UserError("data", named(path, start), f"this record has no '{name}'", "remove or complete it")
            gathered[name].add(found)
    rows = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    cells = {name: one.cells() for name, one in gathered.items()}
    return Found(np.asarray(sizes, np.int64), rows, spans if sizes else {}, cells)


def records(path: str, end: int, read: Read, at_once: int = _AT_ONCE) -> Iterator[tuple[int, bytes]]:
    """(where a record begins, its content) for all of a file of `end` bytes, each compared with its checksums.

    Raises:
      UserError: the bytes are not those that were written.
    """
    at = 0
    while at < end:
        block = read(at, min(at_once, end - at))
        starts, stop = _whole_in(block)
        if not starts:  # larger than what was read at once, or not whole
            _check_headers(path, at, [0], block)
            stop = HEADER + int.from_bytes(block[:8], "little") + FOOTER
            if at + stop > end:
                raise _damaged(path, at, "it ends before its length says")
            block, starts = read(at, stop), [0]
        _check_headers(path, at, starts, block)
        ends = [*starts[1:], stop]
        contents = [block[a + HEADER : b - FOOTER] for a, b in zip(starts, ends, strict=True)]
        stored = np.asarray([int.from_bytes(block[b - FOOTER : b], "little") for b in ends], np.uint32)
        for place in np.flatnonzero(masked_crc32c_of(contents) != stored)[:1]:
            raise _damaged(path, at + starts[place], "it does not match its checksum")
        yield from zip([at + start for start in starts], contents, strict=True)
        at += stop


def _whole_in(block: bytes) -> tuple[list[int], int]:
    """Where the records begin that are whole in a block, and where the last one ends."""
    starts, at = [], 0
    while at + HEADER <= len(block):
        stop = at + HEADER + int.from_bytes(block[at : at + 8], "little") + FOOTER
        if stop > len(block):
            break
        starts.append(at)
        at = stop
    return starts, at


def _check_headers(path: str, at: int, starts: Sequence[int], block: bytes) -> None:
    stored = np.asarray([int.from_bytes(block[s + 8 : s + HEADER], "little") for s in starts], np.uint32)
    for place in np.flatnonzero(masked_crc32c_of([block[s : s + 8] for s in starts]) != stored)[:1]:
        if at + starts[place] == 0:
            raise UserError("data", path, "this is no TFRecord file", "write it with tf.io.TFRecordWriter")
        raise _damaged(path, at + starts[place], "its length does not match its checksum")


def parsed(path: str, start: int, content: bytes) -> Mapping[str, Any]:
    """What a record holds, by name.

    Raises:
      UserError: it is no tf.train.Example.
    """
    try:
        return Example.FromString(content).features.feature
    except DecodeError:
        raise _damaged(path, start, "it is no tf.train.Example") from None


def values(features: Mapping[str, Any], name: str, kind: str, path: str, start: int) -> Any:
    """What a record has of one feature: an array of numbers, or a list of bytes; nothing where it has none.

    Raises:
      UserError: it is of another kind.
    """
    if name not in features or (own := (feature := features[name]).WhichOneof("kind")) is None:
        return ()
    if own != kind:
        what = f"'{name}' has {_IN_WORDS[own]}, in the first record it has {_IN_WORDS[kind]}"
        raise UserError("data", named(path, start), what, "write one kind")
    message = getattr(feature, kind)
    found = message.value
    if kind != "float_list":
        return found[:] if kind == TEXT else np.asarray(found[:], np.int64)
    packed = message.SerializeToString()  # of which they are the end: one by one they take Python far longer
    return np.frombuffer(packed, "<f4", len(found), len(packed) - 4 * len(found))


def named(path: str, start: int) -> str:
    """How people find a record: its file and where it begins there."""
    return f"{Path(path).name}@{start}"


def column(parts: Sequence[Cells]) -> np.ndarray:
    """The column of all files, as a table with these cells would have it."""
    if parts[0].texts is not None:
        known: dict[tuple[str, ...], int] = {}
        codes = [
            np.asarray([known.setdefault(tuple(cell), len(known)) for cell in part.texts or ()], np.int64)[part.values]
            for part in parts
            if len(part.values)
        ]
        return as_column(_bare([list(cell) for cell in known]))[np.concatenate(codes)]
    flat, lengths = np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts])
    if (lengths != lengths[0]).any():
        return as_column([row.tolist() for row in np.split(flat, np.cumsum(lengths)[:-1])])
    whole = flat.astype(np.float64 if flat.dtype.kind == "f" else np.int64)
    return whole if lengths[0] == 1 else whole.reshape(-1, int(lengths[0]))


class _Gathered:
    """The cells of one column, record after record."""

    def __init__(self, kind: str):
        self._kind, self._values, self._lengths = kind, [], []
        self._known: dict[tuple[bytes, ...], int] = {}

    def add(self, found: Any) -> None:
        if self._kind == TEXT:
            self._values.append(self._known.setdefault(tuple(found), len(self._known)))
        else:
            self._values += found.tolist()
            self._lengths.append(len(found))

    def cells(self) -> Cells:
        if self._kind == TEXT:
            texts = [[part.decode(errors="replace") for part in cell] for cell in self._known]
            return Cells(np.asarray(self._values, np.int64), np.zeros(0, np.int64), texts)
        return Cells(np.asarray(self._values, DTYPES[self._kind]), np.asarray(self._lengths, np.int64))


def _bytes(found: Any, kind: str) -> bytes:
    """What tells a value from another one, whatever the lengths of its parts."""
    if kind == TEXT:
        return b"".join(struct.pack("<Q", len(part)) + part for part in found)
    return struct.pack("<Q", len(found)) + (found.tobytes() if len(found) else b"")


def _bare(cells: Sequence[list[str]]) -> list[Any]:
    """One value a record without its list."""
    return [cell[0] for cell in cells] if all(len(cell) == 1 for cell in cells) else list(cells)


def _damaged(path: str, at: int, what: str) -> UserError:
    return UserError("data", path, f"the record at byte {at} cannot be read: {what}", "copy or write the file again")
