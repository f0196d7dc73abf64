"""The variables of a source: which there are, and under which key a checkpoint holds each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.graph import (
    FLOATS,
    REF,
    Graph,
    attr,
    data_inputs,
    make_node,
    read_constant,
    shape_of,
)
from finetune.names import is_control, node_of
from finetune.reading import metagraph, objects

REF_OPS = ("VariableV2", "Variable")
VARIABLE_OPS = (*REF_OPS, "VarHandleOp")
# A reference that is only passed on.
REF_TO_VALUE = {
    "RefIdentity": "Identity",
    "RefSwitch": "Switch",
    "RefMerge": "Merge",
    "RefEnter": "Enter",
    "RefExit": "Exit",
    "RefNextIteration": "NextIteration",
}
PASS_ON = ("Identity", "Switch", "Merge", "Enter", "Exit", "NextIteration", "ReadVariableOp")
# An assignment -> the op that gives the value which it would assign.
ASSIGNS = {
    "Assign": "Identity",
    "AssignAdd": "AddV2",
    "AssignSub": "Sub",
    "AssignVariableOp": "Identity",
    "AssignAddVariableOp": "AddV2",
    "AssignSubVariableOp": "Sub",
}
# What an optimizer keeps for itself, and what an `ExponentialMovingAverage` keeps of a variable, by their names.
SLOT = re.compile(
    r"/(Adam|AdamW|AdaMax|Nadam|Momentum|RMSProp|Adagrad|Adadelta|Ftrl|AMSGrad|vhat|LAMB|LARS\w*)\w*?(_\d+)?$"
    r"|(^|/)beta[12]_power(_\d+)?$|/Optimizer\w*/|^training/"
)
AVERAGE = re.compile(r"/(ExponentialMovingAverage|EMA)(_\d+)?$")
_SAVES = {"Save": 2, "SaveSlices": 3, "SaveV2": 3}  # op -> where the saved tensors begin among its inputs


@dataclass(frozen=True)
class Variable:
    """A variable of the source.

    `key` is its name in the checkpoint; `piece` is the Saver's text for a slice of a partitioned variable
    ("40 8 0,20:-": full shape, then start,length of each dimension), else "".
    """

    name: str
    key: str
    dtype: int
    shape: tuple[int | None, ...] | None
    trainable: bool
    resource: bool
    piece: str = ""


def find_variables(meta: Any, graph: Graph, own_names: bool = False) -> list[Variable]:
    """The variables among a graph's nodes.

    Args:
      own_names: there is no checkpoint, so that each value is known by the name of its variable.

    Keys come from the objects of a TensorFlow-2 SavedModel, or from the file's own `Saver`, whose nodes pair each
    checkpoint key with a variable (a `Saver` given a dict may have used other names), then from the slice information
    of partitioned variables, then from the variable's name. Without a collection of trainable variables, every float
    that nothing assigns outside initialisers, restoring and optimizers counts as trainable.
    """
    listed = [*metagraph.variable_defs(meta, "variables"), *metagraph.variable_defs(meta, "trainable_variables")]
    by_name = {node_of(d.variable_name): d for d in listed}
    trainable = {node_of(d.variable_name) for d in metagraph.variable_defs(meta, "trainable_variables")}
    tracked = objects.find_saved(meta)
    trainable |= {name for name, variable in tracked.items() if variable.trainable}
    saved = {} if own_names else _saved_keys(meta) | {name: (v.key, "") for name, v in tracked.items()}
    assigned = set() if trainable else _assigned(meta, {d.initializer_name for d in listed})
    found = []
    for node in graph.nodes.values():
        if node.op not in VARIABLE_OPS:
            continue
        definition = by_name.get(node.name)
        key, piece = (node.name, "") if own_names else saved.get(node.name) or _default_key(node, definition)
        dtype = attr(node, "dtype").type % REF
        learns = node.name in trainable if trainable else dtype in FLOATS and node.name not in assigned
        shape = shape_of(attr(node, "shape").shape)
        found.append(Variable(node.name, key, dtype, shape, learns, node.op == "VarHandleOp", piece))
    return found


def _default_key(node: Any, definition: Any) -> tuple[str, str]:
    if definition is not None and definition.HasField("save_slice_info_def"):
        info = definition.save_slice_info_def
        full = " ".join(str(n) for n in info.full_shape)
        spans = zip(info.var_offset, info.var_shape, info.full_shape, strict=True)
        return info.full_name, f"{full} " + ":".join("-" if s == f else f"{o},{s}" for o, s, f in spans)
    shared = attr(node, "shared_name").s.decode(errors="replace") if node.op == "VarHandleOp" else ""
    return shared or node.name, ""


def _saved_keys(meta: Any) -> dict[str, tuple[str, str]]:
    """Variable -> (checkpoint key, piece), as the graph's saving nodes say; the active Saver's word counts first."""
    nodes = {n.name: n for n in meta.graph_def.node}
    active = _awaited(nodes, node_of(meta.saver_def.save_tensor_name)) if meta.HasField("saver_def") else set()
    saves = sorted((n for n in nodes.values() if n.op in _SAVES), key=lambda n: n.name not in active)
    keys: dict[str, tuple[str, str]] = {}
    for node in saves:
        refs = data_inputs(node)
        first = _SAVES[node.op]
        texts = [read_constant(nodes[node_of(r)]) for r in refs[1:first] if node_of(r) in nodes]
        known = [list(text) for text in texts if text is not None]
        if len(known) != first - 1:
            continue
        pieces = known[1] if first == 3 else [b""] * len(known[0])
        for key, piece, ref in zip(known[0], pieces, refs[first:], strict=False):
            variable = _variable_behind(nodes, ref)
            if variable:
                keys.setdefault(variable, (key.decode(errors="replace"), piece.decode(errors="replace")))
    return keys


def _awaited(nodes: Mapping[str, Any], name: str) -> set[str]:
    """The nodes that run before one does: two Savers may stand in one scope."""
    found: set[str] = set()
    stack = [name]
    while stack:
        name = stack.pop()
        if name in nodes and name not in found:
            found.add(name)
            stack.extend(node_of(ref) for ref in nodes[name].input)
    return found


def _assigned(meta: Any, initialisers: set[str]) -> set[str]:
    """The variables that the source moves otherwise than by gradients: statistics, averages, counters."""
    nodes = {n.name: n for n in meta.graph_def.node}
    found = set()
    for node in nodes.values():
        variable = _variable_behind(nodes, node.input[0]) if node.op in ASSIGNS else None
        if variable is None or node.name in initialisers or node.name == f"{variable}/Assign":
            continue
        value = nodes.get(node_of(node.input[1]))
        loaded = value is not None and value.op in ("Placeholder", "Const") and ASSIGNS[node.op] == "Identity"
        # An optimizer assigns too, where a gradient is sparse.
        learned = any(n.op.startswith("Restore") or "gradients/" in n.name for n in _made_of(nodes, node.input[1]))
        if not loaded and not learned:
            found.add(variable)
    return found


def _made_of(nodes: Mapping[str, Any], ref: str) -> Iterator[Any]:
    """The nodes that a value is computed from."""
    stack, seen = [node_of(ref)], set()
    while stack:
        name = stack.pop()
        if name in nodes and name not in seen:
            seen.add(name)
            yield nodes[name]
            stack.extend(node_of(r) for r in data_inputs(nodes[name]))


def _variable_behind(nodes: Mapping[str, Any], ref: str) -> str | None:
    """The variable whose value an input is, through nodes that only pass it on."""
    for _ in range(20):
        node = nodes.get(node_of(ref))
        if node is None or node.op in VARIABLE_OPS:
            return None if node is None else node.name
        inputs = data_inputs(node)
        if node.op not in (*PASS_ON, *REF_TO_VALUE) or not inputs:
            return None
        ref = inputs[0]
    return None


def placeholder(name: str, dtype: int, shape: Any = None) -> Any:
    """A `Placeholder` node; `shape` is a `TensorShapeProto`, None for an unknown one."""
    node = make_node(name, "Placeholder", dtype={"type": dtype})
    if shape is None:
        node.attr["shape"].shape.unknown_rank = True
    else:
        node.attr["shape"].shape.CopyFrom(shape)
    return node


@dataclass(frozen=True)
class Update:
    """An assignment that the source makes to a variable beside the forward path: batch-norm statistics.

    In a graph made by `as_parameters` the node gives the value that it would assign.
    """

    node: str
    variable: str


def find_updates(meta: Any, whole: Graph, below: Graph) -> list[Update]:
    """The assignments to variables below the cut that running the source in training would make.

    They are those of the `update_ops` collection, those below the cut, and those that nodes below the cut wait for.
    `below` is the part of `whole` that the cut needs.
    """
    candidates = [node_of(n) for n in metagraph.node_list(meta, "update_ops")]
    candidates += [name for name in below.nodes if below.nodes[name].op in ASSIGNS]
    candidates += [node_of(r) for name in below.nodes for r in whole.nodes[name].input if is_control(r)]
    found: dict[str, Update] = {}
    for name in _with_grouped(whole, candidates):
        node = whole.nodes[name]
        if node.op not in ASSIGNS:
            continue
        variable = _variable_behind(whole.nodes, node.input[0])
        if variable is not None and variable in below.nodes:
            found[name] = Update(name, variable)
    return list(found.values())


def _with_grouped(graph: Graph, candidates: Iterable[str]) -> list[str]:
    """The candidates, `tf.group`s and identities opened up."""
    found: dict[str, None] = {}
    stack = list(candidates)
    while stack:
        name = stack.pop()
        node = graph.nodes.get(name)
        if node is None or name in found:
            continue
        found[name] = None
        if node.op in ("NoOp", "Identity", "IdentityN"):
            stack.extend(node_of(r) for r in node.input)
    return sorted(found)
