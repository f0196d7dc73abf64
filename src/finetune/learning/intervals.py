"""How far a metric may be off, for the held-out examples are only some of all there are: 95 % confidence intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from finetune.learning.metrics import Metric, values

LEVEL = 0.95
_Z = 1.959963984540054  # the normal quantile of (1 + LEVEL) / 2
RESAMPLES = 1000
_FEWER = 200  # where scikit-learn is asked, or examples are many: the time is bounded
_MANY = 20_000_000  # examples in all resamples

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


def bootstrap(of: Callable[[np.ndarray], float], count: int, seed: int, resamples: int) -> Interval | None:
    """The percentile interval of a function of drawn examples (Efron 1979), a function of the seed alone.

    None where there is nothing to draw from, or most draws have no value.

    Args:
      of: takes indices of examples, int [count].
    """
    if count < 2:
        return None
    random = np.random.default_rng(seed)
    found = np.array([of(random.integers(0, count, count)) for _ in range(resamples)])
    found = found[np.isfinite(found)]
    if 2 * len(found) < resamples:
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval(metric: Metric, targets: np.ndarray, outputs: np.ndarray, seed: int) -> Interval | None:
    """The interval of one metric; None where there is none."""
    if not metric.is_mean:
        resamples = _FEWER if metric.is_asked else _bounded(len(targets))
        return bootstrap(lambda i: float(values(metric, targets[i], outputs[i])), len(targets), seed, resamples)
    return interval_of_mean(values(metric, targets, outputs), seed)


def interval_of_mean(each: np.ndarray, seed: int) -> Interval | None:
    """The interval of the mean of numbers [n]."""
    if not np.isfinite(each).all():
        return None
    if np.isin(each, (0.0, 1.0)).all():
        return wilson(float(each.mean()), len(each))
    return bootstrap(lambda i: float(each[i].mean()), len(each), seed, _bounded(len(each)))


def _bounded(count: int) -> int:
    return max(_FEWER, min(RESAMPLES, _MANY // count))
