"""What depends on what in the forward half of a graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from finetune.graph import Graph, data_inputs
from finetune.names import node_of
from finetune.surgery.cut import places

SIZES = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")  # their value is not that of their input
_LAYERS = re.compile(
    r"(Batch|Sparse)?MatMul(V\d)?|.*Conv\dD.*|DepthwiseConv.*|SparseSegment.*|Quantized(MatMul|Conv).*"
)
_TRAINING_SCOPE = re.compile(r"(^|/)(gradients|save)(_\d+)?/")
_TRAINING_OP = re.compile(r"(Resource)?(Sparse)?Apply.*|Save.*|Restore.*")


@dataclass(frozen=True)
class Flow:
    """What depends on what in the forward half of a graph.

    `inputs` and `readers` are the nodes that each node reads, and that read it. `driven` depends on the data, which
    comes in at `sources`, `learned` on `variables`; neither goes on into gradients, optimizers and savers. `trained`
    are the nodes that gradients are computed from.
    """

    graph: Graph
    variables: frozenset[str]
    sources: frozenset[str]
    inputs: Mapping[str, Sequence[str]]
    readers: Mapping[str, Sequence[str]]
    driven: frozenset[str]
    learned: frozenset[str]
    trained: frozenset[str]
    inside: Mapping[str, str]

    @cached_property
    def mixed(self) -> frozenset[str]:
        """The nodes whose value depends on data and on variables."""
        return self.driven & self.learned

    def is_layer(self, name: str) -> bool:
        """Whether a node applies weights to data."""
        return _LAYERS.fullmatch(self.graph.nodes[name].op) is not None and self.meets_weights(name)

    def meets_weights(self, name: str) -> bool:
        """Whether one input of a node is made of variables alone, and another of data."""
        inputs = self.inputs[name]
        return any(i in self.driven for i in inputs) and any(i in self.learned and i not in self.driven for i in inputs)


def flow_of(graph: Graph, variables: Iterable[str], sources: Iterable[str]) -> Flow:
    """What depends on the variables and what on the sources of data, both given as names of nodes."""
    nodes = graph.nodes
    inputs: dict[str, Sequence[str]] = {}
    readers: dict[str, list[str]] = {}
    trained: set[str] = set()
    for node in nodes.values():
        inputs[node.name] = own = tuple(n for n in dict.fromkeys(map(node_of, data_inputs(node))) if n in nodes)
        if _TRAINING_SCOPE.search(node.name) or _TRAINING_OP.fullmatch(node.op):
            trained.update(own)
        else:
            for source in own:
                readers.setdefault(source, []).append(node.name)
    variables, sources = frozenset(variables), frozenset(sources)
    learned = reached_from(variables, lambda name: readers.get(name, ()))
    driven = reached_from(
        sources, lambda name: [r for r in readers.get(name, ()) if nodes[r].op not in SIZES or name in learned]
    )
    reached = frozenset(driven), frozenset(learned), frozenset(trained)
    return Flow(graph, variables, sources, inputs, readers, *reached, places(graph))


def reached_from(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    found = set(start)
    stack = list(found)
    while stack:
        for name in following(stack.pop()):
            if name not in found:
                found.add(name)
                stack.append(name)
    return found
