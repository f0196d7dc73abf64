"""Puts a head on a backbone, and gives back one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import tensorflow as tf

from finetune.engine.compile import Graft, as_function, feature_shape, features_program, forward_program, step_program
from finetune.engine.heads import HEADS, Flattening, flatten
from finetune.engine.heads import flattening as flattening_of
from finetune.engine.losses import LOSSES
from finetune.engine.precision import lowered
from finetune.learning.tasks import Task
from finetune.names import node_of
from finetune.recipe import Head
from finetune.results.export import make_pair_graph
from finetune.surgery.backbone import phase_feeds
from finetune.surgery.phases import Phases
from finetune.surgery.source import Source

Shape = tuple[int | None, ...]
Probe = Callable[[], Mapping[str, Any]]
Function = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """The grafted model as pure functions of inputs and variables.

    `forward` gives the heads' outputs and losses in evaluation, `step` loss, gradients and updates in training.
    `said` tells how features become vectors; `feeds` are the mode feeds of both phases.
    """

    grafts: tuple[Graft, ...]
    feature_shape: tuple[int | None, ...]
    said: str
    inputs: Mapping[str, str]  # data field -> the tensor that takes it, in the pair that is written too
    feeds: Mapping[str, Any]
    forward: Function
    step: Function
    rates: Mapping[str, float]  # variable -> multiple of the learning rate
    updated: frozenset[str]  # variables that the source's own updates change
    products: int = 0  # nodes of the step that compute in 16 bits

    @property
    def new_variables(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the heads' variables, by full name."""
        return {name: shape for graft in self.grafts for name, shape in graft.variables.items()}


def graft(
    phases: Phases,
    heads: Mapping[str, Head],
    tasks: Sequence[Task],
    probe: Probe | None = None,
    precision: str = "float32",
    xla: bool = False,
) -> Model:
    """Joins heads to the source, and compiles both phases.

    Args:
      heads: how each head is made, by name.
      tasks: what each of them learns.
      probe: gives arguments of the evaluation, inputs and variables, to run the backbone once on; it is asked only
        if neither the file nor shape inference knows how wide the cut is.
      precision: of the training step; the evaluation is always float32.
      xla: whether the training step is compiled with XLA.

    Raises:
      UserError: the cut's width is unknown, no gradient reaches a variable, TensorFlow refuses the graph.
    """
    shape = feature_shape(phases.evaluation)
    if probe is not None and (not shape or shape[-1] is None):
        shape = _probed(phases, shape, probe())
        phases = replace(
            phases,
            training=replace(phases.training, shape=shape),
            evaluation=replace(phases.evaluation, shape=shape),
        )
    said, joined = [], []
    for task in tasks:
        flattening = flattening_of(shape, heads[task.name].pool)
        said.append(flattening.said)
        joined.append(_joined(task, heads[task.name], flattening))
    rates = {**phases.rates(), **{name: 1.0 for new in joined for name in new.variables}}
    barriers = [b for b in phases.barriers if node_of(b) in phases.training.graph.nodes]
    asked = {fate.variable.name: fate.rule is not None for fate in phases.fates}
    learning = {name: asked.get(name, True) for name in rates}
    step = step_program(phases.training, joined, learning, barriers, is_scaled=precision == "mixed_float16")
    low = None if precision == "float32" else lowered(step, precision)
    forward = forward_program(phases.evaluation, joined)
    return Model(
        grafts=tuple(joined),
        feature_shape=shape or (),
        said="; ".join(dict.fromkeys(said)),
        inputs=phases.evaluation.inputs,
        feeds=phases.feeds,
        forward=as_function(forward, [n for n in forward.outputs if not n.endswith(("features", "/logits"))]),
        step=as_function(low.program if low else step, [n for n in step.outputs if not n.endswith("/logits")], xla),
        rates={name: rate for name, rate in rates.items() if f"gradient/{name}" in step.outputs},
        updated=frozenset(u.variable for u in phases.training.updates),
        products=low.count if low else 0,
    )


def _joined(task: Task, head: Head, flattening: Flattening) -> Graft:
    variables_of, apply = HEADS[head.kind]
    target = (tf.int64, (None,)) if task.is_exclusive else (tf.float32, (None, task.outputs))
    flat = partial(flatten, how=flattening.how)
    return Graft(task.name, variables_of(flattening.width, task.outputs), flat, apply, LOSSES[task.loss], target=target)


def _probed(phases: Phases, known: Shape | None, arguments: Mapping[str, Any]) -> Shape:
    """The shape of the cut as one batch shows it: its rank and its last size; the others may vary."""
    found = as_function(features_program(phases.evaluation))(arguments)["features"].shape.as_list()
    inner = known[1:-1] if known else (None,) * (len(found) - 2)
    return (None, *inner, found[-1])[: len(found)]


def pair_graph(source: Source, model: Model) -> Any:
    """The `MetaGraphDef` that is written back."""
    return make_pair_graph(
        source.meta,
        source.whole,
        source.cut,
        source.inputs,
        phase_feeds(model.feeds, "eval"),
        source.updates,
        source.tables,
        source.variables,
        source.shapes,
        model.grafts,
        model.feature_shape,
    )
