"""Lookup tables of a source: what is in them, told by the constants that would have filled them.

A table's nodes hold only its name; a node outside the cut fills it. No such node is ever run: the engine makes a
table of its own from the same keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.graph import DTYPES, Graph, attr, changed, data_inputs, read_constant
from finetune.names import node_of

_TABLES = ("HashTable", "HashTableV2")
_FILLS = ("InitializeTable", "InitializeTableV2", "LookupTableImport", "LookupTableImportV2")
# The forms of before resources -> today's.
_RENAMED = {"HashTable": "HashTableV2", "LookupTableFind": "LookupTableFindV2", "LookupTableSize": "LookupTableSizeV2"}


@dataclass(frozen=True)
class Table:
    """A lookup table: its node, the node that fills it, and what from."""

    name: str
    filled_by: str
    keys: np.ndarray
    values: np.ndarray


def fillers(whole: Graph, below: Graph) -> dict[str, str]:
    """The tables below the cut, each with the node that fills it.

    Raises:
      UserError: a table that nothing fills.
    """
    wanted = {n.name for n in below.nodes.values() if n.op in _TABLES}
    filling = [n for n in whole.nodes.values() if n.op in _FILLS and len(data_inputs(n)) == 3] if wanted else []
    found = {node_of(n.input[0]): n.name for n in filling if node_of(n.input[0]) in wanted}
    for name in sorted(wanted - found.keys()):
        raise _unfilled(name)
    return found


def find_tables(whole: Graph, below: Graph) -> list[Table]:
    """The tables below the cut with their contents.

    To be called with constants that are known to be of a bearable size.

    Raises:
      UserError: a table that nothing fills, or that is filled from something else than constants.
    """
    found = []
    for name, filled_by in fillers(whole, below).items():
        contents = [_evaluated(whole, ref) for ref in data_inputs(whole.nodes[filled_by])[1:]]
        known = [c for c in contents if c is not None]
        if len(known) != 2:
            raise _unfilled(name)
        found.append(Table(name, filled_by, *known))
    return found


def _unfilled(name: str) -> UserError:
    what = "this lookup table is not filled from constants of the graph"
    return UserError("source", name, what, "choose a cut or inputs behind the lookup")


def _evaluated(graph: Graph, ref: str, depth: int = 0) -> np.ndarray | None:
    """The value of a node that depends on constants through the few ops that vocabularies are made with."""
    node = graph.nodes[node_of(ref)]
    if node.op == "Const" or depth > 10:
        return read_constant(node)
    inputs = [_evaluated(graph, r, depth + 1) for r in data_inputs(node) if node_of(r) in graph.nodes]
    known = [i for i in inputs if i is not None]
    if len(known) != len(inputs) or not known:
        return None
    try:
        return _computed(node, known)
    except (ValueError, TypeError, ArithmeticError):  # the node is not as its op wants it
        return None


def _computed(node: Any, inputs: list[np.ndarray]) -> np.ndarray | None:
    if node.op == "Identity":
        return inputs[0]
    if node.op == "Cast":
        kind = DTYPES.get(attr(node, "DstT").type)
        return None if kind is None else inputs[0].astype(kind)
    if node.op == "Range":
        return np.arange(*(int(i) for i in inputs), dtype=inputs[0].dtype)
    if node.op == "Reshape" and len(inputs) == 2:
        return inputs[0].reshape(inputs[1])
    return None


def with_todays_tables(graph: Graph) -> Graph:
    """The graph with tables as resources, which all of them are since TensorFlow 1.2."""
    nodes: dict[str, Any] = {n: _todays(node) for n, node in graph.nodes.items()}
    return graph.with_nodes(nodes)


def _todays(node: Any) -> Any:
    return changed(node, op=_RENAMED[node.op]) if node.op in _RENAMED else node
