"""Tensors at which a graph could be cut, best first: the last activations before its old outputs."""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.graph import FLOATS, attr, data_inputs, read_constant, recorded_shape
from finetune.inspecting.answers import JOINS, answers, since_layers
from finetune.inspecting.flow import SIZES, Flow, reached_from
from finetune.names import node_of, port_of, tensor_name

_ACTIVATIONS = (
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Tanh", "Sigmoid", "Maximum"),
    *("Max", "Mean", "Sum", "AvgPool", "MaxPool", "Reshape", "Squeeze", "Transpose", "ConcatV2", "Concat"),
    *("Gather", "GatherV2", "GatherNd", "StridedSlice", "Exit", "DepthToSpace"),
)
_LINEAR = ("BiasAdd", "Add", "AddV2", "AddN")
# What one Python call made of several nodes: its inside is nobody's feature.
_INNER = re.compile(r"(^|/)(Tensordot|\w*cross_entropy\w*|xentropy|\w*loss(es)?(_\d+)?)/", re.IGNORECASE)
_ROW_BY_ROW = ("MatMul", *_LINEAR, *_ACTIVATIONS[:8], "Mul", "RealDiv", "Div", "Identity", "Softmax")
_GATHERED_ON = ("Transpose", "ReverseSequence", "ReverseV2", "ConcatV2", "Concat", "Mul", "RealDiv", "Identity")
_OF_NOISE = ("Cast", "Floor", "GreaterEqual", "Add", "AddV2", "Mul", "Identity")  # from noise to the mask of dropout
_FURTHEST = 6  # layers before an answer
_NOISE_STEPS = 6
_SHOWN = 10
_ENOUGH = 6  # cuts to choose from


@dataclass(frozen=True)
class Candidate:
    """A tensor to cut at: whether all data passes it on the way to the old output, and what it is computed from."""

    tensor: str
    dominates: bool
    parameters: int
    sources: frozenset[str]


def candidates(flow: Flow, sizes: Mapping[str, int]) -> list[Candidate]:
    """Tensors to cut at, best first; `sizes` are the numbers of values of the variables."""
    found: dict[str, str] = {}  # tensor -> the answer that it leads to
    for number, answer in enumerate(answers(flow, sizes)[:3]):
        own = _before(flow, answer)
        for tensor in own[: _SHOWN if number == 0 else 3]:
            found.setdefault(tensor, answer)
        if number == 0 and len(own) >= _SHOWN:
            break
    described = []
    for tensor, answer in list(found.items())[:_SHOWN]:
        below = reached_from([node_of(tensor)], flow.inputs.__getitem__)
        parameters = sum(sizes[v] for v in flow.variables & below)
        described.append(Candidate(tensor, _dominates(flow, answer, tensor), parameters, flow.sources & below))
    return sorted(described, key=lambda c: any(_is_joined_late(flow, c, other) for other in described))


def _is_joined_late(flow: Flow, late: Candidate, early: Candidate) -> bool:
    """Whether a cut needs another input besides those of an earlier one, which is only put beside its features.

    Such an input is a label, or what another model made of the example; the features do without.
    """
    if not (early.sources < late.sources and 2 * early.parameters >= late.parameters):
        return False
    below = reached_from([node_of(late.tensor)], flow.inputs.__getitem__)
    raw = reached_from(
        late.sources - early.sources,
        lambda name: () if name in flow.learned else [r for r in flow.readers.get(name, ()) if r in below],
    )
    return all(flow.graph.nodes[name].op in JOINS for name in raw & flow.learned)


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
        if layers > _FURTHEST or nodes[name].op in SIZES:
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
    if _is_noise(flow, name):
        return False
    if flow.is_layer(name):  # one that nothing is added to; the first of two where it feeds the next
        return layers == 0
    return direct or node.op in (*_ACTIVATIONS, *_LINEAR, "Merge") or _is_dropout(flow, name)


def _is_noise(flow: Flow, name: str, steps: int = _NOISE_STEPS) -> bool:
    """Whether a node has nothing of the data but the size of what is drawn."""
    op, given = flow.graph.nodes[name].op, [i for i in flow.inputs[name] if i in flow.mixed]
    if op.startswith("Random"):
        return True
    return op in _OF_NOISE and steps > 0 and bool(given) and all(_is_noise(flow, i, steps - 1) for i in given)


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
        bad = 2 if _is_narrow(node, tensor) else 0 if _dominates(flow, answer, tensor) else 1
        # The answer's own values are the old classes, not features: last, and the linear output first of those.
        segment = layers or 99
        # No label is for a row that is a step of an example.
        ranked.append(((segment + 9 * _has_rows_of_steps(flow, tensor), bad, kind, hops), tensor))
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
    return any(name in flow.inside for name in since_layers(flow, answer)[1])


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
        if flow.graph.nodes[name].op not in SIZES:
            further = [i for i in flow.inputs[name] if i in flow.driven and i not in seen]
            seen.update(further)
            stack += further
    return True


def _has_rows_of_steps(flow: Flow, tensor: str) -> bool:
    """Whether a reshape turned examples times steps into rows, of which none is an example any more."""
    seen, stack = {tensor}, [tensor]
    while stack:
        name = node_of(stack.pop())
        node = flow.graph.nodes[name]
        if node.op == "Reshape":
            if _joins_steps(flow, node):
                return True
        elif node.op in _ROW_BY_ROW:
            further = {r for r in data_inputs(node) if node_of(r) in flow.mixed} - seen
            seen |= further
            stack.extend(further)
    return False


def _joins_steps(flow: Flow, node: Any) -> bool:
    nodes = flow.graph.nodes
    source, *target = data_inputs(node)
    before, after = recorded_shape(nodes[node_of(source)], port_of(source)), recorded_shape(node, 0)
    if before and after:
        return len(after) < len(before) and before[-1] == after[-1] is not None
    sizes = read_constant(nodes[node_of(target[0])]) if target else None
    if sizes is None or sizes.shape != (2,) or sizes[0] != -1:
        return False
    # What a loop of an unknown number of steps gathered cannot be one row of a fixed length.
    reached = reached_from([node_of(source)], lambda n: flow.inputs[n] if nodes[n].op in _GATHERED_ON else ())
    return any(nodes[name].op.startswith("TensorArrayGather") for name in reached)
