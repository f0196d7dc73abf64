"""Tensors at which a graph could be cut, best first: the last activations before its old outputs."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from finetune.cut import places
from finetune.graph import FLOATS, Graph, attr, data_inputs, recorded_shape
from finetune.names import node_of, port_of, tensor_name

# Where a graph turns features into an answer: what these read are logits.
_ANSWERS = re.compile(r"(Log)?Softmax|.*CrossEntropy.*|ArgMax|Sigmoid|CTC.*|InTopK.*|TopK.*")
_LAYERS = re.compile(
    r"(Batch|Sparse)?MatMul(V\d)?|.*Conv\dD.*|DepthwiseConv.*|SparseSegment.*|Quantized(MatMul|Conv).*"
)
_ACTIVATIONS = (
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Tanh", "Sigmoid", "Maximum"),
    *("Max", "Mean", "Sum", "AvgPool", "MaxPool", "Reshape", "Squeeze", "Transpose", "ConcatV2", "Concat"),
    *("Gather", "GatherV2", "GatherNd", "StridedSlice", "Exit", "DepthToSpace"),
)
_LINEAR = ("BiasAdd", "Add", "AddV2", "AddN")
# What one Python call made of several nodes: its inside is nobody's feature.
_INNER = re.compile(r"(^|/)(Tensordot|\w*cross_entropy\w*|xentropy|\w*loss(es)?(_\d+)?)/", re.IGNORECASE)
_SIZES = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")  # their value is not that of their input
_NEVER = re.compile(r".*Summary.*|Assign.*|Assert|Print.*|Save.*|Restore.*|.*Enqueue.*|NoOp|L2Loss|.*Variable.*")
_TRAINING_SCOPE = re.compile(r"(^|/)(gradients|save)(_\d+)?/")
_TRAINING_OP = re.compile(r"(Resource)?(Sparse)?Apply.*|Save.*|Restore.*")

_MOST_ANSWERS = 40
_SHOWN = 10


@dataclass(frozen=True)
class Flow:
    """What depends on what in the forward half of a graph.

    `driven` depends on the data, `learned` on variables; neither goes on into gradients, optimizers and savers.
    """

    graph: Graph
    variables: frozenset[str]
    driven: frozenset[str]
    learned: frozenset[str]
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
        inputs = [node_of(ref) for ref in data_inputs(self.graph.nodes[name])]
        return any(i in self.learned - self.driven for i in inputs) and any(i in self.driven for i in inputs)

    def first_meetings(self) -> Iterable[str]:
        """The nodes at which data first meets variables."""
        for name in self.mixed:
            inputs = [node_of(ref) for ref in data_inputs(self.graph.nodes[name])]
            if self.meets_weights(name) and any(i in self.driven and i not in self.learned for i in inputs):
                yield name


def flow_of(graph: Graph, variables: Iterable[str], sources: Iterable[str]) -> Flow:
    """What depends on the variables and what on the sources of data, both given as names of nodes."""
    readers: dict[str, list[str]] = {}
    for node in graph.nodes.values():
        if _TRAINING_SCOPE.search(node.name) or _TRAINING_OP.fullmatch(node.op):
            continue
        for source in {node_of(ref) for ref in data_inputs(node)}:
            readers.setdefault(source, []).append(node.name)
    variables = frozenset(variables)
    learned = _reached(variables, lambda name: readers.get(name, ()))
    driven = _reached(
        sources, lambda name: [r for r in readers.get(name, ()) if graph.nodes[r].op not in _SIZES or name in learned]
    )
    return Flow(graph, variables, frozenset(driven), frozenset(learned), places(graph))


def _reached(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    found, stack = set(start), list(start)
    while stack:
        for name in following(stack.pop()):
            if name not in found:
                found.add(name)
                stack.append(name)
    return found


def below(flow: Flow, tensor: str) -> set[str]:
    """The nodes that a tensor is computed from, and its own."""
    nodes = flow.graph.nodes
    return _reached([node_of(tensor)], lambda name: [n for r in data_inputs(nodes[name]) if (n := node_of(r)) in nodes])


def candidates(flow: Flow, sizes: Mapping[str, int]) -> list[str]:
    """Tensors to cut at, best first; `sizes` are the numbers of values of the variables."""
    found: dict[str, None] = {}
    answers = _answers(flow, sizes)
    for number, answer in enumerate(answers[:3]):
        own = _before(flow, answer)
        found.update(dict.fromkeys(own[: _SHOWN if number == 0 else 3]))
        if number == 0 and len(own) >= _SHOWN:
            break
    return list(found)[:_SHOWN]


def _answers(flow: Flow, sizes: Mapping[str, int]) -> list[str]:
    """The logits of a graph, or what else it ends in, the ones that rest on most parameters first."""
    nodes = flow.graph.nodes
    wanted = [n for n in nodes if n in flow.mixed and n not in flow.inside and not _NEVER.fullmatch(nodes[n].op)]
    read = {node_of(ref) for n in wanted for ref in data_inputs(nodes[n])}
    ends = [n for n in wanted if n not in read and nodes[n].op not in _SIZES]
    asked = [n for n in wanted if _ANSWERS.fullmatch(nodes[n].op)]
    logits = [n for a in asked for r in data_inputs(nodes[a])[:1] if (n := node_of(r)) in flow.mixed]
    order = {name: place for place, name in enumerate(nodes)}
    known: dict[str, tuple[bool, int, int]] = {}
    for is_end, names in ((False, logits), (True, ends)):
        for name in list(dict.fromkeys(names))[-_MOST_ANSWERS:]:
            known.setdefault(name, (is_end, sum(sizes[v] for v in below(flow, name) & flow.variables), order[name]))
    most = max((size for _, size, _ in known.values()), default=0)
    # A softmax over a small part of the parameters is attention or a side branch, not the answer.
    return sorted(known, key=lambda n: (known[n][1] < most / 2, known[n][0], -known[n][1], -known[n][2]))


def _before(flow: Flow, answer: str) -> list[str]:
    """The tensors that an answer is computed from, nearest layer first; the answer itself comes where none is left."""
    nodes, found = flow.graph.nodes, []
    reached = {f"{answer}:0": (0, 0)}
    direct: set[str] = set()  # what a layer reads
    queue = [(0, 0, f"{answer}:0")]
    while queue:
        layers, hops, tensor = heapq.heappop(queue)
        if reached[tensor] < (layers, hops):
            continue
        name = node_of(tensor)
        if layers > 6 or nodes[name].op in _SIZES:
            continue
        found.append(tensor)
        crossed = layers + flow.is_layer(name)
        for ref in data_inputs(nodes[name]):
            source = tensor_name(ref)
            if node_of(ref) in flow.mixed and reached.get(source, (99, 0)) > (crossed, hops + 1):
                reached[source] = (crossed, hops + 1)
                heapq.heappush(queue, (crossed, hops + 1, source))
            if crossed > layers:
                direct.add(source)
    usable = [t for t in found if _is_usable(flow, t, t in direct, reached[t][0])]
    return _ordered(flow, answer, usable, reached)


def _is_usable(flow: Flow, tensor: str, direct: bool, layers: int) -> bool:
    name = node_of(tensor)
    node = flow.graph.nodes[name]
    kind = attr(node, "T").type or attr(node, "dtype").type or attr(node, "Tparams").type
    shape = recorded_shape(node, port_of(tensor))
    if name in flow.inside or _INNER.search(name) or (kind and kind not in FLOATS) or shape == ():
        return False
    if flow.is_layer(name):  # one that nothing is added to; the first of two where it feeds the next
        return layers == 0
    return direct or node.op in (*_ACTIVATIONS, *_LINEAR, "Merge")


def _ordered(flow: Flow, answer: str, usable: list[str], reached: Mapping[str, tuple[int, int]]) -> list[str]:
    entries = set(flow.first_meetings())
    ranked, counts = [], {}
    for tensor in usable:
        layers, hops = reached[tensor]
        if counts.setdefault(layers, 0) >= 12:
            continue
        counts[layers] += 1
        node = flow.graph.nodes[node_of(tensor)]
        kind = 0 if node.op in (*_ACTIVATIONS, *_LINEAR) else 1
        known = recorded_shape(node, port_of(tensor))
        single = known is not None and len(known) < 2
        bad = single or not _dominates(flow, answer, tensor, entries)
        # The answer's own values are the old classes, not features: last, and the linear output first of those.
        segment = layers or 99
        ranked.append(((segment, bad or _mixes_examples(flow, tensor), kind, hops), tensor))
    ranked.sort()
    taken: dict[int, int] = {}
    best = []
    for (segment, bad, _, _), tensor in ranked:
        if any(tensor in _activated(flow, other) for other in best):
            continue
        taken[segment] = taken.get(segment, 0) + 1
        if taken[segment] <= (4 if segment == 1 else 2) and not (bad and taken[segment] > 2):
            best.append(tensor)
    return best


def _activated(flow: Flow, tensor: str) -> list[str]:
    """What an activation is applied to: of both tensors one is enough to choose from."""
    node = flow.graph.nodes[node_of(tensor)]
    return [tensor_name(r) for r in data_inputs(node)] if node.op in _ACTIVATIONS[:8] else []


def _dominates(flow: Flow, answer: str, tensor: str, entries: set[str]) -> bool:
    """Whether all that an answer learns from data comes through a tensor."""
    barrier = node_of(tensor)
    if answer == barrier:
        return True
    nodes = flow.graph.nodes

    def further(name: str) -> list[str]:
        if nodes[name].op in _SIZES:
            return []
        return [n for r in data_inputs(nodes[name]) if (n := node_of(r)) in flow.mixed and n != barrier]

    return not _reached([answer], further) & entries


def _mixes_examples(flow: Flow, tensor: str) -> bool:
    """Whether a reshape turns examples times steps into rows, of which none is an example any more."""
    node = flow.graph.nodes[node_of(tensor)]
    if node.op != "Reshape":
        return False
    source = data_inputs(node)[0]
    before = recorded_shape(flow.graph.nodes[node_of(source)], port_of(source))
    after = recorded_shape(node, 0)
    if not before or not after or len(after) >= len(before):
        return False
    return before[-1] == after[-1] and before[-1] is not None
