"""A dry run: the next steps are made and nothing of them is kept, so that a job fails before it waits in a queue."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np

from finetune.judging.evaluate import losses_of
from finetune.learning.train import NonFinite
from finetune.running.session import Session
from finetune.running.setbacks import diagnosis


def rehearse(session: Session) -> list[str]:
    """Makes two steps and looks at one held-out batch; gives the lines that say what came out and how long it takes.

    Raises:
      UserError: a step is not finite, the data cannot be read.
    """
    plan, first = session.plan, session.start + 1
    left = session.stop - session.start
    lines, step, taken = [], session.step_with(session.share, session.recipe.train.ema), []
    given = session.training_batches(session.start, session.start + min(left, 2))
    for number, (inputs, targets, _) in enumerate(given, first):  # at the first one it is compiled
        began = time.monotonic()
        try:
            found = {name: float(value) for name, value in step(number, inputs, targets).items()}
        except NonFinite as bad:
            raise diagnosis(session, bad) from bad
        taken.append(time.monotonic() - began)
        lines.append(f"step {number}: " + "  ".join(f"{name} {value:.4g}" for name, value in found.items()))
    for inputs, targets, indices in islice(session.in_order(plan.held_out), 1 if len(plan.held_out) else 0):
        losses = losses_of(session.model.forward(session.state.arguments(inputs, targets)), plan.tasks)
        lines.append(f"held-out: loss {np.mean(losses):.4g} on a batch of {len(indices)}")
    if taken:
        lines.append(f"time: {taken[-1]:.2g} s a step ({taken[0]:.2g} s the first one); steps left: {left}")
    return [*lines, "dry run: nothing is written; the same command without --dry-run trains"]
