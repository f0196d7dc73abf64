"""Which of two settings is the faster one, for sure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

LEAST = 0.03  # of the time, which a setting has to save beyond what chance explains


def saving(before: Sequence[float], after: Sequence[float]) -> float:
    """The share of the time that a setting saves against another, less what repeats differ by.

    Both were measured in turns, so that a machine that is slow for a while is slow for both.

    >>> round(saving([4.0, 4.0, 8.0], [3.0, 3.0, 6.0]), 3)
    0.25
    >>> round(saving([4.0, 4.0, 4.0], [3.0, 3.6, 3.8]), 3)
    0.05

    Args:
      before: seconds of the one, in each round.
      after: seconds of the other, in the same rounds.
    """
    ratios = [new / old for old, new in zip(before, after, strict=True)]
    middle = median(ratios)
    return 1 - middle - median(abs(ratio - middle) for ratio in ratios)


def is_faster(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether it is worth leaving the one for the other; a tie or a doubt is none."""
    return len(before) > 1 and saving(before, after) >= LEAST
