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


def find_tables(whole: Graph, below: Graph) -> list[Table]:
    """The tables below the cut with their contents.

    Raises:
      UserError: a table that nothing fills, or that is filled from a file.
    """
    wanted = {n.name for n in below.nodes.values() if n.op in _TABLES}
    found = {}
    for node in whole.nodes.values() if wanted else ():
        refs = data_inputs(node)
        if node.op in _FILLS and node_of(refs[0]) in wanted:
            contents = [_evaluated(whole, ref) for ref in refs[1:3]]
            known = [c for c in contents if c is not None]
            if len(known) == 2:
                found[node_of(refs[0])] = Table(node_of(refs[0]), node.name, *known)
    for name in sorted(wanted - found.keys()):
        what = "this lookup table is not filled from constants of the graph"
        raise UserError("source", name, what, "choose a cut or inputs behind the lookup")
    return list(found.values())


def _evaluated(graph: Graph, ref: str, depth: int = 0) -> np.ndarray | None:
    """The value of a node that depends on constants through the few ops that vocabularies are made with."""
    node = graph.nodes[node_of(ref)]
    if node.op == "Const" or depth > 10:
        return read_constant(node)
    inputs = [_evaluated(graph, r, depth + 1) for r in data_inputs(node)]
    known = [i for i in inputs if i is not None]
    if len(known) != len(inputs) or not known:
        return None
    if node.op == "Identity":
        return known[0]
    if node.op == "Cast":
        kind = DTYPES.get(attr(node, "DstT").type)
        return None if kind is None else known[0].astype(kind)
    if node.op == "Range":
        return np.arange(*(int(k) for k in known), dtype=known[0].dtype)
    if node.op == "Reshape":
        return known[0].reshape(known[1])
    return None


def with_todays_tables(graph: Graph) -> Graph:
    """The graph with tables as resources, which all of them are since TensorFlow 1.2."""
    nodes: dict[str, Any] = {n: _todays(node) for n, node in graph.nodes.items()}
    return graph.with_nodes(nodes)


def _todays(node: Any) -> Any:
    return changed(node, op=_RENAMED[node.op]) if node.op in _RENAMED else node
