"""Rows kept on disk: whole or absent, written by any number of processes at once, never more than asked for.

A folder for each key: `about.json` says what it holds, `NAME.npy` are plain NumPy files with a row for each example,
and `done` has a CRC-32 for each chunk of rows, 0 as long as it is not written. A chunk's checksum is written only when
its rows are synced, so a kill loses the chunks under way and nothing else. `claims` is locked byte by byte, one for
each chunk, by the process that makes it; the system takes such a lock back when the process ends.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.caching.shelf import RECORDS, size_of
from finetune.errors import UserError
from finetune.results.checkpoints import write_text

ABOUT, DONE, CLAIMS, USE = "about.json", "done", "claims", "use"
FORMAT = 1
_SYNC_AFTER = 1.0  # seconds of rows that a loss of power may cost
_MAKING = 2**40  # the byte of `claims` that is locked while a folder is made; no chunk has that number


@dataclass(frozen=True)
class Layout:
    """What is kept: the number of rows, those of a chunk, and the shape and dtype of each by name."""

    count: int
    chunk: int
    rows: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]

    @property
    def chunks(self) -> int:
        """The number of chunks; the last one may be short."""
        return -(-self.count // self.chunk)

    @property
    def bytes(self) -> int:
        """What all rows take."""
        return self.count * sum(math.prod(shape) * self.dtypes[name].itemsize for name, shape in self.rows.items())

    def span(self, chunk: int) -> slice:
        """The rows of a chunk."""
        return slice(chunk * self.chunk, min((chunk + 1) * self.chunk, self.count))


@dataclass
class Store:
    """The folder of one key, open. Whoever has it open keeps it from being removed."""

    folder: Path
    layout: Layout
    _use: Any
    _claims: Any
    _files: Mapping[str, Any]
    _offsets: Mapping[str, int]
    _unsynced: dict[int, int] = field(default_factory=dict)
    _synced: float = field(default_factory=time.monotonic)

    def arrays(self) -> dict[str, np.ndarray]:
        """All rows by name, mapped into memory: [count, …]."""
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self.layout.rows}

    def missing(self) -> list[int]:
        """The chunks that nobody has written yet."""
        return np.flatnonzero(self._checksums() == 0).tolist()

    def check(self) -> list[int]:
        """Forgets the chunks that are not what was written; gives their numbers."""
        checksums, arrays = self._checksums(), self.arrays()
        bad = [int(c) for c in np.flatnonzero(checksums) if checksums[c] != _checksum(arrays, self.layout.span(int(c)))]
        for chunk in bad:
            self._mark(chunk, 0)
        return bad

    def claimed(self) -> Iterator[int]:
        """Chunks to write: those that are missing and that no other process is at, each claimed when it is given."""
        for chunk in range(self.layout.chunks):
            if self._claim(chunk):
                if self._checksums()[chunk]:
                    self._release(chunk)
                else:
                    yield chunk

    def write(self, chunk: int, rows: Mapping[str, np.ndarray]) -> None:
        """Writes a chunk that was claimed; it counts once it is synced.

        Raises:
          UserError: it cannot be written.
        """
        span, checksum = self.layout.span(chunk), 0
        with _told(self.folder):
            for name, shape in self.layout.rows.items():
                kept = np.ascontiguousarray(rows[name], self.layout.dtypes[name])
                content = kept.reshape(-1).view(np.uint8).data
                place = self._offsets[name] + span.start * math.prod(shape) * kept.itemsize
                while content:  # the system may take less than all of it
                    taken = os.pwrite(self._files[name].fileno(), content, place)
                    content, place = content[taken:], place + taken
                checksum = zlib.crc32(kept.reshape(-1).view(np.uint8).data, checksum)
            self._unsynced[chunk] = checksum or 1
        if time.monotonic() - self._synced > _SYNC_AFTER:
            self.sync()

    def sync(self) -> None:
        """Makes all that was written count.

        Raises:
          UserError: it cannot be written.
        """
        with _told(self.folder):
            for file in self._files.values():
                os.fsync(file.fileno())
            for chunk, checksum in self._unsynced.items():
                self._mark(chunk, checksum)
        for chunk in self._unsynced:
            self._release(chunk)
        self._unsynced.clear()
        self._synced = time.monotonic()

    def close(self) -> None:
        """Lets go of the folder, which may then be removed."""
        for file in (*self._files.values(), self._claims, self._use):
            file.close()

    def _checksums(self) -> np.ndarray:
        content = (self.folder / DONE).read_bytes()
        found = np.frombuffer(content[: len(content) // 4 * 4], np.uint32)
        return np.pad(found, (0, max(0, self.layout.chunks - len(found))))[: self.layout.chunks]

    def _mark(self, chunk: int, checksum: int) -> None:
        with (self.folder / DONE).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), np.uint32(checksum).tobytes(), 4 * chunk)
            os.fsync(file.fileno())

    def _claim(self, chunk: int) -> bool:
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, chunk)
        except OSError:
            return False
        return True

    def _release(self, chunk: int) -> None:
        fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, chunk)


def open_store(root: Path, key: str, layout: Layout, about: Mapping[str, Any], max_bytes: float) -> Store:
    """The store of a key, made if it is not there; the oldest others go where all together would take too much.

    Raises:
      UserError: it cannot be made, or takes more than `max_bytes` by itself.
    """
    folder = root / key
    with _told(root):
        folder.mkdir(parents=True, exist_ok=True)
        use, claims = (folder / USE).open("a+b"), (folder / CLAIMS).open("a+b")
        fcntl.flock(use, fcntl.LOCK_SH)
        fcntl.lockf(claims, fcntl.LOCK_EX, 1, _MAKING)
        try:
            if not _is_whole(folder, layout):
                make_room(root, layout.bytes, max_bytes, keep={key})
                _make(folder, layout, about)
            os.utime(folder / ABOUT)
        finally:
            fcntl.lockf(claims, fcntl.LOCK_UN, 1, _MAKING)
        files = {name: (folder / f"{name}.npy").open("r+b", buffering=0) for name in layout.rows}
        store = Store(folder, layout, use, claims, files, {name: _data_begins(file) for name, file in files.items()})
        for name, file in files.items():  # of a file that was cut off, the rest is missing and nothing else
            whole = store._offsets[name] + layout.count * math.prod(layout.rows[name]) * layout.dtypes[name].itemsize
            if os.path.getsize(file.name) != whole:
                os.truncate(file.name, whole)
    return store


def find_store(root: Path, key: str) -> bool:
    """Whether there is a store of a key already."""
    return (root / key / ABOUT).exists()


def make_room(root: Path, wanted: int, most: float, keep: set[str]) -> list[str]:
    """Removes the stores that were not used for the longest, until so much more has room; gives their names.

    What a process has open stays, and so does everything that is no store.
    """
    stores = [place for place in root.iterdir() if place.name not in keep and _is_store(place)]
    stores.sort(key=lambda place: (place / ABOUT).stat().st_mtime)
    sizes = {place: sum(file.stat().st_blocks * 512 for file in place.iterdir()) for place in stores}
    # Files of the index take of the same room, and go by themselves.
    own = sum(size_of(root / name) for name in {*keep, RECORDS})
    removed = []
    while stores and sum(sizes[place] for place in stores) + own + wanted > most:
        oldest = stores.pop(0)
        with (oldest / USE).open("a+b") as use:
            try:
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            (oldest / ABOUT).unlink()  # first, for a store without it is none
            shutil.rmtree(oldest, ignore_errors=True)
            removed.append(oldest.name)
    return removed


def _is_store(place: Path) -> bool:
    try:
        return json.loads((place / ABOUT).read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def _make(folder: Path, layout: Layout, about: Mapping[str, Any]) -> None:
    (folder / ABOUT).unlink(missing_ok=True)  # first, for a store without it is none
    for name, shape in layout.rows.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", layout.dtypes[name], (layout.count, *shape))
    (folder / DONE).write_bytes(bytes(4 * layout.chunks))
    for name in (*(f"{name}.npy" for name in layout.rows), DONE):  # what a store says that it has is on the disk
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    write_text(folder / ABOUT, json.dumps({"format": FORMAT, **about}, indent=1) + "\n")


def _is_whole(folder: Path, layout: Layout) -> bool:
    """Whether a store is there, with the heads of all its files: a loss of power may have left it without."""
    if not (folder / ABOUT).exists() or not (folder / DONE).exists():
        return False
    try:
        for name, shape in layout.rows.items():
            with (folder / f"{name}.npy").open("rb") as file:
                found, is_by_columns, dtype = _head(file)
            # Of a dtype that is not NumPy's own a head has the size only.
            if found != (layout.count, *shape) or is_by_columns or dtype.itemsize != layout.dtypes[name].itemsize:
                return False
    except (FileNotFoundError, ValueError):
        return False
    return True


def _head(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and dtype; behind it the rows begin."""
    version = np.lib.format.read_magic(file)
    return (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)


def _data_begins(file: Any) -> int:
    _head(file)
    return file.tell()


def _checksum(arrays: Mapping[str, np.ndarray], span: slice) -> int:
    checksum = 0
    for rows in arrays.values():
        checksum = zlib.crc32(np.ascontiguousarray(rows[span]).reshape(-1).view(np.uint8).data, checksum)
    return checksum or 1


@contextmanager
def _told(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"the features cannot be kept: {error.strerror or error}"
        todo = "name another place in cache.dir, or set cache.mode=off"
        raise UserError("storage", str(place), what, todo) from error
