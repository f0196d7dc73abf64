"""A graph made for one mode: mode feeds as constants, inputs as placeholders, the author's machine forgotten."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.graph import (
    BOOL,
    DTYPES,
    Graph,
    attr,
    changed,
    constant,
    control_inputs,
    data_inputs,
    output_types,
    read_constant,
    recorded_shape,
    rewired,
)
from finetune.names import input_ref, is_control, node_of, port_of, unused
from finetune.protos import TensorShapeProto
from finetune.reading.variables import placeholder
from finetune.surgery.bodies import with_nodes

_LOUD = ("Print", "PrintV2", "Assert")
FEEDERS = re.compile(r"IteratorGetNext(Sync)?|Queue\w*Dequeue\w*(V2)?|QueueDequeue\w*|Unstage|ReaderRead\w*")
_PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")
# The attributes of a node that its op does not define are what some part of the author's TensorFlow left for another:
# recorded shapes, which can contradict today's inference and then stop the import, colocation, XLA scopes, names of
# gradient functions in Python, labels of kernels. Only these say how a node computes, or is differentiated.
_KEPT = ("_lower_using_switch_merge", "_num_original_outputs")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_HOW_TO_RUN = ("config", "config_proto", "executor_type")  # attributes of calls


def with_constants(graph: Graph, feeds: Mapping[str, Any], key: str = "source.feeds") -> Graph:
    """The graph with each fed tensor as a constant of the tensor's dtype.

    Raises:
      UserError: a value does not fit the dtype.
    """
    for tensor, value in feeds.items():
        dtype, _ = dtype_and_shape(graph, tensor)
        try:
            new = _exactly(value, dtype)
        except (ValueError, TypeError, KeyError, OverflowError):
            wanted = DTYPES[dtype].__name__ if dtype in DTYPES else f"dtype {dtype}"
            raise UserError("recipe", f"{key}.{tensor}", f"{value!r} is no {wanted}", f"give a {wanted}") from None
        graph = replaced(graph, tensor, new)
    return graph


def _exactly(value: Any, dtype: int) -> Any:
    """A constant of a dtype; an error if that changes the value: NumPy makes 0 of 0.5, NaN of None."""
    array = np.asarray(value)
    new = constant("value", value, dtype)
    kinds = "b" if dtype == BOOL else "iu" if np.dtype(DTYPES[dtype]).kind in "iu" else "iuf"
    if array.dtype.kind not in kinds and array.size:
        raise ValueError
    return new


def with_placeholders(graph: Graph, inputs: Mapping[str, str]) -> tuple[Graph, dict[str, str]]:
    """The graph with each input as a `Placeholder`, and the name of that placeholder's tensor by field.

    A placeholder that is there already keeps its name; so does any node of a single output.
    """
    names = {}
    for field, tensor in inputs.items():
        dtype, shape = dtype_and_shape(graph, tensor)
        names[field] = f"{_place(graph, tensor)}:0"
        graph = replaced(graph, tensor, placeholder("value", dtype, shape))
    return graph, names


def replaced(graph: Graph, tensor: str, new: Any) -> Graph:
    """The graph with another node in the place of one tensor."""
    new = changed(new, name=_place(graph, tensor))
    if new.name == node_of(tensor):
        return graph.with_nodes({n: new if n == new.name else node for n, node in graph.nodes.items()})
    return graph.with_nodes({new.name: new, **rewired(graph.nodes, {input_ref(tensor): new.name, tensor: new.name})})


def _place(graph: Graph, tensor: str) -> str:
    """The name for what replaces a tensor: that of its node, if the tensor is all that the node gives."""
    node, port = node_of(tensor), port_of(tensor)
    refs = {ref for n in graph.nodes.values() for ref in n.input if node_of(ref) == node}
    alone = port == 0 and refs <= {node, f"{node}:0", f"^{node}"}
    return node if alone else unused(f"{node}/output_{port}", graph.nodes)


def dtype_and_shape(graph: Graph, tensor: str) -> tuple[int, Any]:
    """The dtype of a tensor and its shape as a `TensorShapeProto` (None if unknown), as the file tells them."""
    node, port = graph.nodes[node_of(tensor)], port_of(tensor)
    if node.op in _PLACEHOLDERS and _has_shape(graph, node):
        return attr(node, "dtype").type, attr(node, "shape").shape
    known = recorded_shape(node, port)
    if known is None and node.op == "Reshape":  # frozen graphs record none
        known = _target(graph, node)
    shape = None
    if known is not None:
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1 if n is None else n) for n in known])
    if node.op in _PLACEHOLDERS:
        return attr(node, "dtype").type, shape
    if port < len(types := output_types(graph, node) or []):
        return types[port], shape
    for listed in ("output_types", "component_types", "Toutput_types", "Tdense", "out_types", "Tout", "T"):
        if port < len(types := attr(node, listed).list.type):
            return types[port], shape
    for single in ("dtype", "T", "DstT", "out_type", "output_type", "Tparams"):
        if single in node.attr:
            return attr(node, single).type, shape
    raise UserError("source", tensor, f"the file does not say which dtype a {node.op} gives", "name another tensor")


def _target(graph: Graph, reshape: Any) -> tuple[int | None, ...] | None:
    """The shape that a constant tells a `Reshape` to give."""
    # A node that was cut off has no inputs any more.
    sizes = read_constant(graph.nodes[node_of(reshape.input[1])]) if len(data_inputs(reshape)) == 2 else None
    return None if sizes is None else tuple(None if n < 0 else int(n) for n in sizes.ravel())


def _has_shape(graph: Graph, node: Any) -> bool:
    if "shape" not in node.attr:
        return False
    # Before GraphDef version 24 an unknown shape was written as a scalar.
    ambiguous = graph.versions is not None and graph.versions.producer < 24 and node.op == "Placeholder"
    return bool(attr(node, "shape").shape.dim) or attr(node, "shape").shape.unknown_rank or not ambiguous


def open_placeholders(graph: Graph) -> list[Any]:
    """The placeholders that have no value of their own."""
    return [n for n in graph.nodes.values() if n.op in ("Placeholder", "PlaceholderV2")]


def feeders(graph: Graph) -> list[Any]:
    """What brings data into a graph that has no placeholder for it: queues, readers, iterators."""
    return [n for n in graph.nodes.values() if FEEDERS.fullmatch(n.op)]


def portable(graph: Graph) -> Graph:
    """The graph without devices, colocation, recorded shapes, and all else that says where and how, not what."""
    nodes = {name: _portable(node) for name, node in graph.nodes.items()}
    return replace(graph, nodes=nodes, functions=tuple(_portable_function(f) for f in graph.functions))


def _portable(node: Any) -> Any:
    stale = [key for key in node.attr if key.startswith("_") and key not in _KEPT]
    stale += [key for key in _HOW_TO_RUN if node.op in _CALLS and key in node.attr]
    if not stale and not node.device:
        return node
    node = changed(node)
    node.device = ""
    for key in stale:
        del node.attr[key]
    return node


def _portable_function(function: Any) -> Any:
    copy = with_nodes(function, map(_portable, function.node_def))
    for key in set(copy.attr) - {"_input_shapes"}:  # what a gradient knows of the arguments
        del copy.attr[key]
    return copy


def python_gradients(graph: Graph) -> list[str]:
    """Nodes whose gradient was a Python function of the author's, which no file holds."""
    return [n.name for n in graph.nodes.values() if "_gradient_op_type" in n.attr]


def quiet(graph: Graph) -> Graph:
    """The graph with what writes to the terminal passed over: a `Print` only passes its value on.

    `Assert` and `PrintV2` give no value. A cut drops them with its control inputs; in the bodies of functions, which
    are kept whole, they become `NoOp`.
    """
    nodes = {name: _value_of_print(node) if node.op == "Print" else node for name, node in graph.nodes.items()}
    return replace(graph, nodes=nodes, functions=tuple(_quiet_function(f) for f in graph.functions))


def _quiet_function(function: Any) -> Any:
    is_loud = any(node.op in _LOUD for node in function.node_def)
    return with_nodes(function, map(_quiet, function.node_def)) if is_loud else function


def _quiet(node: Any) -> Any:
    if node.op == "Print":
        return _value_of_print(node)
    return changed(node, op="NoOp", input=control_inputs(node), attrs={}) if node.op in _LOUD else node


def _value_of_print(node: Any) -> Any:
    refs = [*data_inputs(node)[:1], *control_inputs(node)]
    return changed(node, op="Identity", input=refs, attrs={"T": attr(node, "T")})


def bypassed(whole: Graph, below: Graph) -> list[str]:
    """What of `whole` would write to the terminal when the values below the cut are computed, and does not any more."""
    prints = [name for name in below.nodes if whole.nodes[name].op == "Print"]
    called = {f.signature.name for f in below.functions}
    functions = [f for f in whole.functions if f.signature.name in called]
    inner = [f"{f.signature.name} → {n.name}" for f in functions for n in f.node_def if n.op in _LOUD]
    # Asserts are waited for, most of them from inside a branch that their condition takes.
    stack = [node_of(r) for name in below.nodes for r in whole.nodes[name].input if is_control(r)]
    awaited: set[str] = set()
    while stack:
        name = stack.pop()
        if name not in awaited and name not in below.nodes and name in whole.nodes:
            awaited.add(name)
            stack.extend(node_of(r) for r in whole.nodes[name].input)
    return [*prints, *(n for n in whole.nodes if n in awaited and whole.nodes[n].op in _LOUD), *inner]
