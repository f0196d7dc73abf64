"""Examples with the same content: between training and evaluation, and with labels that differ.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from finetune.examples.data import Examples

SHOWN = 3


def warnings(training: Examples, held_out: Examples, labels: Sequence[str]) -> list[str]:
    """What is wrong with equal examples, a line for each kind; `labels` are the columns that are learnt."""
    return [line for line in (_across(training, held_out), _contradicting(training, held_out, labels)) if line]


def copies(examples: Examples) -> list[list[int]]:
    """The places of examples that are equal to another one, those that are equal together."""
    alike: dict[str, list[int]] = {}
    for place, content in enumerate(examples.hashes):
        alike.setdefault(content, []).append(place)
    return [places for places in alike.values() if len(places) > 1]


def _across(training: Examples, held_out: Examples) -> str:
    seen = dict(zip(reversed(training.hashes), reversed(training.sources), strict=True))  # the first of equal ones
    both = [f"{s} = {seen[h]}" for h, s in zip(held_out.hashes, held_out.sources, strict=True) if h in seen]
    said = f"{len(both)} of {len(held_out)} held-out examples are in the training data too"
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
