"""Dropout that is baked into a source, with no feed to switch it off: known by its form, and passed over.

Forms, by release of TensorFlow: `x / keep * floor(keep + uniform)`, `x * (1 / keep) * cast(uniform >= 1 - keep)`, and
`select(uniform >= rate, x / keep, 0)`.
"""

from __future__ import annotations

from finetune.graph import Graph, attr, changed, consumers, control_inputs, data_inputs
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
    nodes = dict(graph.nodes)
    for name, kept in find_dropouts(graph).items():
        refs = [kept, *control_inputs(nodes[name])]
        nodes[name] = changed(nodes[name], op="Identity", input=refs, attrs={"T": attr(nodes[name], "T")})
    return graph.with_nodes(nodes)
