"""Examples: which there are, and which of them are held out.

Nothing here imports TensorFlow, so that wrong data is refused at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat

import numpy as np

from finetune.errors import UserError
from finetune.examples.compact import Digests, numbered, taken
from finetune.examples.fields import Field, chosen, chunks
from finetune.names import did_you_mean

_TOGETHER = 4096  # examples that are told of at once where all are


@dataclass(frozen=True)
class Examples:
    """A list of examples and what is known of each.

    `sources` are file names for images and row numbers for arrays; `hashes` are SHA-256 digests of the contents.
    `columns` hold what is known of them, by name: numbers or text, a row for each example. `arrays` holds the inputs
    themselves, by field, where there are no files of images. `targets` are what the heads learn, by head; they are made
    of the columns (finetune.examples.tasks).
    """

    sources: Sequence[str]
    columns: Mapping[str, np.ndarray]
    hashes: Sequence[str]
    arrays: Mapping[str, Field] | None = None
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sources)

    def where(self, which: np.ndarray) -> Examples:
        """The examples for which `which` (bool [examples]) holds, in their order."""
        places = np.flatnonzero(which)
        return replace(
            self,
            sources=taken(self.sources, places),
            columns={name: column[places] for name, column in self.columns.items()},
            hashes=taken(self.hashes, places),
            arrays=None if self.arrays is None else {name: chosen(rows, places) for name, rows in self.arrays.items()},
            targets={head: rows[places] for head, rows in self.targets.items()},
        )

    def digest(self) -> str:
        """SHA-256 over every example's content and targets, in order."""
        sha = hashlib.sha256()
        for start in range(0, len(self), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            learnt = [map(str, rows[part].tolist()) for rows in self.targets.values()]
            said = map(" ".join, zip(*learnt, strict=True)) if learnt else repeat("")
            lines = [f"{content} {targets}\n" for content, targets in zip(self.hashes[part], said, strict=False)]
            sha.update("".join(lines).encode())
        return sha.hexdigest()


def from_arrays(rows: Mapping[str, Field], columns: Mapping[str, np.ndarray], where: str) -> Examples:
    """Examples whose inputs are arrays already."""
    (first, labels), *_ = {**columns, **rows}.items()
    for name, array in {**rows, **columns}.items():
        count = "no" if isinstance(array, np.ndarray) and array.ndim == 0 else len(array)
        if count != len(labels):
            what = f"'{name}' has {count} rows, '{first}' has {len(labels)}"
            raise UserError("data", where, what, "give all the same length")
    if not len(labels):
        raise UserError("data", where, "there are no rows", "give at least one of each class")
    parts = zip(*(chunks(held) for held in rows.values()), strict=True)
    hashes = Digests.of(_row_hash(row) for part in parts for row in zip(*(v for _, v in part), strict=True))
    return Examples(numbered(len(labels)), columns, hashes, dict(rows))


def _row_hash(values: Sequence[np.ndarray]) -> bytes:
    sha = hashlib.sha256()
    for value in values:
        sha.update(repr(value).encode() if np.asarray(value).dtype == object else np.ascontiguousarray(value).tobytes())
    return sha.digest()


def grouped(examples: Examples, group: str) -> Sequence[str]:
    """The group of each example: what a column has, or what a regex finds in its file's name.

    Of a regex with parentheses the group is what they enclose.

    Raises:
      UserError: there is no such column, or a file in which the regex finds nothing.
    """
    if group in examples.columns:
        return [str(value) for value in examples.columns[group].tolist()]
    if examples.arrays is not None:
        guess = did_you_mean(group, examples.columns) or "name a column of the data"
        raise UserError("recipe", "data.group", f"there is no column '{group}'", guess)
    found = [re.search(group, file) for file in examples.sources]
    if None in found:
        file = examples.sources[found.index(None)]
        what = f"'{group}' is no column, and as a regex it finds nothing in {file} ({found.count(None)} such files)"
        raise UserError("recipe", "data.group", what, "write one that finds the group in every file's name")
    return [match[1] if match.re.groups else match[0] for match in found if match]


def hold_out(examples: Examples, share: float, groups: Sequence[str] | None = None) -> tuple[Examples, Examples]:
    """(to train on, to evaluate on), chosen by each example's content, or by its group: all of one go to one side.

    An example stays on its side when others come or go, and equal ones are always on the same side. A class that
    chance leaves without an example on one side gives the one nearest to the border, if it has two that differ.
    """
    place = _places(examples.hashes if groups is None else _digests_of(groups))
    held = place < share
    for labels in [t for t in examples.targets.values() if t.dtype.kind == "i" and share > 0]:
        for label in _on_one_side(labels, held):
            own = labels == label
            if place[own].min() == place[own].max():
                continue
            if not held[own].any():
                held |= place == place[own].min()
            elif held[own].all():
                held &= place != place[own].max()
    return examples.where(~held), examples.where(held)


def _on_one_side(labels: np.ndarray, held: np.ndarray) -> Iterator[int]:
    """The labels, in their order, of which all examples or none are held out when their turn comes.

    What is held out may change between two of them. Of all labels one by one, a hundred million examples would be
    looked at as often as there are classes.
    """
    every, count = np.bincount(labels), int(np.count_nonzero(held))
    apart = np.bincount(labels[held], minlength=len(every))
    for label in np.flatnonzero(every).tolist():
        if apart[label] in (0, every[label]):
            yield label
            if (now := int(np.count_nonzero(held))) != count:
                count, apart = now, np.bincount(labels[held], minlength=len(every))


def _places(digests: Sequence[str]) -> np.ndarray:
    """Where each digest stands between 0 and 1, by its first 52 bits: all that a float has room for."""
    if isinstance(digests, Digests):
        return (digests.heads >> np.uint64(12)) / 16**13
    return np.array([int(digest[:13], 16) / 16**13 for digest in digests])


def _digests_of(groups: Sequence[str]) -> Digests:
    known = {group: hashlib.sha256(group.encode()).digest() for group in set(groups)}
    return Digests.of(map(known.__getitem__, groups))
