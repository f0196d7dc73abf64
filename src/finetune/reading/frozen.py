"""Frozen graphs: which of their constants are weights, and these as the variables that they once were.

A constant of floats is a weight if a layer takes it where layers take weights, as it is or reshaped on the way. All
other constants stay what they are: what scales an image, how the axes are transposed, what a state starts from.
"""

from __future__ import annotations

import math
import re
from typing import Any

from finetune.graph import Graph, attr, consumers, data_inputs, from_meta, make_node, to_meta
from finetune.names import node_of
from finetune.protos import VariableDef
from finetune.reading.loops import with_contexts

_FLOATS = (1, 2, 19)  # float, double, half
# Op -> the inputs at which it takes weights.
_LAYERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"), (0, 1)),
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative", "Dilation2D"), (1,)),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), (1,)),
    **dict.fromkeys(("BiasAdd", "BiasAddV1"), (1,)),
    **dict.fromkeys(("Gather", "GatherV2", "GatherNd"), (0,)),
    "LSTMBlockCell": (3, 4, 5, 6, 7),
    "BlockLSTM": (4, 5, 6, 7, 8),
    "GRUBlockCell": (2, 3, 4, 5),
}
# Op -> the inputs at which it takes the mean and the variance of what it normalises, and those for scale and offset.
_NORMALISERS = {
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), ((3, 4), (1, 2))),
    "BatchNormWithGlobalNormalization": ((1, 2), (3, 4)),
}
# Arithmetic of layers that are written out; a single number there is an epsilon or a scale. What is subtracted from
# data is mostly the mean of the images, so only what something is subtracted from counts.
_ARITHMETIC = {"Add": (0, 1), "AddV2": (0, 1), "Mul": (0, 1), "Sub": (0,)}
# Op -> the input that it hands on, as it is or in another shape.
_PASSES = {
    **dict.fromkeys(("Identity", "Enter", "Switch", "Cast", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs"), 0),
    **dict.fromkeys(("Reshape", "Transpose", "ExpandDims", "Squeeze", "StridedSlice", "SplitV"), 0),
    "Split": 1,
}
_STATISTICS = re.compile(r"(^|/)(moving|running|pop(ulation)?)_(mean|var(iance)?)(_\d+)?$", re.IGNORECASE)


def weights(graph: Graph) -> dict[str, bool]:
    """The constants that are weights, and whether the source trained them by gradients, which statistics are not.

    A constant that waits for another node stands in a loop or a branch, where no variable can stand, and stays one.
    """
    readers = consumers(graph.nodes)
    found = {}
    for node in graph.nodes.values():
        size = _size(node)
        if not size:
            continue
        uses = _uses(graph, readers, node.name, size > 1)
        if uses:
            found[node.name] = "statistics" not in uses and not _STATISTICS.search(node.name)
    return found


def with_variables(meta: Any) -> Any:
    """The `MetaGraphDef` with its weights as variables, and the collections that freezing it has lost."""
    graph = from_meta(meta)
    found = weights(graph)
    nodes = {name: _variable(node) if name in found else node for name, node in graph.nodes.items()}
    result = to_meta(with_contexts(graph.with_nodes(nodes)))
    result.meta_info_def.tensorflow_version = meta.meta_info_def.tensorflow_version
    for name, trainable in found.items():
        content = VariableDef(variable_name=f"{name}:0", trainable=trainable).SerializeToString()
        for collection in ("variables", *(["trainable_variables"] if trainable else [])):
            result.collection_def[collection].bytes_list.value.append(content)
    return result


def _size(node: Any) -> int:
    """The number of values of a constant that could be a weight, else 0."""
    if node.op != "Const" or node.input or attr(node, "dtype").type not in _FLOATS:
        return 0
    sizes = [d.size for d in attr(node, "value").tensor.tensor_shape.dim]
    return math.prod(sizes) if sizes else 0


def _uses(graph: Graph, readers: dict[str, list[str]], name: str, several: bool) -> set[str]:
    """What layers take a value for: "weights", "statistics"."""
    found, seen, stack = set(), {name}, [name]
    while stack:
        source = stack.pop()
        for reader in (graph.nodes[r] for r in readers.get(source, ())):
            places = {i for i, ref in enumerate(data_inputs(reader)) if node_of(ref) == source}
            statistics, scales = _NORMALISERS.get(reader.op, ((), ()))
            slots = (*_LAYERS.get(reader.op, ()), *scales, *(_ARITHMETIC.get(reader.op, ()) if several else ()))
            if places.intersection(statistics):
                found.add("statistics")
            if places.intersection(slots):
                found.add("weights")
            if _PASSES.get(reader.op) in places and reader.name not in seen:
                seen.add(reader.name)
                stack.append(reader.name)
    return found


def _variable(node: Any) -> Any:
    kind, shape = attr(node, "dtype").type, attr(node, "value").tensor.tensor_shape
    return make_node(node.name, "VariableV2", dtype={"type": kind}, shape={"shape": shape}, shared_name={"s": b""})
