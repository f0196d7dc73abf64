"""How far a metric may be off, for the held-out examples are only some of all there are: 95 % confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from finetune.judging.metrics import Metric, the_mean, values

LEVEL = 0.95
_Z = 1.959963984540054  # the normal quantile of (1 + LEVEL) / 2
RESAMPLES = 1000
_FEWER = 200  # where each of them is computed by itself
_FEW = 50  # at least; between them the time is bounded by:
_MANY = 20_000_000  # examples in all resamples, where these are computed together
_SLOW = 5_000_000  # outputs in all resamples, where not
_AT_ONCE = 1_000_000  # examples drawn at once

Interval = tuple[float, float]


def wilson(share: float, count: int) -> Interval:
    """The interval of a share (Wilson 1927): sensible for a handful of examples, and where all of them are right.

    >>> "{:.3f} {:.3f}".format(*wilson(1.0, 10))
    '0.722 1.000'
    """
    centre = share + _Z**2 / (2 * count)
    spread = _Z * np.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    scale = 1 + _Z**2 / count
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def bootstrap(of: Callable[[np.ndarray], Any], count: int, seed: int, resamples: int) -> Interval | None:
    """The percentile interval of a function of drawn examples (Efron 1979), a function of the seed alone.

    None where there is nothing to draw from, or most draws have no value.

    Args:
      of: gives a number for each row of indices of examples, int [draws, count].
    """
    if count < 2:
        return None
    random = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // count)
    sizes = [min(at_once, resamples - first) for first in range(0, resamples, at_once)]
    found = np.concatenate([of(random.integers(0, count, (size, count))) for size in sizes])
    found = found[np.isfinite(found)]
    if 2 * len(found) < resamples:
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval(metric: Metric, targets: np.ndarray, outputs: np.ndarray, seed: int) -> Interval | None:
    """The interval of one metric; None where there is none."""
    if not np.isfinite(outputs).all():
        return None
    count, each, then = len(targets), values(metric, targets, outputs), metric.then
    if then is the_mean and np.isin(each, (0.0, 1.0)).all():
        return wilson(float(each.mean()), count)
    if then is not None:
        most = min(RESAMPLES, _MANY // count)
        return bootstrap(lambda draws: then(each[draws].mean(axis=1)), count, seed, max(_FEW, most))
    most = min(_FEWER, _SLOW // outputs.size)

    def of(draws: np.ndarray) -> list[float]:
        return [float(values(metric, targets[i], outputs[i])) for i in draws]

    return bootstrap(of, count, seed, max(_FEW, most))


def interval_of_mean(each: np.ndarray, seed: int) -> Interval | None:
    """The interval of the mean of numbers [n]."""
    return interval(Metric(lambda _, given: given[:, 0], the_mean), each, each[:, np.newaxis], seed)
