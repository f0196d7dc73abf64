"""The contexts of V1 loops, told from their nodes, for a graph that has lost its collections.

Without them no gradient passes a loop, and nothing says what stands inside one.
Format: `WhileContextDef`, tensorflow/core/protobuf/control_flow.proto.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.graph import Graph, attr, consumers, data_inputs, make_node
from finetune.names import node_of, port_of, tensor_name, unused
from finetune.protos import WhileContextDef


def with_contexts(graph: Graph) -> Graph:
    """The graph with a context for each of its loops, and the exits that were cut off it; loops in loops get none."""
    graph = _with_exits(graph)
    frames: dict[str, list[Any]] = defaultdict(list)
    for node in graph.nodes.values():
        if node.op == "Enter":
            frames[attr(node, "frame_name").s.decode(errors="replace")].append(node)
    readers = consumers(graph.nodes)
    found = [_context(graph, name, enters, _inside(graph, readers, enters)) for name, enters in frames.items()]
    return replace(graph, whiles=(*graph.whiles, *(context for context in found if context is not None)))


def _with_exits(graph: Graph) -> Graph:
    """The graph with an exit for every loop variable: a gradient stops without a word at a loop that lacks one."""
    conditions = {node.name for node in graph.nodes.values() if node.op == "LoopCond"}
    switches = [n for n in graph.nodes.values() if n.op == "Switch" and node_of(n.input[1]) in conditions]
    left = {node_of(node.input[0]) for node in graph.nodes.values() if node.op == "Exit"}
    nodes = dict(graph.nodes)
    for switch in switches:
        if switch.name not in left:
            name = unused(f"{switch.name}/Exit", nodes)
            nodes[name] = make_node(name, "Exit", [switch.name], T={"type": attr(switch, "T").type})
    return graph.with_nodes(nodes)


def _inside(graph: Graph, readers: Mapping[str, Sequence[str]], enters: Sequence[Any]) -> dict[str, Any]:
    """What follows the entries of a loop, its exits the last, in the order of the graph."""
    found: set[str] = set()
    stack = [node.name for node in enters]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            if graph.nodes[name].op != "Exit":
                stack.extend(readers.get(name, ()))
    return {name: node for name, node in graph.nodes.items() if name in found}


def _context(graph: Graph, frame: str, enters: Sequence[Any], inside: Mapping[str, Any]) -> Any:
    """The context of one loop; None if it is not built as `tf.while_loop` builds one."""
    own = {node.name for node in enters}
    conditions = [node for node in inside.values() if node.op == "LoopCond"]
    merges = [node for node in inside.values() if node.op == "Merge" and node_of(node.input[0]) in own]
    bodies = [node for node in inside.values() if node.op == "Identity" and _enters_body(graph, node, conditions)]
    nested = any(node.op == "Enter" and node.name not in own for node in inside.values())
    if nested or len(conditions) != 1 or not merges or not bodies:
        return None
    constant = {node.name for node in enters if attr(node, "is_constant").b}
    context = WhileContextDef(
        context_name=frame,
        parallel_iterations=attr(enters[0], "parallel_iterations").i or 10,
        back_prop=True,
        pivot_name=f"{conditions[0].name}:0",
        pivot_for_pred_name=f"{merges[0].name}:0",
        pivot_for_body_name=f"{bodies[0].name}:0",
        loop_enter_names=[f"{node.name}:0" for node in enters if node.name not in constant],
        loop_exit_names=[f"{node.name}:0" for node in inside.values() if node.op == "Exit"],
    )
    read = {tensor_name(ref) for node in inside.values() for ref in data_inputs(node) if node_of(ref) in inside}
    values = dict.fromkeys([*(f"{name}:0" for name in inside), *sorted(read)])
    for node in enters:
        if node.name in constant:
            outer = tensor_name(node.input[0])
            context.values_def.external_values[outer] = f"{node.name}:0"
            values[outer] = None
    context.values_def.values.extend(values)
    return context


def _enters_body(graph: Graph, node: Any, conditions: Sequence[Any]) -> bool:
    """Whether a node takes a loop variable into the body, where the condition holds."""
    switch = graph.nodes[node_of(node.input[0])]
    decided = switch.op == "Switch" and node_of(switch.input[1]) in {c.name for c in conditions}
    return decided and port_of(node.input[0]) == 1
