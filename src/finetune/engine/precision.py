"""Matrix products and convolutions of a program in 16 bits, all else in float32.

The inputs of each are cast, and its output is cast back, so that variables, sums, normalisations and losses keep their
precision (Micikevicius et al. 2018, "Mixed precision training"). This is done to the graph and not left to Grappler:
its `auto_mixed_precision` knows no bfloat16 on a GPU and nothing on most CPUs, and is a switch of the whole process,
evaluation and proof of load included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from finetune.engine.compile import Program
from finetune.graph import ancestors, attr
from finetune.protos import GraphDef, NodeDef

TYPES = {"mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}

# Op -> which of its inputs are of its type T; the others are sizes.
PRODUCTS = {
    "MatMul": (0, 1),
    "BatchMatMul": (0, 1),
    "BatchMatMulV2": (0, 1),
    "Conv2D": (0, 1),
    "Conv2DBackpropInput": (1, 2),
    "Conv2DBackpropFilter": (0, 2),
    "Conv3D": (0, 1),
    "Conv3DBackpropInputV2": (1, 2),
    "Conv3DBackpropFilterV2": (0, 2),
    "DepthwiseConv2dNative": (0, 1),
    "DepthwiseConv2dNativeBackpropInput": (1, 2),
    "DepthwiseConv2dNativeBackpropFilter": (0, 2),
}


@dataclass(frozen=True)
class Lowered:
    """A program of mixed precision, and how many of its nodes have 16 bits."""

    program: Program
    count: int


def lowered(program: Program, precision: str) -> Lowered:
    """The program with its float32 products and convolutions in the 16-bit type of `precision`.

    A node keeps its name for what is cast back, so that nothing else in the graph changes. Products in the bodies of
    functions stay as they are.
    """
    low = TYPES[precision].as_datatype_enum
    graph = GraphDef()
    graph.CopyFrom(program.graph)
    del graph.node[:]
    needed = ancestors({node.name: node for node in program.graph.node}, list(program.outputs.values()))
    casts: dict[str, str] = {}
    count = 0
    for node in program.graph.node:
        is_product = node.op in PRODUCTS and node.name in needed
        if not is_product or attr(node, "T").type != tf.float32.as_datatype_enum:
            graph.node.add().CopyFrom(node)
            continue
        count += 1
        product = graph.node.add()
        product.CopyFrom(node)
        product.name = f"{node.name}/finetune_low"
        product.attr["T"].type = low
        for place in PRODUCTS[node.op]:
            tensor = node.input[place]
            if tensor not in casts:
                casts[tensor] = f"{tensor.replace(':', '_')}/finetune_cast"
                _cast(graph.node.add(), casts[tensor], tensor, tf.float32.as_datatype_enum, low)
            product.input[place] = casts[tensor]
        _cast(graph.node.add(), node.name, product.name, low, tf.float32.as_datatype_enum)
    return Lowered(replace(program, graph=graph), count)


def _cast(node: NodeDef, name: str, tensor: str, source: Any, target: Any) -> None:
    node.name, node.op = name, "Cast"
    node.input.append(tensor)
    node.attr["SrcT"].type, node.attr["DstT"].type = source, target
