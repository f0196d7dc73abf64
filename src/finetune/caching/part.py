"""The part of a model that may be computed once for each example, with the rest of it; or what forbids it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from finetune.caching.dependence import Dependence, dependences, in_order
from finetune.caching.frontier import Frontier, frontiers
from finetune.caching.splitting import before, behind, fields
from finetune.engine.shapes import Shape, static_shapes
from finetune.errors import UserError
from finetune.names import node_of
from finetune.surgery.backbone import Backbone
from finetune.surgery.variants import Variants

_ANY = 1_000_003  # examples: a prime, which no other size of a graph is a multiple of
_TRIED = 50  # places at which the part may end


@dataclass(frozen=True)
class Part:
    """What is kept, in training and in evaluation, and the rest, to which that is an input.

    `ended_by` says which op keeps it from going further, if one does that is not made to learn.
    """

    frontier: Frontier
    training: Backbone
    evaluation: Backbone
    rest: Variants
    ended_by: str = ""

    @property
    def fields(self) -> Mapping[str, str]:
        """The kept tensors, by the names that they have as inputs of the rest."""
        return fields(self.frontier)

    @property
    def is_to_the_cut(self) -> bool:
        """Whether nothing of the source is left to be computed."""
        return set(self.rest.training.shapes) <= set(self.frontier.tensors) and not self.rest.training.updates

    @property
    def is_one(self) -> bool:
        """Whether training and evaluation keep the same."""
        return self.training.graph.nodes == self.evaluation.graph.nodes

    def features_of(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """What `features_program` gives of one of the parts, under the names of the fields."""
        return {field: kept[f"features/{tensor}"] for field, tensor in self.fields.items()}


def find_parts(variants: Variants, rows: Mapping[str, Shape], batch_size: int | None) -> tuple[Iterator[Part], str]:
    """The parts that may be kept, the cheapest first, and what ends them all or why there is none.

    Args:
      rows: the shape of one example of each input, by field.
      batch_size: the number of examples that the source takes at once, None if any.
    """
    batch = batch_size or _ANY
    live = {*variants.moving(), *(adapter.variable for adapter in variants.adapters)}
    try:
        found, shapes, dtypes = _known(variants.training, rows, batch, live)
        is_one = variants.training.graph.nodes == variants.evaluation.graph.nodes
        judged = found if is_one else _known(variants.evaluation, rows, batch, live)[0]
    except UserError as error:  # it does not take any number of examples
        return iter(()), error.todo
    both = {f"{name}:0" for name, known in judged.items() if known.is_kept and found.get(name) == known}
    ends = [*variants.training.shapes, *(f"{update.node}:0" for update in variants.training.updates)]
    graph = variants.training.graph
    possible = frontiers(graph, ends, found, shapes, dtypes, batch, both)
    why = next((found[name].why for name in in_order(graph) if found[name].why), "")
    parts = (part for frontier in possible if (part := _part(variants, frontier, why)) is not None)
    if not possible and not why:
        why = "too little is computed below what learns" if live else "too little is computed below the cut"
    return islice(parts, _TRIED), why


def _known(
    backbone: Backbone, rows: Mapping[str, Shape], batch: int, live: set[str]
) -> tuple[dict[str, Dependence], dict[str, Shape | None], dict[str, np.dtype]]:
    shapes, dtypes = static_shapes(backbone, rows, batch)
    return dependences(backbone.graph, backbone.inputs.values(), live, shapes, batch), shapes, dtypes


def _part(variants: Variants, frontier: Frontier, why: str) -> Part | None:
    """The part up to a frontier; None if something behind it reads the examples themselves."""
    rest = {"training": behind(variants.training, frontier), "evaluation": behind(variants.evaluation, frontier)}
    given = {node_of(tensor) for tensor in variants.training.inputs.values()} - set(map(node_of, frontier.tensors))
    if any(given & backbone.graph.nodes.keys() for backbone in rest.values()):
        return None
    parts = before(variants.training, frontier), before(variants.evaluation, frontier)
    return Part(frontier, *parts, replace(variants, **rest), why)
