"""A graph that we can hold: nodes by name, control-flow contexts, functions.

Everything the surgery does is a function from one `Graph` to another; the one it was given stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from finetune.names import input_ref, is_control, node_of
from finetune.protos import AttrValue, CondContextDef, DataType, MetaGraphDef, NodeDef, WhileContextDef

# DataType of tensorflow/core/framework/types.proto -> NumPy, for the constants that we write ourselves.
DTYPES: dict[int, Any] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    17: np.uint16,
    19: np.float16,
    22: np.uint32,
    23: np.uint64,
}
ENUMS = {np.dtype(kind): enum for enum, kind in DTYPES.items()}
UINT8 = 4
BOOL = 10
RESOURCE = 20
FLOATS = (1, 2, 19, 14)  # float, double, half, bfloat16
REF = 100  # a reference dtype is its base plus this
MOST_REPEATED = 2**24  # values of a constant that stand in the file once; the few that are read here are small


def dtype_name(dtype: int) -> str:
    """A dtype in NumPy's words, or in TensorFlow's where NumPy has none.

    >>> dtype_name(1), dtype_name(7)
    ('float32', 'string')
    """
    if dtype in DTYPES:
        return np.dtype(DTYPES[dtype]).name
    return DataType.Name(dtype)[3:].lower() if dtype in DataType.values() else f"type {dtype}"


@dataclass(frozen=True)
class Graph:
    """Nodes in their original order, and what belongs to them.

    `conds` and `whiles` are the outermost `CondContextDef` and `WhileContextDef` messages of the graph.
    """

    nodes: Mapping[str, Any]
    conds: tuple[Any, ...] = ()
    whiles: tuple[Any, ...] = ()
    functions: tuple[Any, ...] = ()
    versions: Any = None
    stripped_ops: Any = None  # how the writer's ops were defined, as far as the file says

    def with_nodes(self, nodes: Mapping[str, Any]) -> Graph:
        """The same graph with other nodes."""
        return replace(self, nodes=nodes)


def from_meta(meta: Any) -> Graph:
    """The graph in a `MetaGraphDef`."""
    definition = meta.graph_def
    return Graph(
        nodes={node.name: node for node in definition.node},
        conds=tuple(_messages(meta, "cond_context", CondContextDef)),
        whiles=tuple(_messages(meta, "while_context", WhileContextDef)),
        functions=tuple(definition.library.function),
        versions=definition.versions,
        stripped_ops=meta.meta_info_def.stripped_op_list,
    )


def to_meta(graph: Graph) -> Any:
    """A `MetaGraphDef` of the graph and its contexts, with no other collection and no saver."""
    meta = MetaGraphDef()
    meta.graph_def.node.extend(graph.nodes.values())
    meta.graph_def.library.function.extend(graph.functions)
    if graph.versions is not None:
        meta.graph_def.versions.CopyFrom(graph.versions)
    if graph.stripped_ops is not None:
        meta.meta_info_def.stripped_op_list.CopyFrom(graph.stripped_ops)
    for collection, contexts in (("cond_context", graph.conds), ("while_context", graph.whiles)):
        if contexts:
            values = [context.SerializeToString(deterministic=True) for context in contexts]
            meta.collection_def[collection].bytes_list.value.extend(values)
    return meta


def _messages(meta: Any, collection: str, kind: Any) -> Iterator[Any]:
    if collection not in meta.collection_def:
        return
    for content in meta.collection_def[collection].bytes_list.value:
        message = kind()
        try:
            message.ParseFromString(content)
        except DecodeError:
            continue
        yield message


def consumers(nodes: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each node, the nodes that read it or wait for it."""
    found: dict[str, list[str]] = {}
    for node in nodes.values():
        for source in dict.fromkeys(node_of(ref) for ref in node.input):
            found.setdefault(source, []).append(node.name)
    return found


def circle_in(reads: Mapping[str, set[str]]) -> list[str]:
    """A way from a name back to itself, as what each name reads says; empty if there is none.

    >>> circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    ['b', 'c', 'b']
    """
    left = {name: set(those) & reads.keys() for name, those in reads.items()}
    readers: dict[str, list[str]] = {}
    for name, those in left.items():
        for other in those:
            readers.setdefault(other, []).append(name)
    ending = [name for name, those in left.items() if not those]
    for name in ending:  # it grows while it is gone through
        for reader in readers.get(name, ()):
            left[reader].discard(name)
            if not left[reader]:
                ending.append(reader)
    endless = [name for name, those in left.items() if those]
    if not endless:
        return []
    way = [endless[0]]
    while (following := min(left[way[-1]])) not in way:
        way.append(following)
    return [*way[way.index(following) :], following]


def ancestors(nodes: Mapping[str, Any], tensors: Iterable[str]) -> set[str]:
    """The nodes that run when some tensors are asked for, those included that are only waited for."""
    found: set[str] = set()
    stack = [node_of(tensor) for tensor in tensors]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(node_of(ref) for ref in nodes[name].input)
    return found


_NO_VALUE = AttrValue()


def attr(node: Any, key: str) -> Any:
    """An attribute of a node, empty if it has none of that name.

    Reading `node.attr[key]` would add it: protobuf maps insert what is looked up.
    """
    return node.attr.get(key, _NO_VALUE)


def data_inputs(node: Any) -> list[str]:
    """The inputs of a node that carry a value."""
    return [ref for ref in node.input if not is_control(ref)]


def control_inputs(node: Any) -> list[str]:
    """The inputs of a node that only order execution."""
    return [ref for ref in node.input if is_control(ref)]


def changed(node: Any, **changes: Any) -> Any:
    """A copy of a node with some of `name`, `op`, `input` and `attrs` replaced."""
    copy = NodeDef()
    copy.CopyFrom(node)
    if "name" in changes:
        copy.name = changes["name"]
    if "op" in changes:
        copy.op = changes["op"]
    if "input" in changes:
        del copy.input[:]
        copy.input.extend(changes["input"])
    if "attrs" in changes:
        copy.attr.clear()
        for key, value in changes["attrs"].items():
            copy.attr[key].CopyFrom(value)
    return copy


def rewired(nodes: Mapping[str, Any], new_of: Mapping[str, str]) -> dict[str, Any]:
    """The nodes with their data inputs replaced: `new_of` maps an input as written to its replacement."""
    if not new_of:
        return dict(nodes)
    result = {}
    for name, node in nodes.items():
        if any(ref in new_of for ref in node.input):
            node = changed(node, input=[new_of.get(ref, ref) for ref in node.input])
        result[name] = node
    return result


def make_node(name: str, op: str, inputs: Iterable[str] = (), **attrs: Any) -> Any:
    """A new node; attributes are given as `name={"type": 1}`, the fields of an `AttrValue`."""
    node = NodeDef(name=name, op=op, input=[r if is_control(r) else input_ref(r) for r in inputs])
    for key, value in attrs.items():
        (kind, content), *_ = value.items()
        if kind in ("type", "i", "b", "s", "f"):
            setattr(node.attr[key], kind, content)
        else:
            getattr(node.attr[key], kind).CopyFrom(content)
    return node


def constant(name: str, value: Any, dtype: int | None = None, inputs: Iterable[str] = ()) -> Any:
    """A `Const` node; `dtype` is an enum of types.proto, by default that of the NumPy value."""
    array = np.asarray(value, dtype=None if dtype is None else DTYPES[dtype])
    enum = ENUMS[array.dtype]
    node = make_node(name, "Const", inputs, dtype={"type": enum})
    tensor = node.attr["value"].tensor
    tensor.dtype = enum
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = array.tobytes()
    return node


def read_constant(node: Any) -> np.ndarray | None:
    """The value of a numeric or string `Const` node; None if it is no such node."""
    if node.op != "Const":
        return None
    tensor = attr(node, "value").tensor
    shape = [d.size for d in tensor.tensor_shape.dim]
    content = tensor.tensor_content  # asked for once: each time it is another copy
    if tensor.dtype == 7:  # string
        array = np.array(list(tensor.string_val), dtype=object)
    elif tensor.dtype not in DTYPES:
        return None
    elif content:
        dtype = np.dtype(DTYPES[tensor.dtype])
        array = np.frombuffer(content if len(content) % dtype.itemsize == 0 else b"", dtype)
    else:
        array = _listed_values(tensor)
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count > max(array.size, MOST_REPEATED):
        return None
    if array.size < count and array.size and not content:  # the last value stands for all that follow
        array = np.concatenate([array, np.repeat(array[-1:], count - array.size)])
    return array.reshape(shape) if array.size == count else None


def _listed_values(tensor: Any) -> np.ndarray:
    dtype = DTYPES[tensor.dtype]
    if tensor.dtype == 19:
        return np.array(list(tensor.half_val), dtype=np.uint16).view(np.float16)
    fields = {1: "float_val", 2: "double_val", 9: "int64_val", 10: "bool_val", 22: "uint32_val", 23: "uint64_val"}
    return np.array(list(getattr(tensor, fields.get(tensor.dtype, "int_val"))), dtype=dtype)


def shape_of(message: Any) -> tuple[int | None, ...] | None:
    """A `TensorShapeProto` as a tuple; None for an unknown rank, None for an unknown size.

    >>> from finetune.protos import TensorShapeProto
    >>> shape_of(TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1), TensorShapeProto.Dim(size=3)]))
    (None, 3)
    """
    if message.unknown_rank:
        return None
    return tuple(None if d.size < 0 else d.size for d in message.dim)


def recorded_shape(node: Any, port: int) -> tuple[int | None, ...] | None:
    """The shape that the writer inferred for an output, kept in `_output_shapes`; None if there is none.

    At the cut it may be the only place that still knows a width.
    """
    shapes = attr(node, "_output_shapes").list.shape
    return shape_of(shapes[port]) if port < len(shapes) else None


def output_types(graph: Graph, node: Any) -> list[int] | None:
    """The dtypes of a node's outputs, as the file defines its op; None if the file does not.

    References count as the values that they refer to.
    """
    ops = graph.stripped_ops.op if graph.stripped_ops is not None else ()
    definition = next((op for op in ops if op.name == node.op), None)
    if definition is None:
        return list(attr(node, "T").list.type) if node.op == "IdentityN" else None
    defaults = {a.name: a.default_value for a in definition.attr}  # a writer may leave out what is the default

    def value(name: str) -> Any:
        return node.attr[name] if name in node.attr else defaults.get(name, _NO_VALUE)

    found: list[int] = []
    for output in definition.output_arg:
        if output.type_list_attr:
            found += value(output.type_list_attr).list.type
        else:
            kind = value(output.type_attr).type if output.type_attr else output.type
            found += [kind % REF] * (value(output.number_attr).i if output.number_attr else 1)
    return found


@dataclass
class _Nested:
    conds: list[Any] = field(default_factory=list)
    whiles: list[Any] = field(default_factory=list)


def all_contexts(graph: Graph) -> tuple[list[Any], list[Any]]:
    """Every cond and every while context, nested ones included."""
    found = _Nested()

    def visit(kind: str, context: Any) -> None:
        (found.conds if kind == "cond_ctxt" else found.whiles).append(context)
        for nested in context.nested_contexts:
            inner = nested.WhichOneof("ctxt")
            if inner:
                visit(inner, getattr(nested, inner))

    for context in graph.conds:
        visit("cond_ctxt", context)
    for context in graph.whiles:
        visit("while_ctxt", context)
    return found.conds, found.whiles


def enter_of(graph: Graph, loop: Any) -> Any:
    """One of the `Enter` nodes of a V1 loop; files of TensorFlow 1.1 do not list them."""
    inside = {node_of(v) for v in loop.values_def.values}
    merges = [n for n in graph.nodes.values() if n.op == "Merge" and n.name in inside]
    read = {node_of(ref) for merge in merges for ref in merge.input}
    return next(n for n in graph.nodes.values() if n.op == "Enter" and n.name in read)
