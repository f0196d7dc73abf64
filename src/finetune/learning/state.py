"""All that a step changes and a resume needs: variables and optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.bits import digest
from finetune.errors import UserError, shortlist
from finetune.learning import decay, monitor
from finetune.learning.averages import SUFFIX, make_averages
from finetune.learning.loss_scale import LossScale, make_loss_scale
from finetune.learning.optimizers import Groups
from finetune.recipe import Train
from finetune.surgery.source import of_piece


@dataclass(frozen=True)
class State:
    """The variables of the grafted model and the optimizers of those that learn.

    `live` are `tf.Variable`s that a step may change, `frozen` constants that none can. `pieces` are the slices of
    partitioned variables: name -> (key in the checkpoint, the Saver's text for the slice). `watched` are the numbers of
    the monitor, changed in place. `averages` are the moving averages of live variables, by their names; none where the
    recipe wants none.
    """

    live: Mapping[str, Any]
    frozen: Mapping[str, Any]
    groups: Groups
    pieces: Mapping[str, tuple[str, str]]
    said: tuple[str, ...] = ()  # which variables decay
    watched: np.ndarray = field(default_factory=lambda: monitor.Watch().numbers())
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
        return {**self.variables(), **self._beside(), monitor.TENSOR: self.watched, "global_step": np.int64(step)}

    def restore(self, values: Mapping[str, Any], begins: bool) -> None:
        """Takes up optimizers, averages, loss scale and watch that a checkpoint, or the phase before, leaves.

        Where a phase `begins`, its optimizers go on only if all that they hold is there: if it all learned before, by
        the same rule and at the same rates of `learn`. Else they stay new.

        Raises:
          UserError: something is not there, and no phase begins.
        """
        lacking = self._beside().keys() - values.keys()
        if lacking and not begins:
            what = f"the checkpoint to go on from lacks {shortlist(sorted(lacking))}"
            raise UserError("storage", "checkpoints", what, "remove the run folder to start anew")
        own = self.groups.state().keys()
        if not lacking & own:
            self.groups.restore(values)
        for name in self._beside().keys() - own - lacking:
            self._beside()[name].assign(values[name])
        self.conclude(monitor.watch_in(values))

    @property
    def watch(self) -> monitor.Watch:
        """What is concluded so far."""
        return monitor.from_numbers(self.watched)

    def conclude(self, watch: monitor.Watch) -> None:
        """Takes up what is concluded now."""
        self.watched[:] = watch.numbers()

    def nonfinite(self) -> list[str]:
        """The names of what a step has changed and that is not finite, optimizer slots included."""
        changed = {**self.live, **self._beside()}
        floats = {name: v for name, v in changed.items() if tf.as_dtype(v.dtype).is_floating}
        # The sum takes one pass and no memory; it is not finite if a summand is not, and hardly ever else.
        doubted = {name: v for name, v in floats.items() if not np.isfinite(float(tf.reduce_sum(v)))}
        return [name for name, v in doubted.items() if not np.isfinite(np.asarray(v, np.float64)).all()]

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
    """The state with new optimizers.

    Args:
      values: every variable of the model, by name.
      rates: the multiple of the learning rate of each that has a gradient.
      updated: those that the source's own updates change.

    Raises:
      UserError: an argument that the optimizer does not take, a pattern of `decay_exclude` that matches nothing, or
        that is there though nothing decays.
    """
    live = {*rates, *updated}
    variables = {n: tf.Variable(tf.constant(v), name=n.replace("/", "_")) for n, v in values.items() if n in live}
    frozen = {n: tf.constant(v) for n, v in values.items() if n not in live}
    spared = decay.spared({name: value.shape for name, value in values.items()}, train.decay_exclude)
    by_rule = (train.optimizer, train.learning_rate, train.optimizer_args)
    groups = Groups(*by_rule, rates, variables, train.weight_decay, spared)
    if train.decay_exclude and not groups.weight_decay:
        what = "says what does not decay, but nothing does"
        raise UserError("recipe", "train.decay_exclude", what, "add train.weight_decay=…, or take it back")
    said = tuple(decay.told(groups.weight_decay, rates, spared))
    averages = {} if train.ema is None else make_averages(variables)
    scale = make_loss_scale() if train.precision == "mixed_float16" else None
    return State(variables, frozen, groups, pieces, said, averages=averages, scale=scale)


def saved_keys(names: Iterable[str], pieces: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Where a checkpoint for resuming has variables: name -> key in the checkpoint."""
    return {name: pieces.get(name, (name, ""))[0] for name in names}


def as_saved(values: Mapping[str, np.ndarray], pieces: Mapping[str, tuple[str, str]]) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, each partitioned variable without the others' slices."""
    return {name: of_piece(value, pieces.get(name, ("", ""))[1]) for name, value in values.items()}


def check_frozen(values: Mapping[str, Any], certificate: str) -> None:
    """Compares frozen variables with the digest of what they were.

    Raises:
      UserError: one of them is no longer what it was.
    """
    if digest(values) != certificate:
        raise moved()


def moved(names: list[str] | None = None) -> UserError:
    """What to say where what was frozen has changed."""
    what = f"{f'({shortlist(names)}) ' if names else ''}are no longer bit-identical to what they started from"
    return UserError("numerics", "frozen variables", what, "do not use this run; please report it")
