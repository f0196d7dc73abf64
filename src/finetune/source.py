"""The source of a run: its pair read, cut, and settled with its checkpoint, before TensorFlow is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune import backbone, cut, graph, metagraph, specialize, trust, variables, weights
from finetune.errors import UserError, shortlist
from finetune.graph import Graph
from finetune.metagraph import Pair
from finetune.names import did_you_mean, node_of
from finetune.protos import DataType
from finetune.slices import index_of, piece_shape_of
from finetune.specialize import dtype_and_shape
from finetune.tables import Table, find_tables
from finetune.variables import Update, Variable

Kind = tuple[int, "tuple[int | None, ...] | None"]


@dataclass(frozen=True)
class Source:
    """A pair with a cut.

    `feeds` are as the recipe gives them, full tensor names to a value or to {train, eval}. `below` is the part of
    `whole` that the cut needs; `variables` and `updates` are those in it. `shapes` come from the checkpoint.
    `bypassed` are the nodes that would write to the terminal and are passed over.
    """

    pair: Pair
    meta: Any
    whole: Graph
    below: Graph
    cut: str
    inputs: Mapping[str, str]
    feeds: Mapping[str, Any]
    variables: tuple[Variable, ...]
    shapes: Mapping[str, tuple[int, ...]]
    updates: tuple[Update, ...]
    tables: tuple[Table, ...]
    unused_keys: int
    bypassed: tuple[str, ...]

    def input_kinds(self) -> dict[str, Kind]:
        """(dtype, static shape) of every input by field, as an enum of types.proto and a tuple."""
        kinds = {}
        for name, tensor in self.inputs.items():
            dtype, shape = dtype_and_shape(self.whole, tensor)
            kinds[name] = (dtype, None if shape is None else graph.shape_of(shape))
        return kinds

    def batch_size(self) -> int | None:
        """The number of examples that the inputs take at once, where the graph has it baked in."""
        sizes = {shape[0] for _, shape in self.input_kinds().values() if shape}
        return next((size for size in sizes if size is not None), None)

    def pieces(self) -> dict[str, tuple[str, str]]:
        """Slices of partitioned variables: name -> (key in the checkpoint, the Saver's text for the slice)."""
        return {v.name: (v.key, v.piece) for v in self.variables if v.piece}


def read_source(
    path: str,
    at: str,
    inputs: Mapping[str, str],
    feeds: Mapping[str, Any],
    trusted: bool | Sequence[str] = False,
) -> Source:
    """Reads a pair and settles it with the recipe and with its checkpoint.

    Raises:
      UserError: a file of the pair is missing or is something else; a tensor that the graph has not; a placeholder
        that nothing feeds; a variable that the checkpoint lacks or holds in another shape;
        an op that is neither allowed nor among `trusted`.
    """
    pair = metagraph.find_pair(path)
    meta = metagraph.read(pair.meta)
    loud = graph.from_meta(meta)
    whole = specialize.quiet(loud)
    at = cut.find_tensor(whole, at, "cut")
    feeds = {cut.find_tensor(whole, t, f"source.feeds.{t}"): value for t, value in feeds.items()}
    inputs = {name: cut.find_tensor(whole, t, f"source.inputs.{name}") for name, t in inputs.items()}
    inputs = backbone.find_inputs(whole, at, inputs, feeds)
    stops = [*inputs.values(), *feeds]
    below = cut.cut(whole, [at], stops)
    updates = variables.find_updates(meta, whole, below)
    trust.check_graph(imported(whole, [at, *(u.node for u in updates)], stops), trusted)
    found = variables.find_variables(meta, below)
    entries = weights.read_index(pair.prefix)
    shapes = _settle(found, entries, pair.prefix)
    weights.check_data(pair.prefix, {v.key: entries[v.key] for v in found})
    return Source(
        pair=pair,
        meta=meta,
        whole=whole,
        below=below,
        cut=at,
        inputs=inputs,
        feeds=feeds,
        variables=tuple(found),
        shapes=shapes,
        updates=tuple(updates),
        tables=tuple(find_tables(whole, below)),
        unused_keys=len(entries.keys() - {v.key for v in found}),
        bypassed=tuple(specialize.bypassed(loud, below)),
    )


def imported(whole: Graph, outputs: Sequence[str], stops: Sequence[str]) -> Graph:
    """All that TensorFlow may get of the source, in any phase and in the written pair."""
    kept = cut.cut(whole, outputs, stops)
    kept, _ = specialize.with_placeholders(kept, {tensor: tensor for tensor in stops if node_of(tensor) in kept.nodes})
    return cut.cut(kept, outputs)  # once more: a queue whose output was the input is not needed any longer


def _settle(found: Sequence[Variable], entries: Mapping[str, Any], prefix: str) -> dict[str, tuple[int, ...]]:
    """The shape of every variable in the checkpoint; nothing is ever half loaded."""
    if not found:
        raise UserError("source", "cut", "there is no variable below the cut", "choose a cut further up")
    missing = [v for v in found if v.key not in entries]
    if missing:
        first = missing[0]
        todo = did_you_mean(first.key, entries) or "is this the checkpoint of this graph?"
        lacking = shortlist([v.key for v in missing])
        what = f"the checkpoint lacks {lacking}: {len(missing)} of {len(found)} variables below the cut"
        raise UserError("source", prefix, what, todo)
    shapes = {}
    for variable in found:
        entry = entries[variable.key]
        whole = variable.piece.split(" ")[:-1]
        if variable.piece and whole != [str(n) for n in entry.shape]:
            sizes = ("×".join(whole), _shown(entry.shape))
            what = f"variable '{variable.name}' is a piece of {sizes[0]} in the graph, {sizes[1]} in the checkpoint"
            raise UserError("source", prefix, what, "are .meta and checkpoint of the same model?")
        shape = piece_shape_of(variable.piece, entry.shape) if variable.piece else entry.shape
        if not _fits(variable.shape, shape):
            sizes = (_shown(variable.shape), _shown(shape))
            what = f"variable '{variable.name}' is {sizes[0]} in the graph, {sizes[1]} in the checkpoint"
            raise UserError("source", prefix, what, "are .meta and checkpoint of the same model?")
        if entry.dtype != variable.dtype:
            kinds = [DataType.Name(d)[3:].lower() for d in (variable.dtype, entry.dtype)]
            what = f"variable '{variable.name}' is {kinds[0]} in the graph, {kinds[1]} in the checkpoint"
            raise UserError("source", prefix, what, "are .meta and checkpoint of the same model?")
        shapes[variable.name] = tuple(shape)
    return shapes


def _fits(declared: Sequence[int | None] | None, shape: Sequence[int]) -> bool:
    if declared is None:
        return True
    return len(declared) == len(shape) and all(d is None or d == s for d, s in zip(declared, shape, strict=True))


def _shown(shape: Sequence[int | None] | None) -> str:
    return "×".join("?" if n is None else str(n) for n in shape or ()) or "a scalar"


def read_values(source: Source) -> dict[str, np.ndarray]:
    """The value of every variable below the cut, by name."""
    stored = weights.read_tensors(source.pair.prefix, sorted({v.key for v in source.variables}))
    return {v.name: of_piece(stored[v.key], v.piece) for v in source.variables}


def of_piece(value: np.ndarray, piece: str) -> np.ndarray:
    """The slice of a partitioned variable that one of its variables holds."""
    return value[index_of(piece.rpartition(" ")[2])] if piece else value
