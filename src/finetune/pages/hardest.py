"""Which held-out examples are worth looking at: the most wrong, and those that the model is least sure of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from finetune.examples.tasks import MANY_CLASSES, NUMBERS

MOST = 12  # of a kind, for each head

Columns = Mapping[str, Sequence[str]]  # of predictions.csv


def hardest(columns: Columns, prefix: str, loss: str) -> dict[str, list[int]]:
    """Lines of `predictions.csv`, counted from 0, by what is the matter with them; the worst first.

    Args:
      prefix: of the head's columns.
      loss: the kind of the head.
    """
    if f"{prefix}loss" not in columns:
        return {}
    losses = [_number(text) for text in columns[f"{prefix}loss"]]
    is_, said = columns[f"{prefix}label"], columns[f"{prefix}prediction"]
    if loss in NUMBERS:
        return {"most wrong": _first([-value for value in losses], range(len(losses)))}
    wrong = [i for i in range(len(losses)) if is_[i] != said[i]]
    doubts = [_margin(text, loss) for text in columns[f"{prefix}probability"]]
    return {"most wrong": _first([-value for value in losses], wrong), "least sure": _first(doubts, range(len(losses)))}


def _margin(text: str, loss: str) -> float:
    """How far a prediction is from being another; the probabilities of several classes are looked at one by one."""
    shares = [_number(share) for share in text.split()]
    distances = [abs(share - 0.5) for share in shares] if loss in MANY_CLASSES else shares
    return min(distances, default=math.inf)


def _first(values: Sequence[float], places: Sequence[int]) -> list[int]:
    known = [place for place in places if math.isfinite(values[place])]
    return sorted(known, key=lambda place: (values[place], place))[:MOST]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
