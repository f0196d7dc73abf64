"""Examples that a function of the user's makes.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.errors import UserError, shortlist
from finetune.learning.data import Examples
from finetune.learning.elements import from_elements, from_mapping
from finetune.names import did_you_mean


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
    made = _called(_function(path, key), path, args)
    if isinstance(made, Mapping):
        return from_mapping(made, fields, labels, others, path)
    if not (hasattr(made, "__len__") and hasattr(made, "__getitem__")) or isinstance(made, str):
        todo = "return a mapping of arrays, or something with len() and [number]"
        raise UserError("data", path, f"it returns a {type(made).__name__}", todo)
    return from_elements(made, fields, labels, others, path)


def _function(path: str, key: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(":") if ":" in path else path.rpartition(".")
    if not module or not name:
        raise UserError("data", key, f"'{path}' names no function", "write module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(path, error) from error
        here = [f[:-3] for f in os.listdir() if f.endswith(".py")]
        guess = did_you_mean(module, here) or f"it is looked for in {os.getcwd()} and among what is installed"
        raise UserError("data", key, f"there is no module '{error.name}'", guess) from None
    except Exception as error:
        raise _failed(path, error) from error
    if not callable(function := getattr(found, name, None)):
        names = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")]
        guess = did_you_mean(name, names) or f"it has {shortlist(names)}"
        raise UserError("data", key, f"{module} has no function '{name}'", guess)
    return function


def _called(function: Callable[..., Any], path: str, args: Mapping[str, Any]) -> Any:
    try:
        return function(**args)
    except UserError:
        raise
    except Exception as error:
        raise _failed(path, error) from error


def _failed(path: str, error: Exception) -> UserError:
    """The user's own error, with the line of the user's own code that it comes from."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if at.filename == __file__ else f" ({os.path.basename(at.filename)}, line {at.lineno})"
    what = f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
    return UserError("data", path, what, "this is raised by your own code; data.args are its arguments")
