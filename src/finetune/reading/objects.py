"""The variables of a TensorFlow-2 SavedModel: under which key its checkpoint holds each, and whether it is trained.

Such a checkpoint names a value by the path on which the saved object is first reached from the root, breadth first:
`layer/kernel/.ATTRIBUTES/VARIABLE_VALUE`. Objects do not name their nodes for certain, for several may have one name;
the function that restores the checkpoint pairs keys and nodes. It is read and never run.
Formats: tensorflow/core/protobuf/saved_object_graph.proto, trackable_object_graph.proto.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from finetune.graph import attr, data_inputs, read_constant
from finetune.names import node_of


@dataclass(frozen=True)
class SavedVariable:
    """What a SavedModel says of one variable of its graph."""

    key: str
    trainable: bool


def find_saved(meta: Any) -> dict[str, SavedVariable]:
    """The variables by the names of their nodes; none for files of TensorFlow 1."""
    objects = meta.object_graph_def.nodes
    trained = {
        f"{path}/.ATTRIBUTES/VARIABLE_VALUE"
        for place, path in _paths(objects).items()
        if objects[place].HasField("variable") and objects[place].variable.trainable
    }
    return {node: SavedVariable(key, key in trained) for node, key in _restored(meta).items()}


def _restored(meta: Any) -> dict[str, str]:
    """Variable -> the key from which the function that the file restores with assigns it."""
    calls = {node.name: node for node in meta.graph_def.node}
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    call = calls.get(node_of(meta.saver_def.restore_op_name))
    function = functions.get(attr(call, "f").func.name) if call is not None else None
    if call is None or function is None:
        return {}
    handed = dict(zip((argument.name for argument in function.signature.input_arg), data_inputs(call), strict=False))
    nodes = {node.name: node for node in function.node_def}
    found = {}
    for node in nodes.values():
        if node.op != "AssignVariableOp" or len(node.input) < 2 or node.input[0] not in handed:
            continue
        key = _key(nodes, node.input[1])
        if key is not None:
            found[node_of(handed[node.input[0]])] = key
    return found


def _key(nodes: dict[str, Any], ref: str) -> str | None:
    """The key that a restored value has; in functions an output is written `node:list:number`."""
    node = nodes.get(node_of(ref))
    for _ in nodes:  # no way is longer, and one that goes round ends here
        if node is None or node.op != "Identity" or not node.input:
            break
        ref = node.input[0]
        node = nodes.get(node_of(ref))
    place = ref.rpartition(":")[2]
    if node is None or node.op != "RestoreV2" or len(node.input) < 2 or not place.isdecimal():
        return None
    source = nodes.get(node_of(node.input[1]))
    keys = read_constant(source) if source is not None else None
    return keys[int(place)].decode(errors="replace") if keys is not None and int(place) < len(keys) else None


def _paths(objects: Any) -> dict[int, str]:
    """The path to every object that the root reaches."""
    paths = {0: ""} if len(objects) else {}
    queue = deque(paths)
    while queue:
        place = queue.popleft()
        for child in objects[place].children:
            if child.node_id not in paths and 0 <= child.node_id < len(objects):
                paths[child.node_id] = f"{paths[place]}/{_escaped(child.local_name)}".removeprefix("/")
                queue.append(child.node_id)
    return paths


def _escaped(name: str) -> str:
    """A name as a part of a path.

    >>> _escaped("conv/kernel.0")
    'conv.Skernel..0'
    """
    return name.replace(".", "..").replace("/", ".S")
