"""Which variables weight decay draws towards zero: matrices and kernels, unless they are named."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from finetune.errors import UserError, shortlist
from finetune.names import did_you_mean


def spared(shapes: Mapping[str, Sequence[int]], exclude: Sequence[str]) -> frozenset[str]:
    """The variables that do not decay: those of rank 0 and 1, as biases and normalisation have, and those named.

    Args:
      shapes: of every variable of the model.
      exclude: regexes of whole names.

    Raises:
      UserError: a regex that matches nothing.
    """
    for number, pattern in enumerate(exclude):
        if not any(re.fullmatch(pattern, name) for name in shapes):
            what = f"'{pattern}' matches none of the {len(shapes)} variables"
            todo = did_you_mean(pattern, shapes) or "a pattern matches a whole name"
            raise UserError("recipe", f"train.decay_exclude[{number}]", what, todo)
    small = {name for name, shape in shapes.items() if len(shape) <= 1}
    return frozenset(small | {name for name in shapes if any(re.fullmatch(pattern, name) for pattern in exclude)})


def told(decay: float | None, learning: Iterable[str], sparing: Collection[str]) -> list[str]:
    """A line that says which of the learning variables decay; none where none does.

    >>> told(0.05, ["fc7/weights", "fc7/biases", "head/kernel"], {"fc7/biases"})
    ['weight decay: 0.05 on fc7/weights, head/kernel; not on fc7/biases']
    """
    if not decay:
        return []
    learning = list(learning)
    decayed, left = [n for n in learning if n not in sparing], [n for n in learning if n in sparing]
    without = f"; not on {shortlist(left)}" if left else ""
    return [f"weight decay: {decay:g} on {shortlist(decayed) or 'no variable'}{without}"]
