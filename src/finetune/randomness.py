"""Random ops of the source made stateless: a function of (seed, node) and, in a loop, of the iteration.

The seed is a placeholder that training fills with a function of run seed and step, so that dropout inside the
old graph is the same after a resume as without one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from finetune.errors import UserError
from finetune.graph import Graph, attr, changed, constant, data_inputs, enter_of, make_node
from finetune.names import node_of, unused
from finetune.protos import TensorShapeProto
from finetune.variables import placeholder

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


def random_nodes(graph: Graph) -> list[str]:
    """The nodes that draw from a generator with state."""
    return [n.name for n in graph.nodes.values() if n.op in _STATELESS]


def stateless(graph: Graph) -> Graph:
    """The graph with random ops that depend on the placeholder `SEED` alone.

    Raises:
      UserError: a random op that has no stateless counterpart.
    """
    for node in graph.nodes.values():
        if node.op in _STATEFUL:
            what = f"{node.op} draws from a generator with state, and a resumed run could not repeat it"
            raise UserError("source", node.name, what, "choose a cut below this node")
    drawing = random_nodes(graph)
    if not drawing:
        return graph
    nodes = dict(graph.nodes)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=2)])
    nodes[SEED] = placeholder(SEED, 3, shape)
    loops = _Loops(graph, nodes)
    for name in drawing:
        node = graph.nodes[name]
        op, kept = _STATELESS[node.op]
        inputs = data_inputs(node)
        controls = [r for r in node.input if r.startswith("^")]
        at = loops.seed_at(name)
        # A constant without inputs stands in no loop's body.
        tied = controls or ([f"^{at}"] if at != SEED else [])
        mark = constant(unused(f"{name}/mark", nodes), [_number(name), 0], 3, inputs=tied)
        nodes[mark.name] = mark
        seed = make_node(unused(f"{name}/seed", nodes), "BitwiseXor", [at, mark.name], T={"type": 3})
        nodes[seed.name] = seed
        attrs = {new: attr(node, old) for old, new in kept.items() if old in node.attr}
        new = changed(node, op=op, attrs=attrs)
        del new.input[:]
        first = 2 if op == "StatelessMultinomial" else 1
        new.input.extend([*inputs[:first], seed.name, *inputs[first:], *controls])
        new.attr["Tseed"].type = 3
        nodes[name] = new
        loops.place(name, [mark.name, seed.name])
    return loops.graph(nodes)


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
