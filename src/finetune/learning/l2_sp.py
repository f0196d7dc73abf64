"""A penalty on the way that learning variables have gone from their pretrained values.

Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks": to the
loss are added alpha/2 · ‖w - w⁰‖² over the source's variables, and beta/2 · ‖w‖² over the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from finetune.errors import UserError

Function = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Anchor:
    """Where a variable is drawn to, and how strongly."""

    value: Any
    strength: float


def anchors(
    learning: Iterable[str], pretrained: Mapping[str, Any], new: Iterable[str], alpha: float | None, beta: float | None
) -> dict[str, Anchor]:
    """Name -> anchor: of the source's own variables among `learning` if there is an alpha, of `new` ones for a beta.

    Raises:
      UserError: there is an alpha, and none of the source's variables learns.
    """
    own = [name for name in learning if name in pretrained]
    if alpha and not own:
        what = f"{alpha:g} is asked for, but no variable of the source learns"
        raise UserError("recipe", "train.l2_sp", what, "set stop_gradient to false, or take it back")
    found = {name: Anchor(tf.constant(pretrained[name]), alpha) for name in own} if alpha else {}
    return found | ({name: Anchor(0.0, beta) for name in new} if beta else {})


def penalised(program: Function, drawn: Mapping[str, Anchor]) -> Function:
    """The step with the penalty in its loss and in its gradients, and by itself as `l2_sp/loss`."""
    if not drawn:
        return program

    @tf.function
    def penalty(variables: Mapping[str, Any], gradients: Mapping[str, Any], scale: Any) -> tuple[Any, dict[str, Any]]:
        total, changed = tf.constant(0.0), {}
        for name, gradient in gradients.items():
            way = variables[name] - tf.cast(drawn[name].value, gradient.dtype)
            total += tf.cast(drawn[name].strength * tf.nn.l2_loss(way), tf.float32)  # half of the square
            pull = drawn[name].strength * way
            changed[name] = gradient + (pull if scale is None else tf.cast(scale, pull.dtype) * pull)
        return total, changed

    def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
        outputs = dict(program(arguments))
        values = {name: tf.convert_to_tensor(arguments[f"variable/{name}"]) for name in drawn}
        total, changed = penalty(values, {name: outputs[f"gradient/{name}"] for name in drawn}, arguments.get("scale"))
        pulled = {f"gradient/{name}": gradient for name, gradient in changed.items()}
        return outputs | pulled | {"loss": outputs["loss"] + total, "l2_sp/loss": total}

    return run
