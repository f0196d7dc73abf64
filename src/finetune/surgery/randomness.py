"""Random ops of the source made stateless: a function of (seed, node) and, in a loop, of the iteration.

The seed is a placeholder that training fills with a function of run seed and step, so that dropout inside the
old graph is the same after a resume as without one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

from finetune.errors import UserError
from finetune.graph import Graph, attr, changed, constant, control_inputs, data_inputs, enter_of, make_node
from finetune.names import node_of, unused
from finetune.protos import AttrValue, TensorShapeProto
from finetune.reading.variables import placeholder
from finetune.surgery.bodies import ARGUMENT, CONTROL_FLOW, LOOPS, branches, called, callees_first, closed, opened

SEED = "finetune/seed"  # int32 [2]

# op -> (its stateless counterpart, old attribute -> new)
_STATELESS = {
    "RandomUniform": ("StatelessRandomUniform", {"dtype": "dtype", "T": "T"}),
    "RandomStandardNormal": ("StatelessRandomNormal", {"dtype": "dtype", "T": "T"}),
    "TruncatedNormal": ("StatelessTruncatedNormal", {"dtype": "dtype", "T": "T"}),
    "RandomUniformInt": ("StatelessRandomUniformInt", {"Tout": "dtype", "T": "T"}),
    "Multinomial": ("StatelessMultinomial", {"T": "T", "output_dtype": "output_dtype"}),
}

_STATEFUL = (
    "RandomShuffle",
    "RandomGamma",
    "RandomPoisson",
    "RandomPoissonV2",
    "ParameterizedTruncatedNormal",
    "StatefulStandardNormalV2",
    "StatefulUniform",
    "StatefulTruncatedNormal",
    "StatefulRandomBinomial",
)
_BELOW = "choose a cut below this node"


def random_nodes(graph: Graph) -> list[str]:
    """The nodes that draw from a generator with state; one in a function as `function → node`."""
    return [way for way, node in _everywhere(graph) if node.op in _STATELESS]


def _everywhere(graph: Graph) -> Iterator[tuple[str, Any]]:
    yield from graph.nodes.items()
    for function in graph.functions:
        for node in function.node_def:
            yield f"{function.signature.name} → {node.name}", node


def stateless(graph: Graph) -> Graph:
    """The graph with random ops that depend on the placeholder `SEED` alone.

    Functional branches and loops get the seed as one more argument, which a loop steps on in each turn.

    Raises:
      UserError: a random op that has no stateless counterpart, or that stands where no seed can be brought.
    """
    for way, node in _everywhere(graph):
        if node.op in _STATEFUL:
            what = f"{node.op} draws from a generator with state, and a resumed run could not repeat it"
            raise UserError("source", way, what, "choose a cut below this node")
    library = _Library(graph)
    drawing = [node for node in graph.nodes.values() if library.draws(node)]
    if not drawing:
        return graph
    nodes = dict(graph.nodes)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=2)])
    nodes[SEED] = placeholder(SEED, 3, shape)
    loops = _Loops(graph, nodes)
    for node in drawing:
        at = loops.seed_at(node.name)
        # A constant without inputs stands in no loop's body.
        tied = control_inputs(node) or ([f"^{at}"] if at != SEED else [])
        loops.place(node.name, _seeded(node, at, tied, nodes, library))
    return replace(loops.graph(nodes), functions=tuple(library.functions.values()))


def _seeded(node: Any, at: str, tied: list[str], nodes: dict[str, Any], library: _Library) -> list[str]:
    """Gives a node of `nodes` a seed of its own, made of the seed `at`; the names of the nodes added for it."""
    mark = constant(unused(f"{node.name}/mark", nodes), [_number(node.name), 0], 3, inputs=tied)
    nodes[mark.name] = mark
    seed = make_node(unused(f"{node.name}/seed", nodes), "BitwiseXor", [at, mark.name], T={"type": 3})
    nodes[seed.name] = seed
    nodes[node.name] = _drawing(node, seed.name) if node.op in _STATELESS else library.handing_on(node, seed.name)
    return [mark.name, seed.name]


def _drawing(node: Any, seed: str) -> Any:
    """The stateless counterpart of a random op."""
    op, kept = _STATELESS[node.op]
    inputs = data_inputs(node)
    first = 2 if op == "StatelessMultinomial" else 1
    attrs = {new: attr(node, old) for old, new in kept.items() if old in node.attr}
    new = changed(node, op=op, input=[*inputs[:first], seed, *inputs[first:], *control_inputs(node)], attrs=attrs)
    new.attr["Tseed"].type = 3
    return new


class _Library:
    """The functions of a graph, and those made of them that take a seed."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._made: dict[tuple[str, bool], str] = {}
        self.functions = {f.signature.name: f for f in graph.functions}
        order, _ = callees_first(self.functions)
        self._drawing: set[str] = set()
        for name in order:
            if any(self.draws(node) for node in self.functions[name].node_def):
                self._drawing.add(name)

    def draws(self, node: Any) -> bool:
        """Whether a node is a random op, or a branch or a loop with random ops in it."""
        return node.op in _STATELESS or any(name in self._drawing for name in called(node, self.functions))

    def handing_on(self, node: Any, seed: str) -> Any:
        """A branch or a loop that takes a seed."""
        if node.op not in CONTROL_FLOW:
            raise UserError("source", node.name, f"random numbers are drawn in a function that {node.op} calls", _BELOW)
        new = changed(node, input=[*data_inputs(node), seed, *control_inputs(node)])
        is_loop = node.op in LOOPS
        new.attr["T" if is_loop else "Tin"].list.type.append(3)
        if is_loop and attr(new, "output_shapes").list.shape:
            new.attr["output_shapes"].list.shape.add().dim.add(size=2)
        for function, turns in zip(branches(new), (False, is_loop) if is_loop else repeat(False), strict=False):
            function.name = self._taking_seed(node, function.name, turns)
        return new

    def _taking_seed(self, node: Any, name: str, turns: bool) -> str:
        """A function with a seed as its last argument; one that takes turns gives the seed of the next as well."""
        if (name, turns) in self._made:
            return self._made[name, turns]
        original = self.functions.get(name)
        body = None if original is None else opened(original, self._graph)
        if body is None or any(n.op == "Enter" for n in body.nodes.values()):
            what = f"random numbers are drawn beside the function '{name}', to which no seed can be brought"
            raise UserError("source", node.name, what, _BELOW)
        seed = unused("finetune_seed", body.nodes)
        nodes: dict[str, Any] = {**body.nodes, seed: make_node(seed, ARGUMENT, T={"type": 3})}
        for inner in body.nodes.values():
            if self.draws(inner):
                _seeded(inner, seed, [], nodes, self)
        returns, kinds = dict(body.returns), dict(body.kinds)
        if turns:
            stride = constant(unused("finetune_seed/stride", nodes), [_number(name), 1], 3)
            step = make_node(unused("finetune_seed/Add", nodes), "AddV2", [seed, stride.name], T={"type": 3})
            nodes |= {stride.name: stride, step.name: step}
            following = unused("finetune_next_seed", returns)
            returns[following], kinds[following] = step.name, AttrValue(type=3)
        new = unused(f"{name}_seeded", self.functions)
        self._made[name, turns] = new
        self.functions[new] = closed(replace(body, nodes=nodes, returns=returns, kinds=kinds), new, original)
        return new


class _Loops:
    """Seeds inside V1 while loops: one that changes with the iteration, for each loop that draws."""

    def __init__(self, graph: Graph, nodes: dict[str, Any]):
        self._source, self._nodes = graph, nodes
        # Contexts are messages inside messages; copies are changed in place here and nowhere else.
        self._copy = Graph(graph.nodes, tuple(_copy(c) for c in graph.conds), tuple(_copy(w) for w in graph.whiles))
        self._chains = list(_chains(self._copy))
        self._seeds: dict[str, str] = {}

    def graph(self, nodes: dict[str, Any]) -> Graph:
        source = self._source
        return Graph(nodes, self._copy.conds, self._copy.whiles, source.functions, source.versions, source.stripped_ops)

    def _contexts_of(self, name: str) -> list[Any]:
        """The contexts around a node, outermost first; an outer one need not list what an inner one does."""
        owners = [
            chain
            for chain in self._chains
            if any(
                node_of(v) == name for v in chain[-1].values_def.values if v not in chain[-1].values_def.external_values
            )
        ]
        return max(owners, key=len, default=[])

    def place(self, name: str, added: list[str]) -> None:
        """Puts new nodes into the context in which `name` stands."""
        for context in self._contexts_of(name)[-1:]:
            context.values_def.values.extend(f"{new}:0" for new in added)

    def seed_at(self, name: str) -> str:
        """The seed as seen where node `name` stands."""
        seed = SEED
        for loop in [c for c in self._contexts_of(name) if hasattr(c, "loop_exit_names")]:
            if loop.context_name not in self._seeds:
                self._seeds[loop.context_name] = self._count(loop, seed)
            seed = self._seeds[loop.context_name]
        return seed

    def _count(self, loop: Any, outer_seed: str) -> str:
        """Adds a variable to a loop that starts as the outer seed and is stepped on in each iteration."""
        base = unused(f"{loop.context_name}/finetune_seed", self._nodes)
        frame = enter_of(self._source, loop)
        kind = {"T": {"type": 3}}
        enter = make_node(f"{base}/Enter", "Enter", [outer_seed], **kind)
        for key in ("frame_name", "parallel_iterations"):
            enter.attr[key].CopyFrom(attr(frame, key))
        enter.attr["is_constant"].b = False
        merge = make_node(f"{base}/Merge", "Merge", [enter.name, f"{base}/NextIteration"], N={"i": 2}, **kind)
        switch = make_node(f"{base}/Switch", "Switch", [merge.name, loop.pivot_name], **kind)
        body = make_node(f"{base}/Identity", "Identity", [f"{switch.name}:1"], **kind)
        # A stride of its own: with one for all, turns (0, 1) and (1, 0) of a loop in a loop would draw the same.
        stride = constant(f"{base}/stride", [_number(loop.context_name), 1], 3, inputs=[f"^{body.name}"])
        step = make_node(f"{base}/Add", "AddV2", [body.name, stride.name], **kind)
        back = make_node(f"{base}/NextIteration", "NextIteration", [step.name], **kind)
        leave = make_node(f"{base}/Exit", "Exit", [switch.name], **kind)
        for node in (enter, merge, switch, body, stride, step, back, leave):
            self._nodes[node.name] = node
        # Enters and exits count as the loop's own: `tf.gradients` asks an exit for its loop.
        inside = [merge, switch, body, stride, step, back, leave]
        values = [f"{n.name}:0" for n in inside] + [f"{switch.name}:1", f"{enter.name}:0"]
        loop.values_def.values.extend(values)
        loop.loop_enter_names.append(f"{enter.name}:0")
        loop.loop_exit_names.append(f"{leave.name}:0")
        return body.name


def _chains(graph: Graph) -> Iterator[list[Any]]:
    """Each context of a graph behind those that it is nested in."""

    def visit(chain: list[Any]) -> Iterator[list[Any]]:
        yield chain
        for nested in chain[-1].nested_contexts:
            if kind := nested.WhichOneof("ctxt"):
                yield from visit([*chain, getattr(nested, kind)])

    for context in (*graph.conds, *graph.whiles):
        yield from visit([context])


def _number(name: str) -> int:
    """A number that differs from name to name, whatever else is in the graph."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def _copy(message: Any) -> Any:
    new = type(message)()
    new.CopyFrom(message)
    return new
