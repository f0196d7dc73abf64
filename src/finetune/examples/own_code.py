"""Examples that a function of the user's makes.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import UserError
from finetune.examples.data import Examples
from finetune.examples.elements import from_elements, from_mapping
from finetune.own_functions import find, naming


def read_from_code(
    path: str,
    args: Mapping[str, Any],
    fields: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    others: Sequence[str],
    key: str = "data.path",
) -> Examples:
    """What `module:function`, found from the current folder on, returns for `args`.

    That is a mapping of arrays, or anything with a length whose elements are mappings or pairs.

    Raises:
      UserError: there is no such function, it fails, or it returns something else.
    """
    function = find(path, key, "data")
    with naming(path, "data", "this is raised by your own code; data.args are its arguments"):
        made = function(**args)
    if isinstance(made, Mapping):
        return from_mapping(made, fields, labels, others, path)
    if not (hasattr(made, "__len__") and hasattr(made, "__getitem__")) or isinstance(made, str):
        todo = "return a mapping of arrays, or something with len() and [number]"
        raise UserError("data", path, f"it returns a {type(made).__name__}", todo)
    return from_elements(made, fields, labels, others, path)
