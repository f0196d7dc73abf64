"""Dropout that is baked into a source, with no feed to switch it off: known by its form, and passed over.

Forms, by release of TensorFlow: `x / keep * floor(keep + uniform)`, `x * (1 / keep) * cast(uniform >= 1 - keep)`, and
`select(uniform >= rate, x / keep, 0)`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finetune.graph import Graph, attr, changed, consumers, control_inputs, data_inputs, read_constant
from finetune.names import node_of

_SCALES = ("Mul", "Add", "AddV2", "Sub", "Identity")
_TO_MASK = ("Floor", "GreaterEqual")
_HANDS_ON = ("Cast", "Identity")
_SELECTS = ("Select", "SelectV2")


def find_dropouts(graph: Graph) -> dict[str, str]:
    """The node that gives the result of each dropout -> the tensor that it would pass on if it kept everything."""
    readers = consumers(graph.nodes)
    found: dict[str, str] = {}
    stack = [(n.name, False) for n in graph.nodes.values() if n.op == "RandomUniform"]
    seen = set(stack)
    while stack:
        name, is_mask = stack.pop()
        for reader in (graph.nodes[r] for r in readers.get(name, ())):
            inputs = data_inputs(reader)
            places = [i for i, ref in enumerate(inputs) if node_of(ref) == name]
            if is_mask and (reader.op == "Mul" or (reader.op in _SELECTS and 0 in places)):
                scaled = graph.nodes[node_of(inputs[1] if 0 in places else inputs[0])]
                if scaled.op in ("Mul", "Div", "RealDiv"):
                    found[reader.name] = data_inputs(scaled)[0]
                continue
            following = (reader.name, is_mask or reader.op in _TO_MASK)
            if reader.op in (_HANDS_ON if is_mask else (*_SCALES, *_TO_MASK)) and following not in seen:
                seen.add(following)
                stack.append(following)
    return found


def without_dropout(graph: Graph) -> Graph:
    """The graph with every dropout keeping everything."""
    return _passed_over(graph, find_dropouts(graph))


def without_idle_dropout(graph: Graph) -> Graph:
    """The graph without the dropouts that its constants make keep everything: the values are the same to the bit."""
    return _passed_over(graph, {name: kept for name, kept in find_dropouts(graph).items() if _is_idle(graph, name)})


def _is_idle(graph: Graph, result: str) -> bool:
    """Whether a dropout multiplies by one, at what its constants say."""
    masks = []
    for ref in data_inputs(graph.nodes[result]):
        node = graph.nodes[node_of(ref)]
        while node.op in _HANDS_ON:
            node = graph.nodes[node_of(data_inputs(node)[0])]
        masks += [node] if node.op in _TO_MASK else []
    if len(masks) != 1:
        return False
    if masks[0].op == "GreaterEqual":
        drawn, rate = data_inputs(masks[0])
        return _is_below_one(graph, drawn) and _number(graph, rate) == 0.0
    added = graph.nodes[node_of(data_inputs(masks[0])[0])]
    if added.op not in ("Add", "AddV2"):
        return False
    return any(
        _number(graph, keep) == 1.0 and _is_below_one(graph, drawn)
        for keep, drawn in (data_inputs(added), data_inputs(added)[::-1])
    )


def _is_below_one(graph: Graph, ref: str) -> bool:
    """Whether a tensor is `uniform`, or `uniform * 1 + 0`, as `tf.random_uniform` writes it."""
    node = graph.nodes[node_of(ref)]
    while node.op in ("Add", "AddV2", "Mul", "Identity"):
        first, *rest = data_inputs(node)
        if rest and _number(graph, rest[0]) != (1.0 if node.op == "Mul" else 0.0):
            return False
        node = graph.nodes[node_of(first)]
    return node.op == "RandomUniform"


def _number(graph: Graph, ref: str) -> float | None:
    """The value of a scalar that a few constants make; None if it is something else."""
    node = graph.nodes[node_of(ref)]
    value = read_constant(node)
    if value is not None:
        return float(value.reshape(-1)[0]) if value.size == 1 and value.dtype != object else None
    if node.op in ("Identity", "Cast", "Enter"):
        return _number(graph, data_inputs(node)[0])
    if node.op == "Sub":
        numbers = [_number(graph, each) for each in data_inputs(node)]
        return None if None in numbers else float(np.float32(numbers[0]) - np.float32(numbers[1]))
    return None


def _passed_over(graph: Graph, dropouts: Mapping[str, str]) -> Graph:
    if not dropouts:
        return graph
    nodes = dict(graph.nodes)
    for name, kept in dropouts.items():
        refs = [kept, *control_inputs(nodes[name])]
        nodes[name] = changed(nodes[name], op="Identity", input=refs, attrs={"T": attr(nodes[name], "T")})
    return graph.with_nodes(nodes)
