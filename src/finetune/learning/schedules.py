"""The share of the learning rate that a step takes: a function of its number, so that a resume needs no state.

Cosine: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", without restarts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

# (how much of the run is done, the share at its end) -> the share. `step` falls at given steps, and `plateau` by what
# evaluations give: learning.monitor has it.
DECAYS: dict[str, Callable[[float, float], float]] = {
    "constant": lambda done, end: 1.0,
    "linear": lambda done, end: end + (1.0 - end) * (1.0 - done),
    "cosine": lambda done, end: end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * done)),
    "exponential": lambda done, end: end**done,
    "step": lambda done, end: 1.0,
    "plateau": lambda done, end: 1.0,
}


def share(
    schedule: str,
    step: int,
    steps: int,
    warmup: int,
    end: float = 0.0,
    decay_steps: Sequence[float] = (),
    decay_rate: float = 0.1,
) -> float:
    """The share at one of `steps` steps, counted from 1.

    It rises in equal parts over the first `warmup` steps, and then falls so that a step after the last would have
    `end`. With `step` it falls to `decay_rate` of itself after each of `decay_steps`: steps of the run, the warm-up
    among them, or below 1 shares of `steps`.

    >>> [share("linear", step, 6, 2) for step in range(1, 7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> [share("step", step, 6, 0, decay_steps=[2, 0.5], decay_rate=0.5) for step in range(1, 7)]
    [1.0, 1.0, 0.5, 0.25, 0.25, 0.25]
    """
    if step <= warmup:
        return step / warmup
    done = (step - 1 - warmup) / max(1, steps - warmup)
    passed = sum(step > (at if at >= 1 else round(at * steps)) for at in decay_steps)
    return DECAYS[schedule](min(done, 1.0), end) * decay_rate**passed
