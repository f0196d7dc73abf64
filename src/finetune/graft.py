"""Puts a head on a backbone, and gives back one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from finetune import heads
from finetune.backbone import default_feeds, make_backbone, phase_feeds
from finetune.compile import Graft, as_function, feature_shape, forward_program, step_program
from finetune.errors import UserError
from finetune.export import make_pair_graph
from finetune.freeze import Fate
from finetune.names import node_of
from finetune.recipe import Head
from finetune.source import Source

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
    feeds: Mapping[str, Any]
    forward: Function
    step: Function
    rates: Mapping[str, float]  # variable -> multiple of the learning rate
    updated: frozenset[str]  # variables that the source's own updates change

    @property
    def live(self) -> set[str]:
        """The variables that training changes."""
        return {*self.rates, *self.updated}


def graft(source: Source, fates: Sequence[Fate], barriers: Sequence[str], head: Head, classes: int) -> Model:
    """Joins the head to the source, and compiles both phases.

    Raises:
      UserError: the head's scope is taken, the cut's width is unknown, TensorFlow refuses the graph.
    """
    scope = head.name
    taken = [n for n in source.below.nodes if n == scope or n.startswith(f"{scope}/")]
    if taken:
        raise UserError(
            "recipe",
            "head.name",
            f"the source has '{taken[0]}' below the cut",
            f"name it otherwise, e.g. head.name={scope}2",
        )
    live = {f.variable.name for f in fates if f.rate}
    feeds = {**source.feeds, **default_feeds(source.below, source.feeds, learns=bool(live))}
    updates = [u for u in source.updates if u.variable in live]
    evaluating = make_backbone(source.whole, source.cut, source.inputs, phase_feeds(feeds, "eval"))
    learning = make_backbone(source.whole, source.cut, source.inputs, phase_feeds(feeds, "train"), updates)
    shape = feature_shape(evaluating)
    flattening = heads.flattening(shape, head.pool)
    variables_of, apply = heads.HEADS[head.kind]
    shapes = variables_of(flattening.width, classes)
    joined = Graft(scope, shapes, partial(heads.flatten, how=flattening.how), apply)
    updated = frozenset(u.variable for u in learning.updates)
    rates = {f.variable.name: f.rate for f in fates if f.rate and f.variable.name not in {u.variable for u in updates}}
    # A variable that only the evaluation graph reads has no gradient, and nothing to learn from.
    rates = {name: rate for name, rate in rates.items() if name in learning.graph.nodes}
    rates |= {name: 1.0 for name in joined.variables}
    step = step_program(learning, joined, list(rates), [b for b in barriers if node_of(b) in learning.graph.nodes])
    return Model(
        graft=joined,
        feature_shape=shape or (),
        said=flattening.said,
        feeds=feeds,
        forward=as_function(forward_program(evaluating, joined), ["probabilities", "losses"]),
        step=as_function(step, [name for name in step.outputs if name != "logits"]),
        rates=rates,
        updated=updated,
    )


def pair_graph(source: Source, model: Model) -> Any:
    """The `MetaGraphDef` that is written back."""
    return make_pair_graph(
        source.meta,
        source.whole,
        source.cut,
        source.inputs,
        phase_feeds(model.feeds, "eval"),
        source.updates,
        source.variables,
        source.shapes,
        model.graft,
        model.feature_shape,
    )
