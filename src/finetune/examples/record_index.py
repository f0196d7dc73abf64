"""What was found in files of records, kept so that a later start reads none of them.

A file of the index belongs to one file of records as it is, and to the features that were asked for: its name is the
digest of these. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from finetune.caching.shelf import Shelf
from finetune.examples.progress import Progress
from finetune.examples.scanning import Asked, Cells, Found

FORMAT = 1
_RACY = 2_000_000_000  # nanoseconds: a file that is so young may change and keep its time, as git knows

Stamp = tuple[str, int, int]  # absolute path, bytes, time of the last change in nanoseconds
_NARROW = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)

T = TypeVar("T")


@dataclass(frozen=True)
class Keeping:
    """Where an index is kept, and which of the workers that make it this one is.

    `most` are the bytes of all that is kept beside it. Where nothing may be written it is only read.
    """

    folder: Path
    most: float
    worker: int = 0
    workers: int = 1
    writes: bool = True


class Index:
    """What is known of files of records, from those that were here before.

    Args:
      keeping: None to know nothing, and to keep nothing.
      stamp: what tells whether a file is the one that it was.
    """

    def __init__(self, keeping: Keeping | None, stamp: Callable[[str], Stamp]):
        self._keeping, self._stamp = keeping, stamp
        self._shelf = None if keeping is None else Shelf(keeping.folder, keeping.most)
        self.refused: OSError | None = None  # why something is not kept

    def first(self, path: str, look: Callable[[], dict[str, str]]) -> dict[str, str]:
        """The features of the first record of a file, with their kinds, as `look` finds them."""
        return self._known(path, None, lambda: json.dumps(look()).encode(), json.loads)

    def found(self, path: str, asked: Asked, look: Callable[[], Found]) -> Found:
        """What is in a file, as `look` finds it."""
        return self._known(path, asked, lambda: _packed(look()), _unpacked)

    def all(self, paths: list[str], asked: Asked, look: Callable[[int], Found]) -> list[Found]:
        """What is in each of the files.

        Workers share this work without talking: each begins at another file, and reads what others have made meanwhile.
        """
        keeping = self._keeping
        count = len(paths)
        first = 0 if keeping is None else keeping.worker * count // keeping.workers
        found: dict[int, Found] = {}
        with Progress("data", count, "files of records") as progress:
            for number in (*range(first, count), *range(first)):
                found[number] = self.found(paths[number], asked, lambda number=number: look(number))
                progress.at(len(found))
            if keeping is not None and progress.is_told:
                progress.say(
                    f"what they hold is kept: {keeping.folder}"
                    if self.refused is None
                    else f"what they hold is not kept: {self.refused.strerror}"
                )
        return [found[number] for number in range(count)]

    def _known(self, path: str, asked: Asked | None, look: Callable[[], bytes], read: Callable[[bytes], T]) -> T:
        if self._shelf is None or self._keeping is None:
            return read(look())
        stamp, began = self._stamp(path), time.time_ns()
        name = _name(stamp, asked)
        if (kept := self._shelf.get(name)) is not None:
            return read(kept)
        content = look()
        is_settled = stamp == self._stamp(path) and began - stamp[2] > _RACY
        if self._keeping.writes and is_settled and self.refused is None:
            try:
                self._shelf.put(name, content)
            except OSError as error:
                self.refused = error
        return read(content)


def _name(stamp: Stamp, asked: Asked | None) -> str:
    said = [FORMAT, *stamp, None if asked is None else asdict(asked)]
    return hashlib.sha256(json.dumps(said).encode("utf-8", "surrogatepass")).hexdigest()[:40]


# ---- Arrays behind each other, after a line of JSON that tells which they are


def _packed(found: Found) -> bytes:
    arrays = {"sizes": _narrow(found.sizes), "digests": found.digests}
    for name, cells in found.cells.items():
        arrays |= {f"{name}/values": _narrow(cells.values), f"{name}/lengths": _narrow(cells.lengths)}
    head = {
        "spans": found.spans,
        "texts": {name: cells.texts for name, cells in found.cells.items()},
        "arrays": [(name, array.dtype.str, array.shape) for name, array in arrays.items()],
    }
    parts = [json.dumps(head).encode(), *(np.ascontiguousarray(array).tobytes() for array in arrays.values())]
    return parts[0] + b"\n" + b"".join(parts[1:])


def _unpacked(content: bytes) -> Found:
    at = content.index(b"\n") + 1
    head, arrays = json.loads(content[: at - 1]), {}
    for name, dtype, shape in head["arrays"]:
        count = math.prod(shape)
        arrays[name] = np.frombuffer(content, dtype, count, at).reshape(shape)
        at += count * np.dtype(dtype).itemsize
    cells = {
        name: Cells(arrays[f"{name}/values"], arrays[f"{name}/lengths"], texts) for name, texts in head["texts"].items()
    }
    spans = {name: (least, most) for name, (least, most) in head["spans"].items()}
    return Found(arrays["sizes"], arrays["digests"], spans, cells)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in as few bytes as hold all of them."""
    if values.dtype.kind != "i" or not len(values):
        return values
    least, most = int(values.min()), int(values.max())
    fitting = (t for t in _NARROW if np.iinfo(t).min <= least and most <= np.iinfo(t).max)
    return values.astype(next(fitting, values.dtype))
