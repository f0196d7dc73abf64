"""Puts a head on a backbone, and gives back one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import tensorflow as tf

from finetune.engine.compile import (
    Graft,
    Program,
    as_function,
    feature_shape,
    features_program,
    forward_program,
    step_program,
)
from finetune.engine.heads import HEADS, Flattening, flatten
from finetune.engine.heads import flattening as flattening_of
from finetune.engine.losses import LOSSES
from finetune.learning.tasks import Task
from finetune.names import node_of
from finetune.recipe import Head
from finetune.results.export import make_pair_graph
from finetune.surgery.backbone import mode_feeds
from finetune.surgery.source import Source
from finetune.surgery.variants import Variants

Shape = tuple[int | None, ...]
Probe = Callable[[], Mapping[str, Any]]
Function = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """The grafted model as pure functions of inputs and variables.

    `forward` gives the heads' outputs and losses in evaluation, `step` loss, gradients and updates in training.
    `said` tells how features become vectors; `feeds` are the mode feeds of both variants.
    """

    grafts: tuple[Graft, ...]
    feature_shape: tuple[int | None, ...]
    said: str
    inputs: Mapping[str, str]  # data field -> the tensor that takes it, in the pair that is written too
    variants: Variants
    forward: Function
    step: Function
    rates: Mapping[str, float]  # variable -> multiple of the learning rate
    updated: frozenset[str]  # variables that the source's own updates change

    @property
    def feeds(self) -> Mapping[str, Any]:
        return self.variants.feeds

    @property
    def new_variables(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the heads' variables, by full name."""
        return {name: shape for graft in self.grafts for name, shape in graft.variables.items()}


def graft(variants: Variants, heads: Mapping[str, Head], tasks: Sequence[Task], probe: Probe | None = None) -> Model:
    """Joins heads to the source, and compiles both variants.

    Args:
      heads: how each head is made, by name.
      tasks: what each of them learns.
      probe: gives arguments of the evaluation, inputs and variables, to run the backbone once on; it is asked only
        if neither the file nor shape inference knows how wide the cut is.

    Raises:
      UserError: the cut's width is unknown, no gradient reaches a variable, TensorFlow refuses the graph.
    """
    shape = feature_shape(variants.evaluation)
    if probe is not None and (not shape or shape[-1] is None):
        shape = _probed(variants, shape, probe())
        variants = replace(
            variants,
            training=replace(variants.training, shape=shape),
            evaluation=replace(variants.evaluation, shape=shape),
        )
    said, joined = [], []
    for task in tasks:
        flattening = flattening_of(shape, heads[task.name].pool)
        said.append(flattening.said)
        joined.append(_joined(task, heads[task.name], flattening))
    forward = forward_program(variants.evaluation, joined)
    return Model(
        grafts=tuple(joined),
        feature_shape=shape or (),
        said="; ".join(dict.fromkeys(said)),
        inputs=variants.evaluation.inputs,
        variants=variants,
        forward=as_function(forward, [n for n in forward.outputs if not n.endswith(("features", "/logits"))]),
        **_learning(variants, joined),
    )


def _joined(task: Task, head: Head, flattening: Flattening) -> Graft:
    variables_of, apply = HEADS[head.kind]
    target = (tf.int64, (None,)) if task.is_exclusive else (tf.float32, (None, task.outputs))
    flat = partial(flatten, how=flattening.how)
    return Graft(task.name, variables_of(flattening.width, task.outputs), flat, apply, LOSSES[task.loss], target=target)


def regraft(model: Model, variants: Variants) -> Model:
    """The model with another part of it learning: a step of its own, and the rest as it was.

    Raises:
      UserError: as `graft`.
    """
    variants = _of_one_shape(model, variants)
    return replace(model, variants=variants, **_learning(variants, model.grafts))


def check_gradients(model: Model, variants: Variants) -> None:
    """Refuses what `regraft` would refuse, and compiles nothing.

    Raises:
      UserError: no gradient reaches a variable, TensorFlow refuses the graph.
    """
    _step(_of_one_shape(model, variants), model.grafts)


def _of_one_shape(model: Model, variants: Variants) -> Variants:
    """Other variants of the source, with what the model knows of the shape of the cut."""
    known = model.variants.evaluation
    return replace(variants, training=replace(variants.training, shape=known.shape), evaluation=known)


def _learning(variants: Variants, joined: Sequence[Graft]) -> dict[str, Any]:
    """The fields of a model that say what learns."""
    rates, step = _step(variants, joined)
    return {
        "step": as_function(step, [name for name in step.outputs if not name.endswith("/logits")]),
        "rates": {name: rate for name, rate in rates.items() if f"gradient/{name}" in step.outputs},
        "updated": frozenset(u.variable for u in variants.training.updates),
    }


def _step(variants: Variants, joined: Sequence[Graft]) -> tuple[dict[str, float], Program]:
    """The rates of all that is to learn, and the program of a step."""
    rates = {**variants.rates(), **{name: 1.0 for new in joined for name in new.variables}}
    barriers = [b for b in variants.barriers if node_of(b) in variants.training.graph.nodes]
    asked = {fate.variable.name: fate.rule is not None for fate in variants.fates}
    learning = {name: asked.get(name, True) for name in rates}
    return rates, step_program(variants.training, joined, learning, barriers)


def _probed(variants: Variants, known: Shape | None, arguments: Mapping[str, Any]) -> Shape:
    """The shape of the cut as one batch shows it: its rank and its last size; the others may vary."""
    found = as_function(features_program(variants.evaluation))(arguments)["features"].shape.as_list()
    inner = known[1:-1] if known else (None,) * (len(found) - 2)
    return (None, *inner, found[-1])[: len(found)]


def pair_graph(source: Source, model: Model) -> Any:
    """The `MetaGraphDef` that is written back."""
    return make_pair_graph(
        source.meta,
        source.whole,
        source.cut,
        source.inputs,
        mode_feeds(model.feeds, "eval"),
        source.updates,
        source.tables,
        source.variables,
        source.shapes,
        model.grafts,
        model.feature_shape,
    )
