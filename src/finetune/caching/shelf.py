"""Where what is kept lies, and small files of it: each whole, or as good as absent.

A file is a CRC-32 and its content. Nothing waits for the disk: what a loss of power or a kill leaves is not what its
checksum says, and is made anew.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from finetune.own_place import own_place

RECORDS = "records"  # beside the features, of what was found in record files
_DAY = 86_400.0
_ASIDE = ".writing-"


def cache_folder(asked: str | None) -> Path:
    """Where features, and what goes with them, are kept: `cache.dir` of the recipe, or the user's own place."""
    if asked is not None:
        return Path(os.path.expanduser(asked))
    return own_place("features")


def size_of(folder: Path) -> int:
    """The bytes that a folder takes on the disk, with all that is in it."""
    return sum(found.stat().st_blocks * 512 for found in _files(folder))


class Shelf:
    """Files by name in one folder, written by any number of processes at once.

    Args:
      folder: lies beside everything else that may take no more than `most` bytes together with it.
    """

    def __init__(self, folder: Path, most: float):
        self.folder, self._most = folder, most
        self._room: float | None = None  # as far as this process knows
        self._used: set[str] = set()

    def get(self, name: str) -> bytes | None:
        """The content of a file; None if it is not there, or not what was written."""
        place = self.folder / name
        try:
            with place.open("rb") as file:
                checksum, content = int.from_bytes(file.read(4), "little"), file.read()
            if time.time() - place.stat().st_mtime > _DAY:  # not each time, for it is many files and many workers
                os.utime(place)
        except OSError:
            return None
        if not content or zlib.crc32(content) != checksum:
            return None
        self._used.add(name)
        return content

    def put(self, name: str, content: bytes) -> None:
        """Keeps a file; the oldest others go where all together would take too much.

        Raises:
          OSError: the disk does not take it, or there is no room for it within what all may take.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._room is None:
            self._room = self._most - size_of(self.folder.parent)
        if self._room < len(content):
            self._room += self._free(len(content) - self._room)
        if self._room < len(content):
            raise OSError(None, "more than cache.max_gb has room for")
        # Of a name that no process on another machine has, which may have the same number.
        number, aside = tempfile.mkstemp(prefix=f"{_ASIDE}{name}.", dir=self.folder)
        try:
            with open(number, "wb") as file:
                file.write(zlib.crc32(content).to_bytes(4, "little"))
                file.write(content)
            os.replace(aside, self.folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        self._room -= len(content)
        self._used.add(name)

    def _free(self, wanted: float) -> int:
        """Removes what was not used for the longest, and what killed processes left; gives how many bytes that were."""
        found = [(file.stat(), file) for file in _files(self.folder) if file.name not in self._used]
        now, freed = time.time(), 0
        for about, file in sorted(found, key=lambda one: (not one[1].name.startswith(_ASIDE), one[0].st_mtime)):
            if freed >= wanted:
                break
            if file.name.startswith(_ASIDE) and now - about.st_mtime < _DAY:  # it may still be written
                continue
            with contextlib.suppress(OSError):
                file.unlink()
                freed += about.st_blocks * 512
        return freed


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder; others may come and go meanwhile."""
    for where, _, names in os.walk(folder):
        for name in names:
            file = Path(where) / name
            if file.is_file() and not file.is_symlink():
                yield file
