"""The source of a run: its pair read, cut, and settled with its checkpoint, before TensorFlow is imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from finetune import graph
from finetune.errors import UserError, shortlist
from finetune.graph import Graph
from finetune.names import node_of
from finetune.reading import constants, initial, metagraph, settle, variables, weights
from finetune.reading.metagraph import Pair
from finetune.reading.settle import AS_SAVED, Settled, Wishes
from finetune.reading.slices import index_of
from finetune.reading.tables import Table, fillers, find_tables
from finetune.reading.variables import Update, Variable
from finetune.remote.fetching import pair_at_hand
from finetune.surgery import backbone, cut, functions, sizes, soundness, specialize, trust
from finetune.surgery.dropout import without_dropout
from finetune.surgery.specialize import dtype_and_shape

PROBE = 8  # examples, to compare features on

Kind = tuple[int, "tuple[int | None, ...] | None"]


@dataclass(frozen=True)
class Source:
    """A pair with a cut, or with several: `also` are those that only some heads stand on.

    `feeds` are as the recipe gives them, full tensor names to a value or to {train, eval}. `below` is the part of
    `whole` that the cut needs; `variables` and `updates` are those in it, and `start` is where the variables
    start from. `above` are the names of the file's other variables, those that the source trains first. `bypassed` are
    the nodes that would write to the terminal and are passed over. `stamps` were taken of the files before they were
    read. `batch_size` is the number of examples that it takes at once, None if any. Where sizes were changed, `fixed`
    is the source before its batch size was, and `image_size` the height and width that it was written for.
    """

    pair: Pair
    stamps: Mapping[Path, tuple[int, ...]]
    meta: Any
    whole: Graph
    below: Graph
    cut: str
    inputs: Mapping[str, str]
    feeds: Mapping[str, Any]
    variables: tuple[Variable, ...]
    above: tuple[str, ...]
    start: Settled
    updates: tuple[Update, ...]
    tables: tuple[Table, ...]
    unused_keys: int
    bypassed: tuple[str, ...]
    batch_size: int | None
    fixed: Source | None = None
    image_size: tuple[int | None, ...] | None = None
    also: tuple[str, ...] = ()

    @property
    def cuts(self) -> tuple[str, ...]:
        """Every tensor that a head stands on."""
        return (self.cut, *self.also)

    def input_kinds(self) -> dict[str, Kind]:
        """(dtype, static shape) of every input by field, as an enum of types.proto and a tuple."""
        kinds = {}
        for name, tensor in self.inputs.items():
            dtype, shape = dtype_and_shape(self.whole, tensor)
            kinds[name] = (dtype, None if shape is None else graph.shape_of(shape))
        return kinds

    @property
    def is_resized(self) -> bool:
        """Whether it takes other sizes than those that it was written for."""
        return self.fixed is not None or self.image_size is not None

    @property
    def probe_size(self) -> int:
        """A number of examples that it takes as it was written, small where it takes any."""
        return (self.fixed or self).batch_size or PROBE

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every variable below the cut."""
        return self.start.shapes

    def first_value(self, name: str) -> str:
        """What a variable below the cut starts from, in words."""
        if name in self.start.averaged:
            return "moving average"
        if name in self.start.keys:
            return "checkpoint"
        if self.start.missing[name] is not None:
            return "its initialiser's constant"
        dtype = next(v.dtype for v in self.variables if v.name == name)
        return "Glorot uniform" if initial.is_drawn(self.start.shapes[name], dtype) else "zeros"

    def pieces(self) -> dict[str, tuple[str, str]]:
        """Slices of partitioned variables: name -> (key, the Saver's text for the slice)."""
        return {v.name: (v.key, v.piece) for v in self.variables if v.piece}


def read_source(
    path: str,
    at: str,
    inputs: Mapping[str, str],
    feeds: Mapping[str, Any],
    trusted: bool | Sequence[str] = False,
    wishes: Wishes = AS_SAVED,
    dropout: bool = True,
    also: Mapping[str, str] = MappingProxyType({}),
) -> Source:
    """Reads a pair and settles it with the recipe and with its checkpoint.

    Args:
      at: the cut.
      also: further tensors that are read, by the key of the recipe that names each.

    Raises:
      UserError: a file of the pair is missing or is something else; a tensor that the graph has not; a placeholder
        that nothing feeds; a variable that the checkpoint lacks or holds in another shape;
        an op that is neither allowed nor among `trusted`.
    """
    pair = metagraph.find_pair(pair_at_hand(path))
    stamps = metagraph.stamps(pair.files)
    meta = metagraph.read(pair.meta)
    loud = functions.inline(graph.from_meta(meta))
    whole = specialize.quiet(loud if dropout else without_dropout(loud))
    at = cut.find_tensor(whole, at, "cut")
    others = dict.fromkeys(cut.find_tensor(whole, tensor, key) for key, tensor in also.items())
    cuts = [at, *(tensor for tensor in others if tensor != at)]
    feeds = {cut.find_tensor(whole, t, f"source.feeds.{t}"): value for t, value in feeds.items()}
    inputs = {name: cut.find_tensor(whole, t, f"source.inputs.{name}") for name, t in inputs.items()}
    inputs = backbone.find_inputs(whole, cuts, inputs, feeds)
    stops = [*inputs.values(), *feeds]
    below = cut.cut(whole, cuts, stops)
    updates = variables.find_updates(meta, whole, below)
    beside = [*(u.node for u in updates), *fillers(whole, below).values()]
    kept = imported(whole, [*cuts, *beside], stops)
    soundness.check_sound(meta, kept)
    trust.check_graph(kept, trusted)
    everything = variables.find_variables(meta, whole, own_names=pair.is_one_file)
    found = [v for v in everything if v.name in below.nodes]
    entries = weights.read_index(pair.prefix)
    if pair.is_one_file and (lacking := [v.name for v in found if v.key not in entries]):
        raise constants.lacking(pair, lacking)
    start = settle.settle(meta, whole, found, entries, pair.prefix, wishes)
    weights.check_data(pair.prefix, entries, list(start.keys.values()))
    source = Source(
        pair=pair,
        stamps=stamps,
        meta=meta,
        whole=whole,
        below=below,
        cut=at,
        inputs=inputs,
        feeds=feeds,
        variables=tuple(found),
        above=tuple(v.name for v in sorted(everything, key=lambda v: not v.trainable) if v.name not in below.nodes),
        start=start,
        updates=tuple(updates),
        tables=tuple(find_tables(whole, below)),
        unused_keys=len(entries.keys() - start.keys.values()),
        bypassed=tuple(specialize.bypassed(loud, below)),
        batch_size=None,
        also=tuple(cuts[1:]),
    )
    baked = sizes.baked_batch(below, at, [shape for _, shape in source.input_kinds().values()])
    return replace(source, batch_size=baked)


def resized(source: Source, batch_sizes: Collection[int], image_size: Sequence[int] | None) -> Source:
    """The source for other sizes than those it was written for, as far as the file lets one see how.

    Args:
      batch_sizes: the numbers of examples that it is to take; a source that takes these already stays as it is.
      image_size: (height, width) of the images, None for those that it takes.
    """
    fields = list(source.inputs.values())
    known = [shape for _, shape in source.input_kinds().values()]
    takes = known[0][1:3] if len(known) == 1 and known[0] and len(known[0]) == 4 else ()
    if image_size is not None and None not in takes and takes != tuple(image_size):
        resized = sizes.with_image_size(source.whole, source.cuts, fields[0], image_size)
        source = replace(_with(source, resized), image_size=takes)
    size = source.batch_size
    if size is None or set(batch_sizes) <= {size}:
        return source
    free = sizes.with_free_batch(source.whole, source.cuts, fields, list(source.feeds), size)
    return replace(_with(source, free), batch_size=None, fixed=source)


def _with(source: Source, whole: Graph) -> Source:
    stops = [*source.inputs.values(), *source.feeds]
    return replace(source, whole=whole, below=cut.cut(whole, source.cuts, stops))


def imported(whole: Graph, outputs: Sequence[str], stops: Sequence[str]) -> Graph:
    """All that TensorFlow may get of the source, in any mode and in the written pair."""
    kept = cut.cut(whole, outputs, stops)
    kept, _ = specialize.with_placeholders(kept, {tensor: tensor for tensor in stops if node_of(tensor) in kept.nodes})
    return cut.cut(kept, outputs)  # once more: a queue whose output was the input is not needed any longer


def read_values(source: Source, seed: int = 0, allow_nonfinite: bool = False) -> dict[str, np.ndarray]:
    """The value of every variable below the cut, by name; `seed` is for those that start anew.

    Raises:
      UserError: a tensor cannot be read, or is NaN or Inf; a file is not what it was when the graph was read.
    """
    keys = source.start.keys
    stored = weights.read_tensors(source.pair.prefix, sorted(set(keys.values())))
    metagraph.check_unchanged(source.stamps)  # so that the digests of the run are those of what was read
    if not allow_nonfinite:
        _check_finite(stored, source.pair.prefix)
    return {
        v.name: of_piece(stored[keys[v.name]], v.piece) if v.name in keys else _fresh(source, v, seed)
        for v in source.variables
    }


def _fresh(source: Source, variable: Variable, seed: int) -> np.ndarray:
    stated = source.start.missing[variable.name]
    shape = source.start.shapes[variable.name]
    return initial.fresh(variable.name, shape, variable.dtype, seed) if stated is None else stated


def _check_finite(values: Mapping[str, np.ndarray], prefix: str) -> None:
    # bfloat16 and its like are floats by name only: NumPy does not know them.
    floats = {n: v for n, v in values.items() if v.dtype.kind in "fc" or "float" in v.dtype.name}
    counts = {n: int(np.sum(~np.isfinite(v))) for n, v in floats.items()}
    bad = [f"'{name}' ({count} of {values[name].size} values)" for name, count in counts.items() if count]
    if bad:
        todo = "source.allow_nonfinite=true goes on with them"
        raise UserError("source", prefix, f"there is NaN or Inf in {shortlist(bad)}", todo)


def of_piece(value: np.ndarray, piece: str) -> np.ndarray:
    """The slice of a partitioned variable that one of its variables holds."""
    return value[index_of(piece.rpartition(" ")[2])] if piece else value
