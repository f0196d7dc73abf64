"""Finds where in a program the first NaN or Inf comes from: after the fact, for one batch.

Every float tensor passes a `CheckNumerics`, inside loops and branches too. A tensor that fails stops what is computed
from it, so the one that is reported was computed from finite ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from finetune.engine.compile import Program, as_function, control_flow_v1
from finetune.errors import UserError
from finetune.graph import make_node, rewired
from finetune.names import input_ref, node_of, unused
from finetune.protos import GraphDef

# These only pass on what others computed, and TensorFlow looks for them where a frame begins, ends and turns around.
_PASSING = ("Enter", "Exit", "Merge", "NextIteration", "Switch")
_CONSTANT = "Const"  # the same in every step, and -Inf in one is how attention masks are made


def first_nonfinite(program: Program, arguments: Mapping[str, Any]) -> str | None:
    """What the first tensor is that is not finite, and how it is not; None if the program computes only finite ones.

    Where several have no common cause, it is any of them.
    """
    try:
        as_function(checked(program))(arguments)
    except UserError as error:
        failed = re.search(r"(\S+) : Tensor had (\S+)(?: and (\S+))? values", str(error.__cause__))
        if failed is None:
            return None
        kinds = " and ".join(kind.strip(",") for kind in failed.groups()[1:] if kind)
        return f"{_said(program, failed[1])} has {kinds}"
    return None


def _said(program: Program, tensor: str) -> str:
    for name, fed in program.inputs.items():
        if node_of(fed) == node_of(tensor):
            return name.replace("/", " ", 1)  # an input or a variable
    return f"tensor {tensor}"


def checked(program: Program) -> Program:
    """The program with a check behind every float tensor, which its readers and its outputs read instead."""
    nodes = {node.name: node for node in program.graph.node}
    scope = unused("finetune_check", {name.partition("/")[0] for name in nodes})
    kinds = _kinds(program.graph)
    checks: dict[str, Any] = {}  # by tensor
    for name, node in nodes.items():
        for port, kind in enumerate(kinds[name] if node.op not in (*_PASSING, _CONSTANT) else ()):
            if kind in (tf.float16, tf.bfloat16, tf.float32, tf.float64):
                tensor = f"{name}:{port}"
                told = {"T": {"type": kind.as_datatype_enum}, "message": {"s": tensor.encode()}}
                checks[tensor] = make_node(f"{scope}/{name}/{port}", "CheckNumerics", [tensor], **told)
    graph = GraphDef()
    graph.CopyFrom(program.graph)
    del graph.node[:]
    graph.node.extend(rewired(nodes, {input_ref(t): check.name for t, check in checks.items()}).values())
    graph.node.extend(checks.values())
    outputs = {name: f"{checks[t].name}:0" if t in checks else t for name, t in program.outputs.items()}
    return replace(program, graph=graph, outputs=outputs)


def _kinds(definition: Any) -> dict[str, list[Any]]:
    """The dtypes of the outputs of every node, by its name."""
    plain = tf.compat.v1.GraphDef.FromString(definition.SerializeToString())
    with control_flow_v1(), tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(plain, name="")
        return {op.name: [output.dtype for output in op.outputs] for op in graph.get_operations()}
