"""The share of the learning rate that a step takes: a function of its number, so that a resume needs no state.

Cosine: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", without restarts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "plateau": lambda done: 1.0,  # learning.monitor lets it fall, by what evaluations give
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


def share(schedule: str, step: int, steps: int, warmup: int) -> float:
    """The share at one of `steps` steps, counted from 1.

    It rises in equal parts over the first `warmup` steps, and then falls so that a step after the last would have none.

    >>> [share("linear", step, 6, 2) for step in range(1, 7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step <= warmup:
        return step / warmup
    done = (step - 1 - warmup) / max(1, steps - warmup)
    return DECAYS[schedule](min(done, 1.0))
