"""The variables of a TensorFlow-2 SavedModel: under which key its checkpoint holds each, and whether it is trained.

Such a checkpoint names a value by the path on which the saved object is first reached from the root, breadth first:
`layer/kernel/.ATTRIBUTES/VARIABLE_VALUE`. The slots of an optimizer hang below the variable that they belong to.
Formats: tensorflow/core/protobuf/saved_object_graph.proto, trackable_object_graph.proto.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from finetune.names import unused


@dataclass(frozen=True)
class SavedVariable:
    """What the objects say of one variable of the graph."""

    key: str
    trainable: bool


def find_saved(meta: Any) -> dict[str, SavedVariable]:
    """The variables among the objects, by the names of their nodes; none for files of TensorFlow 1."""
    objects = meta.object_graph_def.nodes
    paths = _paths(objects)
    found: dict[str, SavedVariable] = {}
    for place, saved in enumerate(objects):
        if saved.HasField("variable") and place in paths:
            # Objects may have one name; their nodes were made in this order, and a graph numbers equal names.
            name = unused(saved.variable.name, found)
            found[name] = SavedVariable(f"{paths[place]}/.ATTRIBUTES/VARIABLE_VALUE", saved.variable.trainable)
    return found


def _paths(objects: Any) -> dict[int, str]:
    """The path to every object."""
    paths = {0: ""} if len(objects) else {}
    queue = deque(paths)
    while queue:
        place = queue.popleft()
        for child in objects[place].children:
            if child.node_id not in paths and 0 <= child.node_id < len(objects):
                paths[child.node_id] = f"{paths[place]}/{_escaped(child.local_name)}".removeprefix("/")
                queue.append(child.node_id)
    for place in list(paths):
        for slot in objects[place].slot_variables:
            if slot.original_variable_node_id in paths:
                owner = f"{paths[slot.original_variable_node_id]}/.OPTIMIZER_SLOT/{paths[place]}"
                paths[slot.slot_variable_node_id] = f"{owner}/{_escaped(slot.slot_name)}"
    return paths


def _escaped(name: str) -> str:
    """A name as a part of a path.

    >>> _escaped("conv/kernel.0")
    'conv.Skernel..0'
    """
    return name.replace(".", "..").replace("/", ".S")
