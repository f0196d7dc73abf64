"""The shape and the dtype of every tensor of a backbone for batches of one size, as TensorFlow infers them.

Of a V1 loop TensorFlow gives up the shapes: it would have to know what a turn makes of them. So one turn is looked at
by itself: where what enters the loop leaves the turn with the same shape, it has it in every turn, and behind the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.engine.compile import control_flow_v1, import_graph
from finetune.graph import Graph, attr, changed, data_inputs, make_node
from finetune.names import node_of, tensor_name
from finetune.protos import AttrValue, TensorShapeProto
from finetune.surgery.backbone import Backbone

Shape = tuple[int | None, ...]
Shapes = dict[str, Shape | None]
Dtypes = dict[str, np.dtype]


def static_shapes(backbone: Backbone, rows: Mapping[str, Shape], batch: int) -> tuple[Shapes, Dtypes]:
    """The shapes by tensor name, None for an unknown rank, and the dtypes of those that are arrays of numbers.

    Args:
      rows: the shape of one example of each input, by field.
      batch: the number of examples.
    """
    nodes = dict(backbone.graph.nodes)
    for field, tensor in backbone.inputs.items():
        node, shape = nodes[node_of(tensor)], _message((batch, *rows[field]))
        nodes[node.name] = changed(node, attrs={**node.attr, "shape": AttrValue(shape=shape)})
    graph = backbone.graph.with_nodes(nodes)
    turns = _turns(graph)
    return _of_one_turn(backbone, graph, turns) if turns else _inferred(backbone, graph)


def _inferred(backbone: Backbone, graph: Graph) -> tuple[Shapes, Dtypes]:
    with control_flow_v1(), tf.Graph().as_default() as plain:
        import_graph(replace(backbone, graph=graph, shapes=dict.fromkeys(backbone.shapes)))
        tensors = [tensor for op in plain.get_operations() for tensor in op.outputs]
        shapes = {t.name: None if t.shape.rank is None else tuple(t.shape.as_list()) for t in tensors}
        numbers = [t for t in tensors if t.dtype.is_numpy_compatible and t.dtype not in (tf.string, tf.resource)]
        return shapes, {t.name: np.dtype(t.dtype.as_numpy_dtype) for t in numbers}


def _message(shape: Shape) -> Any:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1 if n is None else n) for n in shape])


# ---- Loops


def _turns(graph: Graph) -> dict[str, tuple[str, str]]:
    """`Merge` at the top of a V1 loop -> the tensor that enters there, and the one that a turn leaves."""
    found = {}
    for name, node in graph.nodes.items():
        if node.op in ("Merge", "RefMerge"):
            inner = [graph.nodes[node_of(ref)] for ref in data_inputs(node)]
            # What they read: inference gives up the shape of what enters.
            refs = {one.op.removeprefix("Ref"): tensor_name(data_inputs(one)[0]) for one in inner if data_inputs(one)}
            if refs.keys() == {"Enter", "NextIteration"}:
                found[name] = refs["Enter"], refs["NextIteration"]
    return found


def _of_one_turn(backbone: Backbone, graph: Graph, turns: Mapping[str, tuple[str, str]]) -> tuple[Shapes, Dtypes]:
    """The shapes in a graph whose loops turn once; what leaves a turn with another shape has none."""
    held: dict[str, Shape] = {}  # what is taken to keep its shape
    changes: set[str] = set()
    while True:
        shapes, dtypes = _inferred(backbone, _turned_once(graph, turns, held))
        entering = {merge: shapes[enter] for merge, (enter, _) in turns.items() if merge not in changes}
        # Of a loop in a loop, what enters is known when the outer one's is.
        if new := {merge: shape for merge, shape in entering.items() if shape is not None and merge not in held}:
            held |= new
        elif other := {merge for merge, shape in held.items() if shapes[turns[merge][1]] != shape}:
            changes |= other
            held = {}
        else:
            return shapes, dtypes


def _turned_once(graph: Graph, turns: Mapping[str, tuple[str, str]], held: Mapping[str, Shape]) -> Graph:
    """The graph with placeholders at the tops of its loops, where one turn begins."""
    tops = {}
    for merge in turns:
        kind = {"type": attr(graph.nodes[merge], "T").type}
        tops[merge] = make_node(merge, "Placeholder", dtype=kind, shape={"shape": TensorShapeProto(unknown_rank=True)})
        if merge in held:
            tops[merge].attr["shape"].shape.CopyFrom(_message(held[merge]))
    return replace(graph, nodes={**graph.nodes, **tops}, conds=(), whiles=())
