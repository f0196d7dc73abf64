"""Many short texts that are kept as rows of numbers, and made when they are asked for.

A Python string takes some hundred bytes, which a list of a hundred million of them has no room for.
Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_TOGETHER = 4096  # texts that are made at once where all are asked for
_SIZE = 32  # bytes of a SHA-256 digest


class Texts(Sequence[str]):
    """Texts by their numbers, equal to a list of the same.

    Args:
      rows: what each is made of, a row for each.
      say: the text of a row.
    """

    def __init__(self, rows: np.ndarray, say: Callable[[Any], str]):
        self.rows, self._say = rows, say

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.take(place) if isinstance(place, slice) else self._said(self.rows[place][np.newaxis])[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _TOGETHER):
            yield from self._said(self.rows[start : start + _TOGETHER])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def take(self, places: Any) -> Texts:
        """Those at some places, or of a slice."""
        return Texts(self.rows[places], self._say)

    def _said(self, rows: np.ndarray) -> list[str]:
        return [self._say(row) for row in rows.tolist()]


class Digests(Texts):
    """SHA-256 digests, uint8 [n, 32]: as texts they are hexadecimal."""

    def __init__(self, rows: np.ndarray):
        super().__init__(rows, str)

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> Digests:
        """Of digests that come one after the other."""
        found = bytearray()
        for digest in digests:
            found += digest
        return cls(np.frombuffer(found, np.uint8).reshape(-1, _SIZE))

    @property
    def heads(self) -> np.ndarray:
        """The first eight bytes of each as a number: in the order of the texts, and hardly ever equal by chance."""
        return np.ascontiguousarray(self.rows[:, :8]).view(">u8")[:, 0].astype(np.uint64)

    def take(self, places: Any) -> Digests:
        """Those at some places, or of a slice."""
        return Digests(self.rows[places])

    def _said(self, rows: np.ndarray) -> list[str]:
        text = rows.tobytes().hex()
        return [text[start : start + 2 * _SIZE] for start in range(0, len(text), 2 * _SIZE)]


def numbered(count: int, say: Callable[[int], str] = str) -> Texts:
    """A text for each number below `count`."""
    return Texts(np.arange(count), say)


def taken(texts: Sequence[str], places: np.ndarray) -> Sequence[str]:
    """The texts at some places, however they are kept."""
    return texts.take(places) if isinstance(texts, Texts) else [texts[int(place)] for place in places]


def sortable(texts: Sequence[str]) -> np.ndarray:
    """What sorts as the texts do, fast; of digests only their heads, so that different ones may be equal in it."""
    return texts.heads if isinstance(texts, Digests) else np.asarray(texts)
