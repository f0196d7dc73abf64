"""Weights that lie in the file of the graph itself, where there is no checkpoint.

Those of a frozen graph are its constants. Programs that were given their weights as arrays have them as the constants
that their variables start from; a `.meta` written by one holds them all. No initialiser is run for that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune import frozen, metagraph
from finetune.errors import UserError, shortlist
from finetune.graph import data_inputs, from_meta
from finetune.metagraph import Pair
from finetune.names import node_of

_VARIABLES = ("VariableV2", "Variable", "VarHandleOp")


def lie_in(prefix: str) -> bool:
    """Whether a prefix is the file of a graph, and no checkpoint."""
    return prefix.endswith((".meta", *metagraph.GRAPHS)) and os.path.isfile(prefix)


def read(path: str) -> dict[str, Any]:
    """Variable -> the `Const` node with its value.

    Raises:
      UserError: the file holds no graph.
    """
    meta = metagraph.parse(Path(path))
    if metagraph.is_frozen(Path(path)):
        graph = from_meta(meta)
        return {name: graph.nodes[name] for name in frozen.weights(graph)}
    return _initial_values(meta)


def lacking(pair: Pair, variables: Sequence[str]) -> UserError:
    """The error of a graph that has no checkpoint, and no constants in the place of one."""
    where, folder, names = str(pair.meta), pair.meta.parent, shortlist(list(variables))
    if pair.meta.name in metagraph.SAVED_MODELS:
        what = f"{folder / 'variables' / 'variables.index'} is missing, and no constant has the values of {names}"
        return UserError("source", where, what, "copy the whole folder of the SavedModel")
    if pair.meta.suffix in metagraph.GRAPHS:
        what = f"no constant has the values of {names}, so this is no frozen graph"
        return UserError("source", where, what, "give the .meta and the checkpoint of the model")
    index = f"{where.removesuffix('.meta')}.index"
    what = f"{index} is missing, and no constant is the initial value of {names}"
    return UserError("source", where, what, metagraph.WHOLE_PAIR)


def _initial_values(meta: Any) -> dict[str, Any]:
    """What a variable is assigned by its own initialiser, where that is a constant."""
    nodes = {node.name: node for node in meta.graph_def.node}
    listed = {node_of(d.variable_name): d.initializer_name for d in metagraph.variable_defs(meta, "variables")}
    found = {}
    for node in nodes.values():
        assign = nodes.get(node_of(listed.get(node.name) or f"{node.name}/Assign"))
        if node.op not in _VARIABLES or assign is None or assign.op not in ("Assign", "AssignVariableOp"):
            continue
        target, value = data_inputs(assign)
        constant = _behind(nodes, value)
        if node_of(target) == node.name and constant is not None and constant.op == "Const":
            found[node.name] = constant
    return found


def _behind(nodes: Mapping[str, Any], ref: str) -> Any:
    """The node that a value comes from, through those that only pass it on."""
    node = nodes.get(node_of(ref))
    for _ in range(20):
        if node is None or node.op != "Identity":
            break
        node = nodes.get(node_of(node.input[0]))
    return node
