"""Batch and image sizes that are baked into a source: found, and freed as far as only constants speak for them.

A program of the time often fixed its batch size, in its placeholders and in what it built beside them: zero states,
lengths, the targets of reshapes. Here the placeholders are opened, and such constants take the size from the input.
Whether that is sound, only running it shows, for a constant may mean something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.graph import (
    FLOATS,
    Graph,
    all_contexts,
    attr,
    changed,
    constant,
    consumers,
    control_inputs,
    data_inputs,
    enter_of,
    make_node,
    read_constant,
    recorded_shape,
)
from finetune.names import node_of, port_of, unused
from finetune.surgery.cut import cut, width_at
from finetune.surgery.specialize import dtype_and_shape

_INT, _INTS = 3, (3, 9)
# Where an op takes a shape or a part of one: (op, place among its inputs).
_SHAPES = {("Reshape", 1), ("Fill", 0), ("BroadcastTo", 1), ("Tile", 1), ("Slice", 2), ("Range", 1)}
_SHAPES |= {("RandomUniform", 0), ("RandomStandardNormal", 0), ("TruncatedNormal", 0)}
# What hands sizes on: op -> the places of those inputs; None for all.
_PASSES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Identity", "Enter", "Switch", "Cast", "ExpandDims", "StridedSlice", "Slice"), (0,)),
    **dict.fromkeys(("Pack", "ConcatV2", "Concat"), None),
}
# A vector of floats among these is one of channels, as long as the batch by chance.
_PER_CHANNEL = ("Add", "AddV2", "Sub", "Mul", "RealDiv", "BiasAdd", "Rsqrt", "FusedBatchNorm", "FusedBatchNormV3")


def baked_batch(below: Graph, at: str, shapes: Iterable[Sequence[int | None] | None]) -> int | None:
    """The number of examples that a source takes at once, None if any.

    Its inputs state it, or else what the file recorded of the cut, or of a state that a loop starts from.

    Args:
      below: what the cut needs.
      shapes: of the inputs.
    """
    recorded = width_at(below, at)
    stated = [shape[0] for shape in shapes if shape]
    stated += recorded[:1] if recorded and len(recorded) > 1 else []
    return next((size for size in (*stated, *_states(below)) if size is not None), None)


def _states(below: Graph) -> Iterator[int]:
    """The numbers of rows of the zeros that loops start from."""
    for node in below.nodes.values():
        if node.op == "Enter" and node.input and not attr(node, "is_constant").b:
            start = below.nodes[node_of(node.input[0])]
            shape = recorded_shape(start, 0)
            if start.op == "Fill" and shape is None:
                shape = _filled(below, start)
            if start.op in ("Fill", "Const") and shape and len(shape) == 2 and shape[0] is not None:
                yield shape[0]


def _filled(below: Graph, fill: Any) -> tuple[int | None, ...] | None:
    """The shape of a `Fill` of constants, joined ones too; files of frozen graphs record none."""
    given = data_inputs(fill)[:1]
    target = below.nodes[node_of(given[0])] if given else fill
    parts = data_inputs(target)[:-1] if target.op == "ConcatV2" else given
    values = [read_constant(below.nodes[node_of(part)]) for part in parts]
    known = [value.ravel() for value in values if value is not None]
    return tuple(map(int, np.concatenate(known))) if known and len(known) == len(values) else None


def with_image_size(graph: Graph, cuts: Sequence[str], tensor: str, size: Sequence[int]) -> Graph:
    """The graph for images of another height and width; what the file recorded of the cuts no longer counts."""
    node = changed(graph.nodes[node_of(tensor)])
    for shape in _stated(node, port_of(tensor)):
        for axis, length in zip((1, 2), size, strict=True):
            shape.dim[axis].size = length
    ends = [changed(graph.nodes[node_of(at)]) for at in cuts]
    for end in ends:
        end.attr.pop("_output_shapes", None)
    return graph.with_nodes({**graph.nodes, **{end.name: end for end in ends}, node.name: node})


def with_free_batch(graph: Graph, cuts: Sequence[str], inputs: Sequence[str], feeds: Iterable[str], size: int) -> Graph:
    """The graph for any number of examples instead of `size`, as far as constants can be told to mean it."""
    nodes = dict(graph.nodes)
    for tensor in (*inputs, *cuts):
        node = nodes[node_of(tensor)] = changed(nodes[node_of(tensor)])
        _open(_stated(node, port_of(tensor)), size)
    below = cut(graph, cuts, [*inputs, *feeds])
    readers = consumers(below.nodes)
    count = _count_of(unused("batch_size", nodes), inputs[0], dtype_and_shape(graph, inputs[0])[0])
    for name, node in below.nodes.items():
        if "element_shape" in node.attr:  # what a TensorArray holds are rows too
            nodes[name] = changed(node)
            _open([nodes[name].attr["element_shape"].shape], size)
        value = read_constant(node)
        if value is None or size not in (*value.shape[:1], *_few(value)):
            continue
        enters = _enters_around(graph, name)
        if len(enters) < 2:
            for new in _freed(node, value, size, _slots(below, readers, name), count[-1].name, enters):
                nodes[new.name] = new
    return graph.with_nodes({**{node.name: node for node in count}, **nodes})


def _stated(node: Any, port: int) -> list[Any]:
    """The shapes that a node states for an output, as messages that can be changed in place."""
    declared = [node.attr["shape"].shape] if "shape" in node.attr else []
    recorded = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else []
    return [*declared, *recorded[port : port + 1]]


def _open(shapes: Iterable[Any], size: int) -> None:
    for shape in shapes:
        if shape.dim and shape.dim[0].size == size:
            shape.dim[0].size = -1


def _few(value: np.ndarray) -> list[Any]:
    """The numbers of a constant that may be a shape."""
    return value.ravel().tolist() if value.ndim < 2 and value.size < 16 and value.dtype.kind == "i" else []


def _count_of(scope: str, tensor: str, dtype: int) -> list[Any]:
    """Nodes that give the number of examples in an input as an int32 vector of one; the last of them does."""
    ends = [constant(f"{scope}/{name}", [value], _INT) for name, value in (("begin", 0), ("end", 1), ("step", 1))]
    sizes = make_node(f"{scope}/shape", "Shape", [tensor], T={"type": dtype}, out_type={"type": _INT})
    kinds = {"T": {"type": _INT}, "Index": {"type": _INT}}
    return [*ends, sizes, make_node(scope, "StridedSlice", [sizes.name, *(end.name for end in ends)], **kinds)]


def _slots(below: Graph, readers: Mapping[str, list[str]], name: str) -> set[tuple[str, int]]:
    """Where the numbers of a constant go: (op, place among its inputs), what only hands them on being left out."""
    found: set[tuple[str, int]] = set()
    stack, seen = [name], {name}
    while stack:
        given = stack.pop()
        for reader in (below.nodes[r] for r in readers.get(given, ())):
            for place, ref in enumerate(data_inputs(reader)):
                if node_of(ref) != given:
                    continue
                places = _PASSES.get(reader.op, ())
                if places is not None and place not in places:
                    found.add((reader.op, place))
                elif reader.name not in seen:
                    seen.add(reader.name)
                    stack.append(reader.name)
    return found


def _enters_around(graph: Graph, name: str) -> list[Any]:
    """An `Enter` node of each V1 loop inside which a node stands."""
    _, whiles = all_contexts(graph)
    return [enter_of(graph, w) for w in whiles if any(node_of(v) == name for v in w.values_def.values)]


def _freed(
    node: Any, value: np.ndarray, size: int, slots: set[tuple[str, int]], count: str, enters: Sequence[Any]
) -> list[Any]:
    """What takes the place of a constant that means the batch size; nothing if it does not.

    `enters` has an `Enter` node of the loop in which the constant stands, if it stands in one.
    """
    dtype = attr(node, "dtype").type
    if dtype in _INTS and value.ndim < 2 and slots & _SHAPES:
        places = [i for i, n in enumerate(value.ravel()) if n == size]
        if not places or (places[0] and (len(places) > 1 or size == 1)):
            return []
        return _sizes_with(node, value, places[0], count, enters)
    same_rows = size > 1 and value.shape[:1] == (size,) and bool((value == value[:1]).all())
    per_channel = value.ndim < 2 and dtype in FLOATS and any(op in _PER_CHANNEL for op, _ in slots)
    if not same_rows or per_channel:
        return []
    row = constant(f"{node.name}/row", value[:1], dtype, control_inputs(node))
    target = constant(f"{node.name}/shape", value.shape, _INT, control_inputs(node))
    made = make_node(node.name, "BroadcastTo", [row.name, target.name], T={"type": dtype}, Tidx={"type": _INT})
    return [row, *_sizes_with(target, np.array(value.shape), 0, count, enters), made]


def _sizes_with(node: Any, value: np.ndarray, place: int, count: str, enters: Sequence[Any]) -> list[Any]:
    """Nodes for a constant of sizes, the one at `place` being the number of examples; the last has its name."""
    name, dtype, controls = node.name, attr(node, "dtype").type, control_inputs(node)
    integer = {"T": {"type": _INT}}
    nodes = []
    for enter in enters:
        entered = make_node(f"{name}/Enter", "Enter", [count], is_constant={"b": True}, **integer)
        for key in ("frame_name", "parallel_iterations"):
            entered.attr[key].CopyFrom(attr(enter, key))
        nodes.append(entered)
        count = entered.name
    if value.ndim == 0:
        nodes.append(make_node(name, "Squeeze", [count, *controls], **integer))
    elif value.size == 1:
        nodes.append(make_node(name, "Identity", [count, *controls], **integer))
    else:
        before = [constant(f"{name}/before", value[:place], _INT, controls)] if place else []
        after = [constant(f"{name}/after", value[place + 1 :], _INT, controls)] if place + 1 < value.size else []
        axis = constant(f"{name}/axis", 0, _INT, controls)
        parts = [*(n.name for n in before), count, *(n.name for n in after)]
        kinds = {"N": {"i": len(parts)}, "Tidx": {"type": _INT}, **integer}
        nodes += [*before, *after, axis, make_node(name, "ConcatV2", [*parts, axis.name, *controls], **kinds)]
    if dtype != _INT:
        inner = nodes[-1] = changed(nodes[-1], name=f"{name}/int32")
        nodes.append(make_node(name, "Cast", [inner.name], SrcT={"type": _INT}, DstT={"type": dtype}))
    return nodes
