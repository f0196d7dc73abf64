"""The source up to the cut, made for one mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.errors import UserError, shortlist
from finetune.graph import Graph, attr, data_inputs, shape_of
from finetune.names import node_of, tensor_name
from finetune.protos import DataType
from finetune.reading.tables import Table, with_todays_tables
from finetune.reading.variables import Update
from finetune.surgery import modes, specialize
from finetune.surgery.branches import fold
from finetune.surgery.cut import cut, place_of, width_at
from finetune.surgery.dropout import without_idle_dropout
from finetune.surgery.parameters import as_parameters
from finetune.surgery.randomness import random_nodes, stateless

MODES = ("train", "eval")


@dataclass(frozen=True)
class Backbone:
    """A graph whose inputs and variables are all placeholders.

    `inputs` maps a data field to the tensor that takes it. `shapes` has every cut, with what the file records of it,
    which may be more than shape inference knows. The node of each update gives the value that the update would assign.
    """

    graph: Graph
    inputs: Mapping[str, str]
    shapes: Mapping[str, tuple[int | None, ...] | None]
    updates: tuple[Update, ...] = ()
    tables: tuple[Table, ...] = ()
    draws: tuple[str, ...] = ()  # nodes that draw at random


def make_backbone(
    whole: Graph,
    cuts: Sequence[str],
    inputs: Mapping[str, str],
    feeds: Mapping[str, Any],
    updates: Iterable[Update] = (),
    tables: Iterable[Table] = (),
) -> Backbone:
    """Slices, feeds, folds and makes portable; the source graph stays as it was.

    Args:
      whole: the source's graph.
      cuts: full tensor names.
      inputs: data field -> tensor.
      feeds: tensor -> value, for this mode.
      updates: assignments to keep as values.
      tables: lookup tables of the source.
    """
    updates = list(updates)
    stops = [*inputs.values(), *feeds]
    below = cut(whole, [*cuts, *(u.node for u in updates)], stops)
    used = {name: tensor for name, tensor in inputs.items() if node_of(tensor) in below.nodes}
    below = specialize.with_constants(below, {t: v for t, v in feeds.items() if node_of(t) in below.nodes})
    below, names = specialize.with_placeholders(without_idle_dropout(below), used)
    folded = fold(below)
    alive = tuple(u for u in updates if u.node in folded.nodes)
    if dead := [at for at in cuts if node_of(at) not in folded.nodes]:
        raise UserError(
            "source", "cut", f"'{dead[0]}' is in a branch that the feeds switch off", "look at source.feeds"
        )
    graph = cut(folded, [*cuts, *(u.node for u in alive)])
    for tensor in (*cuts, *names.values(), *feeds):
        if node_of(tensor) in graph.nodes and (place := place_of(graph, tensor)):
            what = f"'{tensor}' stands inside '{place}', where it has a value for each turn, or only in one branch"
            raise UserError("source", "cut" if tensor in cuts else "source.inputs", what, "name a tensor behind it")
    graph = specialize.portable(graph)
    shapes = {at: width_at(whole, at) for at in cuts}
    draws = tuple(random_nodes(graph))
    graph = as_parameters(stateless(with_todays_tables(graph)))
    return Backbone(graph, names, shapes, alive, tuple(t for t in tables if t.name in graph.nodes), draws)


def mode_feeds(feeds: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """The values of one mode: `{tensor: value}` or `{tensor: {train: value, eval: value}}`.

    >>> mode_feeds({"keep_prob": {"train": 0.5, "eval": 1.0}, "scale": 2.0}, "eval")
    {'keep_prob:0': 1.0, 'scale:0': 2.0}
    """
    chosen = {}
    for tensor, value in feeds.items():
        if isinstance(value, Mapping):
            if set(value) != set(MODES):
                raise UserError(
                    "recipe",
                    f"source.feeds.{tensor}",
                    f"has the keys {sorted(value)}",
                    "give a value, or train and eval",
                )
            value = value[mode]
        chosen[tensor_name(tensor)] = value
    return chosen


def default_feeds(below: Graph, feeds: Mapping[str, Any], learns: bool) -> dict[str, Any]:
    """Values for mode feeds whose own default would run a frozen graph in training mode.

    A frozen part runs in inference mode: batch-norm in training mode makes the feature of one example depend on
    the others of its batch.
    """
    return {
        tensor: {"train": mode.train if learns else mode.eval, "eval": mode.eval}
        for tensor, mode in modes.left_in_training(below).items()
        if tensor not in feeds
    }


def find_inputs(whole: Graph, cuts: Sequence[str], given: Mapping[str, str], feeds: Iterable[str]) -> dict[str, str]:
    """Data field -> tensor: as given, or the one placeholder that the cuts need and nothing feeds.

    Raises:
      UserError: placeholders without a value remain, or there is nothing to feed data into.
    """
    stops = [*given.values(), *feeds]
    below, at = cut(whole, cuts, stops), cuts[0]
    fed = {node_of(t) for t in stops}
    unfed = [n for n in specialize.open_placeholders(below) if n.name not in fed]
    known = {n.name: mode for n in unfed if (mode := modes.recognise(below, n)) is not None}
    candidates = [n for n in unfed if n.name not in known]
    if not given and len(candidates) == 1:
        given = {candidates[0].name.rpartition("/")[2]: f"{candidates[0].name}:0"}
        candidates = []
    if known or candidates:
        raise _unfed(at, known, [n for n in unfed if n.name in known or n in candidates])
    reached = {name: tensor for name, tensor in given.items() if node_of(tensor) in below.nodes}
    if not reached:
        raise _without_input(at, below)
    for name, tensor in given.items():
        if name not in reached:
            raise UserError(
                "source", f"source.inputs.{name}", f"cut '{at}' does not depend on '{tensor}'", "leave it out"
            )
    return dict(given)


def _unfed(at: str, known: Mapping[str, modes.Mode], unfed: Sequence[Any]) -> UserError:
    """The error for placeholders without a value: all of them, and what to do about each kind."""
    what = f"cut '{at}' needs {shortlist([_described(n) for n in unfed], 4)}, which nothing feeds"
    others = [f"{n.name}:0" for n in unfed if n.name not in known]
    todo = [f"add {'; '.join(f'source.feeds.{name}: {mode.eval!r}' for name, mode in known.items())}"] if known else []
    if others:
        named = shortlist(others, 4) if known else "them"
        todo.append(f"name {named} in source.inputs (field: tensor) or give them values in source.feeds")
    return UserError("source", "source.inputs" if others else "source.feeds", what, ", and ".join(todo))


def _without_input(at: str, below: Graph) -> UserError:
    read = {tensor_name(r) for n in below.nodes.values() for r in data_inputs(n)}
    bringing = {n.name for n in specialize.feeders(below)}
    brought = [tensor for tensor in sorted(read) if node_of(tensor) in bringing]
    if not brought:
        todo = "name the tensor that takes the data"
        return UserError("source", "source.inputs", f"cut '{at}' depends on no input", todo)
    shown = [f"'{tensor}' ({below.nodes[node_of(tensor)].op})" for tensor in brought]
    what = f"cut '{at}' gets its data from {shortlist(shown, 4)}, not from a placeholder"
    return UserError(
        "source", "source.inputs", what, f"name that tensor, e.g. 'source.inputs={{images: \"{brought[0]}\"}}'"
    )


def _described(node: Any) -> str:
    shape = shape_of(attr(node, "shape").shape) if "shape" in node.attr else None
    sizes = "unknown shape" if shape is None else "×".join("?" if n is None else str(n) for n in shape) or "scalar"
    return f"'{node.name}:0' ({DataType.Name(attr(node, 'dtype').type)[3:].lower()}, {sizes})"
