"""The shape and the dtype of every tensor of a backbone for batches of one size, as TensorFlow infers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tensorflow as tf

from finetune.engine.compile import control_flow_v1, import_graph
from finetune.graph import changed
from finetune.names import node_of
from finetune.protos import AttrValue, TensorShapeProto
from finetune.surgery.backbone import Backbone

Shape = tuple[int | None, ...]


def static_shapes(
    backbone: Backbone, rows: Mapping[str, Shape], batch: int
) -> tuple[dict[str, Shape | None], dict[str, np.dtype]]:
    """The shapes by tensor name, None for an unknown rank, and the dtypes of those that are arrays of numbers.

    Args:
      rows: the shape of one example of each input, by field.
      batch: the number of examples.
    """
    nodes = dict(backbone.graph.nodes)
    for field, tensor in backbone.inputs.items():
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1 if n is None else n) for n in (batch, *rows[field])])
        node = nodes[node_of(tensor)]
        nodes[node.name] = changed(node, attrs={**node.attr, "shape": AttrValue(shape=shape)})
    with control_flow_v1(), tf.Graph().as_default() as graph:
        import_graph(replace(backbone, graph=backbone.graph.with_nodes(nodes), shapes=dict.fromkeys(backbone.shapes)))
        tensors = [tensor for op in graph.get_operations() for tensor in op.outputs]
        shapes = {t.name: None if t.shape.rank is None else tuple(t.shape.as_list()) for t in tensors}
        numbers = [t for t in tensors if t.dtype.is_numpy_compatible and t.dtype not in (tf.string, tf.resource)]
        return shapes, {t.name: np.dtype(t.dtype.as_numpy_dtype) for t in numbers}
