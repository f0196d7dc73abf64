"""Examples in TFRecord files, each found by where it begins.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import errno
import glob
import gzip
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.examples import scanning
from finetune.examples.columns import find, wanted
from finetune.examples.compact import Digests, numbered
from finetune.examples.data import Examples
from finetune.examples.fields import Rows
from finetune.examples.record_index import Index, Keeping, Stamp
from finetune.examples.scanning import DTYPES, FOOTER, HEADER, Asked
from finetune.remote import courier
from finetune.remote.fetching import data_at_hand, shards_of
from finetune.remote.places import is_remote

_GZIP = b"\x1f\x8b"


class Unpacked:
    """The contents of gzip files, one after the other: packed, there is no way to their middle.

    They lie in one temporary file without a name, which is gone with this object. Each is unpacked when it is asked for
    first; any thread may ask.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
        self._spans: dict[str, tuple[int, int]] = {}
        self._size = 0
        self._adding = threading.Lock()

    def span(self, path: str) -> tuple[int, int]:
        """Where the content of a file begins and ends.

        Raises:
          UserError: it is damaged.
        """
        with self._adding:
            if path not in self._spans:
                self._spans[path] = self._add(path)
            return self._spans[path]

    def _add(self, path: str) -> tuple[int, int]:
        start = self._size
        try:
            with gzip.open(data_at_hand(path, "data.path")) as packed, open(os.dup(self.descriptor), "wb") as plain:
                plain.seek(start)
                shutil.copyfileobj(packed, plain, 1 << 20)
                self._size = plain.tell()
        except (OSError, EOFError, zlib.error) as error:
            raise UserError("data", path, f"this gzip file is damaged ({error})", "copy or write it again") from None
        return start, self._size

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class Shard:
    """One file, here or elsewhere: itself, or what it is unpacked. Nothing of it is read before it is asked for."""

    path: str
    unpacked: Unpacked  # of all shards

    @property
    def is_remote(self) -> bool:
        """Whether it takes a network to read it."""
        return is_remote(self.path)

    @cached_property
    def _is_packed(self) -> bool:
        return self._part(0, len(_GZIP)) == _GZIP

    def read(self, offset: int, size: int) -> bytes:
        """Some of its bytes; any thread may ask. There may be more shards than a process can hold open."""
        if self._is_packed:
            start, end = self.unpacked.span(self.path)
            return os.pread(self.unpacked.descriptor, min(size, end - start - offset), start + offset)
        return self._part(offset, size)

    def _part(self, offset: int, size: int) -> bytes:
        if self.is_remote:
            return courier.read(self.path, offset, size)
        with open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def size(self) -> int:
        """How many bytes there are to read."""
        if self._is_packed:
            start, end = self.unpacked.span(self.path)
            return end - start
        return _stamp({}, self.path)[1]


@dataclass(frozen=True)
class Records:
    """Records of several files, by their numbers.

    `firsts` are the numbers of the first record of each file, and how many there are in all: int64 [files + 1].
    `begins` are where the records of a file begin and where its last one ends, file after file: int64 [records +
    files].
    """

    shards: Sequence[Shard]
    firsts: np.ndarray
    begins: np.ndarray

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def values(self, row: int, name: str, kind: str) -> Any:
        """What one record has of a feature.

        Raises:
          UserError: it is no tf.train.Example, or has the feature in another kind.
        """
        shard, start, end = self._place(row)
        content = shard.read(start + HEADER, end - start - HEADER - FOOTER)
        return scanning.values(scanning.parsed(shard.path, start, content), name, kind, shard.path, start)

    def name(self, row: int) -> str:
        """How people find a record."""
        shard, start, _ = self._place(row)
        return scanning.named(shard.path, start)

    def _place(self, row: int) -> tuple[Shard, int, int]:
        number = int(np.searchsorted(self.firsts, row, side="right")) - 1
        start, end = self.begins[row + number : row + number + 2].tolist()
        return self.shards[number], start, end


def read_records(
    path: str,
    fields: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    others: Sequence[str],
    key: str,
    keeping: Keeping | None = None,
) -> Examples:
    """The records of a file, of all files of a folder, or of all that a pattern matches; gzip is unpacked first.

    Args:
      fields: input -> the name of its feature, where that is another.
      labels, others: the features that are columns; `others` may be missing.
      keeping: where what is found is kept for later; nowhere if None.

    Raises:
      UserError: no such file, damage, a feature that some record lacks or has in another kind.
    """
    listed = shards_of(path, key) if is_remote(path) else {}
    paths, unpacked, index = list(listed) or _files(path, key), Unpacked(), Index(keeping, partial(_stamp, listed))
    shards = [Shard(file, unpacked) for file in paths]
    first = _first(shards, index)
    known = {label: find(label, first, path) for label in labels} | {name: name for name in others if name in first}
    names = {field: wanted(field, fields, [n for n in first if n not in known.values()], path) for field in fields}
    asked = Asked(
        tuple((name, first[name]) for name in names.values()),
        tuple((name, first[name]) for name in dict.fromkeys(known.values())),
    )
    found = index.all(paths, asked, lambda n: scanning.scan(paths[n], shards[n].size(), shards[n].read, asked))
    firsts = np.concatenate([[0], np.cumsum([len(one.sizes) for one in found])])
    records = Records(shards, firsts, np.concatenate([one.begins() for one in found]))
    rows = {
        field: _rows(records, name, first[name], [one.spans[name] for one in found if len(one.sizes)])
        for field, name in names.items()
    }
    columns = {
        column: scanning.column([one.cells[name] for one in found if len(one.sizes)]) for column, name in known.items()
    }
    digests = Digests(np.concatenate([one.digests for one in found]))
    return Examples(numbered(len(records), records.name), columns, digests, rows)


def _first(shards: Sequence[Shard], index: Index) -> dict[str, str]:
    """The features of the first record that there is."""
    for shard in shards:
        if found := index.first(shard.path, lambda s=shard: scanning.kinds_of_first(s.path, s.size(), s.read)):
            return found
    paths = [shard.path for shard in shards]
    raise UserError("data", shortlist(paths), "there are no records", "give at least one of each class")


def _rows(records: Records, name: str, kind: str, spans: Sequence[tuple[int, int]]) -> Rows:
    def one(row: int) -> np.ndarray:
        return np.asarray(records.values(row, name, kind), DTYPES[kind])

    def read(index: np.ndarray) -> list[np.ndarray]:
        rows = index.tolist()
        return courier.together(one, rows) if records.shards[0].is_remote else [one(row) for row in rows]

    least, most = min(span[0] for span in spans), max(span[1] for span in spans)
    return Rows(len(records), DTYPES[kind], (most if least == most else None,), read, flat=True, longest=most)


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


def _stamp(known: dict[str, courier.Stat], path: str) -> Stamp:
    """What tells whether a file is the one that it was; what was known when all were listed is asked for once."""
    if is_remote(path):
        seen = known.pop(path, None) or courier.stat(path)
        if seen is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return path, seen.size, seen.changed
    found = os.stat(path)
    return os.path.abspath(path), found.st_size, found.st_mtime_ns
