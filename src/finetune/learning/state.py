"""All that a step changes and a resume needs: variables and optimizers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.learning.averages import SUFFIX, make_averages
from finetune.learning.loss_scale import LossScale, make_loss_scale
from finetune.learning.optimizers import Groups
from finetune.recipe import Train
from finetune.surgery.source import of_piece


@dataclass(frozen=True)
class State:
    """The variables of the grafted model and the optimizers of those that learn.

    `live` are `tf.Variable`s that a step may change, `frozen` constants that none can. `pieces` are the slices of
    partitioned variables: name -> (key in the checkpoint, the Saver's text for the slice). `averages` are the moving
    averages of live variables, by their names; none where the recipe wants none.
    """

    live: Mapping[str, Any]
    frozen: Mapping[str, Any]
    groups: Groups
    pieces: Mapping[str, tuple[str, str]]
    averages: Mapping[str, Any] = field(default_factory=dict)
    scale: LossScale | None = None

    def arguments(self, inputs: Mapping[str, Any], targets: Mapping[str, Any], seed: Any = None) -> dict[str, Any]:
        """The arguments of a compiled program: inputs by field, targets by head, the variables, and a step's seed.

        Without a seed it is an evaluation, which takes the averages.
        """
        values = self.judged() if seed is None else self.variables()
        variables = {f"variable/{name}": value for name, value in values.items()}
        given = {f"input/{n}": t for n, t in inputs.items()} | {f"target/{n}": t for n, t in targets.items()}
        scale = {} if self.scale is None else {"scale": self.scale.factor}
        return {**variables, **given, **scale, "seed": (0, 0) if seed is None else seed}

    def variables(self) -> dict[str, Any]:
        """Every variable of the model by name."""
        return {**self.frozen, **self.live}

    def judged(self) -> dict[str, Any]:
        """Every variable as evaluation and the written pair take it: its average, where there is one."""
        return {**self.variables(), **self.averages}

    def everything(self, step: int) -> dict[str, Any]:
        """What a checkpoint for resuming holds."""
        return {**self.variables(), **self._beside(), "global_step": np.int64(step)}

    def keys(self) -> dict[str, str]:
        """What a resume reads: name -> key in the checkpoint."""
        names = [*self.variables(), *self._beside()]
        return {name: self.pieces.get(name, (name, ""))[0] for name in names}

    def restore(self, values: Mapping[str, np.ndarray]) -> None:
        """Takes up the values of a checkpoint, by name."""
        for name, variable in {**self.live, **self._beside()}.items():
            variable.assign(of_piece(values[name], self.pieces.get(name, ("", ""))[1]))

    def _beside(self) -> dict[str, Any]:
        """What steps change that is no variable of the model, by the name that a checkpoint gives it."""
        averages = {f"{name}{SUFFIX}": average for name, average in self.averages.items()}
        return {**self.groups.state(), **averages, **(self.scale.state() if self.scale is not None else {})}


def make_state(
    values: Mapping[str, np.ndarray],
    rates: Mapping[str, float],
    updated: Iterable[str],
    pieces: Mapping[str, tuple[str, str]],
    train: Train,
) -> State:
    """The state at step 0.

    Args:
      values: every variable of the model, by name.
      rates: the multiple of the learning rate of each that has a gradient.
      updated: those that the source's own updates change.
    """
    live = {*rates, *updated}
    variables = {n: tf.Variable(tf.constant(v), name=n.replace("/", "_")) for n, v in values.items() if n in live}
    frozen = {n: tf.constant(v) for n, v in values.items() if n not in live}
    groups = Groups(train.optimizer, train.learning_rate, train.optimizer_args, rates, variables)
    averages = {} if train.ema is None else make_averages(variables)
    scale = make_loss_scale() if train.precision == "mixed_float16" else None
    return State(variables, frozen, groups, pieces, averages, scale)


def digest(values: Mapping[str, Any]) -> str:
    """One hash over the names and the bytes of many tensors."""
    blake = hashlib.blake2b(digest_size=16)
    for name in sorted(values):
        array = np.asarray(values[name])
        blake.update(f"{name} {array.dtype} {array.shape}".encode())
        blake.update(np.ascontiguousarray(array).tobytes())
    return blake.hexdigest()


def check_frozen(values: Mapping[str, Any], certificate: str) -> None:
    """Compares frozen variables with the digest of the source's.

    Raises:
      UserError: one of them is no longer what it was.
    """
    if digest(values) != certificate:
        raise UserError(
            "numerics",
            "frozen variables",
            "are no longer bit-identical to the source",
            "do not use this run; please report it",
        )
