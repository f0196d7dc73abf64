"""What is said of a step that is not finite: where it begins in the graph, and with which examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.errors import UserError, shortlist


def refusal(
    step: int, what: str, first: str | None, losses: np.ndarray, sources: Sequence[str], tried: int = 0
) -> UserError:
    """The error that ends the run.

    Args:
      first: what the first tensor is that is not finite; None if none was found.
      losses: of each example of the batch by itself, in evaluation, where no other example has a share in it.
      sources: the names of the examples of the batch.
      tried: how often the run has gone back already.

    >>> print(refusal(7, "the loss is nan", "input images has NaN", np.float32([0.5, np.nan]), ["a.png", "b.png"]))
    error[numerics] step 7: the loss is nan; mend these examples
      begins at: input images has NaN
      examples: b.png, the only one of the batch of 2 whose own loss is not finite
    """
    bad = [source for source, loss in zip(sources, losses, strict=True) if not np.isfinite(loss)]
    return UserError(
        "numerics",
        f"step {step}",
        what,
        _todo(first, tried),
        f"  begins at: {first or 'no tensor of the step, computed once more; perhaps the machine is not sound'}",
        f"  examples: {_told(bad, sources)}",
    )


def _todo(first: str | None, tried: int) -> str:
    if first is not None and first.startswith("input "):
        return "mend these examples"
    if tried:
        return f"lower train.learning_rate; to go back {tried} times and halve it each time did not help"
    return "lower train.learning_rate, or set train.on_nan=rollback; the checkpoints before this step are whole"


def _told(bad: Sequence[str], sources: Sequence[str]) -> str:
    count = len(sources)
    if 0 < len(bad) < count:
        only = "the only one" if len(bad) == 1 else "the only ones"
        return f"{shortlist(list(bad))}, {only} of the batch of {count} whose own loss is not finite"
    return f"{shortlist(list(sources))}, of which none stands out"
