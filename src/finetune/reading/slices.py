"""Pieces of partitioned variables: what they cover, as numbers, as text, and as the key of a stored piece.

An extent is the start and the length along one dimension; `ALL` takes the whole of it. Checkpoints write both
forms, and a piece is found only under the form that it was stored under.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

Extents = tuple[tuple[int, int], ...]
ALL = (0, -1)


def extents_of(proto: Any) -> Extents:
    """What a `TensorSliceProto` says."""
    return tuple((each.start, each.length if each.HasField("length") else -1) for each in proto.extent)


def inside(extents: Extents, shape: Sequence[int]) -> bool:
    """Whether the piece is one of a tensor of that shape.

    >>> inside(((0, 20), ALL), (40, 8)), inside(((30, 20), ALL), (40, 8)), inside((ALL,), (40, 8))
    (True, False, False)
    """
    return len(extents) == len(shape) and all(
        extent == ALL or (extent[0] >= 0 and 0 < extent[1] <= size - extent[0])
        for extent, size in zip(extents, shape, strict=True)
    )


def piece_shape(extents: Extents, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the piece.

    >>> piece_shape(((0, 20), ALL), (40, 8))
    (20, 8)
    """
    return tuple(size if length < 0 else length for (_, length), size in zip(extents, shape, strict=True))


def covers(pieces: Iterable[Extents], shape: Sequence[int]) -> bool:
    """Whether the pieces, none of which may overlap another, have as many values as the whole.

    >>> covers([((0, 20), ALL), ((20, 20), (0, 8))], (40, 8))
    True
    """
    return sum(math.prod(piece_shape(piece, shape)) for piece in pieces) == math.prod(shape)


def spec_of(extents: Extents) -> str:
    """The piece in the words of Saver.

    >>> spec_of(((0, 20), ALL))
    '0,20:-'
    """
    return ":".join("-" if extent == ALL else f"{extent[0]},{extent[1]}" for extent in extents)


def index_of(spec: str) -> tuple[slice, ...]:
    """Where in the whole the piece belongs.

    >>> index_of("0,20:-")
    (slice(0, 20, None), slice(None, None, None))
    """
    pairs = [part.split(",") for part in spec.split(":")] if spec else []
    return tuple(slice(None) if pair == ["-"] else slice(int(pair[0]), int(pair[0]) + int(pair[1])) for pair in pairs)


def piece_shape_of(piece: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of what a Saver's text for a piece covers.

    >>> piece_shape_of("40 8 0,20:-", (40, 8))
    (20, 8)
    """
    where = index_of(piece.rpartition(" ")[2])
    return tuple(len(range(size)[part]) for size, part in zip(shape, where, strict=True))


def stored_key(name: bytes, extents: Extents) -> bytes:
    """The key under which a V2 checkpoint keeps the piece, in an encoding that sorts as its numbers do.

    Format: tensorflow/core/lib/strings/ordered_code.h.

    >>> stored_key(b"w", ((0, 20), ALL)).hex()
    '0077000101028094807f'
    """
    # The encoding has escapes for the bytes 0 and 255, which no name has that is UTF-8.
    rank = bytes([1, len(extents)]) if extents else b"\0"
    return b"\0" + name + b"\0\1" + rank + b"".join(_signed(number) for extent in extents for number in extent)


def _signed(number: int) -> bytes:
    """As many one bits as there are bytes, then the number in two's complement, its sign bit inverted."""
    length = (~number if number < 0 else number).bit_length() // 7 + 1
    header = ((1 << length) - 1) << (7 * length)
    return (number % (1 << 8 * length) ^ header).to_bytes(length, "big")
