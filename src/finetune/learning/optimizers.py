"""Keras optimizers by name, one for each rate."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from finetune import names
from finetune.errors import UserError

_BY_NAME = {name.lower(): kind for name, kind in vars(tf.keras.optimizers).items() if isinstance(kind, type)}

_NUMBERED = re.compile(r"^variable(_\d+)?$")  # of a variable that Keras gave no name, in the order of the process


class Groups:
    """The learning variables in groups of one rate, each with an optimizer of its own; the `spared` do not decay.

    Scaling gradients would not do: Adam and its kin divide the scale out again.
    """

    def __init__(
        self,
        name: str,
        learning_rate: float,
        arguments: Mapping[str, Any],
        rates: Mapping[str, float],
        variables: Mapping[str, Any],
        weight_decay: float | None = None,
        spared: Collection[str] = (),
    ):
        self._groups: dict[float, tuple[Any, list[str]]] = {}
        self._variables, self._learning_rate = variables, learning_rate
        for variable_name, variable in variables.items():
            variable.path = variable_name  # what Keras names slots after, and Muon tells matrices by
        for rate in sorted(set(rates.values()), reverse=True):
            members = [n for n, r in rates.items() if r == rate]
            optimizer = make(name, learning_rate * rate, arguments, weight_decay)
            optimizer.exclude_from_weight_decay([variables[n] for n in members if n in spared])
            optimizer.build([variables[n] for n in members])
            self._groups[rate] = (optimizer, members)

    def slow_down(self, share: Any) -> None:
        """Every group takes such a share of its learning rate from now on."""
        for rate, (optimizer, _) in self._groups.items():
            optimizer.learning_rate.assign(self._learning_rate * rate * share)

    def apply(self, gradients: Mapping[str, Any]) -> None:
        """One step of every group."""
        for optimizer, members in self._groups.values():
            optimizer.apply([gradients[n] for n in members], [self._variables[n] for n in members])

    @property
    def weight_decay(self) -> float | None:
        """The share of each decaying variable that a step takes, times the learning rate; one for all groups."""
        return next((optimizer.weight_decay for optimizer, _ in self._groups.values()), None)

    def restore(self, values: Mapping[str, Any]) -> None:
        """Takes up the state of other groups of the same kind; the learning rate stays this one's."""
        for name, variable in self.state().items():
            variable.assign(values[name])
        self.slow_down(1.0)

    def state(self) -> dict[str, Any]:
        """The optimizers' own variables, by the name that a checkpoint gives them."""
        found: dict[str, Any] = {}
        for rate, (optimizer, _) in self._groups.items():
            for variable in optimizer.variables:
                path = _NUMBERED.sub(optimizer.name, variable.path)
                found[names.unused(f"optimizer/{rate:g}/{path}", found)] = variable
        return found


def make(name: str, learning_rate: float, arguments: Mapping[str, Any], weight_decay: float | None = None) -> Any:
    """A Keras optimizer; with no `weight_decay` it does what it does by itself.

    Raises:
      UserError: an argument that it does not take.
    """
    try:
        # Keras would number the optimizers of a process, and the names of slots in a checkpoint with them.
        words = ("weight_decay", "adam_weight_decay") if name == "muon" else ("weight_decay",)  # it is two in one
        given = {} if weight_decay is None else dict.fromkeys(words, weight_decay)
        return _BY_NAME[name](**{"name": name, "learning_rate": learning_rate, **given, **arguments})
    except (TypeError, ValueError) as error:
        raise UserError(
            "recipe", "train.optimizer_args", f"{name} refuses {dict(arguments)}", str(error).splitlines()[0]
        ) from None
