"""Weights that lie in the file of the graph itself, where there is no checkpoint.

Those of a frozen graph are its constants. Programs that were given their weights as arrays have them as the constants
that their variables start from; a `.meta` written by one holds them all. No initialiser is run for that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError, shortlist
from finetune.graph import from_meta
from finetune.reading import frozen, metagraph
from finetune.reading.initial import first_values
from finetune.reading.metagraph import Pair


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
    given = first_values(meta, {node.name: node for node in meta.graph_def.node})
    return {name: node for name, node in given.items() if node.op == "Const"}


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
