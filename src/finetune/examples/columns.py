"""Columns of tables: what people call them, and what their cells are.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.names import did_you_mean


def find(label: str, there: Collection[str], where: str) -> str:
    """The name of a column of labels: the word of the recipe, or `label` where that is `labels`, the default.

    Raises:
      UserError: with the nearest name.
    """
    if label in there:
        return label
    if label == "labels" and "label" in there:
        return "label"
    guess = did_you_mean(label, there) or f"there are {shortlist(sorted(there))}"
    raise UserError("data", "data.labels", f"{where} has no '{label}'", guess)


def wanted(field: str, given: Mapping[str, Sequence[str]], there: Sequence[str], where: str) -> str:
    """The one name under which an input lies: that of `data.columns`, its own, or the only one that there is.

    Raises:
      UserError: with the nearest name.
    """
    names = given.get(field) or [field]
    if len(names) > 1:
        raise UserError("recipe", f"data.columns.{field}", f"{names} are several", "only csv tables join columns")
    if names[0] in there:
        return names[0]
    if not given.get(field) and len(given) == len(there) == 1:
        return there[0]
    guess = did_you_mean(names[0], there) or f"there are {shortlist(sorted(there))}"
    todo = guess if given.get(field) else f"{guess}; name it in data.columns={{{field}: [NAME]}}"
    raise UserError("data", f"source.inputs.{field}", f"{where} has no '{names[0]}'", todo)


def as_column(cells: Sequence[Any]) -> np.ndarray:
    """Cells as whole numbers or numbers if all of them are, or else as text; lists of equal length as a matrix.

    Several names in one cell are joined as a table would write them: `cat|dog`.

    >>> as_column(["1", "2"]), as_column([0.5, 1]), as_column(["a", "2"]).tolist()
    (array([1, 2]), array([0.5, 1. ]), ['a', '2'])
    """
    for number in (_whole, float):
        try:
            return np.asarray([[*map(number, c)] if isinstance(c, list) else number(c) for c in cells])
        except (ValueError, TypeError, OverflowError):
            continue
    return np.asarray(["|".join(map(str, c)) if isinstance(c, list) else str(c) for c in cells], object)


def _whole(cell: Any) -> int:
    if isinstance(cell, float):
        raise ValueError("a float stays one")
    return int(cell)
