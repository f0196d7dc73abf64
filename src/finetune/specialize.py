"""A graph made for one phase: mode feeds as constants, inputs as placeholders, the author's machine forgotten."""

from __future__ import annotations

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
    recorded_shape,
    rewired,
)
from finetune.names import input_ref, is_control, node_of, port_of, unused
from finetune.protos import TensorShapeProto
from finetune.variables import placeholder

_LOUD = ("Print", "PrintV2", "Assert")
_PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")
# What the author's machine, or shape inference of an older TensorFlow, left in the nodes. `_output_shapes` of an
# old gradient node can contradict today's inference and then stops the import.
_STALE = ("_output_shapes", "_class", "_XlaCompile", "_XlaSeparateCompiledGradients", "_XlaScope")


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
    shape = None
    if known is not None:
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1 if n is None else n) for n in known])
    if node.op in _PLACEHOLDERS:
        return attr(node, "dtype").type, shape
    if port < len(types := output_types(graph, node) or []):
        return types[port], shape
    for listed in ("output_types", "component_types", "Toutput_types", "Tdense", "out_types"):
        if port < len(types := attr(node, listed).list.type):
            return types[port], shape
    for single in ("dtype", "T", "DstT", "out_type", "output_type", "Tparams"):
        if single in node.attr:
            return attr(node, single).type, shape
    raise UserError("source", tensor, f"the file does not say which dtype a {node.op} gives", "name another tensor")


def _has_shape(graph: Graph, node: Any) -> bool:
    if "shape" not in node.attr:
        return False
    # Before GraphDef version 24 an unknown shape was written as a scalar.
    ambiguous = graph.versions is not None and graph.versions.producer < 24 and node.op == "Placeholder"
    return bool(attr(node, "shape").shape.dim) or attr(node, "shape").shape.unknown_rank or not ambiguous


def open_placeholders(graph: Graph) -> list[Any]:
    """The placeholders that have no value of their own."""
    return [n for n in graph.nodes.values() if n.op in ("Placeholder", "PlaceholderV2")]


def portable(graph: Graph) -> Graph:
    """The graph without devices, colocation and recorded shapes."""
    nodes = {}
    for name, node in graph.nodes.items():
        stale = [key for key in _STALE if key in node.attr]
        if stale or node.device:
            node = changed(node)
            node.device = ""
            for key in stale:
                del node.attr[key]
        nodes[name] = node
    return graph.with_nodes(nodes)


def python_gradients(graph: Graph) -> list[str]:
    """Nodes whose gradient was a Python function of the author's, which no file holds."""
    return [n.name for n in graph.nodes.values() if "_gradient_op_type" in n.attr]


def without_python_gradients(graph: Graph) -> Graph:
    """The graph with the ordinary gradient in the place of each that was overridden in Python."""
    nodes = dict(graph.nodes)
    for name in python_gradients(graph):
        nodes[name] = changed(nodes[name])
        del nodes[name].attr["_gradient_op_type"]
    return graph.with_nodes(nodes)


def quiet(graph: Graph) -> Graph:
    """The graph with what writes to the terminal passed over: a `Print` only passes its value on.

    `Assert` and `PrintV2` give no value. A cut drops them with its control inputs; in the bodies of functions, which
    are kept whole, they become `NoOp`.
    """
    nodes = {name: _value_of_print(node) if node.op == "Print" else node for name, node in graph.nodes.items()}
    return replace(graph, nodes=nodes, functions=tuple(_quiet_function(f) for f in graph.functions))


def _quiet_function(function: Any) -> Any:
    if not any(node.op in _LOUD for node in function.node_def):
        return function
    copy = type(function)()
    copy.CopyFrom(function)
    del copy.node_def[:]
    for node in function.node_def:
        if node.op == "Print":
            node = _value_of_print(node)
        elif node.op in _LOUD:
            node = changed(node, op="NoOp", input=control_inputs(node), attrs={})
        copy.node_def.append(node)
    return copy


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
