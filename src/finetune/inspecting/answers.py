"""Where a graph gives its answers: logits, or what else it ends in, without targets and masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from finetune.inspecting.flow import SIZES, Flow, reached_from

# Where a graph turns features into an answer: what these read are logits.
_ANSWERS = re.compile(r"(Log)?Softmax|.*CrossEntropy.*|ArgMax|Sigmoid|CTC.*|InTopK.*|TopK.*")
_NEVER = re.compile(r".*Summary.*|Assign.*|Assert|Print.*|Save.*|Restore.*|.*Enqueue.*|NoOp|L2Loss|.*Variable.*")
_COMPARES = ("Sub", "SquaredDifference", "Mul", "Add", "AddV2")
JOINS = ("ConcatV2", "Concat", "Pack")
_MOST_ANSWERS = 20


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


def answers(flow: Flow, sizes: Mapping[str, int]) -> list[str]:
    """The logits of a graph, or what else it ends in, the ones that rest on most parameters first."""
    nodes = flow.graph.nodes
    wanted = [n for n in nodes if n in flow.mixed and n not in flow.inside and not _NEVER.fullmatch(nodes[n].op)]
    read = {i for n in wanted for i in flow.inputs[n]}
    ends = [n for n in wanted if n not in read and nodes[n].op not in SIZES]
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
        below = reached_from([name], flow.inputs.__getitem__)
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
    latter is meant. The steps of a recurrent network are no twins, for each is computed from those before it.
    """
    apart = not (one.features & other.parts or other.features & one.parts)
    alike = one.size == other.size or not one.sources & other.sources
    return one != other and apart and alike and bool(one.weights) and one.weights == other.weights


def _outputs(flow: Flow, end: str) -> list[str]:
    """What a network gave, where it was then compared with targets or masked, or put beside zeros."""
    compared = [name for name in since_layers(flow, end)[0] if _meets_targets(flow, name)]
    given = [
        i for name in compared for i in flow.inputs[name] if i in flow.mixed and flow.graph.nodes[i].op not in SIZES
    ]
    outputs = [i for i in dict.fromkeys(given) if not any(c in compared for c in since_layers(flow, i)[0])]
    return outputs or [end]


def _meets_targets(flow: Flow, name: str) -> bool:
    nodes, inputs = flow.graph.nodes, flow.inputs[name]
    if nodes[name].op in JOINS:
        return sum(i in flow.mixed for i in inputs) == 2 and any(nodes[i].op == "ZerosLike" for i in inputs)
    raw = [i for i in inputs if i in flow.driven and i not in flow.learned]
    if nodes[name].op not in _COMPARES or not raw or not any(i in flow.mixed for i in inputs):
        return False
    beside = reached_from(raw, flow.inputs.__getitem__) & flow.sources
    own = reached_from([i for i in inputs if i in flow.mixed], flow.inputs.__getitem__)
    return not beside & own


def _last_layers(flow: Flow, answer: str) -> tuple[frozenset[str], frozenset[str]]:
    """The variables of the last layers before an answer, and the nodes that these layers read data from."""
    _, layers = since_layers(flow, answer)
    read = {i for name in layers for i in flow.inputs[name]}
    weights = reached_from(read - flow.driven, flow.inputs.__getitem__) & flow.variables
    return frozenset(weights), frozenset(read & flow.driven)


def since_layers(flow: Flow, end: str) -> tuple[set[str], set[str]]:
    """The nodes from the last layers to an end, and those layers."""
    layers: set[str] = set()

    def further(name: str) -> list[str]:
        if flow.is_layer(name):
            layers.add(name)
            return []
        return [i for i in flow.inputs[name] if i in flow.mixed] if flow.graph.nodes[name].op not in SIZES else []

    return reached_from([end], further), layers
