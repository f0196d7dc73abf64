"""What a cut has to be fed: where data goes in, values for what is no data, and what trust refuses of the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.graph import (
    BOOL,
    DTYPES,
    FLOATS,
    Graph,
    attr,
    consumers,
    data_inputs,
    dtype_name,
    shape_of,
)
from finetune.inspecting.flow import Flow, reached_from
from finetune.names import node_of, port_of, tensor_name
from finetune.reading.tables import find_tables
from finetune.surgery import modes, specialize, trust
from finetune.surgery.cut import cut
from finetune.surgery.sizes import baked_batch
from finetune.surgery.source import imported
from finetune.surgery.specialize import FEEDERS, dtype_and_shape, open_placeholders

BATCH_SIZE = 32  # where nothing speaks for another one

_SAME_VALUE = ("Identity", "Cast", "ExpandDims", "Enter", "Switch", "Reshape")
_SPARSE = re.compile(r"(.*/)?indices:0")  # beside it lie values, and often shape: `tf.sparse_placeholder` names them so
_DENSE = ("SparseSegmentMean", "SparseSegmentSum", "SparseSegmentSqrtN", "SparseTensorDenseMatMul", "SparseToDense")
_INTO_LOOPS = ("TensorArrayScatterV3", "TensorArrayUnpack", "Enter")
_BINARY = ("Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "Maximum", "Minimum", "Pow")
_INTEGERS = {np.dtype(kind).name for kind in DTYPES.values() if np.dtype(kind).kind in "iu"}
_BITS = 8.0  # of a quantised network; with 1 nothing is left of its features


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
class Refused:
    """Something that would keep a recipe from running: an op that trust refuses, with the first node that has it."""

    node: str
    op: str
    why: str


@dataclass(frozen=True)
class Feeding:
    """A proposal for one cut.

    `batch_size` is the number of examples that the graph takes at once, None if any. `kept` are the nodes that are
    needed.
    """

    inputs: tuple[Tensor, ...]
    feeds: tuple[Feed, ...]
    refused: tuple[Refused, ...]
    batch_size: int | None
    kept: frozenset[str]


NOTHING = Feeding((), (), (), None, frozenset())


def data_sources(graph: Graph) -> list[str]:
    """The nodes through which data may come into a graph: placeholders that are no switches, queues, iterators."""
    opened = [n for n in open_placeholders(graph) if modes.recognise(graph, n) is None]
    sources = [n.name for n in opened if _may_be_data(described(graph, f"{n.name}:0"))]
    return sources + [n.name for n in graph.nodes.values() if _is_feeder(n.op)]


def _may_be_data(tensor: Tensor) -> bool:
    """A single number is a switch or a size; a single text may be a whole file."""
    return tensor.shape != () or tensor.dtype == "string"


@cache
def _is_feeder(op: str) -> bool:
    return FEEDERS.fullmatch(op) is not None


def propose(graph: Graph, flow: Flow, at: str) -> Feeding:
    """The inputs and feeds of a cut: what the graph itself is fed with, or what comes behind it.

    Behind it are the numbers that first meet variables. They are taken where data lies in the graph itself, or
    where it comes in as something that only refused ops can read. Behind the parts of a sparse tensor, whose rows are
    no examples, it is what makes a dense one of them.
    """
    whole = specialize.quiet(graph)
    below = cut(whole, [at])
    inputs, feeds = _given(whole, flow, below)
    if parts := [t for t in inputs if _SPARSE.fullmatch(t.tensor) and f"{node_of(t.tensor)[:-7]}values" in whole.nodes]:
        inputs = [*(t for t in inputs if t not in parts), *_made_dense(whole, flow, below, parts)]
    first = _feeding(whole, at, inputs, feeds) if inputs else None
    if first is not None and not first.refused:
        return first
    behind = _feeding(whole, at, _first_numbers(whole, flow, below), feeds)
    return behind if first is None or (behind.inputs and not behind.refused) else first


def _given(graph: Graph, flow: Flow, below: Graph) -> tuple[list[Tensor], list[Feed]]:
    """What a part of a graph reads from outside."""
    inputs, feeds = [], []
    for node in below.nodes.values():
        if not node.op.startswith("Placeholder"):
            continue
        tensor = described(graph, f"{node.name}:0")
        if (mode := modes.recognise(below, node)) is not None:
            feeds.append(Feed(tensor.tensor, tensor.dtype, mode.train, mode.eval))
        elif node.op == "PlaceholderWithDefault":
            continue
        elif not _may_be_data(tensor) or (tensor.shape is None and _is_scalar(flow, below, node)):
            feeds.append(_guess(below, node, tensor))
        else:
            inputs.append(tensor)
    feeders = {name for name, node in below.nodes.items() if _is_feeder(node.op)}
    readers = [n for n in below.nodes.values() if not feeders.isdisjoint(flow.inputs[n.name])]
    brought = {tensor_name(r) for n in readers for r in data_inputs(n) if node_of(r) in feeders}
    inputs += [described(graph, t) for t in sorted(brought, key=lambda t: (node_of(t), port_of(t)))]
    return inputs, feeds


def _feeding(whole: Graph, at: str, inputs: Sequence[Tensor], feeds: Sequence[Feed]) -> Feeding:
    """A proposal without what turns out to lie behind its own inputs."""
    taken = [t.tensor for t in inputs]
    below = cut(whole, [at], [*taken, *(f.tensor for f in feeds)])
    inputs = tuple(t for t in inputs if node_of(t.tensor) in below.nodes)
    size = baked_batch(below, at, [t.shape for t in inputs])
    feeds = [f for f in feeds if node_of(f.tensor) in below.nodes]
    feeds = [_sized(below, f, size or BATCH_SIZE) for f in feeds]
    refused = _refused(whole, below, at, [*(t.tensor for t in inputs), *(f.tensor for f in feeds)])
    return Feeding(inputs, tuple(feeds), tuple(refused), size, frozenset(below.nodes))


def _refused(whole: Graph, below: Graph, at: str, stops: Sequence[str]) -> list[Refused]:
    graph = imported(whole, [at], stops)
    try:
        ways = trust.refused_ops(graph)
        found = [Refused(way, op, why_refused(op)) for op, way in ways.items()]
        if not found:
            trust.check_recursion(graph)
            trust.check_constants(graph)
            find_tables(whole, below)
    except UserError as error:
        node = whole.nodes.get(error.where)
        found = [Refused(error.where, node.op if node is not None else "", error.what)]
    return found


def why_refused(op: str) -> str:
    """What an op does for which trust refuses it."""
    return trust.reason(op) or "is not an op that finetune knows"


def _made_dense(graph: Graph, flow: Flow, below: Graph, parts: Sequence[Tensor]) -> list[Tensor]:
    """The first tensors with a row for each example behind the parts of sparse ones."""
    readers = consumers(below.nodes)
    sparse = reached_from(
        [node_of(t.tensor) for t in parts], lambda n: () if _is_dense(graph, n) else readers.get(n, ())
    )
    return [described(graph, f"{name}:0") for name in graph.nodes if name in sparse and _is_dense(graph, name)]


def _is_dense(graph: Graph, name: str) -> bool:
    return graph.nodes[name].op in _DENSE


def _first_numbers(graph: Graph, flow: Flow, below: Graph) -> list[Tensor]:
    """The numbers that first meet variables."""
    found: dict[str, Tensor] = {}
    for name in graph.nodes:
        if name not in below.nodes or name not in flow.mixed or not flow.meets_weights(name):
            continue
        for ref in map(tensor_name, data_inputs(graph.nodes[name])):
            if node_of(ref) in flow.driven and node_of(ref) not in flow.learned and ref not in found:
                tensor = described(graph, ref)
                if _is_numeric(tensor) and tensor.shape != () and node_of(ref) not in flow.inside:
                    found[ref] = tensor
    return list(found.values()) or _into_loops(graph, flow, below)


def _into_loops(graph: Graph, flow: Flow, below: Graph) -> list[Tensor]:
    """The numbers that go into loops and meet variables there; examples by steps, not steps by examples."""
    found: dict[str, Tensor] = {}
    for node in below.nodes.values():
        for ref in data_inputs(node) if node.op in _INTO_LOOPS else ():
            while (source := graph.nodes[node_of(ref)]).op == "Transpose":
                ref = data_inputs(source)[0]
            is_data = source.name in flow.driven and not source.op.startswith("TensorArray")
            if is_data and source.name not in flow.learned:
                tensor = described(graph, tensor_name(ref))
                if _is_numeric(tensor) and tensor.shape != ():
                    found[tensor.tensor] = tensor
    return list(found.values())


def _readings(below: Graph, name: str) -> Iterator[tuple[Any, int]]:
    """(node, place among its inputs) wherever a scalar is read, also through nodes that only hand it on."""
    readers = consumers(below.nodes)
    stack, seen = [name], {name}
    while stack:
        given = stack.pop()
        for reader in (below.nodes[r] for r in readers.get(given, ())):
            for place, ref in enumerate(data_inputs(reader)):
                if node_of(ref) == given:
                    yield reader, place
            if reader.op in _SAME_VALUE and reader.name not in seen:
                seen.add(reader.name)
                stack.append(reader.name)


def _is_scalar(flow: Flow, below: Graph, node: Any) -> bool:
    """Whether a placeholder without a shape switches something, or scales features that have met variables."""
    if attr(node, "dtype").type == BOOL:
        return True
    used = [(r, place) for r, place in _readings(below, node.name) if r.op not in _SAME_VALUE]
    return bool(used) and all(
        reader.op in _BINARY
        and any(node_of(ref) in flow.mixed for other, ref in enumerate(data_inputs(reader)) if other != place)
        for reader, place in used
    )


def _guess(below: Graph, node: Any, tensor: Tensor) -> Feed:
    dtype = attr(node, "dtype").type
    if dtype == BOOL:
        return Feed(tensor.tensor, tensor.dtype, True, False, guessed=True)
    used = [(r.op, place) for r, place in _readings(below, node.name) if r.op not in _SAME_VALUE]
    value = (_BITS if used and all(u == ("Pow", 1) for u in used) else 1.0) if dtype in FLOATS else 1
    return Feed(tensor.tensor, tensor.dtype, value, value, guessed=True)


def _sized(below: Graph, feed: Feed, size: int) -> Feed:
    """A feed that means the number of examples, with that number."""
    if not feed.guessed or feed.dtype not in _INTEGERS:
        return feed
    name = node_of(feed.tensor)
    leads = any(r.op in ("Pack", "ConcatV2", "Fill") and place == 0 for r, place in _readings(below, name))
    if "batch" not in name.rpartition("/")[2].lower() and not leads:
        return feed
    return Feed(feed.tensor, feed.dtype, size, size, guessed=True)


def described(graph: Graph, tensor: str) -> Tensor:
    """What the file says of a tensor."""
    try:
        dtype, shape = dtype_and_shape(graph, tensor)
    except UserError:
        return Tensor(tensor, "unknown", None)
    return Tensor(tensor, dtype_name(dtype), None if shape is None else shape_of(shape))


@cache
def _is_numeric(tensor: Tensor) -> bool:
    return tensor.dtype in {np.dtype(kind).name for kind in DTYPES.values()}
