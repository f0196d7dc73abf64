"""Puts a head on a backbone, and gives back one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from finetune.engine import heads
from finetune.engine.compile import Graft, as_function, feature_shape, features_program, forward_program, step_program
from finetune.engine.nonfinite import first_nonfinite
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

    `forward` gives probabilities and losses in evaluation, `step` loss, gradients and updates in training. `said`
    tells how features become vectors; `feeds` are the mode feeds of both phases.
    """

    graft: Graft
    feature_shape: tuple[int | None, ...]
    said: str
    inputs: Mapping[str, str]  # data field -> the tensor that takes it, in the pair that is written too
    feeds: Mapping[str, Any]
    forward: Function
    step: Function
    first_nonfinite: Callable[[Mapping[str, Any]], str | None]  # of what `step` computes
    rates: Mapping[str, float]  # variable -> multiple of the learning rate
    updated: frozenset[str]  # variables that the source's own updates change


def graft(phases: Phases, head: Head, classes: int, probe: Probe | None = None) -> Model:
    """Joins a head to the source, and compiles both phases.

    Args:
      probe: gives arguments of the evaluation, inputs and variables, to run the backbone once on; it is asked only
        if neither the file nor shape inference knows how wide the cut is.

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
    flattening = heads.flattening(shape, head.pool)
    variables_of, apply = heads.HEADS[head.kind]
    shapes = variables_of(flattening.width, classes)
    joined = Graft(head.name, shapes, partial(heads.flatten, how=flattening.how), apply)
    rates = {**phases.rates(), **{name: 1.0 for name in joined.variables}}
    barriers = [b for b in phases.barriers if node_of(b) in phases.training.graph.nodes]
    asked = {fate.variable.name: fate.rule is not None for fate in phases.fates}
    step = step_program(phases.training, joined, {name: asked.get(name, True) for name in rates}, barriers)
    return Model(
        graft=joined,
        feature_shape=shape or (),
        said=flattening.said,
        inputs=phases.evaluation.inputs,
        feeds=phases.feeds,
        forward=as_function(forward_program(phases.evaluation, joined), ["probabilities", "losses"]),
        step=as_function(step, [name for name in step.outputs if name != "logits"]),
        first_nonfinite=partial(first_nonfinite, step),
        rates={name: rate for name, rate in rates.items() if f"gradient/{name}" in step.outputs},
        updated=frozenset(u.variable for u in phases.training.updates),
    )


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
        model.graft,
        model.feature_shape,
    )
