"""What a pair is, and what a recipe for it could say, read from its files alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.graph import DTYPES, FLOATS, Graph, attr, data_inputs, dtype_name, from_meta
from finetune.inspecting import candidates, layers
from finetune.inspecting.candidates import Candidate
from finetune.inspecting.feeding import NOTHING, Feed, Feeding, Tensor, data_sources, described, propose
from finetune.inspecting.flow import Flow, flow_of
from finetune.inspecting.layers import Diagram
from finetune.names import node_of
from finetune.reading import constants, metagraph, settle, variables, weights
from finetune.reading.index import Entry
from finetune.reading.metagraph import Pair
from finetune.reading.slices import piece_shape_of
from finetune.reading.variables import AVERAGE, SLOT, Variable
from finetune.remote.fetching import pair_at_hand
from finetune.surgery import freeze
from finetune.surgery.allowed_ops import ALLOWED
from finetune.surgery.cut import cut, find_tensor
from finetune.surgery.functions import inline

_SETS_SLOTS = re.compile(r"(Resource)?(Sparse)?Apply.*")
_WIDTHS = {np.dtype(kind).name: np.dtype(kind).itemsize for kind in DTYPES.values()}


@dataclass(frozen=True)
class Cut(Tensor):
    """A tensor to cut at.

    `parameters` counts the values in the variables below it. It `dominates` if all data passes it on the way to the
    old output.
    """

    parameters: int
    dominates: bool

    @property
    def bytes_per_example(self) -> int | None:
        """The size of one row, as far as the file knows the shape."""
        if not self.shape or None in self.shape[1:] or self.dtype not in _WIDTHS:
            return None
        return math.prod(n or 0 for n in self.shape[1:]) * _WIDTHS[self.dtype]


@dataclass(frozen=True)
class Held:
    """A variable of the graph, and what the checkpoint has of it."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str
    status: str  # found, missing, other shape, optimizer slot, EMA shadow


@dataclass(frozen=True)
class Inspection:
    """What was found in a pair.

    `feeding` is what the first cut needs, nothing if there is no cut; `dropped` are ops that it does not need and that
    would be refused, with the numbers of their nodes.
    """

    pair: Pair
    producer: str
    nodes: int
    feeding: Feeding
    dropped: Mapping[str, int]
    cuts: Sequence[Cut]
    variables: Sequence[Held]
    averages: int  # variables of which the checkpoint has a moving average too


def inspect(path: str, at: str | None = None) -> Inspection:
    """Reads the files of a pair; no TensorFlow is imported. `at` is the cut to put first, wherever it is.

    Raises:
      UserError: a file is missing, damaged or something else.
    """
    seen = _look(path)
    graph, found, entries = seen.graph, seen.variables, seen.entries
    held = [_held(v, entries, seen.slots) for v in found]
    feeding, ranked = _first_that_runs(graph, seen.flow, candidates.candidates(seen.flow, _counts(seen.shapes)))
    if at is not None:
        at = find_tensor(graph, at, "--cut")
        first = next((c for c in ranked if c.tensor == at), None) or _candidate(seen, at)
        feeding, ranked = propose(graph, seen.flow, at), [first, *(c for c in ranked if c is not first)]
    cuts = [Cut(**vars(described(graph, c.tensor)), parameters=c.parameters, dominates=c.dominates) for c in ranked]
    dropped = Counter(n.op for n in graph.nodes.values() if n.name not in feeding.kept)
    return Inspection(
        pair=seen.pair,
        producer=metagraph.producer(seen.meta),
        nodes=len(graph.nodes),
        feeding=feeding,
        dropped={op: count for op, count in dropped.most_common() if _is_refused(graph, op)},
        cuts=cuts,
        variables=held,
        averages=len(settle.averages_of(found, {v.name: v.key for v in found}, entries)),
    )


def _candidate(seen: _Seen, at: str) -> Candidate:
    """A tensor that nobody proposed."""
    counts = _counts(seen.shapes)
    below = cut(seen.graph, [at]).nodes
    return Candidate(at, False, sum(counts.get(name, 0) for name in below), frozenset())


@dataclass(frozen=True)
class Sliced:
    """A pair cut at a tensor, with what a recipe that says nothing else would make of it: only the head learns."""

    pair: Pair
    cut: Tensor
    inputs: Sequence[Tensor]
    feeds: Sequence[Feed]
    diagram: Diagram
    nodes: int
    unneeded: Mapping[str, int]


def sliced(path: str, at: str | None = None) -> Sliced:
    """The layers below a cut, the best candidate if none is named; no TensorFlow is imported.

    Raises:
      UserError: a file is missing or damaged; a tensor that the graph has not; no tensor to cut at.
    """
    seen = _look(path)
    graph = seen.graph
    if at is None:
        _, known = _first_that_runs(graph, seen.flow, candidates.candidates(seen.flow, _counts(seen.shapes)))
        if not known:
            raise UserError("source", path, "no tensor of the graph depends on data and variables", "name one by --cut")
        at = known[0].tensor
    at = find_tensor(graph, at, "--cut")
    feeding = propose(graph, seen.flow, at)
    inputs = [tensor.tensor for tensor in feeding.inputs]
    below = cut(graph, [at], [*inputs, *(feed.tensor for feed in feeding.feeds)])
    own = [v for v in seen.variables if v.name in below.nodes]
    fates = freeze.decide(own, [], freeze.behind(below, [at], [at]), [], set(), freeze.blocked(below, [at]))
    shapes = {name: tuple(n or 1 for n in shape or ()) for name, shape in seen.shapes.items()}
    return Sliced(
        pair=seen.pair,
        cut=described(graph, at),
        inputs=feeding.inputs,
        feeds=feeding.feeds,
        diagram=layers.diagram(below, at, inputs, fates, shapes, [at]),
        nodes=len(graph.nodes),
        unneeded=layers.unneeded(graph, below),
    )


@dataclass(frozen=True)
class _Seen:
    pair: Pair
    meta: Any
    graph: Graph
    variables: Sequence[Variable]
    slots: set[str]
    entries: Mapping[str, Entry]
    shapes: Mapping[str, tuple[int | None, ...] | None]
    flow: Flow


def _look(path: str) -> _Seen:
    """What is in the files of a pair."""
    pair = metagraph.find_pair(pair_at_hand(path, "inspect"), "inspect")
    meta = metagraph.read(pair.meta)
    graph = inline(from_meta(meta))
    found = variables.find_variables(meta, graph, own_names=pair.is_one_file)
    slots = _slots(graph, found)
    entries = weights.read_index(pair.prefix)
    if pair.is_one_file and found and not entries:
        raise constants.lacking(pair, [v.name for v in found])
    flow = _flow(graph, [v.name for v in found if v.dtype in FLOATS and v.name not in slots])
    return _Seen(pair, meta, graph, found, slots, entries, {v.name: _shape(v, entries) for v in found}, flow)


def _counts(shapes: Mapping[str, tuple[int | None, ...] | None]) -> dict[str, int]:
    """The number of values in each variable."""
    return {name: math.prod(n or 1 for n in shape or ()) for name, shape in shapes.items()}


def _first_that_runs(graph: Graph, flow: Flow, found: Sequence[Candidate]) -> tuple[Feeding, list[Candidate]]:
    """The candidates with one in front of which nothing is refused, and what that one has to be fed."""
    first = None
    for place, candidate in enumerate(found):
        feeding = propose(graph, flow, candidate.tensor)
        first = first or feeding
        if not feeding.refused:
            return feeding, [candidate, *found[:place], *found[place + 1 :]]
    return first or NOTHING, list(found)


def _is_refused(graph: Graph, op: str) -> bool:
    return op not in ALLOWED and all(op != f.signature.name for f in graph.functions)


def _flow(graph: Graph, learned: Sequence[str]) -> Flow:
    """What depends on what; the data comes from placeholders or queues, or failing those lies in the graph itself."""
    sources = data_sources(graph)
    flow = flow_of(graph, learned, sources)
    if any(flow.is_layer(name) for name in flow.mixed) or (flow.mixed and not learned):
        return flow
    stored = [n.name for n in graph.nodes.values() if n.op == "Const" and _is_table(n)]
    defaults = [n.name for n in graph.nodes.values() if n.op == "PlaceholderWithDefault"]
    other = flow_of(graph, learned, [*sources, *stored, *defaults])
    return other if any(other.is_layer(name) for name in other.mixed) or not flow.mixed else flow


def _is_table(node: Any) -> bool:
    """Whether a constant could be a data set: rows of numbers."""
    shape = [d.size for d in attr(node, "value").tensor.tensor_shape.dim]
    return len(shape) >= 2 and math.prod(shape) > 64 and attr(node, "dtype").type in FLOATS


def _slots(graph: Graph, found: Iterable[Variable]) -> set[str]:
    """The variables that an optimizer keeps for itself."""
    slots = {v.name for v in found if SLOT.search(v.name)}
    known = {v.name for v in found}
    for node in graph.nodes.values():
        if _SETS_SLOTS.fullmatch(node.op):
            slots |= {node_of(ref) for ref in data_inputs(node)[1:]} & known
    return slots


def _shape(variable: Variable, entries: Mapping[str, Entry]) -> tuple[int | None, ...] | None:
    """The shape of a variable as the graph says, or else the checkpoint."""
    entry = entries.get(variable.key)
    if entry is None or (variable.shape is not None and None not in variable.shape):
        return variable.shape
    return piece_shape_of(variable.piece, entry.shape) if variable.piece else entry.shape


def _held(variable: Variable, entries: Mapping[str, Entry], slots: set[str]) -> Held:
    entry, shape = entries.get(variable.key), _shape(variable, entries)
    status = "found"
    if variable.name in slots:
        status = "optimizer slot"
    elif AVERAGE.search(variable.name):
        status = "EMA shadow"
    elif entry is None:
        status = "missing"
    elif shape != (entry.shape if not variable.piece else piece_shape_of(variable.piece, entry.shape)):
        status = "other shape"
    return Held(variable.name, shape, dtype_name(variable.dtype), status)
