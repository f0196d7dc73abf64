"""Heads and losses that functions of the user's make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from finetune.engine.heads import Drop, Shapes
from finetune.errors import UserError
from finetune.own_functions import find, naming

Apply = Callable[..., Any]  # (features, variables, drop) -> logits


def own_head(path: str, key: str, width: int, outputs: int, hidden: Sequence[int]) -> tuple[Shapes, Apply]:
    """The head that `module:function` makes of (width, outputs, hidden).

    The function returns the shapes of the variables by name, and a function of features [batch, width], the variables
    by name, and `drop`, which drops a share of a tensor in training; that gives logits [batch, outputs]. It is called
    when the graph is built, and again for each program and for the written pair.

    Args:
      key: of the recipe, which names it.

    Raises:
      UserError: it fails, or returns something else.
    """
    with naming(path):
        made = find(path, key)(width, outputs, list(hidden))
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Mapping) and callable(made[1])):
        todo = "return the shapes of the variables by name, and a function (features, variables, drop) -> logits"
        raise UserError("recipe", path, f"it returns {_told(made)}", todo)
    shapes = {str(name): tuple(int(size) for size in shape) for name, shape in made[0].items()}

    def apply(features: Any, variables: Mapping[str, Any], drop: Drop = lambda x: x) -> Any:
        with naming(path):
            logits = tf.convert_to_tensor(made[1](features, variables, drop))
        if not logits.shape.is_compatible_with([None, outputs]) or logits.dtype != tf.float32:
            what = f"its logits are {logits.dtype.name} {logits.shape}"
            raise UserError("recipe", path, what, f"return float32 [batch, {outputs}]")
        return tf.identity(logits, name="logits")

    return shapes, apply


def own_objective(path: str, key: str) -> Callable[[Any, Any], Any]:
    """What `module:function` lessens in training: (logits, targets) -> a loss for each example, float32 [batch].

    Targets are int64 [batch] where an example has one class, else float32 [batch, outputs].

    Raises:
      UserError: it fails, or returns something else.
    """
    function = find(path, key)

    def objective(logits: Any, targets: Any) -> Any:
        with naming(path):
            losses = tf.convert_to_tensor(function(logits, targets))
        if losses.shape.rank != 1 or losses.dtype != tf.float32:
            what = f"its losses are {losses.dtype.name} {losses.shape}"
            raise UserError("recipe", path, what, "return float32 [batch], one for each example")
        return losses

    return objective


def _told(made: Any) -> str:
    return f"a {type(made).__name__} of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__name__}"
