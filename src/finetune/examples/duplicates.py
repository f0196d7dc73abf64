"""Examples with the same content: between training and evaluation, and with labels that differ.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune.examples.compact import sortable, taken
from finetune.examples.data import Examples

SHOWN = 3


def warnings(training: Examples, held_out: Examples, labels: Sequence[str]) -> list[str]:
    """What is wrong with equal examples, a line for each kind; `labels` are the columns that are learnt."""
    count = len(held_out)
    suspects = _repeated(np.concatenate([sortable(one.hashes) for one in (training, held_out) if len(one)]))
    training, held_out = training.where(suspects[: len(training)]), held_out.where(suspects[len(training) :])
    return [line for line in (_across(training, held_out, count), _contradicting(training, held_out, labels)) if line]


def copies(examples: Examples) -> list[list[int]]:
    """The places of examples that are equal to another one, those that are equal together."""
    alike: dict[str, list[int]] = {}
    suspects = np.flatnonzero(_repeated(sortable(examples.hashes)))
    for place, content in zip(suspects.tolist(), taken(examples.hashes, suspects), strict=True):
        alike.setdefault(content, []).append(place)
    return [places for places in alike.values() if len(places) > 1]


def _repeated(heads: np.ndarray) -> np.ndarray:
    """Which of them are there more than once: only these are looked at one by one."""
    ordered = np.sort(heads)
    return np.isin(heads, ordered[1:][ordered[1:] == ordered[:-1]])


def _across(training: Examples, held_out: Examples, count: int) -> str:
    seen = dict(zip(reversed(training.hashes), reversed(training.sources), strict=True))  # the first of equal ones
    both = [f"{s} = {seen[h]}" for h, s in zip(held_out.hashes, held_out.sources, strict=True) if h in seen]
    said = f"{len(both)} of {count} held-out examples are in the training data too"
    return f"warning: {said}: {_first(both)}" if both else ""


def _contradicting(training: Examples, held_out: Examples, names: Sequence[str]) -> str:
    known: dict[str, tuple[str, tuple[Any, ...]]] = {}
    found = []
    for examples in (training, held_out):
        labels = zip(*(examples.columns[name].tolist() for name in names), strict=True)
        for content, source, label in zip(examples.hashes, examples.sources, labels, strict=True):
            first, other = known.setdefault(content, (source, label))
            if other != label:
                found.append(f"{source} ({_joined(label)}) = {first} ({_joined(other)})")
    said = f"{len(found)} examples have the content of another one and another label"
    return f"warning: {said}: {_first(found)}" if found else ""


def _joined(labels: Iterable[Any]) -> str:
    return ", ".join(map(str, labels))


def _first(items: Iterable[str]) -> str:
    items = list(items)
    more = ["…"] if len(items) > SHOWN else []
    return ", ".join([*items[:SHOWN], *more])
