"""Branches whose predicate is known: the taken one stays, the other goes.

`tf.cond` of TensorFlow 1 is `Switch` and `Merge` nodes. Once `is_training` is a constant, one side of each
`Switch` is dead; what only dead values reach is dead too, and a `Merge` with one live input is that input.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune.graph import Graph, attr, changed, constant, consumers, control_inputs, data_inputs, read_constant
from finetune.names import is_control, node_of, port_of
from finetune.surgery.bodies import CONTROL_FLOW, LOOPS, branches
from finetune.surgery.functions import decided

_SWITCH = ("Switch", "RefSwitch")
_MERGE = ("Merge", "RefMerge")
_BACK = ("NextIteration", "RefNextIteration")
_SAME = ("Identity", "StopGradient", "PlaceholderWithDefault", "Squeeze", "Reshape", "Snapshot", "Cast")
_LOGIC: dict[str, Any] = {
    "LogicalNot": np.logical_not,
    "LogicalAnd": np.logical_and,
    "LogicalOr": np.logical_or,
    "Equal": np.equal,
    "NotEqual": np.not_equal,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
}


def fold(graph: Graph) -> Graph:
    """The graph without the branches that its constants rule out.

    Nodes of dead branches are removed; contexts are left for `cut.pruned` to tidy. The branch of an `If` or a `Case`
    that is taken stands in its place, which may decide the next.
    """
    while (after := decided(graph, _chosen(graph))) is not graph:
        graph = after
    taken = {
        node.name: bool(value)
        for node in graph.nodes.values()
        if node.op in _SWITCH and (value := scalar(graph, node.input[1])) is not None
    }
    if not taken:
        return graph
    dead = _dead_outputs(graph, taken)
    return fold(graph.with_nodes(_without(graph, taken, dead)))


def _chosen(graph: Graph) -> dict[str, Any]:
    """The branch that each `If` or `Case` with a known predicate takes."""
    found = {}
    for node in graph.nodes.values():
        if node.op not in CONTROL_FLOW or node.op in LOOPS or not node.input:
            continue
        value, functions = scalar(graph, node.input[0]), branches(node)
        if isinstance(value, bool | int | float):
            index = int(value) if node.op.endswith("Case") else 0 if value else 1
            found[node.name] = functions[index if 0 <= index < len(functions) else -1]
    return found


def scalar(graph: Graph, ref: str, depth: int = 0) -> Any:
    """The value of a scalar that depends on constants alone through logic and comparison; else None."""
    node = graph.nodes.get(node_of(ref))
    if node is None or depth > 50:
        return None
    if node.op == "Const":
        value = read_constant(node)
        return value.reshape(()).item() if value is not None and value.size == 1 else None
    inputs = data_inputs(node)
    if node.op in _SAME and inputs:
        return scalar(graph, inputs[0], depth + 1)
    if node.op in _LOGIC:
        values = [scalar(graph, r, depth + 1) for r in inputs]
        return None if any(v is None for v in values) else _LOGIC[node.op](*values)
    return None


def _dead_outputs(graph: Graph, taken: dict[str, bool]) -> set[tuple[str, int | None]]:
    """(node, port) of each output that never gets a value; port None stands for all of a node's outputs."""
    readers = consumers(graph.nodes)
    dead: set[tuple[str, int | None]] = {(name, 0 if side else 1) for name, side in taken.items()}
    stack = list(taken)
    while stack:
        for reader in readers.get(stack.pop(), ()):
            if (reader, None) not in dead and _dies(graph.nodes[reader], dead, graph):
                dead.add((reader, None))
                stack.append(reader)
    return dead


def _is_dead(ref: str, dead: set[tuple[str, int | None]]) -> bool:
    name = node_of(ref)
    if (name, None) in dead:
        return True
    return not is_control(ref) and (name, port_of(ref)) in dead


def _dies(node: Any, dead: set[tuple[str, int | None]], graph: Graph) -> bool:
    refs = data_inputs(node)
    if node.op in _MERGE:
        # The way back into a loop is alive exactly if the loop is ever entered.
        entering = [r for r in refs if graph.nodes[node_of(r)].op not in _BACK]
        return all(_is_dead(r, dead) for r in entering)
    return any(_is_dead(r, dead) for r in node.input)


def _without(graph: Graph, taken: dict[str, bool], dead: set[tuple[str, int | None]]) -> dict[str, Any]:
    through: dict[str, str] = {}  # an input as written -> what it is once the switches are gone
    for name in taken:
        source = graph.nodes[name].input[0]
        through[name] = through[f"{name}:0"] = through[f"{name}:1"] = source

    def resolve(ref: str) -> str:
        while ref in through:
            ref = through[ref]
        return ref

    nodes: dict[str, Any] = {}
    for name, node in graph.nodes.items():
        if name in taken or (name, None) in dead:
            continue
        controls = [r for r in control_inputs(node) if node_of(r) not in taken]
        refs = [resolve(r) for r in data_inputs(node)]
        if node.op in _MERGE:
            live = [i for i, r in enumerate(data_inputs(node)) if not _is_dead(r, dead)]
            if len(live) == 1 and len(refs) > 1:
                attrs = {"T": attr(node, "T")}
                nodes[name] = changed(node, op="Identity", input=[refs[live[0]]], attrs=attrs)
                index = constant(f"{name}/value_index", live[0], dtype=3)
                nodes[index.name] = index
                through[f"{name}:1"] = index.name
                continue
        nodes[name] = changed(node, input=[*refs, *controls])
    # A reader of a Merge's second output may stand before it in the file.
    return {
        name: changed(node, input=[resolve(r) if not is_control(r) else r for r in node.input])
        if any(r in through for r in node.input)
        else node
        for name, node in nodes.items()
    }
