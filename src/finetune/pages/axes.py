"""Where numbers lie on paper: round ticks, scales, and labels that do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_DECADES = 1.0  # a scale of more than so many powers of ten is logarithmic


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high`, laid out from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, count: int = 4) -> list[float]:
        """About so many round numbers."""
        if not self.is_log:
            return ticks(self.low, self.high, count)
        first, last = math.floor(math.log10(self.low)), math.floor(math.log10(self.high))
        between = max(1, -(-(last - first) // (count + 1)))
        factors = (1, 2, 5) if self.high < 1000 * self.low else (1,)
        marks = [factor * 10.0**power for power in range(first, last + 1, between) for factor in factors]
        return [float(f"{mark:.6g}") for mark in marks if self.low <= mark <= self.high]


def scale(values: Iterable[float], start: float, end: float, may_be_log: bool = False, room: float = 0.05) -> Scale:
    """A scale on which all the values lie, with some room at both ends."""
    given = list(values) or [0.0, 1.0]
    low, high = min(given), max(given)
    if may_be_log and low > 0 and high / low > 10**_DECADES:
        return Scale(low / 1.3, high * 1.3, start, end, is_log=True)
    if low == high:
        room = max(room, 0.05)
    spread = (high - low) or abs(high) or 1.0
    return Scale(low - room * spread, high + room * spread, start, end)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from low to high.

    >>> ticks(0.13, 0.87), ticks(0, 200)
    ([0.2, 0.4, 0.6, 0.8], [0.0, 50.0, 100.0, 150.0, 200.0])
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number as a figure writes it.

    >>> short(0.1), short(1e-7), short(12000.0), short(0.92063), short(1e10)
    ('0.1', '1e-07', '12,000', '0.9206', '1e+10')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 and float(value).is_integer() else f"{value:.4g}"


def exact(value: float) -> str:
    """A result as tables write it: three digits after the point, and of small numbers the first three that count.

    >>> exact(0.9206), exact(0.00273), exact(12.5)
    ('0.921', '0.00273', '12.500')
    """
    return f"{value:#.3g}" if 0 < abs(value) < 0.0995 else f"{value:.3f}"


def apart(places: Sequence[float], distance: float, least: float, most: float) -> list[float]:
    """Places moved so that neighbours are `distance` apart, as little as it takes, between `least` and `most`.

    >>> apart([10.0, 11.0, 50.0], 5.0, 0.0, 52.0)
    [8.0, 13.0, 50.0]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    groups: list[list[float]] = []  # [sum of what the members' first would be, members]
    for rank, index in enumerate(order):
        groups.append([places[index] - rank * distance, 1.0])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    moved = [0.0] * len(places)
    firsts = [total / count for total, count in groups for _ in range(int(count))]
    lowest, highest = least, most - distance * (len(places) - 1)
    for rank, (index, first) in enumerate(zip(order, firsts, strict=True)):
        moved[index] = round(max(lowest, min(first, max(lowest, highest))) + rank * distance, 1)
    return moved
