"""A backbone in two: the part that is computed once for each example, and the rest, which reads what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from finetune.caching.frontier import Frontier
from finetune.graph import ENUMS, make_node
from finetune.names import node_of
from finetune.protos import TensorShapeProto
from finetune.surgery.backbone import Backbone
from finetune.surgery.cut import cut

Named = Mapping[str, str]  # field -> tensor


def fields(frontier: Frontier) -> dict[str, str]:
    """A name for each kept tensor, under which it is an input of the rest."""
    return {f"kept_{number}": tensor for number, tensor in enumerate(frontier.tensors)}


def before(backbone: Backbone, frontier: Frontier) -> Backbone:
    """The part that is kept, with the frontier as its cuts; in inference it has no updates."""
    graph = cut(backbone.graph, frontier.tensors)
    return replace(
        backbone,
        graph=graph,
        inputs={field: tensor for field, tensor in backbone.inputs.items() if node_of(tensor) in graph.nodes},
        shapes={tensor: (None, *frontier.rows[tensor]) for tensor in frontier.tensors},
        updates=(),
        tables=tuple(t for t in backbone.tables if t.name in graph.nodes),
        draws=(),
    )


def behind(backbone: Backbone, frontier: Frontier) -> Backbone:
    """The rest: the kept tensors are its inputs, under their old names."""
    ends = [*backbone.shapes, *(update.node for update in backbone.updates)]
    graph = cut(backbone.graph, ends, frontier.tensors)
    placeholders = {}
    for tensor in frontier.tensors:
        sizes = [TensorShapeProto.Dim(size=n) for n in (-1, *frontier.rows[tensor])]
        kind, shape = {"type": ENUMS[frontier.dtypes[tensor]]}, {"shape": TensorShapeProto(dim=sizes)}
        placeholders[node_of(tensor)] = make_node(node_of(tensor), "Placeholder", dtype=kind, shape=shape)
    graph = graph.with_nodes({**graph.nodes, **placeholders})
    return replace(
        backbone,
        graph=graph,
        inputs=fields(frontier),
        tables=tuple(t for t in backbone.tables if t.name in graph.nodes),
    )
