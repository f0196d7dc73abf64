"""Puts a head on a backbone, and gives back one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from finetune.engine import heads
from finetune.engine.compile import (
    Graft,
    Program,
    as_function,
    feature_shape,
    features_program,
    forward_program,
    step_program,
)
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

    `forward` gives probabilities and losses in evaluation, `step` loss, gradients and updates in training. `said`
    tells how features become vectors; `feeds` are the mode feeds of both variants.
    """

    graft: Graft
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


def graft(variants: Variants, head: Head, classes: int, probe: Probe | None = None) -> Model:
    """Joins a head to the source, and compiles both variants.

    Args:
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
    flattening = heads.flattening(shape, head.pool)
    variables_of, apply = heads.HEADS[head.kind]
    shapes = variables_of(flattening.width, classes)
    joined = Graft(head.name, shapes, partial(heads.flatten, how=flattening.how), apply)
    return Model(
        graft=joined,
        feature_shape=shape or (),
        said=flattening.said,
        inputs=variants.evaluation.inputs,
        variants=variants,
        forward=as_function(forward_program(variants.evaluation, joined), ["probabilities", "losses"]),
        **_learning(variants, joined),
    )


def regraft(model: Model, variants: Variants) -> Model:
    """The model with another part of it learning: a step of its own, and the rest as it was.

    Raises:
      UserError: as `graft`.
    """
    variants = _of_one_shape(model, variants)
    return replace(model, variants=variants, **_learning(variants, model.graft))


def check_gradients(model: Model, variants: Variants) -> None:
    """Refuses what `regraft` would refuse, and compiles nothing.

    Raises:
      UserError: no gradient reaches a variable, TensorFlow refuses the graph.
    """
    _step(_of_one_shape(model, variants), model.graft)


def _of_one_shape(model: Model, variants: Variants) -> Variants:
    """Other variants of the source, with what the model knows of the shape of the cut."""
    known = model.variants.evaluation
    return replace(variants, training=replace(variants.training, shape=known.shape), evaluation=known)


def _learning(variants: Variants, joined: Graft) -> dict[str, Any]:
    """The fields of a model that say what learns."""
    rates, step = _step(variants, joined)
    return {
        "step": as_function(step, [name for name in step.outputs if name != "logits"]),
        "rates": {name: rate for name, rate in rates.items() if f"gradient/{name}" in step.outputs},
        "updated": frozenset(u.variable for u in variants.training.updates),
    }


def _step(variants: Variants, joined: Graft) -> tuple[dict[str, float], Program]:
    """The rates of all that is to learn, and the program of a step."""
    rates = {**variants.rates(), **{name: 1.0 for name in joined.variables}}
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
        model.graft,
        model.feature_shape,
    )
