"""Functions of the user's own, by their dotted paths.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from finetune.errors import UserError, shortlist
from finetune.names import did_you_mean

# Where an error passes that is raised deep in a library, and that only the line which called it explains.
_NOT_OWN = (os.path.dirname(os.path.abspath(__file__)), *sysconfig.get_paths().values(), "<frozen")


def is_path(text: str) -> bool:
    """Whether this names a function and not one of ours.

    >>> is_path("mine:gated"), is_path("mine.heads.gated"), is_path("linear")
    (True, True, False)
    """
    return ":" in text or "." in text


def module_of(path: str) -> str:
    """The module of a function's path.

    >>> module_of("mine:gated"), module_of("mine.heads.gated")
    ('mine', 'mine.heads')
    """
    return path.rpartition(":")[0] if ":" in path else path.rpartition(".")[0]


def find(path: str, key: str, code: str = "recipe") -> Callable[..., Any]:
    """The function that `module:function` or `module.function` names, looked for from the current folder on.

    Args:
      key: of the recipe, which says so.

    Raises:
      UserError: of the code, there is none.
    """
    module = module_of(path)
    name = path[len(module) + 1 :]
    if not module or not name:
        raise UserError(code, key, f"'{path}' names no function", "write module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(1, os.getcwd())  # behind the folder that was started: a job's has the modules as they were
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(path, error, code) from error
        here = [f[:-3] for f in os.listdir() if f.endswith(".py")]
        guess = did_you_mean(module, here) or f"it is looked for in {os.getcwd()} and among what is installed"
        raise UserError(code, key, f"there is no module '{error.name}'", guess) from None
    except Exception as error:
        raise _failed(path, error, code) from error
    if not callable(function := getattr(found, name, None)):
        names = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")]
        guess = did_you_mean(name, names) or f"it has {shortlist(names)}"
        raise UserError(code, key, f"{module} has no function '{name}'", guess)
    return function


@contextmanager
def naming(path: str, code: str = "recipe", todo: str = "this is raised by your own code") -> Iterator[None]:
    """Makes an error of the user's own code one line, with the place in that code that it comes from."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _failed(path, error, code, todo) from error


def _failed(path: str, error: Exception, code: str, todo: str = "this is raised by your own code") -> UserError:
    passed = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_NOT_OWN)]
    place = f" ({os.path.basename(passed[-1].filename)}, line {passed[-1].lineno})" if passed else ""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
    return UserError(code, path, what, todo)
