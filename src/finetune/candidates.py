"""Tensors at which a graph could be cut, best first: the last activations before its old outputs."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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

_COMPARES = ("Sub", "SquaredDifference", "Mul", "Add", "AddV2")
_JOINS = ("ConcatV2", "Concat", "Pack")
_OF_NOISE = ("Cast", "Floor", "GreaterEqual", "Add", "AddV2", "Mul", "Identity")  # from noise to the mask of dropout

_MOST_ANSWERS = 20
_FURTHEST = 6  # layers before an answer
_NOISE_STEPS = 6
_SHOWN = 10
_ENOUGH = 6  # cuts to choose from


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


@dataclass(frozen=True)
class Candidate:
    """A tensor to cut at: whether all data passes it on the way to the old output, and what it is computed from."""

    tensor: str
    dominates: bool
    parameters: int
    sources: frozenset[str]


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
    learned = _reached(variables, lambda name: readers.get(name, ()))
    driven = _reached(
        sources, lambda name: [r for r in readers.get(name, ()) if nodes[r].op not in _SIZES or name in learned]
    )
    reached = frozenset(driven), frozenset(learned), frozenset(trained)
    return Flow(graph, variables, sources, inputs, readers, *reached, places(graph))


def _reached(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    found = set(start)
    stack = list(found)
    while stack:
        for name in following(stack.pop()):
            if name not in found:
                found.add(name)
                stack.append(name)
    return found


def candidates(flow: Flow, sizes: Mapping[str, int]) -> list[Candidate]:
    """Tensors to cut at, best first; `sizes` are the numbers of values of the variables."""
    found: dict[str, str] = {}  # tensor -> the answer that it leads to
    for number, answer in enumerate(_answers(flow, sizes)[:3]):
        own = _before(flow, answer)
        for tensor in own[: _SHOWN if number == 0 else 3]:
            found.setdefault(tensor, answer)
        if number == 0 and len(own) >= _SHOWN:
            break
    described = []
    for tensor, answer in list(found.items())[:_SHOWN]:
        below = _reached([node_of(tensor)], flow.inputs.__getitem__)
        parameters = sum(sizes[v] for v in flow.variables & below)
        described.append(Candidate(tensor, _dominates(flow, answer, tensor), parameters, flow.sources & below))
    return sorted(described, key=lambda c: any(_is_joined_late(flow, c, other) for other in described))


def _is_joined_late(flow: Flow, late: Candidate, early: Candidate) -> bool:
    """Whether a cut needs another input besides those of an earlier one, which is only put beside its features.

    Such an input is a label, or what another model made of the example; the features do without.
    """
    if not (early.sources < late.sources and 2 * early.parameters >= late.parameters):
        return False
    below = _reached([node_of(late.tensor)], flow.inputs.__getitem__)
    raw = _reached(
        late.sources - early.sources,
        lambda name: () if name in flow.learned else [r for r in flow.readers.get(name, ()) if r in below],
    )
    return all(flow.graph.nodes[name].op in _JOINS for name in raw & flow.learned)


@dataclass(frozen=True)
class _Answer:
    """Logits, or what else a graph ends in.

    `weights` are the variables of its last layers, `features` what these read; `parts` are the features of any answer
    that it is computed from.
    """

    name: str
    place: int
    is_end: bool
    size: int
    sources: frozenset[str]
    weights: frozenset[str]
    features: frozenset[str]
    parts: frozenset[str]


def _answers(flow: Flow, sizes: Mapping[str, int]) -> list[str]:
    """The logits of a graph, or what else it ends in, the ones that rest on most parameters first."""
    nodes = flow.graph.nodes
    wanted = [n for n in nodes if n in flow.mixed and n not in flow.inside and not _NEVER.fullmatch(nodes[n].op)]
    read = {i for n in wanted for i in flow.inputs[n]}
    ends = [n for n in wanted if n not in read and nodes[n].op not in _SIZES]
    asked = [n for n in wanted if _ANSWERS.fullmatch(nodes[n].op)]
    logits = [n for a in asked for n in flow.inputs[a][:1] if n in flow.mixed]
    is_end: dict[str, bool] = {}
    for last, names in ((True, ends), (False, logits)):
        for name in list(dict.fromkeys(names))[-_MOST_ANSWERS:]:
            is_end.update(dict.fromkeys(_outputs(flow, name), last))
    layers = {name: _last_layers(flow, name) for name in is_end}
    features = frozenset().union(*(read for _, read in layers.values()))
    order = {name: place for place, name in enumerate(nodes)}
    known = []
    for name, (weights, own) in layers.items():
        below = _reached([name], flow.inputs.__getitem__)
        size = sum(sizes[v] for v in flow.variables & below)
        known.append(
            _Answer(name, order[name], is_end[name], size, flow.sources & below, weights, own, features & below)
        )
    most = max((answer.size for answer in known), default=0)
    # A softmax over a small part of the parameters is attention or a side branch, not the answer.
    known.sort(key=lambda a: (a.size < most / 2, a.is_end, -a.size, -a.place))
    ranked: list[_Answer] = []
    for answer in known:
        if answer not in ranked:
            same = [answer, *(a for a in known if a not in ranked and _is_twin(answer, a))]
            ranked += sorted(same, key=lambda a: (a.size, bool(a.features & flow.trained), a.place))
    return [answer.name for answer in ranked]


def _is_twin(one: _Answer, other: _Answer) -> bool:
    """Whether one network is applied twice: in the towers of several devices, or to real and to generated data.

    The one that rests on fewer parameters is then that of the data itself; of one for training and one for use the
    latter is meant. The steps of a recurrent network are no
    twins, for each is computed from those before it.
    """
    apart = not (one.features & other.parts or other.features & one.parts)
    alike = one.size == other.size or not one.sources & other.sources
    return one != other and apart and alike and bool(one.weights) and one.weights == other.weights


def _outputs(flow: Flow, end: str) -> list[str]:
    """What a network gave, where it was then compared with targets or masked, or put beside zeros."""
    compared = [name for name in _since_layers(flow, end)[0] if _meets_targets(flow, name)]
    given = [
        i for name in compared for i in flow.inputs[name] if i in flow.mixed and flow.graph.nodes[i].op not in _SIZES
    ]
    outputs = [i for i in dict.fromkeys(given) if not any(c in compared for c in _since_layers(flow, i)[0])]
    return outputs or [end]


def _meets_targets(flow: Flow, name: str) -> bool:
    nodes, inputs = flow.graph.nodes, flow.inputs[name]
    if nodes[name].op in _JOINS:
        return sum(i in flow.mixed for i in inputs) == 2 and any(nodes[i].op == "ZerosLike" for i in inputs)
    raw = [i for i in inputs if i in flow.driven and i not in flow.learned]
    if nodes[name].op not in _COMPARES or not raw or not any(i in flow.mixed for i in inputs):
        return False
    beside = _reached(raw, flow.inputs.__getitem__) & flow.sources
    own = _reached([i for i in inputs if i in flow.mixed], flow.inputs.__getitem__)
    return not beside & own


def _last_layers(flow: Flow, answer: str) -> tuple[frozenset[str], frozenset[str]]:
    """The variables of the last layers before an answer, and the nodes that these layers read data from."""
    _, layers = _since_layers(flow, answer)
    read = {i for name in layers for i in flow.inputs[name]}
    weights = _reached(read - flow.driven, flow.inputs.__getitem__) & flow.variables
    return frozenset(weights), frozenset(read & flow.driven)


def _since_layers(flow: Flow, end: str) -> tuple[set[str], set[str]]:
    """The nodes from the last layers to an end, and those layers."""
    layers: set[str] = set()

    def further(name: str) -> list[str]:
        if flow.is_layer(name):
            layers.add(name)
            return []
        return [i for i in flow.inputs[name] if i in flow.mixed] if flow.graph.nodes[name].op not in _SIZES else []

    return _reached([end], further), layers


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
        if layers > _FURTHEST or nodes[name].op in _SIZES:
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
    return direct or node.op in (*_ACTIVATIONS, *_LINEAR, "Merge") or _is_dropout(flow, name)


def _is_dropout(flow: Flow, name: str) -> bool:
    """Whether a node applies a mask of random numbers."""
    nodes, masks = flow.graph.nodes, flow.inputs[name]
    if nodes[name].op not in ("Mul", "Select", "SelectV2"):
        return False
    for _ in range(_NOISE_STEPS):
        masks = [i for m in masks if nodes[m].op in _OF_NOISE for i in flow.inputs[m]]
        if any(nodes[m].op.startswith("Random") for m in masks):
            return True
    return False


def _ordered(flow: Flow, answer: str, usable: list[str], reached: Mapping[str, tuple[int, int]]) -> list[str]:
    ranked, counts = [], {}
    for tensor in usable:
        layers, hops = reached[tensor]
        if counts.setdefault(layers, 0) >= 12:
            continue
        counts[layers] += 1
        node = flow.graph.nodes[node_of(tensor)]
        kind = 0 if node.op in (*_ACTIVATIONS, *_LINEAR) else 1
        useless = _is_narrow(node, tensor) or _mixes_examples(flow, tensor)
        bad = 2 if useless else 0 if _dominates(flow, answer, tensor) else 1
        # The answer's own values are the old classes, not features: last, and the linear output first of those.
        ranked.append(((layers or 99, bad, kind, hops), tensor))
    ranked.sort()
    taken: dict[int, int] = {}
    best, others = [], []
    for place in ranked:
        (segment, bad, *_), tensor = place
        if any(tensor in _activated(flow, other) for _, other in best):
            continue
        taken[segment] = taken.get(segment, 0) + 1
        fits = taken[segment] <= (4 if segment == 1 else 2) and not (bad and taken[segment] > 2)
        (best if fits else others).append(place)
    tensors = [tensor for _, tensor in sorted([*best, *others[: max(0, _ENOUGH - len(best))]])]
    own = [tensor for tensor in tensors if reached[tensor][0] == 0][:1]
    if own and _is_made_in_loop(flow, answer):  # nothing nearer to the answer can be cut
        tensors.remove(own[0])
        tensors.insert(2, own[0])
    return tensors


def _is_made_in_loop(flow: Flow, answer: str) -> bool:
    """Whether a layer that an answer comes from stands inside a loop."""
    return any(name in flow.inside for name in _since_layers(flow, answer)[1])


def _is_narrow(node: Any, tensor: str) -> bool:
    """Whether a tensor has one number for an example, or for a step of it."""
    known = recorded_shape(node, port_of(tensor))
    return known is not None and (len(known) < 2 or (len(known) < 4 and known[-1] == 1))


def _activated(flow: Flow, tensor: str) -> list[str]:
    """What an activation is applied to: of both tensors one is enough to choose from."""
    node = flow.graph.nodes[node_of(tensor)]
    return [tensor_name(r) for r in data_inputs(node)] if node.op in _ACTIVATIONS[:8] else []


def _dominates(flow: Flow, answer: str, tensor: str) -> bool:
    """Whether all data that an answer is computed from comes through a tensor."""
    barrier = node_of(tensor)
    stack, seen = [answer], {answer, barrier}
    if answer == barrier:
        return True
    while stack:
        name = stack.pop()
        if name in flow.sources:
            return False
        if flow.graph.nodes[name].op not in _SIZES:
            further = [i for i in flow.inputs[name] if i in flow.driven and i not in seen]
            seen.update(further)
            stack += further
    return True


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
