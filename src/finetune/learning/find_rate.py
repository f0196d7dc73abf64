"""The learning rate found by a short sweep over many.

Smith 2017, "Cyclical learning rates for training neural networks", section 3.3: the rate grows from step to step, and
the loss shows where it begins to learn and where it diverges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.errors import UserError

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
SKIPPED = 10  # first steps that no suggestion looks at
DIVERGED = 4.0  # times the best loss
MEMORY = 0.9  # of the mean over past losses: a batch is a noisy witness


@dataclass(frozen=True)
class Sweep:
    """The rates of the steps made, the loss before each, and its mean over the past."""

    rates: Sequence[float]
    losses: Sequence[float]
    smooth: Sequence[float]


def rate_at(step: int) -> float:
    """The rate of a step of the sweep, counted from 1."""
    return LOWEST * (HIGHEST / LOWEST) ** ((step - 1) / (STEPS - 1))


def sweep(step: Callable[[int], float]) -> Sweep:
    """Calls `step` with 1, 2, … until the loss it gives diverges; it takes `rate_at` its number."""
    rates, losses, smooth = [], [], []
    mean = 0.0
    for number in range(1, STEPS + 1):
        try:
            loss = step(number)
        except UserError as error:
            if error.code != "numerics" or not rates:
                raise
            break
        mean = MEMORY * mean + (1.0 - MEMORY) * loss
        rates.append(rate_at(number))
        losses.append(loss)
        smooth.append(mean / (1.0 - MEMORY**number))
        if smooth[-1] > DIVERGED * min(smooth):
            break
    return Sweep(rates, losses, smooth)


def steepest(found: Sweep) -> float | None:
    """The rate at which the loss falls fastest, over the logarithm of the rate; None if it never falls."""
    rates, losses = _telling(found)
    if len(rates) < 3:
        return None
    slopes = np.gradient(np.asarray(losses), np.log(rates))
    place = int(slopes.argmin())
    return rates[place] if slopes[place] < 0 else None


def valley(found: Sweep) -> float | None:
    """The rate in the middle of the longest descent, which may have bumps; None if the loss never falls.

    The descent is the longest falling subsequence of the losses, as in fastai's `valley`, and its middle is its middle
    member: where the loss lies flat there are few of them.
    """
    rates, losses = _telling(found)
    length, before = [1] * len(losses), [-1] * len(losses)
    for here in range(len(losses)):
        for past in range(here):
            if losses[past] > losses[here] and length[past] >= length[here]:
                length[here], before[here] = length[past] + 1, past
    if max(length, default=1) < 3:
        return None
    place = int(np.argmax(length))
    for _ in range(length[place] // 2):
        place = before[place]
    return rates[place]


def _telling(found: Sweep) -> tuple[Sequence[float], Sequence[float]]:
    """Rates and smooth losses without those of the first steps, whose mean has little behind it."""
    return found.rates[SKIPPED:], found.smooth[SKIPPED:]
