"""What a pair is, and what a recipe for it could say, read from its files alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune import candidates, constants, freeze, layers, metagraph, modes, settle, variables, weights
from finetune.candidates import Flow
from finetune.cut import cut, find_tensor
from finetune.errors import UserError
from finetune.functions import inline
from finetune.graph import BOOL, DTYPES, FLOATS, Graph, attr, data_inputs, dtype_name, from_meta, shape_of
from finetune.index import Entry
from finetune.layers import Diagram
from finetune.metagraph import Pair
from finetune.names import node_of, tensor_name
from finetune.slices import piece_shape_of
from finetune.specialize import FEEDERS, dtype_and_shape, feeders, open_placeholders
from finetune.variables import AVERAGE, SLOT, Variable

_SETS_SLOTS = re.compile(r"(Resource)?(Sparse)?Apply.*")


_WIDTHS = {np.dtype(kind).name: np.dtype(kind).itemsize for kind in DTYPES.values()}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph: full name, dtype in NumPy's words, and the shape that the file records."""

    tensor: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Feed:
    """A placeholder that takes no data, and the values proposed for it.

    `guessed`: nothing but its dtype speaks for the value.
    """

    tensor: str
    dtype: str
    train: Any
    eval: Any
    guessed: bool = False


@dataclass(frozen=True)
class Cut(Tensor):
    """A tensor to cut at; `parameters` counts the values in the variables below it."""

    parameters: int

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
    """What was found in a pair. `inputs` and `feeds` are those of the first cut; `dead` nodes it does not need."""

    pair: Pair
    producer: str
    nodes: int
    dead: int
    inputs: Sequence[Tensor]
    feeds: Sequence[Feed]
    cuts: Sequence[Cut]
    variables: Sequence[Held]
    averages: int  # variables of which the checkpoint has a moving average too

    @property
    def batch_size(self) -> int | None:
        """The number of examples that the inputs take at once, where the graph has it baked in."""
        return next((i.shape[0] for i in self.inputs if i.shape and i.shape[0] is not None), None)


def inspect(path: str) -> Inspection:
    """Reads the files of a pair; no TensorFlow is imported.

    Raises:
      UserError: a file is missing, damaged or something else.
    """
    pair = metagraph.find_pair(path, "inspect")
    meta = metagraph.read(pair.meta)
    graph = inline(from_meta(meta))
    found = variables.find_variables(meta, graph, own_names=pair.is_one_file)
    slots = _slots(graph, found)
    entries = weights.read_index(pair.prefix)
    if pair.is_one_file and found and not entries:
        raise constants.lacking(pair, [v.name for v in found])
    held = [_held(v, entries, slots) for v in found]
    sizes = {v.name: math.prod(n or 1 for n in _shape(v, entries) or ()) for v in found}
    learned = [v.name for v in found if v.dtype in FLOATS and v.name not in slots]
    flow = _flow(graph, learned)
    cuts = []
    for tensor in candidates.candidates(flow, sizes):
        below = candidates.below(flow, tensor)
        parameters = sum(sizes[v] for v in flow.variables & below)
        cuts.append(Cut(**vars(_described(graph, tensor)), parameters=parameters))
    averages = len(settle.averages_of(found, {v.name: v.key for v in found}, entries))
    inputs, feeds, needed = _fed(graph, flow, cuts[0].tensor) if cuts else ([], [], 0)
    return Inspection(
        pair, metagraph.producer(meta), len(graph.nodes), len(graph.nodes) - needed, inputs, feeds, cuts, held, averages
    )


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
    pair = metagraph.find_pair(path, "inspect")
    meta = metagraph.read(pair.meta)
    graph = inline(from_meta(meta))
    found = variables.find_variables(meta, graph, own_names=pair.is_one_file)
    slots = _slots(graph, found)
    entries = weights.read_index(pair.prefix)
    shapes = {v.name: tuple(n or 1 for n in _shape(v, entries) or ()) for v in found}
    flow = _flow(graph, [v.name for v in found if v.dtype in FLOATS and v.name not in slots])
    if at is None:
        known = candidates.candidates(flow, {name: math.prod(shape) for name, shape in shapes.items()})
        if not known:
            raise UserError("source", path, "no tensor of the graph depends on data and variables", "name one by --cut")
        at = known[0]
    at = find_tensor(graph, at, "--cut")
    inputs, feeds, _ = _fed(graph, flow, at)
    below = cut(graph, [at], [t.tensor for t in (*inputs, *feeds)])
    own = [v for v in found if v.name in below.nodes]
    fates = freeze.decide(own, [], freeze.behind(below, at, [at]), [], set())
    drawn = layers.diagram(below, at, [t.tensor for t in inputs], fates, shapes, [at])
    return Sliced(pair, _described(graph, at), inputs, feeds, drawn, len(graph.nodes), layers.unneeded(graph, below))


def _flow(graph: Graph, learned: Sequence[str]) -> Flow:
    """What depends on what; the data comes from placeholders or queues, or failing those lies in the graph itself."""
    opened = [n for n in open_placeholders(graph) if modes.recognise(graph, n) is None]
    sources = [n.name for n in opened if _described(graph, f"{n.name}:0").shape != ()]
    sources += [n.name for n in feeders(graph)]
    flow = candidates.flow_of(graph, learned, sources)
    if any(flow.is_layer(name) for name in flow.mixed) or (flow.mixed and not learned):
        return flow
    stored = [n.name for n in graph.nodes.values() if n.op == "Const" and _is_table(n)]
    defaults = [n.name for n in graph.nodes.values() if n.op == "PlaceholderWithDefault"]
    other = candidates.flow_of(graph, learned, [*sources, *stored, *defaults])
    return other if any(other.is_layer(name) for name in other.mixed) or not flow.mixed else flow


def _is_table(node: Any) -> bool:
    """Whether a constant could be a data set: rows of numbers."""
    shape = [d.size for d in attr(node, "value").tensor.tensor_shape.dim]
    return len(shape) >= 2 and math.prod(shape) > 64 and attr(node, "dtype").type in FLOATS


def _fed(graph: Graph, flow: Flow, at: str) -> tuple[list[Tensor], list[Feed], int]:
    """The inputs and feeds that a cut needs, and how many nodes are below it."""
    below = cut(graph, [at])
    inputs, feeds = [], []
    for node in below.nodes.values():
        tensor = _described(graph, f"{node.name}:0") if node.op.startswith("Placeholder") else None
        if tensor is None:
            continue
        if (mode := modes.recognise(below, node)) is not None:
            feeds.append(Feed(tensor.tensor, tensor.dtype, mode.train, mode.eval))
        elif node.op == "PlaceholderWithDefault":
            continue
        elif tensor.shape == ():
            feeds.append(_guess(tensor, attr(node, "dtype").type))
        else:
            inputs.append(tensor)
    fed = {t.tensor for t in (*inputs, *feeds)}
    read = {tensor_name(r) for n in below.nodes.values() for r in data_inputs(n)}
    brought = [t for t in sorted(read) if FEEDERS.fullmatch(graph.nodes[node_of(t)].op)]
    inputs += [_described(graph, t) for t in brought]
    if not inputs or not all(_is_numeric(t) for t in inputs):
        inputs = _first_numbers(graph, flow, below)
        below = cut(graph, [at], [t.tensor for t in inputs])
        feeds = [f for f in feeds if node_of(f.tensor) in below.nodes]
    else:
        below = cut(graph, [at], [*fed, *brought])
    # An input may lie behind another one, of which nothing is then left.
    inputs = [t for t in inputs if node_of(t.tensor) in below.nodes]
    return inputs, feeds, len(below.nodes)


def _first_numbers(graph: Graph, flow: Flow, below: Graph) -> list[Tensor]:
    """The numbers that first meet variables, where what comes in is text, or lies in the graph itself."""
    found: dict[str, Tensor] = {}
    for name in graph.nodes:
        if name not in below.nodes or name not in flow.mixed or not flow.meets_weights(name):
            continue
        for ref in data_inputs(graph.nodes[name]):
            if node_of(ref) in flow.driven and node_of(ref) not in flow.learned and ref not in found:
                tensor = _described(graph, tensor_name(ref))
                if _is_numeric(tensor) and tensor.shape != () and node_of(ref) not in flow.inside:
                    found[ref] = tensor
    return list(found.values())


def _guess(tensor: Tensor, dtype: int) -> Feed:
    if dtype == BOOL:
        return Feed(tensor.tensor, tensor.dtype, True, False, guessed=True)
    value = 1.0 if dtype in FLOATS else 32 if "batch" in tensor.tensor.lower() else 1
    return Feed(tensor.tensor, tensor.dtype, value, value, guessed=True)


def _described(graph: Graph, tensor: str) -> Tensor:
    try:
        dtype, shape = dtype_and_shape(graph, tensor)
    except UserError:
        return Tensor(tensor, "unknown", None)
    return Tensor(tensor, dtype_name(dtype), None if shape is None else shape_of(shape))


def _is_numeric(tensor: Tensor) -> bool:
    return tensor.dtype in _WIDTHS


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
