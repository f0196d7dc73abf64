"""What a pair is, and what a recipe for it could say, read from its files alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune import candidates, metagraph, variables, weights
from finetune.allowed_ops import ALLOWED
from finetune.candidates import Candidate
from finetune.feeding import NOTHING, Feeding, Tensor, data_sources, described, dtype_name, propose
from finetune.flow import Flow, flow_of
from finetune.graph import FLOATS, Graph, attr, data_inputs, from_meta
from finetune.index import Entry
from finetune.metagraph import Pair
from finetune.names import node_of
from finetune.slices import piece_shape_of
from finetune.variables import Variable

_SLOT = re.compile(
    r"/(Adam|AdamW|AdaMax|Nadam|Momentum|RMSProp|Adagrad|Adadelta|Ftrl|AMSGrad|vhat|LAMB|LARS\w*)\w*?(_\d+)?$"
    r"|(^|/)beta[12]_power(_\d+)?$|/Optimizer\w*/|^training/"
)
_SHADOW = re.compile(r"/(ExponentialMovingAverage|EMA)(_\d+)?$")
_SETS_SLOTS = re.compile(r"(Resource)?(Sparse)?Apply.*")


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
        if not self.shape or None in self.shape[1:] or self.dtype == "unknown":
            return None
        return math.prod(n or 0 for n in self.shape[1:]) * np.dtype(self.dtype).itemsize


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


def inspect(path: str) -> Inspection:
    """Reads the files of a pair; no TensorFlow is imported.

    Raises:
      UserError: a file is missing, damaged or something else.
    """
    pair = metagraph.find_pair(path, "inspect")
    meta = metagraph.read(pair.meta)
    graph = from_meta(meta)
    found = variables.find_variables(meta, graph)
    slots = _slots(graph, found)
    entries = weights.read_index(pair.prefix)
    held = [_held(v, entries, slots) for v in found]
    sizes = {v.name: math.prod(n or 1 for n in _shape(v, entries) or ()) for v in found}
    flow = _flow(graph, [v.name for v in found if v.dtype in FLOATS and v.name not in slots])
    feeding, ranked = _first_that_runs(graph, flow, candidates.candidates(flow, sizes))
    cuts = [Cut(**vars(described(graph, c.tensor)), parameters=c.parameters, dominates=c.dominates) for c in ranked]
    dropped = Counter(n.op for n in graph.nodes.values() if n.name not in feeding.kept)
    refused = {op: count for op, count in dropped.most_common() if _is_refused(graph, op)}
    return Inspection(pair, metagraph.producer(meta), len(graph.nodes), feeding, refused, cuts, held)


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
    slots = {v.name for v in found if _SLOT.search(v.name)}
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
    elif _SHADOW.search(variable.name):
        status = "EMA shadow"
    elif entry is None:
        status = "missing"
    elif shape != (entry.shape if not variable.piece else piece_shape_of(variable.piece, entry.shape)):
        status = "other shape"
    return Held(variable.name, shape, dtype_name(variable.dtype), status)
